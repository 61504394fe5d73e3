//! `Audit`: the handle through which everything goes on the record.

use super::anchor::{Anchor, Publisher};
use super::books::Books;
use super::chain::Tip;
use super::event::Event;
use super::fold::{Folds, Verdict};
use super::kind::Kind;
use super::note::Says;
use super::scribe::{AuditScribe, Gap, Item, Parts, Settings, gap, lock};
use super::segment::{self, Retention};
use super::status::{Shared, Status};
use super::text::Word;
use crate::digest::{Digest, Ed25519Key};
use crate::model::{LeaseId, Sensitivity};
use crate::sys::append::{AppendError, Log, Reserve, Room, Sync};
use crate::sys::{Clock, Volume};
use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;

/// The proof that a record is written. Only this module makes one.
///
/// Of a counted event it names the record that stands for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[must_use]
pub struct Recorded {
    seq: u64,
    hash: Digest,
}

impl Recorded {
    pub(super) fn new(tip: Tip) -> Self {
        Self { seq: tip.seq, hash: tip.hash }
    }

    /// The record's number.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The record's hash.
    pub fn hash(&self) -> &Digest {
        &self.hash
    }
}

/// What a caller needs before it goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The record is written; the sync follows within 10 ms.
    Soon,
    /// The record is on the disk.
    Durable,
}

impl Need {
    /// The least that this event needs, whatever its caller says: issue, renew, and every read from `restricted` up are synced before
    /// a secret leaves.
    pub fn least(event: &Event) -> Need {
        match event.kind() {
            Kind::Issue | Kind::Renew => Need::Durable,
            Kind::Read if event.sensitivity() >= Sensitivity::Restricted => Need::Durable,
            _ => Need::Soon,
        }
    }
}

/// Why something is not on the record. Whatever it was about must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// This identity, or uid, has used up its bytes of the hour; nobody else is concerned.
    #[error("this identity or uid has used up its share of the audit log for this hour")]
    Budget,
    /// Too little disk space. Endings still go on the record; the rest returns by itself.
    #[error("too little disk space is left for the audit log")]
    NoSpace,
    /// One record is larger than is accepted: a fault of ours.
    #[error("a record is larger than is accepted or has no JSON form")]
    Record,
    /// The queue is full, the disk failed, or the log is closed.
    #[error("the audit log cannot be written: {0}")]
    Log(AppendError),
}

impl From<AppendError> for AuditError {
    fn from(error: AppendError) -> Self {
        if error == AppendError::NoSpace { AuditError::NoSpace } else { AuditError::Log(error) }
    }
}

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be used.
    #[error("the audit log cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// Records are missing that were on the disk, as its own head says. Start with `repair` to go on behind them, on the record.
    #[error("the audit log ends at record {found}, but its signed head says {head}: it was cut or damaged")]
    Damaged {
        /// The last record that is whole.
        found: u64,
        /// The last record that was.
        head: u64,
    },
}

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// The state id of this host, in every head.
    pub origin: Word,
    /// The id of this boot, in every record.
    pub boot: Word,
    /// A segment of so many bytes is followed by another.
    pub segment_bytes: u64,
    /// A record that is known to have been on the disk: [`Books::differs`] tells whether another one is there.
    pub seen: Option<Tip>,
    /// A head at least every so many records.
    pub head_every: u64,
    /// How long segments are kept.
    pub keep: Retention,
    /// Bytes that one identity, or uid, may cause per hour.
    pub budget: u64,
    /// Room left to endings.
    pub reserve: Reserve,
    /// How many records may wait.
    pub queue: usize,
    /// At most one head per interval goes to the anchors.
    pub anchor_every: Duration,
    /// Go on although records are missing at the end; the record says so.
    pub repair: bool,
}

impl Options {
    /// The documented defaults.
    pub fn new(origin: Word, boot: Word) -> Self {
        Self {
            origin,
            boot,
            segment_bytes: 64 << 20,
            seen: None,
            head_every: 1000,
            keep: Retention { days: 90, bytes: 4 << 30 },
            budget: 16 << 20,
            reserve: Reserve::default(),
            queue: 4096,
            anchor_every: Duration::from_secs(5),
            repair: false,
        }
    }
}

/// The most bytes that the members of one record may have.
pub const MAX_MEMBERS: usize = 32 << 10;
/// What a line has besides its members, roughly: for budgets.
const FRAME: u64 = 280;

/// The log. All methods may be called from anywhere; dropping it closes it without waiting.
pub struct Audit {
    log: Log<AuditScribe>,
    folds: Arc<Mutex<Folds>>,
    shared: Arc<Shared>,
    publisher: Arc<Publisher>,
    clock: Arc<dyn Clock>,
    books: Mutex<Books>,
    opened_at: Tip,
}

impl Audit {
    /// Takes up the log in `volume`, or begins one. A torn end is cut, put aside, and said in the first new record.
    pub fn open(
        options: Options,
        mut volume: Box<dyn Volume>,
        key: Ed25519Key,
        clock: Arc<dyn Clock>,
        anchors: Vec<Box<dyn Anchor>>,
    ) -> Result<Self, OpenError> {
        let known = known_end(&*volume, key.public())?;
        let found = segment::recover(&mut *volume, options.seen, known.map_or(0, |head| head.seq))?;
        let mut own = Vec::new();
        if found.cut > 0 {
            let file = segment::name(found.current.as_ref().map_or(1, |(first, _)| *first));
            own.push(
                gap(Gap { cause: "torn", file, after: found.tip.seq, bytes: found.cut }).detail("a torn end was cut off and put aside"),
            );
        }
        let (mut tip, mut current) = (found.tip, found.current);
        if let Some(head) = known.filter(|head| head.seq > tip.seq) {
            if !options.repair {
                return Err(OpenError::Damaged { found: tip.seq, head: head.seq });
            }
            let file = segment::name(current.as_ref().map_or(1, |(first, _)| *first));
            own.push(gap(Gap { cause: "lost", file, after: tip.seq, bytes: 0 }).detail("records up to the last signed head are missing"));
            (tip, current) = (head, None);
        }
        let (first, storage) = match current {
            Some(current) => current,
            None => (tip.seq + 1, volume.create(&segment::name(tip.seq + 1))?),
        };
        let folds = Arc::new(Mutex::new(Folds::new(options.budget)));
        let shared = Arc::new(Shared::new(tip, found.bytes));
        let publisher = Arc::new(Publisher::start(anchors, options.anchor_every, clock.clone())?);
        let settings = Settings {
            origin: options.origin,
            boot: options.boot,
            segment_bytes: options.segment_bytes,
            head_every: options.head_every,
            keep: options.keep,
        };
        let parts = Parts {
            volume,
            key,
            settings,
            clock: clock.clone(),
            folds: folds.clone(),
            shared: shared.clone(),
            publisher: publisher.clone(),
        };
        let scribe = AuditScribe::new(parts, tip, first, found.bytes, own);
        let log = Log::start("audit", storage, scribe, options.reserve, options.queue)?;
        log.poke();
        Ok(Self { log, folds, shared, publisher, clock, books: Mutex::new(found.books), opened_at: found.tip })
    }

    /// What the log said of leases when it was opened; asked for once.
    pub fn take_books(&self) -> Books {
        std::mem::take(&mut *lock(&self.books))
    }

    /// The last record of the log when it was opened; it is on the disk.
    pub fn opened_at(&self) -> Tip {
        self.opened_at
    }

    /// The last record whose signed head is on the disk, since this log was opened.
    pub fn headed(&self) -> Option<Tip> {
        self.publisher.offered()
    }

    /// Puts an event on the record. Returns when `need`, or more if the event needs more, is met.
    ///
    /// An event that may be counted instead of written is counted only if `need` is `Soon`. Dropping the future takes nothing back: the
    /// record may be written all the same.
    pub async fn append(&self, event: Event, need: Need) -> Result<Recorded, AuditError> {
        let (item, key) = match self.admit(&event, need)? {
            Admitted::Counted(recorded) => return Ok(recorded),
            Admitted::Write(item, key) => (item, key),
        };
        let result = self.log.append(item, sync(&event, need), room(event.kind)).await;
        crate::failpoint!("recorded");
        self.settle_fold(key, result.as_ref().ok());
        Ok(result?)
    }

    /// Whether an issue would be put on the record; false while the disk has too little space.
    pub async fn has_room(&self) -> bool {
        self.log.has_room().await
    }

    /// Counts a read of a live lease, where the record of an earlier one stands for it: then there is nothing to write. Reads from
    /// `restricted` up have no such record.
    pub fn count_read(&self, lease: LeaseId) -> Option<Recorded> {
        lock(&self.folds).count_read(lease, self.clock.boot(), self.clock.wall())
    }

    /// The same for a thread that may block.
    pub fn append_blocking(&self, event: Event, need: Need) -> Result<Recorded, AuditError> {
        let (item, key) = match self.admit(&event, need)? {
            Admitted::Counted(recorded) => return Ok(recorded),
            Admitted::Write(item, key) => (item, key),
        };
        let result = self.log.append_blocking(item, sync(&event, need), room(event.kind));
        self.settle_fold(key, result.as_ref().ok());
        Ok(result?)
    }

    /// From the returned record on, heads are signed by `key`; the old key has signed that.
    pub async fn rotate_key(&self, key: Ed25519Key) -> Result<Recorded, AuditError> {
        Ok(self.log.append(Item::Key(key), Sync::Now, Room::Ordinary).await?)
    }

    /// Writes now what is due by now (counts, heads), and syncs.
    pub async fn settle(&self) -> Result<(), AuditError> {
        Ok(self.log.settle().await?)
    }

    /// How the log stands.
    pub fn status(&self) -> Status {
        let anchored = self.publisher.anchored();
        let stale = anchored.is_stale(self.clock.boot());
        self.shared.status(anchored, stale)
    }

    /// The number of the last record that is written, as it changes: for followers.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.watch()
    }

    /// Writes every count and a last head, hands it to the anchors, and closes the log. Later appends are refused. Blocks.
    pub fn stop(&self) {
        self.shared.stop();
        self.log.stop();
        self.publisher.stop();
    }

    fn admit(&self, event: &Event, need: Need) -> Result<Admitted, AuditError> {
        let (now, wall) = (self.clock.boot(), self.clock.wall());
        // Whoever needs it on the disk gets a record of its own: a count is in memory for a while.
        let foldable = need == Need::Soon;
        if let Some(stands) = foldable.then(|| lock(&self.folds).count(event, now, wall)).flatten() {
            return Ok(Admitted::Counted(stands));
        }
        let members = event.members().map_err(|_| AuditError::Record)?;
        if members.len() > MAX_MEMBERS {
            return Err(AuditError::Record);
        }
        let bytes = members.len() as u64 + FRAME;
        let verdict = lock(&self.folds).admit(event, bytes, now, wall);
        match verdict {
            Verdict::OverBudget { opened } => {
                if opened {
                    self.log.poke();
                }
                Err(AuditError::Budget)
            }
            Verdict::Write(key) => {
                let ended = event.lease.filter(|_| event.kind == Kind::End);
                Ok(Admitted::Write(Item::Event { kind: event.kind, members, ended }, key))
            }
        }
    }

    fn settle_fold(&self, key: Option<super::fold::Key>, recorded: Option<&Recorded>) {
        if let Some(key) = key {
            lock(&self.folds).wrote(&key, recorded.copied());
        }
    }
}

enum Admitted {
    Counted(Recorded),
    Write(Item, Option<super::fold::Key>),
}

fn sync(event: &Event, need: Need) -> Sync {
    match need.max(Need::least(event)) {
        Need::Durable => Sync::Now,
        Need::Soon => Sync::Soon,
    }
}

/// Whatever makes something end, or says that it did, may use the reserve.
fn room(kind: Kind) -> Room {
    match kind {
        Kind::End | Kind::Retry | Kind::Irrevocable | Kind::Retire | Kind::Stop | Kind::Freeze | Kind::Operator => Room::Ending,
        _ => Room::Ordinary,
    }
}

/// The last record that surely was on the disk: from the head file and the stub of what was pruned, if our key signed them.
fn known_end(volume: &dyn Volume, key: &[u8]) -> io::Result<Option<Tip>> {
    let head = segment::read_note(volume, segment::HEAD_FILE)?.filter(|note| note.says == Says::Head);
    let stub = segment::read_note(volume, segment::STUB_FILE)?.filter(|note| note.says == Says::Stub);
    Ok([head, stub].into_iter().flatten().filter(|note| note.key == key && note.holds()).map(|note| note.tip).max_by_key(|tip| tip.seq))
}
