//! The `github-app` engine under the contract and in bad weather, against a stand-in: there is no GitHub that could be run here. It does to the
//! two calls that are made what GitHub's documentation of its REST API (2022-11-28) says, and checks the app's signature.

use crate::{
    stand_in::{CANARY, Request, StandIn, Weather, counted_port, until_settled},
    suite::{Asked, Harness, Probe, now, secret},
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    digest::{RsaKey, SealKey, SystemRandom, sha256},
    engine::{
        Engine, EngineError, Issued,
        github::{GitHubConfig, GitHubEngine},
    },
    model::{EndResult, EngineName, Operation, SecretDefinition, Target, WallTime},
    outbound::{Address, Client, Limits},
    sys::{Clock, ManualClock, SystemClock},
};
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::Command,
    sync::{Arc, LazyLock, Mutex, atomic::Ordering},
    time::Duration,
};
use tempfile::TempDir;

/// Generous: the machine may be busy with a build.
const LIMIT: Duration = Duration::from_secs(20);
const APP: &str = "Iv23liABCDEF";
const INSTALLATION: u64 = 4711;
/// What the installation has.
const REPOSITORIES: [&str; 3] = ["Shop", "stock", "site"];

/// The app's key in both forms, and its public half as PKCS #1: made once for all tests.
struct Keys {
    pkcs1: String,
    pkcs8: String,
    public: Vec<u8>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let path = path.to_str().unwrap();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", path]);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Keys {
        pkcs1: text(openssl(&["rsa", "-traditional", "-in", path])),
        pkcs8: text(openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", path])),
        public: openssl(&["rsa", "-in", path, "-RSAPublicKey_out", "-outform", "DER"]),
    }
});

/// What the stand-in keeps.
#[derive(Default)]
struct State {
    /// Tokens that live, with what was asked for.
    alive: BTreeMap<String, Value>,
    made: usize,
    /// Members of the answer to a request for a token, in place of the usual ones; null leaves one out.
    odd: Value,
    /// It says 204 to whoever ends a token, and does nothing.
    deaf: bool,
    /// It does not know its own tokens yet when they are ended.
    slow: bool,
}

type Shared = Arc<Mutex<State>>;

fn answer(state: &Shared, clock: &dyn Clock, request: &Request) -> (u16, String) {
    let mut state = state.lock().unwrap();
    let problem = |status: u16, message: &str| (status, json!({"message": message}).to_string());
    let bearer = request.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    assert_eq!(request.header("x-github-api-version"), Some("2022-11-28"));
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/app/installations/4711/access_tokens") => {
            if let Err(why) = is_the_app(bearer, clock.wall()) {
                return problem(401, why);
            }
            let asked: Value = serde_json::from_slice(&request.body).unwrap();
            let names: Vec<&str> = asked["repositories"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
            if names.iter().any(|name| !REPOSITORIES.contains(name)) {
                return problem(
                    422,
                    "There is at least one repository that does not exist or is not accessible to the parent installation.",
                );
            }
            state.made += 1;
            // Since April 2026 tokens are no longer of 40 characters.
            let token = format!("ghs_{APP}_{CANARY}.{}", state.made);
            state.alive.insert(token.clone(), asked.clone());
            let mut permissions = asked["permissions"].clone();
            permissions["metadata"] = "read".into();
            let repositories: Vec<Value> = names.iter().map(|name| json!({"name": name, "full_name": format!("octo/{name}")})).collect();
            let dies = WallTime((clock.wall().unix_secs() + 3600) * 1_000_000).rfc3339();
            let mut reply = json!({"token": token, "expires_at": dies, "permissions": permissions, "repository_selection": "selected",
                                   "repositories": repositories});
            for (name, value) in state.odd.clone().as_object().into_iter().flatten() {
                match value {
                    Value::Null => drop(reply.as_object_mut().unwrap().remove(name)),
                    value => reply[name] = value.clone(),
                }
            }
            (201, reply.to_string())
        }
        ("DELETE", "/installation/token") if state.alive.contains_key(bearer) && !state.slow => {
            if !state.deaf {
                state.alive.remove(bearer);
            }
            (204, String::new())
        }
        ("DELETE", "/installation/token") => problem(401, "Bad credentials"),
        _ => problem(404, "Not Found"),
    }
}

/// Whether the app signed this, for now.
fn is_the_app(token: &str, now: WallTime) -> Result<(), &'static str> {
    let (signed, signature) = token.rsplit_once('.').ok_or("A JSON web token could not be decoded")?;
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "A JSON web token could not be decoded");
    let key = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &KEYS.public);
    key.verify(signed.as_bytes(), &bytes(signature)?).map_err(|_| "A JSON web token could not be decoded")?;
    let (header, claims) = signed.split_once('.').ok_or("A JSON web token could not be decoded")?;
    let part = |text: &str| -> Result<Value, &'static str> { serde_json::from_slice(&bytes(text)?).map_err(|_| "no JSON") };
    let (header, claims) = (part(header)?, part(claims)?);
    let (issued, dies, at) = (claims["iat"].as_u64().unwrap(), claims["exp"].as_u64().unwrap(), now.unix_secs());
    match () {
        () if header["alg"] != "RS256" || claims["iss"] != APP => Err("Issuer claim ('iss') must be the app"),
        () if issued > at => Err("'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued"),
        () if dies <= at || dies > at + 600 => Err("'Expiration time' claim ('exp') is too far in the future"),
        () => Ok(()),
    }
}

struct Site {
    server: StandIn,
    state: Shared,
    folder: TempDir,
    /// The engine's, and GitHub's unless another is set.
    clock: Arc<ManualClock>,
    limit: Duration,
}

impl Site {
    async fn new(limit: Duration) -> Self {
        let (state, clock) = (Shared::default(), Arc::new(ManualClock::new(0, now().0)));
        let (shared, theirs) = (state.clone(), clock.clone());
        let server = StandIn::start(move |request| answer(&shared, &*theirs, request)).await;
        Self { server, state, folder: tempfile::tempdir().unwrap(), clock, limit }
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join("notes")
    }

    fn engine(&self) -> GitHubEngine {
        self.engine_with(&KEYS.pkcs1, self.clock.clone())
    }

    fn engine_with(&self, key: &str, clock: Arc<dyn Clock>) -> GitHubEngine {
        let address = Address::parse(&format!("http://127.0.0.1:{}", self.server.port), true).unwrap();
        let limits = Limits { connect: self.limit, call: self.limit, ..Limits::default() };
        // Its pauses after failures are real.
        let client = Client::new(address, None, || unreachable!("no TLS"), None, limits, Arc::new(SystemClock)).unwrap();
        let config = GitHubConfig {
            name: EngineName::parse("under-test").unwrap(),
            client,
            base: String::new(),
            app: APP.into(),
            installation: INSTALLATION,
            key: RsaKey::from_pem(key.as_bytes()).unwrap(),
            notes: self.notes(),
            timeout: self.limit,
            boot: "this boot".into(),
        };
        let root = SealKey::from_bytes(&[5; 32]).unwrap();
        GitHubEngine::new(config, &root, clock, Arc::new(SystemRandom::default())).unwrap()
    }

    fn row(&self, engine: &GitHubEngine) -> SecretDefinition {
        secret("ci/source", engine, json!({"repositories": ["Shop", "stock"], "permissions": {"contents": "write", "issues": "read"}}))
    }

    /// A lease of five minutes by the clock of these tests.
    fn asked(&self) -> Asked {
        let mut asked = Asked::new();
        asked.expires = WallTime(self.clock.wall().0 + 300_000_000);
        asked.at = Some(self.clock.wall());
        asked
    }

    fn alive(&self) -> usize {
        self.state.lock().unwrap().alive.len()
    }

    fn noted(&self) -> usize {
        std::fs::read_dir(self.notes()).unwrap().count()
    }
}

#[async_trait]
impl Probe for Site {
    async fn works(&self, issued: &Issued) -> bool {
        self.state.lock().unwrap().alive.contains_key(std::str::from_utf8(issued.value.expose()).unwrap())
    }
}

async fn harness() -> Option<Harness> {
    let site = Site::new(LIMIT).await;
    let engine = Arc::new(site.engine_with(&KEYS.pkcs8, Arc::new(SystemClock)));
    let secret = site.row(&engine);
    Some(Harness { engine, secret, probe: Box::new(site) })
}

mod stand_in_for_github {
    crate::contract!(super::harness);
}

/// What GitHub is asked for on behalf of this operation and these targets.
async fn wanted(
    site: &Site,
    engine: &GitHubEngine,
    row: &SecretDefinition,
    operation: Operation,
    hosts: &[Target],
) -> Result<Value, EngineError> {
    let asked = site.asked();
    let mut order = asked.order(row);
    (order.operation, order.hosts) = (operation, hosts);
    let issued = engine.issue(&order).await?;
    let wanted = site.state.lock().unwrap().alive.values().next().unwrap().clone();
    engine.end(asked.lease, &issued.reference).await.unwrap();
    Ok(wanted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operation_and_targets_choose_repositories_and_permissions() {
    let site = Site::new(LIMIT).await;
    let engine = site.engine();
    let target = |name: &str| Target::parse(name).unwrap();
    let mut row = secret(
        "ci/source",
        &engine,
        json!({"repositories": ["Shop", "stock", "site"],
               "permissions": {"contents": "write", "administration": "admin", "issues": "read", "workflows": "write"},
               "targets": {"shop.example.com": ["Shop"], "stock.example.com": ["stock"]}}),
    );
    row.hosts = vec![target("shop.example.com"), target("stock.example.com"), target("other.example.com")];
    engine.check(&row).unwrap();
    let shop = [target("shop.example.com")];
    let asked = wanted(&site, &engine, &row, Operation::Read, &shop).await.unwrap();
    assert_eq!(asked["repositories"], json!(["Shop", "site"]));
    assert_eq!(asked["permissions"], json!({"contents": "read", "administration": "read", "issues": "read"}));
    let asked = wanted(&site, &engine, &row, Operation::Write, &shop).await.unwrap();
    assert_eq!(asked["permissions"], json!({"contents": "write", "administration": "write", "issues": "read", "workflows": "write"}));
    let asked = wanted(&site, &engine, &row, Operation::Admin, &row.hosts).await.unwrap();
    assert_eq!((&asked["repositories"], &asked["permissions"]["administration"]), (&json!(["Shop", "site", "stock"]), &json!("admin")));
    let mut one = row.clone();
    one.settings["repositories"] = json!(["Shop"]);
    one.settings["targets"] = json!({"shop.example.com": ["Shop"]});
    let nothing = wanted(&site, &engine, &one, Operation::Read, &[target("other.example.com")]).await;
    assert!(matches!(nothing, Err(EngineError::Refused(_))), "{nothing:?}");
    // What the installation does not have.
    one.settings = json!({"repositories": ["secret"], "permissions": {"contents": "read"}}).as_object().unwrap().clone();
    let Err(EngineError::Setup(why)) = wanted(&site, &engine, &one, Operation::Read, &[]).await else { panic!() };
    assert!(why.contains("(422)") && why.contains("lacks one of these repositories"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_names_a_token_as_github_does_and_a_killed_daemon_leaves_none() {
    let site = Site::new(LIMIT).await;
    let (engine, asked) = (site.engine(), site.asked());
    let row = site.row(&engine);
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    // `hashed_token` of GitHub's audit log.
    let hashed = base64::engine::general_purpose::STANDARD.encode(sha256(&[issued.value.expose()]));
    let named = serde_json::to_value(issued.reference.named()).unwrap();
    assert_eq!((&named["hashed_token"], &named["intent"]), (&json!(hashed), &json!(asked.order(&row).intent_digest())));
    assert_eq!(named["attributes"]["permissions"], "contents=read issues=read");
    drop(engine);
    let engine = site.engine();
    assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
    drop(engine);
    // Nor is one forgotten because the clock is days ahead at a start.
    let ahead = Arc::new(ManualClock::new(0, site.clock.wall().0 + 2 * 86_400_000_000));
    assert_eq!(site.engine_with(&KEYS.pkcs1, ahead).inventory().await.unwrap(), [asked.lease]);
    let engine = site.engine();
    site.clock.advance(61_000_000);
    assert_eq!(engine.settle(asked.lease, None).await.unwrap(), EndResult::Revoked);
    assert_eq!((site.alive(), site.noted()), (0, 0));
}

/// The key is of no other app, and clocks may differ a little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_key_is_named_and_clocks_may_differ() {
    let site = Site::new(LIMIT).await;
    for (minutes, fits) in [(0i64, true), (-4, true), (4, false), (-9, false)] {
        let clock = Arc::new(ManualClock::new(0, site.clock.wall().0.strict_add_signed(minutes * 60_000_000)));
        let engine = site.engine_with(&KEYS.pkcs8, clock.clone());
        let row = site.row(&engine);
        let mut asked = Asked::new();
        asked.expires = WallTime(clock.wall().0 + 300_000_000);
        asked.at = Some(clock.wall());
        match engine.issue(&asked.order(&row)).await {
            Ok(issued) => {
                assert!(fits, "{minutes}");
                assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
            }
            Err(error) => assert!(!fits && error.to_string().contains("clock"), "{minutes}: {error}"),
        }
        assert_eq!(site.alive(), 0, "{minutes}");
    }
}

/// A token that is more, longer or other than what was asked for is not handed out and does not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_it_was_asked_for_is_taken_back() {
    let site = Site::new(LIMIT).await;
    let engine = site.engine();
    let row = site.row(&engine);
    let repository = |name: &str| json!({"name": name});
    let far = WallTime(site.clock.wall().0 + 86_400_000_000).rfc3339();
    let soon = WallTime(site.clock.wall().0 + 60_000_000).rfc3339();
    for (odd, wanted) in [
        (json!({"repositories": [repository("Shop"), repository("site")]}), "repositories"),
        (json!({"repositories": []}), "repositories"),
        (json!({"repositories": null}), "repositories"),
        (json!({"repository_selection": "all"}), "repositories"),
        (json!({"permissions": {"contents": "write"}}), "permissions"),
        (json!({"permissions": {"contents": "read", "members": "read"}}), "permissions"),
        (json!({"permissions": {"metadata": "write"}}), "permissions"),
        (json!({"permissions": {"contents": "own"}}), "permissions"),
        (json!({"permissions": null}), "permissions"),
        (json!({"expires_at": null}), "does not say how long"),
        (json!({"expires_at": "tomorrow"}), "does not say how long"),
        (json!({"expires_at": far}), "its longest here"),
        (json!({"expires_at": soon}), "lower ttl"),
    ] {
        site.state.lock().unwrap().odd = odd.clone();
        let asked = site.asked();
        let error = engine.issue(&asked.order(&row)).await.err().unwrap_or_else(|| panic!("{odd}: was issued"));
        assert!(matches!(error, EngineError::Setup(_) | EngineError::Refused(_)), "{odd}: {error:?}");
        assert!(error.to_string().contains(wanted) && !error.to_string().contains(CANARY), "{odd}: {error}");
        assert_eq!((site.alive(), site.noted()), (0, 0), "{odd}: it stays");
        // The same, and it cannot be taken back just then.
        site.server.set(Some(("/installation/token", Weather::Status(503, ""))));
        assert!(engine.issue(&asked.order(&row)).await.is_err());
        assert_eq!(engine.inventory().await.unwrap(), [asked.lease], "{odd}");
        site.server.set(None);
        assert_eq!(engine.settle(asked.lease, None).await.unwrap(), EndResult::Revoked, "{odd}");
        assert_eq!((site.alive(), site.noted()), (0, 0), "{odd}: it stays");
    }
}

/// Whatever goes wrong with the call: an error of the right kind without a byte of a token, nothing that is forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_is_told_and_what_may_have_come_of_it_is_owed() {
    let (aside, reached) = counted_port().await;
    let primary = r#"{"message":"API rate limit exceeded for installation ID 4711."}"#;
    let secondary = r#"{"message":"You have exceeded a secondary rate limit."}"#;
    // What comes, what is said, whether another try may help, and whether there may be a token.
    let cases = [
        (Weather::Reply(401, "", r#"{"message":"A JSON web token could not be decoded"}"#), "do not belong together", false, false),
        (Weather::Reply(403, "", r#"{"message":"This installation has been suspended"}"#), "is suspended", false, false),
        (Weather::Reply(403, "", primary), "rate limit exceeded", true, false),
        (Weather::Reply(403, "retry-after: 60\r\n", secondary), "(403, asks to wait 60 s)", true, false),
        (Weather::Reply(429, "retry-after: 7\r\n", secondary), "(429, asks to wait 7 s)", true, false),
        (Weather::Status(404, ""), "no such installation", false, false),
        (Weather::Status(422, ""), "lacks one of these", false, false),
        (Weather::Status(500, ""), "(500)", true, true),
        (Weather::Status(502, ""), "(502)", true, true),
        (Weather::Status(200, ""), "(200)", false, true),
        (Weather::Reply(201, "", "not JSON"), "not what GitHub answers", true, true),
        (Weather::Reply(201, "", "[]"), "not what GitHub answers", true, true),
        (Weather::Reply(201, "", "{}"), "not what GitHub answers", true, true),
        (Weather::Reply(201, "", r#"{"token":""}"#), "not what GitHub answers", true, true),
        (Weather::Giant, "more than 1048576 bytes", true, true),
        (Weather::Truncated, "broke off", true, true),
        (Weather::Redirect(aside), "redirect (status 307)", false, false),
        (Weather::Stall, "ms", true, true),
        (Weather::Close, "the connection", true, true),
        (Weather::DoneAndClosed, "the connection", true, true),
    ];
    let site = Site::new(Duration::from_millis(1500)).await;
    for (weather, wanted, passing, owed) in cases {
        let engine = site.engine();
        let (row, asked) = (site.row(&engine), site.asked());
        site.server.set(Some(("/app/", weather.clone())));
        let error = engine.issue(&asked.order(&row)).await.err().unwrap_or_else(|| panic!("{weather:?}: was issued"));
        let text = format!("{error} {error:?}");
        assert!(text.contains(wanted) && text.contains("under-test: ") && !text.contains(CANARY), "{weather:?}: {text}");
        assert_eq!(error.is_passing(), passing, "{weather:?}: {error:?}");
        site.server.set(None);
        let settled = engine.settle(asked.lease, Some(&row)).await;
        match owed {
            true => {
                let Err(EngineError::Unreachable(why)) = settled else { panic!("{weather:?}: {settled:?}") };
                assert!(why.contains("dead for certain at"), "{why}");
                site.clock.advance(3_901_000_000);
                assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), EndResult::Lapsed, "{weather:?}");
            }
            false => assert_eq!(settled.unwrap(), EndResult::Lapsed, "{weather:?}"),
        }
        assert_eq!(site.noted(), 0, "{weather:?}");
        let asked = site.asked();
        // Whoever asks to wait is not asked again so soon; another start knows nothing of it.
        let (waits, alive) = (wanted.contains("asks to wait"), site.alive());
        if waits {
            let error = engine.issue(&asked.order(&row)).await.err().unwrap();
            assert!(matches!(error, EngineError::Busy(..)) && site.alive() == alive, "{weather:?}: {error:?}");
        }
        let engine = if waits { site.engine() } else { engine };
        let good = engine.issue(&asked.order(&row)).await.unwrap_or_else(|error| panic!("{weather:?}: {error}"));
        engine.end(asked.lease, &good.reference).await.unwrap();
    }
    assert_eq!(site.alive(), 1, "the one of whose making nobody heard");
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// An end is done when a token that was ended is none any more, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_bad_weather_is_an_error_and_is_repeated() {
    let (aside, reached) = counted_port().await;
    let site = Site::new(Duration::from_millis(1500)).await;
    let engine = site.engine();
    let row = site.row(&engine);
    for weather in [
        Weather::Status(403, ""),
        Weather::Status(404, ""),
        Weather::Status(429, "retry-after: 3\r\n"),
        Weather::Status(500, ""),
        // Whatever is said that is no yes and no "no such token".
        Weather::Body("not JSON"),
        Weather::Body("{}"),
        Weather::Reply(401, "", "not JSON"),
        Weather::Truncated,
        Weather::Redirect(aside),
        Weather::Giant,
        Weather::Stall,
        Weather::Close,
        Weather::DoneAndClosed,
    ] {
        let asked = site.asked();
        let issued = engine.issue(&asked.order(&row)).await.unwrap();
        site.server.set(Some(("/installation/token", weather.clone())));
        let ended = engine.end(asked.lease, &issued.reference).await;
        assert!(ended.is_err(), "{weather:?}: {ended:?}");
        let why = ended.unwrap_err().to_string();
        assert!(why.starts_with("under-test: ") && !why.contains(CANARY), "{weather:?}: {why}");
        site.server.set(None);
        let again = async || {
            // After a lost yes only a 401 comes, which is believed when a minute is over.
            site.clock.advance(10_000_000);
            engine.end(asked.lease, &issued.reference).await
        };
        let ended = until_settled(again, |_| true).await;
        assert_eq!((ended.result, site.alive(), site.noted()), (EndResult::Revoked, 0, 0), "{weather:?}");
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
    // Somebody else was faster: dead is dead.
    let asked = site.asked();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    site.state.lock().unwrap().alive.clear();
    site.clock.advance(61_000_000);
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    // A yes that has no effect is found out.
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    site.state.lock().unwrap().deaf = true;
    let Err(EngineError::Unreachable(why)) = engine.end(asked.lease, &issued.reference).await else { panic!("it lives") };
    assert!(why.contains("lives after it was ended"), "{why}");
    site.state.lock().unwrap().deaf = false;
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

/// Nothing is asked of GitHub to renew a lease, so no weather keeps it from that, nor lets it last longer than its token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_needs_no_server_and_promises_no_more_than_the_token_has() {
    let site = Site::new(Duration::from_millis(1500)).await;
    let engine = site.engine();
    let row = site.row(&engine);
    for weather in [Weather::Status(401, ""), Weather::Status(503, ""), Weather::Giant, Weather::Stall, Weather::Close] {
        let mut asked = site.asked();
        let (issued, expires) = (engine.issue(&asked.order(&row)).await.unwrap(), asked.expires.0);
        site.server.set(Some(("", weather.clone())));
        asked.expires.0 = expires + 600_000_000;
        engine.renew(&asked.order(&row), &issued.reference).await.unwrap_or_else(|error| panic!("{weather:?}: {error}"));
        asked.expires.0 = expires + 4_000_000_000;
        let Err(EngineError::Refused(why)) = engine.renew(&asked.order(&row), &issued.reference).await else { panic!("{weather:?}") };
        assert!(why.starts_with("under-test: ") && why.contains("cannot be prolonged"), "{why}");
        site.server.set(None);
        until_settled(async || engine.end(asked.lease, &issued.reference).await, |_| true).await;
        asked.expires.0 = expires;
        assert!(matches!(engine.renew(&asked.order(&row), &issued.reference).await, Err(EngineError::Refused(_))), "{weather:?}");
    }
    assert_eq!((site.alive(), site.noted()), (0, 0));
}

/// A "no such token" soon after its making says nothing; later, or once it was known, it does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_not_known_yet_is_not_called_dead() {
    let site = Site::new(LIMIT).await;
    let engine = site.engine();
    let row = site.row(&engine);
    // Ended by its reference, and by its note alone, as after a crash.
    for settled in [false, true] {
        let asked = site.asked();
        let issued = engine.issue(&asked.order(&row)).await.unwrap();
        let end = async || match settled {
            true => engine.settle(asked.lease, None).await,
            false => engine.end(asked.lease, &issued.reference).await,
        };
        site.state.lock().unwrap().slow = true;
        let Err(EngineError::Unreachable(why)) = end().await else { panic!("called dead, and {} live", site.alive()) };
        assert!(why.contains("not yet") && site.alive() == 1, "{why}");
        // A clock that is set makes it no older.
        for hours in [-1, 1] {
            site.clock.step_wall(site.clock.wall().0.strict_add_signed(hours * 3_600_000_000));
            assert!(matches!(end().await, Err(EngineError::Unreachable(_))), "{hours}");
            site.clock.step_wall(site.clock.wall().0.strict_add_signed(-hours * 3_600_000_000));
        }
        site.state.lock().unwrap().slow = false;
        assert_eq!(end().await.unwrap(), EndResult::Revoked);
        assert_eq!((site.alive(), site.noted()), (0, 0));
        if !settled {
            assert_eq!(end().await.unwrap(), EndResult::Revoked, "once more");
        }
    }
    // Somebody else ended it: known as soon as a 401 can mean nothing else.
    let asked = site.asked();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    site.state.lock().unwrap().alive.clear();
    assert!(matches!(engine.end(asked.lease, &issued.reference).await, Err(EngineError::Unreachable(_))));
    site.clock.advance(61_000_000);
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}
