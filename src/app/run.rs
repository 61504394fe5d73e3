//! The daemon from its first line to its last: sockets, signals, and an orderly end.

use super::{
    attestor::{self, AttestError},
    build::{self, BuildError},
    confinement,
    exit::Exit,
    restored::Keeper,
    sight::Probe,
    state,
};
use crate::{
    audit::Kind,
    broker::Broker,
    config::{Config, ShutdownRule},
    model::EndReason,
    server::{Door, LimitSettings, Server},
    sys::{self, BindError, Role, SystemClock},
};
use std::{
    io,
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::Instant,
};

/// Why the daemon ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Something an operator must mend.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A socket.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The kernel.
    #[error("{0}: {1}")]
    Io(&'static str, #[source] io::Error),
    /// The first record could not be written.
    #[error("the audit log takes no record: {0}")]
    Record(String),
}

impl RunError {
    /// The code to end with.
    pub fn exit(&self) -> Exit {
        match self {
            // It may be starting, or be mended: to try again is right.
            RunError::Build(BuildError::Attest(AttestError::Unreachable(_))) => Exit::Failed,
            // A file that could not be read for want of a descriptor is not a file that is wrong.
            error if sys::is_passing(error) => Exit::Failed,
            RunError::Build(_) | RunError::Bind(BindError::Unsafe(..) | BindError::Occupied(_)) => Exit::Config,
            RunError::Bind(_) | RunError::Io(..) | RunError::Record(_) => Exit::Failed,
        }
    }
}

/// Open connections get this long to finish when the daemon stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Room for so many descriptors from the beginning: two for each of thousands of holders.
const DESCRIPTORS: u64 = 16_384;
/// Ending everything, where that is said: with what is before it and behind it less than the unit's `TimeoutStopSec`.
const ENDING_ALL: Duration = Duration::from_secs(8);
/// And what is being ended this long to hear from its source.
const ENDINGS: Duration = Duration::from_secs(3);

/// Runs the daemon, or with `check` only reads the files. `attestor` is where the attestor listens; without it there is one process.
pub fn run(path: &Path, check: bool, attestor: Option<PathBuf>) -> Result<(), RunError> {
    // Where we stand now is what a relative path was typed from; hardening leaves for the root.
    let path = &std::path::absolute(path).map_err(|error| RunError::Io("the configuration's path", error))?;
    // Before any secret is read and any thread is started.
    sys::harden().map_err(|error| RunError::Io("hardening this process", error))?;
    let config = state::config(path)?;
    if check {
        return build::check(&config).map_err(RunError::from);
    }
    // Counted before: afterwards this process does not read its control group's limits.
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8));
    // Every thread that is started from here on inherits it.
    let role = if attestor.is_some() { Role::Core } else { Role::Single };
    sys::make_room_for_descriptors(DESCRIPTORS);
    // Started before: afterwards this process starts no program.
    let probe = Probe::for_role(role);
    let lacking = confinement::confine(&config, path, role)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("claviger")
        .enable_all()
        .build()
        .map_err(|error| RunError::Io("starting threads", error))?;
    let done = runtime.block_on(serve(&config, attestor, probe, lacking));
    // The books are closed. What still waits for something ends with the process, and whoever waits for the next one does so no longer.
    runtime.shutdown_background();
    done
}

async fn serve(config: &Config, attestor: Option<PathBuf>, probe: Option<io::Result<Probe>>, lacking: Vec<String>) -> Result<(), RunError> {
    let started = Instant::now();
    // From the first moment: told to stop while it starts, it stops in an orderly way when it has.
    let mut signals = Signals::listen()?;
    let attestor = tokio::select! {
        attestor = attestor::connect(config, attestor, probe) => attestor.map_err(BuildError::from)?,
        // Nothing was begun.
        () = signals.stop() => return Ok(()),
    };
    let built = build::build(config, attestor, lacking)?;
    let broker = built.broker;
    broker.record_daemon(Kind::Start).await.map_err(|refusal| RunError::Record(refusal.detail.unwrap_or_default()))?;
    let revived = tokio::select! {
        revived = broker.start(built.recovered, &built.books) => revived,
        // It may wait for its attestor. What was begun is found at the next start, as after a crash.
        () = signals.stop() => return Ok(()),
    };
    drop(built.books);
    let (stop, stopped) = watch::channel(false);
    let limits = &config.limits;
    let settings = LimitSettings {
        connections: limits.connections,
        connections_total: limits.connections_total,
        connections_per_second: limits.connections_per_second,
        requests_per_second: limits.requests_per_second,
        burst_seconds: limits.burst_seconds,
        request: Duration::from_secs(limits.request_seconds.into()),
        idle: Duration::from_secs(limits.idle_seconds.into()),
        answer: Duration::from_secs(limits.answer_seconds.into()),
    };
    let server = Arc::new(Server::new(broker.clone(), settings, Arc::new(SystemClock), config.paths.audit.clone(), stopped));
    let doors = listeners(config)?;
    if let Some(listener) = doors.launch {
        server.serve_launches(listener).map_err(|error| RunError::Io("starting a thread", error))?;
    }
    if let Some(listener) = doors.credentials {
        let server = server.clone();
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|error| RunError::Io("opening a door", error))?;
        tokio::spawn(async move { server.serve_credentials(listener).await });
    }
    for (listener, door) in doors.front {
        let server = server.clone();
        // A daemon with one door would look as if it served.
        let listener = tokio::net::UnixListener::from_std(listener).map_err(|error| RunError::Io("opening a door", error))?;
        tokio::spawn(async move { server.serve(listener, door).await });
    }
    let tier = broker.attestor().kernel().tier();
    tracing::info!(
        milliseconds = started.elapsed().as_millis() as u64,
        bundle = %broker.governance().bundle.hash(),
        bound = revived.bound,
        lost = revived.lost,
        settled = revived.settled,
        kernel = tier,
        "ready"
    );
    sys::notify_ready(tier);
    sys::release_start_pages();
    tokio::spawn(keep_alive());
    tokio::spawn(Keeper::new(broker.clone(), &config.paths.state, built.seen.clone()).keep());
    tokio::spawn(stay_small(server.clone(), broker.clone()));
    if let Some(path) = config.metrics.textfile.clone() {
        tokio::spawn(write_metrics(broker.clone(), path));
    }
    signals.until_told(&broker).await;
    sys::notify_stopping();
    // Nobody is let in any more; who is in may finish.
    let _ = stop.send(true);
    let deadline = Instant::now() + DRAIN;
    while server.open() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    if config.leases.on_shutdown == ShutdownRule::End {
        broker.end_everything(EndReason::Shutdown, ENDING_ALL).await;
    }
    broker.finish_endings(ENDINGS).await;
    if let Err(refusal) = broker.record_daemon(Kind::Stop).await {
        tracing::error!(detail = ?refusal.detail, "the stop is not on the record");
    }
    let (closing, mut keeper) = (broker.clone(), Keeper::new(broker.clone(), &config.paths.state, built.seen));
    // Closing waits for the disk.
    let closed = tokio::task::spawn_blocking(move || {
        closing.close();
        keeper.now();
    });
    let _ = closed.await;
    tracing::info!("stopped");
    Ok(())
}

struct Listeners {
    front: Vec<(UnixListener, Door)>,
    launch: Option<OwnedFd>,
    credentials: Option<UnixListener>,
}

/// Those that systemd passed under their names, or our own.
fn listeners(config: &Config) -> Result<Listeners, RunError> {
    let io = |error| RunError::Io("taking over a listening socket", error);
    let mut found: Vec<(UnixListener, Door)> = Vec::new();
    let (mut launches, mut credentials, mut passed) = (None, None, false);
    for (name, listener) in sys::passed_listeners().map_err(io)? {
        passed = true;
        let door = match name.as_str() {
            "launch" => {
                launches = Some(sys::adopt_packets(listener).map_err(io)?);
                continue;
            }
            "credentials" => {
                credentials = Some(sys::adopt(listener).map_err(io)?);
                continue;
            }
            "workload" => Door::Workload,
            "operator" => Door::Operator,
            other => {
                tracing::warn!(
                    name = other,
                    "a passed socket has a name that is not known; FileDescriptorName must be workload, operator, launch or credentials"
                );
                continue;
            }
        };
        found.push((sys::adopt(listener).map_err(io)?, door));
    }
    if !found.iter().any(|(_, door)| *door == Door::Workload) {
        found.push((sys::listen_at(&config.sockets.workload, 0o666, None)?, Door::Workload));
    }
    if !found.iter().any(|(_, door)| *door == Door::Operator) {
        let group = sys::gid_of(&config.sockets.operator_group);
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        found.push((sys::listen_at(&config.sockets.operator, mode, group)?, Door::Operator));
    }
    // Where the service manager holds the doors, it decides whether there is this one.
    if launches.is_none() && !passed {
        launches = Some(sys::listen_packets_at(&config.sockets.launch(), 0o666, None)?);
    }
    if credentials.is_none() && !passed {
        // Root alone: it is systemd that connects.
        credentials = Some(sys::listen_at(&config.sockets.credentials(), 0o600, None)?);
    }
    Ok(Listeners { front: found, launch: launches, credentials })
}

/// What the daemon is told by signals.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Result<Self, RunError> {
        let listen = |kind| signal(kind).map_err(|error| RunError::Io("waiting for signals", error));
        Ok(Self {
            hangup: listen(SignalKind::hangup())?,
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Returns on SIGTERM or SIGINT.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Reloads on SIGHUP; returns on SIGTERM or SIGINT.
    async fn until_told(&mut self, broker: &Arc<Broker>) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => {
                    sys::notify_reloading();
                    match broker.reload().await {
                        Ok(governance) => tracing::info!(bundle = %governance.bundle.hash(), "files read again"),
                        Err(problems) => problems.0.iter().for_each(|problem| tracing::error!("{problem}; what was in force stays")),
                    }
                    sys::notify_ready("serving");
                }
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

/// Tells the service manager's watchdog that tasks are still being run.
async fn keep_alive() {
    let Some(interval) = sys::watchdog_interval() else { return };
    loop {
        sys::notify_watchdog();
        tokio::time::sleep(interval / 2).await;
    }
}

/// After a peak of connections or leases what they took is given back.
async fn stay_small(server: Arc<Server>, broker: Arc<Broker>) {
    // Often, for a peak may be short; what follows a peak needs memory too.
    const LOOK_EVERY: Duration = Duration::from_secs(1);
    const LOW_FOR: u32 = 10;
    const MANY: usize = 512;
    let (mut peak, mut low) = (0, 0);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = server.open() + broker.lease_count();
        peak = peak.max(now);
        low = if peak > 2 * now + MANY { low + 1 } else { 0 };
        if low == LOW_FOR {
            (peak, low) = (now, 0);
            // Whoever can does it beside the threads that serve.
            let _ = tokio::task::spawn_blocking(sys::release_free_memory).await;
        }
    }
}

async fn write_metrics(broker: Arc<Broker>, path: std::path::PathBuf) {
    loop {
        let (text, to) = (broker.metrics_text(), path.clone());
        let written = tokio::task::spawn_blocking(move || sys::write_atomic(&to, text.as_bytes(), 0o644)).await;
        if let Ok(Err(error)) = written {
            tracing::warn!(%error, "metrics could not be written");
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
    }
}
