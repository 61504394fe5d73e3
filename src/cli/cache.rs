//! `clav cache`: what is kept of values beside their sources, and letting go of it.

use super::{
    Desk, Done,
    output::{Table, line, relative},
    secret::secret_name,
};
use crate::wire::KeptRow;
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// What is kept: which version of which secret, where, and when its source confirmed it last. Never a value
    Ls,
    /// Let go of it: the next reader asks the source, or is refused while that is away
    Evict {
        /// Of which secret
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// Of every secret
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Ls => list(desk).await,
        Verb::Evict { name, all: _ } => {
            let name = name.as_deref().map(secret_name).transpose()?;
            let answer = desk.operator().await?.evict(name.as_ref()).await?;
            if desk.printed(&answer)? {
                return Ok(0);
            }
            if answer.evicted.is_empty() {
                line(&desk.style.dim("Nothing was kept."))?;
            }
            answer.evicted.iter().try_for_each(|row| line(&format!("{}: {} let go of", row.name, copies(row.copies))))?;
            Ok(0)
        }
    }
}

fn copies(count: usize) -> String {
    if count == 1 { "one copy".to_owned() } else { format!("{count} copies") }
}

async fn list(desk: &Desk) -> Done {
    let list = desk.operator().await?.kept().await?;
    if desk.printed(&list)? {
        return Ok(0);
    }
    let mut table = Table::new(&["NAME", "ENGINE", "VERSION", "WHERE", "CONFIRMED", "UNTIL", "LEASES", ""]);
    for row in &list.kept {
        let when = |time: &Option<String>| time.as_deref().map_or_else(|| "-".to_owned(), relative);
        table.row(vec![
            row.name.to_string(),
            row.engine.to_string(),
            row.version.to_string(),
            row.place.clone(),
            when(&row.confirmed),
            when(&row.until),
            row.leases.to_string(),
            note(desk, row),
        ]);
    }
    table.print(&desk.style, "Nothing is kept.")?;
    Ok(0)
}

/// For whom it is.
fn note(desk: &Desk, row: &KeptRow) -> String {
    match (row.stale, row.age) {
        (false, _) => String::new(),
        (true, Some(_)) => desk.style.dim("stale: only while its source is away"),
        (true, None) => desk.style.yellow("the clock went back: for nobody"),
    }
}
