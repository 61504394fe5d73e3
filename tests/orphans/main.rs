//! Never an orphan: two hosts with one PostgreSQL and one OpenBao, under load, while daemons, holders, sessions and sources die at random, disks
//! fill up, wall clocks are set and journals get lost. After each round what exists at the sources under a host's mark is exactly what that
//! host's leases say, one by one, and what OpenBao made in the database is no more and no less.
//!
//! `CLAVIGER_TEST_ORPHANS` is how many rounds; 30 without it. From 1,000 on they are divided among up to eight such sites that have nothing in
//! common. `CLAVIGER_TEST_ORPHANS_REPORT` names a file for the counts as JSON. Runs as
//! root. `tests/run --orphans N --json` does both.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../soak/chance.rs"]
mod chance;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/openbao.rs"]
mod openbao_server;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/small_disk.rs"]
#[allow(dead_code, reason = "another suite uses the rest")]
mod small_disk;

#[path = "../support/wall.rs"]
mod wall;

mod fault;
mod site;

use chance::Chance;
use fault::{ALL, Fault, happen};
use host::*;
use site::{AT_ONCE, KEPT, Side, Sources, agree};
use std::{
    collections::BTreeSet,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const SEED: u64 = 0x6f72_7068;

/// The most sites that are busy at once, and the rounds from which there is another: they mostly wait.
const SITES: u32 = 8;
const ROUNDS_EACH: u32 = 500;

#[test]
fn what_is_at_the_sources_is_what_is_leased() {
    let asked_for = std::env::var("CLAVIGER_TEST_ORPHANS").ok();
    if !is_root() {
        assert!(asked_for.is_none(), "this needs root: it has other users hold leases");
        return;
    }
    let rounds: u32 = asked_for.map_or(30, |n| n.parse().expect("a number of rounds"));
    let sites = (rounds / ROUNDS_EACH).clamp(1, SITES);
    let seen: Vec<Option<Counts>> = thread::scope(|scope| {
        let share = |site: u32| rounds / sites + u32::from(site < rounds % sites);
        let busy: Vec<_> = (0..sites)
            .map(|site| {
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
                    runtime.block_on(one_site(site, share(site)))
                })
            })
            .collect();
        busy.into_iter().map(|site| site.join().unwrap_or_else(|why| std::panic::resume_unwind(why))).collect()
    });
    let Some(seen) = seen.into_iter().collect::<Option<Vec<_>>>() else { return };
    let report = seen.into_iter().fold(Counts::default(), Counts::and);
    let text = serde_json::to_string(&report).expect("numbers");
    eprintln!("{text}");
    if let Some(path) = std::env::var_os("CLAVIGER_TEST_ORPHANS_REPORT") {
        std::fs::write(path, text).expect("the report's file");
    }
    assert_eq!((report.rounds, report.orphans, report.live, report.issued), (rounds, 0, report.upstream, report.ended + report.live));
    assert!(report.issued > u64::from(rounds), "there was load");
}

/// Two hosts and the sources that both use, for so many rounds; `None` without one of the servers.
async fn one_site(site: u32, rounds: u32) -> Option<Counts> {
    let mut sources = Sources::start().await?;
    let mut chance = Chance(SEED + u64::from(site));
    let megabytes = 64 + u64::from(rounds) / 16;
    let mut sides = [Side::start(&sources, megabytes).await, Side::start(&sources, megabytes).await];
    // Each fault comes before any comes again.
    let mut deck: Vec<Fault> = Vec::new();
    let (began, mut done) = (Instant::now(), 0);
    for round in 1..=rounds {
        if deck.is_empty() {
            deck.extend(ALL);
            chance.shuffle(&mut deck);
        }
        let Some(fault) = deck.pop() else { continue };
        let under_way: Vec<_> = sides.iter().flat_map(|side| side.ask(&mut chance)).collect();
        thread::sleep(Duration::from_millis(40 + chance.below(140) as u64));
        happen(fault, &mut sides, &mut sources, &mut chance).await;
        let mut came = under_way.into_iter().map(|actor| actor.join().expect("an actor says something"));
        for side in &mut sides {
            let live = side.live();
            let lost = |actor: &Actor| fault == Fault::Journal && !live.iter().any(|(_, lease)| *lease == actor.lease());
            let came = came.by_ref().take(AT_ONCE).filter(|actor| actor.first["status"] == 201 && !lost(actor));
            side.holders.extend(came);
            while side.holders.len() > KEPT {
                side.holders.swap_remove(chance.below(side.holders.len())).kill();
            }
        }
        if let Err(why) = agree(&sides, &sources, &format!("site {site}, round {round}, {fault:?}")).await {
            // What is left over is counted and reported before the test fails by it.
            eprintln!("{why}");
            break;
        }
        done = round;
        if round % 10 == 0 {
            sources.bao.forget_audit();
            eprintln!("site {site}: round {round} of {rounds}, {} s", began.elapsed().as_secs());
        }
    }
    let mut counts = Counts { rounds: done, ..Counts::default() };
    for side in &sides {
        counts.add(side, &sources).await;
    }
    Some(counts)
}

/// What was seen in all.
#[derive(Default, serde::Serialize)]
struct Counts {
    rounds: u32,
    issued: u64,
    ended: u64,
    live: u64,
    upstream: u64,
    orphans: u64,
}

impl Counts {
    fn and(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            issued: self.issued + other.issued,
            ended: self.ended + other.ended,
            live: self.live + other.live,
            upstream: self.upstream + other.upstream,
            orphans: self.orphans + other.orphans,
        }
    }

    async fn add(&mut self, side: &Side, sources: &Sources) {
        let ids = |kind: &str| -> BTreeSet<String> {
            side.host.records_of(kind).iter().filter_map(|record| record["lease"].as_str().map(str::to_owned)).collect()
        };
        let (issued, ended, ours) = (ids("issue"), ids("end"), side.live());
        let there = side.upstream(sources).await;
        let open: BTreeSet<String> = ours.iter().map(|(_, lease)| lease.clone()).collect();
        let neither: Vec<&String> = issued.iter().filter(|id| !ended.contains(*id) && !open.contains(*id)).collect();
        assert!(neither.is_empty(), "neither live nor ended on the record: {neither:?}");
        self.ended += ended.intersection(&issued).count() as u64;
        self.issued += issued.len() as u64;
        self.live += ours.len() as u64;
        self.upstream += there.len() as u64;
        self.orphans += there.difference(&ours).count() as u64;
        let verified = Command::new(env!("CARGO_BIN_EXE_clav")).args(["audit", "verify", &side.host.path("audit")]).output();
        let verified = verified.expect("clav starts");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}
