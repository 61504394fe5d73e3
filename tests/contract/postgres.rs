//! PostgreSQL under the contract, and what a role per lease promises beyond it. Against a real server, by both of its doors.

use crate::{
    suite::{Asked, Harness, Probe, now, secret},
    support::{BROKER, BROKER_PASSWORD, Postgres, SUPERUSER},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SeededRandom},
    engine::{
        Engine, EngineError, Issued, Mark,
        postgres::{PostgresConfig, PostgresEngine, Server},
    },
    model::{EndResult, EngineName, SecretBytes, SecretDefinition, WallTime},
    sys::{Clock, SystemClock},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::OnceCell;
use tokio_postgres::Client;

/// One server for all tests of this process; it ends with the process.
pub async fn cluster() -> Option<&'static Postgres> {
    static CLUSTER: OnceCell<Option<Postgres>> = OnceCell::const_new();
    CLUSTER.get_or_init(Postgres::start).await.as_ref()
}

/// `scram_iterations`: the server keeps a verifier of so many rounds, and libpq logs in with the password behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_has_as_many_rounds_as_the_definition_says() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Tls));
    for (settings, rounds) in [(serde_json::json!({}), 4096), (serde_json::json!({ "scram_iterations": 1 }), 1)] {
        let mut secret = secret("db/rounds", &engine, serde_json::json!({ "grants": ["GRANT app_owner TO {{role}}"] }));
        secret.settings.extend(settings.as_object().unwrap().clone());
        let asked = Asked::new();
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        let user = attribute(&issued, "username");
        let kept = "SELECT rolpassword FROM pg_authid WHERE rolname = $1";
        let kept: String = cluster.superuser("app").await.query_one(kept, &[&user]).await.unwrap().get(0);
        assert!(kept.starts_with(&format!("SCRAM-SHA-256${rounds}:")), "{kept}");
        let place = format!("host=localhost port={} dbname=app user={user} sslmode=require", cluster.port);
        let mut psql = std::process::Command::new("psql");
        psql.args(["-XAtc", "SELECT current_user", &place]).env("PGPASSWORD", std::str::from_utf8(issued.value.expose()).unwrap());
        let said = psql.output().unwrap();
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), user, "{}", String::from_utf8_lossy(&said.stderr));
        engine.end(asked.lease, &issued.reference).await.unwrap();
    }
}

/// How the engine connects in a test: as superuser over the socket, or by TLS with a role that has little but `CREATEROLE`.
#[derive(Clone, Copy)]
pub enum Door {
    Socket,
    Tls,
}

pub fn config(cluster: &Postgres, door: Door) -> PostgresConfig {
    let name = EngineName::parse("under-test").unwrap();
    let mut config = match door {
        Door::Socket => {
            let server = Server::Unix { folder: cluster.socket_folder().into(), port: cluster.port };
            PostgresConfig::new(name, server, SUPERUSER)
        }
        Door::Tls => {
            let ca_pem = cluster.ca_pem.clone().into_bytes();
            let server = Server::Tls { host: "localhost".into(), port: cluster.port, ca_pem, server_name: None };
            let mut config = PostgresConfig::new(name, server, BROKER);
            config.password = Some(SecretBytes::new(BROKER_PASSWORD.into()));
            config
        }
    };
    config.database = "app".into();
    config.max_connections = 1;
    config
}

pub fn build(config: PostgresConfig) -> PostgresEngine {
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    build_as(config, mark(), &root, Arc::new(SystemClock)).unwrap()
}

/// A daemon's for each test, by the name of its thread: whoever looks for what was lost ends connections of its own mark.
pub fn mark() -> Mark {
    Mark::new(b"machine", std::thread::current().name().unwrap_or_default().as_bytes())
}

/// An engine without static roles: the folder of its store is gone when this returns.
pub fn build_as(config: PostgresConfig, mark: Mark, root: &SealKey, clock: Arc<dyn Clock>) -> Result<PostgresEngine, EngineError> {
    let store = crate::static_roles::store(&tempfile::tempdir().unwrap());
    PostgresEngine::new(config, mark, root, store, clock, Arc::new(SeededRandom::new(5)))
}

pub fn reader(engine: &dyn Engine) -> SecretDefinition {
    let grants = ["GRANT USAGE ON SCHEMA app TO {{role}}", "GRANT SELECT ON app.orders TO {{role}}"];
    secret("prod-db/orders-ro", engine, serde_json::json!({ "grants": grants }))
}

/// A secret whose holder may make tables.
fn maker(engine: &dyn Engine) -> SecretDefinition {
    let grants = ["GRANT USAGE, CREATE ON SCHEMA app TO {{role}}", "GRANT CREATE ON DATABASE second TO {{role}}"];
    secret("prod-db/orders-rw", engine, serde_json::json!({ "grants": grants }))
}

pub async fn log_in(cluster: &Postgres, issued: &Issued, database: &str) -> Result<Client, tokio_postgres::Error> {
    cluster.connect(attribute(issued, "username"), issued.value.expose(), database).await
}

pub fn attribute<'a>(issued: &'a Issued, name: &str) -> &'a str {
    &issued.attributes.iter().find(|(key, _)| *key == name).unwrap().1
}

struct Login;

#[async_trait]
impl Probe for Login {
    async fn works(&self, issued: &Issued) -> bool {
        let cluster = cluster().await.unwrap();
        match log_in(cluster, issued, attribute(issued, "dbname")).await {
            Ok(client) => client.query_one("SELECT id FROM app.orders", &[]).await.is_ok(),
            Err(_) => false,
        }
    }
}

async fn harness_of(door: Door) -> Option<Harness> {
    let engine = Arc::new(build(config(cluster().await?, door)));
    let secret = reader(&*engine);
    Some(Harness { engine, secret, probe: Box::new(Login) })
}

mod socket {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(super::Door::Socket).await
    }
    crate::contract!(harness);
}

mod tls {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(super::Door::Tls).await
    }
    crate::contract!(harness);
}

async fn role_exists(cluster: &Postgres, issued: &Issued) -> bool {
    let rows = cluster.superuser("app").await.query("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&attribute(issued, "username")]).await;
    !rows.unwrap().is_empty()
}

/// Whether the session is gone within a moment: its server process ends after the answer to whoever ended it.
async fn is_dead(client: &Client) -> bool {
    for _ in 0..100 {
        if client.simple_query("SELECT 1").await.is_err() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    false
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_sessions_end_with_the_lease_even_while_they_hold_locks() {
    let Some(cluster) = cluster().await else { return };
    for door in [Door::Socket, Door::Tls] {
        let engine = build(config(cluster, door));
        let (asked, secret) = (Asked::new(), reader(&engine));
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        let (idle, locking) = (log_in(cluster, &issued, "app").await.unwrap(), log_in(cluster, &issued, "second").await.unwrap());
        // A change of its own password, not committed, locks the role's row against everybody who would forbid its login.
        let own = format!("BEGIN; ALTER ROLE {} PASSWORD 'changed by its holder'", attribute(&issued, "username"));
        locking.batch_execute(&own).await.unwrap();
        let busy = log_in(cluster, &issued, "app").await.unwrap();
        let work = tokio::spawn(async move { busy.simple_query("SELECT pg_sleep(60)").await.is_err() });
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        assert!(is_dead(&idle).await && is_dead(&locking).await && work.await.unwrap());
        assert!(log_in(cluster, &issued, "app").await.is_err());
        assert!(!role_exists(cluster, &issued).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_holder_made_is_kept_by_an_heir_in_every_database() {
    let Some(cluster) = cluster().await else { return };
    for (door, table) in [(Door::Socket, "made_by_socket"), (Door::Tls, "made_by_tls")] {
        let engine = build(config(cluster, door));
        let (asked, mut secret) = (Asked::new(), maker(&engine));
        if let Door::Tls = door {
            // Without superuser's rights an engine grants what it was granted, and hands over to a role it is a member of.
            secret.settings["grants"][0] = "GRANT app_owner TO {{role}}".into();
            secret.settings.insert("reassign_to".into(), "app_owner".into());
        }
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        let app = log_in(cluster, &issued, "app").await.unwrap();
        let make = format!("CREATE TABLE app.{table} (id int); ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC");
        app.batch_execute(&make).await.unwrap();
        let second = log_in(cluster, &issued, "second").await.unwrap();
        second.batch_execute(&format!("CREATE SCHEMA {table}; CREATE TABLE {table}.t (id int)")).await.unwrap();
        second.batch_execute(&format!("BEGIN; INSERT INTO {table}.t VALUES (1)")).await.unwrap();
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        assert!(!role_exists(cluster, &issued).await);
        let heir = if let Door::Tls = door { "app_owner" } else { "claviger_owner" };
        for (database, name) in [("app", table), ("second", "t")] {
            let sql = "SELECT tableowner::text FROM pg_tables WHERE tablename = $1 AND schemaname IN ('app', $2)";
            let row = cluster.superuser(database).await.query_one(sql, &[&name, &table]).await.unwrap();
            assert_eq!(row.get::<_, String>(0), heir, "{database}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_holder_made_never_goes_to_a_powerful_role() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Socket));
    let (asked, mut secret) = (Asked::new(), maker(&engine));
    secret.settings.insert("reassign_to".into(), "postgres".into());
    assert!(engine.check(&secret).is_err(), "the engine's own role");
    cluster.superuser("app").await.batch_execute("CREATE ROLE other_root SUPERUSER").await.unwrap();
    secret.settings.insert("reassign_to".into(), "other_root".into());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let session = log_in(cluster, &issued, "app").await.unwrap();
    session.batch_execute("CREATE FUNCTION app.trap() RETURNS int SECURITY DEFINER LANGUAGE sql AS 'SELECT 1'").await.unwrap();
    assert!(matches!(engine.end(asked.lease, &issued.reference).await, Err(EngineError::Setup(_))));
    assert!(is_dead(&session).await && log_in(cluster, &issued, "app").await.is_err(), "dead all the same");
    cluster.superuser("app").await.batch_execute("ALTER ROLE other_root NOSUPERUSER").await.unwrap();
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked, "once the operator has mended it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_role_lets_nobody_in_and_a_renewed_one_does() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Tls));
    let (mut asked, secret) = (Asked::new(), reader(&engine));
    asked.expires = WallTime(now().0 - 1_000_000);
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    assert!(log_in(cluster, &issued, "app").await.is_err());
    asked.expires = WallTime(now().0 + 60_000_000);
    engine.renew(&asked.order(&secret), &issued.reference).await.unwrap();
    log_in(cluster, &issued, "app").await.unwrap();
    engine.end(asked.lease, &issued.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_says_whose_it_is_and_the_server_never_sees_its_password() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Tls));
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    log_in(cluster, &issued, "app").await.unwrap();
    let sql = "SELECT shobj_description(oid, 'pg_authid'), rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls \
               FROM pg_roles WHERE rolname = $1";
    let row = cluster.superuser("app").await.query_one(sql, &[&attribute(&issued, "username")]).await.unwrap();
    let comment: serde_json::Value = serde_json::from_str(row.get(0)).unwrap();
    assert_eq!(comment["claviger"], asked.lease.to_string());
    assert_eq!(comment["request"], asked.request.to_string());
    assert_eq!((&comment["identity"], &comment["purpose"]), (&"orders-service".into(), &"serve-orders".into()));
    assert!(!row.get::<_, bool>(1));
    engine.end(asked.lease, &issued.reference).await.unwrap();
    let log = cluster.log();
    assert!(log.contains("CREATE ROLE \"clv_"), "the log shows statements, so it would show a password");
    assert!(!log.contains(std::str::from_utf8(issued.value.expose()).unwrap()));
}
