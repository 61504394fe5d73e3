//! Issues of which not a byte went out: whoever settles them need not ask a source that may be away for hours.

use crate::model::LeaseId;
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// More are not kept in mind: the source is asked about them.
const MOST: usize = 4096;

/// The leases whose issue failed before anything was sent to the source. It is forgotten with the process, and each is told once: who is
/// settled then asks the source, which is always right as well.
#[derive(Default)]
pub(super) struct Unsent(Mutex<HashSet<LeaseId>>);

impl Unsent {
    /// Nothing of this lease's issue went out, and nothing will.
    pub(super) fn note(&self, lease: LeaseId) {
        let mut leases = self.leases();
        if leases.len() < MOST {
            leases.insert(lease);
        }
    }

    /// Whether it is certain that the source knows nothing of it.
    pub(super) fn take(&self, lease: LeaseId) -> bool {
        self.leases().remove(&lease)
    }

    /// Held for a line that cannot leave it half changed.
    fn leases(&self) -> MutexGuard<'_, HashSet<LeaseId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_and_what_is_too_much_is_asked_about() {
        let (unsent, lease) = (Unsent::default(), |number: u128| LeaseId::from_parts(1, number));
        assert!(!unsent.take(lease(0)));
        (0..=MOST as u128).for_each(|number| unsent.note(lease(number)));
        assert!(unsent.take(lease(0)) && !unsent.take(lease(0)));
        assert!(!unsent.take(lease(MOST as u128)));
        unsent.note(lease(MOST as u128));
        assert!(unsent.take(lease(MOST as u128)));
    }
}
