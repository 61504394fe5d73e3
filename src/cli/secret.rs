//! `clav secret`: values that last. One of the local store comes from a pipe or a prompt, never from the command line.

use super::{
    Desk, Done, Failure,
    output::{Table, line, relative},
};
use crate::{
    model::{RequestId, SecretBytes, SecretName},
    sys,
    wire::{RotationRow, StoredView},
};
use std::io::{IsTerminal, Read};
use zeroize::Zeroizing;

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Store a value: from standard input as it is, or typed without being shown
    Put {
        /// Which secret
        name: String,
    },
    /// Values that are stored, or changed now and then: how old they are, and when they are due
    Ls,
    /// Change a value at its source, now
    Rotate {
        /// Which secret
        name: String,
    },
    /// Remove all versions of a value; leases of it end
    Rm {
        /// Which secret
        name: String,
    },
}

/// The most that the store takes.
const VALUE_MAX: u64 = 1 << 20;

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Put { name } => put(desk, &secret_name(&name)?).await,
        Verb::Ls => list(desk).await,
        Verb::Rotate { name } => {
            let name = secret_name(&name)?;
            let answer = desk.operator().await?.rotate_secret(&name).await?;
            if !desk.printed(&answer)? {
                line(&format!("{name}: version {} is given from now on", answer.version))?;
            }
            Ok(0)
        }
        Verb::Rm { name } => {
            let name = secret_name(&name)?;
            let answer = desk.operator().await?.remove(&name).await?;
            if !desk.printed(&answer)? {
                line(&format!("{name}: all versions removed"))?;
            }
            Ok(0)
        }
    }
}

async fn put(desk: &Desk, name: &SecretName) -> Done {
    // First the way to the daemon: nobody should type a secret in vain.
    let mut operator = desk.operator().await?;
    let value = if std::io::stdin().is_terminal() { typed(name)? } else { piped()? };
    if value.is_empty() {
        return Err(Failure::Usage("the value is empty".into()));
    }
    let (bytes, feed) = (value.len(), value.expose().ends_with(b"\n"));
    let answer = operator.put(name, value).await?;
    if !desk.printed(&answer)? {
        let version = answer.get("version").map(ToString::to_string).unwrap_or_default();
        line(&format!("{name}: version {version}, {bytes} bytes"))?;
        if answer.get("defined").and_then(serde_json::Value::as_bool) == Some(false) {
            line(&desk.style.yellow(&format!("No definition in secrets.d names {name} yet: nobody can get it.")))?;
        }
    }
    if feed {
        eprintln!("The value ends with a line feed; 'printf %s' writes none.");
    }
    Ok(0)
}

fn typed(name: &SecretName) -> Result<SecretBytes, Failure> {
    let value = sys::prompt_secret(&format!("Value of {name}: "))?;
    let again = sys::prompt_secret("Once more: ")?;
    if value.expose() == again.expose() { Ok(value) } else { Err(Failure::Usage("the two are not the same; nothing was stored".into())) }
}

fn piped() -> Result<SecretBytes, Failure> {
    // Room for all of it at once: a vector that grows leaves copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(VALUE_MAX as usize + 1));
    std::io::stdin().lock().take(VALUE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > VALUE_MAX {
        return Err(Failure::Usage("the value is longer than 1 MiB".into()));
    }
    Ok(SecretBytes::take_from(&mut bytes))
}

/// Both lists in one.
#[derive(serde::Serialize)]
struct Listing {
    request: RequestId,
    values: Vec<StoredView>,
    rotations: Vec<RotationRow>,
}

async fn list(desk: &Desk) -> Done {
    let mut operator = desk.operator().await?;
    let (stored, rotations) = (operator.stored().await?, operator.rotations().await?.rotations);
    let list = Listing { request: stored.request, values: stored.values, rotations };
    if desk.printed(&list)? {
        return Ok(0);
    }
    let mut table = Table::new(&["NAME", "ENGINE", "VERSION", "BYTES", "AGE", "DUE", ""]);
    let rotated = |name: &SecretName| list.rotations.iter().find(|row| row.name == *name);
    for value in &list.values {
        // A name of another engine's may have a value in the store as well, from before.
        let row = rotated(&value.name).filter(|row| row.engine.as_str() == "local");
        let note = if value.defined { note(desk, row) } else { desk.style.yellow("no definition") };
        let cells = [value.version.to_string(), value.size.to_string(), relative(&value.updated), due(row), note];
        table.row([value.name.to_string(), "local".to_owned()].into_iter().chain(cells).collect());
    }
    let is_listed = |row: &RotationRow| row.engine.as_str() == "local" && list.values.iter().any(|value| value.name == row.name);
    for row in list.rotations.iter().filter(|row| !is_listed(row)) {
        let version = row.version.map_or_else(|| "-".to_owned(), |version| version.to_string());
        let made = row.made.as_deref().map_or_else(|| "-".to_owned(), relative);
        table.row(vec![row.name.to_string(), row.engine.to_string(), version, "-".to_owned(), made, due(Some(row)), note(desk, Some(row))]);
    }
    table.print(&desk.style, "There is no value that lasts.")?;
    for row in list.rotations.iter().filter_map(|row| Some((&row.name, row.trouble.as_ref()?))) {
        line(&desk.style.red(&format!("  {}: {}", row.0, row.1)))?;
    }
    Ok(0)
}

fn due(row: Option<&RotationRow>) -> String {
    row.and_then(|row| row.due.as_deref()).map_or_else(|| "-".to_owned(), relative)
}

/// What somebody has to see to.
fn note(desk: &Desk, row: Option<&RotationRow>) -> String {
    match row {
        Some(row) if row.overdue => desk.style.red("overdue"),
        Some(row) if row.trouble.is_some() => desk.style.red("trouble"),
        Some(row) if row.version.is_none() && row.changed_here => desk.style.yellow(&format!("'clav secret rotate {}' begins", row.name)),
        _ => String::new(),
    }
}

pub(super) fn secret_name(text: &str) -> Result<SecretName, Failure> {
    SecretName::parse(text).map_err(|error| Failure::Usage(format!("the name {error}")))
}
