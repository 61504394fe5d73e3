//! How `clavigerd` starts from the command line, and the codes it ends with.

use super::{run, telemetry};
use clap::Parser;
use std::path::PathBuf;

/// Exit codes of the daemon, as systemd.exec(5) and sysexits.h use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Told to stop, and stopped.
    Stopped = 0,
    /// Something failed that may not fail again.
    Failed = 1,
    /// A file or the state must be mended first: starting again changes nothing.
    Config = 78,
}

#[derive(Parser)]
#[command(name = "clavigerd", version, about = "The keeper of a host's keys: a secrets broker on Unix sockets")]
struct Arguments {
    /// The configuration file.
    #[arg(long, default_value = "/etc/claviger/clavigerd.toml")]
    config: PathBuf,
    /// Read all files, say what is wrong, and stop.
    #[arg(long)]
    check: bool,
}

/// The whole program.
pub fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    telemetry::start();
    let exit = match run::run(&arguments.config, arguments.check) {
        Ok(()) => Exit::Stopped,
        Err(error) => {
            for line in error.to_string().lines() {
                tracing::error!("{line}");
            }
            error.exit()
        }
    };
    std::process::ExitCode::from(exit as u8)
}
