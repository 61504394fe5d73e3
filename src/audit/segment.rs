//! The files of the log: their names, how the last one is taken up again after a stop or a crash, and what is pruned.

use super::books::Books;
use super::chain::{self, Tip};
use super::note::Note;
use crate::sys::{Keep, Storage, Volume};
use std::io::{self, BufRead, BufReader, Read};

/// The last signed head, so that a log that was cut is noticed here.
pub(super) const HEAD_FILE: &str = "head";
/// The signed statement of what was pruned.
pub(super) const STUB_FILE: &str = "pruned";
const KEPT_CUT: u64 = 1 << 20;
/// A last segment shorter than this is not all that was written of late.
const SHORT: u64 = 1 << 20;
const MAX_LINE: u64 = 1 << 20;

/// One file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub first: u64,
    pub name: String,
    pub bytes: u64,
}

pub(super) fn name(first: u64) -> String {
    format!("audit-{first:020}.jsonl")
}

pub(super) fn parse_name(text: &str) -> Option<u64> {
    let first = text.strip_prefix("audit-")?.strip_suffix(".jsonl")?.parse().ok()?;
    (name(first) == text).then_some(first)
}

/// The segments of a folder, oldest first.
pub(super) fn list(volume: &dyn Volume) -> io::Result<Vec<Segment>> {
    let files = volume.list()?.into_iter();
    let mut found: Vec<_> = files.filter_map(|(name, bytes)| Some(Segment { first: parse_name(&name)?, name, bytes })).collect();
    found.sort_by_key(|segment| segment.first);
    Ok(found)
}

/// Reads a small file with one note in it.
pub(super) fn read_note(volume: &dyn Volume, name: &str) -> io::Result<Option<Note>> {
    let mut text = String::new();
    match volume.read(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(file) => file.take(4096).read_to_string(&mut text)?,
    };
    Ok(Note::find(&text))
}

/// Where a log that exists goes on.
pub(super) struct Recovered {
    /// The last whole record that is linked to all before it in its file.
    pub tip: Tip,
    /// The file to go on with, and its first record; `None` for a new log.
    pub current: Option<(u64, Box<dyn Storage>)>,
    /// Bytes of a torn end that were cut off, and put aside.
    pub cut: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// What the record says of leases of late.
    pub books: Books,
}

/// Finds the last whole record, and cuts what follows it. On the way it looks whether record `seen` is what it was. Records up to number
/// `sure` are known to be on the disk; all are when this returns.
pub(super) fn recover(volume: &mut dyn Volume, seen: Option<Tip>, sure: u64) -> io::Result<Recovered> {
    let mut segments = list(volume)?;
    let mut cut = 0;
    while let Some(last) = segments.last() {
        // A segment that was just begun says little of late.
        let mut books = Books::looking_for(seen);
        if let [.., before, _] = &segments[..]
            && last.bytes < SHORT
        {
            last_whole(volume.read(&before.name)?, before.first, sure, &mut books)?;
        }
        let (tip, whole, known) = last_whole(volume.read(&last.name)?, last.first, sure, &mut books)?;
        if tip.is_some()
            && let [.., before, _] = &segments[..]
            && is_premature(volume, before, last, whole)?
        {
            volume.remove(&last.name)?;
            segments.pop();
            continue;
        }
        let sound = tip.map_or(last.first.saturating_sub(1), |tip| tip.seq);
        if whole < last.bytes && sound < sure {
            // A crash leaves what was on the disk: this is damage, and evidence. Nothing of it is touched.
            let bytes = segments.iter().map(|segment| segment.bytes).sum();
            return Ok(Recovered { tip: tip.unwrap_or(Tip { seq: sound, ..Tip::default() }), current: None, cut: 0, bytes, books });
        }
        if whole < last.bytes {
            put_aside(volume, last, whole)?;
            cut += last.bytes - whole;
        }
        let Some(tip) = tip else {
            // Made, and never filled: the one before it is the last.
            volume.remove(&last.name)?;
            segments.pop();
            continue;
        };
        let mut storage = volume.open(&last.name)?;
        if whole < last.bytes {
            storage.truncate(whole)?;
        }
        // Also when nothing was cut: a daemon that was killed leaves records that the kernel has and the disk has not, and what is built
        // on them must not be on the disk without them. If it was killed between a failed sync and the cut that follows, the kernel calls
        // them clean: so they are written once more.
        volume.refresh(&last.name, known)?;
        // And what was cut off an earlier one after a failure must not come back behind it: then this one would seem never to have taken over.
        for earlier in &segments[..segments.len() - 1] {
            volume.refresh(&earlier.name, earlier.bytes)?;
        }
        let bytes = segments.iter().map(|segment| segment.bytes).sum::<u64>() - (last.bytes - whole);
        books.close();
        return Ok(Recovered { tip, current: Some((last.first, storage)), cut, bytes, books });
    }
    Ok(Recovered { tip: Tip::default(), current: None, cut, bytes: 0, books: Books::default() })
}

/// Whether a file that was to take over from a failed one never did: more stands in the failed one, whole or torn, than the new one's
/// name says, and the record that would explain it, synced before anything else is acknowledged, is not there. So nobody was promised
/// what is in the new one, and the failed one is still the last. Of `last`, so many bytes are whole records.
fn is_premature(volume: &dyn Volume, before: &Segment, last: &Segment, last_bytes: u64) -> io::Result<bool> {
    let (tip, whole, _) = last_whole(volume.read(&before.name)?, before.first, 0, &mut Books::default())?;
    // Where records are missing in between, nothing is made better by removing more.
    let seq = tip.map_or(before.first - 1, |tip| tip.seq);
    if seq + 1 < last.first || seq + 1 == last.first && whole == before.bytes {
        return Ok(false);
    }
    let mut lines = BufReader::new(volume.read(&last.name)?.take(last_bytes));
    let (mut line, said) = (Vec::new(), format!("\"cause\":\"failed\",\"file\":\"{}\"", before.name));
    while lines.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
        let body = line.strip_suffix(b"\n").unwrap_or_default();
        if chain::scan(body).is_some_and(|scan| scan.kind == "gap") && body.windows(said.len()).any(|part| part == said.as_bytes()) {
            return Ok(false);
        }
        line.clear();
    }
    Ok(true)
}

fn put_aside(volume: &mut dyn Volume, segment: &Segment, whole: u64) -> io::Result<()> {
    let mut file = volume.read(&segment.name)?;
    io::copy(&mut file.by_ref().take(whole), &mut io::sink())?;
    let mut rest = Vec::new();
    file.take(KEPT_CUT).read_to_end(&mut rest)?;
    volume.replace(&format!("torn-{:020}-{whole}", segment.first), &rest, Keep::Durably)
}

/// The last record of the longest beginning that is whole and linked, the bytes of that beginning, and of its part up to record `sure`.
fn last_whole(file: Box<dyn Read>, first: u64, sure: u64, books: &mut Books) -> io::Result<(Option<Tip>, u64, u64)> {
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let (mut tip, mut whole, mut known, mut line): (Option<Tip>, u64, u64, Vec<u8>) = (None, 0, 0, Vec::new());
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)? as u64;
        let Some(body) = line.strip_suffix(b"\n") else { break };
        if let Some(format) = chain::other_format(body) {
            // Cutting it off as torn would destroy what another version wrote.
            return Err(io::Error::other(format!(
                "a record has format {format}, this version reads 1; nothing was changed. Start the version that wrote it"
            )));
        }
        let Some(scan) = chain::scan(body).filter(|scan| scan.hash == chain::hash_of(body)) else { break };
        let linked = match tip {
            Some(tip) => (scan.seq, scan.prev) == (tip.seq + 1, tip.hash),
            None => scan.seq == first,
        };
        if !linked {
            break;
        }
        books.see(&scan, body);
        tip = Some(Tip { seq: scan.seq, hash: scan.hash });
        whole += read;
        if scan.seq <= sure {
            known = whole;
        }
    }
    Ok((tip, whole, known))
}

/// How long segments are kept. Whatever is larger or older goes, oldest first; the last segment never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Days after a segment's last record.
    pub days: u64,
    /// Bytes of all segments.
    pub bytes: u64,
}

/// What `prune` may remove: the segments, and the last record in them.
pub(super) struct Doomed {
    pub segments: Vec<Segment>,
    pub tip: Tip,
}

/// Chooses what has to go: at most up to record `limit`, older than `before` (RFC 3339) or over the bytes.
pub(super) fn doomed(volume: &dyn Volume, keep: Retention, before: &str, limit: u64) -> io::Result<Option<Doomed>> {
    let segments = list(volume)?;
    let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
    let mut doomed: Option<Doomed> = None;
    for pair in segments.windows(2) {
        let mut line = Vec::new();
        BufReader::new(volume.read(&pair[1].name)?).take(1 << 16).read_until(b'\n', &mut line)?;
        // A segment that cannot be read is evidence: it and all after it stay.
        let Some(scan) = line.strip_suffix(b"\n").and_then(chain::scan).filter(|scan| scan.seq == pair[1].first) else { break };
        let wanted = total > keep.bytes || scan.time < before;
        if !wanted || scan.seq > limit + 1 {
            break;
        }
        total -= pair[0].bytes;
        let found = doomed.get_or_insert(Doomed { segments: Vec::new(), tip: Tip::default() });
        found.segments.push(pair[0].clone());
        found.tip = Tip { seq: scan.seq - 1, hash: scan.prev };
    }
    Ok(doomed)
}
