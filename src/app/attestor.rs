//! Whoever attests, put together: within the daemon, or as a process of its own that the daemon asks.

use super::{
    build::BuildError,
    confinement,
    run::RunError,
    sight::{self, Probe},
    state,
};
use crate::{
    attest::{Attestor, ClientProgram, ExeHashes, Gatherer, Remote, Service, Source},
    config::Config,
    digest::SystemRandom,
    sys::{self, Host, Kernel, Role, SystemClock},
};
use std::{
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Why nobody can be attested.
#[derive(Debug, thiserror::Error)]
pub enum AttestError {
    /// The kernel.
    #[error("this kernel or its confinement does not let processes be attested: {0}")]
    Kernel(#[source] io::Error),
    /// A configured user.
    #[error("attest.{0} is {1:?}, which is no user of this host")]
    User(&'static str, String),
    /// The attestor cannot be asked.
    #[error("the attestor {0}; look at claviger-attest.service")]
    Unreachable(String),
    /// It cannot see what it must: what failed, and why that is.
    #[error("{0}; the cause: {1}")]
    Blind(String, &'static str, #[source] Option<io::Error>),
    /// systemd passed none.
    #[error("no socket was passed to the attestor, and none was named by --socket")]
    NoSocket,
}

/// At a start the attestor may be starting as well.
const REACHED_WITHIN: Duration = Duration::from_secs(5);
/// The name by which systemd passes the attestor's socket.
const SOCKET_NAME: &str = "attest";

/// A name, or the number of a user that has none.
fn user(key: &'static str, name: &str) -> Result<u32, AttestError> {
    name.parse().ok().or_else(|| sys::uid_of(name)).ok_or_else(|| AttestError::User(key, name.to_owned()))
}

fn kernel(config: &Config) -> Result<Kernel, AttestError> {
    Ok(Kernel::probe().map_err(AttestError::Kernel)?.without(&config.attest.assume_missing))
}

fn gatherer(config: &Config) -> Result<Gatherer, AttestError> {
    let host = Host::probe().map_err(AttestError::Kernel)?;
    let hashes = ExeHashes::new(config.attest.hash_max_bytes, config.attest.hash_bytes_per_second, Arc::new(SystemClock));
    Ok(Gatherer::new(kernel(config)?, host, hashes, Arc::new(SystemClock)))
}

/// What attests for the daemon: the attestor at `socket`, or this process itself.
pub async fn connect(config: &Config, socket: Option<PathBuf>, probe: Option<io::Result<Probe>>) -> Result<Arc<Attestor>, AttestError> {
    let mut kernel = kernel(config)?;
    let source = match socket {
        None => Source::Here(Box::new(gatherer(config)?)),
        Some(socket) => {
            let remote = Remote::start(socket, user("attestor_user", &config.attest.attestor_user)?);
            if !remote.reached(REACHED_WITHIN).await {
                return Err(AttestError::Unreachable(remote.trouble().unwrap_or_default()));
            }
            // The daemon's own filter lets it open none.
            kernel = kernel.handles_found_elsewhere(remote.sight().is_some_and(|sight| sight.finds_handles));
            Source::Attestor(remote)
        }
    };
    let mut clients = Vec::new();
    for path in &config.attest.clients {
        // One that is not there speaks for nobody.
        let path = match path.canonicalize() {
            Err(error) if sys::is_passing_io(&error) => return Err(AttestError::Kernel(error)),
            Err(_) => continue,
            Ok(path) => path,
        };
        let file = source.file(path.as_os_str().as_bytes()).await.map_err(|error| match sys::is_passing_io(&error) {
            true => AttestError::Kernel(error),
            false => AttestError::Unreachable(error.to_string()),
        })?;
        clients.extend(file.and_then(|file| ClientProgram::of(&path, &file, sys::euid())));
    }
    let attestor = Attestor::new(source, kernel, clients, Arc::new(SystemRandom::default()));
    sight::prove(&attestor, probe).await?;
    Ok(Arc::new(attestor))
}

/// Does nothing until its standard input ends: the child that a daemon attests when it starts.
pub fn probe() {
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

/// The attestor as a process: answers the daemon until it is told to stop.
pub fn run(path: &Path, socket: Option<&Path>) -> Result<(), RunError> {
    let path = std::path::absolute(path).map_err(|error| RunError::Io("the configuration's path", error))?;
    sys::harden().map_err(|error| RunError::Io("hardening this process", error))?;
    let config = state::config(&path)?;
    let daemon = user("daemon_user", &config.attest.daemon_user).map_err(BuildError::from)?;
    let gatherer = gatherer(&config).map_err(BuildError::from)?;
    let sight = gatherer.sight();
    let listener = listener(socket)?;
    // Threads are started for each conversation, and inherit it.
    for lacking in confinement::confine(&config, &path, Role::Attestor)? {
        tracing::warn!("{lacking}");
    }
    tracing::info!(daemon, looks_at_all = sight.looks_at_all, of_pid_1 = sight.of_pid_1, "ready");
    let service = Service::new(gatherer, daemon);
    keep_alive(&service).map_err(|error| RunError::Io("starting a thread", error))?;
    sys::notify_ready("answering");
    // Nothing is kept that a signal would lose: its default ends this process.
    service.serve(&listener).map_err(|error| RunError::Io("accepting a connection", error))
}

/// Tells the service manager's watchdog that processes are still looked at.
fn keep_alive(service: &Arc<Service>) -> io::Result<()> {
    let Some(interval) = sys::watchdog_interval() else { return Ok(()) };
    let service = service.clone();
    let tell = move || loop {
        if service.sees_itself() {
            sys::notify_watchdog();
        }
        sys::pause(interval / 2);
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(tell).map(drop)
}

fn listener(socket: Option<&Path>) -> Result<OwnedFd, RunError> {
    if let Some(socket) = socket {
        // The daemon's user must get through; who it is is asked behind the door.
        return Ok(sys::listen_packets_at(socket, 0o666, None)?);
    }
    let io = |error| RunError::Io("taking over the attestor's socket", error);
    let mut passed = sys::passed_listeners().map_err(io)?.into_iter();
    let (_, found) = passed.find(|(name, _)| name == SOCKET_NAME).ok_or(BuildError::from(AttestError::NoSocket))?;
    sys::adopt_packets(found).map_err(io)
}
