//! `clav doctor`: looks for what is wrong on this host, and says what to do about it. It changes nothing.

mod daemon;
mod files;
mod host;
mod programs;

use super::{Desk, Done, Failure, failure::code, output::line};
use crate::config::{Config, File};
use serde::Serialize;
use std::path::Path;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One check.
#[derive(Serialize)]
struct Finding {
    verdict: Verdict,
    what: String,
    /// What was found.
    found: String,
    /// What to do; empty where all is well.
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: String,
}

/// What was found so far.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, what: &str, found: impl Into<String>) {
        self.add(Verdict::Ok, what, found, "");
    }
    fn warn(&mut self, what: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Verdict::Warn, what, found, remedy);
    }
    fn fail(&mut self, what: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.add(Verdict::Fail, what, found, remedy);
    }
    fn add(&mut self, verdict: Verdict, what: &str, found: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { verdict, what: what.to_owned(), found: found.into(), remedy: remedy.into() });
    }
}

pub(super) async fn run(desk: &Desk) -> Done {
    let mut findings = Findings::default();
    let config = config(desk, &mut findings);
    // A socket that is said counts; otherwise it is where this configuration puts it.
    let place = |said: &Path, usual: &str, configured: &Path| if said == Path::new(usual) { configured } else { said }.to_owned();
    let desk = &Desk {
        workload: place(&desk.workload, super::WORKLOAD, &config.sockets.workload),
        operator: place(&desk.operator, super::OPERATOR, &config.sockets.operator),
        ..desk.clone()
    };
    host::look(&config, &mut findings);
    files::look(desk, &config, &mut findings);
    programs::look(&config, &mut findings);
    daemon::look(desk, &config, &mut findings).await;
    let worst = findings.0.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    let exit = if worst == Verdict::Fail { code::FAULT } else { 0 };
    if !desk.printed(&serde_json::json!({"verdict": worst, "checks": findings.0}))? {
        print(desk, &findings)?;
    }
    Ok(exit)
}

fn config(desk: &Desk, findings: &mut Findings) -> Config {
    let path = desk.config.display().to_string();
    match crate::sys::read_trusted(&desk.config, 1 << 20) {
        Ok(text) => match Config::parse(&File { path: path.clone(), text }) {
            Ok(config) => {
                findings.ok("configuration", path);
                return config;
            }
            Err(error) => findings.fail("configuration", error.to_string(), "mend the file: clavigerd does not start with it"),
        },
        Err(error) if !desk.config.exists() => findings.fail("configuration", error.to_string(), "clav init"),
        Err(error) => findings.fail("configuration", error.to_string(), "only root may write it and the folders above it"),
    }
    Config::default()
}

fn print(desk: &Desk, findings: &Findings) -> Result<(), Failure> {
    let style = &desk.style;
    let width = findings.0.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    for finding in &findings.0 {
        let mark = match finding.verdict {
            Verdict::Ok => style.green("ok  "),
            Verdict::Warn => style.yellow("warn"),
            Verdict::Fail => style.red("FAIL"),
        };
        line(&format!("{mark}  {:width$}  {}", finding.what, finding.found))?;
        if !finding.remedy.is_empty() {
            line(&format!("      {:width$}  {}", "", style.bold(&format!("-> {}", finding.remedy))))?;
        }
    }
    let count = |verdict| findings.0.iter().filter(|finding| finding.verdict == verdict).count();
    line(&format!("{} ok, {} warnings, {} failures", count(Verdict::Ok), count(Verdict::Warn), count(Verdict::Fail)))
}
