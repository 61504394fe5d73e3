//! Many lines of a segment at a time, looked at by every processor: hashing and searching are nearly all that reading a log costs.

use memchr::memchr_iter;
use std::{
    io::{self, Read},
    thread,
};

/// Bytes that are read at once. A line that is longer comes in pieces, which are no records.
const BYTES: usize = 4 << 20;
/// Less is not worth starting a thread.
const WORTH: usize = 1 << 18;

/// Whole lines, as they stand in the file.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// What counts ends here; behind it stands the beginning of a line.
    whole: usize,
}

impl Batch {
    /// Goes on reading; `false` at the end of the file.
    pub(super) fn read(&mut self, from: &mut dyn Read) -> io::Result<bool> {
        self.bytes.drain(..self.whole);
        let begun = self.bytes.len();
        from.take(BYTES as u64).read_to_end(&mut self.bytes)?;
        // The last line of a file may lack its line feed: it comes by itself.
        let end = memchr::memrchr(b'\n', &self.bytes[begun..]).map(|at| begun + at + 1);
        self.whole = end.unwrap_or(self.bytes.len());
        Ok(self.whole > 0)
    }

    /// Bytes of its lines.
    pub(super) fn len(&self) -> usize {
        self.whole
    }

    /// What `look` says of each line, with its line feed if it has one, in order.
    pub(super) fn each<'a, T: Send>(&'a self, look: impl Fn(&'a [u8]) -> T + Sync) -> Vec<T> {
        self.parts(|part| {
            let mut begin = 0;
            let ends = memchr_iter(b'\n', part).map(|at| at + 1);
            let mut found: Vec<T> = ends.map(|end| look(&part[std::mem::replace(&mut begin, end)..end])).collect();
            if begin < part.len() {
                found.push(look(&part[begin..]));
            }
            found
        })
    }

    /// What `look` says of parts of whole lines, one after the other.
    pub(super) fn parts<'a, T: Send>(&'a self, look: impl Fn(&'a [u8]) -> Vec<T> + Sync) -> Vec<T> {
        let mut rest = &self.bytes[..self.whole];
        let processors = if rest.len() < WORTH { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
        thread::scope(|threads| {
            let mut others = Vec::new();
            for left in (2..=processors).rev() {
                let about = rest.len() / left;
                let Some(end) = memchr::memchr(b'\n', &rest[about..]).map(|at| about + at + 1) else { break };
                let part;
                (part, rest) = rest.split_at(end);
                others.push(threads.spawn(|| look(part)));
            }
            let last = look(rest);
            let mut all: Vec<T> = Vec::new();
            for other in others {
                all.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            all.extend(last);
            all
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_comes_once_and_in_order() {
        let mut text: Vec<u8> = (0..200_000).flat_map(|n| format!("line {n} {}\n", "x".repeat(n % 97)).into_bytes()).collect();
        text.extend_from_slice(b"torn");
        let mut lines: Vec<Vec<u8>> = Vec::new();
        let (mut batch, mut from) = (Batch::default(), &text[..]);
        while batch.read(&mut from).unwrap() {
            lines.extend(batch.each(<[u8]>::to_vec));
        }
        assert_eq!(lines.len(), 200_001);
        assert_eq!(lines.concat(), text);
        assert!(lines[..200_000].iter().enumerate().all(|(n, line)| line.starts_with(format!("line {n} ").as_bytes())));
        let mut batch = Batch::default();
        assert!(!batch.read(&mut &b""[..]).unwrap());
        // A line without an end is read in pieces and ends all the same.
        let long = vec![b'x'; 3 * BYTES];
        let (mut from, mut seen) = (&long[..], 0);
        while batch.read(&mut from).unwrap() {
            seen += batch.each(<[u8]>::len).iter().sum::<usize>();
        }
        assert_eq!(seen, long.len());
    }
}
