//! The daemon's own log: to the journal where the service manager offers it, else to standard error.

use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Starts logging. `CLAVIGER_LOG` takes a filter (default `info`); `CLAVIGER_LOG_FORMAT=json` writes JSON lines to standard error.
pub fn start() {
    let filter = || EnvFilter::try_from_env("CLAVIGER_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // systemd sets JOURNAL_STREAM when standard error leads to the journal: then records go there with their fields.
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let layer = match journal {
        Some(journal) => journal.with_syslog_identifier("claviger".to_owned()).with_field_prefix(Some("CLAVIGER".to_owned())).boxed(),
        None if std::env::var("CLAVIGER_LOG_FORMAT").is_ok_and(|format| format == "json") => {
            tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr).boxed()
        }
        None => {
            // Colour is for eyes: a log file gets none.
            let colour = std::io::stderr().is_terminal();
            tracing_subscriber::fmt::layer().with_target(false).with_ansi(colour).with_writer(std::io::stderr).boxed()
        }
    };
    // A second start, in tests, keeps the first.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter())).try_init();
}
