//! `clav secrets`: what something grants to the caller.

use super::{Desk, Done, output::Table};
use crate::wire::SecretList;

pub(super) async fn run(desk: &Desk) -> Done {
    let list = desk.workload().await?.secrets().await?;
    if !desk.printed(&list)? {
        print(desk, &list, "Nothing grants you a secret.")?;
    }
    Ok(0)
}

/// A table of secrets.
pub(super) fn print(desk: &Desk, list: &SecretList, none: &str) -> Result<(), super::Failure> {
    let mut table = Table::new(&["NAME", "SENSITIVITY", "ENDS BY", "ANSWER", "PURPOSES", "DESCRIPTION"]);
    for secret in &list.secrets {
        table.row(vec![
            secret.name.to_string(),
            secret.sensitivity.to_string(),
            secret.ends_by.to_string(),
            secret.outcome.clone(),
            secret.purposes.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            secret.description.clone(),
        ]);
    }
    table.print(&desk.style, none)
}
