//! PostgreSQL when something is wrong: the settings, the server, the network, or somebody else's hand.

use crate::{
    postgres::{Door, attribute, build, build_as, cluster, config, log_in, reader},
    suite::{Asked, every_wait_has_a_deadline, secret},
    support::{BROKER, BROKER_PASSWORD, Postgres},
};
use claviger::{
    digest::SealKey,
    engine::{
        Engine, EngineError, Mark, Over, UpstreamRef,
        postgres::{PostgresConfig, Server},
    },
    model::{EndResult, EngineName, Proof, SecretBytes},
    sys::{ManualClock, SystemClock},
};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_fails_leaves_nothing_behind() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Tls));
    let asked = Asked::new();
    let grants = ["GRANT USAGE ON SCHEMA app TO {{role}}", "GRANT SELECT ON app.no_such_table TO {{role}}"];
    let secret = secret("prod-db/broken", &engine, serde_json::json!({ "grants": grants }));
    let Err(EngineError::Setup(text)) = engine.issue(&asked.order(&secret)).await else { panic!("a grant on nothing") };
    assert!(text.contains("no_such_table") && text.contains("under-test"), "{text}");
    assert!(!engine.inventory().await.unwrap().contains(&asked.lease));
    assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grants_on_one_table_do_not_collide() {
    let Some(cluster) = cluster().await else { return };
    let stop = Arc::new(AtomicBool::new(false));
    // An administrator who knows nothing of our locks changes the rights of the same table all the while.
    let other = {
        let (stop, client) = (stop.clone(), cluster.superuser("app").await);
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                // May lose a race itself; it is not what is tested.
                let _ = client.batch_execute("GRANT SELECT ON app.orders TO broker").await;
                let _ = client.batch_execute("REVOKE SELECT ON app.orders FROM broker").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let wide = |door| {
        let mut config = config(cluster, door);
        config.max_connections = 4;
        build(config)
    };
    let engines = [wide(Door::Socket), wide(Door::Tls)];
    let rounds = (0..40).map(|n| {
        let engine = &engines[n % 2];
        async move {
            let (asked, secret) = (Asked::new(), reader(engine));
            let issued = engine.issue(&asked.order(&secret)).await.unwrap();
            assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        }
    });
    futures_util::future::join_all(rounds).await;
    stop.store(true, Ordering::Relaxed);
    other.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_issued_outlives_a_crash_of_the_server() {
    let Some(mut cluster) = Postgres::start().await else { return };
    for _ in 0..3 {
        let engine = build(config(&cluster, Door::Socket));
        let (asked, secret) = (Asked::new(), reader(&engine));
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        cluster.stop(true);
        cluster.start_again();
        cluster.serves().await;
        log_in(&cluster, &issued, "app").await.expect("the role was on the server's disk before anybody was answered");
        assert_eq!(build(config(&cluster, Door::Socket)).end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_needs_are_closed() {
    let Some(cluster) = Postgres::start().await else { return };
    let engine = build(PostgresConfig { max_connections: 8, ..config(&cluster, Door::Socket) });
    let (superuser, secret) = (cluster.superuser("app").await, reader(&engine));
    let open = async || {
        let count =
            superuser.query_one("SELECT count(*) FROM pg_stat_activity WHERE starts_with(application_name, 'clavigerd-')", &[]).await;
        count.unwrap().get::<_, i64>(0)
    };
    let asked: Vec<Asked> = (0..32).map(|_| Asked::new()).collect();
    let issued = futures_util::future::join_all(asked.iter().map(async |asked| engine.issue(&asked.order(&secret)).await.unwrap())).await;
    assert!((3..=10).contains(&open().await), "as many as are needed, and no more");
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while open().await > 2 {
        assert!(std::time::Instant::now() < until, "{} stay", open().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(open().await, 2, "one for whatever comes, and one for the next ending");
    for (asked, issued) in asked.iter().zip(&issued) {
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_one_role_are_made_beside_each_other() {
    let Some(cluster) = cluster().await else { return };
    let engines = [Door::Socket, Door::Tls].map(|door| build(PostgresConfig { max_connections: 4, ..config(cluster, door) }));
    let rounds = (0..40).map(|n| {
        let engine = &engines[n % 2];
        async move {
            let asked = Asked::new();
            let secret = secret("prod-db/member", engine, serde_json::json!({ "grants": ["GRANT app_owner TO {{role}}"] }));
            let issued = engine.issue(&asked.order(&secret)).await.unwrap();
            let session = log_in(cluster, &issued, "app").await.unwrap();
            session.batch_execute("SELECT id FROM app.orders").await.unwrap();
            assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        }
    });
    futures_util::future::join_all(rounds).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_comes_into_being_after_it_was_settled() {
    let Some(cluster) = cluster().await else { return };
    let owner = cluster.superuser("app").await;
    owner.batch_execute("CREATE TABLE app.contested (id int)").await.unwrap();
    // Somebody else's uncommitted grant on the same table holds the issue up at the source.
    owner.batch_execute("BEGIN; GRANT SELECT ON app.contested TO broker").await.unwrap();
    let mut impatient = config(cluster, Door::Socket);
    impatient.connect_timeout = Duration::from_millis(200);
    impatient.call_timeout = Duration::from_millis(200);
    let issuer = build(impatient);
    let asked = Asked::new();
    let secret = secret("prod-db/contested", &issuer, serde_json::json!({ "grants": ["GRANT SELECT ON app.contested TO {{role}}"] }));
    assert!(matches!(issuer.issue(&asked.order(&secret)).await, Err(EngineError::Unreachable(_))));
    // Another daemon process, after a restart; it connects to another database than the one the role is being made in.
    let mut restarted = config(cluster, Door::Socket);
    restarted.database = "postgres".into();
    let mut where_made = secret.clone();
    where_made.settings.insert("database".into(), "app".into());
    let settled = build(restarted).settle(asked.lease, Some(&where_made)).await.unwrap();
    owner.batch_execute("COMMIT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!issuer.inventory().await.unwrap().contains(&asked.lease), "settled as {settled:?}, and then it came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_has_not_even_read_does_not_come_about_later() {
    let Some(cluster) = Postgres::start().await else { return };
    // Whoever settles the lease, and whoever lists what there is without knowing of it.
    for listed in [false, true] {
        let (watching, issuer) = (cluster.superuser("app").await, Arc::new(build(config(&cluster, Door::Socket))));
        issuer.inventory().await.unwrap();
        let ours = "SELECT pid FROM pg_stat_activity WHERE starts_with(application_name, 'clavigerd-')";
        let stopped = Stopped::new(watching.query_one(ours, &[]).await.unwrap().get(0));
        let asked = Arc::new(Asked::new());
        let secret = secret("prod-db/member", &*issuer, serde_json::json!({ "grants": ["GRANT app_owner TO {{role}}"] }));
        let issue = tokio::spawn({
            let (issuer, asked, secret) = (issuer.clone(), asked.clone(), secret.clone());
            async move { issuer.issue(&asked.order(&secret)).await.map(drop) }
        });
        // Long enough for the statement to lie there. Whoever asked is gone then.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!issue.is_finished());
        issue.abort();
        let restarted = build(PostgresConfig { database: "postgres".into(), ..config(&cluster, Door::Socket) });
        let found = tokio::spawn({
            let asked = asked.clone();
            async move {
                match listed {
                    true => assert!(restarted.inventory().await.unwrap().is_empty()),
                    false => assert_eq!(restarted.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed),
                }
            }
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!found.is_finished(), "nobody knows yet");
        drop(stopped);
        found.await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let roles = watching.query_one("SELECT count(*) FROM pg_roles WHERE starts_with(rolname::text, 'clv_')", &[]).await.unwrap();
        assert_eq!(roles.get::<_, i64>(0), 0, "it was settled or listed, and then it came");
    }
}

/// A process of the cluster that does nothing until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Self {
        signal("-STOP", pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

fn signal(signal: &str, pid: i32) {
    assert!(std::process::Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_ended_does_not_come_back_with_a_server_that_crashed() {
    let Some(mut cluster) = Postgres::start().await else { return };
    let engine = build(config(&cluster, Door::Socket));
    // On a connection that is open before anybody changes how the server writes.
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let administrator = cluster.superuser("app").await;
    for statement in ["ALTER SYSTEM SET synchronous_commit = off", "ALTER SYSTEM SET wal_writer_delay = '10s'", "SELECT pg_reload_conf()"] {
        administrator.batch_execute(statement).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    // What made it is on the disk, so that what ends it has to be, too.
    administrator.batch_execute("CHECKPOINT").await.unwrap();
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    cluster.stop(true);
    cluster.start_again();
    cluster.serves().await;
    assert!(log_in(&cluster, &issued, "app").await.is_err());
    assert!(!build(config(&cluster, Door::Socket)).inventory().await.unwrap().contains(&asked.lease));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_keeps_the_lock_of_rights_keeps_no_credential_alive() {
    let Some(cluster) = Postgres::start().await else { return };
    let hostile = cluster.connect(BROKER, BROKER_PASSWORD.as_bytes(), "app").await.unwrap();
    hostile.batch_execute("SELECT pg_advisory_lock(1668047222, 1)").await.unwrap();
    let engine = build(PostgresConfig { call_timeout: Duration::from_secs(2), max_connections: 4, ..config(&cluster, Door::Socket) });
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    log_in(&cluster, &issued, "app").await.unwrap();
    // And by several at once, as a death beside an operator's command does it.
    let all = futures_util::future::join_all((0..4).map(|_| engine.end(asked.lease, &issued.reference))).await;
    assert!(all.iter().any(|end| matches!(end, Ok(over) if *over == EndResult::Revoked)), "{all:?}");
    assert!(log_in(&cluster, &issued, "app").await.is_err() && !engine.inventory().await.unwrap().contains(&asked.lease));
}

/// Whoever names another's role in rights on its own things, in a transaction that it leaves open, holds a lock on that role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_names_others_keeps_none_of_them() {
    let Some(cluster) = Postgres::start().await else { return };
    for door in [Door::Socket, Door::Tls] {
        let engine = build(PostgresConfig { max_connections: 4, ..config(&cluster, door) });
        let (hostile, victim, secret) = (Asked::new(), Asked::new(), reader(&engine));
        let (mine, its) = (engine.issue(&hostile.order(&secret)).await.unwrap(), engine.issue(&victim.order(&secret)).await.unwrap());
        let session = log_in(&cluster, &mine, "app").await.unwrap();
        let name = attribute(&its, "username");
        session.batch_execute(&format!("BEGIN; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {name}")).await.unwrap();
        assert_eq!(engine.end(victim.lease, &its.reference).await.unwrap(), EndResult::Revoked);
        assert!(!engine.inventory().await.unwrap().contains(&victim.lease));
        assert!(session.simple_query("SELECT 1").await.is_err(), "who was in the way has lost its session");
        log_in(&cluster, &mine, "app").await.expect("and nothing else");
        assert_eq!(engine.end(hostile.lease, &mine.reference).await.unwrap(), EndResult::Revoked);
    }
}

/// Up to PostgreSQL 15 a role may let others act as it, and so change its row and leave that open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_acts_as_another_does_not_keep_it_alive() {
    let Some(cluster) = Postgres::start().await else { return };
    let administrator = cluster.superuser("app").await;
    administrator.batch_execute("CREATE ROLE passer_by LOGIN PASSWORD 'p'").await.unwrap();
    for (door, ours) in [(Door::Socket, true), (Door::Tls, true), (Door::Socket, false)] {
        let engine = build(PostgresConfig { max_connections: 4, ..config(&cluster, door) });
        let (one, other, secret) = (Asked::new(), Asked::new(), reader(&engine));
        let (ended, stays) = (engine.issue(&one.order(&secret)).await.unwrap(), engine.issue(&other.order(&secret)).await.unwrap());
        let (name, friend) = (attribute(&ended, "username"), if ours { attribute(&stays, "username") } else { "passer_by" });
        let session = log_in(&cluster, &ended, "app").await.unwrap();
        if session.batch_execute(&format!("GRANT {name} TO {friend}")).await.is_err() {
            return; // A later server: it needs a right that no holder has.
        }
        let password = if ours { stays.value.expose() } else { b"p" };
        let acting = cluster.connect(friend, password, "app").await.unwrap();
        acting.batch_execute(&format!("SET ROLE {name}; BEGIN; ALTER ROLE {name} PASSWORD 'of its own'")).await.unwrap();
        assert_eq!(engine.end(one.lease, &ended.reference).await.unwrap(), EndResult::Revoked);
        assert!(log_in(&cluster, &ended, "app").await.is_err() && acting.simple_query("SELECT 1").await.is_err());
        assert_eq!(engine.end(other.lease, &stays.reference).await.unwrap(), EndResult::Revoked);
    }
}

/// Connections are kept for endings before anything is made that has to be ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_all_connections_keeps_no_credential_alive() {
    let Some(cluster) = Postgres::start_for(24).await else { return };
    let call_timeout = Duration::from_secs(2);
    let engine = build(PostgresConfig { max_connections: 2, call_timeout, ..config(&cluster, Door::Tls) });
    let (one, elsewhere, secret) = (Asked::new(), Asked::new(), reader(&engine));
    let issued = engine.issue(&one.order(&secret)).await.unwrap();
    // Which closes the connection that was there for the first.
    let mut second = secret.clone();
    second.settings.insert("database".into(), "second".into());
    second.settings.insert("grants".into(), serde_json::json!(["GRANT CREATE ON DATABASE second TO {{role}}"]));
    let beside = engine.issue(&elsewhere.order(&second)).await.unwrap();
    let mut sessions = Vec::new();
    for issued in [&issued, &beside] {
        while let Ok(session) = log_in(&cluster, issued, "app").await {
            sessions.push(session);
        }
    }
    assert!(sessions.len() > 10, "{}", sessions.len());
    // One of them is at something that does not look up: its end is not done. Nor is the way lost by which others end, whoever takes what is
    // free by then.
    let pid = sessions[0].query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let stopped = Stopped::new(pid);
    assert!(matches!(engine.end(one.lease, &issued.reference).await, Err(EngineError::Unreachable(_))));
    assert!(log_in(&cluster, &issued, "app").await.is_err(), "but nobody logs in with it any more");
    while let Ok(session) = log_in(&cluster, &beside, "app").await {
        sessions.push(session);
    }
    assert_eq!(engine.end(elsewhere.lease, &beside.reference).await.unwrap(), EndResult::Revoked);
    drop(stopped);
    assert_eq!(engine.end(one.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_role_is_not_at_another_server_proves_nothing() {
    let (Some(cluster), Some(another)) = (cluster().await, Postgres::start().await) else { return };
    let (engine, moved) = (build(config(cluster, Door::Socket)), build(config(&another, Door::Socket)));
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let administrator = another.superuser("app").await;
    // Nor that it is there no more: it may have been copied.
    for copied in [false, true] {
        if copied {
            administrator.batch_execute(&format!("CREATE ROLE {} LOGIN", attribute(&issued, "username"))).await.unwrap();
        }
        let Err(EngineError::Unreachable(text)) = moved.end(asked.lease, &issued.reference).await else { panic!("it lives at the first") };
        assert!(text.contains("another server"), "{text}");
        assert!(moved.inventory().await.unwrap().is_empty(), "the copy is no credential any more");
    }
    log_in(cluster, &issued, "app").await.expect("nobody has ended it");
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked, "here it was looked for where it was");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_endings_at_once_fail_nobody() {
    let Some(cluster) = Postgres::start().await else { return };
    let engine = build(PostgresConfig { call_timeout: Duration::from_secs(3), max_connections: 2, ..config(&cluster, Door::Socket) });
    let secret = secret("prod-db/member", &engine, serde_json::json!({ "grants": ["GRANT app_owner TO {{role}}"], "scram_iterations": 1 }));
    let mut leases = Vec::new();
    // Together they take longer than any of them may.
    for _ in 0..2000 {
        let asked = Asked::new();
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        leases.push((asked.lease, issued.reference));
    }
    let late = Asked::new();
    let order = late.order(&secret);
    let (ended, issued) = tokio::join!(
        futures_util::future::join_all(leases.iter().map(async |(lease, reference)| engine.end(*lease, reference).await)),
        engine.issue(&order),
    );
    let failed: Vec<_> = ended.iter().filter(|end| !matches!(end, Ok(over) if *over == EndResult::Revoked)).collect();
    assert!(failed.is_empty(), "{} of them: {:?}", failed.len(), failed.first());
    let issued = issued.expect("whoever asks meanwhile does not wait for them");
    assert_eq!(engine.end(late.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert!(engine.inventory().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_a_role_that_somebody_dropped_are_ended_too() {
    let Some(cluster) = cluster().await else { return };
    let engine = build(config(cluster, Door::Socket));
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let session = log_in(cluster, &issued, "app").await.unwrap();
    let drop = format!("DROP OWNED BY {0}; DROP ROLE {0}", attribute(&issued, "username"));
    let administrator = cluster.superuser("app").await;
    // Other tests change the rights of the same table, which the server answers with an error, not with waiting.
    while administrator.batch_execute(&drop).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    session.simple_query("SELECT 1").await.expect("a dropped role goes on working in an open session");
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(session.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_touches_only_what_bears_its_mark() {
    let Some(cluster) = cluster().await else { return };
    let ours = build(config(cluster, Door::Socket));
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    let mark = Mark::new(b"machine", b"a clone's state");
    let clone = build_as(config(cluster, Door::Socket), mark, &root, Arc::new(SystemClock)).unwrap();
    let (asked, secret) = (Asked::new(), reader(&ours));
    let issued = ours.issue(&asked.order(&secret)).await.unwrap();
    assert!(!clone.inventory().await.unwrap().contains(&asked.lease));
    assert!(matches!(clone.end(asked.lease, &issued.reference).await, Err(EngineError::Setup(_))));
    assert_eq!(clone.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
    log_in(cluster, &issued, "app").await.expect("the clone did not touch it");
    ours.end(asked.lease, &issued.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_met_with_a_new_one() {
    let Some(cluster) = cluster().await else { return };
    // A database of its own, so that no other test's connections are cut.
    let administrator = cluster.superuser("app").await;
    administrator.batch_execute("CREATE DATABASE cut").await.unwrap();
    let mut config = config(cluster, Door::Tls);
    config.database = "cut".into();
    let engine = build(config);
    engine.inventory().await.unwrap();
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'cut'";
    administrator.simple_query(cut).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    engine.inventory().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_cannot_prove_its_name_is_told_nothing() {
    let Some(cluster) = cluster().await else { return };
    let stranger = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem().into_bytes();
    let good = cluster.ca_pem.clone().into_bytes();
    for (ca_pem, server_name, key) in [(stranger, None, "(ca_file)"), (good, Some("db.example".to_owned()), "(server_name)")] {
        let mut config = config(cluster, Door::Tls);
        config.server = Server::Tls { host: "localhost".into(), port: cluster.port, ca_pem, server_name };
        let error = build(config).inventory().await.unwrap_err();
        assert!(matches!(&error, EngineError::Setup(text) if text.contains("certificate") && text.contains(key)), "{error}");
    }
    let mut wrong = config(cluster, Door::Tls);
    wrong.password = Some(SecretBytes::new(b"not its password".to_vec()));
    let error = build(wrong).inventory().await.unwrap_err();
    assert!(matches!(&error, EngineError::Setup(text) if !text.contains("not its password")), "{error}");
}

fn nowhere(port: u16) -> PostgresConfig {
    let server = Server::Tls { host: "127.0.0.1".into(), port, ca_pem: certificate(), server_name: None };
    let mut config = PostgresConfig::new(EngineName::parse("under-test").unwrap(), server, "broker");
    config.connect_timeout = Duration::from_millis(200);
    config.call_timeout = Duration::from_millis(300);
    config
}

fn certificate() -> Vec<u8> {
    rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap().cert.pem().into_bytes()
}

#[tokio::test]
async fn a_server_that_never_answers_costs_no_more_than_the_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let engine = build(nowhere(silent.local_addr().unwrap().port()));
    every_wait_has_a_deadline(&engine, &reader(&engine), Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_said_to_be_unreachable_and_left_alone_for_a_while() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let clock = Arc::new(ManualClock::new(1, 1));
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    let engine = build_as(nowhere(closed), Mark::new(b"m", b"s"), &root, clock.clone()).unwrap();
    let text = async || match engine.end(Asked::new().lease, &UpstreamRef::default()).await {
        Err(EngineError::Unreachable(text)) => text,
        other => panic!("{other:?}"),
    };
    assert!(text().await.contains("refused"));
    assert!(text().await.contains("a moment ago"), "no second try at once");
    clock.advance(100_000);
    assert!(text().await.contains("refused"), "but another one later");
    clock.advance(100_000);
    assert!(text().await.contains("a moment ago"), "after twice the time");
    // Who did not get through to it at all owes it nothing, however long it is away.
    for settings in [json!({"grants": ["GRANT app_ro TO {{role}}"]}), json!({"static_role": "app_ro"})] {
        let row = secret("db/away", &engine, settings);
        let asked = Asked::new();
        assert!(engine.issue(&asked.order(&row)).await.is_err());
        assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), Over::lapsed(Proof::NEVER));
        // Once: whoever asks again is not told from memory.
        assert!(engine.settle(asked.lease, Some(&row)).await.is_err());
    }
}

#[test]
fn a_configuration_that_cannot_work_is_refused_at_start() {
    let build = |change: &dyn Fn(&mut PostgresConfig)| {
        let mut config = nowhere(1);
        change(&mut config);
        let root = SealKey::from_bytes(&[9; 32]).unwrap();
        build_as(config, Mark::new(b"m", b"s"), &root, Arc::new(SystemClock)).map(drop)
    };
    build(&|_| {}).unwrap();
    assert!(build(&|config| config.max_connections = 0).is_err());
    assert!(build(&|config| config.max_connections = 9).is_err());
    assert!(build(&|config| config.reassign_to = "broker".into()).is_err());
    assert!(build(&|config| config.database = "x".repeat(64)).is_err());
    assert!(build(&|config| config.call_timeout = Duration::from_millis(1)).is_err());
    for ca_pem in [b"".to_vec(), b"not PEM".to_vec()] {
        let server = |ca_pem: &Vec<u8>| Server::Tls { host: "h".into(), port: 1, ca_pem: ca_pem.clone(), server_name: None };
        assert!(build(&|config| config.server = server(&ca_pem)).is_err());
    }
}
