//! What a program may still be making, by name, so that nobody says too early that there is nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// Calls to make something, in a time that stands still while the host sleeps (`CLOCK_MONOTONIC`), like the one by which systemd limits the
/// life of a program.
pub(super) struct OpenCalls {
    /// Before this, another daemon may have asked.
    since: Instant,
    /// How long after it was asked a program lives at most.
    longest: Duration,
    calls: Mutex<HashMap<String, (Instant, State)>>,
}

/// How far a call has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// The program knows what it is to make.
    Asked,
    /// It has ended.
    Over,
    /// It was not reached.
    Never,
}

/// So many are remembered before those that no longer matter are looked for.
const MANY: usize = 64;

impl OpenCalls {
    pub(super) fn new(longest: Duration, now: Instant) -> Self {
        Self { since: now, longest, calls: Mutex::default() }
    }

    /// Somebody wants something made; the program has not been reached yet.
    pub(super) fn want(&self, name: &str, now: Instant) {
        let mut calls = self.lock();
        if calls.len() >= MANY {
            // What is not known counts as another daemon's, and those have ended by then.
            calls.retain(|_, (at, _)| now < *at + self.longest || now < self.since + self.longest);
        }
        calls.insert(name.to_owned(), (now, State::Never));
    }

    /// The program is about to be told.
    pub(super) fn begin(&self, name: &str, now: Instant) {
        self.lock().insert(name.to_owned(), (now, State::Asked));
    }

    /// The program has ended.
    pub(super) fn end(&self, name: &str, now: Instant) {
        self.lock().insert(name.to_owned(), (now, State::Over));
    }

    /// Whether it is certain that no program was ever asked.
    pub(super) fn is_never(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|(_, state)| *state == State::Never)
    }

    /// The moment from which no program makes anything of this name, if that is still to come.
    pub(super) fn over_at(&self, name: &str, now: Instant) -> Option<Instant> {
        let asked = match self.lock().get(name) {
            Some((_, State::Over | State::Never)) => return None,
            Some((at, State::Asked)) => *at,
            None => self.since,
        };
        Some(asked + self.longest).filter(|over| *over > now)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, State)>> {
        // A panic under the lock leaves the map whole.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_open_until_its_program_ended_or_cannot_live_any_more() {
        let (start, longest) = (Instant::now(), Duration::from_secs(15));
        let at = |seconds| start + Duration::from_secs(seconds);
        let calls = OpenCalls::new(longest, start);
        calls.want("1", at(0));
        assert!(calls.is_never("1") && calls.over_at("1", at(1)).is_none(), "it was not reached");
        calls.begin("1", at(0));
        assert!(!calls.is_never("1"));
        assert_eq!(calls.over_at("1", at(1)), Some(at(15)));
        calls.end("1", at(1));
        assert_eq!(calls.over_at("1", at(1)), None, "it has ended");
        assert_eq!(calls.over_at("2", at(1)), Some(at(15)), "another daemon may have asked");
        assert!(!calls.is_never("2"));
        calls.begin("3", at(10));
        assert_eq!(calls.over_at("2", at(15)), None);
        assert_eq!(calls.over_at("3", at(15)), Some(at(25)), "of this daemon's own it is known");
        assert_eq!(calls.over_at("3", at(25)), None);
    }

    #[test]
    fn what_no_longer_matters_is_forgotten() {
        let (start, longest) = (Instant::now(), Duration::from_secs(15));
        let calls = OpenCalls::new(longest, start);
        for n in 0..1000u32 {
            let now = start + Duration::from_secs(u64::from(n));
            calls.want(&n.to_string(), now);
            calls.begin(&n.to_string(), now);
            if n % 2 == 0 {
                calls.end(&n.to_string(), now);
            }
            assert!(calls.lock().len() <= MANY);
            let open = n % 2 == 1;
            assert_eq!(calls.over_at(&n.to_string(), now).is_some(), open);
        }
    }
}
