//! `clav engine`: the secrets engines, and what of ours is at their sources.

use super::{
    Desk, Done, Failure,
    failure::code,
    output::{Table, line, relative},
};
use crate::{model::EngineName, wire::ReconcileRequest};
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Every engine, and how its source stood when it was looked at last
    Ls,
    /// Compare what is at a source with the journal: what bears our mark and is in no journal should not be there
    Reconcile {
        /// Which, as 'clav engine ls' names it
        name: String,
        /// End what is in no journal, however much it is
        #[arg(long)]
        end: bool,
        /// Take back what lasts and no definition names: values whose definition was removed or has another name now
        #[arg(long)]
        end_values: bool,
    },
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Ls => {
            let list = desk.operator().await?.engines().await?;
            if desk.printed(&list)? {
                return Ok(0);
            }
            let mut table = Table::new(&["NAME", "KIND", "LOOKED", "THERE", "WAITING", "TROUBLE"]);
            for engine in &list.engines {
                let looked = engine.looked.as_deref().map_or_else(|| "-".to_owned(), relative);
                let trouble = engine.error.clone().unwrap_or_default();
                table.row(vec![
                    engine.name.clone(),
                    engine.kind.clone(),
                    looked,
                    engine.there.to_string(),
                    (engine.waiting + engine.left).to_string(),
                    trouble,
                ]);
            }
            table.print(&desk.style, "There is no engine.")?;
            Ok(0)
        }
        Verb::Reconcile { name, end, end_values } => {
            let name = EngineName::parse(&name).map_err(|error| Failure::Usage(format!("the engine's name {error}")))?;
            let answer = desk.operator().await?.reconcile(&name, &ReconcileRequest { end, end_values }).await?;
            let left = answer.orphans.len() - answer.ended.len();
            let values_left = answer.values.len() - answer.values_ended.len();
            let exit = if left + values_left == 0 { 0 } else { code::FAULT };
            if desk.printed(&answer)? {
                return Ok(exit);
            }
            line(&format!("{} credentials bear our mark at {name}; {} are in no journal", answer.there, answer.orphans.len()))?;
            for id in &answer.orphans {
                let ended = answer.ended.contains(id);
                line(&format!("  {id} {}", if ended { desk.style.green("ended") } else { desk.style.yellow("is there") }))?;
            }
            if !answer.values.is_empty() {
                line(&format!("{} versions of values that last are named by no definition", answer.values.len()))?;
            }
            for value in &answer.values {
                let ended = answer.values_ended.contains(value);
                line(&format!("  {value} {}", if ended { desk.style.green("taken back") } else { desk.style.yellow("is left") }))?;
            }
            answer.failed.iter().try_for_each(|why| line(&desk.style.red(&format!("  {why}"))))?;
            if left > 0 && !end {
                line(&format!("'clav engine reconcile {name} --end' ends them. Do so unless another daemon uses this state."))?;
            }
            if values_left > 0 && !end_values {
                line(&format!("'clav engine reconcile {name} --end-values' takes them back: whoever has a copy cannot use it any more."))?;
            }
            Ok(exit)
        }
    }
}
