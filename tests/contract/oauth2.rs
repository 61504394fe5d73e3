//! Tokens of a real authorization server (oidc-provider) under the contract: in our own name, and about the identity that asked.

use crate::{
    oauth_server::{AuthorizationServer, CLIENT_SECRET},
    suite::{Asked, Harness, Probe, secret},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued,
        jwt::{Algorithm, JwtConfig, JwtEngine},
        oauth2::{Authentication, Endpoints, OAuth2Config, OAuth2Engine, Subject},
        openbao::Source,
    },
    model::{EndResult, EndsBy, EngineName, Operation, SecretBytes, SecretDefinition, Target, Ttl, WallTime},
    outbound::{Client, Limits},
    sys::{Clock, SystemClock},
};
use serde_json::{Value, json};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

/// Generous: the machine may be busy with a build.
pub const LIMIT: Duration = Duration::from_secs(20);
const ISSUER: &str = "https://host.example.com";

pub fn limits(limit: Duration) -> Limits {
    Limits { connect: limit, call: limit, ..Limits::default() }
}

/// The host's own `jwt` engine.
pub fn host() -> Arc<JwtEngine> {
    let config = JwtConfig {
        name: EngineName::parse("host").unwrap(),
        issuer: ISSUER.into(),
        algorithms: vec![Algorithm::Es256, Algorithm::EdDsa],
        max_ttl: Ttl::parse("1h").unwrap(),
    };
    let (folder, store) = crate::local::store();
    // Nothing is written to it after this.
    let engine = JwtEngine::open(config, store, Arc::new(SystemClock)).unwrap();
    drop(folder);
    Arc::new(engine)
}

pub fn secret_of(text: &str) -> Source {
    let text = text.to_owned();
    Source::new(move || Ok(SecretBytes::new(format!("{text}\n").into_bytes())))
}

/// Everything an engine is made of but its server.
pub struct Bench {
    pub folder: TempDir,
    pub clock: Arc<dyn Clock>,
    pub endpoints: fn() -> Endpoints,
    pub client_id: &'static str,
    pub signer: Arc<JwtEngine>,
    pub audience: String,
    pub limit: Duration,
    /// The longest life that the server is said to give.
    pub max_ttl: &'static str,
    /// The id of the boot that the daemon is started in.
    pub boot: &'static str,
}

impl Bench {
    pub fn new(audience: String, signer: Arc<JwtEngine>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            folder,
            clock: Arc::new(SystemClock),
            endpoints: with_revocation,
            client_id: "basic",
            signer,
            audience,
            limit: LIMIT,
            max_ttl: "1h",
            boot: "this boot",
        }
    }

    pub fn notes(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("notes")
    }

    pub fn open(&self, client: Client) -> OAuth2Engine {
        self.open_as(client, Authentication::Basic(secret_of(CLIENT_SECRET)))
    }

    pub fn open_as(&self, client: Client, authentication: Authentication) -> OAuth2Engine {
        let config = OAuth2Config {
            name: EngineName::parse("under-test").unwrap(),
            client,
            endpoints: (self.endpoints)(),
            client_id: self.client_id.into(),
            authentication,
            subject: Some(Subject { signer: self.signer.clone(), audience: self.audience.clone() }),
            max_ttl: Ttl::parse(self.max_ttl).unwrap(),
            notes: self.notes(),
            timeout: self.limit,
            boot: self.boot.into(),
        };
        let root = SealKey::from_bytes(&[5; 32]).unwrap();
        OAuth2Engine::new(config, &root, self.clock.clone(), Arc::new(SystemRandom::default())).unwrap()
    }
}

pub fn with_revocation() -> Endpoints {
    Endpoints { token: "/token".into(), revocation: Some("/token/revocation".into()), introspection: Some("/token/introspection".into()) }
}

fn without_revocation() -> Endpoints {
    Endpoints { token: "/token".into(), revocation: None, introspection: None }
}

fn text(issued: &Issued) -> &str {
    std::str::from_utf8(issued.value.expose()).unwrap()
}

fn attribute<'a>(issued: &'a Issued, name: &str) -> &'a str {
    issued.attributes.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// The server with an engine of it.
struct Site {
    server: AuthorizationServer,
    bench: Bench,
}

impl Site {
    async fn start() -> Option<Self> {
        let signer = host();
        let server = AuthorizationServer::start(ISSUER, &signer.jwks()).await?;
        let bench = Bench::new(server.issuer(), signer);
        Some(Self { server, bench })
    }

    fn engine(&self) -> OAuth2Engine {
        self.bench.open(self.server.client(limits(LIMIT)))
    }

    async fn is_active(&self, issued: &Issued) -> bool {
        self.server.introspect(text(issued)).await["active"] == true
    }
}

#[async_trait]
impl Probe for Site {
    async fn works(&self, issued: &Issued) -> bool {
        self.is_active(issued).await
    }
}

fn in_our_name() -> Value {
    json!({"scope": ["orders.read", "orders.write"], "resource": ["https://orders.example.com/"]})
}

fn about_the_caller() -> Value {
    json!({"grant": "token_exchange", "scope": ["orders.read"], "audience": ["https://orders.example.com/"]})
}

async fn harness(endpoints: fn() -> Endpoints, client_id: &'static str, settings: Value) -> Option<Harness> {
    let mut site = Site::start().await?;
    (site.bench.endpoints, site.bench.client_id) = (endpoints, client_id);
    let engine = Arc::new(site.engine());
    let secret = secret("api/orders", &*engine, settings);
    Some(Harness { engine, secret, probe: Box::new(site) })
}

mod client_credentials {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness(super::with_revocation, "basic", super::in_our_name()).await
    }
    crate::contract!(harness);
}

mod token_exchange {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness(super::with_revocation, "basic", super::about_the_caller()).await
    }
    crate::contract!(harness);
}

mod without_revocation {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness(super::without_revocation, "short", super::in_our_name()).await
    }
    // A token that lasts as long as its lease and cannot be prolonged is not renewed: below.
    crate::contract!(harness:
        the_definition_is_accepted_and_an_unknown_setting_is_not
        what_is_issued_works_and_can_be_read_again
        ending_says_what_became_of_it_and_can_be_repeated
        ending_what_never_was_is_no_error
        settling_without_an_issue_finds_nothing
        an_issue_that_was_never_committed_is_settled
        nothing_but_the_value_holds_the_value
        what_exists_upstream_is_listed
        many_leases_at_once_do_not_disturb_each_other
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_would_die_before_its_lease_is_not_renewed() {
    let Some(mut site) = Site::start().await else { return };
    (site.bench.endpoints, site.bench.client_id) = (without_revocation, "short");
    let engine = site.engine();
    let row = secret("api/orders", &engine, in_our_name());
    assert_eq!(row.ends_by, EndsBy::ShortLife);
    let mut asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    engine.renew(&asked.order(&row), &issued.reference).await.unwrap();
    asked.expires = WallTime(asked.expires.0 + 300_000_000);
    let Err(EngineError::Refused(why)) = engine.renew(&asked.order(&row), &issued.reference).await else { panic!() };
    assert!(why.contains("ask for a new lease"), "{why}");
    // Nor is a token handed out that outlives its lease where nobody can take it back, or one that dies before it.
    for (minutes, wanted) in [(2, "takes no token back"), (10, "lower ttl")] {
        let mut asked = Asked::new();
        asked.expires = WallTime(asked.issued.0 + minutes * 60_000_000);
        let Err(EngineError::Setup(why)) = engine.issue(&asked.order(&row)).await else { panic!("{minutes}") };
        assert!(why.contains(wanted), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_authenticate_works_and_a_withdrawn_secret_is_named() {
    let Some(mut site) = Site::start().await else { return };
    let client = |site: &Site| site.server.client(limits(LIMIT));
    let asked = Asked::new();
    for (id, authentication) in [
        ("basic", Authentication::Basic(secret_of(CLIENT_SECRET))),
        ("post", Authentication::Post(secret_of(CLIENT_SECRET))),
        ("key", Authentication::PrivateKeyJwt { signer: site.bench.signer.clone(), audience: site.server.issuer() }),
    ] {
        site.bench.client_id = id;
        let engine = site.bench.open_as(client(&site), authentication);
        let row = secret("api/orders", &engine, in_our_name());
        let issued = engine.issue(&asked.order(&row)).await.unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(site.server.introspect(text(&issued)).await["client_id"], id);
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked, "{id}");
        assert!(!site.is_active(&issued).await, "{id}");
    }
    // The client's secret is exchanged while a token is out: nothing more is issued, and the end is owed until the new one is in place.
    let file = site.bench.notes().with_file_name("secret");
    std::fs::write(&file, CLIENT_SECRET).unwrap();
    let from = file.clone();
    let source = Source::new(move || std::fs::read(&from).map(SecretBytes::new).map_err(|error| error.to_string()));
    site.bench.client_id = "basic";
    let engine = site.bench.open_as(client(&site), Authentication::Basic(source));
    let row = secret("api/orders", &engine, in_our_name());
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    std::fs::write(&file, "withdrawn-canary").unwrap();
    let refused = engine.issue(&Asked::new().order(&row)).await.err();
    let kept = engine.end(asked.lease, &issued.reference).await.err();
    for error in [refused, kept] {
        let Some(EngineError::Setup(why)) = error else { panic!("{error:?}") };
        assert!(why.contains("invalid_client") && why.contains("does not know this client") && !why.contains("canary"), "{why}");
    }
    assert_eq!(engine.read(&asked.order(&row), &issued.reference).await.unwrap().value.expose(), issued.value.expose());
    std::fs::write(&file, CLIENT_SECRET).unwrap();
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert!(!site.is_active(&issued).await);
    assert!(engine.inventory().await.unwrap().is_empty());
}

/// What the server says about a token for this operation and these targets.
async fn issued_for(
    site: &Site,
    engine: &OAuth2Engine,
    row: &SecretDefinition,
    operation: Operation,
    hosts: &[Target],
) -> Result<Value, EngineError> {
    let asked = Asked::new();
    let mut order = asked.order(row);
    (order.operation, order.hosts) = (operation, hosts);
    let issued = engine.issue(&order).await?;
    let known = site.server.introspect(text(&issued)).await;
    assert_eq!(known["scope"], attribute(&issued, "scope"));
    engine.end(asked.lease, &issued.reference).await.unwrap();
    Ok(known)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operation_and_targets_choose_scope_and_resource() {
    let Some(site) = Site::start().await else { return };
    let engine = site.engine();
    let targets = |names: &[&str]| names.iter().map(|name| Target::parse(name).unwrap()).collect::<Vec<_>>();
    let mut row = secret(
        "api/orders",
        &engine,
        json!({"scope": {"read": ["orders.read", "stock.read"], "write": ["orders.read", "orders.write", "stock.read"]},
               "targets": {"stock.example.com:443": ["stock.read"], "orders.example.com": ["orders.read", "orders.write"]},
               "resource": ["https://orders.example.com/", "https://stock.example.com/"]}),
    );
    row.hosts = targets(&["orders.example.com", "stock.example.com:443", "other.example.com"]);
    engine.check(&row).unwrap();
    let orders = targets(&["orders.example.com"]);
    let known = issued_for(&site, &engine, &row, Operation::Read, &orders).await.unwrap();
    assert_eq!((&known["scope"], &known["aud"]), (&json!("orders.read"), &json!("https://orders.example.com/")));
    let known = issued_for(&site, &engine, &row, Operation::Write, &orders).await.unwrap();
    assert_eq!(known["scope"], "orders.read orders.write");
    let known = issued_for(&site, &engine, &row, Operation::Write, &targets(&["stock.example.com:443"])).await.unwrap();
    assert_eq!((&known["scope"], &known["aud"]), (&json!("stock.read"), &json!("https://stock.example.com/")));
    let nothing = issued_for(&site, &engine, &row, Operation::Read, &targets(&["other.example.com"])).await;
    assert!(matches!(nothing, Err(EngineError::Refused(_))), "{nothing:?}");
    // What the server does not give is named.
    let row = secret("api/orders", &engine, json!({"scope": ["orders.read"], "resource": ["https://elsewhere.test/"]}));
    let Err(EngineError::Setup(why)) = issued_for(&site, &engine, &row, Operation::Read, &[]).await else { panic!() };
    assert!(why.contains("invalid_target") && why.contains("does not know the resource"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchanged_token_is_about_the_identity_that_asked() {
    let Some(site) = Site::start().await else { return };
    let engine = site.engine();
    let row = secret("api/orders", &engine, about_the_caller());
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    let known = site.server.introspect(text(&issued)).await;
    assert_eq!((&known["sub"], &known["scope"]), (&json!("orders-service"), &json!("orders.read")));
    assert_eq!(known["aud"], "https://orders.example.com/");
    let said = &known["claviger"];
    assert_eq!((&said["purpose"], &said["request"]), (&json!("serve-orders"), &json!(asked.request.to_string())));
    assert_eq!(said["intent"], asked.order(&row).intent_digest());
    // For whom it is not meant it is worth nothing: the server takes no token that was signed for another.
    let bench = Bench::new("https://another.test".into(), site.bench.signer.clone());
    let other = bench.open(site.server.client(limits(LIMIT)));
    let Err(EngineError::Setup(why)) = other.issue(&Asked::new().order(&row)).await else { panic!() };
    assert!(why.contains("subject_token"), "{why}");
    engine.end(asked.lease, &issued.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_daemon_had_is_found_and_revoked() {
    let Some(site) = Site::start().await else { return };
    let (asked, never) = (Asked::new(), Asked::new());
    let engine = site.engine();
    let row = secret("api/orders", &engine, in_our_name());
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    drop(engine);
    // What the daemon knew is gone, and with it the reference; what is on disk is not.
    let engine = site.engine();
    assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
    assert!(site.is_active(&issued).await);
    assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), EndResult::Revoked);
    assert!(!site.is_active(&issued).await);
    assert_eq!(engine.settle(never.lease, Some(&row)).await.unwrap(), EndResult::Lapsed);
    assert!(engine.inventory().await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(site.bench.notes()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_read_again_while_the_server_is_away_and_by_nobody_else() {
    let Some(mut site) = Site::start().await else { return };
    site.bench.limit = Duration::from_millis(700);
    let engine = site.bench.open(site.server.client(limits(site.bench.limit)));
    let row = secret("api/orders", &engine, in_our_name());
    let (asked, other) = (Asked::new(), Asked::new());
    // The limit is short for a busy machine.
    let mut issued = engine.issue(&asked.order(&row)).await;
    for _ in 0..50 {
        if issued.is_ok() {
            break;
        }
        issued = engine.issue(&asked.order(&row)).await;
    }
    let issued = issued.unwrap();
    site.server.hang(true);
    let again = engine.read_now(&asked.order(&row), &issued.reference).unwrap().unwrap();
    assert!(again.value.expose() == issued.value.expose() && again.attributes == issued.attributes);
    assert!(engine.read_now(&other.order(&row), &issued.reference).unwrap().is_err(), "it is another lease's");
    assert!(matches!(engine.end(asked.lease, &issued.reference).await, Err(EngineError::Unreachable(_))));
    assert!(matches!(engine.issue(&other.order(&row)).await, Err(EngineError::Unreachable(_))));
    site.server.hang(false);
    // It ends as soon as the server answers.
    let end = async || engine.end(asked.lease, &issued.reference).await;
    assert_eq!(crate::stand_in::until_settled(end, |error| matches!(error, EngineError::Unreachable(_))).await, EndResult::Revoked);
    assert!(!site.is_active(&issued).await);
}
