//! `clav secret`: values of the local store. A value comes from a pipe or a prompt, never from the command line.

use super::{
    Desk, Done, Failure,
    output::{Table, line, relative},
};
use crate::{
    model::{SecretBytes, SecretName},
    sys,
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
    /// What is stored, without values
    Ls,
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

async fn list(desk: &Desk) -> Done {
    let list = desk.operator().await?.stored().await?;
    if !desk.printed(&list)? {
        let mut table = Table::new(&["NAME", "VERSION", "BYTES", "UPDATED", ""]);
        for value in &list.values {
            let note = if value.defined { "" } else { "no definition" };
            let cells = [value.version.to_string(), value.size.to_string(), relative(&value.updated), note.to_owned()];
            table.row(std::iter::once(value.name.to_string()).chain(cells).collect());
        }
        table.print(&desk.style, "Nothing is stored.")?;
    }
    Ok(0)
}

fn secret_name(text: &str) -> Result<SecretName, Failure> {
    SecretName::parse(text).map_err(|error| Failure::Usage(format!("the name {error}")))
}
