//! Bad weather for the `openbao` engine: a stand-in that answers like OpenBao does to the few calls that are made, until it is told to do
//! otherwise. It is no OpenBao: what a real one does is tested in `openbao`.

use crate::{
    openbao::{approle, engine_with},
    stand_in::{CANARY, Request, StandIn, Weather, counted_port, until_settled},
    suite::{Asked, now, secret},
};
use claviger::{
    engine::{Engine, EngineError, Order, Over, UpstreamRef, openbao::OpenBaoEngine},
    model::{EndResult, Finding, Proof, SecretDefinition, WallTime},
    outbound::{Address, Client, Limits},
    sys::SystemClock,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

const LIMIT: Duration = Duration::from_millis(1500);

#[derive(Default)]
pub struct Sky {
    pub tokens: BTreeMap<String, Value>,
    pub logins: usize,
    /// How often our token was to be renewed.
    pub renewals: usize,
    /// What is said to that, if it is not done.
    pub no_renewal: Option<(u16, &'static str)>,
    /// How long our token lives in place of twenty minutes, in seconds, and whether it can be renewed.
    pub own: Option<(u64, bool)>,
    /// Whether the one lease of the database is there.
    lease: bool,
    /// What it says is done and is not.
    lies_about: &'static str,
    /// How long the last token was to live, in seconds.
    pub life: u64,
    /// Whether the database's lease is over and not ended yet.
    ending: bool,
    /// What whoever looks a lease up is told in place of the truth.
    of_leases: Option<u16>,
    /// Whether its policy lets anybody look tokens up by their accessors.
    looks_up: bool,
}

pub type Shared = Arc<Mutex<Sky>>;

pub async fn stand_in() -> (StandIn, Shared) {
    let sky = Shared::new(Mutex::new(Sky { looks_up: true, ..Sky::default() }));
    let shared = sky.clone();
    (StandIn::start(move |request| answer(&shared, request)).await, sky)
}

/// What a server of good will answers.
pub fn answer(sky: &Shared, request: &Request) -> (u16, String) {
    let mut sky = sky.lock().unwrap();
    let (path, token) = (request.path.trim_start_matches("/v1/"), request.header("x-vault-token").unwrap_or_default());
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let denied = |text: &str| (403, json!({"errors": [text]}).to_string());
    if path == "auth/approle/login" {
        sky.logins += 1;
        let (token, (life, renewable)) = (format!("own-{}", sky.logins), sky.own.unwrap_or((1200, true)));
        return (200, json!({"auth": {"client_token": token, "lease_duration": life, "renewable": renewable}}).to_string());
    }
    let is_ours = |token: &str| token.strip_prefix("own-")?.parse().ok().filter(|login| (1..=sky.logins).contains(login));
    if is_ours(token).is_none() && !sky.tokens.contains_key(token) {
        return denied("permission denied");
    }
    let id = body["token"].as_str().unwrap_or_default();
    if path == sky.lies_about {
        return (204, String::new());
    }
    if let Some(status) = sky.of_leases.filter(|_| path == "sys/leases/lookup") {
        return (status, json!({"errors": ["not here"]}).to_string());
    }
    match path {
        "auth/token/renew-self" => {
            sky.renewals += 1;
            let (life, renewable) = sky.own.unwrap_or((1200, true));
            match sky.no_renewal {
                Some((status, body)) => (status, body.to_owned()),
                None => (200, json!({"auth": {"client_token": token, "lease_duration": life, "renewable": renewable}}).to_string()),
            }
        }
        "auth/token/create/claviger" => {
            let id = body["id"].as_str().unwrap().to_owned();
            if sky.tokens.contains_key(&id) {
                return (400, json!({"errors": ["cannot create a token with a duplicate ID"]}).to_string());
            }
            sky.tokens.insert(id, body["meta"].clone());
            let life: u64 = body["ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
            sky.life = life;
            let policies = if body["policies"].is_array() { body["policies"].clone() } else { json!(["app"]) };
            let auth = json!({"client_token": "x", "lease_duration": life, "orphan": true, "token_type": "service", "policies": policies});
            (200, json!({"auth": auth}).to_string())
        }
        // Of the first a crash left the accessor alone.
        "auth/token/accessors" => {
            let keys: Vec<&str> = ["left", "own"].into_iter().chain(sky.tokens.keys().map(String::as_str)).collect();
            (200, json!({"data": {"keys": keys}}).to_string())
        }
        "auth/token/lookup-self" => (200, json!({"data": {"accessor": "own"}}).to_string()),
        "auth/token/lookup-accessor" => match body["accessor"].as_str().unwrap() {
            _ if !sky.looks_up => denied("permission denied"),
            "left" => denied("permission denied"),
            "own" => (200, json!({"data": {"meta": null}}).to_string()),
            id => match sky.tokens.get(id) {
                Some(meta) => (200, json!({"data": {"meta": meta}}).to_string()),
                // It was there when all were listed.
                None => (400, json!({"errors": ["invalid accessor"]}).to_string()),
            },
        },
        "auth/token/lookup" => match sky.tokens.get(id) {
            Some(meta) => (200, json!({"data": {"meta": meta}}).to_string()),
            None => denied("bad token"),
        },
        "auth/token/revoke" => {
            sky.tokens.remove(id);
            (204, String::new())
        }
        "auth/token/renew" if sky.tokens.contains_key(id) => {
            let life = body["increment"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
            sky.life = life;
            (200, json!({"auth": {"lease_duration": life}}).to_string())
        }
        "auth/token/renew" => denied("bad token"),
        "sys/leases/renew" if sky.lease => (200, json!({"lease_duration": body["increment"]}).to_string()),
        "sys/leases/renew" => (400, json!({"errors": ["lease not found"]}).to_string()),
        "secret/data/app/db" => {
            let about = json!({"version": 1, "created_time": "2026-01-01T00:00:00Z"});
            (200, json!({"data": {"data": {"user": "u", "password": CANARY}, "metadata": about}}).to_string())
        }
        "database/creds/ro" => {
            sky.lease = true;
            let data = json!({"username": "u", "password": CANARY});
            (200, json!({"lease_id": "database/creds/ro/1", "lease_duration": 86400, "renewable": true, "data": data}).to_string())
        }
        "sys/leases/revoke" => {
            sky.lease = false;
            (204, String::new())
        }
        "sys/leases/lookup/database/creds/ro" if sky.ending => (200, json!({"data": {"keys": ["1"]}}).to_string()),
        "sys/leases/lookup" if sky.ending => (200, json!({"data": {"ttl": 0}}).to_string()),
        "sys/leases/lookup" if sky.lease => (200, json!({"data": {"ttl": 86400}}).to_string()),
        "sys/leases/lookup" => (400, json!({"errors": ["invalid lease"]}).to_string()),
        _ => (404, json!({"errors": []}).to_string()),
    }
}

pub fn engine_at(port: u16, limit: Duration) -> (OpenBaoEngine, SecretDefinition) {
    let address = Address::parse(&format!("http://127.0.0.1:{port}"), true).unwrap();
    let limits = Limits { connect: limit, call: limit, ..Limits::default() };
    let client = Client::new(address, None, || unreachable!("no TLS"), None, limits, Arc::new(SystemClock)).unwrap();
    let engine = engine_with(client, approle("r".into(), "s".into()), b"state", limit);
    let row = secret("db/orders", &engine, json!({"read": "database/creds/ro", "field": "password", "attributes": ["username"]}));
    (engine, row)
}

pub fn lives(sky: &Shared) -> usize {
    sky.lock().unwrap().tokens.values().filter(|meta| meta["claviger_settled"].is_null()).count()
}

/// Whatever goes wrong at whichever call: a clear error of the right kind, no byte of a value in it, and nothing left once the sky is clear.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_at_any_call_leaves_nothing() {
    let (aside, reached) = counted_port().await;
    let cases = [
        (Weather::Status(400, ""), "it rains (400)"),
        (Weather::Status(403, ""), "it rains"),
        (Weather::Status(404, ""), "it rains (404)"),
        (Weather::Reply(404, "", r#"{"errors":[]}"#), "(404)"),
        (Weather::Reply(404, "", "no such site"), "not what OpenBao answers"),
        (Weather::Status(429, "retry-after: 1\r\n"), "it rains (429, asks to wait 1 s)"),
        (Weather::Status(500, ""), "it rains (500)"),
        (Weather::Status(503, "retry-after: 1\r\n"), "it rains (503, asks to wait 1 s)"),
        (Weather::Status(200, ""), ""),
        (Weather::Body("not JSON"), "not what OpenBao answers"),
        (Weather::Body("[]"), "not what OpenBao answers"),
        (Weather::Body(r#"{"data":7,"auth":"x"}"#), "not what OpenBao answers"),
        (Weather::Body("{}"), ""),
        (Weather::Giant, "more than 1048576 bytes"),
        (Weather::Truncated, "broke off"),
        (Weather::Redirect(aside), "redirect (status 307)"),
        (Weather::Stall, "ms"),
        (Weather::Close, "the connection"),
        (Weather::DoneAndClosed, "the connection"),
    ];
    for call in ["/v1/auth/approle/login", "/v1/auth/token/create", "/v1/database/creds/ro"] {
        for (weather, wanted) in &cases {
            let what = format!("{call}, {weather:?}");
            let (server, sky) = stand_in().await;
            let (engine, row) = engine_at(server.port, LIMIT);
            server.set(Some((call, weather.clone())));
            let asked = Asked::new();
            let error = engine.issue(&asked.order(&row)).await.err().unwrap_or_else(|| panic!("{what}: was issued"));
            let text = format!("{error} {error:?}");
            assert!(text.contains(wanted) && text.contains("under-test: "), "{what}: {text}");
            assert!(!text.contains(CANARY) && !text.contains("own-"), "{what}: {text}");
            // Whose turn it is: another try may help, or somebody has to mend something.
            let passing = match weather {
                Weather::Status(200, _) | Weather::Body("{}") => None,
                Weather::Status(status, _) => Some(*status == 429 || *status >= 500),
                Weather::Redirect(_) | Weather::Reply(404, _, r#"{"errors":[]}"#) => Some(false),
                _ => Some(true),
            };
            let again = error.is_passing();
            assert!(passing.is_none_or(|passing| passing == again), "{what}: {error:?}");
            server.set(None);
            if let Weather::Status(_, "retry-after: 1\r\n") = weather {
                // It is not asked again so soon, whatever it would say now.
                let other = Asked::new();
                let error = engine.issue(&other.order(&row)).await.err().unwrap();
                assert!(matches!(error, EngineError::Busy(..)) && error.to_string().contains("asked us to wait"), "{what}: {error:?}");
                tokio::time::sleep(Duration::from_millis(1100)).await;
                settle(&engine, &other, &row).await;
            }
            let settled = settle(&engine, &asked, &row).await;
            assert_eq!(lives(&sky), 0, "{what}: settled as {settled:?}");
            let good = engine.issue(&Asked::new().order(&row)).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(good.value.expose(), CANARY.as_bytes());
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// Who did not get through to the server at all owes it nothing, however long it is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_never_sent_is_settled_without_the_server() {
    let (server, sky) = stand_in().await;
    for logged_in in [false, true] {
        let (engine, row) = engine_at(server.port, LIMIT);
        if logged_in {
            let asked = Asked::new();
            let issued = engine.issue(&asked.order(&row)).await.unwrap();
            engine.end(asked.lease, &issued.reference).await.unwrap();
        }
        server.stop().await;
        if logged_in {
            // A kept connection that is not known to be cut off yet may have carried a call, which is in doubt then: they are used up first.
            for _ in 0..3 {
                assert!(engine.issue(&Asked::new().order(&row)).await.is_err());
            }
        }
        // The second comes in the pause after the first.
        for _ in 0..2 {
            let asked = Asked::new();
            let error = engine.issue(&asked.order(&row)).await.err().unwrap();
            assert!(error.is_passing(), "{error}");
            assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), Over::lapsed(Proof::NEVER));
            // Once: whoever asks again is not told from memory.
            assert!(engine.settle(asked.lease, Some(&row)).await.is_err());
        }
        server.start_again().await;
    }
    // A deadline that comes before anything is asked for the lease is no less certain; one that comes after it is.
    for (stalls, sent) in [("/v1/auth/approle/login", false), ("/v1/auth/token/create", true)] {
        let (engine, row) = engine_at(server.port, LIMIT);
        if sent {
            // What is under test begins with the call itself.
            let asked = Asked::new();
            let issued = engine.issue(&asked.order(&row)).await.unwrap();
            engine.end(asked.lease, &issued.reference).await.unwrap();
        }
        server.set(Some((stalls, Weather::Stall)));
        let asked = Asked::new();
        // One calls and the others wait for it.
        let others: Vec<Asked> = (0..3).map(|_| Asked::new()).collect();
        let all = std::iter::once(&asked).chain(&others).map(|asked| async { engine.issue(&asked.order(&row)).await.is_err() });
        assert!(futures_util::future::join_all(all).await.into_iter().all(|failed| failed));
        for asked in others.iter().chain([&asked]) {
            let settled = engine.settle(asked.lease, Some(&row)).await;
            assert_eq!(settled.is_err(), sent, "{stalls}: {settled:?}");
        }
        server.set(None);
    }
    assert_eq!(lives(&sky), 0);
}

/// As often as the broker would.
async fn settle(engine: &OpenBaoEngine, asked: &Asked, row: &SecretDefinition) -> Over {
    until_settled(async || engine.settle(asked.lease, Some(row)).await, |error| error.is_passing()).await
}

/// An end is done when the server said so, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_bad_weather_is_an_error_and_is_repeated() {
    for call in ["/v1/sys/leases/revoke", "/v1/sys/leases/lookup", "/v1/auth/token/revoke", "/v1/auth/token/lookup"] {
        for weather in [
            Weather::Status(400, ""),
            Weather::Status(403, ""),
            Weather::Status(500, ""),
            Weather::Status(429, ""),
            Weather::Giant,
            Weather::Stall,
            Weather::Close,
            Weather::DoneAndClosed,
        ] {
            let (server, sky) = stand_in().await;
            let (engine, row) = engine_at(server.port, LIMIT);
            let asked = Asked::new();
            let issued = engine.issue(&asked.order(&row)).await.unwrap();
            server.set(Some((call, weather.clone())));
            let ended = engine.end(asked.lease, &issued.reference).await;
            assert!(ended.is_err(), "{call}, {weather:?}: {ended:?}");
            server.set(None);
            let ended = until_settled(async || engine.end(asked.lease, &issued.reference).await, |_| true).await;
            assert_eq!(ended, EndResult::Revoked);
            assert_eq!(lives(&sky), 0, "{call}, {weather:?}");
        }
    }
}

/// What a lost issue made hangs on its token, and goes when the server has ended it at its source. Whatever else is said of it meanwhile is no
/// word that it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_on_a_token_is_waited_for_in_any_weather() {
    for status in [400, 403, 404, 405, 429, 500] {
        let (server, sky) = stand_in().await;
        let (engine, row) = engine_at(server.port, LIMIT);
        let asked = Asked::new();
        engine.issue(&asked.order(&row)).await.unwrap();
        {
            let mut sky = sky.lock().unwrap();
            (sky.ending, sky.of_leases) = (true, Some(status));
        }
        let settled = engine.settle(asked.lease, Some(&row)).await;
        assert!(settled.is_err(), "{status}: {settled:?}");
        // It can be looked at, and is not gone yet.
        sky.lock().unwrap().of_leases = None;
        let settled = engine.settle(asked.lease, Some(&row)).await;
        assert!(matches!(&settled, Err(EngineError::Unreachable(why)) if why.contains("not done within")), "{status}: {settled:?}");
        {
            let mut sky = sky.lock().unwrap();
            (sky.ending, sky.lease) = (false, false);
        }
        assert_eq!(settle(&engine, &asked, &row).await.proof, Some(Proof::looked(&[Finding::TokenFenced])), "{status}");
        assert_eq!(lives(&sky), 0, "{status}");
    }
}

/// A server's word is not believed: what it says it ended, and did not, is no end and no proof.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_no_proof_of_what_is_not_so() {
    for lies_about in ["sys/leases/revoke", "auth/token/revoke"] {
        let (server, sky) = stand_in().await;
        let (engine, row) = engine_at(server.port, LIMIT);
        let asked = Asked::new();
        let issued = engine.issue(&asked.order(&row)).await.unwrap();
        sky.lock().unwrap().lies_about = lies_about;
        let ended = engine.end(asked.lease, &issued.reference).await;
        assert!(
            matches!(&ended, Err(EngineError::Unreachable(text)) if text.contains("lives after it was revoked")),
            "{lies_about}: {ended:?}"
        );
        sky.lock().unwrap().lies_about = "";
        let over = engine.end(asked.lease, &issued.reference).await.unwrap();
        assert_eq!(over, Over::revoked(Proof::looked(&[Finding::LeaseUnknown, Finding::TokenUnknown])));
    }
}

/// Somebody sets the wall clock between the draft of a lease and the call: what the source is told follows from the clock that nobody sets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_is_set_meanwhile_shortens_no_credential() {
    let (server, sky) = stand_in().await;
    let (engine, row) = engine_at(server.port, LIMIT);
    let day = 86_400_000_000;
    for drafted in [now().0 - 20 * day, now().0 + 20 * day] {
        let (mut asked, left) = (Asked::new(), Duration::from_secs(300));
        (asked.issued, asked.expires) = (WallTime(drafted), WallTime(drafted + 300_000_000));
        let issued = engine.issue(&Order { left, ..asked.order(&row) }).await.unwrap();
        assert_eq!(sky.lock().unwrap().life, 300);
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    }
}

/// An accessor without a token, which OpenBao keeps if it dies while it makes one, hides nothing of what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_crash_of_the_server_left_half_made_does_not_hide_the_rest() {
    let (server, sky) = stand_in().await;
    let (engine, row) = engine_at(server.port, LIMIT);
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
    assert_eq!(sky.lock().unwrap().logins, 1, "our token is as good as before");
    // A policy that lacks it is told as that.
    sky.lock().unwrap().looks_up = false;
    let Err(EngineError::Setup(why)) = engine.inventory().await else { panic!("nothing could be looked up") };
    assert!(why.contains("policy of the token lacks it"), "{why}");
    sky.lock().unwrap().looks_up = true;
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert!(engine.inventory().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_does_not_hold_anybody() {
    let (server, _) = stand_in().await;
    let (engine, row) = engine_at(server.port, Duration::from_millis(300));
    server.set(Some(("", Weather::Stall)));
    let (asked, none, began) = (Asked::new(), UpstreamRef::default(), Instant::now());
    let mut errors = vec![engine.issue(&asked.order(&row)).await.err(), engine.end(asked.lease, &none).await.err()];
    // Listing has ten times as long.
    errors.extend([engine.settle(Asked::new().lease, Some(&row)).await.err(), engine.inventory().await.err()]);
    assert!(errors.iter().all(|error| matches!(error, Some(EngineError::Unreachable(_)))), "{errors:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}
