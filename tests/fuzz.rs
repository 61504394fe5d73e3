//! Every parser under mutated samples, on stable: a fixed seed, and a fuzzer that knows the grammar's words.
//!
//! `CLAVIGER_TEST_FUZZ=N` feeds each N inputs (100,000 without), slow ones a share of it. A parser that cannot take as many in 20 s is given what it can take, and
//! the output says how many that were. `CLAVIGER_TEST_FUZZ_ONLY=http,journal` names parsers, for long runs in parts.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use claviger::digest::{Random, SeededRandom};
use claviger::testing::fuzz::{TARGETS, Target};
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

const SEED: u64 = 20_261_125;
const LONGEST: usize = 32 << 10;
/// Inputs for each parser in the daily run, if they fit.
const CI: u64 = 100_000;

struct Mutator {
    random: SeededRandom,
    samples: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

impl Mutator {
    fn roll(&self, sides: usize) -> usize {
        (self.random.u128() % sides.max(1) as u128) as usize
    }

    fn next(&self) -> Vec<u8> {
        let mut bytes = self.samples[self.roll(self.samples.len())].clone();
        for _ in 0..self.roll(6) {
            let (at, to) = (self.roll(bytes.len() + 1), self.roll(bytes.len() + 1));
            let (from, to) = (at.min(to), at.max(to));
            match self.roll(9) {
                0 if !bytes.is_empty() => {
                    let at = at.min(bytes.len() - 1);
                    bytes[at] ^= 1 << self.roll(8);
                }
                1 if !bytes.is_empty() => {
                    let at = at.min(bytes.len() - 1);
                    bytes[at] = self.roll(256) as u8;
                }
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(from..to.min(from + 40))),
                4 => {
                    let again = bytes[from..to].to_vec();
                    let times = 1 + self.roll(4);
                    drop(bytes.splice(at..at, again.repeat(times)));
                }
                5 => {
                    let other = &self.samples[self.roll(self.samples.len())];
                    let (a, b) = (self.roll(other.len() + 1), self.roll(other.len() + 1));
                    drop(bytes.splice(from..to, other[a.min(b)..a.max(b)].iter().copied()));
                }
                6 => {
                    // Lines in another order, or one of them away.
                    let mut lines: Vec<_> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
                    if lines.len() > 1 {
                        let line = lines.remove(self.roll(lines.len()));
                        if self.roll(3) > 0 {
                            lines.insert(self.roll(lines.len() + 1), line);
                        }
                    }
                    bytes = lines.concat();
                }
                _ => {
                    let word = self.words[self.roll(self.words.len())].as_bytes();
                    let end = if self.roll(2) == 0 { at } else { (at + word.len()).min(bytes.len()) };
                    drop(bytes.splice(at..end, word.iter().copied()));
                }
            }
            bytes.truncate(LONGEST);
        }
        bytes
    }
}

/// How many inputs a parser was fed, how many of them it accepted, and in what time.
fn feed(target: &Target, number: usize, enough: u64) -> (u64, u64, Duration) {
    let samples = (target.samples)();
    assert!(samples.iter().any(|sample| (target.run)(sample)), "{} accepts none of its samples", target.name);
    let mutator = Mutator { random: SeededRandom::new(SEED + number as u64), samples, words: target.words };
    let began = Instant::now();
    let (mut fed, mut accepted) = (0, 0);
    while fed < enough && (began.elapsed() < Duration::from_secs(20) || enough > CI) {
        let bytes = mutator.next();
        match std::panic::catch_unwind(|| (target.run)(&bytes)) {
            Ok(taken) => accepted += u64::from(taken),
            Err(panic) => {
                eprintln!("{} (seed {SEED}, input {fed}): {}", target.name, bytes.escape_ascii());
                std::panic::resume_unwind(panic);
            }
        }
        fed += 1;
    }
    (fed, accepted, began.elapsed())
}

#[test]
fn no_input_breaks_a_parser() {
    let enough = std::env::var("CLAVIGER_TEST_FUZZ").ok().map_or(CI, |text| text.parse().expect("a number of inputs"));
    let only = std::env::var("CLAVIGER_TEST_FUZZ_ONLY").unwrap_or_default();
    let is_wanted = |name: &str| only.is_empty() || only.split(',').any(|wanted| wanted == name);
    let wanted: Vec<(usize, &Target)> = TARGETS.iter().enumerate().filter(|(_, target)| is_wanted(target.name)).collect();
    assert!(!wanted.is_empty(), "there is no parser {only}");
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some((number, target)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
            let enough = if enough > CI { (enough / target.share).max(CI) } else { enough };
            let (fed, accepted, took) = feed(target, number, enough);
            let short = if fed < enough { ", as many as fit in 20 s" } else { "" };
            println!("{:<18} {fed:>8} inputs, {accepted:>7} accepted, {:>6.1} s{short}", target.name, took.as_secs_f64());
            assert!(accepted > 0 && accepted < fed, "{}: {accepted} of {fed} inputs were accepted", target.name);
        }
    };
    println!("seed {SEED}");
    std::thread::scope(|scope| {
        let other = scope.spawn(worker);
        worker();
        other.join().expect("the other thread has said what is wrong");
    });
}

/// Every parser has a target of cargo-fuzz of the same name. With `CLAVIGER_TEST_FUZZ_CORPUS=FOLDER`, the samples are written there, in a
/// folder for each, to begin with.
#[test]
fn cargo_fuzz_has_the_same_targets() {
    let manifest = include_str!("../fuzz/Cargo.toml");
    let mut theirs: Vec<&str> = manifest.split("[[bin]]").skip(1).filter_map(|bin| bin.split('"').nth(1)).collect();
    let mut ours: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    theirs.sort_unstable();
    ours.sort_unstable();
    assert_eq!(theirs, ours);
    let Some(folder) = std::env::var_os("CLAVIGER_TEST_FUZZ_CORPUS") else { return };
    for target in TARGETS {
        let folder = std::path::Path::new(&folder).join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, sample) in (target.samples)().iter().enumerate() {
            std::fs::write(folder.join(format!("sample-{number}")), sample).unwrap();
        }
    }
}
