//! Static roles of a database: taken over, changed by an operator, and a value that works whenever one is handed out.

use super::{
    database::{self, log_in_as},
    host::*,
    postgres::Postgres,
};
use serde_json::Value;
use std::{
    io::{Read, Write},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

pub(super) const ASK: &str = r#"{"secret":"db/legacy"}"#;

/// The same host with a secret that is the password of these roles.
pub(super) fn setup(cluster: &Postgres, settings: &str) -> Setup {
    let secret = secret("db/legacy", "internal", &format!("settings = {{ {settings} }}")).replace("\"local\"", "\"pg\"");
    Setup {
        identities: identity("orders", VICTIM, &declared("db/legacy")),
        secrets: secret,
        policy: grant("orders", "db/legacy"),
        ..database::setup(cluster)
    }
}

pub(super) async fn make_roles(cluster: &Postgres, names: &[&str]) {
    for name in names {
        let make = format!(
            "CREATE ROLE {name} LOGIN PASSWORD 'the-old-one'; GRANT USAGE ON SCHEMA app TO {name}; GRANT SELECT ON app.orders TO {name}"
        );
        cluster.superuser("app").await.batch_execute(&make).await.unwrap();
    }
}

/// Whether what was handed out lets its holder in.
pub(super) async fn works(cluster: &Postgres, body: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("no value: {body}")).to_owned();
    let done = log_in_as(cluster, &text(&body["attributes"]["username"]), &text(&body["secret"]["value"])).await;
    done.map_err(|why| eprintln!("not let in: {why:?}")).is_ok()
}

pub(super) fn rotate(host: &Host) -> (u16, Value) {
    host.call("operator", "POST", "/v1/rotations/db/legacy", "")
}

pub(super) fn row(host: &Host) -> Value {
    host.operator("GET", "/v1/rotations", "")["rotations"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_taken_over_by_an_operator_and_leases_get_its_newest_password() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["legacy"]).await;
    let mut host = Host::start(setup(&cluster, "static_role = \"legacy\""));
    let early = host.act(VICTIM, "orders", &["hold", ASK]);
    assert_eq!((early[0]["status"].as_u64(), early[0]["body"]["error"]["code"].as_str()), (Some(404), Some("no_value")), "{early:?}");
    assert!(log_in_as(&cluster, "legacy", "the-old-one").await.is_ok(), "nothing is taken over unasked");
    let (status, answer) = rotate(&host);
    assert_eq!((status, answer["version"].as_u64()), (200, Some(1)), "{answer}");
    assert!(log_in_as(&cluster, "legacy", "the-old-one").await.is_err());
    let mut first = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert!(works(&cluster, &first.first["body"]).await, "{}", first.first);
    assert_eq!(
        (first.first["body"]["lease"]["ends_by"].as_str(), first.first["body"]["attributes"]["version"].as_str()),
        (Some("none"), Some("1"))
    );
    let lease = first.lease();
    first.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(first.line()["body"]["secret"]["value"], first.first["body"]["secret"]["value"]);
    assert_eq!(rotate(&host).1["version"], 2);
    assert!(!works(&cluster, &first.first["body"]).await);
    // The lease has a password that is dead: it is not given again, and whoever asks anew gets the one that works.
    first.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(first.line()["body"]["error"]["code"], "no_value");
    let mut second = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert!(works(&cluster, &second.first["body"]).await);
    assert_eq!((row(&host)["version"].as_u64(), row(&host)["changed_here"].as_bool()), (Some(2), Some(true)));
    let changes = host.records_of("rotate");
    let said: Vec<(&str, Option<u64>)> =
        changes.iter().map(|record| (record["outcome"].as_str().unwrap(), record["secret"]["version"].as_u64())).collect();
    assert_eq!(said, [("begun", None), ("done", Some(1)), ("begun", None), ("done", Some(2))]);
    let acts = host.records_of("operator");
    let of_request = |outcome: &str| acts.iter().any(|act| act["request"] == changes[0]["request"] && act["outcome"] == outcome);
    assert!(of_request("asked") && of_request("done") && acts[0]["by"]["action"] == "secret-rotate", "{acts:?}");
    let issued = host.records_of("issue");
    assert_eq!(issued.iter().map(|record| record["secret"]["version"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
    for holder in [&first, &second] {
        let value = holder.first["body"]["secret"]["value"].as_str().unwrap();
        assert!(!cluster.log().contains(value) && !host.log().contains(value), "a clear password in a log");
    }
    let ended = second.lease();
    second.kill();
    assert_eq!(host.end_of(&ended)["ended"]["result"], "lapsed");
    // After a restart it goes on where it was.
    host.stop(true);
    host.launch();
    let third = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert!(works(&cluster, &third.first["body"]).await && third.first["body"]["attributes"]["version"] == "2", "{}", third.first);
    assert_eq!(host.call("operator", "POST", "/v1/rotations/no/such", "").0, 404);
    assert_eq!(host.call("workload", "POST", "/v1/rotations/db/legacy", "").0, 404, "operators only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_that_somebody_else_changed_is_told_everywhere() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["legacy"]).await;
    let mut host = Host::start(setup(&cluster, "static_role = \"legacy\""));
    assert_eq!(rotate(&host).0, 200);
    cluster.superuser("app").await.batch_execute("ALTER ROLE legacy PASSWORD 'by hand'").await.unwrap();
    host.stop(false);
    host.launch();
    let told = "somebody else has changed its password";
    host.wait_until(Duration::from_secs(30), "it is noticed", |host| row(host)["trouble"].as_str().is_some_and(|why| why.contains(told)));
    let status = host.operator("GET", "/v1/status", "");
    assert!(status["rotations"][0]["trouble"].as_str().unwrap().contains(told), "{status}");
    host.wait_until(Duration::from_secs(10), "it is on the record", |host| {
        host.records_of("rotate").iter().any(|record| record["outcome"] == "failed" && record["detail"].as_str().unwrap().contains(told))
    });
    assert!(host.log().lines().any(|line| line.contains("ERROR") && line.contains(told)), "{}", host.log());
    assert!(host.operator("GET", "/v1/metrics", "").as_str().unwrap().contains("claviger_rotations_failing 1"));
    // Another daemon's mark keeps it from being taken.
    let comment = "COMMENT ON ROLE legacy IS '[claviger 0123456789abcdef db/legacy]'";
    cluster.superuser("app").await.batch_execute(comment).await.unwrap();
    let (status, answer) = rotate(&host);
    assert_eq!((status, answer["error"]["code"].as_str()), (409, Some("not_rotated")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("0123456789abcdef"), "{answer}");
    cluster.superuser("app").await.batch_execute("COMMENT ON ROLE legacy IS NULL").await.unwrap();
    // A freeze does not keep a person from what an incident asks for.
    host.operator("POST", "/v1/freeze", r#"{"frozen":true}"#);
    assert_eq!(rotate(&host).0, 200);
    assert!(row(&host)["trouble"].is_null() && host.operator("GET", "/v1/status", "")["rotations"].is_null());
}

struct Stops<'a>(&'a AtomicBool);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_two_roles_are_changed_in_turn_every_value_works_when_it_is_handed_out() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["one", "other"]).await;
    let host = Host::start(setup(&cluster, "static_roles = [\"one\", \"other\"]"));
    assert_eq!(rotate(&host).0, 200);
    // Once, before several start it.
    host.program("orders");
    let (stop, rounds, in_vain) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 3], AtomicUsize::new(0));
    let runtime = tokio::runtime::Handle::current();
    let changes = std::thread::scope(|scope| {
        // Whatever fails below, the holders stop.
        let _stops = Stops(&stop);
        let mut holders = Vec::new();
        for counter in &rounds {
            let (host, cluster, stop, in_vain, runtime) = (&host, &cluster, &stop, &in_vain, runtime.clone());
            holders.push(scope.spawn(move || {
                let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
                let mut answer = holder.first.clone();
                while !stop.load(Ordering::SeqCst) {
                    // A password lives for a whole period after the next one is there; a change in between does not end it.
                    if answer["status"] != 201 || !runtime.block_on(works(cluster, &answer["body"])) {
                        in_vain.fetch_add(1, Ordering::SeqCst);
                        eprintln!("{answer}");
                    }
                    counter.fetch_add(1, Ordering::SeqCst);
                    holder.say(&format!("call POST /v1/leases {ASK}"));
                    answer = holder.line();
                }
            }));
        }
        let mut changes = 0;
        for _ in 0..12 {
            let before: Vec<usize> = rounds.iter().map(|counter| counter.load(Ordering::SeqCst)).collect();
            let (status, answer) = rotate(&host);
            assert_eq!(status, 200, "{answer}");
            changes += 1;
            // Until every holder has a value that is younger than this change.
            for (counter, before) in rounds.iter().zip(before) {
                while counter.load(Ordering::SeqCst) < before + 2 {
                    assert!(!holders.iter().any(|holder| holder.is_finished()), "a holder gave up");
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
        changes
    });
    let issued = rounds.iter().map(|counter| counter.load(Ordering::SeqCst)).sum::<usize>();
    assert_eq!((changes, in_vain.load(Ordering::SeqCst)), (12, 0), "of {issued} values");
    let versions: std::collections::BTreeSet<u64> =
        host.records_of("issue").iter().filter_map(|record| record["secret"]["version"].as_u64()).collect();
    assert!(issued >= 36 && versions.len() >= 12, "{issued} values of the versions {versions:?}");
}

/// Needs the build with failpoints: `tests/mutations` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_a_change_it_gives_what_works() {
    if !is_root() || std::env::var_os("CLAVIGER_TEST_FAILPOINTS").is_none() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["legacy"]).await;
    let mut host = Host::prepare(setup(&cluster, "static_role = \"legacy\""));
    host.launch();
    assert_eq!(rotate(&host).0, 200);
    for (point, changed) in [("rotate-kept", false), ("rotate-set", true), ("rotate-tried", true), ("rotate-given", true)] {
        let before = row(&host)["version"].as_u64().unwrap();
        host.stop(false);
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("{point}:1"))];
        host.launch();
        let mut stream = std::os::unix::net::UnixStream::connect(host.path("operator.sock")).unwrap();
        stream.write_all(b"POST /v1/rotations/db/legacy HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "nobody is answered");
        host.wait_until(Duration::from_secs(10), point, |host| !host.is_running());
        host.stop(true);
        host.environment.clear();
        host.launch();
        // What was cut short is brought to its end by the daemon itself: settled as done, or done once more.
        let version = before + 1;
        host.wait_until(Duration::from_secs(30), "it is changed", |host| row(host)["version"] == version && row(host)["trouble"].is_null());
        let records = host.records_of("rotate");
        let done = records.iter().filter(|record| record["outcome"] == "done").count();
        eprintln!("{point}: {done} changes on the record, settled by a login: {changed}");
        let holder = host.hold(VICTIM, "orders", &["hold", ASK]);
        assert!(works(&cluster, &holder.first["body"]).await, "{point}: {}", holder.first);
        let given: u64 = holder.first["body"]["attributes"]["version"].as_str().unwrap().parse().unwrap();
        assert_eq!(given, version, "{point}");
        let (status, answer) = rotate(&host);
        assert_eq!((status, answer["version"].as_u64()), (200, Some(version + 1)), "{point}: {answer}");
        assert!(!works(&cluster, &holder.first["body"]).await);
    }
}
