//! `clav why`: one request's records in words, and what to change so that the answer would be another.

mod advice;
mod ask;
mod door;
mod host;
mod needs;
mod nobody;
mod plan;

use super::{
    Desk, Done, Failure,
    explain::bare,
    output::{facts, line, relative},
};
use crate::{
    audit::{Kind, Record},
    model::{Code, RequestId},
};
use clap::Args;
use host::Host;
use plan::Plan;
use serde_json::Value;

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
    let host = Host::read(&desk.config);
    for (at, record) in records.iter().enumerate() {
        if at > 0 {
            line("")?;
        }
        tell(desk, &host, record)?;
    }
    let refused = records.iter().rev().find(|record| matches!(record.kind, Kind::Refuse | Kind::Needs));
    if let Some(record) = refused {
        let plan = plan(desk, &host, record).await;
        if !plan.is_empty() {
            line(&format!("\n{}", desk.style.bold("What would change it")))?;
            plan.print()?;
        }
    }
    Ok(0)
}

/// What to do. Files that are newer than what decided come first: whatever else is said about them would be about the past.
async fn plan(desk: &Desk, host: &Host, record: &Record) -> Plan {
    let mut first = Plan::default();
    if let Some((force, files)) = force(desk).await {
        if files.ok && files.bundle != force {
            first.say("Files in policy.d, secrets.d or identities.d were changed and are not in force: this was decided without them.");
            first.run("clav policy check && clav reload");
            if let Some(command) = ask::Ask::of(record).command() {
                first.ask(command);
            }
            return first;
        }
        if !files.ok {
            first.say("Files were changed and cannot be put into force until these are mended:");
            files.problems.iter().for_each(|problem| first.say(problem));
        } else if !found(record, "/policy/bundle").is_empty() && found(record, "/policy/bundle") != force {
            first.say("Other files are in force now than when this was decided: let the program ask again first.");
        }
    }
    first.absorb(advice::advise(host, record));
    first
}

/// The bundle in force, and what the files would make.
async fn force(desk: &Desk) -> Option<(String, crate::wire::BundleAnswer)> {
    let status = desk.operator().await.ok()?.status().await.ok()?;
    Some((status.bundle, desk.operator().await.ok()?.check_policy().await.ok()?))
}

fn tell(desk: &Desk, host: &Host, record: &Record) -> Result<(), Failure> {
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
    let policies: Vec<String> = list(record, "/policy/determining").iter().map(|id| host.policy(id)).collect();
    let remedies = list(record, "/remedies");
    facts(
        style,
        &[
            ("  operator", by),
            ("  who", who),
            ("  assurance", get("/assurance") + &basis),
            ("  process", process.join(", ")),
            ("  through", through),
            ("  by way of", get("/adapter")),
            (
                "  secret",
                match &record.secret {
                    Some(secret) => format!("{} {}", secret.name, get("/secret/sensitivity")),
                    None if get("/claimed/secret").is_empty() => String::new(),
                    None => format!("{} was asked for", get("/claimed/secret")),
                },
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
            ("  because", because(record)),
            ("  needs", remedies.join("; ")),
        ],
    )
}

/// Why: what the record says, or else what the code says.
fn because(record: &Record) -> String {
    let detail = found(record, "/detail");
    let sentence = || record.code.as_ref().and_then(|code| Code::ALL.iter().find(|(known, _)| known.as_str() == code));
    if detail.is_empty() { sentence().map_or_else(String::new, |(_, sentence)| (*sentence).to_owned()) } else { detail }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(code: &str) -> Record {
        let text = serde_json::json!({
            "v": 1, "seq": 1, "time": "2026-01-01T00:00:00.000000Z", "kind": "refuse", "boot": "b", "outcome": "refused", "code": code,
            "identity": {"name": "orders", "kind": "workload"}, "secret": {"name": "db/ro", "engine": "local", "sensitivity": "internal"},
            "claimed": {"purpose": "serve", "ttl": 60}, "attested": {"uid": 1000, "pid": 7}, "prev": "", "hash": "",
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_row_is_printed_only_for_a_process_that_it_could_match() {
        let host = Host::read(std::path::Path::new("/nowhere/clavigerd.toml"));
        let advice = |uid: u32, exe: &str, verified: bool| {
            let mut of = record("no_identity");
            of.rest.insert("attested".into(), serde_json::json!({"uid": uid, "pid": 7, "exe": {"path": exe, "verified": verified}}));
            advice::advise(&host, &of).lines().join("\n")
        };
        assert!(advice(0, "/usr/bin/orders", true).contains("\"unix:uid:0\", \"unix:path:/usr/bin/orders\""));
        assert!(!advice(1000, "/usr/bin/orders", false).contains("unix:path:"), "another mount namespace's file");
        let shell = advice(1000, "/usr/bin/bash", true);
        assert!(shell.contains("\"unix:uid:1000\"") && !shell.contains("unix:path:"));
        let root = advice(0, "/usr/bin/python3.13", true);
        assert!(root.contains("nobody's identity") && !root.contains("[[identity]]"), "it would not load: {root}");
    }

    #[test]
    fn every_code_has_advice_also_where_no_file_can_be_read() {
        let host = Host::read(std::path::Path::new("/nowhere/clavigerd.toml"));
        for (code, _) in Code::ALL.iter().filter(|(code, _)| *code != Code::NEEDS) {
            let plan = advice::advise(&host, &record(code.as_str()));
            assert!(!plan.is_empty(), "{code}");
            // Names are filled in: nothing that is printed has to be guessed.
            let text = plan.lines().join("\n");
            assert!(!["NAME", "PURPOSE", "PID", "YYYY", "SYSTEM:ID", "WHO"].iter().any(|word| text.contains(word)), "{code}: {text}");
        }
        assert!(advice::advise(&host, &record("a_rule_of_ours")).lines().join("").contains("a_rule_of_ours"));
    }
}
