//! `clav key`: the daemon's own keys, and changing them.

use super::{
    Desk, Done, Failure,
    output::{Table, line, relative},
};
use crate::{
    model::EngineName,
    wire::{KeyRequest, KeyRow},
};
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Every key of the daemon: what it does, and since when
    Ls,
    /// Change a key: local, audit, or the name of a jwt engine
    Rotate {
        /// Which, as 'clav key ls' names it
        name: String,
        /// Give up the keys of a jwt engine at once, with every token that they have signed: for keys that others may have
        #[arg(long)]
        discard: bool,
    },
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Ls => {
            let list = desk.operator().await?.keys().await?;
            if !desk.printed(&list)? {
                print(desk, &list.keys)?;
            }
        }
        Verb::Rotate { name, discard } => {
            let name = EngineName::parse(&name).map_err(|error| Failure::Usage(format!("the key's name {error}")))?;
            let answer = desk.operator().await?.rotate(&name, KeyRequest { discard }).await?;
            if !desk.printed(&answer)? {
                answer.done.iter().try_for_each(|sentence| line(sentence))?;
                line("")?;
                print(desk, &answer.keys)?;
            }
        }
    }
    Ok(0)
}

fn print(desk: &Desk, keys: &[KeyRow]) -> Result<(), Failure> {
    let mut table = Table::new(&["NAME", "KIND", "IN USE", "KEY", "STATE"]);
    for key in keys {
        let since = key.created.as_deref().map_or_else(|| "-".to_owned(), relative);
        table.row(vec![key.name.clone(), key.kind.clone(), since, key.id.clone(), key.state.clone()]);
    }
    table.print(&desk.style, "There is no key.")
}
