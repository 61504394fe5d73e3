//! What keeps the log small and fair: equal events are counted instead of written, and each identity has a budget of bytes.
//!
//! Reads: the first of a live lease is a record, further ones within 10 s are counted, and the count is written every 10 s and when the
//! lease ends. Refusals: the first 20 a minute per payer and code are records, the rest is one record a minute.

use super::event::{Event, Folded, What, Who};
use super::kind::Kind;
use super::writer::Recorded;
use crate::model::{BootTime, Code, IdentityName, LeaseId, Sensitivity, WallTime};
use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

const READS_EVERY: u64 = 10_000_000;
const REFUSALS_EVERY: u64 = 60_000_000;
const REFUSALS_OWN: u64 = 20;
const HOUR: u64 = 3_600_000_000;
/// Beyond so many, nothing more is folded, and payers share one budget: memory stays bounded whatever arrives.
const MAX_OPEN: usize = 65_536;
const MAX_PAYERS: usize = 16_384;

/// Who pays for a record: the identity, or the uid while no identity is known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Payer {
    Identity(IdentityName),
    Uid(u32),
    /// All that came when the table was full.
    Others,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Read(LeaseId),
    Refusal(Payers, Box<str>),
}

/// A payer as part of a key that other modules only hand back.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Payers(Payer);

/// What to do with an event.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Write it, and report the outcome to `wrote` with this key if there is one.
    Write(Option<Key>),
    /// Its payer has used up the hour's bytes; that is counted. If the count was opened just now the writer must be poked.
    OverBudget { opened: bool },
}

struct Open {
    of: Kind,
    code: Option<Box<str>>,
    lease: Option<LeaseId>,
    identity: Option<Who>,
    uid: Option<u32>,
    secret: Option<What>,
    due: BootTime,
    own: u64,
    count: u64,
    first: WallTime,
    last: WallTime,
    stands: Option<Recorded>,
}

impl Open {
    fn count(&mut self, wall: WallTime) {
        if self.count == 0 {
            self.first = wall;
        }
        self.count += 1;
        self.last = wall;
    }

    fn event(&self) -> Event {
        let mut event = Event::new(Kind::Fold);
        (event.lease, event.identity, event.uid) = (self.lease, self.identity.clone(), self.uid);
        (event.secret, event.code) = (self.secret.clone(), self.code.clone());
        event.folded = Some(Folded { of: self.of, count: self.count, first: self.first, last: self.last });
        event
    }
}

struct Budget {
    since: BootTime,
    bytes: u64,
}

pub(super) struct Folds {
    open: HashMap<Key, Open>,
    due: BinaryHeap<Reverse<(BootTime, Key)>>,
    budgets: HashMap<Payer, Budget>,
    bytes_per_hour: u64,
}

impl Folds {
    pub(super) fn new(bytes_per_hour: u64) -> Self {
        Self { open: HashMap::new(), due: BinaryHeap::new(), budgets: HashMap::new(), bytes_per_hour }
    }

    /// Counts one more read of a lease below `restricted`, if the first is on the record and stands for it.
    pub(super) fn count_read(&mut self, lease: LeaseId, now: BootTime, wall: WallTime) -> Option<Recorded> {
        let open = self.stands(&Key::Read(lease), now)?;
        open.count(wall);
        open.stands
    }

    /// Counts an event that is equal to one on the record; that one stands for it.
    pub(super) fn count(&mut self, event: &Event, now: BootTime, wall: WallTime) -> Option<Recorded> {
        let open = self.stands(&key(event, payer(event).as_ref())?, now)?;
        // A count says of no secret what was refused of several.
        if open.secret.as_ref().map(What::name) != event.secret.as_ref().map(What::name) {
            open.secret = None;
        }
        open.count(wall);
        open.stands
    }

    /// What is counted under that key, if what is on the record stands for more.
    fn stands(&mut self, key: &Key, now: BootTime) -> Option<&mut Open> {
        let open = self.open.get_mut(key)?;
        let own = if open.of == Kind::Read { 1 } else { REFUSALS_OWN };
        // What is due is counted no more: its count may already be on its way.
        (open.stands.is_some() && now < open.due && open.own >= own).then_some(open)
    }

    /// Decides about an event that was not counted, whose line has about `bytes` bytes.
    pub(super) fn admit(&mut self, event: &Event, bytes: u64, now: BootTime, wall: WallTime) -> Verdict {
        let payer = payer(event);
        let key = key(event, payer.as_ref());
        if let Some(payer) = payer.filter(|_| is_charged(event.kind))
            && !self.charge(&payer, bytes, now)
        {
            let code = Code::AUDIT_BUDGET.as_str();
            let key = Key::Refusal(Payers(payer), code.into());
            let mut refused = Event::new(Kind::Refuse);
            (refused.identity, refused.uid, refused.code) = (event.identity.clone(), event.uid, Some(code.into()));
            let opened = self.entry(key, &refused, now, wall).is_some_and(|open| {
                open.count(wall);
                open.count == 1
            });
            return Verdict::OverBudget { opened };
        }
        let Some(key) = key else { return Verdict::Write(None) };
        let opened = self.entry(key.clone(), event, now, wall).map(|open| open.own += 1).is_some();
        Verdict::Write(opened.then_some(key))
    }

    /// Tells how a write that `admit` allowed went.
    pub(super) fn wrote(&mut self, key: &Key, recorded: Option<Recorded>) {
        if let Some(open) = self.open.get_mut(key) {
            match recorded {
                Some(recorded) => open.stands = Some(recorded),
                None => open.own = open.own.saturating_sub(1),
            }
        }
    }

    /// When the next count has to be written.
    pub(super) fn next_due(&self) -> Option<BootTime> {
        self.due.peek().map(|Reverse((due, _))| *due)
    }

    /// The counts that have to be written by now.
    pub(super) fn take_due(&mut self, now: BootTime) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(Reverse((due, _))) = self.due.peek()
            && *due <= now
        {
            let Some(Reverse((due, key))) = self.due.pop() else { break };
            // An entry that was closed meanwhile, or opened again, has another time or none.
            let Some(open) = self.open.get_mut(&key).filter(|open| open.due == due) else { continue };
            if open.count > 0 {
                events.push(open.event());
            }
            if open.of == Kind::Read && open.count > 0 {
                open.count = 0;
                open.due = BootTime(now.0 + READS_EVERY);
                self.due.push(Reverse((open.due, key)));
            } else {
                self.open.remove(&key);
            }
        }
        events
    }

    /// Every count, whether due or not: the log is being closed.
    pub(super) fn take_all(&mut self) -> Vec<Event> {
        self.due.clear();
        self.open.drain().map(|(_, open)| open).filter(|open| open.count > 0).map(|open| open.event()).collect()
    }

    /// The lease has ended: its last count.
    pub(super) fn take_lease(&mut self, lease: LeaseId) -> Option<Event> {
        self.open.remove(&Key::Read(lease)).filter(|open| open.count > 0).map(|open| open.event())
    }

    fn entry(&mut self, key: Key, event: &Event, now: BootTime, wall: WallTime) -> Option<&mut Open> {
        if self.open.len() >= MAX_OPEN && !self.open.contains_key(&key) {
            return None;
        }
        let due = BootTime(now.0 + if event.kind == Kind::Read { READS_EVERY } else { REFUSALS_EVERY });
        let heap = &mut self.due;
        Some(self.open.entry(key).or_insert_with_key(|key| {
            heap.push(Reverse((due, key.clone())));
            Open {
                of: event.kind,
                code: event.code.clone(),
                lease: event.lease,
                identity: event.identity.clone(),
                uid: event.uid,
                secret: event.secret.clone(),
                due,
                own: 0,
                count: 0,
                first: wall,
                last: wall,
                stands: None,
            }
        }))
    }

    fn charge(&mut self, payer: &Payer, bytes: u64, now: BootTime) -> bool {
        if self.budgets.len() >= MAX_PAYERS && !self.budgets.contains_key(payer) {
            self.budgets.retain(|_, budget| now.since(budget.since) < HOUR);
        }
        // Identities are as many as the registry has rows; uids, as many as anybody likes.
        let is_identity = matches!(payer, Payer::Identity(_));
        let full = !is_identity && self.budgets.len() >= MAX_PAYERS && !self.budgets.contains_key(payer);
        let payer = if full { Payer::Others } else { payer.clone() };
        let budget = self.budgets.entry(payer).or_insert(Budget { since: now, bytes: 0 });
        if now.since(budget.since) >= HOUR {
            *budget = Budget { since: now, bytes: 0 };
        }
        if budget.bytes + bytes > self.bytes_per_hour {
            return false;
        }
        budget.bytes += bytes;
        true
    }
}

fn payer(event: &Event) -> Option<Payer> {
    let identity = event.identity.as_ref().map(|who| Payer::Identity(who.name().clone()));
    identity.or(event.uid.map(Payer::Uid))
}

fn key(event: &Event, payer: Option<&Payer>) -> Option<Key> {
    match event.kind {
        Kind::Read if event.sensitivity() < Sensitivity::Restricted => event.lease.map(Key::Read),
        Kind::Refuse | Kind::Needs => Some(Key::Refusal(Payers(payer?.clone()), event.code.clone()?)),
        _ => None,
    }
}

/// What a workload can cause at will. Endings and the daemon's own records are nobody's to prevent.
fn is_charged(kind: Kind) -> bool {
    matches!(kind, Kind::Issue | Kind::Read | Kind::Renew | Kind::Refuse | Kind::Needs | Kind::Shadow)
}
