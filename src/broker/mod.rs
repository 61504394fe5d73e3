//! The pipeline: the only module that names every stage. Start reading in [`issue`].
//!
//! **Invariants.** A secret leaves only with a [`Recorded`](crate::audit::Recorded) and after a last look at its holder. Every lease is
//! ended by [`end`] and nowhere else. Whatever fails after a reservation ends that lease. Pipelines run in tasks of their own, so a peer
//! that hangs up interrupts nothing half-way.

mod act;
mod admit;
mod again;
mod cache;
mod caller;
mod credential;
mod delivery;
mod end;
mod explain;
mod forget;
mod govern;
mod holder;
mod issue;
mod keys;
mod launch;
mod leftovers;
mod metrics;
mod operator;
mod overdue;
mod owed;
mod reaper;
mod reconcile;
mod record;
mod renew;
mod revive;
mod rota;
mod rotate;
mod selection;
mod share;
mod stop;
mod turns;
mod unbound;
mod view;
mod watch;

pub use act::Act;
pub use caller::Caller;
pub use delivery::{Delivery, Pinned};
pub use govern::{Governance, LoadProblems, Loader};
pub use keys::{AUDIT_KEY, KeyPlaces, NEXT_AUDIT_KEY, PublishError, publish_audit_key};
pub use metrics::Metrics;
pub use operator::Operator;
pub use revive::Revived;
pub use selection::Selection;
pub use stop::{Fault, Stop};
pub use watch::LeaseWatch;

use crate::{
    attest::{Attestor, Peer},
    audit::Audit,
    digest::Random,
    engine::Engines,
    lease::Leases,
    model::{Code, EngineName, Refusal, RequestId, WallTime},
    sys::Clock,
};
use arc_swap::ArcSwap;
use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

/// What an installation may set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tries before an ending is given up: told, and tried on more seldom.
    pub end_tries: u32,
    /// Microseconds between two turns of tries at endings that were given up.
    pub overdue_micros: u64,
    /// Microseconds between two looks at every holder's program.
    pub sweep_micros: u64,
    /// Microseconds between two looks at a source where credentials that are in no journal wait for a person.
    pub strays_micros: u64,
    /// Live leases of one identity, at most.
    pub per_identity: usize,
    /// The file that keeps a freeze over a restart.
    pub freeze_file: std::path::PathBuf,
    /// The id of this boot.
    pub boot: Arc<str>,
    /// The program that is believed when it asks for another to be started apart.
    pub launcher: std::path::PathBuf,
    /// What this process could not give up on this host, in sentences.
    pub lacking: Vec<String>,
}

/// Everything a broker is made of.
pub struct Parts {
    /// Connections to workloads.
    pub attestor: Arc<Attestor>,
    /// Sources of secrets.
    pub engines: Engines,
    /// The name under which the local store is configured.
    pub local: Arc<crate::engine::local::LocalStore>,
    /// The `jwt` engines, for their documents.
    pub tokens: Vec<(EngineName, Arc<crate::engine::jwt::JwtEngine>)>,
    /// What is owed back.
    pub leases: Leases,
    /// The record.
    pub audit: Audit,
    /// The policy in force at start.
    pub governance: Governance,
    /// Reads policy, secrets and identities from the disk.
    pub loader: Loader,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Settings.
    pub settings: Settings,
    /// Why nothing may be issued although the daemon runs.
    pub read_only: Option<String>,
    /// Where keys are.
    pub keys: KeyPlaces,
}

/// The pipeline with all it needs. One for each daemon.
pub struct Broker {
    attestor: Arc<Attestor>,
    engines: Engines,
    local: Arc<crate::engine::local::LocalStore>,
    tokens: Vec<(EngineName, Arc<crate::engine::jwt::JwtEngine>)>,
    leases: Leases,
    audit: Audit,
    governance: ArcSwap<Governance>,
    loader: Loader,
    load_problems: Mutex<Vec<String>>,
    reloading: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    settings: Settings,
    frozen: AtomicBool,
    closed: AtomicBool,
    /// Held to read by whatever is ending.
    ending: tokio::sync::RwLock<()>,
    read_only: Option<String>,
    reaper: reaper::Holders,
    unbound: unbound::Unbound,
    owed: owed::Owed,
    overdue: overdue::Overdue,
    standings: reconcile::Standings,
    watchers: watch::Watchers,
    metrics: Metrics,
    started: WallTime,
    keys: KeyPlaces,
    rotating: tokio::sync::Mutex<()>,
    rotations: rotate::Rotations,
    stale_reads: cache::StaleReads,
    shares: share::Shares,
    renewals: renew::Renewals,
}

impl Broker {
    /// Puts the parts together. Nothing runs yet: see [`Broker::start`].
    pub fn new(parts: Parts) -> Arc<Self> {
        // Whoever cannot be sure that nobody froze it stays frozen.
        let frozen = parts.settings.freeze_file.try_exists().unwrap_or(true);
        parts.attestor.read_ancestors_in_full(parts.governance.roll.has_agents());
        Arc::new(Self {
            attestor: parts.attestor,
            engines: parts.engines,
            local: parts.local,
            tokens: parts.tokens,
            leases: parts.leases,
            audit: parts.audit,
            governance: ArcSwap::from_pointee(parts.governance),
            loader: parts.loader,
            load_problems: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            started: parts.clock.wall(),
            clock: parts.clock,
            random: parts.random,
            settings: parts.settings,
            frozen: AtomicBool::new(frozen),
            closed: AtomicBool::new(false),
            ending: tokio::sync::RwLock::default(),
            read_only: parts.read_only,
            reaper: reaper::Holders::default(),
            unbound: unbound::Unbound::default(),
            owed: owed::Owed::default(),
            overdue: overdue::Overdue::default(),
            standings: reconcile::Standings::default(),
            watchers: watch::Watchers::default(),
            metrics: Metrics::default(),
            keys: parts.keys,
            rotating: tokio::sync::Mutex::default(),
            rotations: rotate::Rotations::default(),
            stale_reads: cache::StaleReads::default(),
            shares: share::Shares::default(),
            renewals: renew::Renewals::default(),
        })
    }

    /// A new request's id.
    pub fn request_id(&self) -> RequestId {
        RequestId::from_parts(self.clock.wall().unix_ms(), self.random.u128())
    }

    /// Pins and reads the process behind a fresh connection.
    pub async fn accept(&self, socket: &(impl AsFd + Sync)) -> io::Result<Caller> {
        let governance = self.governance();
        self.attestor.accept(socket, &governance.roll).await.map(Caller::new)
    }

    /// The attestor, for status.
    pub fn attestor(&self) -> &Attestor {
        &self.attestor
    }

    /// The audit log, for readers.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Figures.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Whether an operator has stopped issuing.
    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    fn engine(&self, name: &EngineName) -> Result<&Arc<dyn crate::engine::Engine>, Stop> {
        self.engines
            .find(name)
            .ok_or_else(|| Refusal::new(Code::ENGINE_UNAVAILABLE).detail(format!("engine {name} is not configured")).into())
    }

    /// The peer must have proved that it is the process that was pinned.
    fn must_be_fresh(&self, peer: &Peer) -> Result<(), Stop> {
        if peer.is_fresh() { Ok(()) } else { Err(Refusal::new(Code::NONCE_REQUIRED).into()) }
    }
}
