//! Offline verification: one pass over the files, a few mebibytes in memory at a time, plus the anchors.
//!
//! What it proves: up to `signed_to` the log is what the holder of the key wrote, in order and whole; with anchors, also that nothing
//! is missing up to the last anchor. What it cannot see: records cut from the end behind the last anchor, and what stands behind the
//! last head.

use super::batch::Batch;
use super::chain::{self, Scan, Tip};
use super::note::{Note, Says};
use super::report::{Flaw, Report};
use super::segment::{HEAD_FILE, STUB_FILE, parse_name};
use crate::sys::Volume;
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

/// What the verifier knows beforehand.
#[derive(Clone, Debug, Default)]
pub struct Pinned {
    /// Public keys that may have signed the first head. None: the key of the first head is believed, and the report says so.
    pub keys: Vec<[u8; 32]>,
    /// Heads that were kept elsewhere, in any order.
    pub anchors: Vec<Note>,
    /// How many records may follow a head before the next; 0 for the default, which suits the default of one head per 1000.
    pub max_unsigned: u64,
}

const MAX_UNSIGNED: u64 = 4096;
const MAX_LINE: u64 = 1 << 20;

/// Reads a file of public keys: one of 64 hexadecimal digits a line; `#` begins a comment. Anything else is an error.
pub fn read_keys(path: &Path) -> io::Result<Vec<[u8; 32]>> {
    let text = std::fs::read_to_string(path)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    lines.map(|line| chain::digest(line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a public key in hex"))).collect()
}

/// Reads the heads in a file of any form, such as the output of `journalctl` or a syslog file: at most one a line, others are skipped.
pub fn read_anchors(path: &Path) -> io::Result<Vec<Note>> {
    let mut notes = Vec::new();
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    while reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        notes.extend(Note::find(&String::from_utf8_lossy(&line)));
        line.clear();
    }
    Ok(notes)
}

/// Verifies the segments in `folder`. An error means that something could not be read; everything else is in the report.
pub fn verify(folder: &Path, pinned: &Pinned) -> io::Result<Report> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    verify_files(names.collect::<io::Result<_>>()?, &|name| Ok(Box::new(File::open(folder.join(name))?)), pinned)
}

/// The same for a log that need not be in a folder.
pub fn verify_volume(volume: &dyn Volume, pinned: &Pinned) -> io::Result<Report> {
    verify_files(volume.list()?.into_iter().map(|(name, _)| name).collect(), &|name| volume.read(name), pinned)
}

type Open<'a> = dyn Fn(&str) -> io::Result<Box<dyn Read>> + 'a;

fn verify_files(names: Vec<String>, open: &Open<'_>, pinned: &Pinned) -> io::Result<Report> {
    let mut segments: Vec<_> = names.into_iter().filter_map(|name| Some((parse_name(&name)?, name))).collect();
    segments.sort();
    let mut anchors = pinned.anchors.clone();
    // The log's own head file is the nearest anchor: it finds a log that was cut by accident.
    anchors.extend(read_note(open, HEAD_FILE)?);
    anchors.retain(|note| note.says == Says::Head);
    anchors.sort_by_key(|note| note.tip.seq);
    let mut state = State {
        report: Report { pinned: !pinned.keys.is_empty(), ..Report::default() },
        tip: None,
        trusted: pinned.keys.clone(),
        key: None,
        origin: None,
        signed: 0,
        run_reported: false,
        max_unsigned: if pinned.max_unsigned == 0 { MAX_UNSIGNED } else { pinned.max_unsigned },
        stub: read_note(open, STUB_FILE)?.filter(|note| note.says == Says::Stub),
        anchors,
        next_anchor: 0,
        missed: Vec::new(),
        overlap: None,
    };
    for (at, (first, name)) in segments.iter().enumerate() {
        let next = segments.get(at + 1).map(|(next, _)| *next);
        state.segment(open(name)?, name, *first, next)?;
    }
    Ok(state.finish(segments.last().map_or("", |(_, name)| name)))
}

fn read_note(open: &Open<'_>, name: &str) -> io::Result<Option<Note>> {
    let mut text = String::new();
    match open(name) {
        Ok(mut file) => file.read_to_string(&mut text).map(|_| Note::find(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

struct State {
    report: Report,
    tip: Option<Tip>,
    trusted: Vec<[u8; 32]>,
    /// The key that signs at this point of the log.
    key: Option<[u8; 32]>,
    origin: Option<String>,
    /// The last record that a head covers, or where the log begins.
    signed: u64,
    run_reported: bool,
    max_unsigned: u64,
    stub: Option<Note>,
    anchors: Vec<Note>,
    next_anchor: usize,
    /// Anchors that do not fit, to be judged when all keys are known: with file and line.
    missed: Vec<(usize, String, u64, Flaw)>,
    /// A file in which more stands than counts, until a record says why: name, line, last record that counts.
    overlap: Option<(String, u64, u64)>,
}

impl State {
    fn segment(&mut self, mut reader: impl Read, name: &str, first: u64, next: Option<u64>) -> io::Result<()> {
        self.report.segments += 1;
        let (mut batch, mut number) = (Batch::default(), 0);
        while batch.read(&mut reader)? {
            // What a line says of itself does not depend on the others.
            for (body, scan, fits) in batch.each(|line| {
                let body = line.strip_suffix(b"\n");
                let scan = body.and_then(chain::scan);
                let fits = scan.zip(body).is_some_and(|(scan, body)| chain::hash_of(body) == scan.hash);
                (body, scan, fits)
            }) {
                number += 1;
                // Where the next file goes on, this one has ended, whatever stands in it.
                let beyond = next.is_some_and(|next| self.tip.is_some_and(|tip| tip.seq + 1 == next));
                if beyond && number > 1 {
                    self.excused_by_now();
                    self.overlap.get_or_insert((name.to_owned(), number, self.tip.map_or(0, |tip| tip.seq)));
                    self.report.abandoned += 1;
                    continue;
                }
                match (body, scan) {
                    (None, _) => self.report.add(name, number, None, Flaw::Torn),
                    (Some(_), None) => self.report.add(name, number, None, Flaw::Frame),
                    (Some(body), Some(scan)) => {
                        if number == 1 && scan.seq != first {
                            self.report.add(name, number, Some(scan.seq), Flaw::Name);
                        }
                        if !fits {
                            self.report.add(name, number, Some(scan.seq), Flaw::Hash);
                        }
                        self.record(body, scan, name, number);
                    }
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, body: &[u8], scan: Scan<'_>, file: &str, line: u64) {
        let mut add = |flaw| self.report.add(file, line, Some(scan.seq), flaw);
        match self.tip {
            None => self.begin(&scan, file, line),
            Some(tip) if scan.seq <= tip.seq => add(Flaw::Repeated),
            Some(tip) if scan.seq > tip.seq + 1 => add(Flaw::Missing { from: tip.seq + 1, to: scan.seq - 1 }),
            Some(tip) if scan.prev != tip.hash => add(Flaw::Link),
            Some(_) => {}
        }
        self.report.records += 1;
        self.report.first.get_or_insert(scan.seq);
        if matches!(scan.kind, "head" | "key") {
            self.signed_note(body, &scan, file, line);
        } else if scan.kind == "gap" {
            self.excuse(body);
        }
        if let Some(stub) = self.stub.take_if(|stub| stub.tip.seq <= scan.seq)
            && stub.tip.seq == scan.seq
            && stub.tip.hash != scan.hash
        {
            self.report.add(file, line, Some(scan.seq), Flaw::Stub);
        }
        self.pass_anchors(&scan, file, line);
        if scan.seq.saturating_sub(self.signed) > self.max_unsigned && !self.run_reported {
            self.run_reported = true;
            self.report.add(file, line, Some(scan.seq), Flaw::Unsigned);
        }
        self.tip = Some(Tip { seq: scan.seq, hash: scan.hash });
        let report = &mut self.report;
        report.last = Some(scan.seq);
        let time = report.last_time.get_or_insert_default();
        time.clear();
        time.push_str(scan.time);
    }

    /// The first record that is there: the first of all, or one that a signed statement leads to.
    fn begin(&mut self, scan: &Scan<'_>, file: &str, line: u64) {
        self.signed = scan.seq - 1;
        let flaw = match &self.stub {
            _ if scan.seq == 1 => (scan.prev != [0; 32]).then_some(Flaw::Link),
            // A crash while pruning: the statement is about a record that is still here.
            Some(stub) if stub.tip.seq >= scan.seq => self.stub_flaw(stub),
            Some(stub) if (stub.tip.seq + 1, stub.tip.hash) == (scan.seq, scan.prev) => self.stub_flaw(stub),
            Some(_) => Some(Flaw::Stub),
            None => Some(Flaw::Beginning),
        };
        if let Some(flaw) = flaw {
            self.report.add(file, line, Some(scan.seq), flaw);
        }
    }

    fn stub_flaw(&self, stub: &Note) -> Option<Flaw> {
        match (self.trusted.is_empty() || self.trusted.contains(&stub.key), stub.holds()) {
            (_, false) => Some(Flaw::Signature),
            (false, true) => Some(Flaw::Key),
            (true, true) => None,
        }
    }

    fn signed_note(&mut self, body: &[u8], scan: &Scan<'_>, file: &str, line: u64) {
        // `scan` has seen that the line is ASCII.
        let note = std::str::from_utf8(body).ok().and_then(Note::find);
        let trusted = |key: &[u8; 32]| match self.key {
            Some(now) => now == *key,
            None => self.trusted.is_empty() || self.trusted.contains(key),
        };
        let flaw = match &note {
            Some(note) if (note.says == Says::Head) != (scan.kind == "head") || note.says == Says::Stub => Flaw::Head,
            Some(note) if (note.tip.seq + 1, note.tip.hash) != (scan.seq, scan.prev) => Flaw::Head,
            Some(note) if self.origin.as_ref().is_some_and(|origin| *origin != note.origin) => Flaw::Head,
            Some(note) if !trusted(&note.key) => Flaw::Key,
            Some(note) if note.holds() => {
                self.origin.get_or_insert_with(|| note.origin.clone());
                let key = if let Says::Key(new) = note.says { new } else { note.key };
                self.key = Some(key);
                if !self.trusted.contains(&key) {
                    self.trusted.push(key);
                }
                self.report.heads += u64::from(note.says == Says::Head);
                self.report.signed_to = Some(note.tip.seq);
                (self.signed, self.run_reported) = (note.tip.seq, false);
                return;
            }
            Some(_) => Flaw::Signature,
            None => Flaw::Head,
        };
        self.report.add(file, line, Some(scan.seq), flaw);
    }

    fn pass_anchors(&mut self, scan: &Scan<'_>, file: &str, line: u64) {
        while let Some(anchor) = self.anchors.get(self.next_anchor).filter(|anchor| anchor.tip.seq <= scan.seq) {
            if anchor.tip.seq == scan.seq && anchor.tip.hash == scan.hash {
                self.report.anchors += 1;
            } else if anchor.tip.seq == scan.seq {
                self.missed.push((self.next_anchor, file.to_owned(), line, Flaw::Anchor));
            } else {
                // Pruned, or among records whose absence was reported.
                self.report.anchors_elsewhere += 1;
            }
            self.next_anchor += 1;
        }
    }

    /// A `gap` record says why a file holds more than counts.
    fn excuse(&mut self, body: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Line {
            more: Option<More>,
        }
        #[derive(serde::Deserialize)]
        struct More {
            cause: String,
            file: String,
            after: u64,
        }
        let more = serde_json::from_slice::<Line>(body).ok().and_then(|line| line.more);
        let said = |more: &More| self.overlap.as_ref().is_some_and(|(file, _, after)| (&more.file, more.after) == (file, *after));
        if more.is_some_and(|more| more.cause == "failed" && said(&more)) {
            self.overlap = None;
        }
    }

    /// Another overlap begins: the one before it must have been explained.
    fn excused_by_now(&mut self) {
        let last = self.tip.map_or(0, |tip| tip.seq);
        if let Some((file, line, after)) = self.overlap.take_if(|(_, _, after)| *after != last) {
            self.report.add(&file, line, Some(after), Flaw::Overlap);
        }
    }

    fn finish(mut self, last_file: &str) -> Report {
        if let Some((file, line, after)) = self.overlap.take() {
            self.report.add(&file, line, Some(after), Flaw::Overlap);
        }
        let last = self.tip.map_or(0, |tip| tip.seq);
        let missed = std::mem::take(&mut self.missed).into_iter();
        let behind = (self.next_anchor..self.anchors.len()).map(|at| (at, last_file.to_owned(), 0, Flaw::Truncated { anchored: 0 }));
        for (at, file, line, flaw) in missed.chain(behind).collect::<Vec<_>>() {
            let anchor = &self.anchors[at];
            if self.origin.as_ref().is_some_and(|origin| *origin != anchor.origin) {
                self.report.anchors_elsewhere += 1;
                continue;
            }
            let genuine = (self.trusted.is_empty() || self.trusted.contains(&anchor.key)) && anchor.holds();
            let flaw = match flaw {
                _ if !genuine => Flaw::ForgedAnchor,
                Flaw::Truncated { .. } => Flaw::Truncated { anchored: anchor.tip.seq },
                other => other,
            };
            self.report.add(&file, line, Some(anchor.tip.seq.min(last)), flaw);
        }
        self.report
    }
}
