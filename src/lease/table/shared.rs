//! Leases that have one credential together: who has it, who may join, and which one an operator wants dead.

use super::{Inner, KeyTaken, Table};
use crate::{
    engine::UpstreamRef,
    lease::{Lease, State},
    model::{BootTime, LeaseId, WallTime},
};
use std::{collections::HashSet, sync::Arc};

impl Table {
    /// Adds a reservation beside a live lease with the same credential, with that one's reference; `None` when none has half of the time
    /// left that is wanted.
    pub(in crate::lease) fn join(&self, lease: Lease, now: BootTime) -> Option<Result<(Lease, UpstreamRef), KeyTaken>> {
        let mut inner = self.lock();
        if inner.withdrawn.contains(&lease.credential()) {
            return None;
        }
        let live = inner.users(lease.credential()).filter(|other| other.state == State::Live);
        let longest = live.max_by_key(|other| other.deadline)?.clone();
        if longest.deadline.since(now) < u64::from(lease.ttl.as_secs()) * 500_000 {
            return None;
        }
        if inner.is_key_taken(&lease) {
            return Some(Err(KeyTaken));
        }
        let (expires, deadline) = (lease.expires.min(longest.expires), lease.deadline.min(longest.deadline));
        // With the reference, by which it is ended if it is the last and never becomes a lease.
        let lease = Lease { expires, deadline, reference: longest.reference.clone(), ..lease };
        inner.insert(Arc::new(lease.clone()));
        Some(Ok((lease, longest.reference.clone())))
    }

    pub(in crate::lease) fn withdraw(&self, credentials: &HashSet<LeaseId>) {
        let inner = &mut *self.lock();
        let used: Vec<LeaseId> = credentials.iter().copied().filter(|credential| inner.users(*credential).next().is_some()).collect();
        inner.withdrawn.extend(used);
    }

    /// Whether an operator wants a credential dead that somebody has.
    pub(in crate::lease) fn is_withdrawn(&self, credential: LeaseId) -> bool {
        self.lock().withdrawn.contains(&credential)
    }

    /// One who has this credential, is about to have it, or ends it, as a reservation: whatever becomes of it, a start finds who owes the credential.
    pub(in crate::lease) fn heir(&self, credential: LeaseId) -> Option<Lease> {
        let inner = self.lock();
        let entry = inner.leases.get(inner.having(credential).next()?)?;
        Some(Lease { state: State::Reserved, ..Lease::clone(&entry.lease) })
    }

    pub(in crate::lease) fn longest(&self, credential: LeaseId) -> Option<(WallTime, BootTime)> {
        let inner = self.lock();
        let ends = inner.users(credential).map(|lease| (lease.expires, lease.deadline));
        ends.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)))
    }
}

impl Inner {
    /// All leases of a credential that are not over.
    fn having(&self, credential: LeaseId) -> impl Iterator<Item = &LeaseId> {
        let first = self.leases.get_key_value(&credential).map(|(id, _)| id);
        first.into_iter().chain(self.by_credential.get(&credential).into_iter().flatten())
    }

    /// Who has this credential, or is about to.
    pub(super) fn users(&self, credential: LeaseId) -> impl Iterator<Item = &Arc<Lease>> {
        let all = self.having(credential).filter_map(|id| self.leases.get(id));
        all.map(|entry| &entry.lease).filter(|lease| !matches!(lease.state, State::Ending { .. }))
    }
}
