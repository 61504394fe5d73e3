//! The durable journal of leases: one checked line per event, folded again at start.
//!
//! Each line is 16 hexadecimal digits (the first 8 bytes of the SHA-256 of what follows), a space, and one JSON event. A file begins
//! with a heading and with every lease that is not over, so older files are removed once it is on the disk. Events are idempotent:
//! folding one twice, or one that the snapshot already holds, changes nothing.
//!
//! A power cut may leave any sectors of what was not synced, so sound lines may follow damaged ones, and that is no reason to refuse a
//! start. Therefore the first line after a sync is a heading again: behind it stands what was written later, so damage before it is
//! damage to what was on the disk, which no power cut does.
//!
//! What stands behind the last such heading may never have reached the disk, although the kernel shows it and calls the next sync a
//! success: a daemon may be killed between a failed sync and the cut that follows. So a start writes that part once more, before anything
//! is built on it.

use super::{
    row::{Ended, Lease},
    table::Table,
};
use crate::{
    digest::sha256,
    model::{BootTime, LeaseId, WallTime},
    sys::{
        Keep, Space, Storage, Volume,
        append::{Reopen, Scribe},
    },
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashSet},
    io::{self, Read},
    sync::Arc,
    time::Duration,
};

/// The layout that this version writes; it reads this one and the one before.
pub const FORMAT: u32 = 1;

/// One line.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub(super) enum Event {
    /// First in each file, and first after each sync.
    Heading {
        format: u32,
        state_id: String,
        /// Everything before it in this file is on the disk.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        synced: bool,
    },
    /// A lease as it is now: reserved, committed or being ended.
    Lease(Box<Lease>),
    /// Its life was extended.
    Renewed { id: LeaseId, expires: WallTime, deadline: BootTime },
    /// It is over.
    Ended(Box<Ended>),
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk.
    #[error("lease journal: {0}")]
    Io(#[from] io::Error),
    /// What was on the disk is damaged.
    #[error(
        "lease journal: {file}, line {line}: damaged, although it was on the disk. Leases may be missing, so nothing is started; restore the file or move it away to give up the leases in it"
    )]
    Damaged {
        /// In which file.
        file: String,
        /// Counted from 1.
        line: usize,
    },
    /// Written by a later version.
    #[error(
        "lease journal: written in format {found}, this version reads up to {FORMAT}; nothing was changed. Start the version that wrote it"
    )]
    Newer {
        /// Its format.
        found: u32,
    },
    /// It belongs to another state.
    #[error("lease journal: belongs to another installation's state")]
    Foreign,
}

/// What was read back.
#[derive(Default)]
pub(super) struct Folded {
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    pub(super) ended: Vec<Ended>,
    over: HashSet<LeaseId>,
    pub(super) torn: usize,
    pub(super) last_file: u64,
    /// Every file, and how many bytes of it are known to be on the disk.
    pub(super) files: Vec<(String, u64)>,
    /// What is known of the last file, if it can be gone on with: nothing is torn, and no other is to be removed.
    pub(super) whole: Option<Whole>,
}

/// A file that can be gone on with.
#[derive(Clone, Copy)]
pub(super) struct Whole {
    bytes: u64,
    /// About how long a snapshot of what is in it would be.
    snapshot: u64,
}

pub(super) fn encode(event: &Event, out: &mut Vec<u8>) {
    // Only maps with keys that are not strings could fail, and there are none.
    let body = serde_json::to_vec(event).expect("journal events are plain data");
    out.extend_from_slice(hex::encode(&sha256(&[&body])[..8]).as_bytes());
    out.push(b' ');
    out.extend_from_slice(&body);
    out.push(b'\n');
}

fn decode(line: &[u8]) -> Option<Event> {
    let (sum, body) = line.split_at_checked(17)?;
    (sum[..16] == *hex::encode(&sha256(&[body])[..8]).as_bytes() && sum[16] == b' ').then_some(())?;
    // Nearly every line is a lease, and an enum with its tag inside would be taken apart twice.
    if body.starts_with(LEASE) {
        return serde_json::from_slice(body).ok().map(Event::Lease);
    }
    serde_json::from_slice(body).ok()
}

/// How the line of a lease begins.
const LEASE: &[u8] = br#"{"event":"lease","#;

fn file_name(number: u64) -> String {
    format!("leases-{number:012}.jsonl")
}

fn file_number(name: &str) -> Option<u64> {
    name.strip_prefix("leases-")?.strip_suffix(".jsonl")?.parse().ok()
}

/// What was read is on the disk when this returns: the end of a file may have been in the kernel's memory alone, and what was cut off of one
/// after a failure must not come back.
pub(super) fn secure(volume: &mut dyn Volume, folded: &Folded) -> io::Result<()> {
    folded.files.iter().try_for_each(|(name, sure)| volume.refresh(name, *sure))
}

/// Reads every file in order. Damage behind the last sync that a heading tells of is what a crash leaves of lines that were not synced:
/// what stands before it counts. Damage before that is none of a crash's.
pub(super) fn fold(volume: &dyn Volume, state_id: &str) -> Result<Folded, JournalError> {
    let mut numbers: Vec<u64> = volume.list()?.iter().filter_map(|(name, _)| file_number(name)).collect();
    numbers.sort_unstable();
    let mut folded = Folded { last_file: numbers.last().copied().unwrap_or(0), ..Folded::default() };
    let (mut lines, mut length, mut ends) = (0u64, 0u64, false);
    for number in numbers {
        let mut bytes = Vec::new();
        volume.read(&file_name(number))?.read_to_end(&mut bytes)?;
        let (mut damaged, mut at, mut sure) = (None, 0, 0);
        (length, ends) = (length + bytes.len() as u64, bytes.ends_with(b"\n"));
        for (n, line) in bytes.split(|b| *b == b'\n').enumerate() {
            let begins = at;
            at += line.len() as u64 + 1;
            match decode(line) {
                None if line.is_empty() => {}
                None => {
                    damaged.get_or_insert(n + 1);
                    folded.torn += 1;
                }
                Some(Event::Heading { synced: true, .. }) if damaged.is_some() => {
                    return Err(JournalError::Damaged { file: file_name(number), line: damaged.unwrap_or_default() });
                }
                Some(Event::Heading { format, .. }) if format > FORMAT => return Err(JournalError::Newer { found: format }),
                Some(Event::Heading { state_id: of, .. }) if of != state_id => return Err(JournalError::Foreign),
                // Without the lines between, what it would do is not what was done.
                Some(_) if damaged.is_some() => folded.torn += 1,
                Some(event) => {
                    if matches!(event, Event::Heading { synced: true, .. }) {
                        sure = begins;
                    }
                    lines += 1;
                    folded.apply(event);
                }
            }
        }
        folded.files.push((file_name(number), sure));
    }
    if folded.files.len() == 1 && ends && folded.torn == 0 {
        let kept = (folded.leases.len() + folded.ended.len()) as u64;
        folded.whole = Some(Whole { bytes: length, snapshot: kept * (length / lines.max(1)) });
    }
    Ok(folded)
}

impl Folded {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Heading { .. } => {}
            // An event that lies behind its lease's end is an older copy from a snapshot.
            Event::Lease(lease) if self.over.contains(&lease.id) => {}
            // What is known already is no reservation any more, or the same one: an heir that is written down twice.
            Event::Lease(lease) if lease.state == super::State::Reserved && self.leases.contains_key(&lease.id) => {}
            Event::Lease(lease) => {
                self.leases.insert(lease.id, *lease);
            }
            Event::Renewed { id, expires, deadline } => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    (lease.expires, lease.deadline) = (expires, deadline);
                }
            }
            Event::Ended(ended) => {
                self.leases.remove(&ended.id);
                if self.over.insert(ended.id) {
                    self.ended.push(*ended);
                }
            }
        }
    }
}

/// Writes events, and a snapshot at the head of every file.
pub(super) struct Journal {
    volume: Box<dyn Volume>,
    table: Arc<Table>,
    state_id: String,
    number: u64,
    snapshot: u64,
    growth: u64,
    stale: bool,
    /// Nothing was written since the last sync.
    clean: bool,
}

/// A file is followed by another when it is this much longer than its snapshot.
pub(super) const GROWTH: u64 = 16 << 20;

impl Journal {
    /// Goes on with the last file, whose number is `number`, or begins a new one where that one is torn or long. A file is followed by
    /// another `growth` bytes behind twice its snapshot.
    pub(super) fn begin(
        volume: Box<dyn Volume>,
        table: Arc<Table>,
        state_id: String,
        (number, whole): (u64, Option<Whole>),
        growth: u64,
    ) -> io::Result<(Self, Box<dyn Storage>)> {
        let snapshot = whole.map_or(0, |whole| whole.snapshot);
        let mut journal = Self { volume, table, state_id, number, snapshot, growth, stale: whole.is_none(), clean: false };
        if whole.is_some_and(|whole| !journal.full(whole.bytes)) {
            let storage = journal.volume.open(&file_name(number))?;
            journal.synced();
            return Ok((journal, storage));
        }
        let mut out = Vec::new();
        let mut storage = journal.open(Reopen::Full, &mut out)?;
        storage.write_all(&out)?;
        storage.sync()?;
        journal.synced();
        Ok((journal, storage))
    }

    fn heading(&self, synced: bool, out: &mut Vec<u8>) {
        encode(&Event::Heading { format: FORMAT, state_id: self.state_id.clone(), synced }, out);
    }

    fn snapshot(&self, out: &mut Vec<u8>) {
        // Behind what was carried over from a failed file, of which nothing is synced here.
        self.heading(false, out);
        // Both of one moment.
        let mut ended = Vec::new();
        self.table.each(|lease| encode(&Event::Lease(Box::new(lease.clone())), out), |over| ended.push(over.clone()));
        for over in ended {
            encode(&Event::Ended(Box::new(over)), out);
        }
    }
}

impl Scribe for Journal {
    type Item = Event;
    type Done = ();

    fn encode(&mut self, item: Event, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.clean) {
            self.heading(true, out);
        }
        encode(&item, out);
    }
    fn due(&self) -> Option<Duration> {
        None
    }
    fn turn(&mut self, _low: bool, _out: &mut Vec<u8>) {}
    fn written(&mut self) {}
    fn synced(&mut self) {
        self.clean = true;
        if std::mem::take(&mut self.stale) {
            for (name, _) in self.volume.list().unwrap_or_default() {
                if file_number(&name).is_some_and(|number| number < self.number) {
                    // What stays is folded again and changes nothing.
                    let _ = self.volume.remove(&name);
                }
            }
        }
    }
    fn dropped(&mut self) {}
    fn full(&self, len: u64) -> bool {
        len > self.snapshot * 2 + self.growth
    }
    fn close(&mut self, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.clean) {
            self.heading(true, out);
        }
    }
    fn open(&mut self, _why: Reopen, out: &mut Vec<u8>) -> io::Result<Box<dyn Storage>> {
        self.clean = false;
        self.number += 1;
        let storage = self.volume.create(&file_name(self.number))?;
        let before = out.len();
        self.snapshot(out);
        self.snapshot = (out.len() - before) as u64;
        self.stale = true;
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

/// The event that says how a lease is now.
pub(super) fn now(lease: &Lease) -> Event {
    Event::Lease(Box::new(lease.clone()))
}

/// A small file that says what the folder is; written once.
pub(super) fn mark(volume: &mut dyn Volume, text: &str) -> io::Result<()> {
    volume.replace("STATE", text.as_bytes(), Keep::Durably)
}
