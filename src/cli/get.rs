//! `clav get`: one secret, its value on standard output.

use super::{
    Desk, Done, Failure,
    ask::Declaration,
    output::{Style, raw, relative},
};
use crate::{
    client::Delivered,
    wire::{HolderView, LeaseView},
};
use clap::Args;
use std::io::IsTerminal;

#[derive(Args)]
pub(super) struct Arguments {
    /// Which secret
    name: String,
    #[command(flatten)]
    declaration: Declaration,
    /// What the lease is bound to: process, ancestor, unit, container or client. Unless it is said: for the configured clav the unit of the
    /// service, the container, or else the session's leader of whoever ran it; for any other program the process itself
    #[arg(long, value_name = "KIND")]
    holder: Option<String>,
    /// What to print: value, json (all of the answer), or the name of an attribute such as username
    #[arg(long, default_value = "value", value_name = "FIELD")]
    field: String,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let request = arguments.declaration.of(&arguments.name, arguments.holder);
    let mut client = desk.workload().await?;
    let delivered = client.issue(request).await?;
    let field = arguments.field.as_str();
    if !desk.json && !matches!(field, "value" | "json") && !delivered.attributes.contains_key(field) {
        // Only the answer says which there are. What cannot be shown is not kept either.
        let known: Vec<&str> = ["value", "json"].into_iter().chain(delivered.attributes.keys().map(String::as_str)).collect();
        let ended = match client.give_back(delivered.lease.id).await {
            Ok(_) => "the lease was given back".to_owned(),
            Err(error) => format!("the lease {} could not be given back: {error}", delivered.lease.id),
        };
        return Err(Failure::Usage(format!("the secret has no field {field:?}; it has {}; {ended}", known.join(", "))));
    }
    if !arguments.quiet {
        let style = Style::of(std::io::stderr().is_terminal());
        eprintln!("{}", style.dim(&told(&delivered.lease)));
        beside(&delivered).iter().for_each(|what| eprintln!("{}", style.yellow(what)));
    }
    let feed = std::io::stdout().is_terminal();
    match delivered.attributes.get(field) {
        _ if desk.json || field == "json" => print_json(&delivered)?,
        Some(value) if field != "value" => raw(value.as_bytes(), feed)?,
        _ => raw(delivered.value.expose(), feed)?,
    }
    Ok(0)
}

/// One line about what was got: for how long, and what ends it.
pub(super) fn told(lease: &LeaseView) -> String {
    format!("{}: lease {} held by {} until {} ({})", lease.secret, lease.id, holder(&lease.holder), lease.expires, relative(&lease.expires))
}

/// What whoever asked should know about what was got: where it is not what was asked for, or may be out of date.
pub(super) fn beside(delivered: &Delivered) -> Vec<String> {
    let mut out: Vec<String> = delivered.clamped.iter().map(|what| format!("not as asked: {what}")).collect();
    if let (Some(_), Some(age)) = (delivered.attributes.get("stale"), delivered.attributes.get("age")) {
        out.push(format!("stale: the source of {} cannot be asked; it confirmed this value {age} s ago", delivered.lease.secret));
    }
    out
}

/// A holder in words.
pub(super) fn holder(holder: &HolderView) -> String {
    match &holder.cgroup {
        Some(path) => format!("{} {}", holder.kind.as_str(), path.rsplit('/').next().unwrap_or(path)),
        None => format!("{} {}", holder.kind.as_str(), holder.pid),
    }
}

fn print_json(delivered: &Delivered) -> Result<(), Failure> {
    let (encoding, text) = match std::str::from_utf8(delivered.value.expose()) {
        Ok(text) => ("utf-8", zeroize::Zeroizing::new(serde_json::to_string(text).map_err(Failure::fault)?)),
        Err(_) => {
            use base64::{Engine, engine::general_purpose::STANDARD};
            ("base64", zeroize::Zeroizing::new(format!("\"{}\"", STANDARD.encode(delivered.value.expose()))))
        }
    };
    let beside = serde_json::json!({"request": delivered.request, "lease": delivered.lease, "attributes": delivered.attributes, "clamped": delivered.clamped});
    let beside = serde_json::to_string(&beside).map_err(Failure::fault)?;
    let mut out = zeroize::Zeroizing::new(String::with_capacity(text.len() + beside.len() + 64));
    out.push_str("{\"secret\":{\"encoding\":\"");
    out.push_str(encoding);
    out.push_str("\",\"value\":");
    out.push_str(&text);
    out.push_str("},");
    out.push_str(&beside[1..]);
    raw(out.as_bytes(), true)
}
