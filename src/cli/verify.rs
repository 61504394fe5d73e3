//! `clav audit verify`: the files of a log, offline.

use super::{Desk, Done, Failure, failure::code, output::line};
use crate::{
    audit::{Pinned, read_anchors, read_keys, verify},
    config::{Config, File},
};
use clap::Args;
use std::{fmt::Display, path::PathBuf};

#[derive(Args)]
pub(super) struct Arguments {
    /// The folder with the log; that of the configuration unless it is said
    folder: Option<PathBuf>,
    /// Public keys that may have signed, one in hex a line; without it the log's own first key is believed
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Heads that were kept elsewhere, such as the output of journalctl -t claviger
    #[arg(long, value_name = "FILE")]
    anchors: Option<PathBuf>,
}

/// Where the configuration puts the log. A host without the file, such as one that collects logs, has the usual place.
pub(super) fn configured(desk: &Desk) -> Result<PathBuf, Failure> {
    match std::fs::read_to_string(&desk.config) {
        Ok(text) => {
            let config = Config::parse(&File { path: desk.config.display().to_string(), text });
            config.map(|config| config.paths.audit).map_err(|error| Failure::Usage(error.to_string()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default().paths.audit),
        Err(error) => Err(Failure::fault(format!("{}: {error}", desk.config.display()))),
    }
}

pub(super) fn run(desk: &Desk, arguments: &Arguments) -> Done {
    let fault = |path: &PathBuf, error: &dyn Display| Failure::fault(format!("{}: {error}", path.display()));
    let keys = arguments.key.as_ref().map(|path| read_keys(path).map_err(|e| fault(path, &e))).transpose()?.unwrap_or_default();
    let anchors = arguments.anchors.as_ref().map(|path| read_anchors(path).map_err(|e| fault(path, &e))).transpose()?.unwrap_or_default();
    if arguments.key.is_some() && keys.is_empty() {
        return Err(Failure::Usage("--key names a file without a key".into()));
    }
    let given = anchors.len();
    if arguments.anchors.is_some() && given == 0 {
        return Err(Failure::Usage("--anchors names a file without a head of a log".into()));
    }
    let pinned = Pinned { keys, anchors, ..Pinned::default() };
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => configured(desk)?,
    };
    let report = verify(&folder, &pinned).map_err(|error| fault(&folder, &error))?;
    if report.segments == 0 {
        return Err(Failure::fault(format!("{}: there is no audit log in this folder", folder.display())));
    }
    let exit = if report.is_sound() { 0 } else { code::FAULT };
    if desk.json {
        let problems: Vec<_> = report.problems.iter().map(|problem| {
            serde_json::json!({"file": problem.file, "line": problem.line, "seq": problem.seq, "what": problem.flaw.to_string()})
        }).collect();
        let text = serde_json::json!({
            "sound": report.is_sound(), "records": report.records, "segments": report.segments, "first": report.first, "last": report.last,
            "last_time": report.last_time, "heads": report.heads, "signed_to": report.signed_to, "pinned": report.pinned,
            "anchors": report.anchors, "anchors_elsewhere": report.anchors_elsewhere, "abandoned": report.abandoned,
            "problem_count": report.problem_count, "problems": problems,
        });
        line(&serde_json::to_string_pretty(&text).map_err(Failure::fault)?)?;
        return Ok(exit);
    }
    let style = &desk.style;
    for problem in &report.problems {
        line(&style.red(&problem.to_string()))?;
    }
    let number = |n: Option<u64>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    line(&format!(
        "{} records in {} files, {} to {}; signed to {} by {} heads; {} anchors fit ({given} given)",
        report.records,
        report.segments,
        number(report.first),
        number(report.last),
        number(report.signed_to),
        report.heads,
        report.anchors,
    ))?;
    if !report.pinned {
        line(&style.yellow("The signing key was taken from the log itself: a forger's is as good as ours. Give --key."))?;
    }
    if given == 0 {
        line(&style.yellow("Without --anchors a log that was cut at its end is not noticed."))?;
    }
    match report.problem_count {
        0 => line(&style.green("The log is sound."))?,
        count => line(&style.red(&format!("{count} problems.")))?,
    }
    Ok(exit)
}
