//! `clav status`: how the daemon stands, the worst first.

use super::{
    Desk, Done,
    output::{facts, line, relative, span},
};

pub(super) async fn run(desk: &Desk) -> Done {
    let status = desk.operator().await?.status().await?;
    if desk.printed(&status)? {
        return Ok(0);
    }
    let style = &desk.style;
    line(&format!("{} {}", style.bold("kernel"), status.kernel))?;
    line(&format!(
        "{} {}",
        style.bold("attestor"),
        if status.attestor.starts_with("NOT") { style.red(&status.attestor) } else { status.attestor.clone() }
    ))?;
    let state = match (status.frozen, &status.read_only) {
        (true, _) => style.red("frozen: issuing is stopped by an operator ('clav freeze --off' allows it again)"),
        (false, Some(why)) => style.red(&format!("read-only: {why}")),
        (false, None) if !status.bundle_problems.is_empty() => style.yellow("serving, but newer files are not in force"),
        (false, None) => style.green("serving"),
    };
    let counts = &status.leases;
    let given_up = format!("{} given up", counts.irrevocable);
    let given_up = if counts.irrevocable > 0 { style.red(&given_up) } else { given_up };
    let engines: Vec<String> = status.engines.iter().map(|engine| format!("{} ({})", engine.name, engine.kind)).collect();
    facts(
        style,
        &[
            ("state", state),
            ("version", format!("{}, up {}", status.version, span(status.uptime))),
            ("bundle", format!("{} since {} ({})", status.bundle, status.bundle_since, relative(&status.bundle_since))),
            ("leases", format!("{} live, {} ending, {given_up}", counts.live, counts.ending)),
            ("engines", engines.join(", ")),
            ("audit", audit(&status.audit)),
        ],
    )?;
    for problem in &status.bundle_problems {
        line(&style.red(&format!("  not in force: {problem}")))?;
    }
    for engine in status.engines.iter().filter(|engine| engine.waiting > 0) {
        let (name, waiting) = (&engine.name, engine.waiting);
        line(&style.red(&format!("  {waiting} credentials at {name} are in no journal: 'clav engine reconcile {name}'")))?;
    }
    for engine in &status.engines {
        if let Some(error) = &engine.error {
            line(&style.red(&format!("  what is at {} could not be compared or ended: {error}", engine.name)))?;
        }
    }
    for engine in status.engines.iter().filter(|engine| engine.left > 0) {
        let (name, left) = (&engine.name, engine.left);
        line(&style.red(&format!("  {left} values at {name} are named by no definition: 'clav engine reconcile {name}'")))?;
    }
    for row in &status.rotations {
        let why = row.trouble.as_deref().unwrap_or("nobody has changed it in time");
        let overdue = if row.overdue { ", overdue" } else { "" };
        line(&style.red(&format!("  value of {} ({}{overdue}): {why}", row.name, row.engine)))?;
    }
    for problem in audit_problems(&status.audit) {
        line(&style.red(&format!("  {problem}")))?;
    }
    for sentence in &status.unprotected {
        line(&style.dim(&format!("  not protected: {sentence}")))?;
    }
    Ok(0)
}

fn audit(status: &serde_json::Value) -> String {
    let number = |name: &str| status.get(name).and_then(serde_json::Value::as_u64);
    match (number("seq"), number("headed"), number("anchored")) {
        (Some(seq), headed, anchored) => {
            let anchored = anchored.map_or_else(|| "no anchor".to_owned(), |seq| format!("left the host up to {seq}"));
            format!("record {seq}, signed up to {}, {anchored}", headed.unwrap_or(0))
        }
        _ => super::explain::bare(status),
    }
}

/// What is wrong with the log, in sentences.
pub(super) fn audit_problems(status: &serde_json::Value) -> Vec<String> {
    let is = |name: &str| status.get(name).and_then(serde_json::Value::as_bool) == Some(true);
    let text = |name: &str| status.get(name).and_then(serde_json::Value::as_str);
    let mut out = Vec::new();
    if is("low") {
        out.push("the audit log is short of disk space: nothing is issued".to_owned());
    }
    if is("anchor_stale") {
        out.push("heads of the audit log have not left the host for more than a minute".to_owned());
    }
    out.extend(text("anchor_error").map(|error| format!("anchoring fails: {error}")));
    out.extend(text("failure").map(|error| format!("the audit log's disk failed: {error}")));
    out.extend(text("prune_error").map(|error| format!("old audit files cannot be removed: {error}")));
    out
}
