//! The daemon itself, where it can be reached.

use super::Findings;
use crate::{
    cli::{Desk, status::audit_problems},
    client::{Client, ClientError},
    config::Config,
    wire::BundleAnswer,
};

pub(super) async fn look(desk: &Desk, config: &Config, findings: &mut Findings) {
    match health(desk).await {
        Ok((status, version)) if status == "ok" => findings.ok("daemon", format!("serving, version {version}")),
        Ok((status, version)) => findings.warn("daemon", format!("{status}, version {version}"), "clav status says why"),
        Err(error) => return findings.fail("daemon", error.to_string(), "systemctl status clavigerd; journalctl -u clavigerd"),
    }
    let status = match Client::connect(&desk.operator).await {
        Ok(mut client) => client.status().await,
        Err(error) => Err(error),
    };
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            return findings.warn(
                "operators",
                error.to_string(),
                format!("run doctor as root or in group {}", config.sockets.operator_group),
            );
        }
    };
    if status.version != env!("CARGO_PKG_VERSION") {
        findings.warn("version", format!("the daemon is {}, clav is {}", status.version, env!("CARGO_PKG_VERSION")), "restart clavigerd");
    }
    if let Ok(files) = files(desk).await {
        for warning in files.warnings {
            findings.warn("files", warning, "mend the row or the grant, then clav policy check && clav reload");
        }
        if files.ok && files.bundle != status.bundle {
            findings.warn("files", "were changed and are not in force", "clav policy check && clav reload");
        }
    }
    for problem in &status.bundle_problems {
        findings.fail("files", problem.clone(), "mend the file, then clav reload; what was in force stays");
    }
    if status.frozen {
        findings.warn("issuing", "stopped by an operator", "clav freeze --off");
    }
    if let Some(why) = &status.read_only {
        findings.fail("issuing", format!("stopped: {why}"), "see there");
    }
    if status.leases.irrevocable > 0 {
        let found = format!("{} endings were given up", status.leases.irrevocable);
        findings.fail(
            "leases",
            found,
            "they are tried on all the same: see to the source ('clav leases --all' lists them); then clav revoke ID --force, or --give-up REASON",
        );
    }
    let problems = audit_problems(&status.audit);
    for problem in &problems {
        findings.fail("audit log", problem.clone(), "where no record can be written nothing is issued; anchors need journald or syslog");
    }
    match status.audit.get("anchored").and_then(serde_json::Value::as_u64) {
        None => findings.warn(
            "anchors",
            "heads of the audit log do not leave this host",
            "[audit] anchors = [\"journald\"], and forward the journal",
        ),
        Some(seq) if problems.is_empty() => findings.ok("anchors", format!("left the host up to record {seq}")),
        Some(_) => {}
    }
}

/// What a reload would say.
async fn files(desk: &Desk) -> Result<BundleAnswer, ClientError> {
    Client::connect(&desk.operator).await?.check_policy().await
}

async fn health(desk: &Desk) -> Result<(String, String), ClientError> {
    let health = Client::connect(&desk.workload).await?.health().await?;
    Ok((health.status, health.version))
}
