//! The engine in a namespace of a real OpenBao: what it makes, finds and ends is of that namespace, and nothing outside of it.

use crate::{
    openbao::{Database, LIMIT, approle, engine, engine_at, logs_in, roles, row},
    openbao_server::OpenBao,
    suite::{Asked, Harness, Probe, secret},
    support::{BROKER, BROKER_PASSWORD, Postgres},
};
use async_trait::async_trait;
use claviger::{
    engine::{Engine, EngineError, Issued, UpstreamRef, openbao::OpenBaoEngine},
    model::{EndResult, Finding, ProofBy},
    outbound::{Limits, Method},
    sys::{Clock, ManualClock, SystemClock},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// In the paths of the API, and as claviger is told.
const SPACE: &str = "team/web/";
const NAMESPACE: &str = "team/web";

/// A server with the same at its root and in a namespace below another.
async fn server() -> Option<OpenBao> {
    let server = OpenBao::start().await?;
    server.put("sys/namespaces/team", json!({})).await;
    server.put("team/sys/namespaces/web", json!({})).await;
    server.prepare().await;
    server.prepare_in(SPACE).await;
    Some(server)
}

/// An engine that logs in there and is in that namespace.
async fn spaced(server: &OpenBao, clock: Arc<dyn Clock>) -> OpenBaoEngine {
    let (role_id, secret_id) = server.approle_in(SPACE, json!({"token_policies": "claviger", "token_ttl": "20m"})).await;
    let (_folder, store) = crate::local::store();
    let client = server.client(Limits { call: LIMIT, ..Limits::default() });
    engine_at(Some(NAMESPACE), clock, store, client, approle(role_id, secret_id), b"state", LIMIT)
}

fn text(issued: &Issued) -> &str {
    std::str::from_utf8(issued.value.expose()).unwrap()
}

async fn stage() -> Option<(Postgres, OpenBao)> {
    let (cluster, server) = (Postgres::start().await?, server().await?);
    server.with_database_in(SPACE, cluster.port, (BROKER, BROKER_PASSWORD)).await;
    Some((cluster, server))
}

async fn leased() -> Option<Harness> {
    let (cluster, server) = stage().await?;
    let engine = Arc::new(spaced(&server, Arc::new(SystemClock)).await);
    let secret = row(&*engine, "database/creds/ro");
    Some(Harness { engine, secret, probe: Box::new(Database { server, cluster }) })
}

struct Reader(OpenBao);

#[async_trait]
impl Probe for Reader {
    async fn works(&self, issued: &Issued) -> bool {
        let inside = self.0.call_as(text(issued), Method::Get, &format!("{SPACE}secret/data/app/db"), Value::Null).await;
        let outside = self.0.call_as(text(issued), Method::Get, "secret/data/app/db", Value::Null).await;
        assert_eq!(outside.0, 403, "the same path of the root is another's");
        inside.0 == 200
    }
}

async fn tokens() -> Option<Harness> {
    let server = server().await?;
    for space in ["", SPACE] {
        server.put(&format!("{space}secret/data/app/db"), json!({"data": {"password": "the value"}})).await;
    }
    let engine = Arc::new(spaced(&server, Arc::new(SystemClock)).await);
    let secret = secret("bao/app", &*engine, json!({"token": {"policies": ["app"]}}));
    Some(Harness { engine, secret, probe: Box::new(Reader(server)) })
}

macro_rules! laws {
    ($harness:path) => {
        // All but those that settle what this engine knows nothing of, or no more: that waits, and has a test of its own below.
        crate::contract!($harness:
            the_definition_is_accepted_and_an_unknown_setting_is_not
            what_is_issued_works_and_can_be_read_again
            a_renewed_credential_goes_on_working
            an_end_says_how_it_is_known
            nothing_but_the_value_holds_the_value
            what_exists_upstream_is_listed
            many_leases_at_once_do_not_disturb_each_other
        );
    };
}

mod leased_path {
    laws!(super::leased);
}

mod child_token {
    laws!(super::tokens);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_that_of_the_namespace() {
    let Some(server) = server().await else { return };
    server.put("secret/data/app/db", json!({"data": {"password": "of the root"}})).await;
    server.put("secret/data/app/root", json!({"data": {"password": "of the root"}})).await;
    server.put(&format!("{SPACE}secret/data/app/db"), json!({"data": {"password": "of the namespace"}})).await;
    let (inside, outside) = (spaced(&server, Arc::new(SystemClock)).await, engine(&server, b"state").await);
    let read = async |engine: &OpenBaoEngine, path: &str| {
        let row = secret("kv/app", engine, json!({"kv": path, "field": "password"}));
        engine.issue(&Asked::new().order(&row)).await.map(|issued| text(&issued).to_owned())
    };
    assert_eq!(read(&inside, "secret/app/db").await.unwrap(), "of the namespace");
    assert_eq!(read(&outside, "secret/app/db").await.unwrap(), "of the root");
    assert!(matches!(read(&inside, "secret/app/root").await, Err(EngineError::NoValue)));
}

/// What bears our mark in another namespace, also of the same host, is neither listed nor ended, and nothing that it ends is called ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_outside_is_neither_seen_nor_ended() {
    let Some((cluster, server)) = stage().await else { return };
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let (inside, outside) = (spaced(&server, Arc::new(SystemClock)).await, engine(&server, b"state").await);
    let (mine, others) = (Asked::new(), Asked::new());
    let secret = row(&inside, "database/creds/ro");
    let issued = inside.issue(&mine.order(&secret)).await.unwrap();
    let elsewhere = outside.issue(&others.order(&secret)).await.unwrap();
    assert!(logs_in(&cluster, &issued).await && logs_in(&cluster, &elsewhere).await);
    assert_eq!((inside.inventory().await.unwrap(), outside.inventory().await.unwrap()), (vec![mine.lease], vec![others.lease]));
    assert_eq!((server.tokens_in(SPACE).await, server.tokens().await), (vec![mine.lease.to_string()], vec![others.lease.to_string()]));
    assert_eq!(issued.reference.0.get("namespace"), Some(&NAMESPACE.into()));
    // An engine that was moved to another namespace knows nothing of what it made before.
    for (engine, asked, issued, there) in [(&inside, &others, &elsewhere, "root"), (&outside, &mine, &issued, NAMESPACE)] {
        let error = engine.end(asked.lease, &issued.reference).await.unwrap_err();
        assert!(matches!(&error, EngineError::Setup(text) if text.contains(&format!("made in the namespace {there}"))), "{error}");
    }
    let over = inside.end(mine.lease, &issued.reference).await.unwrap();
    let proof = over.proof.unwrap();
    assert!(over == EndResult::Revoked && proof.by == ProofBy::Looked, "{over:?}");
    assert_eq!(proof.seen, [Finding::LeaseUnknown, Finding::TokenUnknown]);
    assert!(!logs_in(&cluster, &issued).await && logs_in(&cluster, &elsewhere).await);
    assert!(server.tokens_in(SPACE).await.is_empty());
    assert_eq!(outside.end(others.lease, &elsewhere.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(roles(&cluster).await, [""; 0]);
}

/// Whoever was answered left no call behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issue_that_was_answered_is_settled_at_once() {
    let Some((cluster, server)) = stage().await else { return };
    let engine = spaced(&server, Arc::new(SystemClock)).await;
    let (made, refused) = (Asked::new(), Asked::new());
    let (secret, short) = (row(&engine, "database/creds/ro"), row(&engine, "database/creds/short"));
    let issued = engine.issue(&made.order(&secret)).await.unwrap();
    assert!(matches!(engine.issue(&refused.order(&short)).await, Err(EngineError::Setup(text)) if text.contains("max_ttl")));
    assert_eq!(roles(&cluster).await.len(), 2);
    for (asked, secret) in [(&made, &secret), (&refused, &short)] {
        let over = engine.settle(asked.lease, Some(secret)).await.unwrap();
        assert!(over == EndResult::Revoked && over.proof.as_ref().unwrap().seen == [Finding::TokenUnknown], "{over:?}");
    }
    assert!(!logs_in(&cluster, &issued).await && roles(&cluster).await.is_empty() && server.tokens_in(SPACE).await.is_empty());
    // A token for one call is nobody's stray, and is found by whoever settles its lease.
    let (call, mut once) = (Asked::new(), secret.clone());
    once.settings.extend([("ends", "short-life"), ("field", "nothing")].map(|(key, word)| (key.to_owned(), word.into())));
    let refused = engine.issue(&call.order(&once)).await.err();
    assert!(matches!(&refused, Some(EngineError::Setup(text)) if text.contains("nothing")), "{refused:?}");
    assert_eq!(server.tokens_in(SPACE).await, [call.lease.to_string()]);
    assert!(engine.inventory().await.unwrap().is_empty());
    assert_eq!(engine.settle(call.lease, Some(&once)).await.unwrap(), EndResult::Revoked);
    assert!(server.tokens_in(SPACE).await.is_empty());
    // Of what was settled nothing is kept, so that it is asked about like any other.
    assert!(matches!(engine.settle(made.lease, Some(&secret)).await, Err(EngineError::Busy(..))));
}

/// A daemon that died left a lease of which the journal has the reservation only: it is looked for when no call of before can be under way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_issue_left_is_found_when_its_call_is_over() {
    let Some((cluster, server)) = stage().await else { return };
    let before = spaced(&server, Arc::new(SystemClock)).await;
    let secret = row(&before, "database/creds/slow");
    let (lost, never, kept) = (Asked::new(), Asked::new(), Asked::new());
    let (found, other) = (Asked::new(), row(&before, "database/creds/ro"));
    let live = before.issue(&kept.order(&other)).await.unwrap();
    let stray = before.issue(&found.order(&other)).await.unwrap();
    let clock = Arc::new(ManualClock::new(0, crate::suite::now().0));
    let after = spaced(&server, clock.clone()).await;
    let (issued, settled) = tokio::join!(async { before.issue(&lost.order(&secret)).await }, async {
        while !server.tokens_in(SPACE).await.contains(&lost.lease.to_string()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        after.settle(lost.lease, Some(&secret)).await
    });
    let why = settled.unwrap_err();
    assert!(matches!(&why, EngineError::Busy(text, _) if text.contains("may be under way yet")), "{why}");
    let issued = issued.unwrap();
    assert!(matches!(after.settle(never.lease, Some(&secret)).await, Err(EngineError::Busy(..))));
    // What is listed at a start is waited for from then on.
    assert!(after.inventory().await.unwrap().contains(&found.lease));
    clock.advance(149_000_000);
    assert!(after.settle(lost.lease, Some(&secret)).await.is_err() && logs_in(&cluster, &issued).await, "not a moment before");
    assert!(after.end(found.lease, &UpstreamRef::default()).await.is_err() && logs_in(&cluster, &stray).await);
    clock.advance(1_000_000);
    assert_eq!(after.settle(lost.lease, Some(&secret)).await.unwrap(), EndResult::Revoked);
    assert!(!logs_in(&cluster, &issued).await);
    assert_eq!(after.settle(never.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
    // What is in no journal has no reference.
    assert!(logs_in(&cluster, &stray).await);
    assert_eq!(after.end(found.lease, &UpstreamRef::default()).await.unwrap(), EndResult::Revoked);
    assert!(!logs_in(&cluster, &stray).await && logs_in(&cluster, &live).await, "another's goes on");
    assert_eq!(after.inventory().await.unwrap(), [kept.lease]);
    assert_eq!(after.end(kept.lease, &live.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(roles(&cluster).await, [""; 0]);
}
