//! Endings that were given up: tried on, more seldom, for as long as it takes.
//!
//! After so many tries an ending is listed, counted and told, so that somebody looks. That is no reason to leave it at that: when its source is
//! back, or lets us again, however late, what is owed there ends without anybody's doing.

use super::Broker;
use crate::model::{EndResult, EngineName, LeaseId};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// So many failures one after the other, and the rest of an engine's waits for the next turn, which begins with them.
const IN_A_ROW: usize = 16;

/// What is tried on, by engine, each with the one first that has waited longest.
#[derive(Default)]
pub(super) struct Overdue(Mutex<BTreeMap<EngineName, VecDeque<LeaseId>>>);

impl Overdue {
    pub(super) fn add(&self, engine: &EngineName, lease: LeaseId) {
        let mut engines = self.lock();
        let queue = engines.entry(engine.clone()).or_default();
        if !queue.contains(&lease) {
            queue.push_back(lease);
        }
    }

    fn next(&self, engine: &EngineName) -> Option<LeaseId> {
        let mut engines = self.lock();
        let next = engines.get_mut(engine)?.pop_front();
        if next.is_none() {
            engines.remove(engine);
        }
        next
    }

    fn engines(&self) -> Vec<(EngineName, usize)> {
        self.lock().iter().map(|(engine, queue)| (engine.clone(), queue.len())).collect()
    }

    /// Changed by whole steps; a panic leaves no half of one.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<EngineName, VecDeque<LeaseId>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// For ever: a turn now, as a start is an occasion like any other, and one after each pause.
    pub(super) async fn keep_trying(self: Arc<Self>) {
        loop {
            for (engine, count) in self.overdue.engines() {
                tokio::spawn(self.clone().try_on(engine, count));
            }
            tokio::time::sleep(Duration::from_micros(self.settings.overdue_micros)).await;
        }
    }

    /// One turn for one engine.
    async fn try_on(self: Arc<Self>, engine: EngineName, count: usize) {
        let mut failed = 0;
        for _ in 0..count {
            let Some(lease) = self.overdue.next(&engine) else { return };
            // Forced or given up for good meanwhile, it is not there, or somebody is at it.
            let Some(tries) = self.tries_of(lease) else { continue };
            match self.resume(lease, tries).await {
                Some(EndResult::Irrevocable | EndResult::Retrying) => failed += 1,
                _ => failed = 0,
            }
            if failed == IN_A_ROW {
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
        leases.iter().chain(&leases).for_each(|lease| overdue.add(&engine, *lease));
        assert_eq!(overdue.engines(), [(engine.clone(), 3)]);
        let first = overdue.next(&engine).unwrap();
        overdue.add(&engine, first);
        let rest: Vec<LeaseId> = std::iter::from_fn(|| overdue.next(&engine)).collect();
        assert_eq!(rest, [leases[1], leases[2], leases[0]]);
        assert!(overdue.engines().is_empty());
    }
}
