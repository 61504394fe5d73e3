//! Static roles of PostgreSQL under the contract, and what changing their passwords promises. Against a real server.

use crate::{
    postgres::{Door, attribute, cluster, config, log_in, mark},
    suite::{Asked, Harness, Probe, secret},
    support::{BROKER, Postgres},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SeededRandom, SystemRandom},
    engine::{
        Engine, EngineError, Issued, Mark, Version,
        local::LocalStore,
        postgres::{PostgresConfig, PostgresEngine},
    },
    model::{EndsBy, SecretBytes, SecretDefinition},
    sys::SystemClock,
};
use std::sync::Arc;
use tokio_postgres::error::SqlState;

const OLD: &str = "what-the-administrator-gave-it";

/// An engine with a store of its own.
struct Rig {
    engine: PostgresEngine,
    store: Arc<LocalStore>,
    _folder: tempfile::TempDir,
}

/// A store in a folder of its own, which goes with the folder.
pub fn store(folder: &tempfile::TempDir) -> Arc<LocalStore> {
    let master = SealKey::from_bytes(&[3; 32]).unwrap();
    let place = folder.path().canonicalize().unwrap().join("store");
    Arc::new(LocalStore::open(&place, master, None, Arc::new(SeededRandom::new(4)), Arc::new(SystemClock)).unwrap())
}

fn engine_of(config: PostgresConfig, mark: &Mark, store: &Arc<LocalStore>) -> PostgresEngine {
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    PostgresEngine::new(config, mark.clone(), &root, store.clone(), Arc::new(SystemClock), Arc::new(SystemRandom::default())).unwrap()
}

fn rig(config: PostgresConfig) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    Rig { engine: engine_of(config, &mark(), &store), store, _folder: folder }
}

impl Rig {
    /// The same after a crash: nothing but the store is left.
    fn again(&self, config: PostgresConfig) -> PostgresEngine {
        engine_of(config, &mark(), &self.store)
    }
}

/// Roles that are there, as an administrator made them for an application, and gave the engine's role what it needs.
async fn roles(cluster: &Postgres, us: &str, names: &[&str]) {
    let client = cluster.superuser("app").await;
    let version: i32 = client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0);
    for name in names {
        let make = format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{OLD}'; COMMENT ON ROLE {name} IS 'the legacy application';
             GRANT USAGE ON SCHEMA app TO {name}; GRANT SELECT ON app.orders TO {name}"
        );
        // Tests that change the rights of one table at the same moment are answered with an error ("tuple concurrently updated").
        let mut made = client.batch_execute(&make).await;
        for _ in 0..200 {
            match &made {
                Err(why) if why.code() == Some(&SqlState::INTERNAL_ERROR) => made = client.batch_execute(&make).await,
                _ => break,
            }
        }
        made.unwrap();
        // Before 16, CREATEROLE is enough.
        if version >= 160_000 {
            client.batch_execute(&format!("GRANT {name} TO {us} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE")).await.unwrap();
        }
    }
}

fn one(engine: &dyn Engine, role: &str) -> SecretDefinition {
    secret(&format!("legacy/{role}"), engine, serde_json::json!({ "static_role": role }))
}

fn two(engine: &dyn Engine, role: &str, other: &str) -> SecretDefinition {
    secret(&format!("legacy/{role}"), engine, serde_json::json!({ "static_roles": [role, other] }))
}

async fn issue(engine: &dyn Engine, secret: &SecretDefinition) -> Issued {
    engine.issue(&Asked::new().order(secret)).await.unwrap()
}

async fn works(issued: &Issued) -> bool {
    Login.works(issued).await
}

struct Login;

#[async_trait]
impl Probe for Login {
    async fn works(&self, issued: &Issued) -> bool {
        match log_in(cluster().await.unwrap(), issued, attribute(issued, "dbname")).await {
            Ok(client) => client.query_one("SELECT id FROM app.orders", &[]).await.is_ok(),
            Err(_) => false,
        }
    }
}

/// Each law has a role of its own.
async fn harness_of(count: usize) -> Option<(Harness, tempfile::TempDir)> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let cluster = cluster().await?;
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let names = [format!("law_{n}_a"), format!("law_{n}_b")];
    let names: Vec<&str> = names[..count].iter().map(String::as_str).collect();
    roles(cluster, BROKER, &names).await;
    let Rig { engine, store: _, _folder } = rig(config(cluster, Door::Tls));
    let secret = if let [role, other] = names[..] { two(&engine, role, other) } else { one(&engine, names[0]) };
    engine.rotate(&secret).await.unwrap();
    Some((Harness { engine: Arc::new(engine), secret, probe: Box::new(Login) }, _folder))
}

mod role {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(1).await.map(|(harness, _)| harness)
    }
    crate::contract!(harness);
}

mod pair {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of(2).await.map(|(harness, _)| harness)
    }
    crate::contract!(harness);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_taken_over_and_its_password_changed() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, BROKER, &["legacy_a"]).await;
    let Rig { engine, .. } = &rig(config(cluster, Door::Tls));
    let secret = one(engine, "legacy_a");
    assert_eq!((secret.ends_by, engine.can_rotate(&secret)), (EndsBy::None, true));
    // Nothing is taken over by asking for it.
    assert!(matches!(engine.issue(&Asked::new().order(&secret)).await, Err(EngineError::NoValue)));
    assert_eq!(engine.newest(&secret).await.unwrap(), None);
    cluster.connect("legacy_a", OLD.as_bytes(), "app").await.unwrap();
    assert_eq!(engine.rotate(&secret).await.unwrap().number, 1);
    assert!(cluster.connect("legacy_a", OLD.as_bytes(), "app").await.is_err(), "the old password");
    let first = issue(engine, &secret).await;
    assert!(works(&first).await && engine.is_newest(&secret, &first.reference));
    let comment = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = 'legacy_a'";
    let comment: String = cluster.superuser("app").await.query_one(comment, &[]).await.unwrap().get(0);
    assert_eq!(comment, format!("the legacy application [claviger {} legacy/legacy_a]", mark()));
    let second = engine.rotate(&secret).await.unwrap();
    assert_eq!((second.number, engine.newest(&secret).await.unwrap()), (2, Some(second)));
    assert!(!works(&first).await, "the password before");
    let asked = Asked::new();
    assert!(matches!(engine.read(&asked.order(&secret), &first.reference).await, Err(EngineError::NoValue)));
    assert!(matches!(engine.read_now(&asked.order(&secret), &first.reference), Some(Err(EngineError::NoValue))));
    assert!(matches!(engine.renew(&asked.order(&secret), &first.reference).await, Err(EngineError::NoValue)));
    assert!(!engine.is_newest(&secret, &first.reference));
    let now = issue(engine, &secret).await;
    assert!(works(&now).await && attribute(&now, "version") == "2" && attribute(&now, "username") == "legacy_a");
    let log = cluster.log();
    for issued in [&first, &now] {
        assert!(!log.contains(std::str::from_utf8(issued.value.expose()).unwrap()), "the server's log has a clear password");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_roles_the_one_that_is_not_in_use_is_changed() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, BROKER, &["turn_a", "turn_b"]).await;
    let Rig { engine, .. } = &rig(config(cluster, Door::Tls));
    let secret = two(engine, "turn_a", "turn_b");
    let mut issued: Vec<Issued> = Vec::new();
    for n in 1..=4 {
        assert_eq!(engine.rotate(&secret).await.unwrap().number, n);
        issued.push(issue(engine, &secret).await);
        assert_eq!(attribute(&issued[issued.len() - 1], "username"), if n % 2 == 1 { "turn_a" } else { "turn_b" });
        for (at, one) in issued.iter().enumerate() {
            let lives = at + 2 >= issued.len();
            assert_eq!(works(one).await, lives, "version {} after {n}", at + 1);
            let read = engine.read(&Asked::new().order(&secret), &one.reference).await;
            assert_eq!(read.is_ok_and(|read| read.value.expose() == one.value.expose()), lives);
            assert_eq!(engine.is_newest(&secret, &one.reference), at + 1 == issued.len());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_short_after_the_server_was_told_the_new_password_is_found_and_given() {
    let Some(cluster) = cluster().await else { return };
    for (role, other) in [("late_a", None), ("late_b", Some("late_c"))] {
        roles(cluster, BROKER, &[role]).await;
        let rig = rig(config(cluster, Door::Tls));
        let mut secret = one(&rig.engine, role);
        if let Some(other) = other {
            roles(cluster, BROKER, &[other]).await;
            secret = two(&rig.engine, role, other);
        }
        rig.engine.rotate(&secret).await.unwrap();
        let first = issue(&rig.engine, &secret).await;
        // The password is looked at, and then nobody gets in: the daemon learns nothing of what it set.
        let admin = cluster.superuser("app").await;
        let changed = other.unwrap_or(role);
        admin.batch_execute(&format!("ALTER ROLE {changed} SET session_preload_libraries = 'no_such_library'")).await.unwrap();
        let failed = rig.engine.rotate(&secret).await;
        assert!(failed.is_err(), "a password that was not tried is not given");
        admin.batch_execute(&format!("ALTER ROLE {changed} RESET session_preload_libraries")).await.unwrap();
        assert_eq!(works(&first).await, other.is_some(), "the server has the new one");
        let after = rig.again(config(cluster, Door::Tls));
        let given = issue(&after, &secret).await;
        assert!(works(&given).await, "what is given after a crash works: {:?}", given.reference);
        let done = after.rotate(&secret).await.unwrap();
        let given = issue(&after, &secret).await;
        assert!(works(&given).await && attribute(&given, "version") == done.number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_short_before_the_server_did_it_the_old_password_is_given() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, BROKER, &["early"]).await;
    let rig = rig(config(cluster, Door::Tls));
    let secret = one(&rig.engine, "early");
    rig.engine.rotate(&secret).await.unwrap();
    // Somebody else is changing the role: ours waits, and gives up.
    let admin = cluster.superuser("app").await;
    admin.batch_execute("BEGIN; ALTER ROLE early CONNECTION LIMIT 50").await.unwrap();
    assert!(matches!(rig.engine.rotate(&secret).await, Err(EngineError::Unreachable(_))));
    let after = rig.again(config(cluster, Door::Tls));
    let given = issue(&after, &secret).await;
    assert!(works(&given).await && attribute(&given, "version") == "1");
    admin.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(after.newest(&secret).await.unwrap().unwrap().number, 1);
    assert_eq!(after.rotate(&secret).await.unwrap().number, 2);
    assert!(!works(&given).await && works(&issue(&after, &secret).await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_somebody_else_changed_is_noticed() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, BROKER, &["meddled"]).await;
    let Rig { engine, .. } = &rig(config(cluster, Door::Tls));
    let secret = one(engine, "meddled");
    engine.rotate(&secret).await.unwrap();
    cluster.superuser("app").await.batch_execute("ALTER ROLE meddled PASSWORD 'by hand'").await.unwrap();
    let Err(EngineError::Refused(why)) = engine.newest(&secret).await else { panic!("nobody noticed") };
    assert!(why.contains("meddled") && why.contains("somebody else has changed its password"), "{why}");
    let mended = engine.rotate(&secret).await.unwrap();
    assert_eq!(engine.newest(&secret).await.unwrap(), Some(mended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permission_that_is_lost_is_named_and_the_password_stays() {
    let Some(cluster) = cluster().await else { return };
    let admin = cluster.superuser("app").await;
    admin.batch_execute("CREATE ROLE keeper LOGIN CREATEROLE PASSWORD 'keepers'").await.unwrap();
    roles(cluster, "keeper", &["kept"]).await;
    let as_keeper = || {
        let mut config = config(cluster, Door::Tls);
        (config.user, config.password) = ("keeper".into(), Some(SecretBytes::new(b"keepers".to_vec())));
        config
    };
    let rig = rig(as_keeper());
    let secret = one(&rig.engine, "kept");
    rig.engine.rotate(&secret).await.unwrap();
    admin.batch_execute("ALTER ROLE keeper NOCREATEROLE").await.unwrap();
    let Err(EngineError::Setup(why)) = rig.engine.rotate(&secret).await else { panic!("it was changed without the right to") };
    assert!(why.contains("GRANT \"kept\" TO \"keeper\" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"), "{why}");
    let given = issue(&rig.again(as_keeper()), &secret).await;
    assert!(works(&given).await && attribute(&given, "version") == "1");
    admin.batch_execute("ALTER ROLE keeper CREATEROLE").await.unwrap();
    assert_eq!(rig.engine.rotate(&secret).await.unwrap().number, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_daemons_do_not_change_one_role_against_each_other() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, BROKER, &["contested"]).await;
    let (here, elsewhere) = (rig(config(cluster, Door::Tls)), tempfile::tempdir().unwrap());
    let other = engine_of(config(cluster, Door::Tls), &Mark::new(b"another machine", b"state"), &store(&elsewhere));
    let secret = one(&here.engine, "contested");
    // Both at once, several times: one of them has it from then on.
    let done: Vec<Result<Version, EngineError>> = vec![here.engine.rotate(&secret).await, other.rotate(&secret).await];
    let Err(EngineError::Setup(why)) = &done[1] else { panic!("the second took it over: {:?}", done[1].as_ref().ok()) };
    assert!(done[0].is_ok() && why.contains(&format!("another daemon ({} legacy/contested)", mark())), "{why}");
    assert!(works(&issue(&here.engine, &secret).await).await);
    // Another secret of the same daemon is as much another.
    let second = self::secret("legacy/other", &here.engine, serde_json::json!({ "static_role": "contested" }));
    assert!(matches!(here.engine.rotate(&second).await, Err(EngineError::Setup(_))));
    cluster.superuser("app").await.batch_execute("COMMENT ON ROLE contested IS 'handed over'").await.unwrap();
    // At the same moment: the row's lock decides.
    let (one, another) = tokio::join!(here.engine.rotate(&secret), other.rotate(&secret));
    assert!(one.is_ok() != another.is_ok(), "{one:?} {another:?}");
    let (winner, loser): (&dyn Engine, &dyn Engine) = if one.is_ok() { (&here.engine, &other) } else { (&other, &here.engine) };
    assert!(works(&issue(winner, &secret).await).await && loser.rotate(&secret).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_prove_nothing_or_lock_somebody_out_is_refused_before_anything_is_changed() {
    let Some(cluster) = cluster().await else { return };
    roles(cluster, "postgres", &["trusting", "shut", "dated", "elsewhere", "crowded"]).await;
    let admin = cluster.superuser("app").await;
    let make = "ALTER ROLE shut NOLOGIN; ALTER ROLE dated VALID UNTIL '2001-01-01'; CREATE DATABASE closed; REVOKE CONNECT ON DATABASE closed FROM PUBLIC";
    for statement in make.split("; ") {
        admin.batch_execute(statement).await.unwrap();
    }
    let Rig { engine, .. } = &rig(config(cluster, Door::Socket));
    for (role, database, what) in [
        ("trusting", "app", "whatever its password is"),
        ("shut", "app", "may not log in"),
        ("dated", "app", "may not log in"),
        ("elsewhere", "closed", "may not connect to the database closed"),
        ("nobody_of_that_name", "app", "is not there"),
    ] {
        let secret = secret("legacy/x", engine, serde_json::json!({ "static_role": role, "database": database }));
        let Err(EngineError::Setup(why)) = engine.rotate(&secret).await else { panic!("{role}") };
        assert!(why.contains(what) && why.contains(role), "{why}");
    }
    cluster.connect("elsewhere", OLD.as_bytes(), "app").await.expect("nothing was changed");
    // The engine's own login would end with it.
    let own = secret("legacy/x", engine, serde_json::json!({ "static_role": "postgres" }));
    assert!(engine.check(&own).unwrap_err().contains("engine's own"));
    // An application that has all the connections of its role is no obstacle.
    admin.batch_execute("ALTER ROLE crowded CONNECTION LIMIT 1").await.unwrap();
    let _session = cluster.connect("crowded", OLD.as_bytes(), "app").await.unwrap();
    assert_eq!(engine.rotate(&one(engine, "crowded")).await.unwrap().number, 1);
}
