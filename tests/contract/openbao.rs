//! Secrets of a real OpenBao under the contract: its database engine over a real PostgreSQL, tokens, and its KV store.

use crate::{
    openbao_server::OpenBao,
    suite::{Asked, Harness, Probe, secret},
    support::{BROKER, BROKER_PASSWORD, Postgres},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued, Mark, UpstreamRef,
        openbao::{Login, OpenBaoConfig, OpenBaoEngine, Source},
    },
    model::{EndResult, EngineName, SecretBytes, WallTime},
    outbound::{Client, Limits, Method},
    sys::SystemClock,
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Generous: the machine may be busy with a build.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn engine_with(client: Client, login: Login, state: &[u8], limit: Duration) -> OpenBaoEngine {
    let (folder, store) = crate::local::store();
    // The store outlives its folder: nothing is written to it but by a wrapped login.
    let _ = folder.keep();
    let config = OpenBaoConfig {
        name: EngineName::parse("under-test").unwrap(),
        client,
        namespace: None,
        login,
        token_role: "claviger".into(),
        timeout: limit,
    };
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    let random = Arc::new(SystemRandom::default());
    OpenBaoEngine::new(config, Mark::new(b"machine", state), &root, store, Arc::new(SystemClock), random).unwrap()
}

pub fn approle(role_id: String, secret_id: String) -> Login {
    let secret_id = Source::new(move || Ok(SecretBytes::new(secret_id.clone().into_bytes())));
    Login::AppRole { mount: "approle".into(), role_id, secret_id, wrapped: false }
}

pub async fn engine(server: &OpenBao, state: &[u8]) -> OpenBaoEngine {
    let (role_id, secret_id) = server.approle(json!({"token_policies": "claviger", "token_ttl": "20m"})).await;
    engine_with(server.client(Limits { call: LIMIT, ..Limits::default() }), approle(role_id, secret_id), state, LIMIT)
}

fn text(issued: &Issued) -> &str {
    std::str::from_utf8(issued.value.expose()).unwrap()
}

/// Logs in to the database with what was issued.
pub struct Database {
    pub server: OpenBao,
    pub cluster: Postgres,
}

pub async fn logs_in(cluster: &Postgres, issued: &Issued) -> bool {
    let user = issued.attributes.iter().find(|(name, _)| name == "username").map(|(_, user)| user.as_str()).unwrap();
    match cluster.connect(user, issued.value.expose(), "app").await {
        Ok(client) => client.query_one("SELECT count(*) FROM app.orders", &[]).await.is_ok(),
        Err(_) => false,
    }
}

#[async_trait]
impl Probe for Database {
    async fn works(&self, issued: &Issued) -> bool {
        logs_in(&self.cluster, issued).await
    }
}

pub fn database_row() -> Value {
    json!({"read": "database/creds/ro", "field": "password", "attributes": ["username"]})
}

async fn leased() -> Option<Harness> {
    let (cluster, server) = (Postgres::start().await?, OpenBao::start().await?);
    server.prepare().await;
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let engine = Arc::new(engine(&server, b"state").await);
    let secret = secret("db/orders", &*engine, database_row());
    Some(Harness { engine, secret, probe: Box::new(Database { server, cluster }) })
}

mod leased_path {
    crate::contract!(super::leased);
}

struct Reader(OpenBao);

#[async_trait]
impl Probe for Reader {
    async fn works(&self, issued: &Issued) -> bool {
        self.0.call_as(text(issued), Method::Get, "secret/data/app/db", Value::Null).await.0 == 200
    }
}

async fn tokens() -> Option<Harness> {
    let server = OpenBao::start().await?;
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "the value"}})).await;
    let engine = Arc::new(engine(&server, b"state").await);
    let secret = secret("bao/app", &*engine, json!({"token": {"policies": ["app"]}}));
    Some(Harness { engine, secret, probe: Box::new(Reader(server)) })
}

mod child_token {
    crate::contract!(super::tokens);
}

struct Fixed(#[allow(dead_code, reason = "keeps the server")] OpenBao);

#[async_trait]
impl Probe for Fixed {
    async fn works(&self, issued: &Issued) -> bool {
        issued.value.expose() == b"the value" && issued.attributes.contains(&("user".into(), "u".into()))
    }
}

async fn kv() -> Option<Harness> {
    let server = OpenBao::start().await?;
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "the value"}})).await;
    let engine = Arc::new(engine(&server, b"state").await);
    let secret = secret("kv/app", &*engine, json!({"kv": "secret/app/db", "field": "password", "attributes": ["user"]}));
    Some(Harness { engine, secret, probe: Box::new(Fixed(server)) })
}

mod kv_version_2 {
    crate::contract!(super::kv);
}

/// A server with a database behind it, and an engine.
async fn stage() -> Option<(Postgres, OpenBao, OpenBaoEngine)> {
    let (cluster, server) = (Postgres::start().await?, OpenBao::start().await?);
    server.prepare().await;
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let engine = engine(&server, b"state").await;
    Some((cluster, server, engine))
}

async fn roles(cluster: &Postgres) -> Vec<String> {
    let rows = cluster.superuser("app").await.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'v-')", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

fn row(engine: &dyn Engine, path: &str) -> claviger::model::SecretDefinition {
    secret("db/orders", engine, json!({"read": path, "field": "password", "attributes": ["username"]}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_settled_lease_cannot_be_issued_any_more() {
    let Some((cluster, _server, engine)) = stage().await else { return };
    let secret = row(&engine, "database/creds/ro");
    let asked = Asked::new();
    assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
    // The call that was still under way when its daemon died arrives now.
    let late = engine.issue(&asked.order(&secret)).await;
    assert!(matches!(late, Err(EngineError::Refused(_))), "{:?}", late.err());
    assert!(roles(&cluster).await.is_empty());
    assert!(!engine.inventory().await.unwrap().contains(&asked.lease));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_late_call_made_all_the_same_ends_with_the_fence() {
    let Some((cluster, server, engine)) = stage().await else { return };
    let secret = row(&engine, "database/creds/slow");
    let asked = Asked::new();
    let (issued, settled) = tokio::join!(async { engine.issue(&asked.order(&secret)).await }, async {
        for _ in 0..100 {
            if !server.tokens().await.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        engine.settle(asked.lease, Some(&secret)).await
    });
    assert_eq!(settled.unwrap(), EndResult::Revoked, "its token was there");
    assert!(issued.is_ok(), "{:?}", issued.err());
    assert_eq!(roles(&cluster).await.len(), 1, "OpenBao makes a lease for a token that was revoked meanwhile");
    // Two and a half minutes later; here a root does what time would.
    let (_, listed) = server.call(Method::Get, "auth/token/accessors?list=true", Value::Null).await;
    for accessor in listed["data"]["keys"].as_array().unwrap() {
        let (_, looked) = server.call(Method::Put, "auth/token/lookup-accessor", json!({"accessor": accessor})).await;
        if looked["data"]["meta"]["claviger_lease"] == asked.lease.to_string().as_str() {
            let data = &looked["data"];
            assert!(data["meta"]["claviger_settled"] == "true" && data["policies"] == json!(["claviger-fence"]), "{data}");
            assert!(data["ttl"].as_u64().unwrap() <= 150);
            server.put("auth/token/revoke-accessor", json!({"accessor": accessor})).await;
        }
    }
    for _ in 0..200 {
        if roles(&cluster).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the role outlives the fence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_success_after_the_deadline_is_found_and_ended() {
    let Some((cluster, server, _)) = stage().await else { return };
    let (role_id, secret_id) = server.approle(json!({"token_policies": "claviger"})).await;
    let limit = Duration::from_secs(1);
    let hasty = engine_with(server.client(Limits { call: limit, ..Limits::default() }), approle(role_id, secret_id), b"state", limit);
    let secret = row(&hasty, "database/creds/slow");
    let asked = Asked::new();
    assert!(matches!(hasty.issue(&asked.order(&secret)).await, Err(EngineError::Unreachable(_))));
    let patient = engine(&server, b"state").await;
    patient.settle(asked.lease, Some(&secret)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(roles(&cluster).await.is_empty() && server.tokens().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_read_again_while_the_server_is_away_and_by_nobody_else() {
    let Some((cluster, mut server, engine)) = stage().await else { return };
    let secret = row(&engine, "database/creds/ro");
    let (asked, other) = (Asked::new(), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let others = engine.issue(&other.order(&secret)).await.unwrap();
    // Started anew, with the reference from the journal.
    let again = engine_with(server.client(Limits::default()), approle("r".into(), "s".into()), b"state", LIMIT);
    server.stop(true);
    let text = serde_json::to_string(&issued.reference).unwrap();
    assert!(!text.contains(super::openbao::text(&issued)));
    let reference: UpstreamRef = serde_json::from_str(&text).unwrap();
    let read = again.read_now(&asked.order(&secret), &reference).unwrap().unwrap();
    assert!(read.value.expose() == issued.value.expose() && read.attributes == issued.attributes);
    // A sealed value opens in its own row only.
    assert!(matches!(again.read(&other.order(&secret), &reference).await, Err(EngineError::Setup(_))));
    assert!(serde_json::to_string(&issued.reference.named()).unwrap().contains("\"intent\"") && issued.reference.sealed().is_some());
    assert!(!serde_json::to_string(&issued.reference.named()).unwrap().contains("sealed"), "not for the record");
    // An end waits for the server.
    assert!(matches!(again.end(asked.lease, &reference).await, Err(EngineError::Unreachable(_))));
    server.start_again().await;
    assert!(logs_in(&cluster, &issued).await);
    for (asked, issued) in [(&asked, &issued), (&other, &others)] {
        assert_eq!(ended(&engine, asked, &issued.reference).await, EndResult::Revoked);
        assert!(!logs_in(&cluster, issued).await);
    }
}

/// Ends a lease, as often as the broker would try.
async fn ended(engine: &OpenBaoEngine, asked: &Asked, reference: &UpstreamRef) -> EndResult {
    let mut last = None;
    for _ in 0..40 {
        match engine.end(asked.lease, reference).await {
            Ok(result) => return result,
            Err(error @ EngineError::Unreachable(_)) => last = Some(error),
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    panic!("{last:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_database_does_not_let_die_is_not_called_dead() {
    let Some((mut cluster, _server, engine)) = stage().await else { return };
    let secret = row(&engine, "database/creds/ro");
    let (asked, lost) = (Asked::new(), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    engine.issue(&lost.order(&secret)).await.unwrap();
    cluster.stop(true);
    let error = engine.end(asked.lease, &issued.reference).await.unwrap_err();
    assert!(matches!(error, EngineError::Unreachable(_)), "{error}");
    // Nor is one whose reference was lost: its token is gone at once, what hangs on it is not.
    let quick = tokio::time::timeout(Duration::from_secs(2), engine.settle(lost.lease, Some(&secret))).await;
    assert!(quick.is_err() || quick.unwrap().is_err());
    cluster.start_again();
    cluster.serves().await;
    assert_eq!(ended(&engine, &asked, &issued.reference).await, EndResult::Revoked);
    engine.settle(lost.lease, Some(&secret)).await.unwrap();
    for _ in 0..400 {
        if roles(&cluster).await.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?}", roles(&cluster).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_lasts_as_long_as_its_lease_or_is_refused() {
    let Some((cluster, server, engine)) = stage().await else { return };
    // The role's own time is a minute; it is prolonged to the lease's five.
    let secret = row(&engine, "database/creds/ro");
    let mut asked = Asked::new();
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let lease = issued.reference.0.get("lease").unwrap().clone();
    let ttl = async || server.put("sys/leases/lookup", json!({"lease_id": lease})).await["data"]["ttl"].as_u64().unwrap();
    assert!((290..=301).contains(&ttl().await));
    asked.expires = WallTime(asked.issued.0 + 900_000_000);
    engine.renew(&asked.order(&secret), &issued.reference).await.unwrap();
    assert!((880..=901).contains(&ttl().await));
    let short = row(&engine, "database/creds/short");
    let refused = Asked::new();
    let error = engine.issue(&refused.order(&short)).await.err().unwrap();
    assert!(matches!(&error, EngineError::Setup(text) if text.contains("max_ttl")), "{error}");
    engine.settle(refused.lease, Some(&short)).await.unwrap();
    assert_eq!(roles(&cluster).await.len(), 1, "what was refused is gone");
    // Nobody but us can be taken for us, and the logs of both sides meet.
    assert_eq!(engine_of_a_clone(&server).await.inventory().await.unwrap(), []);
    let (audit, digest) = (server.audit(), asked.order(&secret).intent_digest());
    assert!(audit.contains(&asked.lease.to_string()) && audit.contains(&digest) && audit.contains(&asked.request.to_string()));
    assert_eq!(issued.reference.0.get("intent"), Some(&digest.into()));
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

async fn engine_of_a_clone(server: &OpenBao) -> OpenBaoEngine {
    engine(server, b"another state").await
}
