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
        let lease = Lease { expires, deadline, ..lease };
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

    pub(in crate::lease) fn longest(&self, credential: LeaseId) -> Option<(WallTime, BootTime)> {
        let inner = self.lock();
        let ends = inner.users(credential).map(|lease| (lease.expires, lease.deadline));
        ends.reduce(|one, other| (one.0.max(other.0), one.1.max(other.1)))
    }
}

impl Inner {
    /// Who has this credential, or is about to.
    pub(super) fn users(&self, credential: LeaseId) -> impl Iterator<Item = &Arc<Lease>> {
        let others = self.by_credential.get(&credential).into_iter().flatten().copied();
        let all = std::iter::once(credential).chain(others).filter_map(|id| self.leases.get(&id));
        all.map(|entry| &entry.lease).filter(|lease| !matches!(lease.state, State::Ending { .. }))
    }
}
