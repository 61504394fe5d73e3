//! The verbs of `clav`, one file each.
//!
//! Values of secrets go to standard output or into a descriptor, and nowhere else; everything that is said about them goes to standard
//! error. `--json` prints what the daemon answered.

mod ask;
mod audit;
mod cache;
mod demo;
mod doctor;
mod engine;
mod exec;
mod explain;
mod failure;
mod freeze;
mod get;
mod held;
mod identity;
mod init;
mod jwks;
mod key;
mod leases;
mod output;
mod policy;
mod receipt;
mod renew;
mod revoke;
mod search;
mod secret;
mod secrets;
mod signals;
mod status;
mod template;
mod verify;
mod watch;
mod whoami;
mod why;

pub use failure::Failure;

use crate::client::Client;
use clap::{Parser, Subcommand};
use output::{Style, line};
use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What a verb comes back with: the exit code, or why not.
type Done = Result<u8, Failure>;

/// Where things are unless it is said otherwise.
const CONFIG: &str = "/etc/claviger/clavigerd.toml";
const WORKLOAD: &str = "/run/claviger/workload.sock";
const OPERATOR: &str = "/run/claviger/operator.sock";

#[derive(Parser)]
#[command(name = "clav", version, about = "Ask the keeper of this host's keys, and look after it", max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 fault, 2 usage, 10 refused, 11 evidence is missing, 12 the daemon cannot be reached, 13 the calling process could not be attested, 14 'audit receipt': the lease has ended and nothing proves that its credential is dead. 'exec' passes on the command's own; 125 if it did not start."
)]
struct Arguments {
    /// The workload socket.
    #[arg(long, global = true, env = "CLAVIGER_SOCKET", default_value = WORKLOAD, value_name = "PATH")]
    socket: PathBuf,
    /// The operator socket.
    #[arg(long, global = true, env = "CLAVIGER_OPERATOR_SOCKET", default_value = OPERATOR, value_name = "PATH")]
    operator_socket: PathBuf,
    /// The daemon's configuration file, for what is looked at offline.
    #[arg(long, global = true, env = "CLAVIGER_CONFIG", default_value = CONFIG, value_name = "PATH")]
    config: PathBuf,
    /// Print what the daemon answered, as JSON.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Get a secret: its value goes to standard output
    Get(get::Arguments),
    /// Run a command that finds secrets in descriptors of its own
    Exec(exec::Arguments),
    /// Keep a file with secrets in it true, for a program that reads nothing else
    Template(template::Arguments),
    /// What happens to your leases, as it happens
    Watch,
    /// Who the daemon takes you for
    Whoami,
    /// The secrets that something grants to you
    Secrets,
    /// The leases you hold, or with --all everybody's
    Leases(leases::Arguments),
    /// End leases now
    Revoke(revoke::Arguments),
    /// Let a lease live longer
    Renew(renew::Arguments),
    /// What would be answered to a request, without making it
    Explain(explain::Arguments),
    /// Why a request was answered as it was, and what to change
    Why(why::Arguments),
    /// Identities, and who a process would be
    #[command(subcommand)]
    Identity(identity::Verb),
    /// Values of the local store
    #[command(subcommand)]
    Secret(secret::Verb),
    /// Policy, secret definitions and identities
    #[command(subcommand)]
    Policy(policy::Verb),
    /// Read all files again and put them into force
    Reload,
    /// How the daemon stands
    Status,
    /// Stop issuing on this host, or allow it again
    Freeze(freeze::Arguments),
    /// The audit log
    #[command(subcommand)]
    Audit(audit::Verb),
    /// The daemon's own keys, and changing them
    #[command(subcommand)]
    Key(key::Verb),
    /// Secrets engines, and what of ours is at their sources
    #[command(subcommand)]
    Engine(engine::Verb),
    /// What is kept of values beside their sources, and letting go of it
    #[command(subcommand)]
    Cache(cache::Verb),
    /// Keys of a jwt engine for its verifiers
    #[command(subcommand)]
    Jwks(jwks::Verb),
    /// Look for what is wrong on this host
    Doctor,
    /// Make folders, key and sample files (root, once; never overwrites)
    Init(init::Arguments),
    /// Play the whole story in a temporary folder, with a real daemon and real processes
    Demo(demo::Arguments),
    /// Tidies up behind the demo
    #[command(hide = true)]
    DemoKeeper,
    /// A child process of the demo
    #[command(hide = true)]
    DemoActor {
        /// The workload socket.
        socket: PathBuf,
        /// What it asks for.
        body: String,
    },
}

/// What every verb needs.
#[derive(Clone)]
struct Desk {
    workload: PathBuf,
    operator: PathBuf,
    config: PathBuf,
    json: bool,
    style: Style,
}

impl Desk {
    async fn workload(&self) -> Result<Client, Failure> {
        self.connect(&self.workload).await
    }

    async fn operator(&self) -> Result<Client, Failure> {
        self.connect(&self.operator).await
    }

    async fn connect(&self, socket: &Path) -> Result<Client, Failure> {
        Client::connect(socket).await.map_err(Failure::from)
    }

    /// Prints the answer as JSON if that was asked for.
    fn printed<T: serde::Serialize>(&self, answer: &T) -> Result<bool, Failure> {
        if self.json {
            line(&serde_json::to_string_pretty(answer).map_err(Failure::fault)?)?;
        }
        Ok(self.json)
    }
}

/// The whole program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let desk = Desk {
        workload: arguments.socket,
        operator: arguments.operator_socket,
        config: arguments.config,
        json: arguments.json,
        style: Style::of_stdout(),
    };
    let done = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::fault)
        .and_then(|runtime| runtime.block_on(run(&desk, arguments.verb)));
    ExitCode::from(done.unwrap_or_else(|failure| failure.tell(&Style::of(std::io::stderr().is_terminal()))))
}

async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Get(arguments) => get::run(desk, arguments).await,
        Verb::Exec(arguments) => exec::run(desk, arguments).await,
        Verb::Template(arguments) => template::run(desk, arguments).await,
        Verb::Watch => watch::run(desk).await,
        Verb::Whoami => whoami::run(desk).await,
        Verb::Secrets => secrets::run(desk).await,
        Verb::Leases(arguments) => leases::run(desk, arguments).await,
        Verb::Revoke(arguments) => revoke::run(desk, arguments).await,
        Verb::Renew(arguments) => renew::run(desk, arguments).await,
        Verb::Explain(arguments) => explain::run(desk, arguments).await,
        Verb::Why(arguments) => why::run(desk, arguments).await,
        Verb::Identity(verb) => identity::run(desk, verb).await,
        Verb::Secret(verb) => secret::run(desk, verb).await,
        Verb::Policy(verb) => policy::run(desk, verb).await,
        Verb::Reload => policy::reload(desk).await,
        Verb::Status => status::run(desk).await,
        Verb::Freeze(arguments) => freeze::run(desk, arguments).await,
        Verb::Engine(verb) => engine::run(desk, verb).await,
        Verb::Cache(verb) => cache::run(desk, verb).await,
        Verb::Audit(verb) => audit::run(desk, verb).await,
        Verb::Key(verb) => key::run(desk, verb).await,
        Verb::Jwks(verb) => jwks::run(desk, verb).await,
        Verb::Doctor => doctor::run(desk).await,
        Verb::Init(arguments) => init::run(desk, arguments),
        Verb::Demo(arguments) => demo::play(&arguments),
        Verb::DemoKeeper => demo::keep().map(|()| 0).map_err(Failure::fault),
        Verb::DemoActor { socket, body } => demo::act(&socket, &body).map(|()| 0).map_err(Failure::fault),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_sound() {
        <super::Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
