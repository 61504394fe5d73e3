//! An older copy of the state or of the audit log is put back on the same machine: it is told, and nothing is issued or ended.

use super::host::*;
use std::{path::Path, process::Command, time::Duration};

const ONE: &str = r#"{"secret":"app/one"}"#;

fn started() -> Host {
    let host = Host::start(Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "value-one");
    host
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// What a start says about why it is read-only, if it is.
fn read_only(host: &Host) -> Option<String> {
    host.operator("GET", "/v1/status", "")["read_only"].as_str().map(str::to_owned)
}

fn issue(host: &Host) -> (u64, String) {
    let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0);
    (answer["status"].as_u64().unwrap(), answer["body"]["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// Issues something that the record has and an older journal has not, a while before an orderly stop.
fn issue_and_stop(host: &mut Host) {
    assert_eq!(issue(host).0, 201);
    std::thread::sleep(Duration::from_millis(1_200));
    host.stop(false);
}

#[test]
fn an_older_state_is_told_and_begins_read_only() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let (state, kept, newer) = (host.dir.join("state"), host.dir.join("kept"), host.dir.join("newer"));
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = holder.lease();
    host.stop(false);
    copy(&state, &kept);
    host.launch();
    assert_eq!(read_only(&host), None);
    issue_and_stop(&mut host);
    copy(&state, &newer);
    copy(&kept, &state);
    host.launch();
    let why = read_only(&host).expect("it begins read-only");
    assert!(why.contains("older copy") && why.contains("not in the journal") && why.contains("go-on"), "{why}");
    assert_eq!(issue(&host).0, 503, "nothing is issued");
    assert_eq!(host.live().len(), 1, "nothing is ended");
    // However often it is started.
    for hard in [false, true] {
        host.stop(hard);
        host.launch();
        assert!(read_only(&host).is_some());
    }
    // The newer state is put back: all is as it was.
    host.stop(false);
    copy(&state, &kept);
    copy(&newer, &state);
    host.launch();
    assert_eq!(read_only(&host), None);
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["status"], 200);
    // Or an operator goes on with the older one: what it knew of ends, and it is no longer older.
    issue_and_stop(&mut host);
    copy(&kept, &state);
    std::fs::write(state.join("go-on"), "").unwrap();
    host.launch();
    assert_eq!(read_only(&host), None);
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "operator");
    assert_eq!(issue(&host).0, 201);
    host.stop(false);
    host.launch();
    assert_eq!(read_only(&host), None);
    assert!(!state.join("go-on").exists(), "it counts once");
    host.stop(false);
    super::crash::verify(&host);
}

#[test]
fn an_older_log_is_told_and_begins_read_only() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let (log, kept) = (host.dir.join("audit"), host.dir.join("kept"));
    host.stop(false);
    copy(&log, &kept);
    host.launch();
    assert_eq!(issue(&host).0, 201);
    host.stop(false);
    copy(&log, &host.dir.join("newer"));
    copy(&kept, &log);
    host.launch();
    let why = read_only(&host).expect("it begins read-only");
    assert!(why.contains("later ones") && why.contains("log-seen"), "{why}");
    // Also when it has grown again beyond what was there: another record stands in that place.
    for _ in 0..40 {
        assert_eq!(issue(&host).0, 503);
    }
    host.stop(false);
    host.launch();
    assert!(read_only(&host).is_some_and(|why| why.contains("older copy")));
    host.stop(false);
    copy(&host.dir.join("newer"), &log);
    host.launch();
    assert_eq!((read_only(&host), issue(&host).0), (None, 201));
    // An operator who knows goes on with it.
    host.stop(false);
    copy(&kept, &log);
    std::fs::remove_file(host.dir.join("state/log-seen")).unwrap();
    host.launch();
    assert_eq!((read_only(&host), issue(&host).0), (None, 201));
}

#[test]
fn what_is_over_on_the_record_does_not_come_back() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let (state, kept) = (host.dir.join("state"), host.dir.join("kept"));
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = holder.lease();
    host.stop(false);
    copy(&state, &kept);
    host.launch();
    holder.say(&format!("call-anew DELETE /v1/leases/{lease}"));
    assert_eq!(holder.line()["status"], 200);
    host.end_of(&lease);
    host.stop(false);
    // Nothing was issued meanwhile, so nothing tells that the state is older but the end itself.
    copy(&kept, &state);
    host.launch();
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    let answer = holder.line();
    assert!(answer["body"]["secret"].is_null() && answer["status"] != 200, "{answer}");
    host.wait_until(Duration::from_secs(10), "it is over again", |host| host.live().is_empty());
}

#[test]
fn a_new_state_goes_on_behind_the_log_of_another() {
    if !is_root() {
        return;
    }
    let mut host = started();
    issue_and_stop(&mut host);
    std::fs::rename(host.dir.join("state"), host.dir.join("away")).unwrap();
    for _ in 0..2 {
        host.launch();
        assert_eq!(read_only(&host), None);
        host.put("app/one", "value-two");
        issue_and_stop(&mut host);
    }
}
