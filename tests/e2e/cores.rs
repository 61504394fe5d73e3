//! What the daemon has in its memory leaves it by no core file and is open to no neighbour.

use super::{host::*, leaks::files};
use std::{
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Whose the kernel says that a process's memory is: root's, whoever runs it, when it must not be dumped.
fn owner_of_memory(pid: u32) -> u32 {
    fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid()
}

fn no_core_limit(pid: u32) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}

/// As it is deployed: its own user with two capabilities. It is not dumpable, so no core file has its memory, and none of that user's
/// other processes can look into it.
#[test]
fn a_daemon_with_its_own_user_is_not_dumpable() {
    if !is_root() {
        return;
    }
    let as_user = |program: &str, arguments: &[&str]| {
        let capabilities = "+sys_ptrace,+dac_read_search";
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={ATTACKER}"), &format!("--regid={ATTACKER}"), "--clear-groups"]);
        command.args([&format!("--inh-caps={capabilities}"), &format!("--ambient-caps={capabilities}"), "--", program]).args(arguments);
        command
    };
    let host = Host::prepare(Setup::default());
    std::os::unix::fs::chown(&host.dir, Some(ATTACKER), Some(ATTACKER)).unwrap();
    let (log, socket) = (host.dir.join("daemon.log"), host.dir.join("workload.sock"));
    let mut command = as_user(&program_under_test(), &["--config", &host.path("clavigerd.toml")]);
    let daemon = Served::start(&mut command, &log, &[&socket]);
    no_core_limit(daemon.pid());
    let mut control = as_user("/bin/cat", &[]).stdin(Stdio::piped()).spawn().unwrap();
    // Once it runs as that user at all.
    let until = Instant::now() + Duration::from_secs(20);
    while fs::read_link(format!("/proc/{}/exe", control.id())).is_ok_and(|exe| !exe.ends_with("cat")) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let owners = (owner_of_memory(daemon.pid()), owner_of_memory(control.id()));
    drop(control.stdin.take());
    control.wait().unwrap();
    assert_eq!(owners, (0, ATTACKER), "the daemon's memory is root's, an ordinary process's its user's");
}

/// A process that crashes leaves no memory behind, also when somebody lifts its limit.
#[test]
fn a_crash_leaves_no_core_file() {
    if !is_root() {
        return;
    }
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    for signal in ["-ABRT", "-SEGV"] {
        let mut host = Host::start(Setup::default());
        host.put("app/text", "in memory");
        let pid = host.pid().to_string();
        no_core_limit(host.pid());
        let lifted = Command::new("prlimit").args(["--pid", &pid, "--core=unlimited"]).stderr(Stdio::null()).status().unwrap().success();
        // The runtime looks at the first SIGSEGV, for overflown stacks, and leaves the second to the kernel.
        host.wait_until(Duration::from_secs(20), "the daemon has crashed", |host| {
            let _ = Command::new("kill").args([signal, &pid]).stderr(Stdio::null()).status();
            !host.is_running()
        });
        let cores = |host: &Host| files(&host.dir).into_iter().filter(|(name, _)| name.contains("/core")).count();
        assert_eq!(cores(&host), 0, "the daemon ran in this folder");
        if !lifted {
            eprintln!("\n*** nobody here may lift a limit (CAP_SYS_RESOURCE): core files were tried with the limit in place ***\n");
        }
        if pattern.starts_with(['|', '/']) {
            eprintln!("\n*** SKIPPED: core files go to {pattern:?} here: only the limit was looked at ***\n");
            continue;
        }
        // The same signal and folder, and a process that is not hardened.
        let control = format!("ulimit -c unlimited 2>/dev/null || ulimit -c $(ulimit -H -c); kill {signal} $$");
        Command::new("/bin/sh").args(["-c", &control]).current_dir(&host.dir).status().unwrap();
        assert_eq!(cores(&host), 1, "where core files can be had at all, there is one");
    }
}
