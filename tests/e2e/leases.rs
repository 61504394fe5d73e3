//! Leases live as long as their holders, and no longer.

use super::host::*;
use std::{
    fs,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

fn setup() -> Setup {
    Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    }
}

const ONE: &str = r#"{"secret":"app/one"}"#;

fn started(setup: Setup) -> Host {
    let host = Host::start(setup);
    host.put("app/one", "value-one");
    host
}

#[test]
fn a_lease_ends_when_its_holder_is_killed() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = holder.lease();
    assert_eq!(host.live().len(), 1);
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("lapsed")));
    host.wait_until(Duration::from_secs(10), "it is off the books", |host| host.live().is_empty());
}

#[test]
fn a_holder_reads_renews_and_gives_back_and_nobody_else_does() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = holder.lease();
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], "value-one");
    holder.say(&format!("call POST /v1/leases/{lease}/renew"));
    assert_eq!(holder.line()["status"], 200);
    // The same identity in another process is not the holder.
    let other = host.act(VICTIM, "orders", &["call", "GET", &format!("/v1/leases/{lease}/secret")]).remove(0);
    assert_eq!((other["status"].as_u64(), other["body"]["error"]["code"].as_str()), (Some(404), Some("no_lease")));
    holder.say(&format!("fork-call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["status"], 404, "a child is not the holder either");
    holder.say(&format!("call DELETE /v1/leases/{lease}"));
    let given = holder.line();
    assert_eq!((given["body"]["lease"]["state"].as_str(), given["body"]["lease"]["reason"].as_str()), (Some("ended"), Some("asked")));
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["status"], 410);
    host.end_of(&lease);
}

#[test]
fn time_is_up_when_it_is_up() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one","ttl":1}"#]);
    let lease = holder.lease();
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "expired");
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["status"], 410);
}

#[test]
fn exec_into_the_same_identity_keeps_a_lease_and_into_another_ends_it() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let other = host.program("other");
    let same = host.program("orders");
    let mut keeps = host.hold(VICTIM, "orders", &["hold", ONE]);
    let mut changes = host.hold(VICTIM, "orders", &["hold", ONE]);
    let (kept, ended) = (keeps.lease(), changes.lease());
    keeps.say(&format!("exec-actor {same}"));
    changes.say(&format!("exec-actor {other}"));
    assert_eq!((keeps.line()["status"].as_u64(), changes.line()["status"].as_u64()), (Some(1), Some(1)));
    assert_eq!(host.end_of(&ended)["ended"]["reason"], "holder_changed");
    // The sweep that saw one saw the other.
    only_this_is_left(&mut host, &kept);
    keeps.kill();
    assert_eq!(host.end_of(&kept)["ended"]["reason"], "holder_gone");
}

#[test]
fn a_process_that_became_another_program_gets_nothing_on_its_old_connection() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(0, "orders", &["hold", r#"{"secret":"app/one"}"#]);
    assert_eq!(holder.first["body"]["error"]["code"], "no_identity", "root is nobody here");
    holder.say(&format!("setuid {VICTIM} POST /v1/leases {ONE}"));
    let answer = holder.line();
    assert!(answer["status"] == 0 || answer["body"]["error"]["code"] == "credentials_changed", "{answer}");
    host.wait_until(Duration::from_secs(2), "nothing is issued", |host| host.live().is_empty());
}

/// An end is on the record a moment before it is off the list.
fn only_this_is_left(host: &mut Host, lease: &str) {
    host.wait_until(Duration::from_secs(10), "one lease is left", |host| host.live().len() == 1);
    assert_eq!(host.live()[0]["id"], lease);
}

#[test]
fn leases_survive_a_restart_without_their_holders_noticing() {
    if !is_root() {
        return;
    }
    for hard in [false, true] {
        let mut host = started(setup());
        let mut stays = host.hold(VICTIM, "orders", &["hold", ONE]);
        let mut dies = host.hold(VICTIM, "orders", &["hold", ONE]);
        let (kept, lost) = (stays.lease(), dies.lease());
        host.stop(hard);
        dies.kill();
        host.launch();
        assert_eq!(host.end_of(&lost)["ended"]["reason"], "holder_gone");
        only_this_is_left(&mut host, &kept);
        // A new connection of the same process: the old one went with the daemon.
        stays.kill();
        assert_eq!(host.end_of(&kept)["ended"]["reason"], "holder_gone", "it is watched again");
    }
}

#[test]
fn an_operator_ends_by_what_it_names() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let first = host.hold(VICTIM, "orders", &["hold", ONE]);
    let second = host.hold(VICTIM, "orders", &["hold", ONE]);
    let third = host.hold(VICTIM, "orders", &["hold", ONE]);
    let fourth = host.hold(VICTIM, "orders", &["hold", ONE]);
    for (by, lease) in [
        (format!(r#"{{"pid":{}}}"#, first.pid()), first.lease()),
        (format!(r#"{{"id":"{}"}}"#, second.lease()), second.lease()),
        (format!(r#"{{"tree":{}}}"#, third.pid()), third.lease()),
        (r#"{"identity":"orders"}"#.to_owned(), fourth.lease()),
    ] {
        let answer = host.operator("POST", "/v1/leases/end", &by);
        assert_eq!(answer["ended"][0]["id"], lease.as_str(), "{by}: {answer}");
        assert_eq!(host.end_of(&lease)["ended"]["reason"], "operator");
    }
    assert_eq!(host.call("operator", "POST", "/v1/leases/end", r#"{"secret":"app/one"}"#).0, 404);
    assert_eq!(host.call("operator", "POST", "/v1/leases/end", r#"{"pid":1,"tree":1}"#).0, 400);
    // All below one that holds nothing itself, and nothing below one that is not above.
    let (fifth, sixth) = (host.hold(VICTIM, "orders", &["hold", ONE]), host.hold(VICTIM, "orders", &["hold", ONE]));
    assert_eq!(host.call("operator", "POST", "/v1/leases/end", &format!(r#"{{"pid":{}}}"#, std::process::id())).0, 404);
    let below_sixth = host.operator("POST", "/v1/leases/end", &format!(r#"{{"tree":{}}}"#, sixth.pid()));
    assert_eq!(below_sixth["ended"].as_array().map(Vec::len), Some(1), "{below_sixth}");
    let below_us = host.operator("POST", "/v1/leases/end", &format!(r#"{{"tree":{}}}"#, std::process::id()));
    assert_eq!(below_us["ended"][0]["id"], fifth.lease().as_str(), "{below_us}");
    assert_eq!(host.end_of(&fifth.lease())["ended"]["reason"], "operator");
    let by_number = r#"{"pid":1,"give_up":"gone"}"#;
    assert_eq!(host.call("operator", "POST", "/v1/leases/end", by_number).0, 400, "what is given up is named otherwise");
}

#[test]
fn a_freeze_stops_issuing_and_survives_a_restart_while_reading_and_ending_go_on() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    host.operator("POST", "/v1/freeze", r#"{"frozen":true,"reason":"looking into something"}"#);
    let refused = |host: &Host| host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0)["status"].clone();
    assert_ne!(refused(&host), 201);
    let lease = holder.lease();
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["status"], 200);
    host.stop(true);
    host.launch();
    assert_ne!(refused(&host), 201, "still frozen");
    host.operator("POST", "/v1/freeze", r#"{"frozen":false}"#);
    assert_eq!(refused(&host), 201);
}

#[test]
fn a_changed_policy_ends_what_it_no_longer_allows() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    host.write("policy.d/50-test.cedar", "");
    host.operator("POST", "/v1/reload", "");
    assert_eq!(host.end_of(&holder.lease())["ended"]["reason"], "policy");
}

#[test]
fn the_same_key_gives_the_same_lease_to_the_same_holder_only() {
    if !is_root() {
        return;
    }
    let host = started(setup());
    let body = r#"{"secret":"app/one","idempotency_key":"0123456789abcdef"}"#;
    let mut holder = host.hold(VICTIM, "orders", &["hold", body]);
    holder.say(&format!("call POST /v1/leases {body}"));
    assert_eq!(holder.line()["body"]["lease"]["id"], holder.lease().as_str());
    let other = r#"{"secret":"app/one","ttl":60,"idempotency_key":"0123456789abcdef"}"#;
    holder.say(&format!("call POST /v1/leases {other}"));
    assert_eq!(holder.line()["status"], 409, "another body");
    let elsewhere = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", body]).remove(0);
    assert_eq!(elsewhere["status"], 409, "another holder");
    assert_eq!(host.live().len(), 1);
}

/// The unified hierarchy of this machine, if a group can be made in it.
fn cgroup_root() -> Option<&'static str> {
    ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].into_iter().find(|root| exists(&format!("{root}/cgroup.procs")))
}

#[test]
fn a_unit_holds_from_its_first_process_to_its_last() {
    unit_holds(&format!("claviger-e2e-{}.service", std::process::id()));
}

/// systemd.unit(5): a dash that is none of the name's own, as in the units of paths.
#[test]
fn a_unit_whose_name_is_escaped_is_written_as_systemd_shows_it() {
    unit_holds(&format!("claviger\\x2de2e\\x2d{}.service", std::process::id()));
}

fn unit_holds(unit: &str) {
    let Some(root) = cgroup_root().filter(|_| is_root()) else { return };
    // Whoever made the slice removes it: not while another of these is in it.
    static SLICE: Mutex<()> = Mutex::new(());
    let _turn = SLICE.lock().unwrap_or_else(PoisonError::into_inner);
    let group = format!("{root}/system.slice/{unit}");
    let made_slice = !exists(&format!("{root}/system.slice"));
    fs::create_dir_all(&group).unwrap();
    let mut host = started(Setup {
        identities: identity("orders", VICTIM, &declared("app/one"))
            .replace("\"unix:path:$DIR/bin/orders\"", &format!("'systemd:id:{unit}'")),
        ..setup()
    });
    let within = |host: &Host, arguments: &[&str]| {
        let mut command = host.actor(VICTIM, "orders", arguments);
        let procs = format!("{group}/cgroup.procs");
        use std::os::unix::process::CommandExt;
        // Before it runs anything: as systemd places a service's process.
        unsafe {
            command.pre_exec(move || std::fs::write(&procs, "0"));
        }
        command
    };
    // ExecStartPre takes the lease for the unit and goes; ExecStart reads it.
    let output = within(&host, &["call", "POST", "/v1/leases", r#"{"secret":"app/one","holder":"unit"}"#]).output().unwrap();
    let lease = lines(&output)[0]["body"]["lease"]["id"].as_str().unwrap().to_owned();
    assert!(fs::read_to_string(format!("{group}/cgroup.events")).unwrap().contains("populated 0"), "nobody is in the unit for a moment");
    let mut main = Actor::of(within(&host, &["hold", ONE]));
    main.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(main.line()["status"], 200, "the lease outlived the gap");
    main.say(r#"call POST /v1/leases {"secret":"app/one","holder":"unit"}"#);
    let answer = main.line();
    assert_eq!(answer["body"]["lease"]["holder"]["kind"], "unit", "{answer}");
    let of_unit = answer["body"]["lease"]["id"].as_str().unwrap().to_owned();
    let mut worker = Actor::of(within(&host, &["hold", ONE]));
    worker.say(&format!("call GET /v1/leases/{of_unit}/secret"));
    assert_eq!(worker.line()["status"], 200, "every process of the unit may read what the unit holds");
    let own = main.lease();
    main.kill();
    assert_eq!(host.end_of(&own)["ended"]["reason"], "holder_gone", "its own lease ends with the process");
    assert!(host.live().iter().any(|lease| lease["id"] == of_unit.as_str()), "the unit's does not");
    worker.kill();
    for lease in [&lease, &of_unit] {
        assert_eq!(host.end_of(lease)["ended"]["reason"], "holder_gone");
    }
    // An operator names it likewise.
    let mut stopped = Actor::of(within(&host, &["hold", r#"{"secret":"app/one","holder":"unit"}"#]));
    host.operator("POST", "/v1/leases/end", &serde_json::json!({ "unit": unit }).to_string());
    assert_eq!(host.end_of(&stopped.lease())["ended"]["reason"], "operator");
    stopped.kill();
    let mut stopped = Actor::of(within(&host, &["hold", ONE]));
    assert_eq!(stopped.first["body"]["lease"]["holder"]["kind"], "process", "{}", stopped.first);
    host.operator("POST", "/v1/leases/end", &serde_json::json!({ "unit": unit }).to_string());
    assert_eq!(host.end_of(&stopped.lease())["ended"]["reason"], "operator", "a process of the unit holds it");
    stopped.kill();
    // A group that was emptied for good may be filled again: that is another watch.
    let mut again = Actor::of(within(&host, &["hold", r#"{"secret":"app/one","holder":"unit"}"#]));
    let lease = again.lease();
    again.kill();
    // Removing the group ends what it holds at once: nobody can come back to it.
    // A process that was waited for may still be on its way out of the group.
    let until = Instant::now() + Duration::from_secs(10);
    while let Err(error) = fs::remove_dir(&group) {
        assert!(Instant::now() < until, "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "holder_gone");
    drop(host);
    if made_slice {
        fs::remove_dir(format!("{root}/system.slice")).unwrap();
    }
}

/// A number of uses is a number of deliveries: the one with the lease, and reads.
#[test]
fn a_number_of_uses_is_counted_and_a_restart_gives_none_back() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one","uses":3}"#]);
    assert_eq!(holder.first["body"]["lease"]["uses"], 3, "{}", holder.first);
    let lease = holder.lease();
    let read = format!("call-anew GET /v1/leases/{lease}/secret");
    let again = |holder: &mut Actor| {
        holder.say(&read);
        let answer = holder.line();
        (answer["status"].as_u64(), answer["body"]["error"]["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!((again(&mut holder).0, again(&mut holder).0), (Some(200), Some(200)));
    assert_eq!(again(&mut holder), (Some(403), "used_up".into()));
    assert_eq!(host.records_of("refuse").pop().unwrap()["code"], "used_up");
    assert_eq!(host.records_of("issue").pop().unwrap()["effective"]["uses"], 3);
    // Which is no end: what was handed over lives as long as was granted, and may be given back.
    assert_eq!(host.live().len(), 1);
    let mut other = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one","uses":3}"#]);
    host.stop(true);
    host.launch();
    let read = format!("call-anew GET /v1/leases/{}/secret", other.lease());
    other.say(&read);
    assert_eq!(other.line()["body"]["error"]["code"], "used_up", "how many were made is not known any more");
}
