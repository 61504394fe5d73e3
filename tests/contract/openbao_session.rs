//! The `openbao` engine's own token: renewed early, made anew when that is refused, and used on while the server is too busy to say so. The
//! stand-in is that of `openbao_weather`; the last test has a real server.

use crate::{
    openbao::{LIMIT, approle, engine_at, engine_with},
    openbao_server::OpenBao,
    openbao_weather::{Shared, stand_in},
    stand_in::Weather,
    suite::{Asked, now, secret},
};
use claviger::{
    engine::{Engine, EngineError, openbao::OpenBaoEngine},
    model::{EndResult, SecretDefinition},
    outbound::{Address, Client, Limits},
    sys::{Clock, ManualClock, SystemClock},
};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// What the stand-in gives our token, in microseconds.
const LIFE: u64 = 1200 * 1_000_000;

fn engine(port: u16, clock: Arc<dyn Clock>) -> (OpenBaoEngine, SecretDefinition) {
    let address = Address::parse(&format!("http://127.0.0.1:{port}"), true).unwrap();
    let limits = Limits { connect: LIMIT, call: LIMIT, ..Limits::default() };
    // Its pauses after failures are real.
    let client = Client::new(address, None, || unreachable!("no TLS"), None, limits, Arc::new(SystemClock)).unwrap();
    let (_folder, store) = crate::local::store();
    let engine = engine_at(None, clock, store, client, approle("r".into(), "s".into()), b"state", LIMIT);
    let row = secret("db/orders", &engine, json!({"read": "database/creds/ro", "field": "password", "attributes": ["username"]}));
    (engine, row)
}

/// A lease is made and ended, which takes a token of ours.
async fn is_served((engine, row): &(OpenBaoEngine, SecretDefinition)) {
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(row)).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

/// An engine that has logged in, by a clock that stands.
async fn logged_in(port: u16) -> ((OpenBaoEngine, SecretDefinition), Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(1, now().0));
    let engine = engine(port, clock.clone());
    is_served(&engine).await;
    // What keeps the token in the background has looked at the clock by now, and sleeps for longer than these tests take.
    tokio::time::sleep(Duration::from_millis(200)).await;
    (engine, clock)
}

/// Logins, and calls to renew our token.
fn counts(sky: &Shared) -> (usize, usize) {
    let sky = sky.lock().unwrap();
    (sky.logins, sky.renewals)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_renewed_before_two_thirds_of_its_life_and_not_before_a_half() {
    let (server, sky) = stand_in().await;
    let (engine, clock) = logged_in(server.port).await;
    for round in 0..4 {
        clock.advance(LIFE * 56 / 100);
        is_served(&engine).await;
        assert_eq!(counts(&sky), (1, round), "it is early yet");
        clock.advance(LIFE * 11 / 100);
        is_served(&engine).await;
        assert_eq!(counts(&sky), (1, round + 1), "it is time");
        // Once, and then it is young again.
        is_served(&engine).await;
        assert_eq!(counts(&sky), (1, round + 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_who_need_it_at_once_renew_it_once() {
    let (server, sky) = stand_in().await;
    let (engine, clock) = logged_in(server.port).await;
    // The stand-in has one lease of a database, and a token for everybody.
    let row = secret("bao/app", &engine.0, json!({"token": {"policies": ["app"]}}));
    let engine = (engine.0, row);
    clock.advance(LIFE * 7 / 10);
    futures_util::future::join_all((0..8).map(|_| is_served(&engine))).await;
    assert_eq!(counts(&sky), (1, 1));
    // The same where it is dead.
    clock.advance(LIFE + 1);
    futures_util::future::join_all((0..8).map(|_| is_served(&engine))).await;
    assert_eq!(counts(&sky), (2, 1), "what is dead is not renewed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_is_refused_is_a_login() {
    for (status, body) in [
        (403, r#"{"errors":["permission denied"]}"#),
        (400, r#"{"errors":["lease is not renewable"]}"#),
        (404, r#"{"errors":[]}"#),
        // It says yes and gives it no time.
        (200, r#"{"auth":{"client_token":"own-1","lease_duration":0,"renewable":true}}"#),
    ] {
        let (server, sky) = stand_in().await;
        let (engine, clock) = logged_in(server.port).await;
        sky.lock().unwrap().no_renewal = Some((status, body));
        clock.advance(LIFE * 7 / 10);
        is_served(&engine).await;
        assert_eq!(counts(&sky), (2, 1), "{status} {body}");
        is_served(&engine).await;
        assert_eq!(counts(&sky), (2, 1), "{status} {body}: the new one is young");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_cannot_be_renewed_is_made_anew_without_a_question() {
    let (server, sky) = stand_in().await;
    sky.lock().unwrap().own = Some((1200, false));
    let (engine, clock) = logged_in(server.port).await;
    clock.advance(LIFE * 7 / 10);
    is_served(&engine).await;
    assert_eq!(counts(&sky), (2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_too_busy_to_renew_it_is_called_with_the_old_one() {
    let (server, sky) = stand_in().await;
    let (engine, clock) = logged_in(server.port).await;
    clock.advance(LIFE * 7 / 10);
    // The last is none that OpenBao would give, and no refusal either.
    for (status, body) in [(503, r#"{"errors":["it rains"]}"#), (500, r#"{"errors":["it rains"]}"#), (200, "it rains")] {
        let (_, before) = counts(&sky);
        sky.lock().unwrap().no_renewal = Some((status, body));
        is_served(&engine).await;
        let (logins, renewals) = counts(&sky);
        assert!(logins == 1 && renewals > before, "{status}: {logins} logins, {renewals} renewals after {before}");
    }
    // As soon as it can, and with nothing lost.
    let (_, before) = counts(&sky);
    sky.lock().unwrap().no_renewal = None;
    is_served(&engine).await;
    assert_eq!(counts(&sky), (1, before + 1));
    // Not beyond its life.
    sky.lock().unwrap().no_renewal = Some((503, r#"{"errors":["it rains"]}"#));
    clock.advance(LIFE + 1);
    is_served(&engine).await;
    assert_eq!(counts(&sky), (2, before + 1));
}

/// What is in the way to the server, an operator's matter or not, is no word about the token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_that_does_not_reach_the_server_costs_no_token() {
    let (server, sky) = stand_in().await;
    let (engine, clock) = logged_in(server.port).await;
    clock.advance(LIFE * 7 / 10);
    for weather in [Weather::Redirect(1), Weather::Close, Weather::Giant] {
        server.set(Some(("/v1/auth/token/renew-self", weather.clone())));
        is_served(&engine).await;
        assert_eq!(counts(&sky), (1, 0), "{weather:?}");
    }
    server.set(None);
    is_served(&engine).await;
    assert_eq!(counts(&sky), (1, 1));
}

/// The server says no to a value, and nobody can log in anew to hear it again: it was said all the same, and what was known is given to nobody
/// when the server is away after that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_stands_where_no_other_token_can_be_had() {
    for weather in [Weather::Redirect(1), Weather::Status(503, ""), Weather::Close] {
        let (server, sky) = stand_in().await;
        let ((engine, _), clock) = logged_in(server.port).await;
        let row = secret("app/db", &engine, json!({"kv": "secret/app/db", "field": "password", "max_stale": "10h"}));
        let issue = async || engine.issue(&Asked::new().order(&row)).await;
        issue().await.unwrap();
        clock.advance(60 * 1_000_000);
        // Nobody's token may any more.
        sky.lock().unwrap().logins = 0;
        server.set(Some(("/v1/auth/approle/login", weather.clone())));
        let said = issue().await.err().unwrap();
        assert!(matches!(&said, EngineError::Setup(why) if why.contains("permission denied")), "{weather:?}: {said:?}");
        server.stop().await;
        let away = issue().await.map(|issued| issued.attributes);
        assert!(matches!(away, Err(EngineError::Unreachable(_))), "{weather:?}: {away:?}");
    }
}

/// Nobody calls, and it is renewed all the same: whoever comes hours later waits for no login.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_kept_while_nobody_calls() {
    let (server, sky) = stand_in().await;
    sky.lock().unwrap().own = Some((9, true));
    let engine = engine(server.port, Arc::new(SystemClock));
    is_served(&engine).await;
    let began = Instant::now();
    while counts(&sky).1 < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", counts(&sky));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(counts(&sky).0, 1);
    is_served(&engine).await;
}

/// A real server whose tokens for us live this long, in seconds, unless they are renewed.
async fn real(ttl: u64) -> Option<(OpenBao, (OpenBaoEngine, SecretDefinition))> {
    let server = OpenBao::start().await?;
    server.prepare().await;
    let (role_id, secret_id) = server.approle(json!({"token_policies": "claviger", "token_ttl": format!("{ttl}s")})).await;
    let limits = Limits { connect: LIMIT, call: LIMIT, ..Limits::default() };
    let engine = engine_with(server.client(limits), approle(role_id, secret_id), b"state", LIMIT);
    let row = secret("bao/app", &engine, json!({"token": {"policies": ["app"]}}));
    Some((server, (engine, row)))
}

/// When claviger's calls of this path were answered with a yes, in seconds of the day, as the server's audit log has them; and by which of
/// its tokens.
fn answered(server: &OpenBao, path: &str) -> Vec<(f64, String)> {
    let log = server.audit();
    let records = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = records.filter(|record| record["type"] == "response" && record["request"]["path"] == path && record["error"].is_null());
    ours.map(|record| {
        let (time, token) = (record["time"].as_str().unwrap(), record["auth"]["accessor"].as_str().unwrap_or_default());
        // 2026-01-02T03:04:05.678Z
        let clock: Vec<f64> = time[11..].trim_end_matches('Z').split(':').map(|part| part.parse().unwrap()).collect();
        (clock[0] * 3600.0 + clock[1] * 60.0 + clock[2], token.to_owned())
    })
    .collect()
}

/// Its token lives on beyond the life that it was given, is the same all the time, and is renewed well before it is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_server_renews_our_token_early() {
    let life = 12;
    let Some((server, engine)) = real(life).await else { return };
    is_served(&engine).await;
    tokio::time::sleep(Duration::from_secs(2 * life + 2)).await;
    is_served(&engine).await;
    let (logins, renewals) = (answered(&server, "auth/approle/login"), answered(&server, "auth/token/renew-self"));
    assert!(logins.len() == 1 && (3..=5).contains(&renewals.len()), "{logins:?} {renewals:?}");
    let own = &renewals[0].1;
    assert!(!own.is_empty() && renewals.iter().all(|(_, token)| token == own), "{renewals:?}");
    let made = answered(&server, "auth/token/create/claviger");
    assert!(made.len() == 2 && made.iter().all(|(_, token)| token == own), "{made:?} by {own}");
    let times: Vec<f64> = logins.iter().chain(&renewals).map(|(time, _)| *time).collect();
    for pair in times.windows(2) {
        // Not a bound of the machine: beyond it the token would have died.
        let share = (pair[1] - pair[0]).rem_euclid(86_400.0) / life as f64;
        assert!((0.5..1.0).contains(&share), "{times:?}");
    }
}
