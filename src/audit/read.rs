//! Reading the log: queries, the records of one request, and following it from a place of one's own.

use super::kind::{Kind, Outcome};
use super::note::{Note, Says};
use super::segment::parse_name;
use crate::model::{LeaseId, RequestId, WallTime};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};
use tokio::sync::watch;

/// One record, read back. Members that nothing here asks for stay in `rest` as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Version of the format.
    pub v: u64,
    /// Its number.
    pub seq: u64,
    /// When it was written, RFC 3339.
    pub time: String,
    /// What it is about.
    pub kind: Kind,
    /// The boot in which it was written.
    pub boot: String,
    /// The request it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestId>,
    /// The lease it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
    /// Who it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Named>,
    /// Which secret it was about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Named>,
    /// How it went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// The code of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// All other members.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// An object with a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: String,
    /// All other members.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// Which records are wanted; what is `None` does not matter.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this identity.
    pub identity: Option<String>,
    /// Of this secret.
    pub secret: Option<String>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// With this outcome.
    pub outcome: Option<Outcome>,
    /// Of this lease.
    pub lease: Option<LeaseId>,
    /// Of this request.
    pub request: Option<RequestId>,
    /// Written at or after this instant.
    pub since: Option<WallTime>,
    /// Written before this instant.
    pub until: Option<WallTime>,
}

impl Filter {
    /// Whether the record is wanted.
    pub fn admits(&self, record: &Record) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, found: Option<&T>) -> bool {
            wanted.as_ref().is_none_or(|wanted| found == Some(wanted))
        }
        is(&self.identity, record.identity.as_ref().map(|named| &named.name))
            && self.admits_secret(record)
            && self.admits_kind(record)
            && is(&self.outcome, record.outcome.as_ref())
            && is(&self.lease, record.lease.as_ref())
            && is(&self.request, record.request.as_ref())
            && self.admits_time(&record.time)
    }
}

impl Filter {
    fn admits_time(&self, time: &str) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        let within = |time: WallTime| self.since.is_none_or(|since| time >= since) && self.until.is_none_or(|until| time < until);
        WallTime::parse(time).is_some_and(within)
    }

    /// Whoever has no identity, or said what does not hold, is refused before a definition is looked for: then it is the one that was asked for.
    fn admits_secret(&self, record: &Record) -> bool {
        let Some(wanted) = &self.secret else { return true };
        let claimed = || record.rest.get("claimed").and_then(|claimed| claimed.get("secret")).and_then(serde_json::Value::as_str);
        match &record.secret {
            Some(named) => named.name == *wanted,
            None => claimed() == Some(wanted.as_str()),
        }
    }

    /// A record that counts others is of their kind as well.
    fn admits_kind(&self, record: &Record) -> bool {
        let Some(wanted) = self.kind else { return true };
        let of = || record.rest.get("folded").and_then(|folded| folded.get("of")).and_then(serde_json::Value::as_str);
        record.kind == wanted || (record.kind == Kind::Fold && of() == Some(wanted.as_str()))
    }
}

/// At most `limit` records from number `from` on that the filter admits. Lines that are none are skipped: `verify` reports them.
pub fn query(folder: &Path, from: u64, filter: &Filter, limit: usize) -> io::Result<Vec<Record>> {
    let mut follower = Follower::new(folder, from, None);
    let mut found = Vec::new();
    while found.len() < limit {
        let lines = follower.read(256)?;
        if lines.is_empty() {
            break;
        }
        let records = lines.iter().filter_map(|line| serde_json::from_str::<Record>(line).ok());
        found.extend(records.filter(|record| filter.admits(record)).take(limit - found.len()));
    }
    Ok(found)
}

/// The records of one request, oldest first, at most `limit`. Looks at segments from the newest back to the time in the id.
pub fn find_request(folder: &Path, request: RequestId, limit: usize) -> io::Result<Vec<Record>> {
    let needle = format!("\"request\":\"{request}\"");
    let mut found = Vec::new();
    for (_, path) in segments(folder)?.into_iter().rev() {
        let mut here = Vec::new();
        let mut first_time = None;
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path)?);
        let mut bytes = Vec::new();
        while reader.read_until(b'\n', &mut bytes)? > 0 {
            // Lines are ASCII; anything else is for `verify` to report.
            let line = std::str::from_utf8(&bytes).unwrap_or("");
            if first_time.is_none() {
                first_time = super::chain::scan(line.trim_end().as_bytes()).and_then(|scan| WallTime::parse(scan.time));
            }
            if line.contains(&needle) {
                here.extend(serde_json::from_str::<Record>(line).ok().filter(|record| record.request == Some(request)));
            }
            bytes.clear();
        }
        here.append(&mut found);
        found = here;
        if first_time.is_some_and(|time| time.unix_ms() < request.unix_ms()) {
            break;
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// The public key that the log introduced last, if it ever changed its key: from its `key` records, whose signatures are not looked at.
pub fn last_introduced(folder: &Path) -> io::Result<Option<[u8; 32]>> {
    let mut found = None;
    for (_, path) in segments(folder)?.into_iter().rev() {
        let (mut reader, mut line) = (BufReader::with_capacity(1 << 18, File::open(path)?), Vec::new());
        // A line without its end is torn: recovery cuts it, so it introduced nothing.
        while reader.read_until(b'\n', &mut line)? > 0 && line.pop() == Some(b'\n') {
            let line = std::mem::take(&mut line);
            if super::chain::scan(&line).is_some_and(|scan| scan.kind == Kind::Key.as_str())
                && let Some(Says::Key(key)) = std::str::from_utf8(&line).ok().and_then(Note::find).map(|note| note.says)
            {
                found = Some(key);
            }
        }
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

pub(super) fn segments(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        found.extend(entry.file_name().to_str().and_then(parse_name).map(|first| (first, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Reads the log from a number on, across segments, at its own pace: the writer never waits for it.
pub struct Follower {
    folder: PathBuf,
    next: u64,
    missed: u64,
    last: Option<watch::Receiver<u64>>,
    open: Option<(PathBuf, BufReader<File>)>,
    /// The beginning of a line whose end is not written yet.
    part: Vec<u8>,
}

impl Follower {
    /// Begins with record `from` (0 means 1), or with the oldest that is kept if that one is pruned. `last` comes from `Audit::watch`;
    /// without it the follower reads whatever is in the files and never waits.
    pub fn new(folder: &Path, from: u64, last: Option<watch::Receiver<u64>>) -> Self {
        Self { folder: folder.to_owned(), next: from.max(1), missed: 0, last, open: None, part: Vec::new() }
    }

    /// The number of the next record: give it to another follower to go on there.
    pub fn position(&self) -> u64 {
        self.next
    }

    /// How many records were pruned before they could be read.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// At most `limit` lines that are written by now, without their line feeds; none if there is nothing new. Blocks on the disk only.
    pub fn read(&mut self, limit: usize) -> io::Result<Vec<String>> {
        let end = self.last.as_ref().map_or(u64::MAX, |last| *last.borrow());
        if let Some((_, reader)) = &mut self.open {
            // Bytes that were read ahead may belong to a write that failed and was taken back: they are read again.
            reader.seek(SeekFrom::Current(-(self.part.len() as i64)))?;
            self.part.clear();
        }
        let mut lines = Vec::new();
        while lines.len() < limit && self.next <= end {
            if !self.read_part()? {
                // More may have been written, and the next segment begun, after that read: only a second one finds the true end.
                let later = self.later()?;
                if !self.read_part()? {
                    let Some(path) = later else { break };
                    self.open = Some((path.clone(), BufReader::with_capacity(1 << 16, File::open(path)?)));
                    self.part.clear();
                    continue;
                }
            }
            self.part.pop();
            let line = String::from_utf8(std::mem::take(&mut self.part)).unwrap_or_default();
            let Some(seq) = super::chain::scan(line.as_bytes()).map(|scan| scan.seq) else { continue };
            if seq >= self.next {
                self.missed += seq - self.next;
                self.next = seq + 1;
                lines.push(line);
            }
        }
        Ok(lines)
    }

    /// As `read`, but waits until there is something. None once the log is closed and read to its end.
    pub async fn next(&mut self, limit: usize) -> io::Result<Option<Vec<String>>> {
        loop {
            let lines = self.read(limit)?;
            if !lines.is_empty() {
                return Ok(Some(lines));
            }
            let (next, Some(last)) = (self.next, &mut self.last) else { return Ok(None) };
            if last.wait_for(|last| *last >= next).await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Reads on to the end of a line; false if it is not there.
    fn read_part(&mut self) -> io::Result<bool> {
        let Some((_, reader)) = &mut self.open else { return Ok(false) };
        reader.read_until(b'\n', &mut self.part)?;
        Ok(self.part.ends_with(b"\n"))
    }

    /// The segment to go on with at the end of the present one: that in which the next record is, or, where records are missing, the
    /// first one behind it.
    fn later(&self) -> io::Result<Option<PathBuf>> {
        let segments = segments(&self.folder)?;
        let open = self.open.as_ref().map(|(path, _)| path);
        let holds = segments.iter().rev().find(|(first, _)| *first <= self.next).filter(|(_, path)| open != Some(path));
        Ok(holds.or_else(|| segments.iter().find(|(first, _)| *first > self.next)).map(|(_, path)| path.clone()))
    }
}
