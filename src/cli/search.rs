//! `clav audit search`: everything in the files of a log that fits, offline; who had a secret in June.

use super::{
    Desk, Done, Failure,
    audit::{instant, one_line},
    output::line,
    verify::configured,
};
use crate::{
    audit::{Filter, Kind, Outcome, Record, search},
    model::{LeaseId, RequestId},
};
use clap::Args;
use serde_json::json;
use std::{collections::BTreeMap, io, path::PathBuf};

#[derive(Args)]
pub(super) struct Arguments {
    /// The folder with the log; that of the configuration unless it is said
    folder: Option<PathBuf>,
    /// Of this secret
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// Of this identity
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,
    /// Such as issue, read, refuse or end; what was counted instead of written is found with it
    #[arg(long, value_name = "WORD")]
    kind: Option<String>,
    /// done, refused, needs or failed
    #[arg(long, value_name = "WORD")]
    outcome: Option<String>,
    /// Of this lease
    #[arg(long, value_name = "ID")]
    lease: Option<String>,
    /// Of this request
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Written at this time or later: a date, RFC 3339, or such as 15m for that long ago
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Written before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Say who had values and how often, instead of the records
    #[arg(long)]
    who: bool,
}

/// What one of those who asked had.
#[derive(Default)]
struct Had {
    issued: u64,
    read: u64,
    refused: u64,
    first: String,
    last: String,
}

/// What went wrong: reading the log, or telling what was found.
enum Found {
    Log(io::Error),
    Told(Failure),
}

impl From<io::Error> for Found {
    fn from(error: io::Error) -> Self {
        Found::Log(error)
    }
}

pub(super) fn run(desk: &Desk, arguments: &Arguments) -> Done {
    let filter = filter(arguments)?;
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => configured(desk)?,
    };
    let mut who = BTreeMap::<String, Had>::new();
    let searched = search(&folder, &filter, |text, record| match (arguments.who, desk.json) {
        (true, _) => {
            count(&mut who, record);
            Ok(())
        }
        (false, true) => line(text).map_err(Found::Told),
        (false, false) => line(&one_line(&desk.style, record, false)).map_err(Found::Told),
    });
    let searched = searched.map_err(|error| match error {
        Found::Told(failure) => failure,
        Found::Log(error) => Failure::fault(format!("{}: {error}", folder.display())),
    })?;
    if arguments.who {
        table(desk, &who)?;
    }
    if !desk.json {
        let looked = format!("{} records found in {} files of {} MiB", searched.found, searched.segments, searched.bytes >> 20);
        eprintln!("{looked}. What was found is as true as the log: see clav audit verify.");
    }
    Ok(0)
}

fn filter(arguments: &Arguments) -> Result<Filter, Failure> {
    let usage = |what: &str, value: &str| Failure::Usage(format!("--{what} {value:?} is none"));
    let plain = |what: &str, value: &Option<String>| match value {
        // Whatever JSON would escape is no name.
        Some(name) if name.bytes().any(|b| b.is_ascii_control() || !b.is_ascii() || b == b'"' || b == b'\\') => Err(usage(what, name)),
        value => Ok(value.clone()),
    };
    let kind = word("kind", arguments.kind.as_deref(), Kind::ALL, Kind::as_str)?;
    let outcome = word("outcome", arguments.outcome.as_deref(), Outcome::ALL, Outcome::as_str)?;
    let lease = arguments.lease.as_ref().map(|id| LeaseId::parse(id).map_err(|_| usage("lease", id))).transpose()?;
    let request = arguments.request.as_ref().map(|id| RequestId::parse(id).map_err(|_| usage("request", id))).transpose()?;
    Ok(Filter {
        identity: plain("identity", &arguments.identity)?,
        secret: plain("secret", &arguments.secret)?,
        kind,
        outcome,
        lease,
        request,
        since: arguments.since.as_deref().map(|text| instant("since", text)).transpose()?,
        until: arguments.until.as_deref().map(|text| instant("until", text)).transpose()?,
    })
}

/// One of the words that there are.
fn word<T: Copy>(option: &str, said: Option<&str>, all: &[T], text: fn(T) -> &'static str) -> Result<Option<T>, Failure> {
    let Some(said) = said else { return Ok(None) };
    let found = all.iter().copied().find(|one| text(*one) == said);
    let words = || all.iter().map(|one| text(*one)).collect::<Vec<_>>().join(", ");
    found.map(Some).ok_or_else(|| Failure::Usage(format!("--{option} {said:?} is none; there is {}", words())))
}

fn count(who: &mut BTreeMap<String, Had>, record: &Record) {
    let uid = || record.rest.get("uid").map(|uid| format!("uid {uid}"));
    let Some(name) = record.identity.as_ref().map(|identity| identity.name.clone()).or_else(uid) else { return };
    let folded = |member: &str| record.rest.get("folded").and_then(|folded| folded.get(member));
    let (kind, times) = match record.kind {
        Kind::Fold => (folded("of").and_then(|of| of.as_str()).unwrap_or_default(), folded("count").and_then(|n| n.as_u64()).unwrap_or(0)),
        kind => (kind.as_str(), 1),
    };
    let had = who.entry(name).or_default();
    match kind {
        "issue" if record.outcome == Some(Outcome::Done) => had.issued += times,
        "read" if record.outcome == Some(Outcome::Done) || record.kind == Kind::Fold => had.read += times,
        "refuse" | "needs" => had.refused += times,
        _ => return,
    }
    if had.first.is_empty() {
        had.first.clone_from(&record.time);
    }
    had.last.clone_from(&record.time);
}

fn table(desk: &Desk, who: &BTreeMap<String, Had>) -> Result<(), Failure> {
    let who = who.iter().filter(|(_, had)| had.issued + had.read + had.refused > 0);
    if desk.json {
        let rows: Vec<_> = who
            .map(|(name, had)| {
                json!({"who": name, "issued": had.issued, "read": had.read, "refused": had.refused, "first": had.first, "last": had.last})
            })
            .collect();
        return line(&serde_json::to_string_pretty(&rows).map_err(Failure::fault)?);
    }
    let day = |time: &str| time.get(..19).unwrap_or(time).to_owned();
    line(&desk.style.dim(&format!("{:<28}{:>10}{:>12}{:>10}  {:<21}{}", "who", "issued", "read again", "refused", "first", "last")))?;
    for (name, had) in who {
        let (first, last) = (day(&had.first), day(&had.last));
        line(&format!("{name:<28}{:>10}{:>12}{:>10}  {first:<21}{last}", had.issued, had.read, had.refused))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::WallTime;

    #[test]
    fn a_month_may_be_named_by_its_days() {
        assert_eq!(instant("since", "2026-06-01").ok(), WallTime::parse("2026-06-01T00:00:00Z"));
        assert!(instant("since", "June").is_err());
    }
}
