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

/// Which value: metadata that was deleted and made anew begins with version 1 again, so the number alone does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Which {
    pub(super) number: u64,
    pub(super) made: WallTime,
}

impl Which {
    fn is(self, other: Which) -> bool {
        self.number == other.number && (self.made == other.made || crate::mutation!("copy-made"))
    }
}

/// A copy that was read.
pub(super) struct Copy {
    pub(super) which: Which,
    /// Since the server said it, in microseconds.
    pub(super) age: u64,
    pub(super) members: SecretBytes,
}

/// What is known of a copy without opening it.
struct Held {
    which: Which,
    said: Stamp,
    /// The turn that wrote it.
    turn: u64,
}

/// The right to write a copy, as long as nobody else begins to and nobody removes it.
pub(super) struct Turn {
    place: Place,
    which: Which,
    said: Stamp,
    turn: u64,
}

/// Both clocks, at one moment.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) boot: BootTime,
    pub(super) wall: WallTime,
}

/// The copies of one engine.
pub(super) struct Offline(Arc<Files>);

struct Files {
    copies: Copies,
    key: SealKey,
    random: Arc<dyn Random>,
    /// Held for a few lines, also while `disk` is held.
    held: Mutex<(HashMap<Place, Held>, u64)>,
    /// Held while files are changed or listed to be removed: a copy that is removed is not written again by whoever came before.
    disk: Mutex<()>,
}

impl Offline {
    pub(super) fn new(copies: Copies, key: SealKey, random: Arc<dyn Random>) -> Self {
        Self(Arc::new(Files { copies, key, random, held: Mutex::default(), disk: Mutex::default() }))
    }

    /// Begins to keep what the server said so many microseconds ago, unless something that it said later is kept, or the same was written a
    /// moment before. Whoever removes copies from now on removes this one too.
    pub(super) fn begin(&self, place: &Place, which: Which, (age, now): (u64, Now)) -> Option<Turn> {
        let back = |at: u64| at.saturating_sub(age);
        let said = Stamp { boot_id: self.0.copies.boot.clone(), boot: BootTime(back(now.boot.0)), wall: WallTime(back(now.wall.0)) };
        let (held, turns) = &mut *self.0.held();
        let is_kept = |held: &Held, known: u64| known < age || (held.which.is(which) && known < AGAIN);
        if held.get(place).is_some_and(|held| self.0.age(&held.said, now).is_some_and(|known| is_kept(held, known))) {
            return None;
        }
        *turns += 1;
        held.insert(place.clone(), Held { which, said: said.clone(), turn: *turns });
        Some(Turn { place: place.clone(), which, said, turn: *turns })
    }

    /// Writes it. Nobody waits for the disk; a copy that could not be written is missing later.
    pub(super) fn write(&self, turn: Turn, members: &[u8]) {
        let Turn { place, which: Which { number, made }, said, turn } = turn;
        let text = std::str::from_utf8(members).ok().and_then(|text| serde_json::value::RawValue::from_string(text.to_owned()).ok());
        let plain = text.and_then(|members| serde_json::to_vec(&Sealed { number, made, said, members }).ok()).map(zeroize::Zeroizing::new);
        let Some(plain) = plain else { return };
        let files = self.0.clone();
        let sealed = files.key.seal(&files.context(&place), &plain, &*files.random);
        tokio::task::spawn_blocking(move || {
            let _turn = files.disk();
            let is_ours = |held: &HashMap<Place, Held>| held.get(&place).is_some_and(|held| held.turn == turn);
            if !is_ours(&files.held().0) {
                return;
            }
            let (folder, file) = (&files.copies.folder, files.copies.folder.join(file(&place)));
            if let Err(error) = sys::private_folder(folder).and_then(|()| sys::write_atomic(&file, &sealed, 0o600)) {
                tracing::warn!(%error, "a copy for when the server cannot be reached could not be written");
                let (held, _) = &mut *files.held();
                if is_ours(held) {
                    held.remove(&place);
                }
            }
        });
    }

    /// The copy of a value, if there is one whose age is known.
    pub(super) fn load(&self, place: &Place, now: Now) -> Option<Copy> {
        let Sealed { number, made, said, members } = self.0.open(place).ok()??;
        let members = SecretBytes::new(members.get().as_bytes().to_vec());
        Some(Copy { which: Which { number, made }, age: self.0.age(&said, now)?, members })
    }

    /// Version and age in microseconds of the copy at a place; no age where the clocks do not tell.
    pub(super) fn at(&self, place: &Place, now: Now) -> Option<(u64, Option<u64>)> {
        let (held, _) = &*self.0.held();
        held.get(place).map(|held| (held.which.number, self.0.age(&held.said, now)))
    }

    /// Removes copies, and returns when they are gone from the disk.
    pub(super) async fn remove(&self, places: &[Place]) -> usize {
        let names: HashSet<String> = places.iter().map(file).collect();
        if names.is_empty() {
            return 0;
        }
        self.change(move |files| {
            files.held().0.retain(|place, _| !names.contains(&file(place)));
            files.unlink(names)
        })
        .await
    }

    /// Removes the copy at a place if it is of another value than the server named so many microseconds ago, and not of a later word.
    pub(super) async fn outdated(&self, place: Place, newest: Which, (age, now): (u64, Now)) {
        let is_other =
            move |files: &Files, held: &Held| !held.which.is(newest) && files.age(&held.said, now).is_none_or(|known| known >= age);
        if !self.0.held().0.get(&place).is_some_and(|held| is_other(&self.0, held)) {
            return;
        }
        self.change(move |files| {
            let (held, _) = &mut *files.held();
            if !held.get(&place).is_some_and(|held| is_other(files, held)) {
                return 0;
            }
            held.remove(&place);
            files.unlink(HashSet::from([file(&place)]))
        })
        .await;
    }

    /// The places of copies that are known, with their versions.
    pub(super) fn places(&self) -> Vec<(Place, u64)> {
        self.0.held().0.iter().map(|(place, held)| (place.clone(), held.which.number)).collect()
    }

    /// Removes what no place of these has, and what does not open; those that it does not know yet are looked at, after a start and when
    /// definitions change.
    pub(super) async fn only(&self, places: &HashSet<Place>) -> usize {
        let places = places.clone();
        self.change(move |files| files.only(&places)).await
    }

    /// Runs what changes files, beside the daemon's threads and after all that began to before.
    async fn change(&self, change: impl FnOnce(&Files) -> usize + Send + 'static) -> usize {
        let files = self.0.clone();
        let changed = tokio::task::spawn_blocking(move || {
            let _turn = files.disk();
            change(&files)
        });
        changed.await.unwrap_or(0)
    }
}

impl Files {
    fn held(&self) -> MutexGuard<'_, (HashMap<Place, Held>, u64)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, ()> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// Opens a file. The error says that it cannot be read now, which says nothing about it.
    fn open(&self, place: &Place) -> Result<Option<Sealed>, sys::FileError> {
        let file = self.copies.folder.join(file(place));
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

    fn only(&self, places: &HashSet<Place>) -> usize {
        let unknown: Vec<&Place> = {
            let (held, _) = &mut *self.held();
            held.retain(|place, _| places.contains(place));
            places.iter().filter(|place| !held.contains_key(*place)).collect()
        };
        let mut wanted = HashSet::new();
        for place in unknown {
            match self.open(place) {
                Ok(Some(Sealed { number, made, said, .. })) => {
                    let (held, turns) = &mut *self.held();
                    *turns += 1;
                    held.entry(place.clone()).or_insert(Held { which: Which { number, made }, said, turn: *turns });
                }
                // One that may be read again later stays; one that others could have changed or read does not.
                Err(sys::FileError::Io { .. }) => drop(wanted.insert(file(place))),
                Ok(None) | Err(_) => {}
            }
        }
        // Without the folder there is nothing in it.
        let names = sys::file_names(&self.copies.folder).unwrap_or_default();
        wanted.extend(self.held().0.keys().map(file));
        self.unlink(names.into_iter().filter(|name| name.ends_with(ENDING) && !wanted.contains(name)).collect())
    }

    /// Removes these files. Those that are about to be written in their places wait for this, and are written.
    fn unlink(&self, names: HashSet<String>) -> usize {
        let folder = &self.copies.folder;
        let gone = names.iter().filter(|name| unlink(&folder.join(name))).count();
        // Not to come back after a power cut.
        if gone > 0
            && let Err(error) = fs::File::open(folder).and_then(|folder| folder.sync_all())
        {
            tracing::error!(folder = %folder.display(), %error, "that copies of values were removed could not be synced");
        }
        gone
    }
}

fn file((path, version): &Place) -> String {
    let version = version.map_or_else(String::new, |number| number.to_string());
    let digest = sha256(&[b"claviger kv\0", path.mount.as_bytes(), b"\0", path.path.as_bytes(), b"\0", version.as_bytes()]);
    format!("{}{ENDING}", hex::encode(&digest[..16]))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SystemRandom;
    use std::time::Duration;

    const NOW: Now = Now { boot: BootTime(900_000_000), wall: WallTime(1_800_000_000_000_000) };

    fn offline(folder: &Path) -> Offline {
        let copies = Copies { folder: folder.into(), server: "s".into(), boot: "boot".into(), not_before: WallTime(0) };
        Offline::new(copies, SealKey::from_bytes(&[7; 32]).unwrap(), Arc::new(SystemRandom::default()))
    }

    fn which(number: u64, made: u64) -> Which {
        Which { number, made: WallTime(made) }
    }

    #[test]
    fn the_last_word_of_the_server_is_kept() {
        let offline = offline(Path::new("/nowhere"));
        let place = (KvPath { mount: "secret".into(), path: "app".into() }, None);
        let kept = || offline.0.held().0.get(&place).map(|held| held.which);
        let begin = |which: Which, age: u64| offline.begin(&place, which, (age, NOW)).is_some();
        assert!(begin(which(2, 20), 5));
        assert!(!begin(which(1, 10), 6), "answered late, of before");
        assert!(!begin(which(2, 20), 0), "not again so soon");
        assert!(begin(which(1, 30), 4), "made anew, and from version 1 on");
        assert!(begin(which(1, 40), 3), "and once more");
        assert_eq!(kept(), Some(which(1, 40)));
        // Named by another answer, of before or of after.
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let outdated = |newest: Which, age: u64| runtime.block_on(offline.outdated(place.clone(), newest, (age, NOW)));
        outdated(which(1, 30), 4);
        outdated(which(1, 40), 1);
        assert_eq!(kept(), Some(which(1, 40)));
        outdated(which(1, 50), 1);
        assert_eq!(kept(), None);
    }

    #[test]
    fn what_is_being_written_while_all_are_removed_is_removed_too() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let (offline, runtime) = (offline(&folder), tokio::runtime::Runtime::new().unwrap());
        std::thread::scope(|scope| {
            // A writer has begun.
            let disk = offline.0.disk();
            let removing = scope.spawn(|| runtime.block_on(offline.only(&HashSet::new())));
            // Whoever removes without waiting for it would have looked by now.
            let (_nobody, called) = std::sync::mpsc::channel::<()>();
            let _ = called.recv_timeout(Duration::from_millis(200));
            fs::write(folder.join("late.sealed"), "x").unwrap();
            drop(disk);
            assert_eq!(removing.join().unwrap(), 1);
        });
        assert!(!folder.join("late.sealed").exists());
    }
}
