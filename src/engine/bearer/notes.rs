//! A note on disk for each call that may make a token: before the call that there is one, after the answer the token itself, sealed.
//!
//! Whoever settles a lease reads the note: without one there was no call; with a token that is what to revoke. What is left is a call whose
//! answer nobody heard (ADR 12).

use super::clocks::{Booted, Moment};
use crate::{
    digest::{Random, SealKey},
    model::{LeaseId, SecretBytes, WallTime},
    sys::{self, FileError},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// Bytes of the largest note: two of the longest tokens, sealed and in base64.
const NOTE_MAX: usize = 64 << 10;
/// The format of what is written here; the one before, which said nothing of the boot, is read.
const FORMAT: u32 = 2;

/// What is known of a lease's call.
pub(super) enum Note {
    /// It was about to be made; whether there is a token is not known.
    Called {
        at: Moment,
        /// After which time the longest token of it is dead for certain, by the longest life that there was then.
        over: Option<Duration>,
    },
    /// It gave this; the second is what came beside it and must end too.
    Made {
        tokens: Vec<SecretBytes>,
        /// When they came.
        made: Moment,
        /// After which time they are over by themselves, if the source said so.
        life: Option<Duration>,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    format: u32,
    called: WallTime,
    /// The same on the other clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    booted: Option<Booted>,
    /// Of a call: when it is over at the latest. Versions before this wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dies: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sealed: Vec<String>,
}

/// Why a note could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// The disk, or somebody else's hand.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not a note of this version and key.
    #[error("{0}: is no note of this version, or sealed under another key; move it away once the token has expired")]
    Unreadable(PathBuf),
}

/// The notes of one engine, a file for each lease.
pub(super) struct Notes {
    folder: PathBuf,
    key: SealKey,
    random: Arc<dyn Random>,
}

impl Notes {
    /// Opens the folder, or makes it.
    pub(super) fn open(folder: PathBuf, key: SealKey, random: Arc<dyn Random>) -> Result<Self, NoteError> {
        sys::private_folder(&folder)?;
        Ok(Self { folder, key, random })
    }

    /// A call is about to be made, of which nothing lives so long after; that is on disk when this returns.
    pub(super) fn begin(&self, lease: LeaseId, now: Moment, over: Duration) -> Result<(), NoteError> {
        let Moment { wall, booted } = now;
        self.write(lease, &Written { format: FORMAT, called: wall, booted, over: Some(later(wall, over)), dies: None, sealed: Vec::new() })
    }

    /// The call gave these.
    pub(super) fn made(&self, lease: LeaseId, tokens: &[&SecretBytes], life: Option<Duration>, now: Moment) -> Result<(), NoteError> {
        let seal = |token: &&SecretBytes| STANDARD.encode(self.key.seal(&context(lease), token.expose(), &*self.random));
        let (Moment { wall, booted }, sealed) = (now, tokens.iter().map(seal).collect());
        self.write(lease, &Written { format: FORMAT, called: wall, booted, over: None, dies: life.map(|life| later(wall, life)), sealed })
    }

    /// Nothing of the lease exists any more, or nothing ever did. A note that comes back after a power cut ends once more.
    pub(super) fn remove(&self, lease: LeaseId) -> Result<(), NoteError> {
        let path = self.path(lease);
        match sys::blocking(|| std::fs::remove_file(&path)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FileError::Io { path, source }.into()),
            _ => Ok(()),
        }
    }

    /// What is known of a lease's call; nothing if none was made.
    pub(super) fn find(&self, lease: LeaseId) -> Result<Option<Note>, NoteError> {
        let path = self.path(lease);
        let text = match sys::blocking(|| sys::read_private(&path, NOTE_MAX)) {
            Ok(text) => text,
            Err(FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let unreadable = || NoteError::Unreadable(path.clone());
        let written: Written = serde_json::from_slice(text.expose()).map_err(|_| unreadable())?;
        if !(1..=FORMAT).contains(&written.format) {
            return Err(unreadable());
        }
        let open = |sealed: &String| {
            let sealed = STANDARD.decode(sealed).map_err(|_| unreadable())?;
            self.key.open(&context(lease), &sealed).map_err(|_| unreadable())
        };
        let tokens = written.sealed.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let Written { called, booted, over, dies, .. } = written;
        let (at, after) = (Moment { wall: called, booted }, |end: WallTime| Duration::from_micros(end.0.saturating_sub(called.0)));
        Ok(Some(match tokens.is_empty() {
            true => Note::Called { at, over: over.map(after) },
            false => Note::Made { tokens, made: at, life: dies.map(after) },
        }))
    }

    /// The leases that have one.
    pub(super) fn leases(&self) -> Result<Vec<LeaseId>, NoteError> {
        let names = sys::blocking(|| sys::file_names(&self.folder))?;
        // What a crash left half written bears another name.
        Ok(names.iter().filter_map(|name| LeaseId::parse(name).ok()).collect())
    }

    /// The folder, for messages.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn write(&self, lease: LeaseId, written: &Written) -> Result<(), NoteError> {
        let path = self.path(lease);
        let text = serde_json::to_vec(written).map_err(|_| NoteError::Unreadable(path.clone()))?;
        Ok(sys::blocking(|| sys::write_atomic(&path, &text, 0o600))?)
    }

    fn path(&self, lease: LeaseId) -> PathBuf {
        self.folder.join(lease.to_string())
    }
}

/// That instant and so long after it.
pub(super) fn later(at: WallTime, by: Duration) -> WallTime {
    WallTime(at.0.saturating_add(u64::try_from(by.as_micros()).unwrap_or(u64::MAX)))
}

/// Binds a sealed token to its lease.
pub(super) fn context(lease: LeaseId) -> Vec<u8> {
    [&b"bearer token\0"[..], &lease.to_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::SeededRandom, model::BootTime};

    #[test]
    fn a_note_says_what_is_known_and_belongs_to_its_lease() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap().join("notes");
        let open = |key: u8| Notes::open(folder.clone(), SealKey::from_bytes(&[key; 32]).unwrap(), Arc::new(SeededRandom::new(1))).unwrap();
        let (notes, lease, other) = (open(1), LeaseId::from_parts(1, 1), LeaseId::from_parts(1, 2));
        assert!(notes.find(lease).unwrap().is_none());
        let moment = |wall| Moment { wall: WallTime(wall), booted: Some(Booted { id: "boot".into(), at: BootTime(3) }) };
        notes.begin(lease, moment(7), Duration::from_micros(63)).unwrap();
        let Some(Note::Called { at, over }) = notes.find(lease).unwrap() else { panic!() };
        assert_eq!((at, over), (moment(7), Some(Duration::from_micros(63))));
        let token = SecretBytes::new(b"canary-token".to_vec());
        notes.made(lease, &[&token], Some(Duration::from_micros(1)), moment(8)).unwrap();
        let Some(Note::Made { tokens, made, life }) = notes.find(lease).unwrap() else { panic!() };
        assert_eq!((made, life), (moment(8), Some(Duration::from_micros(1))));
        assert_eq!(tokens[0].expose(), b"canary-token");
        let text = std::fs::read_to_string(notes.path(lease)).unwrap();
        assert!(!text.contains("canary") && !text.contains(&STANDARD.encode("canary-token")), "{text}");
        std::fs::copy(notes.path(lease), notes.path(other)).unwrap();
        assert!(matches!(notes.find(other), Err(NoteError::Unreadable(_))), "another lease's");
        assert!(matches!(open(2).find(lease), Err(NoteError::Unreadable(_))), "another key's");
        std::fs::write(folder.join(".lease-x.tmp"), "").unwrap();
        assert_eq!(notes.leases().unwrap(), [lease, other]);
        notes.remove(lease).unwrap();
        notes.remove(lease).unwrap();
        assert_eq!(notes.leases().unwrap(), [other]);
    }

    #[test]
    fn a_note_of_the_format_before_is_read_and_a_later_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap().join("notes");
        let key = SealKey::from_bytes(&[1; 32]).unwrap();
        let sealed = STANDARD.encode(key.seal(&context(LeaseId::from_parts(1, 1)), b"token", &SeededRandom::new(1)));
        let (notes, lease) = (Notes::open(folder, key, Arc::new(SeededRandom::new(2))).unwrap(), LeaseId::from_parts(1, 1));
        let write = |text: &str| sys::write_atomic(&notes.path(lease), text.as_bytes(), 0o600).unwrap();
        let wall = Moment { wall: WallTime(7), booted: None };
        // As they were written: of a call, of one before its end was noted, of a token.
        write(r#"{"format":1,"called":7,"over":70}"#);
        assert!(matches!(notes.find(lease).unwrap(), Some(Note::Called { at, over: Some(over) }) if at == wall && over.as_micros() == 63));
        write(r#"{"format":1,"called":7}"#);
        assert!(matches!(notes.find(lease).unwrap(), Some(Note::Called { at, over: None }) if at == wall));
        write(&format!(r#"{{"format":1,"called":7,"dies":9,"sealed":["{sealed}"]}}"#));
        let Some(Note::Made { tokens, made, life }) = notes.find(lease).unwrap() else { panic!() };
        assert_eq!((tokens[0].expose(), made, life), (&b"token"[..], wall, Some(Duration::from_micros(2))));
        for other in [r#"{"format":3,"called":7}"#, r#"{"format":0,"called":7}"#] {
            write(other);
            assert!(matches!(notes.find(lease), Err(NoteError::Unreadable(_))), "{other}");
        }
    }
}
