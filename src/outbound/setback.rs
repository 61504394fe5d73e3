//! After a failed connection nobody tries again for a while.

use crate::{model::BootTime, sys::Clock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// 100 ms after the first failure in a row, then twice as long each time, up to 5 s.
pub struct Setback<E> {
    clock: Arc<dyn Clock>,
    state: Mutex<State<E>>,
}

struct State<E> {
    failures: u32,
    /// Until when nobody tries, and why the last try failed.
    last: Option<(BootTime, E)>,
}

impl<E: Clone> Setback<E> {
    /// Nothing has failed yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::new(State { failures: 0, last: None }) }
    }

    /// Why the last try failed, while it is too early for another.
    pub fn waiting(&self) -> Option<E> {
        let state = self.state();
        let now = self.clock.boot();
        state.last.as_ref().filter(|(until, _)| now < *until).map(|(_, why)| why.clone())
    }

    /// What became of a try: why it failed, if it did.
    pub fn note(&self, failed: Option<E>) {
        let mut state = self.state();
        let Some(why) = failed else {
            *state = State { failures: 0, last: None };
            return;
        };
        let millis = (100_u64 << state.failures.min(6)).min(5_000);
        state.failures = state.failures.saturating_add(1);
        state.last = Some((BootTime(self.clock.boot().0.saturating_add(millis * 1_000)), why));
    }

    /// Held for a few lines that cannot leave the state half changed.
    fn state(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
