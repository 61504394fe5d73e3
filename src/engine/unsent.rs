//! Issues of which nothing went out: whoever settles them need not ask a source that may be away for hours.

use crate::model::LeaseId;
use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// More are not kept in mind: the source is asked about them.
const MOST: usize = 4096;

/// The leases whose issue was over before its source was asked anything for them. Each is told once, and all are forgotten with the process: who
/// is told nothing asks the source, which is always right as well.
#[derive(Default)]
pub(super) struct Unsent(Mutex<HashSet<LeaseId>>);

/// An issue that has sent nothing yet. It is noted when this is dropped, also by a deadline: what is dropped sends nothing later.
#[must_use = "the issue is over when it is dropped"]
pub(super) struct Quiet<'a> {
    unsent: &'a Unsent,
    lease: LeaseId,
    owes: bool,
}

impl Unsent {
    /// An issue begins.
    pub(super) fn begin(&self, lease: LeaseId) -> Quiet<'_> {
        Quiet { unsent: self, lease, owes: false }
    }

    /// Nothing of this lease's issue went out, and nothing will.
    pub(super) fn note(&self, lease: LeaseId) {
        let mut leases = self.leases();
        if leases.len() < MOST {
            leases.insert(lease);
        }
    }

    /// Whether it is certain that the source was asked nothing for it.
    pub(super) fn take(&self, lease: LeaseId) -> bool {
        self.leases().remove(&lease)
    }

    /// Held for a line that cannot leave it half changed.
    fn leases(&self) -> MutexGuard<'_, HashSet<LeaseId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Quiet<'_> {
    /// From here on something may be owed: the source may know of it, or a value that was there is given.
    pub(super) fn owes(mut self) {
        self.owes = !crate::mutation!("unsent-late");
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if !self.owes {
            self.unsent.note(self.lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(number: u128) -> LeaseId {
        LeaseId::from_parts(1, number)
    }

    #[test]
    fn each_is_told_once_and_what_is_too_much_is_asked_about() {
        let unsent = Unsent::default();
        assert!(!unsent.take(lease(0)));
        (0..=MOST as u128).for_each(|number| unsent.note(lease(number)));
        assert!(unsent.take(lease(0)) && !unsent.take(lease(0)));
        assert!(!unsent.take(lease(MOST as u128)));
        unsent.note(lease(MOST as u128));
        assert!(unsent.take(lease(MOST as u128)));
    }

    #[tokio::test]
    async fn a_deadline_that_comes_before_anything_is_sent_is_noted_and_none_that_comes_after() {
        let (unsent, short) = (Unsent::default(), std::time::Duration::from_millis(20));
        for sends in [false, true] {
            let issue = async {
                let quiet = unsent.begin(lease(u128::from(sends)));
                if sends {
                    quiet.owes();
                    return std::future::pending::<()>().await;
                }
                std::future::pending::<()>().await;
                quiet.owes();
            };
            assert!(tokio::time::timeout(short, issue).await.is_err());
            assert_eq!(unsent.take(lease(u128::from(sends))), !sends);
        }
    }
}
