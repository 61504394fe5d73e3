//! The side of the log's thread: numbers, chains, signs heads, writes counts, changes segments, prunes.

use super::anchor::Publisher;
use super::chain::{self, Tip};
use super::event::Event;
use super::fold::Folds;
use super::kind::Kind;
use super::note::{Note, Says};
use super::segment::{self, Retention};
use super::status::Shared;
use super::text::{Facts, Recordable, Sentence, Word};
use super::writer::Recorded;
use crate::digest::Ed25519Key;
use crate::model::{BootTime, LeaseId, WallTime};
use crate::sys::append::{Reopen, Scribe};
use crate::sys::{Clock, Keep, Space, Storage, Volume};
use serde::Serialize;
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

const SECOND: u64 = 1_000_000;
const PRUNE_EVERY: u64 = 3600 * SECOND;
const DAY: u64 = 86_400 * SECOND;

/// What callers hand to the thread.
pub(super) enum Item {
    Event { kind: Kind, members: Vec<u8>, ended: Option<LeaseId> },
    Key(Ed25519Key),
}

/// What stands in a `gap` record.
#[derive(Serialize)]
pub(super) struct Gap {
    /// `torn`, `failed`, `displaced` or `lost`.
    pub cause: &'static str,
    /// The segment that it is about.
    pub file: String,
    /// The last record that counts in it.
    pub after: u64,
    /// Bytes that were put aside.
    pub bytes: u64,
}
impl Recordable for Gap {}

/// The event of a gap.
pub(super) fn gap(gap: Gap) -> Event {
    // Names and numbers have a JSON form; without one the kind alone would still be on the record.
    Facts::of(&gap).map_or(Event::new(Kind::Gap), |gap| Event::new(Kind::Gap).more(gap))
}

#[derive(Serialize)]
struct Pruned {
    first: u64,
    last: u64,
    hash: String,
    segments: usize,
}
impl Recordable for Pruned {}

pub(super) struct Settings {
    pub origin: Word,
    pub boot: Word,
    pub segment_bytes: u64,
    pub head_every: u64,
    pub keep: Retention,
}

pub(super) struct AuditScribe {
    volume: Box<dyn Volume>,
    key: Ed25519Key,
    /// Signs once the record that introduces it is written.
    next_key: Option<Ed25519Key>,
    settings: Settings,
    clock: Arc<dyn Clock>,
    folds: Arc<Mutex<Folds>>,
    shared: Arc<Shared>,
    publisher: Arc<Publisher>,
    /// Encoded, written, on the disk.
    tip: Tip,
    written: Tip,
    synced: Tip,
    /// The first record of the present segment, and of the one that was opened and has nothing on the disk yet.
    first: u64,
    opening: Option<u64>,
    /// Bytes of all segments, encoded and written.
    bytes: u64,
    bytes_written: u64,
    /// Events of the log's own that wait for the next batch, and those that are in the present one.
    own: Vec<Event>,
    taken: Vec<Event>,
    /// The record of the last head, encoded and written.
    head: u64,
    head_written: u64,
    head_due: Option<BootTime>,
    /// The newest head: encoded, written.
    note: Option<Note>,
    note_written: Option<Note>,
    /// When the head file was last written, and a newer head that is not in it.
    marked: Option<BootTime>,
    unmarked: Option<Note>,
    prune_due: BootTime,
    /// Both clocks when the log was taken up.
    since: (WallTime, BootTime),
    low: bool,
    stale: bool,
}

pub(super) struct Parts {
    pub volume: Box<dyn Volume>,
    pub key: Ed25519Key,
    pub settings: Settings,
    pub clock: Arc<dyn Clock>,
    pub folds: Arc<Mutex<Folds>>,
    pub shared: Arc<Shared>,
    pub publisher: Arc<Publisher>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done in these tables by a panic: they hold counts.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AuditScribe {
    /// Goes on after `tip` in the segment that begins with `first`; `own` goes on the record first.
    pub(super) fn new(parts: Parts, tip: Tip, first: u64, bytes: u64, own: Vec<Event>) -> Self {
        let Parts { volume, key, settings, clock, folds, shared, publisher } = parts;
        let prune_due = clock.boot();
        let since = (clock.wall(), clock.boot());
        #[rustfmt::skip]
        let new = Self {
            volume, key, next_key: None, settings, clock, folds, shared, publisher,
            tip, written: tip, synced: tip, first, opening: None, bytes, bytes_written: bytes, own, taken: Vec::new(),
            head: tip.seq, head_written: tip.seq, head_due: None, note: None, note_written: None, marked: None, unmarked: None,
            prune_due, since, low: false, stale: false,
        };
        new
    }

    fn line(&mut self, kind: Kind, members: &[u8], out: &mut Vec<u8>) {
        let time = self.clock.wall().rfc3339();
        let start = out.len();
        self.tip = chain::write_line(out, self.tip, &time, kind.as_str(), self.settings.boot.as_str(), members);
        self.bytes += (out.len() - start) as u64;
        if kind != Kind::Head && self.head_due.is_none() {
            // The first record after a start is signed at once.
            let wait = if self.marked.is_some() { SECOND } else { 0 };
            self.head_due = Some(BootTime(self.clock.boot().0 + wait));
        }
    }

    fn event(&mut self, event: Event, out: &mut Vec<u8>) {
        // Events of the log's own consist of numbers and names; they always have a JSON form.
        let members = event.members().unwrap_or_default();
        self.line(event.kind, &members, out);
        self.taken.push(event);
    }

    fn note(&mut self, says: Says, out: &mut Vec<u8>) {
        let note = Note::sign(
            says,
            self.settings.origin.as_str(),
            self.tip,
            &self.clock.wall().rfc3339(),
            self.next_key.as_ref().unwrap_or(&self.key),
        );
        let kind = if says == Says::Head { Kind::Head } else { Kind::Key };
        self.line(kind, format!(",\"note\":\"{note}\"").as_bytes(), out);
        if says == Says::Head {
            self.head = self.tip.seq;
            self.head_due = None;
            self.note = Some(note);
        }
    }

    fn head_if_needed(&mut self, at_once: bool, out: &mut Vec<u8>) {
        let since = self.tip.seq - self.head;
        let due = self.head_due.is_some_and(|due| due <= self.clock.boot());
        if since > 0 && (at_once || due || since >= self.settings.head_every) {
            self.note(Says::Head, out);
        }
    }

    /// Says in the next file what became of the present one. Not kept for another try: that one has its own.
    fn gap(&mut self, cause: &'static str, after: u64, detail: Sentence, out: &mut Vec<u8>) {
        let event = gap(Gap { cause, file: segment::name(self.first), after, bytes: 0 }).detail(detail);
        self.line(Kind::Gap, &event.members().unwrap_or_default(), out);
    }

    /// Writes the newest head that is on the disk into the head file, at most once a second unless `at_once`.
    fn mark(&mut self, at_once: bool) {
        let now = self.clock.boot();
        if (at_once || self.mark_due().is_some_and(|due| due <= now))
            && let Some(note) = self.unmarked.take()
        {
            self.marked = Some(now);
            // Only helps to notice a cut log early; the heads in the log itself and outside are what counts.
            let _ = self.volume.replace(segment::HEAD_FILE, format!("{note}\n").as_bytes(), Keep::Loosely);
        }
    }

    fn mark_due(&self) -> Option<BootTime> {
        self.unmarked.as_ref().map(|_| self.marked.map_or(BootTime(0), |marked| BootTime(marked.0 + SECOND)))
    }

    /// Removes what is too old or too much, behind a head that has left the host if there is anywhere to send one.
    fn prune(&mut self) -> io::Result<()> {
        let anchored = self.publisher.anchored();
        let limit = if anchored.configured { anchored.seq } else { self.synced.seq };
        // A wall clock that is set forward makes no record old: no more time has passed than the other clock counted.
        let passed = self.since.0.0.saturating_add(self.clock.boot().since(self.since.1));
        let before = self.clock.wall().0.min(passed).saturating_sub(self.settings.keep.days.saturating_mul(DAY));
        let Some(doomed) = segment::doomed(&*self.volume, self.settings.keep, &WallTime(before).rfc3339(), limit)? else { return Ok(()) };
        let time = self.clock.wall().rfc3339();
        let stub = Note::sign(Says::Stub, self.settings.origin.as_str(), doomed.tip, &time, &self.key);
        self.volume.replace(segment::STUB_FILE, format!("{stub}\n").as_bytes(), Keep::Durably)?;
        for segment in &doomed.segments {
            self.volume.remove(&segment.name)?;
            self.bytes = self.bytes.saturating_sub(segment.bytes);
            self.bytes_written = self.bytes_written.saturating_sub(segment.bytes);
        }
        let first = doomed.segments.first().map_or(0, |segment| segment.first);
        let hash = chain::to_hex(&doomed.tip.hash);
        if let Ok(pruned) = Facts::of(&Pruned { first, last: doomed.tip.seq, hash, segments: doomed.segments.len() }) {
            self.own.push(Event::new(Kind::Prune).more(pruned));
        }
        Ok(())
    }
}

impl Scribe for AuditScribe {
    type Item = Item;
    type Done = Recorded;

    fn encode(&mut self, item: Item, out: &mut Vec<u8>) -> Recorded {
        match item {
            Item::Event { kind, members, ended } => {
                let count = ended.and_then(|lease| lock(&self.folds).take_lease(lease));
                if let Some(count) = count {
                    self.event(count, out);
                }
                self.line(kind, &members, out);
            }
            Item::Key(key) => {
                let mut public = [0; 32];
                public.copy_from_slice(key.public());
                self.note(Says::Key(public), out);
                self.next_key = Some(key);
            }
        }
        Recorded::new(self.tip)
    }

    fn due(&self) -> Option<Duration> {
        let now = self.clock.boot();
        if !self.own.is_empty() || self.tip.seq - self.head >= self.settings.head_every {
            return Some(Duration::ZERO);
        }
        // While space is low, counts are kept back, so they are not due either.
        let folds = if self.low { Some(BootTime(now.0 + SECOND)) } else { lock(&self.folds).next_due() };
        let due = self.head_due.into_iter().chain(folds).chain(self.mark_due()).min()?;
        Some(Duration::from_micros(due.since(now)))
    }

    fn turn(&mut self, low: bool, out: &mut Vec<u8>) {
        self.low = low;
        self.shared.set_low(low);
        let now = self.clock.boot();
        if now >= self.prune_due {
            self.prune_due = BootTime(now.0 + PRUNE_EVERY);
            // Tried again within the hour; until then the log is larger than asked, which status shows.
            let pruned = self.prune();
            self.shared.pruned(pruned);
        }
        let stale = self.publisher.anchored().is_stale(now);
        if stale != self.stale {
            self.stale = stale;
            let text = if stale { "no head has left this host for a minute" } else { "heads leave this host again" };
            self.own.push(Event::new(Kind::Anchor).detail(text));
        }
        if !low {
            self.own.append(&mut lock(&self.folds).take_due(now));
        }
        for event in std::mem::take(&mut self.own) {
            self.event(event, out);
        }
        self.head_if_needed(false, out);
        self.mark(false);
    }

    fn written(&mut self) {
        (self.written, self.bytes_written) = (self.tip, self.bytes);
        self.taken.clear();
        self.head_written = self.head;
        self.note_written = self.note.take().or(self.note_written.take());
        if let Some(key) = self.next_key.take() {
            self.key = key;
            self.head_due = Some(self.clock.boot());
        }
        self.shared.written(self.written);
    }

    fn synced(&mut self) {
        self.synced = self.written;
        self.first = self.opening.take().unwrap_or(self.first);
        if let Some(note) = self.note_written.take() {
            self.shared.headed(note.tip.seq);
            self.unmarked = Some(note.clone());
            self.mark(false);
            self.publisher.offer(note);
        }
        self.shared.synced(self.synced.seq, self.bytes_written);
    }

    fn dropped(&mut self) {
        (self.tip, self.bytes) = (self.written, self.bytes_written);
        self.head = self.head_written;
        self.note = None;
        self.next_key = None;
        // The log's own events are written with the next batch, also a count that was taken for an ending.
        self.taken.append(&mut self.own);
        self.own = std::mem::take(&mut self.taken);
    }

    fn full(&self, len: u64) -> bool {
        len >= self.settings.segment_bytes
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if !self.low && self.shared.is_stopping() {
            self.own.append(&mut lock(&self.folds).take_all());
        }
        for event in std::mem::take(&mut self.own) {
            self.event(event, out);
        }
        self.head_if_needed(true, out);
        // The last head of a file is marked whatever the time: this one, or, if there is no new one, the one before.
        self.mark(true);
        self.marked = self.marked.map(|_| BootTime(0));
    }

    fn open(&mut self, why: Reopen, out: &mut Vec<u8>) -> io::Result<Box<dyn Storage>> {
        // What was not synced in a failed file is carried over, and begins the next one.
        let last = if matches!(why, Reopen::Failed(_)) { self.synced } else { self.written };
        let name = segment::name(last.seq + 1);
        let storage = match self.volume.create(&name) {
            // Of a file with this name no record counts: none was ever synced in it.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.volume.remove(&name)?;
                self.volume.create(&name)
            }
            other => other,
        }?;
        match why {
            Reopen::Full => self.prune_due = self.clock.boot(),
            Reopen::Failed(error) => {
                self.shared.failed(error);
                self.gap("failed", last.seq, error.into(), out);
            }
            Reopen::Displaced => {
                self.gap("displaced", last.seq, "the file was removed or replaced while it was being written".into(), out);
            }
        }
        self.opening = Some(last.seq + 1);
        Ok(storage)
    }

    fn space(&self) -> io::Result<Space> {
        self.volume.space()
    }

    fn has_ballast(&self) -> bool {
        self.volume.has_ballast()
    }

    fn hold_ballast(&mut self, held: bool) -> io::Result<()> {
        self.volume.hold_ballast(held)
    }
}
