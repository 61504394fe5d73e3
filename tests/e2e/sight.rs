//! A daemon that could not see who asks does not serve, and says what keeps it from seeing: each cause that can be made here.

use super::host::*;
use std::process::{Command, Output};

fn prepared(two: bool) -> Host {
    Host::prepare(Setup { two, ..Setup::default() })
}

/// What an operator of the daemon must mend ends with 78; an attestor that is not there, or not good enough, may yet be, so that is tried
/// again (1). Runs a daemon to its end; one that serves is ended after a while.
fn run(host: &Host, wrapper: &[&str], attestor: bool) -> Output {
    let mut command = Command::new("timeout");
    command.args(["--signal=TERM", "30"]).args(wrapper).arg(program_under_test()).arg("--config").arg(host.dir.join("clavigerd.toml"));
    if attestor {
        command.arg("--attestor").arg(host.attestor_socket());
    }
    command.current_dir("/").output().unwrap()
}

#[track_caller]
fn refused(host: &Host, done: &Output, code: i32, why: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    for why in why {
        assert!(said.contains(why), "{why:?} is not in: {said}");
    }
    assert!(!host.dir.join("workload.sock").exists() && !host.dir.join("operator.sock").exists(), "it opened a door");
}

const NONE: &[&str] = &["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"];
const LOOKS: &str = "-all,+sys_ptrace,+dac_read_search";

/// Lays down a ruleset that only forbids binding TCP ports, and becomes what follows: enough for `/proc` of others to be closed.
const LANDLOCKED: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
rules = struct.pack("QQ", 0, 1)
ruleset = libc.syscall(444, rules, len(rules), 0)
if ruleset < 0 or libc.syscall(446, ruleset, 0) != 0:
    sys.exit("no landlock")
os.execvp(sys.argv[1], sys.argv[1:])
"#;

/// Becomes what follows in a user namespace as `PrivateUsers=` makes it: the users named are themselves, all others are nobody.
const PRIVATE_USERS: &str = r#"
import ctypes, os, sys
unshared, mapped = os.pipe(), os.pipe()
me = os.getpid()
if os.fork() == 0:
    os.read(unshared[0], 1)
    for kind in ("uid", "gid"):
        with open(f"/proc/{me}/{kind}_map", "w") as f:
            f.write("".join(f"{id} {id} 1\n" for id in sys.argv[1].split(",")))
    os.write(mapped[1], b"x")
    os._exit(0)
if ctypes.CDLL(None).unshare(0x10000000) != 0:
    sys.exit("no user namespace")
os.write(unshared[1], b"x")
os.read(mapped[0], 1)
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// Whether this kernel has Landlock with network rules (6.7).
fn has_landlock() -> bool {
    let done = Command::new("python3").args(["-c", LANDLOCKED, "true"]).status().unwrap();
    if !done.success() {
        eprintln!("\n*** SKIPPED: this kernel has no Landlock ***\n");
    }
    done.success()
}

/// An attestor in these wrappers, one around what gives it its capabilities and one within, and a daemon that asks it.
fn with_attestor(around: &[&str], wrapper: &[&str]) -> (Host, Output) {
    let mut host = prepared(true);
    let caps = ["--inh-caps", LOOKS, "--ambient-caps", LOOKS, "--bounding-set", LOOKS];
    let mut command = Command::new("env");
    command.args(around).arg("setpriv");
    command.args([&format!("--reuid={ATTESTOR}"), &format!("--regid={ATTESTOR}"), "--clear-groups"]).args(caps).arg("--");
    command.args(wrapper).arg(program_under_test()).arg("attest").arg("--config").arg(host.dir.join("clavigerd.toml"));
    command.arg("--socket").arg(host.attestor_socket()).current_dir("/");
    host.attestor = Some(Served::start(&mut command, &host.dir.join("attestor.log"), &[]));
    let done = run(&host, NONE, true);
    (host, done)
}

#[test]
fn one_process_without_the_capability() {
    if !is_root() {
        return;
    }
    let host = prepared(false);
    refused(&host, &run(&host, NONE, false), 78, &["process of another user", "CAP_SYS_PTRACE is missing"]);
}

#[test]
fn one_process_in_a_user_namespace() {
    if !is_root() {
        return;
    }
    let host = prepared(false);
    let done = run(&host, &["python3", "-c", PRIVATE_USERS, "0"], false);
    refused(&host, &done, 78, &["cannot be", "user namespace of its own"]);
}

#[test]
fn an_attestor_without_the_capability() {
    if !is_root() {
        return;
    }
    let (host, done) = with_attestor(&[], &["setpriv", "--inh-caps=-all", "--ambient-caps=-all", "--"]);
    refused(&host, &done, 1, &["attestor lacks CAP_SYS_PTRACE"]);
}

#[test]
fn an_attestor_in_a_user_namespace() {
    if !is_root() {
        return;
    }
    let (host, done) = with_attestor(&["python3", "-c", PRIVATE_USERS, &format!("0,{ATTESTOR}")], &[]);
    refused(&host, &done, 78, &["this daemon cannot be attested", "the attestor runs in a user namespace of its own"]);
}

#[test]
fn an_attestor_under_landlock() {
    if !is_root() || !has_landlock() {
        return;
    }
    let (host, done) = with_attestor(&[], &["python3", "-c", LANDLOCKED]);
    refused(&host, &done, 78, &["this daemon cannot be attested", "Landlock"]);
}

#[test]
fn an_attestor_in_another_pid_namespace() {
    if !is_root() {
        return;
    }
    // With the parent's /proc still mounted and with one of its own: the numbers that it is given mean others there.
    let mut host = prepared(true);
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", &program_under_test(), "attest", "--config"]);
    command.arg(host.dir.join("clavigerd.toml")).arg("--socket").arg(host.attestor_socket()).current_dir("/");
    std::os::unix::fs::chown(host.attestor_socket().parent().unwrap(), Some(0), None).unwrap();
    let config = std::fs::read_to_string(host.dir.join("clavigerd.toml")).unwrap();
    host.write("clavigerd.toml", &config.replace(&format!("attestor_user = \"{ATTESTOR}\""), "attestor_user = \"0\""));
    host.attestor = Some(Served::start(&mut command, &host.dir.join("attestor.log"), &[]));
    let done = run(&host, NONE, true);
    refused(&host, &done, 78, &["cannot be attested", "pid namespace"]);
}

#[test]
fn a_daemon_in_a_user_namespace_beside_an_attestor_outside() {
    if !is_root() {
        return;
    }
    let mut host = prepared(true);
    host.launch_attestor();
    let done = run(&host, &["python3", "-c", PRIVATE_USERS, "0"], true);
    refused(&host, &done, 1, &["uid 65534 (nobody)", "PrivateUsers"]);
}

#[test]
fn a_hidden_proc_hides_nothing_from_the_attestor() {
    if !is_root() {
        return;
    }
    let hide = "mount -t proc -o hidepid=invisible proc /proc && exec \"$@\"";
    let hidden = Command::new("unshare").args(["--mount", "sh", "-c", hide, "sh", "true"]).status().unwrap().success();
    if !hidden {
        eprintln!("\n*** SKIPPED: /proc cannot be mounted here ***\n");
        return;
    }
    // Both in a mount namespace where users see only their own processes; the daemon's uid is another than the attestor's.
    let mut host = prepared(true);
    let script = format!(
        "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid={ATTESTOR} --regid={ATTESTOR} --clear-groups --inh-caps {LOOKS} --ambient-caps {LOOKS} --bounding-set {LOOKS} -- \"$@\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh", &program_under_test(), "attest", "--config"]);
    command.arg(host.dir.join("clavigerd.toml")).arg("--socket").arg(host.attestor_socket()).current_dir("/");
    host.attestor = Some(Served::start(&mut command, &host.dir.join("attestor.log"), &[]));
    host.launch();
    assert_eq!(host.operator("GET", "/v1/health", "")["status"], "ok");
}
