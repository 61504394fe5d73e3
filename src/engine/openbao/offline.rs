//! Values that outlive the daemon: sealed copies on this host's disk, for a start while the server cannot be reached.

use super::settings::KvPath;
use crate::{
    digest::{Random, SealKey, sha256},
    model::{BootTime, SecretBytes, WallTime},
    sys,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The same version is written again after this time, so that the copy does not grow old while the server answers; in microseconds.
const AGAIN: u64 = 60_000_000;
/// The longest copy.
const MAX: u64 = 256 << 10;

/// The copies of one engine.
pub(super) struct Offline {
    folder: PathBuf,
    key: Arc<SealKey>,
    random: Arc<dyn Random>,
    saved: Mutex<HashMap<KvPath, (u64, BootTime)>>,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    number: u64,
    made: WallTime,
    said: WallTime,
    members: Box<serde_json::value::RawValue>,
}

/// A copy that was read.
pub(super) struct Copy {
    pub(super) number: u64,
    pub(super) made: WallTime,
    /// Since the server said it, in microseconds.
    pub(super) age: u64,
    pub(super) members: SecretBytes,
}

impl Offline {
    pub(super) fn new(folder: PathBuf, key: SealKey, random: Arc<dyn Random>) -> Self {
        Self { folder, key: Arc::new(key), random, saved: Mutex::default() }
    }

    fn file(&self, path: &KvPath) -> PathBuf {
        let digest = sha256(&[b"claviger kv\0", path.mount.as_bytes(), b"\0", path.path.as_bytes()]);
        self.folder.join(format!("{}.sealed", hex::encode(&digest[..16])))
    }

    fn context(path: &KvPath) -> Vec<u8> {
        format!("kv {} {}", path.mount, path.path).into_bytes()
    }

    /// Writes a copy, unless the same was written a moment ago. Nobody waits for the disk; a copy that could not be written is missing later.
    pub(super) fn save(&self, path: &KvPath, (number, made): (u64, WallTime), members: &[u8], (boot, said): (BootTime, WallTime)) {
        {
            let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
            if saved.get(path).is_some_and(|(known, at)| *known == number && boot.since(*at) < AGAIN) {
                return;
            }
            saved.insert(path.clone(), (number, boot));
        }
        let text = std::str::from_utf8(members).ok().and_then(|text| serde_json::value::RawValue::from_string(text.to_owned()).ok());
        let Some(members) = text else { return };
        let Ok(plain) = serde_json::to_vec(&Sealed { number, made, said, members }).map(zeroize::Zeroizing::new) else { return };
        let sealed = self.key.seal(&Self::context(path), &plain, &*self.random);
        let (folder, file) = (self.folder.clone(), self.file(path));
        tokio::task::spawn_blocking(move || {
            let written = sys::private_folder(&folder).and_then(|()| sys::write_atomic(&file, &sealed, 0o600));
            if let Err(error) = written {
                tracing::warn!(%error, "a copy for when the server cannot be reached could not be written");
            }
        });
    }

    /// The copy of a value. A clock that was set back behind it leaves its age unknown: then there is none.
    pub(super) fn load(&self, path: &KvPath, now: WallTime) -> Option<Copy> {
        let sealed = sys::read_private(&self.file(path), MAX as usize).ok()?;
        let plain = self.key.open(&Self::context(path), sealed.expose()).ok()?;
        let Sealed { number, made, said, members } = serde_json::from_slice(plain.expose()).ok()?;
        let age = now.0.checked_sub(said.0)?;
        Some(Copy { number, made, age, members: SecretBytes::new(members.get().as_bytes().to_vec()) })
    }

    /// Removes a copy.
    pub(super) fn remove(&self, path: &KvPath) {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        let file = self.file(path);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::error!(file = %file.display(), %error, "a copy of a value that is refused now could not be removed");
            }
            _ => {}
        }
    }
}
