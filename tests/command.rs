//! Programs of engines of kind `command` in the shipped units, in a real systemd: each call is a process of its own that can do nothing else,
//! and that goes whole when it has answered or its time is up.
//!
//! Needs root and leaves nothing behind. Where that is not possible it says so and passes.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "support/machine.rs"]
mod machine;

use machine::{Machine, package, put, root};
use serde_json::Value;
use std::{fs, path::Path, time::Duration};

const CANARY: &str = "canary-of-a-plugin-8c21";
const CURL: &str = "curl --silent --show-error --max-time 60 --unix-socket";
const MADE: &str = "/var/lib/bad/made";

/// Prints the median of 20 calls in milliseconds.
const TIMING: &str = r#"
import socket, statistics, time
def call():
    begun = time.monotonic()
    program = socket.socket(socket.AF_UNIX)
    program.connect("/run/claviger/command/web-users.sock")
    program.send(b'{"version":1,"call":"list","deadline":9999999999,"mark":"0123456789abcdef"}\n')
    program.shutdown(socket.SHUT_WR)
    while program.recv(4096):
        pass
    return 1000 * (time.monotonic() - begun)
print(round(statistics.median(call() for _ in range(20))))
"#;

/// The shipped example, with grants that have not expired.
fn example(files: &Path) {
    let from = root().join("config/examples/web-users");
    let read = |name: &str| fs::read_to_string(from.join(name)).unwrap();
    let soon = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
    for name in ["identities.d/watcher.toml", "secrets.d/status.toml", "policy.d/50-watcher.cedar"] {
        put(files, &format!("etc/claviger/{name}"), read(name).replace("2027-01-31", &soon), 0o644);
    }
    for unit in ["claviger-command-web-users.socket", "claviger-command-web-users@.service"] {
        put(files, &format!("etc/systemd/system/{unit}"), read(&format!("systemd/{unit}")), 0o644);
    }
    put(files, "opt/timing.py", TIMING, 0o644);
    put(files, "opt/web-users", read("program/web-users"), 0o644);
    let ask = format!(
        "{CURL} /run/claviger/workload.sock -d '{{\\\"secret\\\":\\\"status/login\\\",\\\"holder\\\":\\\"unit\\\"}}' http://claviger/v1/leases"
    );
    let unit = format!(
        "[Service]\nUser=watcher\nRuntimeDirectory=watcher\nType=notify\nNotifyAccess=all\n\
         ExecStart=/bin/sh -c \"{ask} >/run/watcher/lease; systemd-notify --ready; exec sleep infinity\"\n"
    );
    put(files, "etc/systemd/system/watcher.service", unit, 0o644);
    put(files, "etc/sysusers.d/watcher.conf", "u watcher - \"watcher\" / /usr/sbin/nologin\n", 0o644);
    // A second engine, with the program of every bad habit; its units say nothing but what they run and where it may write.
    let rows = read("clavigerd.toml") + "[[engine]]\nkind = \"command\"\nname = \"bad\"\ntimeout_seconds = 3\nprobes = true\n";
    let config = fs::read_to_string(files.join("etc/claviger/clavigerd.toml")).unwrap() + &rows;
    put(files, "etc/claviger/clavigerd.toml", config, 0o644);
    put(files, "opt/plugin.py", fs::read(root().join("tests/support/plugin.py")).unwrap(), 0o644);
    put(files, "etc/systemd/system/claviger-command-bad.socket", "[Socket]\nListenStream=/run/claviger/command/bad.sock\n", 0o644);
    let unit = "[Service]\nExecStart=/usr/bin/python3 /opt/plugin.py /var/lib/bad\nReadWritePaths=/var/lib/bad\n";
    put(files, "etc/systemd/system/claviger-command-bad@.service", unit, 0o644);
    put(files, "etc/systemd/system/claviger-command-bad@.service.d/time.conf", "[Service]\nRuntimeMaxSec=3s\n", 0o644);
    let secret = "[[secret]]\nname = \"bad/key\"\nengine = \"bad\"\nowner = \"team-web\"\nsensitivity = \"public\"\nenvironment = \"prod\"\n\
         purposes = [\"watch-status\"]\noperation = \"read\"\nttl = { max = \"1h\" }\ndescription = \"of a test\"\n\
         settings = { parameters = { after = 2.3 } }\n";
    put(files, "etc/claviger/secrets.d/bad.toml", secret, 0o644);
    let identity = format!(
        "[[identity]]\nname = \"asker\"\nkind = \"workload\"\nowner = \"team-web\"\nenvironment = \"prod\"\npurposes = [\"watch-status\"]\n\
         max_sensitivity = \"internal\"\nexpires = \"{soon}\"\nselectors = [\"unix:user:daemon\"]\n\
         [[identity.use]]\nsecret = \"bad/key\"\npurpose = \"watch-status\"\n"
    );
    put(files, "etc/claviger/identities.d/asker.toml", identity, 0o644);
    let grant = format!(
        "@id(\"grant.asker\") @owner(\"team-web\") @purpose(\"watch-status\") @expires(\"{soon}\")\n\
         permit (principal == Claviger::Workload::\"asker\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"bad/key\");\n"
    );
    put(files, "etc/claviger/policy.d/60-asker.cedar", grant, 0o644);
}

fn json(machine: &Machine, command: &str) -> Value {
    let text = machine.ok(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}\n{}", machine.journal()))
}

/// Asks for what the bad program makes; the lease ends with whoever asks.
fn asked() -> String {
    format!(
        "setpriv --reuid daemon --regid daemon --clear-groups {CURL} /run/claviger/workload.sock -d '{{\"secret\":\"bad/key\"}}' http://claviger/v1/leases"
    )
}

fn mood(machine: &Machine, mood: &str) {
    machine.ok(&format!("echo '{mood}' >/var/lib/bad/mood"));
}

/// Waits until nothing is made, no call is running and no lease of the bad program is left.
fn all_gone(machine: &Machine, what: &str) {
    let none = format!(
        "test -z \"$(ls {MADE})\" && test -z \"$(systemctl list-units --plain --no-legend --all 'claviger-command-bad@*')\" && \
         ! pgrep -f [p]lugin.py && ! clav leases --all | grep -q bad/key"
    );
    machine.until(&none, Duration::from_secs(60));
    eprintln!("{what}: nothing is left");
}

#[test]
fn programs_run_in_units_that_can_do_nothing_else() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    package(files);
    example(files);
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    let machine = Machine::boot(files);
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    // As the example says.
    let unit = fs::read_to_string(root().join("config/examples/web-users/systemd/claviger-command-web-users@.service")).unwrap();
    let commands: Vec<&str> = unit.lines().filter_map(|line| line.strip_prefix("#     ")).collect();
    assert_eq!(commands.len(), 3);
    machine.ok(&format!("cd /opt && {}", commands.join(" && ")));
    machine.ok(&format!("install -d -m 1777 /var/lib/bad {MADE} && touch /var/lib/bad/log && chmod 666 /var/lib/bad/log"));
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket \
         claviger-command-web-users.socket claviger-command-bad.socket");
    let modes = "stat -c '%a %U' /run/claviger/command /run/claviger/command/web-users.sock /run/claviger/command/bad.sock";
    assert_eq!(machine.ok(modes), "755 root\n600 claviger\n600 claviger\n");

    // What is wrong with them is told.
    let doctor = |program: &str| {
        let said = String::from_utf8(machine.run("clav doctor").stdout).unwrap();
        let (from, _) = said.match_indices(&format!("program {program} ")).next().unwrap_or_else(|| panic!("{said}"));
        said[said[..from].rfind('\n').unwrap() + 1..].lines().take(2).collect::<Vec<_>>().join(" ")
    };
    assert!(doctor("web-users").starts_with("ok ") && doctor("bad").starts_with("ok "), "{}", doctor("bad"));
    for (command, wanted) in [
        ("chmod 666 /run/claviger/command/bad.sock", "others may have credentials made"),
        ("chmod 600 /run/claviger/command/bad.sock; chown daemon /run/claviger/command/bad.sock", "not to the daemon's user"),
        ("systemctl stop claviger-command-bad.socket", "systemctl enable --now claviger-command-bad.socket"),
    ] {
        machine.ok(command);
        let said = doctor("bad");
        assert!(said.starts_with("FAIL") && said.contains(wanted), "{command}: {said}");
    }
    machine.ok("systemctl start claviger-command-bad.socket");

    // The example: a service has a login while it runs.
    machine.ok("systemctl start watcher");
    let issued = json(&machine, "cat /run/watcher/lease");
    let (user, value) = (issued["attributes"]["user"].as_str(), issued["secret"]["value"].as_str());
    let (Some(user), Some(value)) = (user, value) else { panic!("{issued}\n{}", machine.journal()) };
    assert_eq!(issued["lease"]["ends_by"], "upstream");
    let file = machine.ok("cat /var/lib/claviger-web-users/status.read");
    assert!(file.starts_with(&format!("{user}:{{SSHA}}")) && file.contains(issued["lease"]["id"].as_str().unwrap()), "{file}");
    assert_eq!(machine.ok("stat -c '%a %U:%G' /var/lib/claviger-web-users/status.read"), "640 claviger-web-users:www-data\n");
    // What a call costs is told and not asserted: the host may be busy.
    eprintln!("a call of the example: {} ms (median of 20)", machine.ok("python3 /opt/timing.py").trim());
    machine.ok("systemctl restart clavigerd && clav engine ls");
    assert!(machine.ok("clav leases --all").contains("status/login"), "it lives on over a restart");
    machine.ok("systemctl stop watcher");
    machine.until("! grep -q lease= /var/lib/claviger-web-users/status.read", Duration::from_secs(20));
    let end = machine.until("grep '\"kind\":\"end\"' /var/log/claviger/*.jsonl | grep status/login", Duration::from_secs(20));
    assert!(end.contains("\"result\":\"revoked\"") && end.contains("\"reason\":\"holder_gone\""), "{end}");

    // A login that lasts: changed when an operator says so, the one before is good until the next change.
    for version in 1..=3 {
        let said = machine.ok("clav secret rotate status/monitor");
        assert!(said.contains(&version.to_string()), "{said}");
    }
    let lasting = "grep -o 'secret=status/monitor number=[0-9]*' /var/lib/claviger-web-users/status.read";
    assert_eq!(machine.ok(lasting), "secret=status/monitor number=2\nsecret=status/monitor number=3\n");
    assert!(machine.ok("clav secret ls").contains("status/monitor"));

    // Nobody but the daemon asks a program.
    let connect = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).connect(\"/run/claviger/command/bad.sock\")'";
    for user in ["daemon", "watcher", "claviger-web-users"] {
        let tried = machine.run(&format!("setpriv --reuid {user} --regid daemon --clear-groups {connect}"));
        assert!(String::from_utf8_lossy(&tried.stderr).contains("PermissionError"), "{user}: {tried:?}");
    }

    // Where it runs, and what it reaches.
    mood(&machine, "create look");
    let seen = json(&machine, &asked());
    let seen = &seen["attributes"];
    for (name, wanted) in
        [("CapPrm", "0000000000000000"), ("CapBnd", "0000000000000000"), ("NoNewPrivs", "1"), ("Seccomp", "2"), ("net", "lo")]
    {
        assert_eq!(seen[name], wanted, "{seen}\n{}", machine.journal());
    }
    assert_eq!(seen["reached"], Value::Null, "{seen}");
    let uid: u32 = seen["Uid"].as_str().unwrap().parse().unwrap();
    assert!((61184..=65519).contains(&uid), "nobody said who it is, so it is somebody new: {uid}");
    let env = seen["env"].as_str().unwrap();
    assert!(!env.contains("CREDENTIALS") && !env.contains("CLAVIGER") && !env.contains("NOTIFY_SOCKET"), "{env}");
    all_gone(&machine, "a call");

    // Bad habits. What a program leaves running goes with its unit, so its answer counts; what does not end is ended.
    for (how, issued) in [("daemon", true), ("made-and-hang", false), ("flood", false), ("killed", false), ("deaf", false)] {
        let call = if how == "deaf" { "any" } else { "create" };
        machine.ok("echo >/var/lib/bad/log");
        mood(&machine, &format!("{call} {how}"));
        let said = json(&machine, &asked());
        assert_eq!(said["secret"]["value"] == CANARY, issued, "{how}: {said}\n{}", machine.journal());
        if !issued {
            // A program that says too much is broken; the others may do better another time.
            let code = if how == "flood" { "engine_refused" } else { "engine_unavailable" };
            assert_eq!(said["refused"]["code"].as_str().or(said["error"]["code"].as_str()), Some(code), "{how}: {said}");
            assert!(!said.to_string().contains("program"), "{how}: what went wrong is for operators: {said}");
        }
        if how == "daemon" {
            let child = machine.until("sed -n 's/^child //p' /var/lib/bad/log | grep .", Duration::from_secs(10));
            machine.until(&format!("! kill -0 {}", child.trim()), Duration::from_secs(10));
        }
        mood(&machine, "");
        all_gone(&machine, how);
    }

    // The daemon dies while a program is making something, which is there when the next daemon has looked once.
    mood(&machine, "create late");
    machine.ok("echo >/var/lib/bad/log");
    machine.ok(&format!("({}) >/dev/null 2>&1 &", asked()));
    machine.until("grep -q ^create /var/lib/bad/log", Duration::from_secs(20));
    machine.ok("kill -9 $(systemctl show --value -p MainPID clavigerd)");
    machine.until(&format!("ls {MADE} | grep -q clv_"), Duration::from_secs(10));
    mood(&machine, "");
    machine.until("clav status", Duration::from_secs(20));
    all_gone(&machine, "a call of a daemon that died");

    machine.ok("clav audit verify");
    assert!(!machine.run(&format!("journalctl -o export | grep -aq {CANARY}")).status.success(), "a value is in the journal");
    let log = machine.ok("cat /var/log/claviger/*.jsonl");
    assert!(!log.contains(CANARY) && !log.contains(value));
    machine.until("journalctl -u 'claviger-command-bad@*' | grep -q .", Duration::from_secs(10));
}
