//! `postgres`: a role for every lease, made with the grants of its secret and dropped when the lease ends; or roles that are there, whose
//! password is changed now and then (`rotate`).
//!
//! The value is the role's password; user name, host, port and database are attributes beside it. The server gets a SCRAM verifier and
//! never the password. A role ends with its sessions: nobody goes on working on a connection that was opened in time.

mod bounds;
mod config;
mod kept;
mod link;
mod pool;
mod revoke;
mod role;
mod rotate;
mod scram;
mod settings;
mod tls;

pub use config::{PostgresConfig, Server};

use super::{Again, Engine, EngineError, Issued, Mark, Order, Over, Standing, UpstreamRef, Version, local::LocalStore, unsent::Unsent};
use crate::{
    digest::{Random, SealKey},
    model::{EndsBy, Finding, LeaseId, OfEngine, Operation, Proof, ProofBy, SecretBytes, SecretDefinition},
    sys::{Clock, VaultBytes, blocking},
};
use async_trait::async_trait;
use kept::Passwords;
use link::{Link, Row, Trouble, fault};
use pool::{Names, Pool, Session};
use postgres_protocol::escape::escape_literal;
use revoke::{Ending, Found, Places};
use role::Role;
use settings::{OwnRole, Settings};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::error::SqlState;

/// What follows from a definition's settings, or what is wrong with them. Needs no server.
pub fn of_definition(secret: &SecretDefinition) -> Result<OfEngine, String> {
    Ok(match Settings::parse(secret)? {
        Settings::Own(row) => OfEngine { ends_by: EndsBy::Upstream, narrows: row.narrows(secret.operation) },
        Settings::Static(_) => OfEngine::ends_by(EndsBy::None),
    })
}

/// The engine of one server.
pub struct PostgresEngine {
    config: Arc<PostgresConfig>,
    pool: Pool,
    /// For what makes a credential dead: kept open, and nobody who wants something made or tidied up is in the way there.
    silencers: Pool,
    /// Endings that have a turn to make a credential dead.
    silencing: Semaphore,
    /// And those that tidy up after that.
    removing: Semaphore,
    mark: Mark,
    key: SealKey,
    passwords: Passwords,
    /// Leases of which the server knows nothing for certain.
    unsent: Unsent,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl PostgresEngine {
    /// An engine that connects when it is first asked. `root` must outlive the leases, also through a change of the master key
    /// ([`LocalStore::own_key`]): the passwords of live leases follow from it. Those of static roles are kept in `store`.
    pub fn new(
        mut config: PostgresConfig,
        mark: Mark,
        root: &SealKey,
        store: Arc<LocalStore>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, EngineError> {
        config.check()?;
        let key = root.derive(&format!("postgres:{}", config.name));
        // It is kept as long as the engine lives.
        let password = config.password.take().map(|password| Arc::new(VaultBytes::of(password.expose())));
        let config = Arc::new(config);
        let passwords = Passwords::new("postgres", config.name.clone(), store);
        let names = Arc::new(Names::new(&mark, config.name.as_str(), &*random));
        let pool = Pool::new(config.clone(), password.clone(), names.clone(), config.max_connections, clock.clone())?;
        let silencers = Pool::new(config.clone(), password, names, SILENCERS, clock.clone())?;
        let (silencing, removing) = (Semaphore::new(SILENCERS), Semaphore::new(endings_of(config.max_connections)));
        Ok(Self { pool, silencers, silencing, removing, config, mark, key, passwords, unsent: Unsent::default(), clock, random })
    }

    fn issued(&self, role: &str, password: SecretBytes, reference: UpstreamRef, database: &str) -> Issued {
        let attributes = vec![
            ("username".into(), role.to_owned()),
            ("host".into(), self.config.server.host()),
            ("port".into(), self.config.server.port().to_string()),
            ("dbname".into(), database.into()),
        ];
        Issued { value: password, attributes, reference }
    }

    /// A live role's credential: the password follows from the key and the lease.
    fn again(&self, order: &Order<'_>, reference: &UpstreamRef) -> Issued {
        let role = Role::of(&self.mark, order.lease);
        let database = reference.0.get("database").and_then(|value| value.as_str()).unwrap_or(&self.config.database);
        self.issued(&role.name, role.password(&self.key), reference.clone(), database)
    }

    async fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        match Settings::parse(order.secret).map_err(EngineError::Setup)? {
            Settings::Own(settings) => self.make_role(order, &settings).await,
            Settings::Static(row) => self.issue_static(order, &row).await,
        }
    }

    async fn make_role(&self, order: &Order<'_>, settings: &OwnRole) -> Result<Issued, EngineError> {
        let quiet = self.unsent.begin(order.lease);
        let (role, rights) = (Role::of(&self.mark, order.lease), settings.rights(order)?);
        let database = settings.database.as_deref().unwrap_or(&self.config.database);
        let password = role.password(&self.key);
        // Before a connection is taken: others can use it meanwhile.
        let make = || scram::verifier(&password, settings.scram_iterations, &*self.random);
        // A few milliseconds at the most, unless somebody wants more rounds.
        let verifier = if settings.scram_iterations > scram::ITERATIONS { blocking(make) } else { make() };
        let session = self.session(database).await?;
        quiet.owes();
        let sql = |waits| role.create(order, &rights, &verifier, !session.is_superuser(), waits);
        let answer = match run_apart(session.link(), &sql(true)).await {
            Err(why) if why.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => run_apart(session.link(), &sql(false)).await,
            answer => answer,
        };
        let answer = answer.map_err(|why| fault("making the role", &why))?;
        if let Some(why) = session.link().withheld() {
            // It is there already, and is settled as what failed on the way is.
            return Err(EngineError::Setup(format!("making the role: {why}: {} lacks what it is to grant", self.config.user)));
        }
        crate::failpoint!("role-made");
        if let Some(sql) = role.describe(order, &rights) {
            session.link().run(&sql).await.map_err(|why| fault("describing the role", &why))?;
        }
        let mut reference = UpstreamRef::default();
        reference.0.insert("role", role.name.as_str());
        reference.0.insert("database", database);
        if let Some(server) = session.server() {
            reference.0.insert("server", server);
        }
        self.pool.give_back(session);
        if let Some(heir) = &settings.reassign_to {
            reference.0.insert("reassign_to", heir.as_str());
        }
        if let Some(oid) = last_number(&answer) {
            reference.0.insert("oid", oid);
        }
        Ok(self.issued(&role.name, password, reference, database))
    }

    /// A connection to make something with. Nothing is made while there is no way to end it: a holder may take all connections that the server
    /// has left.
    async fn session(&self, database: &str) -> Result<Session<'_>, EngineError> {
        self.silencers.warm(&self.config.database).await?;
        self.pool.take(database).await
    }

    async fn finish(&self, lease: LeaseId, known: Known<'_>) -> Result<Found, EngineError> {
        let role = Role::of(&self.mark, lease);
        let heir = known.heir.unwrap_or(&self.config.reassign_to);
        let home = &self.config.database;
        let ending = Ending::new(Places { pool: &self.pool, silencers: &self.silencers, home }, &role, known.oid, known.server, heir);
        // However many died at once: nobody's ending fails for the number of the others. Each turn is over when the deadline is. What makes
        // credentials dead does not wait for what tidies up: somebody's role may be kept from being dropped for as long as that takes.
        let found = {
            let _turn = self.turn(&self.silencing).await?;
            // With the longest wait for a lock behind it, still within the deadline.
            self.within(ending.silence(self.config.call_timeout / 2)).await?
        };
        {
            let _turn = self.turn(&self.removing).await?;
            self.within(ending.tidy_up(found)).await?;
        }
        ending.verdict(found).map_err(|error| self.name(error))
    }

    async fn turn<'a>(&self, turns: &'a Semaphore) -> Result<SemaphorePermit<'a>, EngineError> {
        turns.acquire().await.map_err(|_| self.name(EngineError::Unreachable("the engine is closed".into())))
    }

    /// Puts the one deadline around a call. What was under way is dropped with its connection.
    async fn within<T>(&self, call: impl Future<Output = Result<T, EngineError>> + Send) -> Result<T, EngineError> {
        match tokio::time::timeout(self.config.call_timeout, call).await {
            Ok(result) => result.map_err(|error| self.name(error)),
            Err(_) => {
                let millis = self.config.call_timeout.as_millis();
                Err(self.name(EngineError::Unreachable(format!("not done within {millis} ms"))))
            }
        }
    }

    fn name(&self, error: EngineError) -> EngineError {
        error.named(&self.config.name)
    }
}

#[async_trait]
impl Engine for PostgresEngine {
    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn ends_by(&self, secret: &SecretDefinition) -> EndsBy {
        // What cannot be parsed is not asked about.
        of_definition(secret).map_or(EndsBy::Upstream, |follows| follows.ends_by)
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        of_definition(secret).map_or_else(|_| Vec::new(), |follows| follows.narrows)
    }

    fn proves(&self, secret: &SecretDefinition) -> Option<ProofBy> {
        self.has_upstream(secret).then_some(ProofBy::Looked)
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        let us = &self.config.user;
        match Settings::parse(secret)? {
            Settings::Own(row) if row.reassign_to.as_ref() == Some(us) => {
                Err(format!("{}: reassign_to must not be the engine's own role", secret.name))
            }
            Settings::Static(row) if row.roles.contains(us) => Err(format!("{}: a static role must not be the engine's own", secret.name)),
            _ => Ok(()),
        }
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.within(self.make(order)).await
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        if is_static(reference) { self.again_static(&order.secret.name, reference) } else { Ok(self.again(order, reference)) }
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(match is_static(reference) {
            true => self.again_static(&order.secret.name, reference).map(Again::from),
            false => Ok(self.again(order, reference).into()),
        })
    }

    fn is_newest(&self, secret: &SecretDefinition, reference: &UpstreamRef) -> bool {
        !is_static(reference) || self.is_newest_static(&secret.name, reference)
    }

    fn can_rotate(&self, secret: &SecretDefinition) -> bool {
        matches!(Settings::parse(secret), Ok(Settings::Static(_)))
    }

    async fn newest(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        match Settings::parse(secret).map_err(EngineError::Setup)? {
            Settings::Static(row) => self.within(self.newest_static(secret, &row)).await,
            Settings::Own(_) => Err(self.name(EngineError::Setup("each lease has a role of its own: nothing is kept".into()))),
        }
    }

    fn standing(&self, secret: &SecretDefinition) -> Standing {
        self.standing_static(&secret.name)
    }

    async fn rotate(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        match Settings::parse(secret).map_err(EngineError::Setup)? {
            Settings::Static(row) => self.rotate_static(secret, &row).await,
            Settings::Own(_) => Err(self.name(EngineError::Setup("each lease has a role of its own: end the lease instead".into()))),
        }
    }

    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        if is_static(reference) {
            // Nothing upstream knows of the lease; a value that holds no more is worth saying now and not at the next read.
            return self.again_static(&order.secret.name, reference).map(drop);
        }
        let role = Role::of(&self.mark, order.lease);
        self.within(async {
            let session = self.pool.take(&self.config.database).await?;
            let done = session.link().run(&role.prolong(order.expires)).await;
            self.pool.give_back(session);
            done.map_err(|why| match why.code() {
                Some(&SqlState::UNDEFINED_OBJECT) => EngineError::Refused(format!("role {} is gone", role.name)),
                _ => fault("prolonging the role", &why),
            })
        })
        .await
    }

    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        if is_static(reference) {
            return Ok(Over::LAPSED);
        }
        let text = |key: &str| reference.0.get(key).and_then(|value| value.as_str());
        if text("role").is_some_and(|name| name != Role::of(&self.mark, lease).name) {
            return Err(self.name(EngineError::Setup(format!("{lease} was made under another mark: not ours to end"))));
        }
        let oid = reference.0.get("oid").and_then(serde_json::Value::as_u64).and_then(|oid| u32::try_from(oid).ok());
        // A role that is not there is as dead as one that was dropped, and it was looked for. Which of both it was is told.
        let known = Known { oid, server: text("server"), heir: text("reassign_to") };
        self.finish(lease, known).await.map(|found| Over::revoked(found.proof()))
    }

    async fn settle(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        if self.unsent.take(lease) {
            return Ok(Over::lapsed(Proof::NEVER));
        }
        // Settings that are gone or no longer parse must not keep a role alive.
        let settings = secret.and_then(|secret| match Settings::parse(secret) {
            Ok(Settings::Own(row)) => Some(row),
            // A role of the lease's own may have been made before the row was changed.
            _ => None,
        });
        let known = settings.as_ref().map_or_else(Known::default, |settings| Known {
            oid: None,
            server: None,
            heir: settings.reassign_to.as_deref(),
        });
        self.finish(lease, known).await.map(|found| match found {
            Found::Role => Over::revoked(found.proof()),
            Found::Nothing => Over::lapsed(found.proof()),
        })
    }

    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        self.within(async {
            let session = self.pool.take(&self.config.database).await?;
            // Or a role that a killed daemon was making would come about behind the list.
            self.pool.end_lost(session.link()).await?;
            let prefix = Role::prefix(&self.mark);
            let sql = format!("SELECT rolname FROM pg_roles WHERE starts_with(rolname::text, {})", escape_literal(&prefix));
            let rows = session.link().rows(&sql).await;
            self.pool.give_back(session);
            let rows = rows.map_err(|why| fault("listing roles", &why))?;
            Ok(rows.iter().filter_map(|row| Role::lease_of(&self.mark, row.text(0)?)).collect())
        })
        .await
    }
}

/// Connections besides the others, and so credentials that are made dead at a time: a few milliseconds each.
const SILENCERS: usize = 2;

/// How many endings tidy up at a time: a quarter of the connections, and at least one, is left to whoever asks for something new, unless
/// there is only one.
fn endings_of(connections: usize) -> usize {
    (connections - connections.div_ceil(4).min(connections.saturating_sub(1))).max(1)
}

/// Whether a lease was given a static role's password: nothing of the lease exists at the server.
fn is_static(reference: &UpstreamRef) -> bool {
    reference.0.get("static") == Some(&serde_json::Value::Bool(true))
}

impl Found {
    fn proof(self) -> Proof {
        Proof::looked(match self {
            Found::Role => &[Finding::SessionsGone, Finding::RoleGone],
            Found::Nothing => &[Finding::SessionsGone, Finding::RoleAbsent],
        })
    }
}

/// What is known of a role that is to be ended: everything of a committed lease, little of a lost one.
#[derive(Default)]
struct Known<'a> {
    oid: Option<u32>,
    server: Option<&'a str>,
    heir: Option<&'a str>,
}

/// Runs statements that change who may do what, as one transaction, again if somebody else changed the rights of the same table or schema
/// in the same moment: PostgreSQL then fails with an internal error ("tuple concurrently updated") instead of waiting. Among us the
/// lock of [`Role::rights_turn`] prevents that, unless somebody keeps it; others do not know it.
async fn run_apart(link: &Link, sql: &str) -> Result<Vec<Row>, Trouble> {
    let mut pause = Duration::from_millis(2);
    // Up to about two seconds: each try may meet the next of somebody's changes.
    for _ in 0..40 {
        match link.rows(sql).await {
            Err(why) if matches!(why.code(), Some(&SqlState::INTERNAL_ERROR | &SqlState::T_R_DEADLOCK_DETECTED)) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_millis(50));
            }
            answer => return answer,
        }
    }
    link.rows(sql).await
}

fn last_number(answer: &[Row]) -> Option<u32> {
    answer.iter().rev().find_map(|row| row.text(0)?.parse().ok())
}
