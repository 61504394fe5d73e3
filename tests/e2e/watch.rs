//! Who is told what happens to a lease.

use super::{host::*, openbao::logging_in, openbao_server::OpenBao};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ONE: &str = r#"{"secret":"app/one"}"#;

#[test]
fn a_holder_is_told_what_happens_to_its_lease_and_nobody_else_is() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    let mut holder = host.hold(VICTIM, "orders", &["watch", ONE]);
    let lease = holder.lease();
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["id"]), (&"lease".into(), &lease.as_str().into()), "{told}");
    // Another process of the same identity, and a stranger.
    let mut neighbour = host.hold(VICTIM, "orders", &["watch"]);
    assert_eq!(neighbour.first["comment"], "nothing new", "{}", neighbour.first);
    let stranger = host.act(ATTACKER, "attacker", &["call", "GET", "/v1/watch"]);
    assert_eq!(stranger[0]["body"]["error"]["code"], "no_identity", "{stranger:?}");
    // A process whose session's leader gets one later, which it may use.
    let mut led = host.hold(VICTIM, "orders", &["led", r#"{"secret":"app/one","holder":"ancestor"}"#]);
    assert_eq!(led.first["comment"], "nothing new", "{}", led.first);
    led.say("go");
    let leaders = led.line();
    assert_eq!((&leaders["event"], &leaders["data"]["holder"]["kind"]), (&"lease".into(), &"ancestor".into()), "{leaders}");
    drop(led);
    host.put("app/one", "another");
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["lease"]), (&"rotated".into(), &lease.as_str().into()), "{told}");
    host.operator("POST", "/v1/leases/end", &format!(r#"{{"id":"{lease}"}}"#));
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["reason"]), (&"ended".into(), &"operator".into()), "{told}");
    host.end_of(&lease);
    assert!(host.stop(false).is_some_and(|status| status.success()), "streams do not keep it");
    let last = neighbour.line();
    assert_eq!(last["over"], 0, "it was told of no event: {last}");
}

fn with_one() -> Setup {
    Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    }
}

/// The next that is no comment; those come every quarter of a minute.
fn event(watcher: &mut Actor) -> Value {
    for _ in 0..4 {
        let told = watcher.line();
        if told["comment"].is_null() {
            return told;
        }
    }
    panic!("nothing is told");
}

fn renew(watcher: &mut Actor, lease: &str) {
    watcher.say(&format!("call POST /v1/leases/{lease}/renew"));
}

#[test]
fn a_renewal_is_told_with_the_later_end() {
    if !is_root() {
        return;
    }
    let host = Host::start(with_one());
    host.put("app/one", "v");
    let mut holder = host.hold(VICTIM, "orders", &["watch", ONE]);
    let lease = holder.lease();
    let first = event(&mut holder);
    let mut before = first["data"]["expires"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        // Ends are told in seconds.
        std::thread::sleep(Duration::from_millis(1500));
        renew(&mut holder, &lease);
        let told = event(&mut holder);
        assert_eq!((&told["event"], &told["data"]["id"]), (&json!("lease"), &json!(lease)), "{told}");
        let later = told["data"]["expires"].as_str().unwrap().to_owned();
        assert!(later > before, "{later} after {before}");
        before = later;
    }
}

/// Nobody tells claviger that a value is another at OpenBao: it looks, and says so once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_somebody_changes_at_openbao_is_told_once() {
    if !is_root() {
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    let put = async |value: &str| server.put("secret/data/app/db", json!({"data": {"password": value}})).await;
    put("first").await;
    let settings = "settings = { kv = \"secret/app/db\", field = \"password\" }";
    let mut host = logging_in(
        &server,
        Setup {
            identities: identity("orders", VICTIM, &declared("app/db")),
            secrets: secret("app/db", "internal", settings).replace("engine = \"local\"", "engine = \"bao\""),
            policy: grant("orders", "app/db"),
            ..Setup::default()
        },
    )
    .await;
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["watch", r#"{"secret":"app/db"}"#]);
    assert_eq!(holder.first["body"]["secret"]["value"], "first", "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    assert_eq!(event(&mut holder)["event"], "lease");
    put("second").await;
    let changed = Instant::now();
    let told = event(&mut holder);
    assert_eq!((&told["event"], &told["data"]["lease"]), (&json!("rotated"), &json!(lease)), "{told}");
    // It looks every quarter of a minute.
    assert!(changed.elapsed() < Duration::from_secs(40), "{:?}", changed.elapsed());
    // The look after that, and the one after a third value, have nothing to say of this lease that was not said.
    put("third").await;
    for _ in 0..2 {
        let quiet = holder.line();
        assert_eq!(quiet["comment"], "nothing new", "{quiet}");
    }
}

/// Whoever does not read is told several changes as one, loses none, and keeps nobody else waiting.
#[test]
fn a_watcher_that_does_not_read_delays_nobody_and_misses_nothing() {
    if !is_root() {
        return;
    }
    const LEASES: usize = 250;
    const ROUNDS: usize = 8;
    let host = Host::start(with_one());
    host.put("app/one", "v");
    let mut deaf = host.hold(VICTIM, "orders", &["deaf", &LEASES.to_string(), ONE]);
    let mut other = host.hold(VICTIM, "orders", &["watch", ONE]);
    let lease = other.lease();
    assert_eq!(event(&mut other)["event"], "lease");
    let mut last = Value::Null;
    for round in 0..ROUNDS {
        // Ends are told in seconds.
        std::thread::sleep(Duration::from_millis(1200));
        deaf.say("renew");
        last = deaf.line()["renewed"].clone();
        let asked = Instant::now();
        renew(&mut other, &lease);
        assert_eq!(event(&mut other)["data"]["id"], json!(lease));
        assert!(asked.elapsed() < Duration::from_secs(10), "round {round}: {:?}", asked.elapsed());
    }
    deaf.say("listen");
    let told = deaf.line();
    assert_eq!(last.as_object().unwrap().len(), LEASES);
    assert_eq!(told["last"], last, "it is told how things are in the end");
    let events = told["events"].as_u64().unwrap() as usize;
    eprintln!("{events} events of {} changes", LEASES * (ROUNDS + 1));
    assert!((LEASES..LEASES * (ROUNDS + 1)).contains(&events), "{events} events: nothing is queued for whoever does not read");
}
