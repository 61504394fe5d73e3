//! `clav exec`: runs a command that has its secrets while it runs, and only then.
//!
//! The leases are bound to this process: they end when it ends, however that happens. It stays above the command, passes signals on, renews
//! what may be renewed, and gives everything back when the command has ended.

use super::{Desk, Done, Failure, ask::Declaration, failure::code};
use crate::{
    client::{Client, Delivered},
    model::{LeaseId, SecretBytes},
    sys::{self, Clock, SystemClock},
};
use clap::Args;
use std::{
    collections::BTreeMap,
    ffi::OsString,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{ffi::OsStringExt, process::ExitStatusExt},
    },
    process::{Child, Command, ExitStatus},
    time::Duration,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Args)]
pub(super) struct Arguments {
    /// A secret on a descriptor: AS_FD names it, AS being the secret's name unless it is said (repeatable)
    #[arg(long = "secret", value_name = "NAME[:AS]")]
    secrets: Vec<String>,
    /// A secret in an environment variable: other processes of the user and core files may see it (repeatable)
    #[arg(long = "env", value_name = "VAR=NAME")]
    variables: Vec<String>,
    #[command(flatten)]
    declaration: Declaration,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
    /// The command
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Where a secret goes.
enum Place {
    Descriptor(String),
    Variable(String),
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let wanted = wanted(&arguments)?;
    // Signals are caught from here on, so that none ends us while leases are out.
    let mut signals = Signals::new()?;
    let mut client = desk.workload().await?;
    let mut held = Held::default();
    let done = go(&mut client, &arguments, wanted, &mut signals, &mut held).await;
    held.give_back(&mut client, arguments.quiet).await;
    done
}

async fn go(client: &mut Client, arguments: &Arguments, wanted: Vec<(String, Place)>, signals: &mut Signals, held: &mut Held) -> Done {
    let mut command = Command::new(&arguments.command[0]);
    command.args(&arguments.command[1..]);
    let mut open: Vec<OwnedFd> = Vec::new();
    let mut fetched: BTreeMap<String, Delivered> = BTreeMap::new();
    for (name, place) in wanted {
        if !fetched.contains_key(&name) {
            let delivered = client.issue(arguments.declaration.of(&name, Some("client".into()))).await?;
            held.take(&delivered);
            if !arguments.quiet {
                eprintln!("{}", super::get::told(&delivered.lease));
                delivered.clamped.iter().for_each(|what| eprintln!("not as asked: {what}"));
            }
            fetched.insert(name.clone(), delivered);
        }
        // It was put in above.
        let Some(delivered) = fetched.get(&name) else { continue };
        match place {
            Place::Descriptor(variable) => {
                let fd = sys::sealed_memory("claviger", delivered.value.expose()).map_err(Failure::fault)?;
                command.env(variable, format!("/proc/self/fd/{}", fd.as_raw_fd()));
                open.push(fd);
            }
            Place::Variable(variable) => {
                command.env(variable, value_for_environment(&delivered.value, &name)?);
            }
        }
    }
    // The values are in the child's hands: ours are wiped.
    drop(fetched);
    let child = command.spawn().map_err(|error| Failure::NotStarted(format!("{}: {error}", arguments.command[0].display())))?;
    drop((command, open));
    let status = watch(client, child, signals, held).await?;
    Ok(exit_of(status))
}

/// Waits for the child; meanwhile signals are passed on and leases renewed.
async fn watch(client: &mut Client, mut child: Child, signals: &mut Signals, held: &mut Held) -> Result<ExitStatus, Failure> {
    loop {
        if let Some(status) = child.try_wait().map_err(Failure::fault)? {
            return Ok(status);
        }
        tokio::select! {
            received = signals.next() => {
                if let Some(number) = received {
                    sys::forward_signal(child.id(), number).map_err(Failure::fault)?;
                }
            }
            () = held.until_due() => held.renew(client).await,
        }
    }
}

fn exit_of(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number & 0xff).ok()).unwrap_or(code::FAULT)
}

fn wanted(arguments: &Arguments) -> Result<Vec<(String, Place)>, Failure> {
    let is_variable = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    let mut out: Vec<(String, Place)> = Vec::new();
    for text in &arguments.secrets {
        let (name, known_as) = text.split_once(':').unwrap_or((text, text));
        let known_as: String = known_as.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        out.push((name.to_owned(), Place::Descriptor(format!("{known_as}_FD"))));
    }
    for text in &arguments.variables {
        let (variable, name) = text.split_once('=').ok_or_else(|| Failure::Usage(format!("--env {text:?} must be VAR=NAME")))?;
        out.push((name.to_owned(), Place::Variable(variable.to_owned())));
    }
    let mut seen = Vec::new();
    for (_, Place::Descriptor(variable) | Place::Variable(variable)) in &out {
        if !is_variable(variable) || seen.contains(&variable) {
            return Err(Failure::Usage(format!("{variable:?} cannot name one variable")));
        }
        seen.push(variable);
    }
    if out.is_empty() {
        return Err(Failure::Usage("say which secrets: --secret NAME or --env VAR=NAME".into()));
    }
    Ok(out)
}

/// The one way in which a value is copied unwiped: the environment of a child cannot be wiped, and that is what was asked for.
fn value_for_environment(value: &SecretBytes, name: &str) -> Result<OsString, Failure> {
    if value.expose().contains(&0) {
        return Err(Failure::Usage(format!("{name} holds a zero byte, which no environment variable can; use --secret")));
    }
    Ok(OsString::from_vec(value.expose().to_vec()))
}

/// The leases that are out.
#[derive(Default)]
struct Held {
    leases: Vec<(LeaseId, Option<u64>)>,
}

impl Held {
    fn take(&mut self, delivered: &Delivered) {
        let lease = &delivered.lease;
        self.leases.push((lease.id, due(lease.renewable, lease.remaining)));
    }

    /// Until the first lease should be renewed; for ever when none may be.
    async fn until_due(&self) {
        match self.leases.iter().filter_map(|(_, due)| *due).min() {
            Some(due) => tokio::time::sleep(Duration::from_micros(due.saturating_sub(SystemClock.boot().0))).await,
            None => std::future::pending().await,
        }
    }

    async fn renew(&mut self, client: &mut Client) {
        let now = SystemClock.boot().0;
        for (id, next) in self.leases.iter_mut().filter(|(_, next)| next.is_some_and(|at| at <= now)) {
            match client.renew(*id).await {
                Ok(answer) => *next = due(answer.lease.renewable, answer.lease.remaining),
                Err(crate::client::ClientError::Unreachable(..)) => *next = Some(now + 5_000_000),
                Err(error) => {
                    eprintln!("clav: lease {id} cannot be renewed: {error}");
                    *next = None;
                }
            }
        }
    }

    async fn give_back(&mut self, client: &mut Client, quiet: bool) {
        for (id, _) in self.leases.drain(..) {
            match client.give_back(id).await {
                Ok(_) => {}
                Err(error) if quiet => drop(error),
                // It ends with this process all the same.
                Err(error) => eprintln!("clav: lease {id} could not be given back: {error}"),
            }
        }
    }
}

/// When to renew, on the boot clock: after two thirds of what is left.
fn due(renewable: bool, remaining: u64) -> Option<u64> {
    renewable.then(|| SystemClock.boot().0 + (remaining * 1_000_000 / 3 * 2).max(500_000))
}

/// Signals for the child, and the news that it has ended.
struct Signals {
    child: Signal,
    passed: Vec<(SignalKind, Signal)>,
    foreground: bool,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ];
        let mut passed = Vec::new();
        for kind in kinds {
            passed.push((kind, signal(kind)?));
        }
        Ok(Self { child: signal(SignalKind::child())?, passed, foreground: sys::in_foreground() })
    }

    /// A signal to pass on, or none when the child should be looked at. The terminal sends its keys' signals to the child by itself.
    async fn next(&mut self) -> Option<i32> {
        let foreground = self.foreground;
        let (child, passed) = (&mut self.child, &mut self.passed);
        std::future::poll_fn(move |context| {
            if child.poll_recv(context).is_ready() {
                return std::task::Poll::Ready(None);
            }
            for (kind, signal) in passed.iter_mut() {
                if signal.poll_recv(context).is_ready() {
                    let from_keys = foreground && [SignalKind::interrupt(), SignalKind::quit()].contains(kind);
                    return std::task::Poll::Ready((!from_keys).then(|| kind.as_raw_value()));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
