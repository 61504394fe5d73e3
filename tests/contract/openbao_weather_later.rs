//! Bad weather for the `openbao` engine after a lease was made, and where nothing is made: values of the KV store, renewals, and the list of
//! what is there. The stand-in is that of `openbao_weather`.

use crate::{
    openbao_weather::{engine_at, lives, stand_in},
    stand_in::{CANARY, StandIn, Weather, counted_port, until_settled},
    suite::{Asked, secret},
};
use claviger::{
    engine::{Engine, EngineError, openbao::OpenBaoEngine},
    model::{EndResult, SecretDefinition, WallTime},
};
use serde_json::json;
use std::{sync::atomic::Ordering, time::Duration};

const LIMIT: Duration = Duration::from_millis(1500);
const KV: &str = "/v1/secret/data/";

/// OpenBao's words where nothing is, where a version was deleted, and where a path is none of a KV store of version 2 (2.7).
const NOTHING: &str = r#"{"errors":[]}"#;
const DELETED: &str = r#"{"request_id":"1","lease_id":"","auth":null,"data":{"data":null,"metadata":{"created_time":"2026-01-01T00:00:00Z","deletion_time":"2026-01-02T00:00:00Z","version":1}}}"#;
const NO_PATH: &str =
    r#"{"request_id":"1","lease_id":"","data":null,"warnings":["Invalid path for a versioned K/V secrets engine."],"auth":null}"#;
/// And those of a gateway.
const NO_ROUTE: &str = r#"{"message":"no Route matched with those values","request_id":"b2f1"}"#;

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Another try may help.
    Later,
    /// Somebody has to mend something.
    Operator,
    /// The server does not want to.
    Refused,
    /// There is nothing to give.
    Nothing,
}

fn turn(error: &EngineError) -> Turn {
    match error {
        EngineError::Unreachable(_) | EngineError::Busy(..) => Turn::Later,
        EngineError::Setup(_) => Turn::Operator,
        EngineError::Refused(_) => Turn::Refused,
        EngineError::NoValue => Turn::Nothing,
    }
}

/// What comes whatever was asked, what is said of it, and whose turn it then is.
fn weathers(aside: u16) -> Vec<(Weather, &'static str, Turn)> {
    vec![
        (Weather::Status(403, ""), "it rains (403)", Turn::Operator),
        (Weather::Status(429, "retry-after: 1\r\n"), "it rains (429, asks to wait 1 s)", Turn::Later),
        (Weather::Status(500, ""), "it rains (500)", Turn::Later),
        (Weather::Status(503, "retry-after: 1\r\n"), "it rains (503, asks to wait 1 s)", Turn::Later),
        (Weather::Body("not JSON"), "not what OpenBao answers", Turn::Later),
        (Weather::Body("[]"), "not what OpenBao answers", Turn::Later),
        (Weather::Body(r#"{"data":7,"auth":"x"}"#), "not what OpenBao answers", Turn::Later),
        (Weather::Giant, "more than 1048576 bytes", Turn::Later),
        (Weather::Truncated, "broke off", Turn::Later),
        (Weather::Redirect(aside), "redirect (status 307)", Turn::Operator),
        (Weather::Stall, "ms", Turn::Later),
        (Weather::Close, "the connection", Turn::Later),
        (Weather::DoneAndClosed, "the connection", Turn::Later),
    ]
}

/// It failed, in the engine's name and with the cause, and not with a byte of a value or a token.
fn is_told<T: std::fmt::Debug>(done: Result<T, EngineError>, what: &str, wanted: &str, whose: Turn) {
    let error = done.err().unwrap_or_else(|| panic!("{what}: it went through"));
    let text = format!("{error} {error:?}");
    assert_eq!(turn(&error), whose, "{what}: {text}");
    assert!(text.contains(wanted) && (whose == Turn::Nothing || text.contains("under-test: ")), "{what}: {text}");
    assert!(!text.contains(CANARY) && !text.contains("own-") && !text.contains("clv-"), "{what}: {text}");
}

fn value(port: u16) -> (OpenBaoEngine, SecretDefinition) {
    let (engine, _) = engine_at(port, LIMIT);
    let row = secret("app/db", &engine, json!({"kv": "secret/app/db", "field": "password", "attributes": ["user"]}));
    (engine, row)
}

/// A value that is stored: it is read when a lease is made, and, by a daemon that started meanwhile, when the lease is read or prolonged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_value_in_bad_weather_is_told_and_none_is_made_up() {
    let (aside, reached) = counted_port().await;
    let mut cases = weathers(aside);
    cases.extend([
        (Weather::Status(400, ""), "it rains (400)", Turn::Refused),
        (Weather::Status(404, ""), "it rains (404)", Turn::Operator),
        (Weather::Reply(404, "", NOTHING), "NoValue", Turn::Nothing),
        (Weather::Reply(404, "", DELETED), "NoValue", Turn::Nothing),
        (Weather::Reply(404, "", NO_PATH), "Invalid path", Turn::Operator),
        // Somebody between us and the server.
        (Weather::Reply(404, "", r#"{"code":404,"data":{},"message":"no route matched"}"#), "not what OpenBao answers", Turn::Later),
        (Weather::Reply(404, "", "<html>no such site</html>"), "not what OpenBao answers", Turn::Later),
        (Weather::Reply(404, "", NO_ROUTE), "not what OpenBao answers", Turn::Later),
        (Weather::Body("{}"), "not what a KV store of version 2 answers", Turn::Operator),
        (Weather::Body(r#"{"data":{"data":7,"metadata":{}}}"#), "not what a KV store of version 2 answers", Turn::Operator),
        (Weather::Body(r#"{"data":{"password":"canary-of-the-weather"}}"#), "not what a KV store of version 2", Turn::Operator),
    ]);
    let (server, _) = stand_in().await;
    for (weather, wanted, whose) in cases {
        let (engine, row) = value(server.port);
        let (asked, late) = (Asked::new(), Asked::new());
        let issued = engine.issue(&asked.order(&row)).await.unwrap();
        let (order, after_a_start) = (asked.order(&row), || value(server.port).0);
        server.set(Some((KV, weather.clone())));
        is_told(engine.issue(&late.order(&row)).await.map(drop), &format!("issue, {weather:?}"), wanted, whose);
        is_told(after_a_start().read(&order, &issued.reference).await.map(drop), &format!("read, {weather:?}"), wanted, whose);
        is_told(after_a_start().renew(&order, &issued.reference).await, &format!("renew, {weather:?}"), wanted, whose);
        // What is kept is given again where the server said nothing about it, and not against its no.
        let kept = engine.read_now(&order, &issued.reference).map(|again| again.unwrap().value.expose().to_vec());
        let says_no = matches!(whose, Turn::Refused | Turn::Nothing)
            || matches!(weather, Weather::Status(403 | 404, _) | Weather::Reply(404, _, NO_PATH));
        // A no about the newest version is one about all; that there is none speaks of the newest alone.
        if says_no {
            assert!(kept.is_none(), "{weather:?}");
        } else {
            assert_eq!(kept.as_deref(), Some(CANARY.as_bytes()), "{weather:?}");
            engine.renew(&order, &issued.reference).await.unwrap_or_else(|error| panic!("{weather:?}: {error}"));
        }
        server.set(None);
        assert_eq!(engine.settle(late.lease, Some(&row)).await.unwrap(), EndResult::Lapsed, "nothing is at the server");
        for engine in [&engine, &after_a_start()] {
            let again = until_settled(async || engine.read(&order, &issued.reference).await, |error| turn(error) == Turn::Later).await;
            assert_eq!(again.value.expose(), CANARY.as_bytes(), "{weather:?}");
            engine.renew(&order, &issued.reference).await.unwrap();
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// An answer about another version, or about another value that has the same number, is none to the lease's question.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_about_something_else_is_not_the_leases_value() {
    let (server, _) = stand_in().await;
    let (engine, row) = value(server.port);
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&row)).await.unwrap();
    let other = r#"{"data":{"data":{"user":"u","password":"x"},"metadata":{"version":2,"created_time":"2026-01-01T00:00:00Z"}}}"#;
    let again = r#"{"data":{"data":{"user":"u","password":"x"},"metadata":{"version":1,"created_time":"2026-02-02T00:00:00Z"}}}"#;
    let less = r#"{"data":{"data":{"user":"u"},"metadata":{"version":1,"created_time":"2026-01-01T00:00:00Z"}}}"#;
    for (body, wanted, whose) in [(other, "about another version", Turn::Later), (again, "NoValue", Turn::Nothing)] {
        server.set(Some((KV, Weather::Body(body))));
        is_told(value(server.port).0.read(&asked.order(&row), &issued.reference).await.map(drop), body, wanted, whose);
        is_told(value(server.port).0.renew(&asked.order(&row), &issued.reference).await, body, wanted, whose);
    }
    server.set(Some((KV, Weather::Body(less))));
    is_told(value(server.port).0.issue(&Asked::new().order(&row)).await.map(drop), less, "password", Turn::Operator);
}

/// A renewal that fails at either of its two calls is an error: nobody is told that it lives longer than it may. The lease goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_in_bad_weather_is_an_error_and_can_be_repeated() {
    let (aside, reached) = counted_port().await;
    for call in ["/v1/sys/leases/renew", "/v1/auth/token/renew"] {
        let of_token = call.contains("token");
        let mut cases = weathers(aside);
        cases.extend([
            // Whether the token is gone is looked at: it is not.
            (Weather::Status(400, ""), "it rains", if of_token { Turn::Operator } else { Turn::Refused }),
            (Weather::Status(404, ""), "it rains", Turn::Operator),
            (Weather::Reply(404, "", NOTHING), "(404)", Turn::Operator),
            (Weather::Body("{}"), "gives 0 s", Turn::Refused),
            (Weather::Body(r#"{"lease_duration":60,"auth":{"lease_duration":60}}"#), "gives 60 s", Turn::Refused),
        ]);
        for (weather, wanted, whose) in cases {
            let what = format!("{call}, {weather:?}");
            // What was said about permissions has another end where the token was looked up.
            let wanted = if of_token && matches!(weather, Weather::Status(403, _)) { "it rains" } else { wanted };
            let (server, sky) = stand_in().await;
            let (engine, row) = engine_at(server.port, LIMIT);
            let mut asked = Asked::new();
            let issued = engine.issue(&asked.order(&row)).await.unwrap();
            asked.expires = WallTime(asked.expires.0 + 600_000_000);
            server.set(Some((call, weather.clone())));
            is_told(engine.renew(&asked.order(&row), &issued.reference).await, &what, wanted, whose);
            // It is read again all the same.
            assert_eq!(engine.read_now(&asked.order(&row), &issued.reference).unwrap().unwrap().value.expose(), CANARY.as_bytes());
            server.set(None);
            until_settled(async || engine.renew(&asked.order(&row), &issued.reference).await, |error| turn(error) == Turn::Later).await;
            assert!(sky.lock().unwrap().life > 600, "{what}");
            assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked, "{what}");
            assert_eq!(lives(&sky), 0, "{what}");
        }
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// What cannot be listed is not said to be gone: what comes of a list is that others are ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_in_bad_weather_is_an_error_and_never_a_shorter_one() {
    let (aside, reached) = counted_port().await;
    let (server, sky) = stand_in().await;
    let (engine, row) = engine_at(server.port, LIMIT);
    let held = [Asked::new(), Asked::new()];
    let mut references = Vec::new();
    for asked in &held {
        references.push(engine.issue(&asked.order(&row)).await.unwrap().reference);
    }
    let list = async |engine: &OpenBaoEngine| engine.inventory().await.map(|leases| leases.len());
    let mut tried = Vec::new();
    for call in ["/v1/auth/approle/login", "/v1/auth/token/create", "/v1/auth/token/accessors", "/v1/auth/token/lookup-accessor"] {
        for (weather, _, _) in weathers(aside) {
            tried.push((call, weather));
        }
        // Anything but an empty list, which a server answers with a 404 of its own, or with words about a token that died meanwhile.
        let others = [Weather::Status(400, ""), Weather::Status(404, ""), Weather::Reply(404, "", "nowhere"), Weather::Status(200, "")];
        let gone = [DELETED, NO_PATH, NO_ROUTE, r#"{"errors":["no handler for route \"auth/token/lookup-accessor\""]}"#, r#"{"data":{}}"#];
        let gone = gone.map(|body| Weather::Reply(404, "", body));
        tried.extend(others.into_iter().chain(gone).chain([Weather::Body("{}")]).map(|weather| (call, weather)));
        if call.ends_with("accessors") {
            for body in [r#"{"data":{}}"#, r#"{"data":{"keys":null}}"#, r#"{"data":{"keys":{}}}"#, r#"{"data":{"keys":[7]}}"#] {
                tried.push((call, Weather::Body(body)));
            }
        }
    }
    // Each looks for two seconds, and they do not disturb each other: each has a server of its own.
    let looks = tried.into_iter().map(async |(call, weather)| {
        let beside = StandIn::start({
            let sky = sky.clone();
            move |request| crate::openbao_weather::answer(&sky, request)
        })
        .await;
        beside.set(Some((call, weather.clone())));
        // A limit for what hangs, ten times as long for a list.
        let (engine, _) = engine_at(beside.port, Duration::from_millis(600));
        let listed = list(&engine).await;
        let error = listed.err().unwrap_or_else(|| panic!("{call}, {weather:?}: a list"));
        assert!(error.to_string().starts_with("under-test: ") && !error.to_string().contains(CANARY), "{call}, {weather:?}: {error}");
    });
    futures_util::future::join_all(looks).await;
    assert_eq!(list(&engine).await.unwrap(), 2, "and nothing was done to what is there");
    for (asked, reference) in held.iter().zip(&references) {
        assert_eq!(engine.end(asked.lease, reference).await.unwrap(), EndResult::Revoked);
    }
    assert_eq!((lives(&sky), reached.load(Ordering::SeqCst)), (0, 0));
}

/// A token for one call only has no debt in the journal and dies by itself: nobody takes it for one that was lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_call_is_no_stray() {
    for (ends, strays) in [("short-life", 0), ("upstream", 1)] {
        let (server, sky) = stand_in().await;
        let (engine, _) = engine_at(server.port, LIMIT);
        let row = secret("db/orders", &engine, json!({"read": "database/creds/ro", "field": "password", "ends": ends}));
        // The daemon could as well be killed here.
        server.set(Some(("/v1/database/creds/ro", Weather::Close)));
        engine.issue(&Asked::new().order(&row)).await.err().unwrap();
        server.set(None);
        assert_eq!(lives(&sky), 1, "{ends}");
        let there = until_settled(async || engine.inventory().await, |error| turn(error) == Turn::Later).await;
        assert_eq!(there.len(), strays, "{ends}");
    }
}
