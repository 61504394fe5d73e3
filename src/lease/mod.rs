//! What is owed back and when: every credential that is out has a lease, and every lease ends.
//!
//! **Contract.** `reserve` writes the debt down before the engine is asked; `commit` before the holder is answered. Where nothing exists
//! upstream both are one row, written at commit; the audit record, synced before a secret leaves, holds the same. A lease is ended by whoever gets its [`Ending`], exactly once, and the ending is carried
//! through by `broker::end` alone. Deadlines are on `CLOCK_BOOTTIME`; the wall clock is for people and for sources.
//!
//! After a crash `open` gives back every lease that is not over: reservations to be settled, live leases to be bound again, endings to
//! be carried on. Nothing committed is forgotten; a reservation may be found that led to nothing.

mod journal;
mod row;
mod table;

#[cfg(test)]
mod tests;

use crate::{
    engine::UpstreamRef,
    model::{BootTime, EndResult, IdentityName, LeaseId, WallTime},
    sys::{
        Volume,
        append::{AppendError, Log, Reserve, Room, Sync},
    },
};
use futures_util::future::join_all;
use journal::{Event, Journal};
use std::{collections::HashSet, sync::Arc};
use tokio::sync::Notify;

pub use journal::{FORMAT, JournalError};
pub use row::{Cause, Ended, Holder, HolderGroup, HolderKey, Lease, State};
pub use table::{Ending, NoRead};

/// Rows that wait for the journal together, at most, of one act.
const MANY: usize = 1_024;

/// A reserved place for one lease: the debt, before there is anything to pay back.
#[must_use]
pub struct Slot {
    lease: Lease,
    written: bool,
    joined: Option<UpstreamRef>,
}

impl Slot {
    /// The lease to be.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// The reference of the credential that is shared; nothing is to be made then.
    pub fn joined(&self) -> Option<&UpstreamRef> {
        self.joined.as_ref()
    }
}

/// What was found at start.
#[derive(Default)]
pub struct Recovered {
    /// Reserved and never committed: may exist upstream.
    pub reserved: Vec<Arc<Lease>>,
    /// Live when the daemon stopped.
    pub live: Vec<Arc<Lease>>,
    /// Ending when it stopped.
    pub ending: Vec<Arc<Lease>>,
    /// Live by a journal that is known to be an older copy: an operator goes on with it, and they end.
    pub given_up: Vec<Arc<Lease>>,
    /// Lines of a torn tail, not yet synced, that were left out.
    pub torn: usize,
}

/// All leases, in memory and in the journal.
pub struct Leases {
    table: Arc<table::Table>,
    log: Log<Journal>,
    changed: Notify,
}

/// Why there is no place for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReserveError {
    /// A request with the same key against repetition is on its way.
    #[error("a request with this idempotency key is being answered")]
    KeyTaken,
    /// The journal.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// Why a reservation did not become a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// An operator wants the credential dead.
    #[error("an operator ended the leases of this credential")]
    Withdrawn,
    /// The journal.
    #[error(transparent)]
    Journal(#[from] AppendError),
}

/// The end could not be carried through yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postponed {
    /// Failed tries so far.
    pub tries: u32,
    /// Given up: for an operator to look at.
    pub irrevocable: bool,
}

impl Leases {
    /// Reads the journal back and goes on with its last file, or with a new one that begins with all that is not over.
    pub fn open(volume: Box<dyn Volume>, state_id: &str, reserve: Reserve, queue: usize) -> Result<(Self, Recovered), JournalError> {
        Self::open_growing(volume, state_id, reserve, queue, journal::GROWTH)
    }

    /// The same with a journal that goes on in another file after so many bytes more than twice its beginning.
    pub fn open_growing(
        mut volume: Box<dyn Volume>,
        state_id: &str,
        reserve: Reserve,
        queue: usize,
        growth: u64,
    ) -> Result<(Self, Recovered), JournalError> {
        let folded = journal::fold(&*volume, state_id)?;
        journal::secure(&mut *volume, &folded)?;
        journal::mark(&mut *volume, &format!("claviger lease journal, format {FORMAT}\n"))?;
        let table = Arc::new(table::Table::default());
        table.load(folded.leases.into_values(), folded.ended);
        let last = (folded.last_file, folded.whole);
        let (journal, storage) = Journal::begin(volume, table.clone(), state_id.to_owned(), last, growth)?;
        let log = Log::start("leases", storage, journal, reserve, queue)?;
        let mut recovered = Recovered { torn: folded.torn, ..Recovered::default() };
        for lease in table.all() {
            match lease.state {
                State::Reserved => recovered.reserved.push(lease),
                State::Live => recovered.live.push(lease),
                State::Ending { .. } => recovered.ending.push(lease),
            }
        }
        Ok((Self { table, log, changed: Notify::new() }, recovered))
    }

    /// Whether a lease would be written down; false while the disk has too little space.
    pub async fn has_room(&self) -> bool {
        self.log.has_room().await
    }

    /// Takes a place. With `durable` it is on the disk when this returns, as it must be before anything is made upstream.
    pub async fn reserve(&self, lease: Lease, durable: bool) -> Result<Slot, ReserveError> {
        let lease = Lease { state: State::Reserved, ..lease };
        if !self.table.reserve(Arc::new(lease.clone())) {
            return Err(ReserveError::KeyTaken);
        }
        crate::failpoint!("before-reserve");
        if durable && let Err(error) = self.log.append(journal::now(&lease), Sync::Now, Room::Ordinary).await {
            // After a failed sync the row may be there: the fold settles it, and settling what never was does nothing.
            self.table.forget(lease.id);
            return Err(error.into());
        }
        Ok(Slot { lease, written: durable, joined: None })
    }

    /// Takes a place beside those who have this credential, if one of them lives and has at least half of the time left that is wanted;
    /// no longer than that; never one that an operator withdrew. Whoever ends from now on leaves the credential alone, and writes it down if
    /// it is not yet. Written at commit otherwise.
    pub fn join(&self, lease: Lease, credential: LeaseId, now: BootTime) -> Result<Option<Slot>, ReserveError> {
        let lease = Lease { state: State::Reserved, shares: Some(credential), ..lease };
        match self.table.join(lease, now) {
            Some(Ok((lease, reference))) => Ok(Some(Slot { lease, written: false, joined: Some(reference) })),
            Some(Err(table::KeyTaken)) => Err(ReserveError::KeyTaken),
            None => Ok(None),
        }
    }

    /// Nobody else gets these credentials from now on, as far as somebody has them: they are not joined, and no reservation of one becomes a
    /// lease. Those that are live when this returns are all.
    pub fn withdraw(&self, credentials: &HashSet<LeaseId>) {
        self.table.withdraw(credentials);
    }

    /// Whether an operator wants a credential dead that somebody has: whoever is about to join is not to have it.
    pub fn is_withdrawn(&self, credential: LeaseId) -> bool {
        self.table.is_withdrawn(credential)
    }

    /// When the last of those who have this credential expires.
    pub fn longest(&self, credential: LeaseId) -> Option<(WallTime, BootTime)> {
        self.table.longest(credential)
    }

    /// Makes the lease live, unless an operator wants its credential dead. On an error it is to be ended by the caller.
    ///
    /// Where something exists upstream it is on the disk when this returns. Where nothing does, it is in the file, which outlives the
    /// daemon however that ends, and on the disk within 10 ms: only a power cut comes in between, and no holder survives that.
    pub async fn commit(&self, slot: Slot, reference: UpstreamRef) -> Result<Arc<Lease>, CommitError> {
        let joined = slot.joined.is_some();
        let lease = Arc::new(Lease { reference, state: State::Live, ..slot.lease });
        if !self.put_live(&lease) {
            return Err(CommitError::Withdrawn);
        }
        // A reservation on the disk may use the reserve to become a lease: refusing it would leave something upstream with less known.
        let (sync, room) = match slot.written {
            true => (Sync::Now, Room::Ending),
            // Others may end and leave the credential to this one.
            false if joined => (Sync::Now, Room::Ordinary),
            false => (Sync::Soon, Room::Ordinary),
        };
        self.log.append(journal::now(&lease), sync, room).await?;
        crate::failpoint!("committed");
        crate::failpoint!("unrecorded");
        Ok(lease)
    }

    /// Puts a live lease into the table, unless its credential is withdrawn, and wakes whoever waits for deadlines if this one is the next.
    fn put_live(&self, lease: &Arc<Lease>) -> bool {
        let next = self.table.next_deadline();
        let put = self.table.put_live(lease.clone());
        if put && next.is_none_or(|next| lease.deadline < next) {
            self.changed.notify_one();
        }
        put
    }

    /// A lease that is not over.
    pub fn find(&self, id: LeaseId) -> Option<Arc<Lease>> {
        self.table.find(id)
    }

    /// One that is over and still remembered.
    pub fn find_ended(&self, id: LeaseId) -> Option<Ended> {
        self.table.find_ended(id)
    }

    /// The lease that an identity's idempotency key led to.
    pub fn find_key(&self, identity: &IdentityName, key: &str) -> Option<Arc<Lease>> {
        self.table.find_key(identity, key)
    }

    /// Whether the value may be read once more.
    pub fn has_read(&self, id: LeaseId) -> bool {
        self.table.has_read(id)
    }

    /// Counts a read of the value, unless none is left.
    pub fn count_read(&self, id: LeaseId) -> Result<(), NoRead> {
        self.table.count_read(id)
    }

    /// Counts one more read of a lease that is live until after `now`, has reads left, and that policy of this generation allows;
    /// `None` when any of that is not so.
    pub fn read(&self, id: LeaseId, generation: u64, now: BootTime) -> Option<Arc<Lease>> {
        self.table.read(id, generation, now)
    }

    /// A read that was counted did not come about.
    pub fn uncount_read(&self, id: LeaseId) {
        self.table.uncount_read(id);
    }

    /// Notes that policy of this generation allows a lease.
    pub fn note_decided(&self, id: LeaseId, generation: u64) {
        self.table.note_decided(id, generation);
    }

    /// Whether policy of this generation was asked about a lease and allows it.
    pub fn is_decided(&self, id: LeaseId, generation: u64) -> bool {
        self.table.is_decided(id, generation)
    }

    /// Every lease that the journal knows, those that are over and remembered included, and whether it has forgotten none.
    pub fn known(&self) -> (HashSet<LeaseId>, bool) {
        self.table.known()
    }

    /// All that are not over, oldest first.
    pub fn all(&self) -> Vec<Arc<Lease>> {
        self.table.all()
    }

    /// How many are not over.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// How many of them one identity has.
    pub fn count_of(&self, identity: &IdentityName) -> usize {
        self.table.count_of(identity)
    }

    /// The same holder as a live lease has it already, or this one: a holder of many leases is kept once.
    pub fn share(&self, holder: Holder) -> Arc<Holder> {
        self.table.share(holder)
    }

    /// Those of one holder.
    pub fn of_holder(&self, key: &HolderKey) -> Vec<Arc<Lease>> {
        self.table.of_holder(key)
    }

    /// Those whose time is up.
    pub fn due(&self, now: BootTime) -> Vec<LeaseId> {
        self.table.due(now)
    }

    /// When the next one's time is up.
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.table.next_deadline()
    }

    /// Returns when a deadline may have come nearer.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Extends a live lease, on the disk when this returns; `None` when it ended meanwhile. In the table first, so that a snapshot which
    /// is taken while the line is written has it too.
    pub async fn renew(&self, lease: &Lease, expires: WallTime, deadline: BootTime) -> Result<Option<Arc<Lease>>, AppendError> {
        let Some(renewed) = self.table.extend(lease.id, expires, deadline) else { return Ok(None) };
        let event = Event::Renewed { id: lease.id, expires, deadline };
        if let Err(error) = self.log.append(event, Sync::Now, Room::Ordinary).await {
            self.table.extend(lease.id, lease.expires, lease.deadline);
            return Err(error);
        }
        self.changed.notify_one();
        Ok(Some(renewed))
    }

    /// The right to end a lease, for the first who asks.
    pub fn begin_end(&self, id: LeaseId, cause: impl Into<Cause>, at: WallTime) -> Option<Ending> {
        self.table.begin_end(id, cause.into(), at)
    }

    /// Writes down that it is ending, before its source is told: what may be dead there must not come back as live after a crash. It is
    /// in the file when this returns, which outlives the daemon.
    pub async fn note_ending(&self, ending: &Ending) -> Result<(), AppendError> {
        match self.table.find(ending.lease().id) {
            Some(lease) => self.log.append(journal::now(&lease), Sync::Soon, Room::Ending).await,
            None => Ok(()),
        }
    }

    /// The same of several, before the source is told of any.
    pub async fn note_endings(&self, endings: &[Ending]) -> Result<(), AppendError> {
        let mut noted = Ok(());
        for some in endings.chunks(MANY) {
            for done in join_all(some.iter().map(|ending| self.note_ending(ending))).await {
                noted = noted.and(done);
            }
        }
        noted
    }

    /// The right to carry on an end that did not come through; `None` while somebody has it. It goes back by [`Leases::postpone`].
    pub fn resume_end(&self, id: LeaseId) -> Option<Ending> {
        self.table.resume_end(id)
    }

    /// Closes the books on a lease. The line need not be on the disk: an end that is forgotten is carried through again.
    pub async fn end(&self, ending: Ending, result: EndResult, at: WallTime) -> (Ended, Result<(), AppendError>) {
        let ended = self.table.end(&ending, result, at);
        // Whoever has the credential now may not be in the journal yet: before it forgets this one, it has one of them.
        if let Some(heir) = (result == EndResult::Shared).then(|| self.table.heir(ending.lease().credential())).flatten()
            && !crate::mutation!("share-heir")
            && let Err(error) = self.log.append(journal::now(&heir), Sync::Soon, Room::Ending).await
        {
            return (ended, Err(error));
        }
        let written = self.log.append(Event::Ended(Box::new(ended.clone())), Sync::Soon, Room::Ending).await;
        (ended, written)
    }

    /// Notes that a try failed. The line survives a restart, so the count goes on.
    pub async fn postpone(&self, id: LeaseId, state: Postponed) -> Result<(), AppendError> {
        match self.table.postpone(id, state.tries, state.irrevocable) {
            Some(lease) => self.log.append(journal::now(&lease), Sync::Soon, Room::Ending).await,
            None => Ok(()),
        }
    }

    /// Writes what waits and closes the journal.
    pub fn stop(&self) {
        self.log.stop();
    }
}
