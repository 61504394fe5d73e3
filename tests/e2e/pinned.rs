//! Values that are given only to a key of the process that was attested.

use super::host::*;
use serde_json::Value;
use std::process::{Command, Stdio};

const PLAIN: &str = r#"{"secret":"app/plain"}"#;
const PINNED: &str = r#"{"secret":"app/pinned"}"#;
/// A key of the caller's, of which nobody here has the other half.
const KEY: &str = "claviger-pinned: HlB5nR8WkOQXBcMH0VZzDV0JbcjoE3S3gI5HFkJCvyg=";

fn started() -> Host {
    let row = |name: &str, selectors: &str| {
        let row = identity(name, VICTIM, &(declared("app/plain") + &declared("app/pinned")));
        if selectors.is_empty() { row } else { row.replace(&format!("\"unix:path:$DIR/bin/{name}\""), selectors) }
    };
    let host = Host::start(Setup {
        config: "[attest]\nclients = [\"$DIR/bin/clav\"]\n[limits]\nconnections = 1000\n".to_owned(),
        identities: row("orders", ""),
        secrets: secret("app/plain", "internal", "") + &secret("app/pinned", "internal", "pinned = true"),
        policy: grant("orders", "app/plain") + &grant("orders", "app/pinned"),
        ..Setup::default()
    });
    host.put("app/plain", "value-plain");
    host.put("app/pinned", "value-pinned");
    host
}

/// What comes back to an accomplice that holds the connection of a process which became the trusted program before the daemon looked.
fn relayed(host: &Host, body: &str, headers: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/neighbour.py");
    std::fs::copy(script, host.dir.join("neighbour.py")).unwrap();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", "/usr/bin/python3"]);
    command.args([&host.path("neighbour.py"), "relay", &host.path("workload.sock"), &host.program("orders"), body, headers]);
    command.env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let daemon = host.pid().to_string();
    assert!(Command::new("kill").args(["-STOP", &daemon]).status().unwrap().success());
    let mut relay = Actor::of(command);
    let (exe, program) = (format!("/proc/{}/exe", relay.pid()), host.program("orders"));
    while std::fs::read_link(&exe).is_ok_and(|now| now != std::path::Path::new(&program)) {
        std::thread::yield_now();
    }
    assert!(Command::new("kill").args(["-CONT", &daemon]).status().unwrap().success());
    relay.say("go");
    relay.line()["answer"].as_str().unwrap().to_owned()
}

#[test]
fn who_becomes_the_trusted_program_takes_no_pinned_value_along() {
    if !is_root() {
        return;
    }
    let host = started();
    // The attack works where nothing is pinned: the program is the trusted one by the time the daemon looks.
    let answer = relayed(&host, PLAIN, "");
    assert!(answer.contains("value-plain"), "{answer}");
    for (headers, code) in [
        (String::new(), "pinned_required"),
        // A key that was made before the exec: the nonce that must go with it is made after the process was pinned.
        (format!("{KEY}|"), "nonce_required"),
        (format!("{KEY}|claviger-nonce: 00000000000000000000000000000000|"), "nonce_required"),
    ] {
        for _ in 0..5 {
            let answer = relayed(&host, PINNED, &headers);
            assert!(answer.contains(code) && !answer.contains("value-pinned") && !answer.contains("hpke"), "{headers}: {answer}");
        }
    }
}

#[test]
fn a_pinned_value_leaves_sealed_and_only_so() {
    if !is_root() {
        return;
    }
    let host = started();
    let refused = host.hold(VICTIM, "orders", &["hold", PINNED]);
    assert_eq!(refused.first["body"]["error"]["code"], "pinned_required", "{}", refused.first);
    // One that was refused is no lease.
    assert!(host.live().is_empty());
    // With the nonce it is sealed: neither answer shows the value.
    let script = format!("import json, socket, sys\nsys.argv = ['', '{}', 'none']\n", host.path("workload.sock"))
        + &format!("exec(open('{}').read())\n", host.path("actor.py"))
        + &format!("s = connect()\nfirst = ask(s, 'POST', '/v1/leases', '{PINNED}', '{KEY}\\r\\n')\n")
        + "nonce = first['body']['error']['nonce']\n"
        + &format!("again = ask(s, 'POST', '/v1/leases', '{PINNED}', f'{KEY}\\r\\nclaviger-nonce: {{nonce}}\\r\\n')\n")
        + "lease = again['body']['lease']['id']\n"
        + &format!("read = ask(s, 'GET', f'/v1/leases/{{lease}}/secret', '', f'{KEY}\\r\\nclaviger-nonce: {{nonce}}\\r\\n')\n")
        + "plain = ask(s, 'GET', f'/v1/leases/{lease}/secret')\n"
        + "odd = ask(s, 'GET', f'/v1/leases/{lease}/secret', '', f'claviger-pinned: AAAA\\r\\nclaviger-nonce: {nonce}\\r\\n')\n"
        + "small = ask(s, 'GET', f'/v1/leases/{lease}/secret', '', f'claviger-pinned: ' + 'A' * 43 + f'=\\r\\nclaviger-nonce: {nonce}\\r\\n')\n"
        + "say({'first': first, 'again': again, 'read': read, 'plain': plain, 'odd': odd, 'small': small})\n";
    let program = host.program("orders");
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &program, "-c", &script]);
    command.env_clear().env("PYTHONHOME", "/usr").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = Actor::of(command).first.clone();
    assert_eq!(said["first"]["body"]["error"]["code"], "nonce_required", "{said}");
    for answer in ["again", "read"] {
        let secret: &Value = &said[answer]["body"]["secret"];
        assert_eq!(secret["encoding"], "hpke", "{said}");
        // Encapsulated key, value, tag.
        assert_eq!(secret["value"].as_str().unwrap().len(), (32_usize + "value-pinned".len() + 16).div_ceil(3) * 4);
    }
    assert_ne!(said["again"]["body"]["secret"]["value"], said["read"]["body"]["secret"]["value"]);
    assert_eq!(said["plain"]["body"]["error"]["code"], "pinned_required", "{said}");
    assert_eq!(said["odd"]["body"]["error"]["code"], "malformed", "{said}");
    assert!(said["small"]["body"]["secret"].is_null(), "a key that everybody agrees with: {said}");
    assert!(!said.to_string().contains("value-pinned"));
    let issue = host.records_of("issue").pop().unwrap();
    assert_eq!(issue["more"]["pinned"], true, "{issue}");
}

#[test]
fn our_client_opens_what_is_sealed_to_it() {
    if !is_root() {
        return;
    }
    let host = started();
    let registered = host.path("bin/orders");
    std::fs::copy("/bin/sh", &registered).unwrap();
    std::os::unix::fs::chown(&registered, Some(0), Some(0)).unwrap();
    for (name, value) in [("app/pinned", "value-pinned"), ("app/plain", "value-plain")] {
        let script = format!(
            "{clav} --socket {socket} get {name} && echo && {clav} --socket {socket} exec --env VALUE={name} -- /usr/bin/printenv VALUE; exit $?",
            clav = host.path("bin/clav"),
            socket = host.path("workload.sock")
        );
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &registered, "-c", &script]);
        let done = command.env_clear().env("PATH", "/usr/bin:/bin").current_dir("/").stdin(Stdio::null()).output().unwrap();
        let (said, wrong) = (String::from_utf8_lossy(&done.stdout).into_owned(), String::from_utf8_lossy(&done.stderr).into_owned());
        assert_eq!(said.lines().filter(|line| *line == value).count(), 2, "{said}{wrong}");
    }
}
