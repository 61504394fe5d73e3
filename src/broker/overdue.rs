//! Endings that were given up: tried on, more seldom, for as long as it takes.
//!
//! After so many tries an ending is listed, counted and told, so that somebody looks. That is no reason to leave it at that: when its source is
//! back, or lets us again, however late, what is owed there ends without anybody's doing.

use super::{Broker, turns::Turns};
use crate::model::{EndResult, EngineName, LeaseId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// So many failures one after the other, and the rest of an engine's waits for the next turn, which begins with them.
const IN_A_ROW: usize = 16;

/// What its source says no to has a turn in so many: it takes a person to mend that.
const SELDOM: u32 = 6;
/// And is over after so many tries that failed.
const REFUSED_EACH: usize = 64;

type Queues = BTreeMap<EngineName, VecDeque<LeaseId>>;

/// What is tried on, by engine, each with the one first that has waited longest. What a source says no to keeps nobody else waiting.
#[derive(Default)]
pub(super) struct Overdue {
    away: Mutex<Queues>,
    refused: Mutex<Queues>,
    /// Whose turn is not over.
    busy: Turns<(EngineName, Why)>,
}

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// Its source could not be asked, as far as is known.
    Away,
    /// Its source says no.
    Refused,
}

impl Overdue {
    pub(super) fn add(&self, engine: &EngineName, lease: LeaseId, why: Why) {
        let mut engines = self.lock(why);
        let queue = engines.entry(engine.clone()).or_default();
        if !queue.contains(&lease) {
            queue.push_back(lease);
        }
    }

    fn next(&self, engine: &EngineName, why: Why) -> Option<LeaseId> {
        let mut engines = self.lock(why);
        let next = engines.get_mut(engine)?.pop_front();
        if next.is_none() {
            engines.remove(engine);
        }
        next
    }

    fn engines(&self, why: Why) -> Vec<(EngineName, usize)> {
        self.lock(why).iter().map(|(engine, queue)| (engine.clone(), queue.len())).collect()
    }

    /// Changed by whole steps; a panic leaves no half of one.
    fn lock(&self, why: Why) -> MutexGuard<'_, Queues> {
        let queues = if why == Why::Away { &self.away } else { &self.refused };
        queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a turn goes.
#[derive(Default)]
struct Failures {
    all: usize,
    in_a_row: usize,
}

impl Failures {
    /// Counts one more try. Whether the rest waits for the next turn.
    fn are_enough(&mut self, why: Why, failed: bool) -> bool {
        self.all += usize::from(failed);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        match why {
            Why::Away => self.in_a_row == IN_A_ROW,
            // One may be refused and the next not: each has its own reason.
            Why::Refused => self.all == REFUSED_EACH,
        }
    }
}

impl Broker {
    /// For ever: a turn now, as a start is an occasion like any other, and one after each pause.
    pub(super) async fn keep_trying(self: Arc<Self>) {
        for turn in 0u32.. {
            for why in [Why::Away, Why::Refused] {
                if why == Why::Refused && turn % SELDOM != SELDOM - 1 {
                    continue;
                }
                for (engine, count) in self.overdue.engines(why) {
                    tokio::spawn(self.clone().try_on(engine, count, why));
                }
            }
            tokio::time::sleep(Duration::from_micros(self.settings.overdue_micros)).await;
        }
    }

    /// One turn for one engine, unless the one before is not over.
    async fn try_on(self: Arc<Self>, engine: EngineName, count: usize, why: Why) {
        let Some(_turn) = self.overdue.busy.take((engine.clone(), why)) else { return };
        let mut failures = Failures::default();
        for _ in 0..count {
            let Some(lease) = self.overdue.next(&engine, why) else { return };
            // Forced or given up for good meanwhile, it is not there, or somebody is at it.
            let Some(tries) = self.tries_of(lease) else { continue };
            let failed = matches!(self.resume(lease, tries).await, Some(EndResult::Irrevocable | EndResult::Retrying));
            if failures.are_enough(why, failed) {
                return;
            }
        }
    }

    fn tries_of(&self, lease: LeaseId) -> Option<u32> {
        match self.leases.find(lease)?.state {
            crate::lease::State::Ending { tries, irrevocable: true, .. } => Some(tries),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_is_next_and_nobody_is_there_twice() {
        let (overdue, engine) = (Overdue::default(), EngineName::parse("pg").unwrap());
        let leases: Vec<LeaseId> = (0..3).map(|n| LeaseId::from_parts(1, n)).collect();
        leases.iter().chain(&leases).for_each(|lease| overdue.add(&engine, *lease, Why::Away));
        assert_eq!((overdue.engines(Why::Away), overdue.engines(Why::Refused)), (vec![(engine.clone(), 3)], vec![]));
        let first = overdue.next(&engine, Why::Away).unwrap();
        overdue.add(&engine, first, Why::Away);
        let rest: Vec<LeaseId> = std::iter::from_fn(|| overdue.next(&engine, Why::Away)).collect();
        assert_eq!(rest, [leases[1], leases[2], leases[0]]);
        assert!(overdue.engines(Why::Away).is_empty());
    }

    #[test]
    fn a_turn_is_over_after_failures_and_not_after_tries() {
        let tried = |why, failed: fn(usize) -> bool| {
            let mut failures = Failures::default();
            (0..1_000).find(|n| failures.are_enough(why, failed(*n)))
        };
        assert_eq!(tried(Why::Refused, |_| true), Some(REFUSED_EACH - 1));
        assert_eq!(tried(Why::Refused, |n| n % 2 == 1), Some(2 * REFUSED_EACH - 1));
        assert_eq!(tried(Why::Away, |_| true), Some(IN_A_ROW - 1));
        for why in [Why::Away, Why::Refused] {
            assert_eq!(tried(why, |n| n % IN_A_ROW == 0), None, "what comes through goes on");
        }
    }
}
