//! Puts the daemon together from its configuration. Every failure here is an operator's to mend.

use super::{
    attestor::AttestError,
    load::{self, Places},
    signing,
    state::{self, State, StateError},
};
use crate::{
    attest::{Attestor, Launches, LaunchesError},
    audit::{Anchor, Audit, JournalAnchor, OpenError, Options, Retention, SyslogAnchor, Word},
    broker::{Broker, KeyPlaces, LoadProblems, Parts, PublishError, Settings},
    config::{AnchorKind, Config, EngineConfig, PostgresConfig},
    digest::{KeyError, SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Engines,
        jwt::{self, JwtEngine, JwtError},
        local::{LocalEngine, LocalStore, StoreError},
        postgres::{self, PostgresEngine, Server},
    },
    lease::{JournalError, Leases, Recovered},
    model::{EngineName, SecretBytes},
    sys::{self, Clock, DiskVolume, SystemClock, append::Reserve},
};
use std::{io, path::Path, sync::Arc, time::Duration};

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
}

/// The name of the store that is always there.
const LOCAL: &str = "local";
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
    let (engines, tokens) = engines(config, &state, &store, &clock)?;
    let places = Places::of(config);
    let governance = load::load(&places, &load::by_running(&engines), 1, clock.wall())?;
    for warning in &governance.warnings {
        tracing::warn!("{warning}");
    }
    let boot = sys::boot_id().map_err(|error| BuildError::Io("boot id".into(), error))?;
    attestor.know_launches(Arc::new(Launches::open(&config.paths.state.join("launches"), &boot, &*random)?));
    let reserve = Reserve { bytes: config.audit.reserve_bytes, ..Reserve::default() };
    let journal = config.paths.state.join("leases");
    sys::private_folder(&journal)?;
    // Both are read to their ends, so they are read side by side.
    let ((leases, recovered), audit) = std::thread::scope(|both| {
        let open = || audit(config, &state, &store, &clock, &boot, reserve);
        let started = std::thread::Builder::new().spawn_scoped(both, open);
        let audit = started.map_err(|error| BuildError::Io("starting a thread".into(), error))?;
        let leases = Leases::open(Box::new(DiskVolume::new(&journal, BALLAST)), &state.id, reserve, QUEUE);
        let audit = audit.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok::<_, BuildError>((leases?, audit?))
    })?;
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
            sweep_micros: u64::from(config.leases.sweep.as_secs()) * 1_000_000,
            per_identity: config.leases.per_identity,
            freeze_file: config.paths.state.join("frozen"),
            boot: boot.into(),
            launcher: config.attest.launcher.clone(),
            lacking,
        },
        read_only: state.read_only,
        keys: key_places(config),
    });
    Ok(Built { broker, recovered })
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

type Tokens = Vec<(EngineName, Arc<JwtEngine>)>;

fn engines(config: &Config, state: &State, store: &Arc<LocalStore>, clock: &Arc<dyn Clock>) -> Result<(Engines, Tokens), BuildError> {
    // A constant that is a name.
    let local = EngineName::parse(LOCAL).map_err(|error| BuildError::Config(error.to_string()))?;
    let mut rows: Vec<(EngineName, Arc<dyn Engine>)> = vec![(local, Arc::new(LocalEngine::new(store.clone())))];
    let mut tokens = Vec::new();
    for engine in &config.engines {
        match engine {
            EngineConfig::Jwt(jwt) => {
                let config = jwt::JwtConfig {
                    name: jwt.name.clone(),
                    issuer: jwt.issuer.clone(),
                    jwks_uri: None,
                    algorithms: vec![jwt::Algorithm::Es256, jwt::Algorithm::EdDsa],
                    max_ttl: jwt.max_ttl,
                };
                let engine = Arc::new(JwtEngine::open(config, store.clone(), clock.clone())?);
                tokens.push((jwt.name.clone(), engine.clone()));
                rows.push((jwt.name.clone(), engine));
            }
            EngineConfig::Postgres(postgres) => {
                // A key of its own in the store: rewrapping the store's master key changes no live lease's password.
                let root: SealKey = store.own_key("postgres")?;
                let engine = PostgresEngine::new(postgres_config(postgres)?, state.mark.clone(), &root, clock.clone())?;
                rows.push((postgres.name.clone(), Arc::new(engine)));
            }
        }
    }
    Ok((Engines::new(rows).map_err(BuildError::Twice)?, tokens))
}

fn postgres_config(from: &PostgresConfig) -> Result<postgres::PostgresConfig, BuildError> {
    let wrong = |what: &str| BuildError::Config(format!("engine {}: {what}", from.name));
    let server = if from.host.starts_with('/') {
        Server::Unix { folder: from.host.clone().into(), port: from.port }
    } else {
        let path = from.ca_file.as_ref().ok_or_else(|| wrong("a host name needs ca_file: there is no connection without TLS"))?;
        let ca_pem = sys::read_trusted(path, 1 << 20).map_err(|error| wrong(&error.to_string()))?.into_bytes();
        Server::Tls { host: from.host.clone(), port: from.port, ca_pem, server_name: from.server_name.clone() }
    };
    let password = match (&from.password_credential, &from.password_file) {
        (Some(_), Some(_)) => return Err(wrong("password_file and password_credential exclude each other")),
        (Some(name), None) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| wrong("the unit passes no credentials"))?;
            Some(password(&Path::new(&folder).join(name))?)
        }
        (None, Some(path)) => Some(password(path)?),
        (None, None) => None,
    };
    let timeout = Duration::from_secs(u64::from(from.timeout_seconds.max(1)));
    Ok(postgres::PostgresConfig {
        password,
        database: from.database.clone(),
        connect_timeout: timeout.min(Duration::from_secs(2)),
        call_timeout: timeout,
        ..postgres::PostgresConfig::new(from.name.clone(), server, &from.user)
    })
}

fn password(path: &Path) -> Result<SecretBytes, BuildError> {
    let bytes = sys::read_private(path, 4096)?;
    // Editors end files with a line feed; no password does.
    Ok(SecretBytes::new(bytes.expose().trim_ascii_end().to_vec()))
}

fn audit(
    config: &Config,
    state: &State,
    store: &LocalStore,
    clock: &Arc<dyn Clock>,
    boot: &str,
    reserve: Reserve,
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
    let checked = load::load(&Places::of(config), &load::by_configuration(config), 0, SystemClock.wall())?;
    for warning in &checked.warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(bundle = %checked.bundle.hash(), "all files are sound");
    Ok(())
}
