//! The daemon that serves has given up what it does not need, in every thread. What that keeps it from is tried in `tests/confine`.

use super::host::*;
use std::fs;

#[test]
fn every_thread_of_the_daemon_is_confined() {
    if !is_root() {
        return;
    }
    let host = Host::start(Setup::default());
    // Threads that start late are among them.
    host.operator("GET", "/v1/status", "");
    let threads: Vec<_> = fs::read_dir(format!("/proc/{}/task", host.pid())).unwrap().flatten().collect();
    assert!(threads.len() > 3, "{threads:?}");
    // Looking at processes, reading for that what only its owner may, and as root giving sockets to their group (capabilities(7)).
    // With an attestor beside it the daemon needs none of them.
    let two = std::env::var("CLAVIGER_TEST_PROCESSES").is_ok_and(|n| n == "2");
    let three = if two { "0".repeat(16) } else { format!("{:016x}", 1 << 19 | 1 << 2 | 1) };
    for thread in threads {
        let status = fs::read_to_string(thread.path().join("status")).unwrap();
        let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or("missing");
        assert_eq!(of("NoNewPrivs"), "1", "{status}");
        assert_eq!((of("CapPrm"), of("CapEff"), of("CapBnd")), (three.as_str(), three.as_str(), three.as_str()), "{status}");
        assert_eq!((of("CapInh"), of("CapAmb")), ("0000000000000000", "0000000000000000"), "{status}");
        assert_eq!(of("Seccomp"), "2", "{status}");
    }
}

/// What the host cannot give is said to operators, and so is what the operator chose.
#[test]
fn what_is_not_confined_is_said() {
    if !is_root() {
        return;
    }
    let host = Host::start(Setup::default());
    let status = host.operator("GET", "/v1/status", "");
    let said: Vec<&str> = status["unprotected"].as_array().unwrap().iter().filter_map(|line| line.as_str()).collect();
    assert!(said.iter().any(|line| line.starts_with("the daemon runs as root")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("not filtered")), "{said:?}");
}
