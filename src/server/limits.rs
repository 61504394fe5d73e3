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
    /// Open connections of all uids together; those that no identity names have half of them at most.
    pub connections_total: u32,
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

/// Whether the registry names a uid. One person may have 65,536 others (`subuid(5)`); those share what is left.
pub(super) type Named = Box<dyn Fn(u32) -> bool + Send + Sync>;

/// Counts for every uid that has been seen lately.
pub(super) struct Limits {
    settings: LimitSettings,
    clock: Arc<dyn Clock>,
    named: Named,
    uids: Mutex<Uids>,
}

#[derive(Default)]
struct Uids {
    each: HashMap<u32, Usage>,
    open: u32,
    strangers: u32,
}

/// Uids that are remembered.
const UIDS: usize = 4096;

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
    fn is_full(&self, rate: u32, burst: u32, now: u64) -> bool {
        let gained = now.saturating_sub(self.at).saturating_mul(u64::from(rate)) / 1000;
        self.tokens + gained >= u64::from(rate) * u64::from(burst) * 1000
    }

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
    stranger: bool,
}

impl Limits {
    pub(super) fn new(settings: LimitSettings, clock: Arc<dyn Clock>, named: Named) -> Arc<Self> {
        Arc::new(Self { settings, clock, named, uids: Mutex::default() })
    }

    pub(super) fn settings(&self) -> &LimitSettings {
        &self.settings
    }

    fn lock(&self) -> MutexGuard<'_, Uids> {
        // Counts stay what they were; a panic cannot happen between two of them.
        self.uids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection, unless this uid has too many or makes them too fast, or there are too many of all.
    pub(super) fn connect(self: &Arc<Self>, uid: u32) -> Option<Place> {
        let (settings, now) = (&self.settings, self.clock.boot().0);
        let (rate, burst) = (settings.connections_per_second, settings.burst_seconds);
        let stranger = uid != 0 && !(self.named)(uid);
        let uids = &mut *self.lock();
        if uids.each.len() >= UIDS && !uids.each.contains_key(&uid) {
            // Whoever has nothing open and has its full share again is as good as new.
            uids.each.retain(|_, usage| usage.open > 0 || !usage.is_rested(settings, now));
            if uids.each.len() >= UIDS && stranger {
                return None;
            }
        }
        if uids.open >= settings.connections_total || (stranger && uids.strangers >= settings.connections_total / 2) {
            return None;
        }
        let usage = uids.each.entry(uid).or_insert_with(|| Usage {
            open: 0,
            connections: Bucket::full(rate, burst, now),
            requests: Bucket::full(settings.requests_per_second, burst, now),
        });
        if (usage.open >= settings.connections && !crate::mutation!("connections-of-uid")) || !usage.connections.take(rate, burst, now) {
            return None;
        }
        usage.open += 1;
        uids.open += 1;
        uids.strangers += u32::from(stranger);
        Some(Place { limits: self.clone(), uid, stranger })
    }
}

impl Usage {
    fn is_rested(&self, settings: &LimitSettings, now: u64) -> bool {
        let burst = settings.burst_seconds;
        self.connections.is_full(settings.connections_per_second, burst, now)
            && self.requests.is_full(settings.requests_per_second, burst, now)
    }
}

impl Place {
    /// Whether this uid may make one more request now.
    pub(super) fn request(&self) -> bool {
        let (settings, now) = (&self.limits.settings, self.limits.clock.boot().0);
        let mut uids = self.limits.lock();
        uids.each.get_mut(&self.uid).is_some_and(|usage| usage.requests.take(settings.requests_per_second, settings.burst_seconds, now))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut uids = self.limits.lock();
        uids.open -= 1;
        uids.strangers -= u32::from(self.stranger);
        if let Some(usage) = uids.each.get_mut(&self.uid) {
            usage.open -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    fn settings() -> LimitSettings {
        let second = Duration::from_secs(1);
        LimitSettings {
            connections: 3,
            connections_total: 8,
            connections_per_second: 2,
            requests_per_second: 10,
            burst_seconds: 2,
            request: second,
            idle: second,
            answer: second,
        }
    }

    fn limits() -> (Arc<Limits>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(0, 0));
        (Limits::new(settings(), clock.clone(), Box::new(|uid| uid < 10)), clock)
    }

    #[test]
    fn many_strange_uids_leave_room_for_those_that_are_named() {
        let (limits, clock) = limits();
        let strangers: Vec<Place> = (100..200).filter_map(|uid| limits.connect(uid)).collect();
        assert_eq!(strangers.len(), 4, "half of all");
        let named: Vec<Place> = (1..10).filter_map(|uid| limits.connect(uid)).collect();
        assert_eq!(named.len(), 4, "the rest, and not one more");
        drop(strangers);
        drop(named);
        assert_eq!(limits.lock().open, 0);
        // A new uid for every connection does not make others forget their limits.
        while limits.connect(1).is_some() {}
        for uid in 1_000..9_000 {
            drop(limits.connect(uid));
        }
        assert!(limits.lock().each.len() <= UIDS);
        assert!(limits.connect(1).is_none(), "its bucket is empty still");
        assert!(limits.connect(9_999).is_none(), "nobody is forgotten in a hurry");
        clock.advance(10_000_000);
        assert!(limits.connect(9_999).is_some() && limits.connect(1).is_some());
    }

    #[test]
    fn one_uid_never_takes_anothers_share() {
        let (limits, clock) = limits();
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
