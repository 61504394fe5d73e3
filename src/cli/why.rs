//! `clav why`: one request's records in words, and what to change so that the answer would be another.

use super::{
    Desk, Done, Failure,
    explain::bare,
    output::{facts, line, relative},
};
use crate::{
    audit::{Kind, Record},
    config::{Config, File},
    model::RequestId,
    sys,
};
use clap::Args;
use serde_json::Value;
use std::path::Path;

#[derive(Args)]
pub(super) struct Arguments {
    /// The request, as every answer and every record names it
    request: String,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let id = RequestId::parse(&arguments.request)
        .map_err(|_| Failure::Usage(format!("{:?} is no request id such as req-01j..", arguments.request)))?;
    let answer = desk.operator().await?.why(id).await?;
    if desk.printed(&answer)? {
        return Ok(0);
    }
    let rows = answer.get("records").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut records = Vec::new();
    for row in rows {
        records.push(serde_json::from_value::<Record>(row).map_err(Failure::fault)?);
    }
    for (at, record) in records.iter().enumerate() {
        if at > 0 {
            line("")?;
        }
        tell(desk, record)?;
    }
    let refused = records.iter().rev().find(|record| matches!(record.kind, Kind::Refuse | Kind::Needs));
    if let Some(record) = refused {
        let advice = advice(record);
        if !advice.is_empty() {
            line(&format!("\n{}", desk.style.bold("What would change it")))?;
            advice.iter().flat_map(|text| text.lines()).try_for_each(|text| line(&format!("  {text}")))?;
        }
    }
    Ok(0)
}

fn tell(desk: &Desk, record: &Record) -> Result<(), Failure> {
    let style = &desk.style;
    let get = |path: &str| found(record, path);
    let outcome = match (&record.code, record.outcome.map(|outcome| outcome.as_str())) {
        (Some(code), Some(outcome)) => style.red(&format!("{} {outcome}: {code}", record.kind.as_str())),
        (_, outcome) => style.green(&format!("{} {}", record.kind.as_str(), outcome.unwrap_or_default())),
    };
    line(&format!("{outcome}  {}", style.dim(&format!("record {}, {} ({})", record.seq, record.time, relative(&record.time)))))?;
    let who = match &record.identity {
        Some(identity) => identity.name.clone(),
        None => format!("no identity, uid {}", get("/uid")),
    };
    let basis = if get("/basis").is_empty() { String::new() } else { format!(" ({})", get("/basis")) };
    let process = [("pid ", "/attested/pid"), ("", "/attested/exe/path"), ("unit ", "/attested/unit/name"), ("uid ", "/attested/uid")];
    let process: Vec<String> =
        process.iter().filter(|(_, path)| !get(path).is_empty()).map(|(word, path)| word.to_string() + &get(path)).collect();
    let by =
        if get("/by/uid").is_empty() { String::new() } else { format!("uid {} {} {}", get("/by/uid"), get("/by/name"), get("/by/action")) };
    let through = if get("/client/pid").is_empty() { String::new() } else { format!("clav, pid {}", get("/client/pid")) };
    let policies: Vec<String> = list(record, "/policy/determining").iter().map(|id| place(&desk.config, id)).collect();
    let remedies = list(record, "/remedies");
    facts(
        style,
        &[
            ("  operator", by),
            ("  who", who),
            ("  assurance", get("/assurance") + &basis),
            ("  process", process.join(", ")),
            ("  through", through),
            (
                "  secret",
                record.secret.as_ref().map(|secret| format!("{} {}", secret.name, get("/secret/sensitivity"))).unwrap_or_default(),
            ),
            ("  declared", object(record, "/claimed")),
            ("  by", get("/source")),
            ("  effective", object(record, "/effective")),
            ("  grant", [get("/policy/grant"), get("/policy/grant_owner"), get("/policy/ticket")].join(" ").trim().to_owned()),
            ("  decided by", policies.join(", ")),
            ("  would refuse", list(record, "/policy/shadow").join(", ")),
            ("  lease", record.lease.map(|lease| lease.to_string()).unwrap_or_default()),
            ("  holder", object(record, "/holder")),
            ("  credential", object(record, "/credential")),
            ("  expires", get("/expires")),
            ("  ended", object(record, "/ended")),
            ("  because", get("/detail")),
            ("  needs", remedies.join("; ")),
        ],
    )
}

/// What to do about a refusal, by its code: commands and files.
fn advice(record: &Record) -> Vec<String> {
    let get = |path: &str| found(record, path);
    let secret = record.secret.as_ref().map_or_else(|| "NAME".to_owned(), |secret| secret.name.clone());
    let identity = record.identity.as_ref().map_or_else(|| "IDENTITY".to_owned(), |identity| identity.name.clone());
    let (pid, purpose) = (get("/attested/pid"), get("/claimed/purpose"));
    let pid = if pid.is_empty() { "PID".to_owned() } else { pid };
    let row = |what: &str| vec![format!("In identities.d, the row of {identity}: {what}"), "clav policy check && clav reload".to_owned()];
    let definition = |what: &str| vec![format!("In secrets.d, the row of {secret}: {what}"), "clav policy check && clav reload".to_owned()];
    match record.code.as_deref().unwrap_or_default() {
        "no_identity" => vec![
            format!("clav identity try --pid {pid}     # selectors to paste into a row in identities.d"),
            "clav policy check && clav reload".into(),
        ],
        "ambiguous_identity" => vec![
            format!("clav identity try --pid {pid}     # names the rows that match"),
            "Give one of the rows every selector of the other and one more: the narrower one wins.".into(),
        ],
        "no_grant" if record.secret.is_none() => {
            vec!["The secret is not in secrets.d, or the request named it wrongly; 'clav secrets', run as the workload, lists what it could have.".into()]
        }
        "no_grant" => vec![
            format!("A grant, in a file of its own in policy.d, reviewed by whoever answers for {secret}:"),
            grant(record, &identity, &secret, if purpose.is_empty() { "PURPOSE" } else { &purpose }),
            "clav policy check && clav reload".into(),
        ],
        "no_declared_use" => {
            let mut lines = vec!["Say the purpose: --purpose PURPOSE, or \"purpose\" in the request. Or declare the use once:".to_owned()];
            lines.extend(row("an [[identity.use]] with the secret and its purpose"));
            lines
        }
        "above_identity" => row("raise max_sensitivity"),
        "identity_inactive" => row("its expires has passed, or suspended = true"),
        "environment" => vec![format!("{identity} and {secret} belong to different environments: another secret, or another identity.")],
        "purpose_not_allowed" => {
            let mut lines = row(&format!("purposes must list {purpose:?}"));
            lines.insert(1, format!("In secrets.d, the row of {secret}: purposes must list it too"));
            lines
        }
        "target_not_allowed" => definition("hosts must list the target"),
        "secret_quarantined" => definition("quarantined = false, when it is safe again"),
        "no_value" => vec![format!("clav secret put {secret}")],
        "frozen" => vec!["clav freeze --off".into()],
        "read_only" => vec!["clav status     # says why, and what to do".into()],
        "not_operator" => vec!["A process on an agent's uid, or below an agent, is no operator: use another account.".into()],
        "limit" | "reads_exceeded" => vec!["Later; or [limits] in clavigerd.toml, reads_max in secrets.d".into()],
        "audit_budget" => vec!["Later; or [audit] hourly_bytes_per_identity in clavigerd.toml".into()],
        "no_space" | "audit_unavailable" => vec!["Free disk space where the state and the audit log are: clav doctor".into()],
        "needs" => {
            // The decision's own sentences end with what to do.
            let detail = get("/detail");
            let steps: Vec<String> =
                detail.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, step)| format!("- {step}")).collect();
            let named = || list(record, "/remedies").into_iter().map(|need| format!("- {need}")).collect();
            let mut steps = if steps.is_empty() { named() } else { steps };
            steps.push("clav policy check && clav reload     # after a file was changed".into());
            steps
        }
        _ => Vec::new(),
    }
}

fn grant(record: &Record, identity: &str, secret: &str, purpose: &str) -> String {
    let channel = record.rest.get("channel").map_or_else(|| "deliver".to_owned(), bare);
    let kind = match record.identity.as_ref().and_then(|identity| identity.rest.get("kind")).and_then(Value::as_str) {
        Some("agent") => "Agent",
        Some("shared") => "Shared",
        _ => "Workload",
    };
    let word = secret.replace('/', "-");
    format!(
        "    @id(\"grant.{identity}.{word}\") @owner(\"WHO\") @purpose(\"{purpose}\") @expires(\"YYYY-MM-DD\") @ticket(\"SYSTEM:ID\")\n    permit (principal == Claviger::{kind}::\"{identity}\", action == Claviger::Action::\"{channel}\", resource == Claviger::Secret::\"{secret}\");"
    )
}

/// A policy's id with file and line, where its folder can be read from here.
fn place(config: &Path, id: &str) -> String {
    let folder = match std::fs::read_to_string(config) {
        Ok(text) => Config::parse(&File { path: config.display().to_string(), text }).map(|config| config.paths.policy).ok(),
        Err(_) => None,
    };
    let files = folder.and_then(|folder| sys::read_trusted_folder(&folder, ".cedar", 4 << 20).ok()).unwrap_or_default();
    let needle = format!("@id(\"{id}\")");
    let found = files.iter().find_map(|(path, text)| text.lines().position(|line| line.contains(&needle)).map(|at| (path, at + 1)));
    found.map_or_else(|| id.to_owned(), |(path, line)| format!("{id} ({}:{line})", path.display()))
}

fn at(record: &Record, path: &str) -> Option<Value> {
    let (first, rest) = path[1..].split_once('/').map_or((&path[1..], None), |(first, rest)| (first, Some(rest)));
    let of = |value: &Value| match rest {
        Some(rest) => value.pointer(&format!("/{rest}")).cloned(),
        None => Some(value.clone()),
    };
    match (first, rest) {
        ("secret", Some(rest)) => record.secret.as_ref()?.rest.get(rest).cloned(),
        ("identity", Some(rest)) => record.identity.as_ref()?.rest.get(rest).cloned(),
        _ => record.rest.get(first).and_then(of),
    }
}

fn found(record: &Record, path: &str) -> String {
    at(record, path).as_ref().map(bare).unwrap_or_default()
}

fn list(record: &Record, path: &str) -> Vec<String> {
    let say = |item: &Value| match (item.get("require"), item.get("sentence")) {
        (Some(require), Some(sentence)) => format!("{}: {}", bare(require), bare(sentence)),
        _ => bare(item),
    };
    at(record, path).and_then(|value| Some(value.as_array()?.iter().map(say).collect())).unwrap_or_default()
}

fn object(record: &Record, path: &str) -> String {
    let Some(Value::Object(members)) = at(record, path) else { return found(record, path) };
    let unlimited = |value: &Value| value.as_u64() == Some(crate::model::UNLIMITED);
    let shown = members.iter().filter(|(_, value)| !value.is_null() && !unlimited(value) && **value != Value::Array(Vec::new()));
    shown.map(|(name, value)| format!("{name} {}", bare(value))).collect::<Vec<_>>().join(", ")
}
