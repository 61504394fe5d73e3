//! A few warm connections as the engine's own role, so that ending a credential does not begin with a handshake.
//!
//! Each has a name of its own at the server. A connection that was dropped while a statement was under way, or that a daemon before this one
//! had, may still carry it out, however late the server reads it: it is found by its name and ended.

use super::{
    super::{EngineError, Mark},
    config::{PostgresConfig, Server},
    link::{Link, Trouble, fault},
    tls::Tls,
};
use crate::{
    digest::{Random, sha256},
    model::{BootTime, SecretBytes},
    outbound::Setback,
    sys::{Clock, VaultBytes},
};
use postgres_protocol::escape::escape_literal;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Config, config::SslMode, error::SqlState};

/// Connections of a pool that stay open while nobody needs them: many hosts may have the same server.
const KEPT: usize = 1;
/// How long more of them wait for somebody who does.
const LINGER: Duration = Duration::from_secs(2);

/// At most so many connections at a time over all databases. A connection goes back only after its last statement was answered; one that
/// was dropped on the way is closed.
pub(super) struct Pool {
    config: Arc<PostgresConfig>,
    password: Option<Arc<VaultBytes>>,
    tls: Option<Tls>,
    most: usize,
    slots: Semaphore,
    idle: Arc<Mutex<Idle>>,
    names: Arc<Names>,
    setback: Setback<EngineError>,
    clock: Arc<dyn Clock>,
}

/// Connections that nobody uses, the one that was used last at the end.
#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    /// Somebody will close those that are too many.
    swept: bool,
}

struct Connection {
    link: Link,
    /// Dropped after the link: until then the connection is not lost.
    _name: Name,
    database: String,
    superuser: bool,
    server: Option<String>,
    since: BootTime,
}

/// A connection in use.
pub(super) struct Session<'a> {
    connection: Connection,
    _slot: SemaphorePermit<'a>,
}

impl Session<'_> {
    pub(super) fn link(&self) -> &Link {
        &self.connection.link
    }

    /// Whether the engine's role is a superuser, which needs no membership to end other roles' sessions.
    pub(super) fn is_superuser(&self) -> bool {
        self.connection.superuser
    }

    /// The number that a server's data has had since it was made (`system_identifier`): a standby that took over has the same, another
    /// server has not. `None` where the engine's role may not ask.
    pub(super) fn server(&self) -> Option<&str> {
        self.connection.server.as_deref()
    }
}

impl Pool {
    /// A pool of `most` connections. All of one engine have their names from one place, or each would take those of the others for lost.
    pub(super) fn new(
        config: Arc<PostgresConfig>,
        password: Option<Arc<VaultBytes>>,
        names: Arc<Names>,
        most: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let tls = match &config.server {
            Server::Unix { .. } => None,
            Server::Tls { ca_pem, server_name, .. } => Some(Tls::new(ca_pem, server_name.clone())?),
        };
        let (slots, setback) = (Semaphore::new(most), Setback::new(clock.clone()));
        Ok(Self { config, password, tls, most, slots, idle: Arc::default(), names, setback, clock })
    }

    /// Sees to it that there is a connection to that database, whoever has it.
    pub(super) async fn warm(&self, database: &str) -> Result<(), EngineError> {
        let there = |idle: &Idle| idle.connections.iter().any(|connection| connection.database == database && !connection.link.is_over());
        if self.slots.available_permits() == self.most && !there(&lock(&self.idle)) {
            let session = self.take(database).await?;
            self.give_back(session);
        }
        Ok(())
    }

    /// A connection to that database, warm if there is one. The caller bounds the wait.
    pub(super) async fn take(&self, database: &str) -> Result<Session<'_>, EngineError> {
        // The semaphore is never closed.
        let slot = self.slots.acquire().await.map_err(|_| EngineError::Unreachable("the engine is closed".into()))?;
        if let Some(connection) = self.take_idle(database) {
            return Ok(Session { connection, _slot: slot });
        }
        if let Some(why) = self.setback.waiting() {
            let text = |why: &str| format!("the server could not be reached a moment ago; waiting before the next try ({why})");
            return Err(match why {
                // Whose turn it is has not changed.
                EngineError::Setup(why) => EngineError::Setup(text(&why)),
                why => EngineError::Unreachable(text(&why.to_string())),
            });
        }
        let connection = tokio::time::timeout(self.config.connect_timeout, self.connect(database)).await.unwrap_or_else(|_| {
            let waited = self.config.connect_timeout.as_millis();
            Err(EngineError::Unreachable(format!("no connection to {database} within {waited} ms")))
        });
        self.setback.note(connection.as_ref().err().cloned());
        Ok(Session { connection: connection?, _slot: slot })
    }

    /// Keeps the connection warm for the next call; those beyond [`KEPT`] for [`LINGER`].
    pub(super) fn give_back(&self, session: Session<'_>) {
        if session.connection.link.is_over() {
            return;
        }
        let mut idle = lock(&self.idle);
        idle.connections.push(Connection { since: self.clock.boot(), ..session.connection });
        if idle.connections.len() > KEPT && !std::mem::replace(&mut idle.swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.idle), self.clock.clone()));
        }
    }

    /// An idle connection to the database; otherwise makes room for a new one, so that idle and used ones together never exceed the slots.
    fn take_idle(&self, database: &str) -> Option<Connection> {
        let idle = &mut lock(&self.idle).connections;
        idle.retain(|connection| !connection.link.is_over());
        let found = idle.iter().rposition(|connection| connection.database == database);
        let taken = found.map(|at| idle.remove(at));
        if taken.is_none() && !idle.is_empty() {
            idle.remove(0);
        }
        taken
    }

    async fn connect(&self, database: &str) -> Result<Connection, EngineError> {
        let name = self.names.take();
        let mut settings = self.settings(&self.config.user, database);
        settings.application_name(&name.text);
        if let Some(password) = &self.password {
            settings.password(password.expose());
        }
        let fail = |why: Trouble| fault(&format!("connecting to {database}"), &why);
        let link = self.open(&settings).await.map_err(fail)?;
        // What was ended must not come back with a server that lost its last moments, whatever is set there later.
        let durable = "CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END";
        let sql = format!("SELECT rolsuper, set_config('synchronous_commit', {durable}, false) FROM pg_roles WHERE rolname = current_user");
        let row = link.row(&sql).await.map_err(fail)?;
        let server = match link.row("SELECT system_identifier FROM pg_control_system()").await {
            Ok(row) => row.text(0).map(str::to_owned),
            // Everybody may ask, unless somebody has taken that away; and what only speaks like PostgreSQL may have no such thing.
            Err(why) if matches!(why.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE | &SqlState::UNDEFINED_FUNCTION)) => None,
            Err(why) => return Err(fail(why)),
        };
        Ok(Connection { superuser: row.is(0), server, link, _name: name, database: database.into(), since: self.clock.boot() })
    }

    /// Ends what is left at the server of connections that this daemon has lost, or that one before it had, and returns when they are gone:
    /// what they were told has come about by then, or never will.
    pub(super) async fn end_lost(&self, link: &Link) -> Result<(), EngineError> {
        if crate::mutation!("postgres-lost") {
            return Ok(());
        }
        // Anew each time: connections come and go meanwhile.
        none_left(link, || self.names.terminate_others(), "ending lost connections").await
    }

    /// Whether the server lets that role in with that password, which is found out by logging in.
    pub(super) async fn lets_in(&self, role: &str, password: &SecretBytes, database: &str) -> Result<bool, EngineError> {
        let mut settings = self.settings(role, database);
        settings.password(password.expose());
        let Err(why) = self.open(&settings).await else { return Ok(true) };
        match why.answer() {
            Some(answer) if *answer.code() == SqlState::INVALID_PASSWORD => Ok(false),
            // The role has all its connections: that is looked at after the password (InitializeSessionUserId, miscinit.c).
            Some(answer) if *answer.code() == SqlState::TOO_MANY_CONNECTIONS && answer.routine() == Some("InitializeSessionUserId") => {
                Ok(true)
            }
            _ => Err(fault(&format!("logging in to {database} as {role}"), &why)),
        }
    }

    /// By the end of the grace the server has given up what was under way ([`Pool::settings`]).
    async fn open(&self, settings: &Config) -> Result<Link, Trouble> {
        Link::open(settings, &self.config.server, self.tls.as_ref(), self.config.call_timeout).await
    }

    fn settings(&self, user: &str, database: &str) -> Config {
        let mut settings = Config::new();
        match &self.config.server {
            Server::Unix { folder, port } => settings.host_path(folder).port(*port).ssl_mode(SslMode::Disable),
            Server::Tls { host, port, .. } => settings.host(host).port(*port).ssl_mode(SslMode::Require),
        };
        // Nothing that a user can make in a database is found by an unqualified name: this role may be a powerful one.
        let millis = self.config.call_timeout.as_millis();
        // That a grant gives nothing is only warned of.
        let options = format!(
            "-c search_path=pg_catalog -c client_min_messages=warning -c statement_timeout={millis} -c lock_timeout={}",
            (millis / 4).max(1)
        );
        settings
            .user(user)
            .dbname(database)
            .application_name("clavigerd")
            .options(options)
            .connect_timeout(self.config.connect_timeout)
            .keepalives_idle(Duration::from_secs(30));
        settings
    }
}

/// How an engine's connections are called at the server: after the daemon, the engine, this start, and one by one.
pub(super) struct Names {
    prefix: String,
    start: String,
    taken: Arc<Mutex<HashSet<String>>>,
}

/// The name of one connection, from before it is opened until it is dropped.
struct Name {
    text: String,
    taken: Arc<Mutex<HashSet<String>>>,
}

impl Drop for Name {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.text);
    }
}

/// Counts connections of all pools of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Names {
    pub(super) fn new(mark: &Mark, engine: &str, random: &dyn Random) -> Self {
        let mut start = [0; 4];
        random.fill(&mut start);
        // Two engines may have the same server and user.
        let engine = hex::encode(&sha256(&[engine.as_bytes()])[..4]);
        Self { prefix: format!("clavigerd-{mark}-{engine}-"), start: hex::encode(start), taken: Arc::default() }
    }

    /// At most 63 bytes, which is what the server keeps.
    fn take(&self) -> Name {
        let mut taken = lock(&self.taken);
        let text = self.numbered(NEXT.fetch_add(1, Ordering::Relaxed));
        taken.insert(text.clone());
        drop(taken);
        Name { text, taken: self.taken.clone() }
    }

    /// In the order of their numbers.
    fn numbered(&self, number: u64) -> String {
        format!("{}{}-{number:012}", self.prefix, self.start)
    }

    /// One row for each connection that is called as ours are and is none of them, told to end. Those that are opened from now on may be
    /// there by the time this is read. Others may call theirs as they like, but not as our user.
    fn terminate_others(&self) -> String {
        let taken = lock(&self.taken);
        let later = self.numbered(NEXT.load(Ordering::Relaxed));
        let ours: Vec<String> = taken.iter().map(|name| escape_literal(name)).collect();
        drop(taken);
        let ours = if ours.is_empty() { "NULL".to_owned() } else { ours.join(", ") };
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = session_user AND pid <> pg_backend_pid() \
             AND starts_with(application_name, {}) AND coalesce(application_name NOT IN ({ours}), true) \
             AND NOT (starts_with(application_name, {}) AND application_name COLLATE \"C\" >= {} COLLATE \"C\")",
            escape_literal(&self.prefix),
            escape_literal(&format!("{}{}-", self.prefix, self.start)),
            escape_literal(&later),
        )
    }
}

/// Asks, and again a little later each time, until the answer has no rows.
pub(super) async fn none_left(link: &Link, sql: impl Fn() -> String, doing: &str) -> Result<(), EngineError> {
    let mut pause = Duration::from_millis(1);
    loop {
        if link.rows(&sql()).await.map_err(|why| fault(doing, &why))?.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Closes connections that have lingered, until there are no more than are kept.
async fn sweep(idle: Weak<Mutex<Idle>>, clock: Arc<dyn Clock>) {
    loop {
        tokio::time::sleep(LINGER).await;
        let Some(idle) = idle.upgrade() else { return };
        let mut idle = lock(&idle);
        let (now, linger) = (clock.boot().0, u64::try_from(LINGER.as_micros()).unwrap_or(u64::MAX));
        while idle.connections.len() > KEPT && now.saturating_sub(idle.connections[0].since.0) >= linger {
            idle.connections.remove(0);
        }
        if idle.connections.len() <= KEPT {
            idle.swept = false;
            return;
        }
    }
}

/// Each lock is held for a few lines that cannot leave the state half changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
