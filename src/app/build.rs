//! Puts the daemon together from its configuration. Every failure here is an operator's to mend.

use super::{
    attestor::AttestError,
    engines::engines,
    load::{self, Places},
    restored::{self, Restored, RestoredError, Seen},
    signing,
    state::{self, State, StateError},
};
use crate::{
    attest::{Attestor, Launches, LaunchesError},
    audit::{Anchor, Audit, Books, JournalAnchor, OpenError, Options, Retention, SyslogAnchor, Tip, Word},
    broker::{Broker, KeyPlaces, LoadProblems, Parts, PublishError, Settings},
    config::{AnchorKind, Config},
    digest::{KeyError, SystemRandom},
    engine::{
        EngineError,
        jwt::JwtError,
        local::{LocalStore, StoreError},
        ssh::SshError,
        x509::X509Error,
    },
    lease::{JournalError, Leases, Recovered},
    model::EngineName,
    sys::{self, Clock, DiskVolume, SystemClock, append::Reserve},
};
use std::{io, sync::Arc};

/// Why the daemon cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration file.
    #[error("{0}")]
    Config(String),
    /// The state folder or the key.
    #[error(transparent)]
    State(#[from] StateError),
    /// The local store.
    #[error("local store: {0}")]
    Store(#[from] StoreError),
    /// A `jwt` engine.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// An `x509` engine.
    #[error(transparent)]
    X509(#[from] X509Error),
    /// An `ssh` engine.
    #[error(transparent)]
    Ssh(#[from] SshError),
    /// Another engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Two engines of one name.
    #[error("engine {0} is configured twice")]
    Twice(EngineName),
    /// The table of launched programs.
    #[error(transparent)]
    Launches(#[from] LaunchesError),
    /// The lease journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The audit log.
    #[error("audit log: {0}")]
    Audit(#[from] OpenError),
    /// The audit log's key.
    #[error("the audit log's key {0}")]
    Key(#[from] KeyError),
    /// The public keys beside it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// Policy, secrets or identities.
    #[error(transparent)]
    Load(#[from] LoadProblems),
    /// Processes cannot be attested.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// A folder or file of the daemon's own.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// State and log could not be compared.
    #[error(transparent)]
    Restored(#[from] RestoredError),
    /// A private file.
    #[error(transparent)]
    File(#[from] sys::FileError),
    /// A configuration file.
    #[error(transparent)]
    Trust(#[from] sys::TrustError),
}

/// A broker that runs nothing yet, with what was found in the journal.
pub struct Built {
    /// The broker.
    pub broker: Arc<Broker>,
    /// To be handed to `Broker::start`.
    pub recovered: Recovered,
    /// The same.
    pub books: Books,
    /// What the state says of the log.
    pub(super) seen: Seen,
}

const QUEUE: usize = 8192;
const BALLAST: u64 = 1 << 20;

/// Builds everything but the sockets around what attests. `lacking` says what this process could not give up.
pub fn build(config: &Config, attestor: Arc<Attestor>, lacking: Vec<String>) -> Result<Built, BuildError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom::default());
    let state = state::open(&config.paths.state, &*random)?;
    let key = state::key(config)?;
    let previous = state::previous_key(config)?;
    let store = Arc::new(LocalStore::open(&config.paths.state.join("store"), key, previous, random.clone(), clock.clone())?);
    let boot = sys::boot_id().map_err(|error| BuildError::Io("boot id".into(), error))?;
    let (engines, tokens) = engines(config, &state, &store, (&clock, &boot), &random)?;
    let places = Places::of(config);
    let governance = load::load(&places, &load::by_running(&engines), 1, clock.wall())?;
    for warning in &governance.warnings {
        tracing::warn!("{warning}");
    }
    attestor.know_launches(Arc::new(Launches::open(&config.paths.state.join("launches"), &boot, &*random)?));
    let reserve = Reserve { bytes: config.audit.reserve_bytes, ..Reserve::default() };
    let journal = config.paths.state.join("leases");
    sys::private_folder(&journal)?;
    let seen = restored::seen(&config.paths.state)?;
    // Both are read to their ends, so they are read side by side.
    let ((leases, mut recovered), audit) = std::thread::scope(|both| {
        let open = || audit(config, &state, &store, &clock, (&boot, reserve, seen.as_ref().map(Seen::tip)));
        let started = std::thread::Builder::new().spawn_scoped(both, open);
        let audit = started.map_err(|error| BuildError::Io("starting a thread".into(), error))?;
        let leases = Leases::open(Box::new(DiskVolume::new(&journal, BALLAST)), &state.id, reserve, QUEUE);
        let audit = audit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, BuildError>((leases?, audit?))
    })?;
    let books = audit.take_books();
    let (restored, seen) = match restored::look((&config.paths.state, seen), &config.paths.audit, &leases, &audit, &books)? {
        Restored::No(seen) => (None, seen),
        Restored::Accepted(seen) => {
            tracing::warn!("an operator goes on with an older copy of the state: all leases in it end");
            recovered.given_up = std::mem::take(&mut recovered.live);
            (None, seen)
        }
        Restored::Yes(why) => (Some(why), Seen::default()),
    };
    if state.read_only.is_none() && restored.is_none() {
        super::openbao::remove_left(config);
    }
    let loading = engines.clone();
    let broker = Broker::new(Parts {
        attestor,
        engines,
        local: store,
        tokens,
        leases,
        audit,
        governance,
        loader: Box::new(move |generation, now| load::load(&places, &load::by_running(&loading), generation, now)),
        clock,
        random,
        settings: Settings {
            end_tries: config.leases.end_tries,
            overdue_micros: 300_000_000,
            sweep_micros: u64::from(config.leases.sweep.as_secs()) * 1_000_000,
            strays_micros: 300_000_000,
            per_identity: config.leases.per_identity,
            freeze_file: config.paths.state.join("frozen"),
            boot: boot.into(),
            launcher: config.attest.launcher.clone(),
            lacking,
        },
        read_only: state.read_only.or(restored),
        keys: key_places(config),
    });
    Ok(Built { broker, recovered, books, seen })
}

/// Where keys are, for changing them while the daemon runs.
fn key_places(config: &Config) -> KeyPlaces {
    let (at, read) = (state::key_place(config), config.clone());
    KeyPlaces {
        log: config.paths.audit.clone(),
        local_file: at.is_file.then_some(at.path),
        previous_file: config.local.previous_key_file.clone(),
        credential: config.local.key_credential.clone(),
        read_local: Box::new(move || state::key(&read).map_err(|error| error.to_string())),
    }
}

fn audit(
    config: &Config,
    state: &State,
    store: &LocalStore,
    clock: &Arc<dyn Clock>,
    (boot, reserve, seen): (&str, Reserve, Option<Tip>),
) -> Result<Audit, BuildError> {
    let folder = &config.paths.audit;
    let key = signing::audit_key(store, folder)?;
    let word = |text: &str| Word::parse(text).map_err(|error| BuildError::Config(error.to_string()));
    let anchors = config.audit.anchors.iter().map(|kind| -> Box<dyn Anchor> {
        match kind {
            AnchorKind::Journald => Box::new(JournalAnchor { socket: sys::JOURNAL_SOCKET.into() }),
            AnchorKind::Syslog => Box::new(SyslogAnchor { socket: sys::SYSLOG_SOCKET.into() }),
        }
    });
    let unlimited = |n: u64| if n == 0 { u64::MAX } else { n };
    let options = Options {
        segment_bytes: config.audit.segment_bytes,
        keep: Retention { days: unlimited(u64::from(config.audit.keep_days)), bytes: unlimited(config.audit.keep_bytes) },
        budget: config.audit.hourly_bytes_per_identity,
        reserve,
        queue: QUEUE,
        seen,
        ..Options::new(word(&state.id)?, word(boot)?)
    };
    let volume = Box::new(DiskVolume::new(folder, BALLAST));
    Ok(Audit::open(options, volume, key, clock.clone(), anchors.collect())?)
}

/// Reads every file as a start would, without touching state, and says what is wrong.
pub fn check(config: &Config) -> Result<(), BuildError> {
    match state::key(config) {
        Ok(_) => {}
        // Only the daemon itself is passed the unit's credentials; whoever checks files beside it is not. A file that is there must do.
        Err(StateError::NoKey(..)) if !config.local.key_file.exists() => {
            tracing::info!("the key was not looked at: there is no {}", config.local.key_file.display());
        }
        Err(error) => return Err(error.into()),
    }
    super::rows::check(&config.engines)?;
    let checked = load::load(&Places::of(config), &load::by_configuration(config), 0, SystemClock.wall())?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(bundle = %checked.bundle.hash(), "all files are sound");
    Ok(())
}
