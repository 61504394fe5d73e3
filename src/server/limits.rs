//! How much one uid may: connections at once, connections and requests a second.

use crate::sys::Clock;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// What is allowed to one uid.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// Open connections.
    pub connections: u32,
    /// New connections a second.
    pub connections_per_second: u32,
    /// Requests a second.
    pub requests_per_second: u32,
    /// How many seconds' worth may come at once.
    pub burst_seconds: u32,
    /// For a request's head and body to arrive.
    pub request: Duration,
    /// For a connection to be idle.
    pub idle: Duration,
    /// For a peer to take its answer.
    pub answer: Duration,
}

/// Counts for every uid that has been seen lately.
pub(super) struct Limits {
    settings: LimitSettings,
    clock: Arc<dyn Clock>,
    uids: Mutex<HashMap<u32, Usage>>,
}

struct Usage {
    open: u32,
    connections: Bucket,
    requests: Bucket,
}

/// A token bucket in thousandths of a token.
struct Bucket {
    tokens: u64,
    at: u64,
}

impl Bucket {
    fn full(rate: u32, burst: u32, now: u64) -> Self {
        Self { tokens: u64::from(rate) * u64::from(burst) * 1000, at: now }
    }

    fn take(&mut self, rate: u32, burst: u32, now: u64) -> bool {
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(rate)) / 1000;
        self.tokens = (self.tokens + gained).min(u64::from(rate) * u64::from(burst) * 1000);
        self.at = now;
        let enough = self.tokens >= 1000;
        self.tokens -= if enough { 1000 } else { 0 };
        enough
    }
}

/// A place for one connection of a uid; given back when dropped.
pub(super) struct Place {
    limits: Arc<Limits>,
    uid: u32,
}

impl Limits {
    pub(super) fn new(settings: LimitSettings, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self { settings, clock, uids: Mutex::default() })
    }

    pub(super) fn settings(&self) -> &LimitSettings {
        &self.settings
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Usage>> {
        // Counts stay what they were; a panic cannot happen between two of them.
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, unless this uid has too many or makes them too fast.
    pub(super) fn connect(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let (settings, now) = (&self.settings, self.clock.boot().0);
        let mut uids = self.lock();
        // Uids that do nothing are forgotten, so the table cannot grow without bound.
        if uids.len() > 4096 {
            uids.retain(|_, usage| usage.open > 0);
        }
        let usage = uids.entry(uid).or_insert_with(|| Usage {
            open: 0,
            connections: Bucket::full(settings.connections_per_second, settings.burst_seconds, now),
            requests: Bucket::full(settings.requests_per_second, settings.burst_seconds, now),
        });
        let allowed =
            usage.open < settings.connections && usage.connections.take(settings.connections_per_second, settings.burst_seconds, now);
        allowed.then(|| {
            usage.open += 1;
            Place { limits: self.clone(), uid }
        })
    }
}

impl Place {
    /// Whether this uid may make one more request now.
    pub(super) fn request(&self) -> bool {
        let (settings, now) = (&self.limits.settings, self.limits.clock.boot().0);
        let mut uids = self.limits.lock();
        uids.get_mut(&self.uid).is_some_and(|usage| usage.requests.take(settings.requests_per_second, settings.burst_seconds, now))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(usage) = self.limits.lock().get_mut(&self.uid) {
            usage.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    #[test]
    fn one_uid_never_takes_anothers_share() {
        let clock = Arc::new(ManualClock::new(0, 0));
        let second = Duration::from_secs(1);
        let settings = LimitSettings {
            connections: 3,
            connections_per_second: 2,
            requests_per_second: 10,
            burst_seconds: 2,
            request: second,
            idle: second,
            answer: second,
        };
        let limits = Limits::new(settings, clock.clone());
        let mut open: Vec<Place> = (0..3).map(|_| limits.connect(1).unwrap()).collect();
        assert!(limits.connect(1).is_none(), "three at once");
        assert!(limits.connect(2).is_some());
        open.pop();
        assert!(
            limits.connect(1).is_some_and(|place| {
                open.push(place);
                true
            }),
            "the fourth token of the burst"
        );
        open.pop();
        assert!(limits.connect(1).is_none(), "no token left");
        clock.advance(500_000);
        assert!(limits.connect(1).is_some());
        let place = &open[0];
        assert_eq!((0..100).filter(|_| place.request()).count(), 20);
        clock.advance(100_000);
        assert_eq!((0..100).filter(|_| place.request()).count(), 1);
    }
}
