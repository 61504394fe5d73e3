//! `clav exec`: runs a command that has its secrets while it runs, and only then.
//!
//! The leases are bound to this process: they end when it ends, however that happens. It stays above the command, passes signals on, renews
//! what may be renewed, tells the command of new values in the way that was asked for, and gives everything back when it has ended.

mod place;

use super::{
    Desk, Done, Failure,
    ask::Declaration,
    failure::code,
    held::{CHANGING_OVER, Held, Replacing},
    signals::{Received, Signals},
};
use crate::{
    client::Delivered,
    sys::{self, SharedMemory},
};
use clap::Args;
use place::{Place, wanted};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

/// How long a command that is to be started again may take to end when it is asked to, before it is killed.
const STOPPING: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Arguments {
    /// A secret on a descriptor: AS_FD names it, AS being the secret's name unless it is said (repeatable)
    #[arg(long = "secret", value_name = "NAME[:AS]")]
    secrets: Vec<String>,
    /// A secret in an environment variable: other processes of the user and core files may see it (repeatable)
    #[arg(long = "env", value_name = "VAR=NAME")]
    variables: Vec<String>,
    /// What to do when a secret has a new value, or a lease comes to its end and cannot be renewed: leave (nothing), restart (ask
    /// the command to end, then start it with the new values), or signal, signal:HUP and so on (its descriptors give the new values
    /// first; those from before live 30 s longer)
    #[arg(long, value_name = "HOW", default_value = "leave", value_parser = on_rotate)]
    on_rotate: OnRotate,
    #[command(flatten)]
    declaration: Declaration,
    /// Say nothing on standard error
    #[arg(long, short)]
    quiet: bool,
    /// The command
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// What a new value leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnRotate {
    Leave,
    Restart,
    Signal(i32),
}

fn on_rotate(text: &str) -> Result<OnRotate, String> {
    match text {
        "leave" => Ok(OnRotate::Leave),
        "restart" => Ok(OnRotate::Restart),
        "signal" => Ok(OnRotate::Signal(sys::signal_number("HUP").unwrap_or(1))),
        _ => match text.strip_prefix("signal:").map(sys::signal_number) {
            Some(Some(number)) => Ok(OnRotate::Signal(number)),
            Some(None) => Err("no such signal; there are HUP, USR1, USR2, TERM and so on".to_owned()),
            None => Err("must be leave, restart, signal or signal:NAME".to_owned()),
        },
    }
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let wanted = wanted(&arguments.secrets, &arguments.variables)?;
    let by_variable = wanted.iter().find_map(|(_, place)| if let Place::Variable(name) = place { Some(name) } else { None });
    if let (OnRotate::Signal(_), Some(name)) = (arguments.on_rotate, by_variable) {
        return Err(Failure::Usage(format!("{name}: a variable of a running command cannot change; use --secret, or --on-rotate restart")));
    }
    // Signals are caught from here on, so that none ends us while leases are out.
    let mut signals = Signals::new()?;
    let replacing = if arguments.on_rotate == OnRotate::Leave { Replacing::Never } else { Replacing::Told };
    let holder = Some("client".to_owned());
    let mut held = Held::new(desk, arguments.declaration.clone(), holder, replacing, arguments.quiet).await?;
    let done = go(desk, &arguments, &wanted, &mut signals, &mut held).await;
    held.end().await;
    done
}

type Values = BTreeMap<String, Delivered>;

async fn go(desk: &Desk, arguments: &Arguments, wanted: &[(String, Place)], signals: &mut Signals, held: &mut Held) -> Done {
    let mut values = Values::new();
    for (name, _) in wanted {
        if !values.contains_key(name) {
            values.insert(name.clone(), held.fetch(name).await?);
        }
    }
    loop {
        let mut running = Running::start(arguments, wanted, &values)?;
        // The values are in the command's hands: ours are wiped, unless another start may need those that stay the same.
        if arguments.on_rotate != OnRotate::Restart {
            values.clear();
        }
        // Nothing runs any more that has the values from before.
        held.changed_over(Duration::ZERO);
        loop {
            match running.tend(desk, arguments, signals, held, &mut values).await? {
                Next::Ended(status) => return Ok(exit_of(status)),
                Next::Again => match running.stop(signals).await? {
                    Stopped::Again => break,
                    Stopped::ForGood(status) => return Ok(exit_of(status)),
                    Stopped::Not(error) => eprintln!("clav: the command cannot be ended and goes on with the values from before: {error}"),
                },
            }
        }
    }
}

/// What became of a command that was to be started again.
enum Stopped {
    Again,
    /// It was on its way to its own end, or somebody wants it to end.
    ForGood(ExitStatus),
    /// It may be another user's by now.
    Not(io::Error),
}

enum Next {
    Ended(ExitStatus),
    /// `values` are new.
    Again,
}

/// The command, while it runs.
struct Running {
    child: Child,
    /// What its descriptors show, by secret; where a signal tells it of new values.
    shown: BTreeMap<String, Vec<SharedMemory>>,
}

impl Running {
    fn start(arguments: &Arguments, wanted: &[(String, Place)], values: &Values) -> Result<Self, Failure> {
        let mut command = Command::new(&arguments.command[0]);
        command.args(&arguments.command[1..]);
        let (mut sealed, mut shown) = (Vec::new(), BTreeMap::<String, Vec<SharedMemory>>::new());
        for (name, place) in wanted {
            // All were fetched.
            let Some(delivered) = values.get(name) else { continue };
            let value = &delivered.value;
            match place {
                Place::Variable(variable) => {
                    command.env(variable, place::for_environment(value, name)?);
                }
                Place::Descriptor(variable) => {
                    let number = if matches!(arguments.on_rotate, OnRotate::Signal(_)) {
                        let memory = SharedMemory::new("claviger", value.expose()).map_err(Failure::fault)?;
                        let number = memory.shown().as_raw_fd();
                        shown.entry(name.clone()).or_default().push(memory);
                        number
                    } else {
                        let fd = sys::sealed_memory("claviger", value.expose()).map_err(Failure::fault)?;
                        let number = fd.as_raw_fd();
                        sealed.push(fd);
                        number
                    };
                    command.env(variable, format!("/proc/self/fd/{number}"));
                }
            }
        }
        let child = command.spawn().map_err(|error| Failure::NotStarted(format!("{}: {error}", arguments.command[0].display())))?;
        Ok(Self { child, shown })
    }

    /// Waits for the command; meanwhile signals are passed on and leases looked after. New values lead to what was asked for.
    async fn tend(
        &mut self,
        desk: &Desk,
        arguments: &Arguments,
        signals: &mut Signals,
        held: &mut Held,
        values: &mut Values,
    ) -> Result<Next, Failure> {
        loop {
            if let Some(status) = self.child.try_wait().map_err(Failure::fault)? {
                return Ok(Next::Ended(status));
            }
            tokio::select! {
                received = signals.next() => {
                    if let Some(received) = received {
                        self.pass(received);
                    }
                }
                names = held.next(desk) => {
                    let mut fresh = Values::new();
                    for name in names {
                        match held.fetch(&name).await {
                            Ok(delivered) => drop(fresh.insert(name, delivered)),
                            Err(failure) => {
                                eprintln!("clav: {name} could not be had anew:");
                                let _the_command_goes_on = failure.tell(&desk.style);
                            }
                        }
                    }
                    match arguments.on_rotate {
                        _ if fresh.is_empty() => {}
                        OnRotate::Signal(number) => {
                            self.show(&fresh);
                            self.pass(Received { number, shared: false });
                            held.changed_over(CHANGING_OVER);
                        }
                        OnRotate::Restart => {
                            values.append(&mut fresh);
                            return Ok(Next::Again);
                        }
                        OnRotate::Leave => {}
                    }
                }
            }
        }
    }

    /// Passes a signal on, unless the command has it already. One that is another user's by now cannot be told and goes on.
    fn pass(&self, received: Received) {
        if !received.shared
            && let Err(error) = sys::forward_signal(self.child.id(), received.number)
        {
            eprintln!("clav: signal {} could not be passed on: {error}", received.number);
        }
    }

    /// The descriptors show these values from now on.
    fn show(&mut self, fresh: &Values) {
        for (name, delivered) in fresh {
            for memory in self.shown.get_mut(name).into_iter().flatten() {
                if let Err(error) = memory.replace(delivered.value.expose()) {
                    eprintln!("clav: the new value of {name} cannot be shown: {error}");
                }
            }
        }
    }

    /// Ends the command so that it can be started again. A command that was on its way to its own end has the last word.
    async fn stop(&mut self, signals: &mut Signals) -> Result<Stopped, Failure> {
        if let Some(status) = self.child.try_wait().map_err(Failure::fault)? {
            return Ok(Stopped::ForGood(status));
        }
        let terminate = sys::signal_number("TERM").unwrap_or(15);
        if let Err(error) = sys::forward_signal(self.child.id(), terminate) {
            return Ok(Stopped::Not(error));
        }
        let until = tokio::time::Instant::now() + STOPPING;
        let mut last = false;
        loop {
            let stopped = |status| if last { Stopped::ForGood(status) } else { Stopped::Again };
            if let Some(status) = self.child.try_wait().map_err(Failure::fault)? {
                return Ok(stopped(status));
            }
            tokio::select! {
                received = signals.next() => {
                    if let Some(received) = received {
                        self.pass(received);
                        // Who asks us to end meanwhile does not want it started again.
                        last |= ["TERM", "INT", "HUP", "QUIT"].iter().any(|name| sys::signal_number(name) == Some(received.number));
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    eprintln!("clav: the command did not end within {} s and is killed", STOPPING.as_secs());
                    if let Err(error) = self.child.kill() {
                        return Ok(Stopped::Not(error));
                    }
                    return Ok(stopped(self.child.wait().map_err(Failure::fault)?));
                }
            }
        }
    }
}

fn exit_of(status: ExitStatus) -> u8 {
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    number.and_then(|number| u8::try_from(number & 0xff).ok()).unwrap_or(code::FAULT)
}
