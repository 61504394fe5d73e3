//! What operators do, and what the record says about it.

use super::host::*;

const ONE: &str = r#"{"secret":"app/one"}"#;

fn setup() -> Setup {
    Setup {
        config: "[leases]\nper_identity = 5000\n".to_owned(),
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    }
}

#[test]
fn every_act_is_on_the_record_before_and_after_and_its_endings_name_it() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(setup());
    host.put("app/one", "v");
    let holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let answer = host.operator("POST", "/v1/leases/end", r#"{"identity":"orders"}"#);
    let end = host.end_of(&holder.lease());
    assert_eq!(end["cause"], answer["request"], "{end}");
    host.operator("POST", "/v1/freeze", r#"{"frozen":true,"reason":"a drill"}"#);
    host.operator("POST", "/v1/freeze", r#"{"frozen":false}"#);
    let (missing, _) = host.call("operator", "POST", "/v1/leases/end", r#"{"unit":"none.service"}"#);
    assert_eq!(missing, 404);
    assert_eq!(host.call("operator", "DELETE", "/v1/secrets/local/no/such", "").0, 404);
    host.operator("DELETE", "/v1/secrets/local/app/one", "");
    let acts: Vec<(String, String)> = host
        .records()
        .iter()
        .filter(|record| record["by"]["action"].is_string())
        .map(|record| (record["by"]["action"].as_str().unwrap().to_owned(), record["outcome"].as_str().unwrap().to_owned()))
        .collect();
    let wanted = [
        ("secret-put", "asked"),
        ("secret-put", "done"),
        ("end", "asked"),
        ("end", "done"),
        ("freeze", "done"),
        ("unfreeze", "asked"),
        ("unfreeze", "done"),
        ("end", "asked"),
        ("end", "failed"),
        ("secret-remove", "asked"),
        ("secret-remove", "failed"),
        ("secret-remove", "asked"),
        ("secret-remove", "done"),
    ];
    assert_eq!(acts.iter().map(|(a, o)| (a.as_str(), o.as_str())).collect::<Vec<_>>(), wanted);
    let of_end = host.records().into_iter().find(|record| record["by"]["action"] == "end" && record["outcome"] == "done").unwrap();
    assert_eq!(of_end["more"]["selection"]["identity"], "orders", "{of_end}");
    assert_eq!(of_end["more"]["ended"]["lapsed"], 1);
    assert_eq!(of_end["by"]["uid"], 0);
}

#[test]
fn a_value_is_not_read_again_under_a_policy_that_would_not_grant_it() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(setup());
    host.put("app/one", "v");
    // So many that the pass over all leases takes a while; the newest comes last.
    let mut holder = host.hold(VICTIM, "orders", &["many", "3000", ONE]);
    let lease = holder.lease();
    host.write("policy.d/50-test.cedar", "");
    host.operator("POST", "/v1/reload", "");
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    let answer = holder.line();
    assert!(answer["body"]["secret"].is_null(), "{answer}");
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "policy");
}

#[test]
fn two_reloads_at_once_make_two_generations() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    let reload = || host.operator("POST", "/v1/reload", "")["generation"].as_u64().unwrap();
    let first = reload();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(reload);
        }
    });
    assert_eq!(reload(), first + 9);
}

#[test]
fn a_freeze_that_cannot_be_seen_holds() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(setup());
    host.put("app/one", "v");
    host.stop(false);
    // A link into itself: nobody can say whether the file is there.
    let file = host.dir.join("state/frozen");
    std::os::unix::fs::symlink(&file, &file).unwrap();
    host.launch();
    assert_eq!(host.operator("GET", "/v1/status", "")["frozen"], true);
}

#[test]
fn an_act_and_its_records_come_to_their_end_whoever_hangs_up() {
    if !is_root() {
        return;
    }
    use std::io::Write;
    let mut host = Host::start(setup());
    host.put("app/one", "v");
    let dir = host.dir.clone();
    // Whoever hangs up before it is known who it is has asked for nothing: some wait a little longer than others.
    let said = |request: &str, round: u64| {
        let mut stream = std::os::unix::net::UnixStream::connect(dir.join("operator.sock")).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        std::thread::sleep(std::time::Duration::from_micros(round % 8 * 250));
    };
    // A request whose body was not read when its sender went was not begun; what was begun is on the record.
    let (frozen, free) = (r#"{"frozen":true}"#, r#"{"frozen":false}"#);
    let mut stopped = 0;
    for round in 0..20 {
        said(&format!("POST /v1/freeze HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{frozen}", frozen.len()), round);
        std::thread::sleep(std::time::Duration::from_millis(20));
        stopped += usize::from(host.operator("GET", "/v1/status", "")["frozen"] == true);
        host.operator("POST", "/v1/freeze", free);
    }
    let count = |host: &Host, action: &str, outcome: &str| {
        host.records().iter().filter(|record| record["by"]["action"] == action && record["outcome"] == outcome).count()
    };
    let within = std::time::Duration::from_secs(10);
    host.wait_until(within, "every freeze is on the record", |host| count(host, "freeze", "done") >= stopped);
    let mut begun = 0;
    for round in 0..50 {
        host.put("app/one", "v");
        let holder = host.hold(VICTIM, "orders", &["hold", ONE]);
        said("DELETE /v1/secrets/local/app/one HTTP/1.1\r\nhost: x\r\n\r\n", round);
        std::thread::sleep(std::time::Duration::from_millis(20));
        let asked = count(&host, "secret-remove", "asked");
        if asked > begun {
            begun = asked;
            assert_eq!(host.end_of(&holder.lease())["ended"]["reason"], "operator");
            host.wait_until(within, "how it went is on the record", |host| {
                count(host, "secret-remove", "done") == count(host, "secret-remove", "asked")
            });
        }
        if begun >= 5 {
            return;
        }
    }
    panic!("of 50 requests {begun} were begun");
}

#[test]
fn who_is_attested_less_than_the_lease_is_decided_again() {
    if !is_root() {
        return;
    }
    // Any program of that user in that unit: what differs is what its attestation is worth.
    let row = identity("orders", VICTIM, &declared("app/one")).replace(", \"unix:path:$DIR/bin/orders\"", "");
    let host = Host::start(Setup {
        identities: row,
        secrets: secret("app/one", "confidential", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one","holder":"ancestor"}"#]);
    assert_eq!(holder.first["status"], 201, "{}", holder.first);
    let lease = holder.lease();
    let path = format!("/v1/leases/{lease}/secret");
    // A child in a user namespace of its own is the same identity, below the holder, at `uid`.
    holder.say(&format!("contained-call GET {path}"));
    let answer = holder.line();
    assert_eq!(answer["assurance"], "uid", "{answer}");
    assert!(answer["body"]["secret"].is_null() && answer["status"] != 200, "{answer}");
    holder.say(&format!("fork-call GET {path}"));
    assert_eq!(holder.line()["status"], 200, "an ordinary child may read what an ancestor holds");
}
