//! After a failed connection nobody tries again for a while.

use crate::{model::BootTime, sys::Clock};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// 100 ms after the first failure in a row, then twice as long each time, up to 5 s.
pub struct Setback {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    until: Option<BootTime>,
}

impl Setback {
    /// Nothing has failed yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, state: Mutex::default() }
    }

    /// Whether it is too early for another try.
    pub fn is_waiting(&self) -> bool {
        self.state().until.is_some_and(|until| self.clock.boot() < until)
    }

    /// What became of a try.
    pub fn note(&self, failed: bool) {
        let mut state = self.state();
        if !failed {
            *state = State::default();
            return;
        }
        let millis = (100_u64 << state.failures.min(6)).min(5_000);
        state.failures = state.failures.saturating_add(1);
        state.until = Some(BootTime(self.clock.boot().0.saturating_add(millis * 1_000)));
    }

    /// Held for a few lines that cannot leave the state half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
