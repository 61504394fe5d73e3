//! How `clavigerd` starts from the command line, and the codes it ends with.

use super::{attestor, run, telemetry};
use clap::{Parser, Subcommand};
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
    #[arg(long, global = true, default_value = "/etc/claviger/clavigerd.toml")]
    config: PathBuf,
    /// Read all files, say what is wrong, and stop.
    #[arg(long)]
    check: bool,
    /// Where the attestor listens. Without it this process attests by itself: one process with the secrets and the privilege.
    #[arg(long, value_name = "SOCKET")]
    attestor: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be the attestor: the process that may look at others, and that holds no secret.
    Attest {
        /// Listen here. Without it systemd passes the socket.
        #[arg(long, value_name = "SOCKET")]
        socket: Option<PathBuf>,
    },
    /// Do nothing until standard input ends.
    #[command(hide = true, name = super::sight::PROBE)]
    Probe,
}

/// Threads without which nothing can be done: the first, and those that own the audit log and the lease journal.
const VITAL: [&str; 3] = ["main", "audit", "leases"];

/// A panic of one of these threads ends the process at once, as a crash would, of which nothing is lost: started again it works. Left alone,
/// a runtime that could not start all its threads waits for itself for ever, and a daemon without its log refuses for ever.
fn end_with_vital_threads() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        if std::thread::current().name().is_some_and(|name| VITAL.contains(&name)) {
            std::process::exit(Exit::Failed as i32);
        }
    }));
}

/// The whole program.
pub fn main() -> std::process::ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Some(Command::Probe)) {
        attestor::probe();
        return std::process::ExitCode::SUCCESS;
    }
    telemetry::start();
    end_with_vital_threads();
    let done = match arguments.command {
        None | Some(Command::Probe) => run::run(&arguments.config, arguments.check, arguments.attestor),
        Some(Command::Attest { socket }) => attestor::run(&arguments.config, socket.as_deref()),
    };
    let exit = match done {
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
