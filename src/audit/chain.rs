//! The chain: how one line is framed and hashed, and how a line is taken apart without parsing its middle.
//!
//! A line is `{"v":1,"seq":N,"time":"T","kind":"K","boot":"B", ... ,"prev":"P","hash":"H"}` and a line feed. `H` is SHA-256, in lower
//! case hex, over the bytes of the line from its first brace up to and including the quote that closes `P`; `P` is the `H` of the
//! record before (64 zeros before the first). So everything but `H` itself is covered, and the last 76 bytes of a line with its line
//! feed are always `,"hash":"` + 64 digits + `"}` + line feed.

use crate::digest::{Digest, sha256};
use std::{fmt::Write as _, io::Write as _};

/// The last record of a chain, or the place before its first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// Its number; 0 before the first record.
    pub seq: u64,
    /// Its hash; zeros before the first record.
    pub hash: Digest,
}

/// The format of a record.
const FORMAT: u32 = 1;
const OPEN: &[u8] = b"{\"v\":1,\"seq\":";
const TIME: &[u8] = b",\"time\":\"";
const TIME_LEN: usize = 27;
const KIND: &[u8] = b"\",\"kind\":\"";
const BOOT: &[u8] = b"\",\"boot\":\"";
const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b"\",\"hash\":\"";
const END: &[u8] = b"\"}";
const HEX: usize = 64;
/// From the comma before `prev` to the brace at the end.
const TRAILER: usize = PREV.len() + HEX + HASH.len() + HEX + END.len();

/// Adds the line that follows `tip` to `out` and returns the new tip. `members` is empty or starts with a comma; `time` has 27 bytes;
/// `kind` and `boot` hold nothing that JSON would escape.
pub fn write_line(out: &mut Vec<u8>, tip: Tip, time: &str, kind: &str, boot: &str, members: &[u8]) -> Tip {
    debug_assert_eq!(time.len(), TIME_LEN);
    let start = out.len();
    let seq = tip.seq + 1;
    out.extend_from_slice(OPEN);
    // Writing into a vector cannot fail.
    let _ = write!(out, "{seq}");
    for part in [TIME, time.as_bytes(), KIND, kind.as_bytes(), BOOT, boot.as_bytes(), b"\"", members, PREV] {
        out.extend_from_slice(part);
    }
    push_hex(out, &tip.hash);
    out.push(b'"');
    let hash = sha256(&[&out[start..]]);
    out.extend_from_slice(&HASH[1..]);
    push_hex(out, &hash);
    out.extend_from_slice(END);
    out.push(b'\n');
    Tip { seq, hash }
}

fn push_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    let at = out.len();
    out.resize(at + bytes.len() * 2, 0);
    // The room is exactly twice the bytes.
    let _ = hex::encode_to_slice(bytes, &mut out[at..]);
}

/// What every line has, taken from fixed places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan<'a> {
    /// Its number.
    pub seq: u64,
    /// When it was written, RFC 3339.
    pub time: &'a str,
    /// What it is about.
    pub kind: &'a str,
    /// The hash that it names as that of the record before.
    pub prev: Digest,
    /// The hash that it names as its own. Not checked here.
    pub hash: Digest,
}

/// Takes a line (without its line feed) apart. `None` unless it is framed exactly as `write_line` does and is printable ASCII.
pub fn scan(line: &[u8]) -> Option<Scan<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    if !line.bytes().all(|b| matches!(b, 0x20..=0x7e)) {
        return None;
    }
    let rest = line.as_bytes().strip_prefix(OPEN)?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let at = OPEN.len() + digits;
    let number = &line[OPEN.len()..at];
    if number.starts_with('0') {
        return None;
    }
    let seq = number.parse().ok()?;
    let time = line[at..].strip_prefix(text(TIME))?;
    let (time, rest) = time.split_at_checked(TIME_LEN)?;
    let rest = rest.strip_prefix(text(KIND))?;
    let (kind, rest) = rest.split_once('"')?;
    if !rest.starts_with(&text(BOOT)[1..]) || time.contains('"') {
        return None;
    }
    let trailer = &line[line.len().checked_sub(TRAILER).filter(|start| *start > at)?..];
    let (prev, rest) = trailer.strip_prefix(text(PREV))?.split_at(HEX);
    let hash = rest.strip_prefix(text(HASH))?.strip_suffix(text(END))?;
    Some(Scan { seq, time, kind, prev: digest(prev)?, hash: digest(hash)? })
}

/// The format of a line that `scan` does not take because it is of another one than this version writes.
pub fn other_format(line: &[u8]) -> Option<u32> {
    let rest = line.strip_prefix(b"{\"v\":")?;
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let format = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    (format != FORMAT && rest.get(digits) == Some(&b',')).then_some(format)
}

/// The hash that a scanned line should bear.
pub fn hash_of(line: &[u8]) -> Digest {
    // `scan` has seen that the trailer is there; a shorter line hashes to something it cannot bear.
    sha256(&[&line[..line.len().saturating_sub(HASH.len() - 1 + HEX + END.len())]])
}

fn text(constant: &'static [u8]) -> &'static str {
    // The constants above are ASCII.
    std::str::from_utf8(constant).unwrap_or_default()
}

/// Reads 64 lower-case hexadecimal digits.
pub fn digest(text: &str) -> Option<Digest> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return None;
    }
    let mut out = [0; 32];
    hex::decode_to_slice(text, &mut out).ok()?;
    Some(out)
}

/// Lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart_as_it_was_put_together() {
        let mut out = Vec::new();
        let first = write_line(&mut out, Tip::default(), "2026-01-02T03:04:05.000006Z", "start", "b", b"");
        let at = out.len();
        let second = write_line(&mut out, first, "2026-01-02T03:04:05.000007Z", "issue", "b", b",\"detail\":\"\\\",\\\"prev\\\":\"");
        let line = &out[at..out.len() - 1];
        let scanned = scan(line).unwrap();
        assert_eq!((scanned.seq, scanned.kind, scanned.prev, scanned.hash), (2, "issue", first.hash, second.hash));
        assert_eq!(scanned.time, "2026-01-02T03:04:05.000007Z");
        assert_eq!(hash_of(line), second.hash);
        assert_eq!(to_hex(&second.hash), hex::encode(second.hash));
        for at in 0..line.len() {
            assert!(scan(&line[..at]).is_none(), "cut at {at}");
        }
    }
}
