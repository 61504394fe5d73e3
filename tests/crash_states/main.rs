//! Journal and audit log over a disk that loses, tears and reorders what was not synced: whatever the moment of the crash, what was
//! acknowledged is there, what is over stays over, and the chain verifies.
//!
//! A run drives the real writer through a random workload with failing and full disks; its volume keeps the state after every operation.
//! Many crashes are then tried at random moments of that one run, and one of the states found begins the next run. The workload follows
//! from the seed; where the writer's thread puts its batches' borders depends on the machine too, so a failure prints what it found.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

mod audit;
mod leases;

use claviger::digest::{Random, SeededRandom};
use claviger::sys::{Fault, SimulatedVolume, Volume};
use std::sync::atomic::{AtomicU64, Ordering};

/// Crash states for both together, half each.
fn states() -> u64 {
    std::env::var("CLAVIGER_TEST_CRASH_STATES").ok().map_or(100_000, |text| text.parse().expect("a number of crash states"))
}

/// The seed to begin with, to look at one again.
fn first() -> u64 {
    std::env::var("CLAVIGER_TEST_CRASH_SEED").ok().map_or(0, |text| text.parse().expect("a seed"))
}

/// Crashes at moments of one run.
const CRASHES: usize = 100;

struct Dice(SeededRandom);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(SeededRandom::new(seed))
    }
    /// Below `sides`.
    fn roll(&self, sides: usize) -> usize {
        (self.0.u128() % sides as u128) as usize
    }
    fn one_in(&self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}

/// What a number of runs saw.
#[derive(Debug, Default)]
struct Seen {
    states: u64,
    /// In how many of them something had not been on the disk.
    unsettled: u64,
    /// In how many of them lines were torn.
    torn: u64,
    /// How many calls failed.
    failed: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.states += other.states;
        self.unsettled += other.unsettled;
        self.torn += other.torn;
        self.failed += other.failed;
    }
}

/// Long runs say how far they are each time so many states have been seen.
const PROGRESS: u64 = 500_000;

/// Runs seeds on two threads until enough states were seen.
fn drive(enough: u64, run: impl Fn(u64, &mut Seen) -> Result<(), String> + Sync) -> Seen {
    let (seed, done) = (AtomicU64::new(first()), AtomicU64::new(0));
    let worker = || {
        let mut all = Seen::default();
        while done.load(Ordering::Relaxed) < enough {
            let seed = seed.fetch_add(1, Ordering::Relaxed);
            let mut seen = Seen::default();
            if let Err(what) = run(seed, &mut seen) {
                done.store(enough, Ordering::Relaxed);
                panic!("seed {seed}: {what}");
            }
            let before = done.fetch_add(seen.states, Ordering::Relaxed);
            if before / PROGRESS != (before + seen.states) / PROGRESS {
                println!("{} states, at seed {seed}", before + seen.states);
            }
            all.add(&seen);
        }
        all
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        let mut all = worker();
        all.add(&other.join().expect("the other thread has said what is wrong"));
        all
    })
}

/// Something goes wrong with the disk, or is over.
fn mishap(volume: &SimulatedVolume, dice: &Dice) {
    match dice.roll(60) {
        0 => volume.fail(Fault::Sync(EIO)),
        1 => volume.fail(Fault::Write(EIO)),
        2 => volume.fail(Fault::Write(ENOSPC)),
        3 => {
            volume.fail(Fault::Truncate(EIO));
            volume.fail(Fault::Truncate(EIO));
            volume.fail(Fault::Write(EIO));
        }
        4 => {
            let space = volume.space().expect("a simulated volume knows its room");
            volume.resize(space.total - space.free + dice.roll(2_000) as u64);
        }
        5..=12 => volume.resize(ROOM),
        _ => {}
    }
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const ROOM: u64 = 1 << 30;

#[test]
fn no_crash_loses_a_lease_or_brings_one_back() {
    let seen = drive(states() / 2, |seed, seen| leases::run(seed, false, seen));
    println!("lease journal: {seen:?}");
    assert!(seen.states >= states() / 2 && seen.unsettled * 4 > seen.states && seen.torn * 20 > seen.states && seen.failed > 0, "{seen:?}");
}

#[test]
fn no_crash_loses_a_record_or_breaks_the_chain() {
    let seen = drive(states() / 2, |seed, seen| audit::run(seed, false, seen));
    println!("audit log: {seen:?}");
    assert!(seen.states >= states() / 2 && seen.unsettled * 4 > seen.states && seen.torn * 20 > seen.states && seen.failed > 0, "{seen:?}");
}

#[test]
fn what_a_failure_left_in_the_kernels_memory_is_not_built_upon() {
    let cut = Fault::Truncate(EIO);
    for faults in [vec![Fault::Sync(EIO)], vec![Fault::Sync(EIO), cut, cut], vec![Fault::Write(EIO)], vec![Fault::Write(EIO), cut, cut]] {
        match audit::around_a_failure(&faults) {
            Ok(states) => assert!(states > 200, "{faults:?}: {states} states"),
            Err(what) => panic!("{faults:?}: {what}"),
        }
    }
}

#[test]
fn a_disk_that_acknowledges_before_it_syncs_is_caught() {
    for run in [leases::run as fn(u64, bool, &mut Seen) -> Result<(), String>, audit::run] {
        let caught = (0..20).filter(|seed| run(*seed, true, &mut Seen::default()).is_err()).count();
        assert!(caught >= 18, "only {caught} of 20 runs on a lying disk were noticed");
    }
}
