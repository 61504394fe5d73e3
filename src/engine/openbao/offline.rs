//! Values that outlive the daemon: sealed copies on this host's disk, for a start while the server cannot be reached.
//!
//! A copy opens under this host's key, for the server, path and version it is a copy of, and nowhere else. Within one boot its age is
//! told by the clock that nobody sets; after another boot by the wall clock alone, and not at all where that one went back.

use super::settings::KvPath;
use crate::{
    digest::{Random, SealKey, sha256},
    model::{BootTime, SecretBytes, WallTime},
    sys,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The same version is written again after this time, so that the copy does not grow old while the server answers; in microseconds.
const AGAIN: u64 = 60_000_000;
/// The longest copy.
const MAX: usize = 256 << 10;
const ENDING: &str = ".sealed";

/// A path with the version that a secret names; none is the newest.
pub(super) type Place = (KvPath, Option<u64>);

/// Where copies lie, and what their age is told by.
pub struct Copies {
    /// The folder, private to this engine. It is made when it is needed.
    pub folder: PathBuf,
    /// Which server and namespace the values are of: the copies of another are not opened.
    pub server: String,
    /// The id of this boot.
    pub boot: Arc<str>,
    /// When something of this host's was last written down. A wall clock before that went back: no copy of another boot has an age then.
    pub not_before: WallTime,
}

/// When the server said something, on both clocks.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    boot_id: Arc<str>,
    boot: BootTime,
    wall: WallTime,
}

/// What is sealed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    number: u64,
    made: WallTime,
    said: Stamp,
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

/// What is known of a copy without opening it.
struct Held {
    number: u64,
    said: Stamp,
    /// The turn that wrote it.
    turn: u64,
}

/// Both clocks now.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) boot: BootTime,
    pub(super) wall: WallTime,
}

/// The copies of one engine.
pub(super) struct Offline {
    copies: Copies,
    key: SealKey,
    random: Arc<dyn Random>,
    table: Arc<Table>,
}

#[derive(Default)]
struct Table {
    /// Held for a few lines, also while `disk` is held.
    held: Mutex<(HashMap<Place, Held>, u64)>,
    /// Held while files are changed: a copy that is removed is not written again by whoever came before.
    disk: Mutex<()>,
}

impl Table {
    fn held(&self) -> MutexGuard<'_, (HashMap<Place, Held>, u64)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, ()> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Offline {
    pub(super) fn new(copies: Copies, key: SealKey, random: Arc<dyn Random>) -> Self {
        Self { copies, key, random, table: Arc::default() }
    }

    fn file((path, version): &Place) -> String {
        let version = version.map_or_else(String::new, |number| number.to_string());
        let digest = sha256(&[b"claviger kv\0", path.mount.as_bytes(), b"\0", path.path.as_bytes(), b"\0", version.as_bytes()]);
        format!("{}{ENDING}", hex::encode(&digest[..16]))
    }

    fn context(&self, (path, version): &Place) -> Vec<u8> {
        if crate::mutation!("copy-bound") {
            return Vec::new();
        }
        // Texts and a number always are JSON.
        serde_json::to_vec(&("claviger kv", &self.copies.server, &path.mount, &path.path, version)).unwrap_or_default()
    }

    /// How old something is, in microseconds; `None` where the clocks do not tell.
    fn age(&self, said: &Stamp, now: Now) -> Option<u64> {
        if said.boot_id == self.copies.boot {
            return Some(now.boot.0.checked_sub(said.boot.0)?.max(now.wall.0.saturating_sub(said.wall.0)));
        }
        let went_back = now.wall < self.copies.not_before && !crate::mutation!("copy-clock");
        if went_back { None } else { now.wall.0.checked_sub(said.wall.0) }
    }

    /// Writes a copy of what the server said so many microseconds ago, unless the same was written a moment before. Nobody waits for the
    /// disk; a copy that could not be written is missing later.
    pub(super) fn save(&self, place: &Place, (number, made): (u64, WallTime), members: &[u8], (age, now): (u64, Now)) {
        let back = |at: u64| at.saturating_sub(age);
        let said = Stamp { boot_id: self.copies.boot.clone(), boot: BootTime(back(now.boot.0)), wall: WallTime(back(now.wall.0)) };
        let turn = {
            let (held, turns) = &mut *self.table.held();
            let same = held.get(place).filter(|held| held.number == number);
            if same.and_then(|held| self.age(&held.said, now)).is_some_and(|age| age < AGAIN) {
                return;
            }
            *turns += 1;
            held.insert(place.clone(), Held { number, said: said.clone(), turn: *turns });
            *turns
        };
        let text = std::str::from_utf8(members).ok().and_then(|text| serde_json::value::RawValue::from_string(text.to_owned()).ok());
        let plain = text.and_then(|members| serde_json::to_vec(&Sealed { number, made, said, members }).ok()).map(zeroize::Zeroizing::new);
        let Some(plain) = plain else { return };
        let sealed = self.key.seal(&self.context(place), &plain, &*self.random);
        let (table, folder, place) = (self.table.clone(), self.copies.folder.clone(), place.clone());
        tokio::task::spawn_blocking(move || {
            let _turn = table.disk();
            let is_ours = |held: &HashMap<Place, Held>| held.get(&place).is_some_and(|held| held.turn == turn);
            if !is_ours(&table.held().0) {
                return;
            }
            let file = folder.join(Self::file(&place));
            if let Err(error) = sys::private_folder(&folder).and_then(|()| sys::write_atomic(&file, &sealed, 0o600)) {
                tracing::warn!(%error, "a copy for when the server cannot be reached could not be written");
                let (held, _) = &mut *table.held();
                if is_ours(held) {
                    held.remove(&place);
                }
            }
        });
    }

    /// The copy of a value, if there is one whose age is known.
    pub(super) fn load(&self, place: &Place, now: Now) -> Option<Copy> {
        let Sealed { number, made, said, members } = self.open(place).ok()??;
        Some(Copy { number, made, age: self.age(&said, now)?, members: SecretBytes::new(members.get().as_bytes().to_vec()) })
    }

    /// Opens a file. The error says that it cannot be read now, which says nothing about it.
    fn open(&self, place: &Place) -> Result<Option<Sealed>, sys::FileError> {
        let file = self.copies.folder.join(Self::file(place));
        let sealed = match sys::blocking(|| sys::read_private(&file, MAX)) {
            Ok(sealed) => sealed,
            Err(sys::FileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::error!(%error, "a copy of a value cannot be read");
                return Err(error);
            }
        };
        let plain = self.key.open(&self.context(place), sealed.expose()).ok();
        let opened = plain.and_then(|plain| serde_json::from_slice(plain.expose()).ok());
        if opened.is_none() {
            tracing::error!(file = %file.display(), "a copy of a value was changed, or is of another server, place or key: it is not used");
        }
        Ok(opened)
    }

    /// Version and age in microseconds of the copy at a place; no age where the clocks do not tell.
    pub(super) fn at(&self, place: &Place, now: Now) -> Option<(u64, Option<u64>)> {
        let (held, _) = &*self.table.held();
        held.get(place).map(|held| (held.number, self.age(&held.said, now)))
    }

    /// Removes copies, and returns when they are gone from the disk.
    pub(super) async fn remove(&self, places: &[Place]) -> usize {
        self.unlink(places.iter().map(Self::file).collect()).await
    }

    /// The places of copies that are known, with their versions.
    pub(super) fn places(&self) -> Vec<(Place, u64)> {
        self.table.held().0.iter().map(|(place, held)| (place.clone(), held.number)).collect()
    }

    /// Removes what no place of these has, and what does not open; those that it does not know yet are looked at, after a start and when
    /// definitions change.
    pub(super) async fn only(&self, places: &HashSet<Place>) -> usize {
        let unknown: Vec<&Place> = {
            let (held, _) = &mut *self.table.held();
            held.retain(|place, _| places.contains(place));
            places.iter().filter(|place| !held.contains_key(*place)).collect()
        };
        let mut wanted = HashSet::new();
        for place in unknown {
            match self.open(place) {
                Ok(Some(copy)) => {
                    let (held, turns) = &mut *self.table.held();
                    *turns += 1;
                    held.entry(place.clone()).or_insert(Held { number: copy.number, said: copy.said, turn: *turns });
                }
                Ok(None) => {}
                Err(_) => drop(wanted.insert(Self::file(place))),
            }
        }
        // Without the folder there is nothing in it.
        let names = sys::blocking(|| sys::file_names(&self.copies.folder)).unwrap_or_default();
        wanted.extend(self.table.held().0.keys().map(Self::file));
        self.unlink(names.into_iter().filter(|name| name.ends_with(ENDING) && !wanted.contains(name)).collect()).await
    }

    /// Removes these files, and those that are about to be written in their places.
    async fn unlink(&self, files: HashSet<String>) -> usize {
        if files.is_empty() {
            return 0;
        }
        let (table, folder) = (self.table.clone(), self.copies.folder.clone());
        let removed = tokio::task::spawn_blocking(move || {
            let _turn = table.disk();
            table.held().0.retain(|place, _| !files.contains(&Self::file(place)));
            let gone = files.iter().filter(|name| unlink(&folder.join(name))).count();
            // Not to come back after a power cut.
            if gone > 0
                && let Err(error) = fs::File::open(&folder).and_then(|folder| folder.sync_all())
            {
                tracing::error!(folder = %folder.display(), %error, "that copies of values were removed could not be synced");
            }
            gone
        });
        removed.await.unwrap_or(0)
    }
}

fn unlink(file: &Path) -> bool {
    match fs::remove_file(file) {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::error!(file = %file.display(), %error, "a copy of a value that nobody may be given could not be removed");
            }
            false
        }
    }
}
