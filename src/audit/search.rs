//! Every record of a log that fits a question, offline: each byte of every segment is looked at, so nothing is missed whatever the wall
//! clock did.

use super::batch::Batch;
use super::read::{Filter, Record, segments};
use memchr::memmem::Finder;
use std::{fs::File, io, path::Path};

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Searched {
    /// Files.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Records that fit.
    pub found: u64,
}

/// Hands every record that the filter admits to `found`, oldest first, with its line. Lines that are none are skipped: `verify` reports
/// them. Whether what was found is what was written is for `verify` to say as well.
pub fn search<E: From<io::Error>>(
    folder: &Path,
    filter: &Filter,
    mut found: impl FnMut(&str, &Record) -> Result<(), E>,
) -> Result<Searched, E> {
    let needles: Vec<Finder<'_>> = needles(filter).iter().map(|text| Finder::new(text).into_owned()).collect();
    let mut searched = Searched::default();
    for (_, path) in segments(folder)? {
        let (mut batch, mut file) = (Batch::default(), File::open(path)?);
        searched.segments += 1;
        while batch.read(&mut file)? {
            searched.bytes += batch.len() as u64;
            for (line, record) in batch.parts(|part| fitting(part, &needles, filter)) {
                searched.found += 1;
                found(line, &record)?;
            }
        }
    }
    Ok(searched)
}

/// The records in these lines that the filter admits.
fn fitting<'a>(part: &'a [u8], needles: &[Finder<'_>], filter: &Filter) -> Vec<(&'a str, Record)> {
    let Some((first, others)) = needles.split_first() else {
        return part.split_inclusive(|b| *b == b'\n').filter_map(|line| admitted(line, filter)).collect();
    };
    let (mut all, mut at) = (Vec::new(), 0);
    while let Some(hit) = first.find(&part[at..]).map(|hit| at + hit) {
        let begin = memchr::memrchr(b'\n', &part[..hit]).map_or(0, |end| end + 1);
        let end = memchr::memchr(b'\n', &part[hit..]).map_or(part.len(), |end| hit + end + 1);
        let line = &part[begin..end];
        if others.iter().all(|needle| needle.find(line).is_some()) {
            all.extend(admitted(line, filter));
        }
        at = end;
    }
    all
}

fn admitted<'a>(line: &'a [u8], filter: &Filter) -> Option<(&'a str, Record)> {
    let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let record = serde_json::from_str::<Record>(line).ok()?;
    filter.admits(&record).then_some((line, record))
}

/// Texts that every record that fits has somewhere, rarest first.
fn needles(filter: &Filter) -> Vec<String> {
    let member = |name: &str, value: &str| format!("\"{name}\":\"{value}\"");
    let mut needles = Vec::new();
    needles.extend(filter.request.map(|request| member("request", &request.to_string())));
    needles.extend(filter.lease.map(|lease| member("lease", &lease.to_string())));
    // Its name, or what was claimed.
    needles.extend(filter.secret.as_ref().map(|secret| format!("\"{secret}\"")));
    needles.extend(filter.identity.as_ref().map(|identity| member("name", identity)));
    needles.extend(common_time(filter).map(|time| format!("\"time\":\"{time}")));
    needles
}

/// As much of the time as is the same for all that are wanted: a year, a month, a day.
fn common_time(filter: &Filter) -> Option<String> {
    let (since, until) = (filter.since?, filter.until?);
    let last = crate::model::WallTime(until.0.checked_sub(1)?);
    let (since, last) = (since.rfc3339(), last.rfc3339());
    let same = since.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    (same >= 4).then(|| since[..same].to_owned())
}
