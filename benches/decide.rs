//! How long one decision takes: the baseline with 36 and with 1,000 grants, p50 and p99, on one thread.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

#[path = "support/host.rs"]
mod support;

use claviger::{
    attest::{Facts, Workload},
    intent::{Intent, Source as Said},
    model::{Assurance, Channel, WallTime},
    policy::{Decision, Evidence},
};
use std::{hint::black_box, time::Instant};

const ROUNDS: usize = 50_000;

fn main() {
    println!("{:<46} {:>9} {:>9} {:>9}", "one decision", "p50 us", "p99 us", "max us");
    for grants in [36, 1_000] {
        let start = Instant::now();
        let (bundle, registry, catalogue) = support::host(grants, |_| Vec::new());
        println!("{:<46} {:>9.1} ms", format!("load baseline and {grants} grants"), start.elapsed().as_secs_f64() * 1_000.0);
        let now = WallTime::parse("2026-11-23").expect("a date");
        let ask = |identity: usize, assurance, channel| {
            let row = registry.iter().nth(identity).expect("a row").clone();
            let secret = catalogue.iter().nth(identity).expect("a row").clone();
            (Workload::for_test(row, assurance, Facts::default()), Intent::new(secret, channel, Said::Caller, support::claimed()))
        };
        let decide = |(workload, intent): &(Workload, Intent)| bundle.decide(workload, intent, &Evidence::none(), now, false);
        let permit = ask(7, Assurance::Isolated, Channel::Deliver);
        assert!(matches!(decide(&permit), Decision::Permit(_)), "{}", decide(&permit).explain());
        measure(&format!("{grants} grants, permit at confidential"), || decide(&permit));
        let needs = ask(7, Assurance::Uid, Channel::Deliver);
        assert!(matches!(decide(&needs), Decision::Needs(_)));
        measure(&format!("{grants} grants, needs assurance"), || decide(&needs));
        let none = {
            let (workload, _) = ask(8, Assurance::Isolated, Channel::Deliver);
            (workload, permit.1.clone())
        };
        assert!(matches!(decide(&none), Decision::Forbid(_)));
        measure(&format!("{grants} grants, no grant, near misses"), || decide(&none));
    }
}

fn measure(what: &str, decide: impl Fn() -> Decision) {
    for _ in 0..ROUNDS / 10 {
        drop(black_box(decide()));
    }
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            drop(black_box(decide()));
            start.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let at = |share: f64| nanos[((ROUNDS - 1) as f64 * share) as usize] as f64 / 1_000.0;
    println!("{what:<46} {:>9.1} {:>9.1} {:>9.1}", at(0.5), at(0.99), at(1.0));
}
