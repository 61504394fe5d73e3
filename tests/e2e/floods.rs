//! One hostile user floods the daemon: what it takes is bounded, what it took comes back, and others are served meanwhile. Counts and
//! order only; how much slower others become is measured by `cargo bench --bench overload`.

use super::{
    host::*,
    siege::{Attack, besieged_by, part_of, served},
};
use serde_json::Value;
use std::fs;

const CONNECTIONS: usize = 32;
const TOTAL: usize = 384;
/// A user whose programs are known by their content.
const MEASURED: u32 = 61_005;

/// What the attestor remembers of processes that it just looked at: 128 of them, by three descriptors each; and a few of the daemon's own.
const REMEMBERED: usize = 128 * 3 + 8;

struct Seen {
    found: Value,
    /// How often another user was served meanwhile.
    served: usize,
    /// The daemon's open descriptors: before, the most that were seen, afterwards.
    descriptors: [usize; 3],
}

fn descriptors(host: &Host) -> usize {
    fs::read_dir(format!("/proc/{}/fd", host.pid())).unwrap().count()
}

fn host() -> Host {
    // Whatever this user runs is to be measured.
    let measured = identity("measured", MEASURED, "").replace("unix:path:$DIR/bin/measured", &format!("unix:sha256:{}", "0".repeat(64)));
    let host = besieged_by(&[], &measured, "");
    let limits = format!(
        "[limits]\nconnections = {CONNECTIONS}\nconnections_total = {TOTAL}\nrequest_seconds = 1\nanswer_seconds = 1\nidle_seconds = 3600\n"
    );
    let config = fs::read_to_string(host.dir.join("clavigerd.toml")).unwrap();
    let (before, after) = config.split_once("[limits]\n").unwrap();
    host.write(
        "clavigerd.toml",
        &format!("{before}{limits}connections_per_second = 100000\nrequests_per_second = 100000\n{}", &after[after.find('[').unwrap()..]),
    );
    host
}

/// The flood in its size, while another user asks all the time.
fn flooded(host: &mut Host, name: &'static str, verb: &'static [&'static str], full: u64) -> Seen {
    host.stop(false);
    host.launch();
    served(host);
    let flood = Attack { name, program: "attacker", verb, full };
    let before = descriptors(host);
    let (mut most, mut count) = (before, 1);
    let quiet = &*host;
    let found = std::thread::scope(|scope| {
        let run = scope.spawn(|| flood.run(quiet, part_of(full)));
        while !run.is_finished() {
            served(quiet);
            count += 1;
            most = most.max(descriptors(quiet));
        }
        run.join().unwrap()
    });
    served(host);
    let bound = before + REMEMBERED;
    host.wait_until(std::time::Duration::from_secs(20), "what was taken is given back", |host| descriptors(host) <= bound);
    let seen = Seen { found, served: count + 1, descriptors: [before, most, descriptors(host)] };
    eprintln!("{name}: {}, others served {} times, descriptors {:?}", seen.found, seen.served, seen.descriptors);
    assert_eq!((&seen.found["served"], &seen.found["rounds"]), (&0.into(), &part_of(full).into()));
    seen
}

fn answers(seen: &Seen, code: &str) -> u64 {
    seen.found["answers"][code].as_u64().unwrap_or(0)
}

#[test]
fn floods_by_one_user_are_bounded_and_others_are_served() {
    if !is_root() {
        return;
    }
    let mut host = host();
    // Each connection has its socket and what pins its peer: a few descriptors.
    let bound =
        |seen: &Seen| assert!(seen.descriptors[1] <= seen.descriptors[0] + REMEMBERED + (CONNECTIONS + 8) * 4, "{:?}", seen.descriptors);

    let connections = flooded(&mut host, "connections", &["connections"], 10_000);
    bound(&connections);
    assert_eq!(answers(&connections, "200"), CONNECTIONS as u64, "so many are served and no more");
    assert_eq!(answers(&connections, "closed"), part_of(10_000) - CONNECTIONS as u64);

    let slow = flooded(&mut host, "slow bytes", &["slow"], 1000);
    bound(&slow);

    let bodies = flooded(&mut host, "large bodies", &["bodies"], 1000);
    bound(&bodies);
    assert_eq!(bodies.found["staged"], bodies.found["rounds"], "none was taken to its end");

    let passed = flooded(&mut host, "passed descriptors", &["descriptors"], 2000);
    bound(&passed);
    if passed.found["forbidden"] == true {
        assert_eq!(passed.found["passed"], 0, "this kernel can refuse them");
    }
    assert!(passed.found["passed"].as_u64().unwrap() + passed.found["refused"].as_u64().unwrap() >= 10_000);
}

#[test]
fn a_crowd_of_strange_users_leaves_room_for_others() {
    if !is_root() {
        return;
    }
    let mut host = host();
    let seen = flooded(&mut host, "many users", &["many"], 10_000);
    assert_eq!(answers(&seen, "200"), TOTAL as u64 / 2, "half of all connections, and no more");
    assert_eq!(answers(&seen, "closed"), part_of(10_000) - TOTAL as u64 / 2);
    assert!(seen.descriptors[1] <= seen.descriptors[0] + REMEMBERED + (TOTAL / 2 + 8) * 4, "{:?}", seen.descriptors);
}

#[test]
fn large_programs_are_measured_at_their_users_expense() {
    if !is_root() {
        return;
    }
    let mut host = host();
    // The default budget, 64 MiB a second and ten seconds' worth at once, as bytes in all.
    let seen = flooded(&mut host, "programs of 200 MB", &["large"], 500);
    let allowed = (10.0 + 1.0 + seen.found["seconds"].as_f64().unwrap()) * (64 << 20) as f64;
    let measured = answers(&seen, "no_identity");
    assert_eq!(measured + answers(&seen, "attestation_failed"), part_of(500), "{}", seen.found);
    assert!((measured - 1) as f64 * 200e6 <= allowed, "{measured} programs, {allowed} bytes");
    assert!(measured > 0 && answers(&seen, "attestation_failed") > 0, "some were measured, and not all: {}", seen.found);
}

#[test]
fn refusals_of_one_user_leave_the_record_to_others() {
    if !is_root() {
        return;
    }
    let mut host = host();
    let seen = flooded(&mut host, "refusals", &["refusals"], 20_000);
    host.stop(false);
    let records = host.records();
    let of_flood: Vec<&Value> = records.iter().filter(|record| record["uid"] == ATTACKER).collect();
    let counted: u64 = of_flood.iter().map(|record| record["folded"]["count"].as_u64().unwrap_or(1)).sum();
    eprintln!("{} records of {} refusals, {counted} counted", of_flood.len(), seen.found["rounds"]);
    assert_eq!(counted, part_of(20_000), "none is lost");
    // The first twenty each by itself, the rest in one record a minute.
    assert!(of_flood.len() <= 100, "{}", of_flood.len());
    // Each issue to another user has a record of its own.
    let issues = records.iter().filter(|record| record["kind"] == "issue").count();
    assert_eq!(issues, seen.served);
}
