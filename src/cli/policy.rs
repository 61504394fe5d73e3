//! `clav policy check` and `clav reload`: files, and what is in force.

use super::{Desk, Done, failure::code, output::line};
use crate::wire::BundleAnswer;
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Say what a reload would say, and change nothing
    Check,
    /// Read all files again and put them into force
    Reload,
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Check => {
            let answer = desk.operator().await?.check_policy().await?;
            tell(desk, &answer, "the files are sound", "a reload would keep what is in force")
        }
        Verb::Reload => reload(desk).await,
    }
}

pub(super) async fn reload(desk: &Desk) -> Done {
    let answer = desk.operator().await?.reload().await?;
    tell(desk, &answer, "in force", "what was in force stays")
}

fn tell(desk: &Desk, answer: &BundleAnswer, good: &str, bad: &str) -> Done {
    let exit = if answer.ok { 0 } else { code::FAULT };
    if desk.printed(answer)? {
        return Ok(exit);
    }
    let style = &desk.style;
    for warning in &answer.warnings {
        line(&style.yellow(&format!("warning: {warning}")))?;
    }
    for problem in &answer.problems {
        line(&style.red(problem))?;
    }
    let word = if answer.ok { style.green(good) } else { style.red(bad) };
    line(&format!("{word}: bundle {} (generation {})", answer.bundle, answer.generation))?;
    Ok(exit)
}
