//! PostgreSQL: what the engine's own role may do is taken away while it runs, and given back. On a server of its own: others need that role.

use crate::{
    postgres::{Door, attribute, build, config, log_in, reader},
    stand_in::until_settled,
    suite::Asked,
    support::{BROKER, BROKER_PASSWORD, Postgres},
};
use claviger::{
    engine::{Engine, EngineError, postgres::PostgresConfig},
    model::EndResult,
};
use std::time::Duration;

/// Roles of ours that are at the server.
async fn roles(cluster: &Postgres) -> usize {
    let sql = "SELECT 1 FROM pg_roles WHERE starts_with(rolname::text, 'clv_')";
    cluster.superuser("app").await.query(sql, &[]).await.unwrap().len()
}

fn engine(cluster: &Postgres) -> claviger::engine::postgres::PostgresEngine {
    build(PostgresConfig { call_timeout: Duration::from_secs(5), max_connections: 4, ..config(cluster, Door::Tls) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_createrole_nothing_is_made_and_no_end_is_said_to_be_done() {
    let Some(cluster) = Postgres::start().await else { return };
    let administrator = cluster.superuser("app").await;
    let engine = engine(&cluster);
    let (held, lost, late, secret) = (Asked::new(), Asked::new(), Asked::new(), reader(&engine));
    let issued = engine.issue(&held.order(&secret)).await.unwrap();
    engine.issue(&lost.order(&secret)).await.unwrap();
    let session = log_in(&cluster, &issued, "app").await.unwrap();
    administrator.batch_execute(&format!("ALTER ROLE {BROKER} NOCREATEROLE")).await.unwrap();
    // On connections that are open, and on new ones.
    for _ in 0..2 {
        let made = engine.issue(&late.order(&secret)).await.err();
        let Some(EngineError::Setup(why)) = made else { panic!("{made:?}") };
        assert!(why.starts_with("under-test: making the role: permission denied") && why.contains("(42501)"), "{why}");
        assert_eq!(roles(&cluster).await, 2, "nothing of the third");
        for over in [
            engine.end(held.lease, &issued.reference).await,
            engine.settle(lost.lease, Some(&secret)).await,
            engine.end(lost.lease, &Default::default()).await,
        ] {
            let Err(EngineError::Setup(why)) = over else { panic!("{over:?}") };
            assert!(why.starts_with("under-test: forbidding logins: ") && why.contains("(42501)"), "{why}");
        }
        assert_eq!(roles(&cluster).await, 2, "and what is not done is not said to be");
        let renewed = engine.renew(&held.order(&secret), &issued.reference).await;
        assert!(matches!(&renewed, Err(EngineError::Setup(why)) if why.contains("prolonging the role")), "{renewed:?}");
        let mut listed = engine.inventory().await.unwrap();
        listed.sort();
        assert_eq!(listed, [held.lease, lost.lease], "what is there can be seen all the same");
        let close = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{BROKER}'");
        administrator.simple_query(&close).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Its sessions could be ended: its login could not.
    assert!(session.simple_query("SELECT 1").await.is_err());
    log_in(&cluster, &issued, "app").await.expect("which is why it is not called dead");
    administrator.batch_execute(&format!("ALTER ROLE {BROKER} CREATEROLE")).await.unwrap();
    assert_eq!(engine.end(held.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(engine.settle(lost.lease, Some(&secret)).await.unwrap(), EndResult::Revoked);
    assert_eq!(engine.settle(late.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
    assert!(log_in(&cluster, &issued, "app").await.is_err() && roles(&cluster).await == 0);
    let issued = engine.issue(&late.order(&secret)).await.unwrap();
    assert_eq!(engine.end(late.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

/// The engine's hold on one role: without it, sessions of that role cannot be ended, nor, from PostgreSQL 16 on, its login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_taken_from_the_engine_is_not_said_to_have_ended() {
    let Some(cluster) = Postgres::start().await else { return };
    let administrator = cluster.superuser("app").await;
    let engine = engine(&cluster);
    let (asked, secret) = (Asked::new(), reader(&engine));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let (name, session) = (attribute(&issued, "username"), log_in(&cluster, &issued, "app").await.unwrap());
    // Who granted it: up to 15 the engine itself, later also the server, on behalf of whoever made the role.
    let holds = "SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.grantor JOIN pg_roles r ON r.oid = m.roleid \
                 WHERE r.rolname = $1";
    for held in administrator.query(holds, &[&name]).await.unwrap() {
        let by: String = held.get(0);
        administrator.batch_execute(&format!("REVOKE {name} FROM {BROKER} GRANTED BY {by} CASCADE")).await.unwrap();
    }
    assert!(administrator.query(holds, &[&name]).await.unwrap().is_empty());
    for _ in 0..2 {
        let over = engine.end(asked.lease, &issued.reference).await;
        let Err(EngineError::Setup(why)) = &over else { panic!("{over:?}") };
        assert!(why.starts_with("under-test: ") && why.contains("(42501)"), "{why}");
        assert_eq!(roles(&cluster).await, 1);
    }
    session.simple_query("SELECT 1").await.expect("which is why it is not called dead");
    administrator.batch_execute(&format!("GRANT {name} TO {BROKER} WITH ADMIN OPTION")).await.unwrap();
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert!(session.simple_query("SELECT 1").await.is_err() && roles(&cluster).await == 0);
}

/// What the engine hands out, the database it works in, and its own login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_else_is_taken_away_is_named_and_waited_for() {
    let Some(cluster) = Postgres::start().await else { return };
    let administrator = cluster.superuser("app").await;
    let close = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{BROKER}'");
    let password = format!("ALTER ROLE {BROKER} PASSWORD '{BROKER_PASSWORD}'");
    for (take, give_back, wanted, warns) in [
        (format!("REVOKE app_owner FROM {BROKER}"), format!("GRANT app_owner TO {BROKER} WITH ADMIN OPTION"), "making the role: ", true),
        (format!("ALTER ROLE {BROKER} NOLOGIN"), format!("ALTER ROLE {BROKER} LOGIN"), "connecting to app: ", false),
        (format!("ALTER ROLE {BROKER} PASSWORD 'another'"), password, "connecting to app: password authentication failed", false),
        (
            "REVOKE CONNECT ON DATABASE app FROM PUBLIC".to_owned(),
            "GRANT CONNECT ON DATABASE app TO PUBLIC".to_owned(),
            "connecting to app: permission denied for database",
            false,
        ),
    ] {
        let engine = engine(&cluster);
        let (held, late, secret) = (Asked::new(), Asked::new(), reader(&engine));
        let issued = engine.issue(&held.order(&secret)).await.unwrap();
        administrator.batch_execute(&take).await.unwrap();
        administrator.simple_query(&close).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        let failed = engine.issue(&late.order(&secret)).await.err();
        let Some(EngineError::Setup(why)) = failed else { panic!("{take}: {failed:?}") };
        assert!(why.contains(wanted) && !why.contains(BROKER_PASSWORD), "{take}: {why}");
        if warns {
            // The server makes a role that may do nothing, and only warns.
            assert_eq!(engine.settle(late.lease, Some(&secret)).await.unwrap(), EndResult::Revoked, "{take}");
        }
        assert_eq!(roles(&cluster).await, 1, "{take}");
        let over = engine.end(held.lease, &issued.reference).await;
        assert!(over.is_err() && roles(&cluster).await == 1, "{take}: {over:?}");
        // What cannot be taken back keeps the role, and not its login.
        assert_eq!(log_in(&cluster, &issued, "second").await.is_err(), warns, "{take}");
        administrator.batch_execute(&give_back).await.unwrap();
        // Between tries of a login there are pauses.
        let over = until_settled(async || engine.end(held.lease, &issued.reference).await, |_| true).await;
        assert_eq!((over.result, roles(&cluster).await), (EndResult::Revoked, 0), "{take}");
        assert_eq!(engine.settle(late.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed, "{take}");
        let issued = engine.issue(&late.order(&secret)).await.unwrap_or_else(|error| panic!("{give_back}: {error}"));
        assert_eq!(engine.end(late.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    }
}
