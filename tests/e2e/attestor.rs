//! Two processes: a daemon without privilege and an attestor without secrets. The other suites run in this shape as well, with
//! `CLAVIGER_TEST_PROCESSES=2`; here is what only this shape has.

use super::host::*;
use std::{fs, process::Command, time::Duration};

const ONE: &str = r#"{"secret":"app/one"}"#;

fn setup() -> Setup {
    Setup {
        config: "[limits]\nconnections_per_second = 10000\n[leases]\nsweep = \"1s\"\n".to_owned(),
        identities: identity("orders", VICTIM, &declared("app/one")) + &identity("other", VICTIM, ""),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        two: true,
        ..Setup::default()
    }
}

fn started(setup: Setup) -> Host {
    let host = Host::start(setup);
    host.put("app/one", "value-one");
    host
}

fn field(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
}

fn issued(host: &Host) -> (u64, String) {
    let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0);
    (answer["status"].as_u64().unwrap(), answer["body"]["error"]["code"].as_str().unwrap_or_default().to_owned())
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

#[test]
fn the_daemon_has_no_privilege_and_says_who_looked() {
    if !is_root() {
        return;
    }
    for two in [true, false] {
        let host = started(Setup { two, ..setup() });
        if std::env::var("CLAVIGER_TEST_PROCESSES").is_ok() && !two {
            continue;
        }
        assert_eq!(issued(&host).0, 201);
        let status = host.operator("GET", "/v1/status", "");
        let unprotected = status["unprotected"].to_string();
        assert_eq!(unprotected.contains("one process"), !two, "{status}");
        assert!(status["attestor"].as_str().unwrap().starts_with(if two { "a process" } else { "within" }), "{status}");
        assert_eq!(host.records_of("issue")[0]["attestor"], if two { "process" } else { "daemon" });
        if two {
            for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:", "CapInh:"] {
                assert_eq!(field(host.pid(), set), "0000000000000000", "{set}");
            }
            let attestor = host.attestor.as_ref().unwrap().pid();
            assert_eq!(field(attestor, "CapEff:"), "0000000000080004");
            assert_eq!(field(attestor, "CapAmb:"), "0000000000000000", "a program it might be made to execute gets none");
        }
    }
}

#[test]
fn while_the_attestor_is_gone_nobody_new_is_attested_and_leases_are_kept() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let mut changes = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = holder.lease();
    host.attestor.take().unwrap().end("KILL");
    host.wait_until(Duration::from_secs(10), "the loss is seen", |host| {
        host.call("operator", "GET", "/v1/health", "").0 != 200 || issued(host).0 != 201
    });
    assert_eq!(issued(&host), (403, "attestation_failed".to_owned()));
    // A value of a live lease is read again by its holder; that needs nobody.
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], "value-one");
    // Another issue does.
    holder.say(&format!("call POST /v1/leases {ONE}"));
    assert_ne!(holder.line()["status"], 201);
    // A holder that becomes another program meanwhile reads nothing, and is found out when somebody can look again.
    let changed = changes.lease();
    changes.say(&format!("exec-fd {}", host.program("other")));
    assert_eq!(changes.line()["status"], 1);
    changes.say(&format!("call GET /v1/leases/{changed}/secret"));
    assert!(changes.line()["body"]["secret"].is_null());
    // Long enough for the sweep to have looked several times.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(host.records_of("end").iter().filter(|record| record["lease"] == lease.as_str()).count(), 0);
    host.launch_attestor();
    host.wait_until(Duration::from_secs(10), "it is attested again", |host| issued(host).0 == 201);
    let status = host.operator("GET", "/v1/status", "");
    assert!(status["attestor"].as_str().unwrap().ends_with("lost 1 times"), "{status}");
    assert!(host.operator("GET", "/v1/metrics", "").to_string().contains("claviger_attestor_lost 1"));
    assert_eq!(host.end_of(&changed)["ended"]["reason"], "holder_changed");
    assert!(host.live().iter().any(|live| live["id"] == lease.as_str()));
    // A restart of the daemon alone takes the lease up again.
    host.stop(true);
    host.launch();
    assert!(host.live().iter().any(|live| live["id"] == lease.as_str()));
    holder.kill();
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "holder_gone");
}

/// Lets a process open so many descriptors more, or as many as before.
fn allow_descriptors(pid: u32, more: Option<usize>) {
    let open: std::collections::BTreeSet<usize> =
        fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|fd| fd.unwrap().file_name().to_str()?.parse().ok()).collect();
    let limit = more.map_or(1024, |more| (0..).filter(|fd| !open.contains(fd)).nth(more).unwrap());
    // As its own user, who may; root may lack the capability for others'.
    let ids = [format!("--reuid={ATTESTOR}"), format!("--regid={ATTESTOR}"), "--clear-groups".to_owned()];
    let done = Command::new("setpriv").args(ids).args(["prlimit", "--pid", &pid.to_string(), &format!("--nofile={limit}:")]).status();
    assert!(done.unwrap().success());
}

#[test]
fn an_attestor_that_is_short_of_descriptors_costs_nobody_a_lease() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let (orders, other) = (host.program("orders"), host.program("other"));
    let mut same = host.hold(VICTIM, "orders", &["hold", ONE]);
    let mut changes = host.hold(VICTIM, "orders", &["hold", ONE]);
    let attestor = host.attestor.as_ref().unwrap().pid();
    // It can be asked about both, and cannot look.
    allow_descriptors(attestor, Some(3));
    for (holder, program) in [(&mut same, &orders), (&mut changes, &other)] {
        holder.say(&format!("exec-actor {program}"));
        assert_eq!(holder.line()["status"], 1);
    }
    // Long enough for the sweep to have looked several times.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(host.records_of("end"), Vec::<serde_json::Value>::new(), "that nobody could look says nothing about them");
    allow_descriptors(attestor, None);
    assert_eq!(host.end_of(&changes.lease())["ended"]["reason"], "holder_changed", "it is looked at when somebody can");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), [same.lease()]);
    let status = host.operator("GET", "/v1/status", "");
    assert!(status["attestor"].as_str().unwrap().ends_with("lost 0 times"), "it could be asked all the time: {status}");
}

#[test]
fn a_hung_attestor_denies_and_is_used_again_when_it_goes_on() {
    if !is_root() {
        return;
    }
    let mut host = started(setup());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    let attestor = host.attestor.as_ref().unwrap().pid();
    signal(attestor, "STOP");
    assert_eq!(issued(&host), (403, "attestation_failed".to_owned()));
    holder.say(&format!("call GET /v1/leases/{}/secret", holder.lease()));
    assert_eq!(holder.line()["body"]["secret"]["value"], "value-one");
    signal(attestor, "CONT");
    host.wait_until(Duration::from_secs(10), "it is attested again", |host| issued(host).0 == 201);
    assert!(host.operator("GET", "/v1/status", "")["attestor"].as_str().unwrap().ends_with("lost 0 times"), "late answers are no fault");
}

/// Connects to the attestor as another user, or passes a connection of root's on to one, and says whether anything is answered. `hello` is
/// the Postcard form of question 1, `Hello { version: 1 }`.
const STRANGER: &str = r#"
import os, socket, sys
path, uid, inherits = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "inherits"
def connected():
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.settimeout(10)
    s.connect(path)
    return s
s = connected() if inherits else None
if os.fork() == 0:
    os.setgroups([]); os.setresgid(uid, uid, uid); os.setresuid(uid, uid, uid)
    try:
        s = s or connected()
        s.send(b"\x01\x00\x01")
        heard = s.recv(4096)
    except OSError as error:
        heard = b""
    print("answered" if heard else "nothing", flush=True)
    os._exit(0)
os.wait()
"#;

#[test]
fn the_attestor_answers_nobody_else() {
    if !is_root() {
        return;
    }
    let host = started(setup());
    let socket = host.attestor_socket();
    let asked = |uid: u32, how: &str| {
        let done = Command::new("python3").args(["-c", STRANGER]).arg(&socket).args([&uid.to_string(), how]).output().unwrap();
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(asked(0, "itself"), "answered", "the daemon's own user is who may ask");
    for uid in [VICTIM, ATTACKER, ATTESTOR] {
        assert_eq!(asked(uid, "itself"), "nothing", "uid {uid}");
        assert_eq!(asked(uid, "inherits"), "nothing", "uid {uid}, on a connection that was root's");
    }
    // Another process of the right user is another process all the same.
    assert_eq!(asked(0, "inherits"), "nothing");
    assert_eq!(issued(&host).0, 201, "and the daemon goes on");
}

#[test]
fn whoever_else_answers_at_the_attestors_place_is_not_believed() {
    if !is_root() {
        return;
    }
    let mut host = Host::prepare(setup());
    // The attestor runs as somebody else than is configured.
    let config = fs::read_to_string(host.dir.join("clavigerd.toml")).unwrap();
    host.launch_attestor();
    // The daemon waits for it no longer than is worth it, and what it says then is another thing.
    host.wait_until(Duration::from_secs(60), "the attestor listens", |host| host.attestor_socket().exists());
    host.write("clavigerd.toml", &config.replace(&format!("attestor_user = \"{ATTESTOR}\""), "attestor_user = \"61011\""));
    let mut daemon = Command::new("timeout");
    daemon.arg("60").arg(program_under_test()).arg("--attestor").arg(host.attestor_socket());
    let done = daemon.arg("--config").arg(host.dir.join("clavigerd.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains("uid 61010 answered, not uid 61011"), "{:?} {said}", done.status);
    assert!(!host.dir.join("workload.sock").exists(), "it does not serve");
}

#[test]
fn an_attestor_that_may_read_nothing_attests_all_the_same() {
    if !is_root() {
        return;
    }
    let mut host = Host::prepare(setup());
    host.launch_attestor_with("-all,+sys_ptrace");
    host.launch();
    host.put("app/one", "value-one");
    assert_eq!(issued(&host).0, 201);
    let attestor = host.attestor.as_ref().unwrap().pid();
    assert_eq!(field(attestor, "CapBnd:"), "0000000000080000");
    // And a program in the same process is still noticed.
    let mut changes = host.hold(VICTIM, "orders", &["hold", ONE]);
    let lease = changes.lease();
    changes.say(&format!("exec-fd {}", host.program("other")));
    assert_eq!(changes.line()["status"], 1);
    changes.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert!(changes.line()["body"]["secret"].is_null());
    assert_eq!(host.end_of(&lease)["ended"]["reason"], "holder_changed");
}
