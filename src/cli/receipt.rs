//! `clav audit receipt`: that a lease's credential is dead, how that is known, and where in the log it stands; offline.

use super::{Desk, Done, Failure, explain, failure::code, output::line, renew::lease_id, verify::configured};
use crate::audit::{Entry, Receipt, receipt};
use clap::Args;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

#[derive(Args)]
pub(super) struct Arguments {
    /// The lease's id
    #[arg(value_name = "LEASE_ID")]
    lease: String,
    /// The folder with the log; that of the configuration unless it is said
    folder: Option<PathBuf>,
}

pub(super) fn run(desk: &Desk, arguments: &Arguments) -> Done {
    let lease = lease_id(&arguments.lease)?;
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => configured(desk)?,
    };
    let found = receipt(&folder, lease).map_err(|error| Failure::fault(format!("{}: {error}", folder.display())))?;
    let found = found.ok_or_else(|| Failure::fault(format!("{}: says nothing of {lease}", folder.display())))?;
    let told = Told::of(&found);
    if desk.json {
        line(&serde_json::to_string_pretty(&told.json(&found)).map_err(Failure::fault)?)?;
    } else {
        told.print(desk, &found)?;
    }
    Ok(if found.end.is_some() && told.fits { told.exit() } else { code::FAULT })
}

/// What a receipt comes to.
struct Told {
    /// `looked`, `told`, `expired`, `books`, `listed`; `none` where it ended and nothing was seen; `shared`, `irrevocable`, `retrying`, `live`.
    state: String,
    fits: bool,
}

impl Told {
    fn of(found: &Receipt) -> Self {
        let ended = found.end.as_ref().map(|end| member(end, "ended"));
        let state = match &ended {
            Some(ended) if ended["result"] == "irrevocable" => "irrevocable",
            Some(ended) if ended["result"] == "shared" => "shared",
            Some(ended) => ended["proof"]["by"].as_str().unwrap_or("none"),
            None => match found.tries.last() {
                Some(entry) => entry.record.kind.as_str(),
                None => "live",
            },
        };
        let state = if state == "retry" { "retrying" } else { state };
        let fits = found.issue.iter().chain(&found.tries).chain(&found.end).all(|entry| entry.fits);
        Self { state: state.to_owned(), fits }
    }

    /// Whether the end is proven, for scripts.
    fn exit(&self) -> u8 {
        match self.state.as_str() {
            "looked" | "told" | "expired" | "books" | "listed" => 0,
            _ => code::UNPROVEN,
        }
    }

    /// In words.
    fn meaning(&self) -> &'static str {
        match self.state.as_str() {
            "looked" => "dead: after the end the source was looked at, and it is not there any more",
            "told" => "dead by the source's own word; it offers nothing by which that could be looked at",
            "expired" => "dead by its own expiry; the source could not be asked any more",
            "books" => "nothing of it was ever asked for at the source",
            "listed" => "on the revocation list: dead for verifiers that read the list, good for others until it expires",
            "none" => "its lease is over; nothing shows that a copy of the value is dead",
            "shared" => "its lease is over; other leases of the identity have the same credential, which dies with the last of them",
            "irrevocable" => "given up: the source never confirmed that it is dead",
            "retrying" => "not dead yet for all that is known: the source has not confirmed",
            _ => "its lease has not ended, as far as this log goes",
        }
    }

    fn json(&self, found: &Receipt) -> Value {
        let first = found.issue.as_ref().or(found.end.as_ref());
        let of = |name: &str| first.map_or(Value::Null, |entry| member(entry, name));
        let secret = first.and_then(|entry| serde_json::to_value(&entry.record.secret).ok()).unwrap_or_default();
        json!({
            "lease": found.lease,
            "state": self.state,
            "hashes_fit": self.fits,
            "identity": first.and_then(|entry| entry.record.identity.as_ref()).map(|identity| &identity.name),
            "secret": secret,
            "intent": of("intent"),
            "credential": of("credential"),
            "issue": found.issue.as_ref().map(place),
            "renewed": found.renewed,
            "tries": found.tries.iter().map(place).collect::<Vec<_>>(),
            "end": found.end.as_ref().map(|end| {
                let mut at = place(end);
                for name in ["ended", "cause", "detail"] {
                    if let Some(value) = end.record.rest.get(name) {
                        at[name] = value.clone();
                    }
                }
                at
            }),
            "head": found.head.as_ref().map(ToString::to_string),
        })
    }

    fn print(&self, desk: &Desk, found: &Receipt) -> Result<(), Failure> {
        let style = &desk.style;
        let row = |name: &str, text: &str| line(&format!("{} {text}", style.dim(&format!("{name:<11}"))));
        let meaning = self.meaning();
        let colour = match self.state.as_str() {
            "looked" | "told" | "expired" | "books" => style.green(meaning),
            "listed" | "none" | "shared" => style.yellow(meaning),
            _ => style.red(meaning),
        };
        row("lease", &found.lease.to_string())?;
        row("credential", &colour)?;
        let first = found.issue.as_ref().or(found.end.as_ref());
        if let Some(entry) = first {
            let who = entry.record.identity.as_ref().map_or("-".to_owned(), |identity| printable(&identity.name));
            let secret = entry.record.secret.as_ref().map_or("-".to_owned(), |secret| printable(&secret.name));
            row("what", &format!("{secret} for {who}"))?;
            row("upstream", &pairs(&member(entry, "credential")))?;
            if let intent @ Value::String(_) = member(entry, "intent") {
                row("intent", &bare(&intent))?;
            }
        }
        match &found.issue {
            Some(entry) => row("issued", &standing(entry))?,
            None => row("issued", "no record of it here")?,
        }
        for entry in &found.tries {
            row("tried", &standing(entry))?;
        }
        let Some(end) = &found.end else { return row("ended", "no record of it here") };
        let ended = member(end, "ended");
        row("ended", &standing(end))?;
        let tries = bare(&ended["attempts"]);
        row("", &format!("{}, {}; try {tries}, asked for at {}", bare(&ended["reason"]), bare(&ended["result"]), bare(&ended["asked"])))?;
        if ended["dead"].is_string() {
            row("dead", &bare(&ended["dead"]))?;
        }
        if ended["proof"].is_object() {
            row("seen", &format!("{} ({})", bare(&ended["proof"]["seen"]), bare(&ended["proof"]["by"])))?;
        }
        match &found.head {
            Some(head) => row("signed", &format!("up to record {}: {head}", head.tip.seq))?,
            None => row("signed", &style.yellow("no head covers it yet"))?,
        }
        if !self.fits {
            line(&style.red("A record of these was edited: its hash does not fit."))?;
        }
        eprintln!("It is as true as the log: see clav audit verify.");
        Ok(())
    }
}

/// JSON as people write it, of a log that anybody may have written.
fn bare(value: &Value) -> String {
    printable(&explain::bare(value))
}

/// Text of a log that anybody may have written: nothing in it moves a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

fn member(entry: &Entry, name: &str) -> Value {
    entry.record.rest.get(name).cloned().unwrap_or_default()
}

/// Where a record stands.
fn place(entry: &Entry) -> Value {
    json!({"seq": entry.record.seq, "hash": entry.hash, "time": entry.record.time, "request": entry.record.request, "kind": entry.record.kind})
}

fn standing(entry: &Entry) -> String {
    format!("{}, record {}, hash {}", printable(&entry.record.time), entry.record.seq, entry.hash)
}

/// Names and what they are, on one line.
fn pairs(value: &Value) -> String {
    let none = Map::new();
    let members = value.as_object().unwrap_or(&none);
    // The intent has a line of its own.
    let shown: Vec<String> =
        members.iter().filter(|(name, _)| *name != "intent").map(|(name, value)| format!("{name} {}", bare(value))).collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_record_says_moves_no_terminal() {
        assert_eq!(bare(&json!(["a\u{1b}[2Jb", "ü\n", 7])), "a\\u{1b}[2Jb, ü\\u{a}, 7");
    }
}
