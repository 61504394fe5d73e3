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
        Engine, EngineError, Issued, Mark, Order, Over, UpstreamRef, jwt,
        local::LocalStore,
        openbao::{Copies, Login, OpenBaoConfig, OpenBaoEngine, Source},
    },
    model::{EndResult, EndsBy, EngineName, Operation, SecretBytes, Ttl, WallTime},
    outbound::{Client, Limits, Method},
    sys::{Clock, SystemClock},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Generous: the machine may be busy with a build.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn engine_with(client: Client, login: Login, state: &[u8], limit: Duration) -> OpenBaoEngine {
    // The store's folder goes at once: nothing is written to it but by a wrapped login.
    let (_folder, store) = crate::local::store();
    engine_in(store, client, login, state, limit)
}

fn engine_in(store: Arc<LocalStore>, client: Client, login: Login, state: &[u8], limit: Duration) -> OpenBaoEngine {
    engine_at(None, Arc::new(SystemClock), store, client, login, state, limit)
}

/// The same in a namespace, by another clock.
pub fn engine_at(
    namespace: Option<&str>,
    clock: Arc<dyn Clock>,
    store: Arc<LocalStore>,
    client: Client,
    login: Login,
    state: &[u8],
    limit: Duration,
) -> OpenBaoEngine {
    let config = OpenBaoConfig {
        name: EngineName::parse("under-test").unwrap(),
        client,
        namespace: namespace.map(str::to_owned),
        login,
        token_role: "claviger".into(),
        timeout: limit,
        // Nothing is written there but for secrets that say so.
        copies: Copies { folder: "/nonexistent/copies".into(), server: "".into(), boot: "boot".into(), not_before: WallTime(0) },
    };
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    let random = Arc::new(SystemRandom::default());
    OpenBaoEngine::new(config, Mark::new(b"machine", state), &root, store, clock, random).unwrap()
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
    #[allow(dead_code, reason = "keeps the server")]
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

fn database_row() -> Value {
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
pub async fn stage() -> Option<(Postgres, OpenBao, OpenBaoEngine)> {
    let (cluster, server) = (Postgres::start().await?, OpenBao::start().await?);
    server.prepare().await;
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let engine = engine(&server, b"state").await;
    Some((cluster, server, engine))
}

pub async fn roles(cluster: &Postgres) -> Vec<String> {
    let rows = cluster.superuser("app").await.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'v-')", &[]).await;
    rows.unwrap().iter().map(|row| row.get(0)).collect()
}

pub fn row(engine: &dyn Engine, path: &str) -> claviger::model::SecretDefinition {
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
async fn ended(engine: &OpenBaoEngine, asked: &Asked, reference: &UpstreamRef) -> Over {
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
    // Settled means that it is dead, however often a try was cut off before; OpenBao itself tries again after some seconds.
    for _ in 0..12 {
        match engine.settle(lost.lease, Some(&secret)).await {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, EngineError::Unreachable(_)), "{error}"),
        }
    }
    assert_eq!(roles(&cluster).await, [""; 0]);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_readers_of_a_value_are_one_call() {
    let Some(mut server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"password": "first"}})).await;
    server.put("secret/data/app/db", json!({"data": {"password": "second"}})).await;
    let engine = engine(&server, b"state").await;
    let newest = secret("kv/app", &engine, json!({"kv": "secret/app/db", "field": "password"}));
    let first = secret("kv/first", &engine, json!({"kv": "app/db", "mount": "secret", "version": 1, "field": "password"}));
    let calls = |server: &OpenBao| {
        let lines = server.audit();
        lines.lines().filter(|line| line.contains("\"type\":\"request\"") && line.contains("\"path\":\"secret/data/app/db\"")).count()
    };
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&first)).await.unwrap();
    assert_eq!((issued.value.expose(), issued.reference.0.get("version")), (&b"first"[..], Some(&json!(1))));
    // Started anew: nothing is kept.
    let fresh = super::openbao::engine(&server, b"state").await;
    assert!(fresh.read_now(&asked.order(&first), &issued.reference).is_none());
    let before = calls(&server);
    let order = asked.order(&first);
    let reads = futures_util::future::join_all((0..1000).map(|_| fresh.read(&order, &issued.reference))).await;
    assert!(reads.iter().all(|read| read.as_ref().is_ok_and(|read| read.value.expose() == b"first")));
    assert_eq!(calls(&server) - before, 1);
    assert!(fresh.read_now(&order, &issued.reference).unwrap().unwrap().value.expose() == b"first");
    let before = calls(&server);
    let order = asked.order(&newest);
    // All of them are there before the server answers the first.
    server.hang(true);
    let (issues, ()) = tokio::join!(futures_util::future::join_all((0..1000).map(|_| fresh.issue(&order))), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.hang(false);
    });
    assert!(issues.iter().all(|issued| issued.as_ref().is_ok_and(|issued| issued.value.expose() == b"second")));
    assert_eq!(calls(&server) - before, 1);
    // Every later issue asks again.
    server.put("secret/data/app/db", json!({"data": {"password": "third"}})).await;
    assert_eq!(fresh.issue(&order).await.unwrap().value.expose(), b"third");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_there_or_not_as_it_should_be_is_said() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    let engine = engine(&server, b"state").await;
    let error = async |settings: Value| {
        let row = secret("kv/app", &engine, settings);
        let asked = Asked::new();
        let issued = engine.issue(&asked.order(&row)).await;
        engine.settle(asked.lease, Some(&row)).await.unwrap();
        match issued {
            Err(EngineError::NoValue) => "no value".to_owned(),
            Err(EngineError::Setup(text)) => text,
            Err(error) => panic!("{error:?}"),
            Ok(_) => panic!("was issued"),
        }
    };
    assert_eq!(error(json!({"kv": "secret/app/none"})).await, "no value");
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": ""}})).await;
    assert_eq!(error(json!({"kv": "secret/app/db", "version": 9})).await, "no value");
    let text = error(json!({"kv": "secret/app/db", "field": "pasword"})).await;
    assert!(text.starts_with("under-test: secret/app/db version 1: has no field \"pasword\"; there is password, user"), "{text}");
    assert!(error(json!({"kv": "secret/app/db", "field": "password"})).await.contains("is empty"));
    assert!(error(json!({"kv": "secret/other/db"})).await.contains("permission denied"));
    assert_eq!(server.call(Method::Put, "secret/delete/app/db", json!({"versions": [1]})).await.0, 204);
    assert_eq!(error(json!({"kv": "secret/app/db"})).await, "no value");
    server.put("sys/mounts/old", json!({"type": "kv"})).await;
    server
        .put(
            "sys/policies/acl/claviger",
            json!({"policy": crate::openbao_server::policy() + "\npath \"old/*\" { capabilities = [\"read\"] }"}),
        )
        .await;
    server.put("old/data/app", json!({"password": "x"})).await;
    assert!(error(json!({"kv": "old/app"})).await.contains("version 1"));
    // What the token role does not allow, and what it must not do.
    let text = error(json!({"read": "database/creds/ro"})).await;
    assert!(text.contains("404") || text.contains("403"), "{text}");
    let row = secret("bao/x", &engine, json!({"token": {"policies": ["claviger"]}}));
    let refused = engine.issue(&Asked::new().order(&row)).await.err().unwrap().to_string();
    assert!(refused.contains("allowed policies"), "{refused}");
    let tokens = || secret("bao/app", &engine, json!({"token": {"policies": ["app"]}}));
    for (role, wanted) in [
        (json!({"orphan": false}), "orphan must be true"),
        (json!({"orphan": true, "token_explicit_max_ttl": "60s"}), "60 s to a lease of 300 s"),
    ] {
        server.put("auth/token/roles/claviger", role).await;
        let asked = Asked::new();
        let error = engine.issue(&asked.order(&tokens())).await.err().unwrap();
        assert!(matches!(&error, EngineError::Setup(text) if text.contains(wanted)), "{error}");
        engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
    }
    let role = json!({"orphan": true, "allowed_policies": "app", "token_explicit_max_ttl": 0});
    server.put("auth/token/roles/claviger", role).await;
    let error = engine.inventory().await.unwrap_err();
    assert!(matches!(&error, EngineError::Setup(text) if text.contains("claviger-fence")), "said at a start: {error}");
    assert!(server.tokens().await.is_empty());
}

/// A login by every method, each of which makes a credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_log_in_works_and_a_dead_token_is_replaced() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"password": "the value"}})).await;
    let limits = Limits { call: LIMIT, ..Limits::default() };
    let reads = async |engine: &OpenBaoEngine| {
        let row = secret("kv/app", engine, json!({"kv": "secret/app/db", "field": "password"}));
        let issued = engine.issue(&Asked::new().order(&row)).await;
        issued.map(|issued| issued.value.expose() == b"the value").map_err(|error| error.to_string())
    };
    // The certificate of the connection.
    let (certificate, key) = server.certificate("web-1");
    let own = || claviger::outbound::ClientCertificate::new(certificate.as_bytes(), &SecretBytes::new(key.clone().into_bytes())).unwrap();
    server.put("sys/auth/cert", json!({"type": "cert"})).await;
    let role = json!({"certificate": server.ca_pem, "allowed_common_names": "web-1", "token_policies": "claviger"});
    server.put("auth/cert/certs/web", role).await;
    let cert = |mine: Option<claviger::outbound::ClientCertificate>| {
        let login = Login::Certificate { mount: "cert".into(), role: Some("web".into()) };
        engine_with(server.client_with(limits, mine), login, b"state", LIMIT)
    };
    assert_eq!(reads(&cert(Some(own()))).await, Ok(true));
    assert!(reads(&cert(None)).await.unwrap_err().contains("logging in at auth/cert/login"));
    // A token of our own jwt engine.
    let (folder, store) = crate::local::store();
    let config = jwt::JwtConfig {
        name: EngineName::parse("host").unwrap(),
        issuer: "https://host.example".into(),
        algorithms: vec![jwt::Algorithm::Es256],
        max_ttl: Ttl::parse("1h").unwrap(),
    };
    let signer = Arc::new(jwt::JwtEngine::open(config, store.clone(), Arc::new(SystemClock)).unwrap());
    server.put("sys/auth/jwt", json!({"type": "jwt"})).await;
    let key = pem_of(&signer.jwks()["keys"][0]);
    server.put("auth/jwt/config", json!({"jwt_validation_pubkeys": [key], "bound_issuer": "https://host.example"})).await;
    let role = json!({"role_type": "jwt", "user_claim": "sub", "bound_subject": "host/web-1", "bound_audiences": "bao", "token_policies": "claviger"});
    server.put("auth/jwt/role/host", role).await;
    let by_jwt = |subject: &'static str| {
        let signer = signer.clone();
        let token = Source::new(move || signer.sign_for_ourselves("bao", subject, 120).map_err(|error| error.to_string()));
        let login = Login::Jwt { mount: "jwt".into(), role: "host".into(), token };
        engine_with(server.client(limits), login, b"state", LIMIT)
    };
    assert_eq!(reads(&by_jwt("host/web-1")).await, Ok(true));
    assert!(reads(&by_jwt("host/web-2")).await.is_err());
    // A token that somebody keeps in a file, exchanged there when it dies.
    let path = folder.path().join("token");
    let made =
        async || server.put("auth/token/create", json!({"policies": ["claviger"], "ttl": "1h"})).await["auth"]["client_token"].clone();
    let (first, second) = (made().await, made().await);
    std::fs::write(&path, first.as_str().unwrap().to_owned() + "\n").unwrap();
    let file = path.clone();
    let token =
        Source::new(move || std::fs::read(&file).map(|mut bytes| SecretBytes::take_from(&mut bytes)).map_err(|error| error.to_string()));
    let by_file = engine_with(server.client(limits), Login::Token { token }, b"state", LIMIT);
    assert_eq!(reads(&by_file).await, Ok(true));
    std::fs::write(&path, second.as_str().unwrap()).unwrap();
    server.put("auth/token/revoke", json!({"token": first})).await;
    let until = std::time::Instant::now() + Duration::from_secs(40);
    // A token that is refused right after the login is not replaced: its policy would be the trouble, and every request a login.
    while reads(&by_file).await != Ok(true) {
        assert!(std::time::Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    // A secret id in a wrapping token, which is exchanged once.
    let (role_id, _) = server.approle(json!({"token_policies": "claviger"})).await;
    let wrap = async |at: &str| {
        let headers: &[(&'static str, &[u8])] = &[("x-vault-token", server.root.as_bytes()), ("x-vault-wrap-ttl", b"5m")];
        let call =
            claviger::outbound::Call { method: Method::Put, path: at, headers, body: Some(b"{}".to_vec().into()), repeatable: false };
        let answer = server.client(limits).call(call).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        answer["wrap_info"]["token"].as_str().unwrap().to_owned()
    };
    let mut folders = Vec::new();
    let mut wrapped = |token: String| {
        let (folder, store) = crate::local::store();
        folders.push(folder);
        let secret_id = Source::new(move || Ok(SecretBytes::new(token.clone().into_bytes())));
        let login = Login::AppRole { mount: "approle".into(), role_id: role_id.clone(), secret_id, wrapped: true };
        engine_in(store, server.client(limits), login, b"state", LIMIT)
    };
    let token = wrap("/v1/auth/approle/role/claviger/secret-id").await;
    assert_eq!(reads(&wrapped(token.clone())).await, Ok(true));
    let used = reads(&wrapped(token)).await.unwrap_err();
    assert!(used.contains("somebody else has the secret id"), "{used}");
    let other = reads(&wrapped(wrap("/v1/sys/wrapping/wrap").await)).await.unwrap_err();
    assert!(other.contains("sys/wrapping/wrap"), "{other}");
}

/// The SubjectPublicKeyInfo of a P-256 key as PEM.
fn pem_of(jwk: &Value) -> String {
    use base64::{Engine as _, engine::general_purpose};
    let part = |name: &str| general_purpose::URL_SAFE_NO_PAD.decode(jwk[name].as_str().unwrap()).unwrap();
    let head = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04";
    let der = [&head[..], &part("x"), &part("y")].concat();
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", general_purpose::STANDARD.encode(der))
}

/// Certificates of `pki` die by themselves: nothing is left at the server and nothing is called revoked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_made_and_dies_by_itself() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("sys/mounts/pki", json!({"type": "pki"})).await;
    server.put("pki/root/generate/internal", json!({"common_name": "ca.test", "ttl": "24h"})).await;
    server.put("pki/roles/web", json!({"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "1h"})).await;
    let engine = engine(&server, b"state").await;
    let settings =
        json!({"read": "pki/issue/web", "write": {"common_name": "{{identity}}.test", "ttl": "{{ttl}}"}, "attributes": ["serial_number"]});
    let mut row = secret("tls/web", &engine, settings);
    let asked = Asked::new();
    let error = engine.issue(&asked.order(&row)).await.err().unwrap();
    assert!(matches!(&error, EngineError::Setup(text) if text.contains("ends = \"short-life\"")), "{error}");
    engine.end(asked.lease, &UpstreamRef::default()).await.unwrap();
    row.settings.insert("ends".into(), "short-life".into());
    row.ends_by = engine.ends_by(&row);
    assert!(row.ends_by == EndsBy::ShortLife && !engine.has_upstream(&row));
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    let made: Value = serde_json::from_slice(issued.value.expose()).unwrap();
    let life = made["expiration"].as_u64().unwrap().abs_diff(asked.expires.unix_secs());
    assert!(life <= 5, "as long as the lease: {life} s apart");
    assert!(made["private_key"].as_str().unwrap().contains("PRIVATE KEY") && issued.attributes[0].0 == "serial_number");
    assert!(server.tokens().await.is_empty(), "the token was for one call");
    let read = engine.read(&asked.order(&row), &issued.reference).await.unwrap();
    assert!(read.value.expose() == issued.value.expose());
    assert!(matches!(engine.renew(&asked.order(&row), &issued.reference).await, Err(EngineError::Refused(_))));
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Lapsed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_or_name_is_an_operators_matter() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    let (stranger, _) = server.certificate("a certificate that signed nothing");
    for (host, ca, wanted) in [
        ("localhost", stranger.as_str(), "no authority that is trusted here (ca_file)"),
        ("127.0.0.1", server.ca_pem.as_str(), "another name (server_name)"),
    ] {
        let address = claviger::outbound::Address::parse(&format!("https://{host}:{}", server.port), false).unwrap();
        let trust = || claviger::outbound::Trust::named(ca.as_bytes());
        let client = Client::new(address, None, trust, None, Limits::default(), Arc::new(SystemClock)).unwrap();
        let engine = engine_with(client, approle("r".into(), "s".into()), b"state", LIMIT);
        let error = engine.inventory().await.unwrap_err();
        assert!(matches!(&error, EngineError::Setup(text) if text.contains(wanted) && text.starts_with("under-test: ")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_the_store_is_made_anew_and_its_neighbours_stay() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "by hand", "port": 5432}})).await;
    let engine = engine(&server, b"state").await;
    let row = json!({"kv": "secret/app/db", "field": "password", "attributes": ["user"], "generate": {"length": 32}});
    let (made, read) = (secret("kv/made", &engine, row), secret("kv/read", &engine, json!({"kv": "secret/app/db", "field": "password"})));
    assert!(engine.can_rotate(&made) && !engine.can_rotate(&read));
    let first = engine.newest(&made).await.unwrap().unwrap();
    assert!(first.number == 1 && first.made.0.abs_diff(crate::suite::now().0) < 600_000_000);
    assert_eq!(engine.newest(&read).await.unwrap(), Some(first));
    assert!(matches!(engine.rotate(&read).await, Err(EngineError::Setup(text)) if text.contains("generate")));
    // The policy of the page lets values be read, not written.
    let Err(EngineError::Setup(why)) = engine.rotate(&made).await else { panic!("written without the right to") };
    assert!(why.contains("writing secret/app/db") && why.contains("403"), "{why}");
    let more = "path \"secret/data/app/db\" { capabilities = [\"read\", \"create\", \"update\"] }";
    server
        .put(
            "sys/policies/acl/claviger",
            json!({"policy": format!("{}\n{more}\n", crate::openbao_server::policy().replace("secret/data/app/*", "secret/data/app/+"))}),
        )
        .await;
    // The store takes nothing from those who do not say which version they change.
    server.put("secret/config", json!({"cas_required": true})).await;
    let held = Asked::new();
    let before = engine.issue(&held.order(&made)).await.unwrap();
    assert!(engine.is_newest(&made, &before.reference));
    let second = engine.rotate(&made).await.unwrap();
    assert_eq!((second.number, engine.newest(&made).await.unwrap()), (2, Some(second)));
    let (_, kept) = server.call(Method::Get, "secret/data/app/db", Value::Null).await;
    let data = &kept["data"]["data"];
    assert_eq!((&data["user"], &data["port"]), (&json!("u"), &json!(5432)), "the others stay as they were");
    let after = engine.issue(&Asked::new().order(&made)).await.unwrap();
    assert!(data["password"] == text(&after) && text(&after).len() == 32 && text(&before) == "by hand");
    assert!(!engine.is_newest(&made, &before.reference) && engine.is_newest(&made, &after.reference));
    // A live lease keeps its version, which the store has yet.
    assert_eq!(text(&engine.read(&held.order(&made), &before.reference).await.unwrap()), "by hand");
    // The first value of a path is made as well.
    let row = json!({"kv": "secret/app/new", "field": "key", "generate": {"alphabet": "hex", "length": 64}});
    let fresh = secret("kv/fresh", &engine, row);
    assert_eq!(engine.newest(&fresh).await.unwrap(), None);
    let more = "path \"secret/data/app/+\" { capabilities = [\"read\", \"create\", \"update\"] }";
    server
        .put(
            "sys/policies/acl/claviger",
            json!({"policy": format!("{}\n{more}\n", crate::openbao_server::policy().replace("secret/data/app/*", "secret/data/app/x"))}),
        )
        .await;
    assert_eq!(engine.rotate(&fresh).await.unwrap().number, 1);
    assert_eq!(text(&engine.issue(&Asked::new().order(&fresh)).await.unwrap()).len(), 64);
    assert!(!server.log().contains(text(&after)) && !server.audit().contains(text(&after)));
}

/// Whoever asks to read gets a token with the policies for reading.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policies_of_a_token_go_by_the_operation() {
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    let role = json!({"allowed_policies": "app,app-write,claviger-fence", "orphan": true, "token_no_default_policy": true});
    server.put("auth/token/roles/claviger", role).await;
    let engine = engine(&server, b"state").await;
    let row = secret("bao/app", &engine, json!({"token": {"policies": {"read": ["app"], "write": ["app", "app-write"]}}}));
    assert_eq!(engine.narrows(&row), [Operation::Read]);
    for (operation, policies) in [(Operation::Read, json!(["app"])), (Operation::Write, json!(["app", "app-write"]))] {
        let asked = Asked::new();
        let issued = engine.issue(&Order { operation, ..asked.order(&row) }).await.unwrap();
        let token = std::str::from_utf8(issued.value.expose()).unwrap();
        let looked = server.put("auth/token/lookup", json!({"token": token})).await;
        assert_eq!(looked["data"]["policies"], policies, "{operation}");
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    }
}
