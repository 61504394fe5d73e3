//! What workloads do.

use super::*;
use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::Stdio,
    time::{Duration, Instant},
};

#[test]
fn get_prints_the_value_and_says_the_rest_elsewhere() {
    let daemon = sample();
    let got = daemon.plain(["get", "hello", "--purpose", "try"]);
    assert_eq!(exits(&got, 0), CANARY, "no line feed where there is no terminal");
    assert!(errors(&got).contains("held by process"), "{}", text(&got));
    assert!(!errors(&got).contains(CANARY));
    // A declared use fills what is left unsaid.
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), CANARY);
    let all = json(&daemon.plain(["get", "hello", "--field", "json", "--ttl", "1m"]));
    assert_eq!(all["secret"]["value"], CANARY);
    assert_eq!(all["lease"]["ttl"], 60);
    // Which fields there are is known only afterwards; the lease is not left behind.
    let none = daemon.shell("clav get hello --field nothing; echo $?; clav leases");
    assert!(text(&none).contains("2\nYou hold no lease.") && text(&none).contains("it has value, json"), "{}", text(&none));
    assert!(!text(&none).contains(CANARY));
    let wider = daemon.plain(["get", "hello", "--purpose", "try", "--operation", "write"]);
    assert_eq!(exits(&wider, 0), CANARY);
    assert!(errors(&wider).contains("operation write was asked for; the credential is for read"), "{}", text(&wider));
    exits(&daemon.plain(["get", "hello", "--ttl", "soon"]), 2);
    exits(&daemon.plain(["get"]), 2);
    let refused = daemon.plain(["get", "other", "--purpose", "try"]);
    exits(&refused, 10);
    assert!(errors(&refused).contains("no_grant") && errors(&refused).contains("clav why req-"), "{}", text(&refused));
    exits(&daemon.plain(["get", "unknown", "--purpose", "try"]), 10);
    exits(&daemon.plain(["get", "missing", "--purpose", "try"]), 10);
    exits(&daemon.plain(["get", "deep", "--purpose", "try"]), 11);
    exits(&daemon.plain(["--socket", "/nowhere/at.sock", "get", "hello"]), 12);
}

#[test]
fn the_configured_client_speaks_for_its_shell() {
    let daemon = sample();
    let me = json(&daemon.shell("clav whoami --json"));
    assert_eq!(me["via_client"], true);
    assert_eq!(me["identity"]["name"], "tester");
    assert!(me["attested"]["exe"]["path"].as_str().unwrap().ends_with("sh"), "{me}");
    let me = json(&daemon.plain(["whoami", "--json"]));
    assert_eq!(me["via_client"], false);
    assert!(me["attested"]["exe"]["path"].as_str().unwrap().ends_with("/plain"), "{me}");
    let text = exits(&daemon.shell("clav whoami"), 0);
    assert!(text.contains("tester") && text.contains("unix:uid:"), "{text}");
    // The lease outlives clav: its holder is the shell's session.
    let script = "clav get hello -q >/dev/null && clav leases --json";
    let held = json(&daemon.shell(script));
    assert_eq!(held["leases"][0]["secret"], "hello", "{held}");
    assert_eq!(held["leases"][0]["holder"]["kind"], "ancestor");
    if daemon.apart {
        // The session's leader is root's: the lease is bound to the outermost process of the user, and ends with it.
        let until = Instant::now() + Duration::from_secs(10);
        while self::held(&daemon) > 0 {
            assert!(Instant::now() < until, "the lease outlives the user's last process");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn leases_are_renewed_and_given_back() {
    let daemon = sample();
    // Not in a pipe: where the session's leader has gone, as for jobs in the background, the holder would be the pipe's own shell.
    let script = "answer=$(mktemp); clav get hello --json 2>/dev/null >$answer
        id=$(sed 's/.*\"id\":\"\\(lease-[^\"]*\\)\".*/\\1/' $answer); rm $answer
        clav renew $id && clav leases && clav revoke $id && clav leases; clav renew $id; echo renewed=$?; clav revoke $id; echo revoked=$?";
    let out = daemon.shell(script);
    let text = exits(&out, 0);
    assert!(text.contains("held by") && text.contains("LEASE") && text.contains("lapsed"), "{}", daemon::text(&out));
    assert!(text.contains("You hold no lease."), "{text}");
    assert!(text.contains("renewed=10") && text.contains("revoked=10"), "{text}");
    exits(&daemon.plain(["renew", "nonsense"]), 2);
    exits(&daemon.plain(["revoke"]), 2);
}

#[test]
fn explaining_issues_nothing() {
    let daemon = sample();
    let text = exits(&daemon.plain(["explain", "hello", "--purpose", "try"]), 0);
    assert!(text.contains("would be granted"), "{text}");
    exits(&daemon.plain(["explain", "other", "--purpose", "try"]), 10);
    let needs = exits(&daemon.plain(["explain", "deep", "--purpose", "try"]), 11);
    assert!(needs.contains("more evidence"), "{needs}");
    exits(&daemon.plain(["explain", "Hello"]), 2);
    let secrets = exits(&daemon.plain(["secrets"]), 0);
    assert!(secrets.contains("hello") && !secrets.contains("other"), "{secrets}");
    assert_eq!(json(&daemon.clav(["leases", "--all", "--json"]))["leases"].as_array().unwrap().len(), 0);
}

#[test]
fn exec_hands_over_and_takes_back() {
    let daemon = sample();
    let out = daemon.shell(
        "clav exec --secret hello --env WORD=hello -- sh -c 'cat $HELLO_FD; echo; echo $WORD; clav leases --json | grep -c lease-; exit 7'",
    );
    let text = exits(&out, 7);
    assert_eq!(text.lines().take(2).collect::<Vec<_>>(), [CANARY, CANARY], "{}", daemon::text(&out));
    assert_eq!(json(&daemon.clav(["leases", "--all", "--json"]))["leases"].as_array().unwrap().len(), 0);
    exits(&daemon.shell("clav exec --secret hello -- sh -c 'kill -KILL $$'"), 128 + 9);
    exits(&daemon.shell("clav exec --secret hello:a-b -- sh -c 'test -r $A_B_FD'"), 0);
    exits(&daemon.shell("clav exec --secret hello -- /no/such/command"), 125);
    exits(&daemon.shell("clav exec --secret other --purpose try -- true"), 10);
    exits(&daemon.shell("clav exec -- true"), 2);
    exits(&daemon.shell("clav exec --secret hello --secret hello -- true"), 2);
}

#[test]
fn exec_passes_signals_on_and_leaves_nothing_behind() {
    let daemon = sample();
    let inner = "trap \"echo caught; exit 3\" TERM; echo ready; while :; do sleep 0.05; done";
    let script = format!("clav exec -q --secret hello -- sh -c '{inner}' & echo $!; wait $!");
    let mut child = daemon.shell_command(&script).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let clav: u32 = lines.next().unwrap().parse().unwrap();
    assert_eq!(lines.next().unwrap(), "ready");
    assert_eq!(held(&daemon), 1);
    daemon::signal(clav, "TERM");
    assert_eq!(lines.next().unwrap(), "caught");
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert_eq!(held(&daemon), 0);
}

#[test]
fn leases_die_with_clav_however_it_ends() {
    let daemon = sample();
    let script = "clav exec -q --secret hello -- sh -c 'echo ready; exec sleep 5' & echo $!; wait $!";
    let mut child = daemon.shell_command(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let clav: u32 = lines.next().unwrap().parse().unwrap();
    assert_eq!(lines.next().unwrap(), "ready");
    daemon::signal(clav, "KILL");
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while held(&daemon) > 0 {
        assert!(Instant::now() < until, "the lease outlives its holder");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(daemon.records().contains("holder_gone"));
}

#[test]
fn exec_renews_what_the_command_still_needs() {
    let daemon = sample();
    let mut child = daemon.shell_command("clav exec -q --secret hello --ttl 2s -- sleep 5").spawn().unwrap();
    std::thread::sleep(Duration::from_millis(4200));
    assert_eq!(held(&daemon), 1, "{}", daemon.records());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_eq!(held(&daemon), 0);
}

#[test]
fn without_pinned_peers_the_nonce_is_answered() {
    let daemon = sample();
    let plain = daemon.dir.join("bin/plain");
    let identity = format!("selectors = [\"unix:uid:{}\", \"unix:path:{}\"]", daemon.user, plain.display());
    let rows = std::fs::read_to_string(daemon.dir.join("etc/identities.d/tester.toml")).unwrap();
    let rows: Vec<&str> = rows.lines().map(|line| if line.starts_with("selectors") { identity.as_str() } else { line }).collect();
    daemon.write("identities.d/tester.toml", &rows.join("\n"), 0o644);
    let config = std::fs::read_to_string(daemon.dir.join("etc/clavigerd.toml")).unwrap();
    let old = "[attest]\nassume_missing = [\"peer_pidfd\", \"pidfd_info\", \"pidfd_handle\"]";
    daemon.write("clavigerd.toml", &config.replace("[attest]", old), 0o644);
    let mut daemon = daemon;
    daemon.restart();
    assert!(exits(&daemon.clav(["status"]), 0).contains("nonce"));
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), CANARY);
}

#[test]
fn a_socket_that_others_could_exchange_is_not_spoken_to() {
    let daemon = sample();
    std::fs::set_permissions(daemon.dir.join("run"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = daemon.plain(["get", "hello"]);
    exits(&refused, 12);
    assert!(errors(&refused).contains("not trusted"), "{}", text(&refused));
}

fn held(daemon: &Daemon) -> usize {
    json(&daemon.clav(["leases", "--all", "--json"]))["leases"].as_array().unwrap().len()
}
