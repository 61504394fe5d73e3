//! Signed heads: one line of text that says how far the log reaches, fit for journald, syslog, a file or a printout.
//!
//! `claviger-head-v1 ORIGIN SEQ HASH TIME KEY SIGNATURE`: the record `SEQ` of host `ORIGIN` has hash `HASH`, says the holder of `KEY` at
//! `TIME`. The signature is Ed25519 over all bytes before the space in front of it; hash, key and signature are lower-case hex.
//! `claviger-stub-v1` has the same fields and says that everything up to `SEQ` was pruned. `claviger-key-v1` has `NEWKEY` after `KEY`
//! and says that heads from here on are signed by that one.

use super::chain::{Tip, digest, to_hex};
use crate::digest::{Ed25519Key, verify_ed25519};
use std::fmt;

/// What a note says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The log reaches at least to here.
    Head,
    /// Everything up to here was pruned.
    Stub,
    /// From here on the key with these public bytes signs.
    Key([u8; 32]),
}

/// A signed statement about one record. The signature is not checked by reading one: see [`Note::holds`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What it says.
    pub says: Says,
    /// The host's state id.
    pub origin: String,
    /// The record it is about.
    pub tip: Tip,
    /// When it was signed, RFC 3339.
    pub time: String,
    /// The public key of its signer.
    pub key: [u8; 32],
    signature: [u8; 64],
}

impl Note {
    /// Signs a statement. `origin` and `time` hold no space.
    pub fn sign(says: Says, origin: &str, tip: Tip, time: &str, key: &Ed25519Key) -> Note {
        let mut public = [0; 32];
        public.copy_from_slice(key.public());
        let mut note = Note { says, origin: origin.to_owned(), tip, time: time.to_owned(), key: public, signature: [0; 64] };
        let signature = key.sign(note.statement().as_bytes());
        note.signature.copy_from_slice(&signature);
        note
    }

    /// Finds a note in a line of a journal or of a file: it may stand behind anything, and ends at the first space or quote behind it.
    pub fn find(line: &str) -> Option<Note> {
        let text = &line[line.find("claviger-")?..];
        let mut fields = text.split(' ');
        let kind = fields.next()?;
        let (origin, seq, hash, time, key) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let says = match kind {
            "claviger-head-v1" => Says::Head,
            "claviger-stub-v1" => Says::Stub,
            "claviger-key-v1" => Says::Key(digest(fields.next()?)?),
            _ => return None,
        };
        let signature = fields.next()?;
        let mut bytes = [0; 64];
        hex::decode_to_slice(signature.get(..128)?, &mut bytes).ok()?;
        let note = Note {
            says,
            origin: origin.to_owned(),
            tip: Tip { seq: seq.parse().ok()?, hash: digest(hash)? },
            time: time.to_owned(),
            key: digest(key)?,
            signature: bytes,
        };
        // One spelling only: the text that was signed is the text that was read.
        text.starts_with(&note.to_string()).then_some(note)
    }

    /// Whether the holder of `self.key` signed it. Whether that key is to be trusted is another question.
    pub fn holds(&self) -> bool {
        verify_ed25519(&self.key, self.statement().as_bytes(), &self.signature)
    }

    fn statement(&self) -> String {
        let (word, new) = match &self.says {
            Says::Head => ("claviger-head-v1", String::new()),
            Says::Stub => ("claviger-stub-v1", String::new()),
            Says::Key(new) => ("claviger-key-v1", format!(" {}", to_hex(new))),
        };
        format!("{word} {} {} {} {} {}{new}", self.origin, self.tip.seq, to_hex(&self.tip.hash), self.time, to_hex(&self.key))
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.statement(), to_hex(&self.signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_behind_anything_and_hold_only_unchanged() {
        let key = Ed25519Key::from_pkcs8(Ed25519Key::generate().unwrap().expose()).unwrap();
        for says in [Says::Head, Says::Stub, Says::Key([7; 32])] {
            let note = Note::sign(says, "host-1", Tip { seq: 12, hash: [3; 32] }, "2026-01-02T03:04:05.000006Z", &key);
            let text = note.to_string();
            assert_eq!(Note::find(&format!("Jan 2 host clavigerd[1]: {text}\"}}")), Some(note.clone()));
            assert!(note.holds());
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                let changed = String::from_utf8(bytes).unwrap();
                assert!(Note::find(&changed).is_none_or(|note| !note.holds()), "byte {at}");
            }
        }
    }
}
