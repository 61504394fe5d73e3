//! The leases in memory: the one place where a lease changes its state.

mod shared;

use super::row::{Cause, Ended, Holder, HolderKey, Lease, State};
use crate::model::{BootTime, EndReason, EndResult, IdentityName, LeaseId, RequestId, WallTime};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Ended leases that are remembered, at most.
const REMEMBERED: usize = 10_000;

/// Every lease that is not over, with the indexes that are needed on the request path.
#[derive(Default)]
pub(super) struct Table(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    leases: BTreeMap<LeaseId, Entry>,
    by_holder: HashMap<HolderKey, HashSet<LeaseId>>,
    by_identity: HashMap<IdentityName, usize>,
    by_deadline: BTreeSet<(BootTime, LeaseId)>,
    by_key: HashMap<(IdentityName, String), LeaseId>,
    /// Those who have another lease's credential, by that lease.
    by_credential: HashMap<LeaseId, HashSet<LeaseId>>,
    /// Credentials that somebody has still and an operator wants dead: nobody else gets them.
    withdrawn: HashSet<LeaseId>,
    ended: VecDeque<Ended>,
    /// Leases that somebody is ending right now.
    taken: HashSet<LeaseId>,
}

struct Entry {
    lease: Arc<Lease>,
    reads: u64,
    decided: Option<u64>,
}

/// Why a lease's value is not read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRead {
    /// Every use that was granted was made.
    Uses,
    /// As often as its secret allows, or the lease is gone.
    Reads,
}

impl Entry {
    /// Whether the value may be read once more. The delivery that made the lease was its first use.
    fn has_read(&self) -> Result<(), NoRead> {
        if self.lease.has_counted_uses() && self.reads + 1 >= self.lease.uses && !crate::mutation!("uses-uncounted") {
            return Err(NoRead::Uses);
        }
        if self.reads >= self.lease.reads_max { Err(NoRead::Reads) } else { Ok(()) }
    }
}

/// The right to end one lease: given out once, and again after a try that failed ([`Table::postpone`]).
#[must_use]
pub struct Ending {
    lease: Arc<Lease>,
    cause: Cause,
    since: WallTime,
    was_reserved: bool,
    others: usize,
}

/// The identity's key against repetition is another lease's.
pub(super) struct KeyTaken;

impl Ending {
    /// The lease as it was.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
    /// Why it ends.
    pub fn reason(&self) -> EndReason {
        self.cause.reason
    }
    /// The operator's request that asked for it.
    pub fn by(&self) -> Option<RequestId> {
        self.cause.by
    }
    /// When it began to end.
    pub fn since(&self) -> WallTime {
        self.since
    }
    /// It was never committed: there is no reference, only the name that follows from its id. One that joined others has theirs.
    pub fn was_reserved(&self) -> bool {
        self.was_reserved
    }
    /// How many others had the same credential when this began, and have it still: the last of them ends it.
    pub fn others(&self) -> usize {
        self.others
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic between two of the short steps below would leave an index behind the map, which only costs a look-up.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn load(&self, leases: impl IntoIterator<Item = Lease>, ended: Vec<Ended>) {
        let mut inner = self.lock();
        for lease in leases {
            let id = lease.id;
            inner.insert(Arc::new(lease));
            // How many uses were made is not in the journal: none is left.
            if let Some(entry) = inner.leases.get_mut(&id).filter(|entry| entry.lease.has_counted_uses()) {
                entry.reads = entry.lease.uses;
            }
        }
        inner.ended.extend(ended);
        while inner.ended.len() > REMEMBERED {
            inner.ended.pop_front();
        }
    }

    /// Adds a reservation, unless the identity's key against repetition is taken.
    pub(super) fn reserve(&self, lease: Arc<Lease>) -> bool {
        let mut inner = self.lock();
        let taken = inner.is_key_taken(&lease);
        if !taken {
            inner.insert(lease);
        }
        !taken
    }

    /// Makes a reservation a lease, unless its credential is to be dead. Under the lock, so whoever withdraws it sees either all who have it or
    /// keeps it from the others.
    pub(super) fn put_live(&self, lease: Arc<Lease>) -> bool {
        let mut inner = self.lock();
        let withdrawn = inner.withdrawn.contains(&lease.credential());
        if !withdrawn {
            inner.insert(lease);
        }
        !withdrawn
    }

    /// Takes back a lease that never came to be.
    pub(super) fn forget(&self, id: LeaseId) {
        self.lock().remove(id);
    }

    pub(super) fn find(&self, id: LeaseId) -> Option<Arc<Lease>> {
        self.lock().leases.get(&id).map(|entry| entry.lease.clone())
    }

    pub(super) fn find_ended(&self, id: LeaseId) -> Option<Ended> {
        self.lock().ended.iter().rev().find(|ended| ended.id == id).cloned()
    }

    pub(super) fn known(&self) -> (HashSet<LeaseId>, bool) {
        let inner = self.lock();
        let ids = inner.leases.keys().copied().chain(inner.ended.iter().map(|ended| ended.id)).collect();
        (ids, inner.ended.len() < REMEMBERED)
    }

    pub(super) fn find_key(&self, identity: &IdentityName, key: &str) -> Option<Arc<Lease>> {
        let inner = self.lock();
        let id = inner.by_key.get(&(identity.clone(), key.to_owned()))?;
        inner.leases.get(id).map(|entry| entry.lease.clone())
    }

    /// Gives a live lease other times; `None` when it is live no more. Under the lock, so an end that began is never undone.
    pub(super) fn extend(&self, id: LeaseId, expires: WallTime, deadline: BootTime) -> Option<Arc<Lease>> {
        let mut inner = self.lock();
        let lease = inner.leases.get(&id)?.lease.clone();
        if lease.state != State::Live {
            return None;
        }
        let extended = Arc::new(Lease { expires, deadline, ..Lease::clone(&lease) });
        inner.replace(extended.clone());
        Some(extended)
    }

    /// Whether a lease has a read left.
    pub(super) fn has_read(&self, id: LeaseId) -> bool {
        self.lock().leases.get(&id).is_some_and(|entry| entry.has_read().is_ok())
    }

    /// Counts one more read of a lease, unless it has none left.
    pub(super) fn count_read(&self, id: LeaseId) -> Result<(), NoRead> {
        let mut inner = self.lock();
        let entry = inner.leases.get_mut(&id).ok_or(NoRead::Reads)?;
        entry.has_read().map(|()| entry.reads += 1)
    }

    /// Counts one more read of a lease that is live until after `now`, has reads and uses left, and that policy of this generation allows;
    /// `None` when any of that is not so.
    pub(super) fn read(&self, id: LeaseId, generation: u64, now: BootTime) -> Option<Arc<Lease>> {
        let mut inner = self.lock();
        let entry = inner.leases.get_mut(&id)?;
        let lease = &entry.lease;
        let live = lease.state == State::Live && lease.deadline > now;
        (live && entry.decided == Some(generation) && entry.has_read().is_ok()).then(|| {
            entry.reads += 1;
            entry.lease.clone()
        })
    }

    /// A read that was counted did not come about.
    pub(super) fn uncount_read(&self, id: LeaseId) {
        if let Some(entry) = self.lock().leases.get_mut(&id) {
            entry.reads = entry.reads.saturating_sub(1);
        }
    }

    /// Notes that policy of this generation allows a lease.
    pub(super) fn note_decided(&self, id: LeaseId, generation: u64) {
        if let Some(entry) = self.lock().leases.get_mut(&id) {
            entry.decided = Some(generation);
        }
    }

    pub(super) fn is_decided(&self, id: LeaseId, generation: u64) -> bool {
        self.lock().leases.get(&id).is_some_and(|entry| entry.decided == Some(generation))
    }

    /// The same holder as a live lease has it already, or this one: a holder of many leases is kept once.
    pub(super) fn share(&self, holder: Holder) -> Arc<Holder> {
        let inner = self.lock();
        let known = inner.by_holder.get(&holder.key()).and_then(|ids| inner.leases.get(ids.iter().next()?));
        known.filter(|entry| *entry.lease.holder == holder).map_or_else(|| Arc::new(holder), |entry| entry.lease.holder.clone())
    }

    pub(super) fn of_holder(&self, key: &HolderKey) -> Vec<Arc<Lease>> {
        let inner = self.lock();
        let ids = inner.by_holder.get(key).into_iter().flatten();
        ids.filter_map(|id| inner.leases.get(id)).map(|entry| entry.lease.clone()).collect()
    }

    pub(super) fn each(&self, mut of_lease: impl FnMut(&Lease), of_ended: impl FnMut(&Ended)) {
        let inner = self.lock();
        inner.leases.values().for_each(|entry| of_lease(&entry.lease));
        inner.ended.iter().for_each(of_ended);
    }

    pub(super) fn all(&self) -> Vec<Arc<Lease>> {
        self.lock().leases.values().map(|entry| entry.lease.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().leases.len()
    }

    pub(super) fn count_of(&self, identity: &IdentityName) -> usize {
        self.lock().by_identity.get(identity).copied().unwrap_or(0)
    }

    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        self.lock().by_deadline.first().map(|(at, _)| *at)
    }

    pub(super) fn due(&self, now: BootTime) -> Vec<LeaseId> {
        self.lock().by_deadline.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// Begins the end of a lease. Exactly one caller gets it; a lease that is ending already has its ender. A reservation is ended by
    /// its own pipeline only: while the engine may be at work, nobody else can know when there is something to end.
    pub(super) fn begin_end(&self, id: LeaseId, cause: Cause, at: WallTime) -> Option<Ending> {
        let mut inner = self.lock();
        let lease = inner.leases.get(&id)?.lease.clone();
        let was_reserved = match lease.state {
            State::Reserved if cause.reason == EndReason::Unfinished => lease.shares.is_none(),
            State::Live => false,
            State::Reserved | State::Ending { .. } => return None,
        };
        let state = State::Ending { reason: cause.reason, by: cause.by, since: at, tries: 0, irrevocable: false };
        inner.replace(Arc::new(Lease { state, ..Lease::clone(&lease) }));
        inner.taken.insert(id);
        // Now that it counts no more: of several that end at once, the last one sees nobody.
        let others = inner.users(lease.credential()).count();
        if others > 0 && cause.reason == EndReason::Operator && !crate::mutation!("share-withdrawn") {
            inner.withdrawn.insert(lease.credential());
        }
        Some(Ending { lease, cause, since: at, was_reserved, others })
    }

    /// Takes up an end that did not come through before, unless somebody is at it.
    pub(super) fn resume_end(&self, id: LeaseId) -> Option<Ending> {
        let mut inner = self.lock();
        let lease = inner.leases.get(&id)?.lease.clone();
        let State::Ending { reason, by, since, .. } = lease.state else { return None };
        if !inner.taken.insert(id) {
            return None;
        }
        let (was_reserved, others) = (lease.reference.0.is_empty(), inner.users(lease.credential()).count());
        Some(Ending { lease, cause: Cause { reason, by }, since, was_reserved, others })
    }

    /// A try to end it failed. The new state is returned for the journal.
    pub(super) fn postpone(&self, id: LeaseId, tries: u32, irrevocable: bool) -> Option<Arc<Lease>> {
        let mut inner = self.lock();
        let lease = inner.leases.get(&id)?.lease.clone();
        let State::Ending { reason, by, since, .. } = lease.state else { return None };
        let lease = Arc::new(Lease { state: State::Ending { reason, by, since, tries, irrevocable }, ..Lease::clone(&lease) });
        inner.replace(lease.clone());
        inner.taken.remove(&id);
        Some(lease)
    }

    /// The lease is over.
    pub(super) fn end(&self, ending: &Ending, result: EndResult, at: WallTime) -> Ended {
        let lease = &ending.lease;
        let ended = Ended {
            id: lease.id,
            identity: lease.identity.clone(),
            secret: lease.secret.clone(),
            holder: lease.holder.clone(),
            reason: ending.cause.reason,
            result,
            at,
        };
        let mut inner = self.lock();
        inner.remove(lease.id);
        if inner.users(lease.credential()).next().is_none() {
            inner.withdrawn.remove(&lease.credential());
        }
        inner.taken.remove(&lease.id);
        inner.ended.push_back(ended.clone());
        if inner.ended.len() > REMEMBERED {
            inner.ended.pop_front();
        }
        ended
    }
}

impl Inner {
    fn is_key_taken(&self, lease: &Lease) -> bool {
        lease.idempotency.as_ref().is_some_and(|known| self.by_key.contains_key(&(lease.identity.clone(), known.0.clone())))
    }

    fn insert(&mut self, lease: Arc<Lease>) {
        self.unlink(lease.id);
        self.by_holder.entry(lease.holder.key()).or_default().insert(lease.id);
        *self.by_identity.entry(lease.identity.clone()).or_default() += 1;
        if lease.state == State::Live {
            self.by_deadline.insert((lease.deadline, lease.id));
        }
        if let Some(key) = lease.idempotency.as_deref().map(|known| &known.0) {
            self.by_key.insert((lease.identity.clone(), key.clone()), lease.id);
        }
        if let Some(credential) = lease.shares {
            self.by_credential.entry(credential).or_default().insert(lease.id);
        }
        let (reads, decided) = self.leases.get(&lease.id).map_or((0, None), |entry| (entry.reads, entry.decided));
        self.leases.insert(lease.id, Entry { lease, reads, decided });
    }

    fn replace(&mut self, lease: Arc<Lease>) {
        self.insert(lease);
    }

    fn remove(&mut self, id: LeaseId) {
        self.unlink(id);
        self.leases.remove(&id);
    }

    fn unlink(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id).map(|entry| entry.lease.clone()) else { return };
        let key = lease.holder.key();
        if let Some(ids) = self.by_holder.get_mut(&key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_holder.remove(&key);
            }
        }
        if let Some(count) = self.by_identity.get_mut(&lease.identity) {
            *count -= 1;
            if *count == 0 {
                self.by_identity.remove(&lease.identity);
            }
        }
        self.by_deadline.remove(&(lease.deadline, id));
        if let Some(credential) = lease.shares
            && let Some(ids) = self.by_credential.get_mut(&credential)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_credential.remove(&credential);
            }
        }
        if let Some(key) = lease.idempotency.as_deref().map(|known| &known.0) {
            self.by_key.remove(&(lease.identity.clone(), key.clone()));
        }
    }
}
