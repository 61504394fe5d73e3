//! What a source does not want to be asked again for a while, by what it was asked.

use super::Method;
use crate::{model::BootTime, sys::Clock};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The longest that is kept to at a time: then the source is asked once more, and may say so again. A dead holder's credential waits no longer
/// for a slip in somebody's header.
const LONGEST: Duration = Duration::from_secs(300);

/// Places that are remembered at a time; of more than these the source has to say so each time.
const MANY: usize = 256;

/// The places that a source asked us to leave alone (RFC 9110, 10.2.3). One place's limit says nothing of another's.
pub(super) struct Waits {
    clock: Arc<dyn Clock>,
    until: Mutex<HashMap<(Method, String), BootTime>>,
}

impl Waits {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// How long this is not to be asked yet.
    pub(super) fn left(&self, method: Method, path: &str) -> Option<Duration> {
        if crate::mutation!("retry-after") {
            return None;
        }
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        // Nearly always.
        if until.is_empty() {
            return None;
        }
        let until = until.get(&(method, path.to_owned()))?;
        let left = until.since(self.clock.boot());
        (left > 0).then(|| Duration::from_micros(left))
    }

    /// The source said how long this is not to be asked.
    pub(super) fn note(&self, method: Method, path: &str, after: Duration) {
        let now = self.clock.boot();
        let mut all = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, until| *until > now);
        if all.len() < MANY {
            let micros = u64::try_from(after.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
            all.insert((method, path.to_owned()), BootTime(now.0.saturating_add(micros)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    #[test]
    fn what_is_asked_for_is_kept_to_for_the_same_call_and_not_for_ever() {
        let clock = Arc::new(ManualClock::new(1_000_000, 0));
        let waits = Waits::new(clock.clone());
        assert_eq!(waits.left(Method::Post, "/a"), None);
        waits.note(Method::Post, "/a", Duration::from_secs(7));
        assert_eq!(waits.left(Method::Post, "/a"), Some(Duration::from_secs(7)));
        assert_eq!((waits.left(Method::Get, "/a"), waits.left(Method::Post, "/b")), (None, None));
        clock.advance(7_000_000);
        assert_eq!(waits.left(Method::Post, "/a"), None);
        waits.note(Method::Post, "/a", Duration::from_secs(86_400));
        assert_eq!(waits.left(Method::Post, "/a"), Some(LONGEST));
        // Whoever answers cannot fill the memory with places.
        (0..2 * MANY).for_each(|n| waits.note(Method::Get, &n.to_string(), LONGEST));
        assert_eq!(waits.until.lock().unwrap().len(), MANY);
    }
}
