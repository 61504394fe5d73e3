//! Thousands of holders die at once: every lease ends, and what the daemon needed for them comes back. How long it takes is printed here and
//! measured by `cargo bench --bench load`.

use super::{host::*, siege::part_of};
use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// What the attestor remembers of processes that it just looked at: 128 of them, by three descriptors each; and a few of the daemon's own.
const REMEMBERED: usize = 128 * 3 + 8;
/// The daemon remembers what has ended for a while, at less than this for each; and its allocator keeps some pages. KiB.
const KEPT_FOR_EACH: u64 = 4;
const KEPT_PAGES: u64 = 16 << 10;

/// How the daemon stands.
#[derive(Clone, Copy, Debug)]
struct Taken {
    descriptors: usize,
    threads: u64,
    /// Resident memory, KiB.
    memory: u64,
}

fn taken(host: &Host) -> Taken {
    let status = fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let descriptors = fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count();
    Taken { descriptors, threads: field("Threads:"), memory: field("VmRSS:") }
}

/// Leases that are not over. Counted by the daemon: a list of thousands, over and over, would be most of what it needs.
fn owed(host: &Host) -> u64 {
    let leases = host.operator("GET", "/v1/status", "")["leases"].clone();
    ["live", "ending", "irrevocable"].iter().filter_map(|state| leases[*state].as_u64()).sum()
}

/// So many holders of one lease each take it and are killed at once; how the daemon stood with all of them. What it had taken comes back,
/// but for what it remembers of them; what it took before is `before`.
fn wave(host: &mut Host, count: usize, before: Taken) -> [Taken; 2] {
    let request = "POST /v1/leases HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 20\r\n\r\n{\"secret\":\"app/one\"}";
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &host.path("bin/holders")]);
    command.args([&host.path("workload.sock"), &count.to_string(), request]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut holders = Actor::of(command);
    let leases: BTreeSet<String> =
        holders.first["leases"].as_array().unwrap().iter().map(|lease| lease.as_str().unwrap().to_owned()).collect();
    assert_eq!(leases.len(), count, "each has a lease of its own");
    assert_eq!(owed(host), count as u64);
    let most = taken(host);
    let begin = Instant::now();
    holders.close();
    let killed = begin.elapsed();
    host.wait_until(Duration::from_secs(120), "all of their leases end", |host| owed(host) == 0);
    let ended = begin.elapsed();
    let gone = |host: &Host| -> BTreeSet<String> {
        let ends = host.records_of("end").into_iter().filter(|record| record["ended"]["reason"] == "holder_gone");
        ends.map(|record| record["lease"].as_str().unwrap().to_owned()).collect()
    };
    // What a log with a full queue does not take is put on it a moment later.
    host.wait_until(Duration::from_secs(10), "each has ended, on the record, for its holder is gone", |host| leases.is_subset(&gone(host)));
    let memory = before.memory + KEPT_FOR_EACH * count as u64 + KEPT_PAGES;
    let bound = |now: Taken| now.descriptors <= REMEMBERED + 64 && now.threads <= most.threads && now.memory <= memory;
    host.wait_until(Duration::from_secs(60), "descriptors, threads and memory are given back", |host| bound(taken(host)));
    let after = taken(host);
    eprintln!("{count} holders: {most:?}; killed and reaped in {killed:?}, the last lease over after {ended:?}; then {after:?}");
    [most, after]
}

#[test]
fn thousands_of_holders_killed_at_once_leave_nothing_behind() {
    if !is_root() {
        return;
    }
    let count = part_of(4_000).max(400) as usize;
    let mut host = Host::start(Setup {
        config: "[limits]\nconnections_per_second = 100000\nrequests_per_second = 100000\n".into(),
        identities: identity("holders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("holders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "value-one");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/holders.c");
    assert!(Command::new("cc").args(["-O1", "-o", &host.path("bin/holders"), source]).status().unwrap().success());
    // What is made at first need is there after a few.
    let start = taken(&host);
    let [_, quiet] = wave(&mut host, 20, start);
    let [most, first] = wave(&mut host, count, quiet);
    assert!(most.descriptors >= quiet.descriptors + count, "each of them was watched: {most:?}");
    let [_, second] = wave(&mut host, count, first);
    assert!(second.threads <= quiet.threads + 1, "{quiet:?} {first:?} {second:?}");
    host.stop(false);
    let of = |kind: &str| host.records_of(kind).len();
    assert_eq!((of("issue"), of("end")), (2 * count + 20, 2 * count + 20));
    super::crash::verify(&host);
}
