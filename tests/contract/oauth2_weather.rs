//! Bad weather for the `oauth2` engine, and answers that no server should give: a stand-in that is no authorization server; what a real one
//! does is tested in `oauth2`.

use crate::{
    oauth2::{Bench, host, limits, with_revocation},
    stand_in::{CANARY, Request, StandIn, Weather, counted_port, until_settled},
    suite::{Asked, now, secret},
};
use claviger::{
    engine::{
        Engine, EngineError, Issued, Over,
        oauth2::{Endpoints, OAuth2Engine},
    },
    model::{EndResult, Finding, LeaseId, Proof, SecretDefinition, WallTime},
    outbound::{Address, Client},
    sys::{Clock, ManualClock, SystemClock},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

const LIMIT: Duration = Duration::from_millis(1500);

/// Tokens that live at the stand-in, and what it answers beside them.
#[derive(Default)]
struct Tokens {
    alive: BTreeSet<String>,
    made: usize,
    /// How the last call for one says what it is for.
    known_as: String,
    /// Members of the answer to a request for a token, in place of the usual ones; null leaves one out.
    odd: Value,
    /// It says 200 to whoever revokes, and does nothing.
    deaf: bool,
}

type Shared = Arc<Mutex<Tokens>>;

fn answer(tokens: &Shared, request: &Request) -> (u16, String) {
    let mut tokens = tokens.lock().unwrap();
    let body = String::from_utf8(request.body.clone()).unwrap();
    let field = |name: &str| body.split('&').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    assert_eq!(request.method, "POST");
    match request.path.as_str() {
        "/token" => {
            tokens.made += 1;
            tokens.known_as = request.header("x-request-id").unwrap_or_default().to_owned();
            let token = format!("{CANARY}-{}", tokens.made);
            tokens.alive.insert(token.clone());
            let mut reply = json!({"access_token": token, "token_type": "bearer", "expires_in": 3600});
            for (name, value) in tokens.odd.clone().as_object().into_iter().flatten() {
                if let ("refresh_token", Some(text)) = (name.as_str(), value.as_str()) {
                    tokens.alive.insert(text.to_owned());
                }
                match value {
                    Value::Null => drop(reply.as_object_mut().unwrap().remove(name)),
                    value => reply[name] = value.clone(),
                }
            }
            (200, reply.to_string())
        }
        "/token/revocation" => {
            if !tokens.deaf {
                tokens.alive.remove(&field("token").unwrap());
            }
            (200, String::new())
        }
        "/token/introspection" => (200, json!({"active": tokens.alive.contains(&field("token").unwrap())}).to_string()),
        _ => (404, String::new()),
    }
}

struct Site {
    server: StandIn,
    tokens: Shared,
    bench: Bench,
    clock: Arc<ManualClock>,
}

impl Site {
    async fn new(limit: Duration) -> Self {
        let tokens = Shared::default();
        let shared = tokens.clone();
        let server = StandIn::start(move |request| answer(&shared, request)).await;
        let clock = Arc::new(ManualClock::new(0, now().0));
        let bench = Bench { clock: clock.clone(), limit, ..Bench::new("https://as.test".into(), host()) };
        Self { server, tokens, bench, clock }
    }

    fn engine(&self) -> (OAuth2Engine, SecretDefinition) {
        self.engine_at(self.server.port)
    }

    fn engine_at(&self, port: u16) -> (OAuth2Engine, SecretDefinition) {
        let engine = self.bench.open(client(&format!("http://127.0.0.1:{port}"), self.bench.limit));
        let row = secret("api/orders", &engine, json!({"scope": ["orders.read", "orders.write"]}));
        (engine, row)
    }

    fn alive(&self) -> usize {
        self.tokens.lock().unwrap().alive.len()
    }

    fn notes(&self) -> usize {
        std::fs::read_dir(self.bench.notes()).unwrap().count()
    }

    fn answers(&self, odd: Value) {
        self.tokens.lock().unwrap().odd = odd;
    }
}

fn client(address: &str, limit: Duration) -> Client {
    let address = Address::parse(address, true).unwrap();
    // Its pauses after failures are real.
    Client::new(address, None, || unreachable!("no TLS"), None, limits(limit), Arc::new(SystemClock)).unwrap()
}

/// Whatever goes wrong with the call: an error of the right kind without a byte of a token, nothing that is forgotten, and once the sky is
/// clear another lease is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_is_told_and_what_may_have_come_of_it_is_owed() {
    let (aside, reached) = counted_port().await;
    let no = r#"{"error":"invalid_client","error_description":"no such client"}"#;
    let later = r#"{"error":"temporarily_unavailable"}"#;
    // What comes, what is said, whether another try may help, and whether there may be a token.
    let cases = [
        (Weather::Status(400, ""), "no reason was given (400)", false, false),
        (Weather::Reply(400, "", r#"{"error":"invalid_scope"}"#), "may not have one of these scopes", false, false),
        (Weather::Reply(401, "", no), "invalid_client: no such client (401)", false, false),
        (Weather::Reply(400, "", r#"{"error":"unauthorized_client"}"#), "not allowed to the client", false, false),
        (Weather::Status(403, ""), "(403)", false, false),
        (Weather::Status(404, ""), "right endpoint", false, false),
        (Weather::Status(429, "retry-after: 7\r\n"), "(429, asks to wait 7 s)", true, false),
        (Weather::Reply(503, "retry-after: 9\r\n", later), "temporarily_unavailable (503, asks to wait 9 s)", true, false),
        (Weather::Status(500, ""), "(500)", true, true),
        (Weather::Status(504, ""), "(504)", true, true),
        (Weather::Status(202, ""), "(202)", false, true),
        (Weather::Body("not JSON"), "not what a token endpoint answers", true, true),
        (Weather::Body("[]"), "not what a token endpoint answers", true, true),
        (Weather::Body("{}"), "not what a token endpoint answers", true, true),
        (Weather::Body(r#"{"access_token":7,"token_type":"Bearer"}"#), "not what a token endpoint answers", true, true),
        (Weather::Body(r#"{"access_token":""}"#), "no token", true, true),
        (Weather::Giant, "more than 1048576 bytes", true, true),
        (Weather::Truncated, "broke off", true, true),
        (Weather::Redirect(aside), "redirect (status 307)", false, false),
        (Weather::Stall, "ms", true, true),
        (Weather::Close, "the connection", true, true),
        (Weather::DoneAndClosed, "the connection", true, true),
    ];
    let site = Site::new(LIMIT).await;
    for (weather, wanted, passing, owed) in cases {
        let (engine, row) = site.engine();
        site.server.set(Some(("/token", weather.clone())));
        let asked = Asked::new();
        let error = engine.issue(&asked.order(&row)).await.err().unwrap_or_else(|| panic!("{weather:?}: was issued"));
        let text = format!("{error} {error:?}");
        assert!(text.contains(wanted) && text.contains("under-test: "), "{weather:?}: {text}");
        assert!(!text.contains(CANARY) && !text.contains("client's secret"), "{weather:?}: {text}");
        assert_eq!(error.is_passing(), passing, "{weather:?}: {error:?}");
        site.server.set(None);
        let settled = engine.settle(asked.lease, Some(&row)).await;
        match owed {
            // Nobody knows, so it is not said that there is nothing: not before the longest life is over, also by another daemon's word.
            true => {
                let Err(EngineError::Unreachable(why)) = settled else { panic!("{weather:?}: {settled:?}") };
                assert!(why.contains("dead for certain at"), "{why}");
                assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
                drop(engine);
                let (engine, row) = site.engine();
                site.clock.advance(3_600_000_000);
                assert!(engine.settle(asked.lease, None).await.is_err(), "a call may take its time");
                site.clock.advance(301_000_000);
                assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), EndResult::Lapsed, "{weather:?}");
            }
            false => assert_eq!(settled.unwrap(), EndResult::Lapsed, "{weather:?}"),
        }
        assert_eq!(site.notes(), 0, "{weather:?}");
        let (engine, row) = site.engine();
        let mut asked = Asked::new();
        asked.expires.0 = site.clock.wall().0 + 300_000_000;
        asked.at = Some(site.clock.wall());
        let good = engine.issue(&asked.order(&row)).await.unwrap_or_else(|error| panic!("{weather:?}: {error}"));
        engine.end(asked.lease, &good.reference).await.unwrap();
    }
    assert_eq!(site.alive(), 1, "the one of whose making nobody heard");
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// How long a call is owed that nobody heard follows from what was said when it was made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_life_that_is_configured_later_settles_nothing_sooner() {
    let mut site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    site.server.set(Some(("/token", Weather::DoneAndClosed)));
    let asked = Asked::new();
    assert!(engine.issue(&asked.order(&row)).await.is_err());
    site.server.set(None);
    drop(engine);
    site.bench.max_ttl = "5m";
    site.clock.advance(3_600_000_000);
    let (engine, row) = site.engine();
    assert_eq!(engine.inventory().await.unwrap(), [asked.lease], "its start forgets nothing either");
    assert!(engine.settle(asked.lease, Some(&row)).await.is_err());
    site.clock.advance(301_000_000);
    assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), EndResult::Lapsed);
}

/// A token that is more, longer or other than what was asked for is not handed out and does not stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_it_was_asked_for_is_taken_back() {
    let site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    for (odd, wanted) in [
        (json!({"scope": "orders.read admin"}), "1 scopes beyond"),
        (json!({"scope": ["orders.read"]}), "scope"),
        (json!({"token_type": "DPoP"}), "token_type"),
        (json!({"token_type": null}), "token_type"),
        (json!({"expires_in": null}), "does not say how long"),
        (json!({"expires_in": "3600"}), "does not say how long"),
        (json!({"expires_in": 60}), "lower ttl"),
        (json!({"expires_in": 86400}), "its longest here"),
        (json!({"refresh_token": "canary-of-the-weather-refresh"}), "refresh token came along"),
        (json!({"refresh_token": {"value": "canary-of-the-weather-refresh"}}), "refresh token came along"),
    ] {
        site.answers(odd.clone());
        let asked = Asked::new();
        let error = engine.issue(&asked.order(&row)).await.err().unwrap_or_else(|| panic!("{odd}: was issued"));
        assert!(matches!(error, EngineError::Setup(_) | EngineError::Refused(_)), "{odd}: {error:?}");
        assert!(error.to_string().contains(wanted) && !error.to_string().contains(CANARY), "{odd}: {error}");
        assert_eq!((site.alive(), site.notes()), (0, 0), "{odd}: it stays");
        // The same, and it cannot be taken back just then: it is owed, and settled when it can.
        site.server.set(Some(("/token/revocation", Weather::Status(503, ""))));
        let error = engine.issue(&asked.order(&row)).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(wanted) && error.contains("could not be taken back yet") && !error.contains(CANARY), "{odd}: {error}");
        assert_eq!(engine.inventory().await.unwrap(), [asked.lease], "{odd}");
        site.server.set(None);
        assert_eq!(engine.settle(asked.lease, None).await.unwrap(), EndResult::Revoked, "{odd}");
        assert_eq!((site.alive(), site.notes()), (0, 0), "{odd}: it stays");
    }
    // Less than what was asked for is told.
    site.answers(json!({"scope": "orders.read"}));
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    assert!(issued.attributes.contains(&("scope".into(), "orders.read".into())));
    // A token of an exchange is of the type that was asked for.
    let row = secret("api/orders", &engine, json!({"grant": "token_exchange", "scope": ["orders.read"]}));
    site.answers(json!({"issued_token_type": "urn:ietf:params:oauth:token-type:saml2"}));
    assert!(matches!(engine.issue(&Asked::new().order(&row)).await, Err(EngineError::Setup(why)) if why.contains("issued_token_type")));
    engine.end(asked.lease, &issued.reference).await.unwrap();
    assert_eq!(site.alive(), 0);
}

/// A server's log leads to the lease and to what was granted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_for_a_token_says_lease_and_intent() {
    let site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    let digest = issued.reference.0.get("intent").and_then(|digest| digest.as_str().map(str::to_owned)).unwrap();
    assert_eq!(site.tokens.lock().unwrap().known_as, format!("{}.{digest}", asked.lease));
    engine.end(asked.lease, &issued.reference).await.unwrap();
}

/// An end is done when the server said so, and a look confirmed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_in_bad_weather_is_an_error_and_is_repeated() {
    let (aside, reached) = counted_port().await;
    let site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    for call in ["/token/revocation", "/token/introspection"] {
        for weather in [
            Weather::Status(400, ""),
            Weather::Status(401, ""),
            Weather::Status(500, ""),
            Weather::Status(429, ""),
            // Of a revocation any 200 is a yes: then the look says that the token lives.
            Weather::Body("not JSON"),
            Weather::Body("[]"),
            Weather::Body("{}"),
            Weather::Body(r#"{"active":"false"}"#),
            Weather::Body(r#"{"active":null}"#),
            Weather::Truncated,
            Weather::Redirect(aside),
            Weather::Giant,
            Weather::Stall,
            Weather::Close,
            Weather::DoneAndClosed,
        ] {
            let asked = Asked::new();
            let issued = engine.issue(&asked.order(&row)).await.unwrap();
            site.server.set(Some((call, weather.clone())));
            let ended = engine.end(asked.lease, &issued.reference).await;
            assert!(ended.is_err(), "{call}, {weather:?}: {ended:?}");
            let why = ended.unwrap_err().to_string();
            assert!(why.starts_with("under-test: ") && !why.contains(CANARY), "{call}, {weather:?}: {why}");
            assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
            site.server.set(None);
            let ended = until_settled(async || engine.end(asked.lease, &issued.reference).await, |_| true).await;
            assert_eq!(ended, EndResult::Revoked);
            assert_eq!((site.alive(), site.notes()), (0, 0), "{call}, {weather:?}");
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
    // A server that says yes and does nothing is found out.
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    site.tokens.lock().unwrap().deaf = true;
    let Err(EngineError::Unreachable(why)) = engine.end(asked.lease, &issued.reference).await else { panic!("it lives") };
    assert!(why.contains("lives after it was revoked"), "{why}");
    // Past its own end a token is over, whatever the server does; nobody could say that it was revoked.
    site.server.set(Some(("/token", Weather::Status(503, ""))));
    site.clock.advance(3_600_000_000);
    assert!(engine.end(asked.lease, &issued.reference).await.is_err(), "clocks differ");
    site.clock.advance(301_000_000);
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Lapsed);
    assert_eq!(site.notes(), 0);
}

/// Nothing is asked of the server to renew a lease, so no weather keeps it from that, nor lets it last longer than its token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_needs_no_server_and_promises_no_more_than_the_token_has() {
    let site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    for weather in [Weather::Status(401, ""), Weather::Status(503, ""), Weather::Giant, Weather::Stall, Weather::Close] {
        let mut asked = Asked::new();
        let (issued, expires) = (engine.issue(&asked.order(&row)).await.unwrap(), asked.expires.0);
        site.server.set(Some(("", weather.clone())));
        asked.expires.0 = expires + 600_000_000;
        engine.renew(&asked.order(&row), &issued.reference).await.unwrap_or_else(|error| panic!("{weather:?}: {error}"));
        asked.expires.0 = expires + 4_000_000_000;
        let Err(EngineError::Refused(why)) = engine.renew(&asked.order(&row), &issued.reference).await else { panic!("{weather:?}") };
        assert!(why.starts_with("under-test: ") && why.contains("cannot be prolonged"), "{why}");
        // Nor is one renewed whose end did not come through, and then did.
        assert!(engine.end(asked.lease, &issued.reference).await.is_err(), "{weather:?}");
        site.server.set(None);
        until_settled(async || engine.end(asked.lease, &issued.reference).await, |_| true).await;
        asked.expires.0 = expires;
        assert!(matches!(engine.renew(&asked.order(&row), &issued.reference).await, Err(EngineError::Refused(_))), "{weather:?}");
    }
    assert_eq!((site.alive(), site.notes()), (0, 0));
}

/// A server that cannot be asked whether a token is dead: its word is all there is, and no more is claimed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_servers_word_is_told_as_its_word() {
    let mut site = Site::new(LIMIT).await;
    for (endpoints, wanted) in [
        (with_revocation as fn() -> Endpoints, Proof::looked(&[Finding::TokenInactive])),
        (|| Endpoints { introspection: None, ..with_revocation() }, Proof::TOLD),
    ] {
        site.bench.endpoints = endpoints;
        let (engine, row) = site.engine();
        let asked = Asked::new();
        let issued = engine.issue(&asked.order(&row)).await.unwrap();
        assert_eq!(engine.proves(&row), Some(wanted.by));
        assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), Over::revoked(wanted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_held_and_what_was_never_sent_is_not_owed() {
    let limit = Duration::from_millis(300);
    let site = Site::new(limit).await;
    let (engine, row) = site.engine();
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    site.server.set(Some(("", Weather::Stall)));
    assert!(matches!(engine.issue(&Asked::new().order(&row)).await, Err(EngineError::Unreachable(_))));
    assert!(matches!(engine.end(asked.lease, &issued.reference).await, Err(EngineError::Unreachable(_))));
    // Nobody listens.
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (engine, row) = site.engine_at(unused);
    let before = site.notes();
    for _ in 0..3 {
        let asked = Asked::new();
        assert!(matches!(engine.issue(&asked.order(&row)).await, Err(EngineError::Unreachable(_))));
        assert_eq!(engine.settle(asked.lease, Some(&row)).await.unwrap(), EndResult::Lapsed);
    }
    assert_eq!(site.notes(), before);
}

/// A server's words are another's: they may hold what we sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_repeats_secrets_is_not_quoted() {
    let site = Site::new(LIMIT).await;
    let (engine, row) = site.engine();
    let said = r#"{"error":"invalid_request","error_description":"cannot read a client's secret: with signs & spaces"}"#;
    site.server.set(Some(("/token", Weather::Reply(400, "", said))));
    let Err(EngineError::Setup(why)) = engine.issue(&Asked::new().order(&row)).await else { panic!() };
    assert!(why.contains("repeats a secret") && !why.contains("signs"), "{why}");
}

/// A clock that is set ahead while the server is away makes nobody forget a live token: within a boot the other clock must say so too, and
/// after another one the wall clock is believed beyond a day only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_ahead_calls_no_live_token_dead() {
    const MINUTE: u64 = 60_000_000;
    let mut site = Site::new(LIMIT).await;
    let ahead = |site: &Site, minutes: u64| site.clock.step_wall(site.clock.wall().0 + minutes * MINUTE);
    let away = |site: &Site| site.server.set(Some(("/token", Weather::Status(503, ""))));
    let boots = |site: &mut Site, boot: &'static str, minutes: u64| {
        site.clock = Arc::new(ManualClock::new(0, site.clock.wall().0 + minutes * MINUTE));
        (site.bench.clock, site.bench.boot) = (site.clock.clone(), boot);
    };
    // One that was answered, one that was not committed, and one of which nobody heard.
    let issue = async |site: &Site| {
        let (engine, row) = site.engine();
        let all = [(); 3].map(|()| Asked { expires: site.clock.wall().plus(row.ttl.default), at: Some(site.clock.wall()), ..Asked::new() });
        let held = engine.issue(&all[0].order(&row)).await.unwrap();
        engine.issue(&all[1].order(&row)).await.unwrap();
        site.server.set(Some(("/token", Weather::DoneAndClosed)));
        assert!(engine.issue(&all[2].order(&row)).await.is_err());
        away(site);
        (all.map(|asked| asked.lease), held)
    };
    let over = async |site: &Site, leases: &[LeaseId; 3], held: &Issued| {
        let (engine, _) = site.engine();
        let ends =
            [engine.end(leases[0], &held.reference).await, engine.settle(leases[1], None).await, engine.settle(leases[2], None).await];
        let is_over = |end: &Result<Over, EngineError>| match end {
            Ok(over) => *over == Over::lapsed(Proof::EXPIRED) || panic!("{over:?}"),
            Err(EngineError::Unreachable(_)) => false,
            Err(error) => panic!("{error:?}"),
        };
        ends.iter().filter(|end| is_over(end)).count()
    };
    // Set ahead by mistake, seen by the daemon that made them and by the one after it, and by both set back again.
    let (leases, held) = issue(&site).await;
    ahead(&site, 70);
    assert_eq!((over(&site, &leases, &held).await, site.notes()), (0, 3));
    let why = site.engine().0.settle(leases[2], None).await.unwrap_err().to_string();
    let dead = site.clock.wall().0 + 65 * MINUTE;
    assert!(why.contains(&format!("dead for certain at {}", WallTime(dead).rfc3339())), "{why}");
    site.server.set(None);
    assert_eq!(site.engine().0.end(leases[0], &held.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(site.engine().0.settle(leases[1], None).await.unwrap(), EndResult::Revoked);
    assert_eq!((site.alive(), site.notes()), (1, 1));
    site.clock.advance(66 * MINUTE);
    assert_eq!(site.engine().0.settle(leases[2], None).await.unwrap(), EndResult::Lapsed);
    // Time that went by on both, and on the one that nobody sets where the other stands before the call.
    let (leases, held) = issue(&site).await;
    site.clock.advance(66 * MINUTE);
    site.clock.step_wall(site.clock.wall().0 - 90 * MINUTE);
    assert_eq!((over(&site, &leases, &held).await, site.notes()), (3, 0));
    site.server.set(None);
    // After another boot: an hour or twenty ahead is nothing, a day beyond its life is.
    for minutes in [70, 20 * 60] {
        let (leases, held) = issue(&site).await;
        boots(&mut site, "another boot", minutes);
        assert_eq!((over(&site, &leases, &held).await, site.notes()), (0, 3), "{minutes}");
        ahead(&site, 26 * 60);
        assert_eq!((over(&site, &leases, &held).await, site.notes()), (3, 0), "{minutes}");
        boots(&mut site, "this boot", 0);
        site.server.set(None);
    }
    // Nor is the clock needed by a daemon that runs for longer than the token may live; the same of notes that do not name a boot.
    for named in [true, false] {
        let (leases, held) = issue(&site).await;
        for note in std::fs::read_dir(site.bench.notes()).unwrap().map(|entry| entry.unwrap().path()) {
            let mut text: Value = serde_json::from_slice(&std::fs::read(&note).unwrap()).unwrap();
            assert_eq!((&text["format"], &text["booted"]["id"]), (&json!(2), &json!(site.bench.boot)));
            if !named {
                text.as_object_mut().unwrap().remove("booted").unwrap();
                text["format"] = json!(1);
                std::fs::write(note, text.to_string()).unwrap();
            }
        }
        if named {
            boots(&mut site, "a third boot", 70);
        } else {
            ahead(&site, 70);
        }
        assert_eq!((over(&site, &leases, &held).await, site.notes()), (0, 3), "{named}");
        let (engine, _) = site.engine();
        site.clock.advance(66 * MINUTE);
        site.clock.step_wall(0);
        assert_eq!(engine.end(leases[0], &held.reference).await.unwrap(), Over::lapsed(Proof::EXPIRED), "{named}");
        for lease in &leases[1..] {
            assert_eq!(engine.settle(*lease, None).await.unwrap(), Over::lapsed(Proof::EXPIRED), "{named}");
        }
        boots(&mut site, "this boot", 30_000_000);
        site.server.set(None);
    }
}
