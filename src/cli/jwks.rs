//! `clav jwks export`: what verifiers of tokens need, as files or on standard output.

use super::{Desk, Done, Failure, output::line};
use crate::model::EngineName;
use clap::Subcommand;
use std::path::PathBuf;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// The discovery document and the keys of an engine
    Export {
        /// Which engine
        engine: String,
        /// Write .well-known/openid-configuration and .well-known/jwks.json below this folder, as the issuer serves them
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    let Verb::Export { engine, out } = verb;
    let engine = EngineName::parse(&engine).map_err(|error| Failure::Usage(format!("the engine's name {error}")))?;
    let answer = desk.operator().await?.jwks(&engine).await?;
    let Some(out) = out else {
        line(&serde_json::to_string_pretty(&answer).map_err(Failure::fault)?)?;
        return Ok(0);
    };
    let known = out.join(".well-known");
    std::fs::create_dir_all(&known).map_err(|error| Failure::fault(format!("{}: {error}", known.display())))?;
    for (name, path) in [("discovery", known.join("openid-configuration")), ("jwks", known.join("jwks.json"))] {
        let part = answer.get(name).ok_or_else(|| Failure::fault(format!("the daemon's answer has no {name}")))?;
        let mut text = serde_json::to_vec_pretty(part).map_err(Failure::fault)?;
        text.push(b'\n');
        // Beside, then in place: a web server that serves the folder never reads half a file.
        let beside = path.with_extension("new");
        std::fs::write(&beside, &text)
            .and_then(|()| std::fs::rename(&beside, &path))
            .map_err(|error| Failure::fault(format!("{}: {error}", path.display())))?;
        line(&path.display().to_string())?;
    }
    Ok(0)
}
