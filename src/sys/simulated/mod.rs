//! A volume in memory that can run out of space, fail a write or a sync, and crash: for tests of everything that must survive a disk.
//!
//! A power cut keeps what was synced. Of everything else each 512-byte sector may be there or not, whatever the order of the writes, and
//! so may each change of a name that was not made durable.

mod content;
mod crash;

use super::storage::{Keep, Space, Storage, Volume};
use content::Content;
use std::{
    collections::BTreeMap,
    io::{self, Cursor, Read},
    sync::{Arc, Mutex, MutexGuard},
};

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The next write takes half its bytes and fails with this errno.
    Write(i32),
    /// The next sync fails with this errno; what was not synced may be lost, and no later sync of the file writes it.
    Sync(i32),
    /// The next cut fails with this errno.
    Truncate(i32),
}

/// A change of a name that is not durable yet.
#[derive(Clone)]
struct Unsettled {
    name: String,
    /// What the name led to before, if anything.
    before: Option<Content>,
}

/// The disk between two operations.
#[derive(Clone)]
struct Moment {
    files: BTreeMap<String, Content>,
    unsettled: Vec<Unsettled>,
    /// The operation that led here was a sync, and whether it succeeded.
    synced: Option<bool>,
}

struct Disk {
    files: BTreeMap<String, Content>,
    unsettled: Vec<Unsettled>,
    /// The past, if it is kept.
    moments: Option<Vec<Moment>>,
    lies: bool,
    faults: Vec<Fault>,
    capacity: u64,
    ballast: u64,
    ballast_held: bool,
    generations: u64,
}

impl Disk {
    fn new(capacity: u64, ballast: u64) -> Self {
        let (files, unsettled, faults) = (BTreeMap::new(), Vec::new(), Vec::new());
        Self { files, unsettled, moments: None, lies: false, faults, capacity, ballast, ballast_held: false, generations: 0 }
    }

    fn step(&mut self, synced: Option<bool>) {
        if let Some(moments) = &mut self.moments {
            moments.push(Moment { files: self.files.clone(), unsettled: self.unsettled.clone(), synced });
        }
    }

    /// Puts another file, or none, in a name's place.
    fn rename(&mut self, name: &str, content: Option<Content>) {
        let before = match content {
            Some(content) => self.files.insert(name.to_owned(), content),
            None => self.files.remove(name),
        };
        self.unsettled.push(Unsettled { name: name.to_owned(), before });
        self.step(None);
    }

    /// All names are durable.
    fn settle(&mut self) {
        if !self.lies {
            self.unsettled.clear();
        }
        self.step(None);
    }

    fn next_generation(&mut self) -> u64 {
        self.generations += 1;
        self.generations
    }

    fn free(&self) -> u64 {
        let used: usize = self.files.values().map(|file| file.bytes.len()).sum();
        self.capacity.saturating_sub(used as u64 + if self.ballast_held { self.ballast } else { 0 })
    }
}

/// The volume; clones share one disk.
#[derive(Clone)]
pub struct SimulatedVolume(Arc<Mutex<Disk>>);

impl SimulatedVolume {
    /// An empty disk of `capacity` bytes with a ballast of so many, not held yet.
    pub fn new(capacity: u64, ballast: u64) -> Self {
        Self(Arc::new(Mutex::new(Disk::new(capacity, ballast))))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        // A test that panicked while it held the lock has failed already.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds a fault; faults strike in the order they were added, each at the first call of its sort.
    pub fn fail(&self, fault: Fault) {
        self.disk().faults.push(fault);
    }

    /// The disk becomes larger or smaller.
    pub fn resize(&self, capacity: u64) {
        self.disk().capacity = capacity;
    }

    /// Bytes of one file.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        self.disk().files.get(name).map(|file| file.bytes.clone())
    }

    /// What another start would find if power failed now: of what was not synced, the first `kept` bytes of each file. This volume goes
    /// on as if nothing had happened.
    pub fn crashed(&self, kept: usize) -> SimulatedVolume {
        let disk = self.disk();
        let after = Disk {
            files: disk.files.iter().map(|(name, file)| (name.clone(), Content::durable(file.beginning(kept), file.generation))).collect(),
            generations: disk.generations,
            ..Disk::new(disk.capacity, disk.ballast)
        };
        Self(Arc::new(Mutex::new(after)))
    }

    /// Copies every file into a folder of the host.
    pub fn export(&self, folder: &std::path::Path) -> io::Result<()> {
        self.disk().files.iter().try_for_each(|(name, file)| std::fs::write(folder.join(name), &file.bytes))
    }

    fn file(&self, name: &str) -> io::Result<SimulatedFile> {
        let generation = self.disk().files.get(name).ok_or(io::ErrorKind::NotFound)?.generation;
        Ok(SimulatedFile { volume: self.clone(), name: name.to_owned(), generation })
    }

    fn storage(&self, name: &str) -> io::Result<Box<dyn Storage>> {
        Ok(Box::new(self.file(name)?))
    }
}

impl Volume for SimulatedVolume {
    fn create(&mut self, name: &str) -> io::Result<Box<dyn Storage>> {
        {
            let mut disk = self.disk();
            if disk.files.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            let generation = disk.next_generation();
            disk.rename(name, Some(Content::durable(Vec::new(), generation)));
            disk.settle();
        }
        self.storage(name)
    }

    fn open(&mut self, name: &str) -> io::Result<Box<dyn Storage>> {
        self.storage(name)
    }

    fn refresh(&mut self, name: &str, from: u64) -> io::Result<()> {
        let mut file = self.file(name)?;
        let fault = file.fault(|fault| if let Fault::Write(errno) = fault { Some(*errno) } else { None });
        if let Some(errno) = fault {
            return Err(io::Error::from_raw_os_error(errno));
        }
        file.step(None, |file| file.again(from as usize));
        file.sync()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(Cursor::new(self.content(name).ok_or(io::ErrorKind::NotFound)?)))
    }

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        Ok(self.disk().files.iter().map(|(name, file)| (name.clone(), file.bytes.len() as u64)).collect())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        if !disk.files.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        disk.rename(name, None);
        disk.settle();
        Ok(())
    }

    fn replace(&mut self, name: &str, bytes: &[u8], keep: Keep) -> io::Result<()> {
        let mut disk = self.disk();
        let generation = disk.next_generation();
        if keep == Keep::Durably && !disk.lies {
            disk.rename(name, Some(Content::durable(bytes.to_vec(), generation)));
            disk.settle();
        } else {
            // Not every file system orders a rename behind the file's content.
            disk.rename(name, Some(Content::loose(bytes.to_vec(), generation)));
        }
        Ok(())
    }

    fn space(&self) -> io::Result<Space> {
        let disk = self.disk();
        Ok(Space { free: disk.free(), total: disk.capacity })
    }

    fn has_ballast(&self) -> bool {
        self.disk().ballast_held
    }

    fn hold_ballast(&mut self, held: bool) -> io::Result<()> {
        let mut disk = self.disk();
        if held && !disk.ballast_held && disk.free() < disk.ballast {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        disk.ballast_held = held;
        Ok(())
    }
}

struct SimulatedFile {
    volume: SimulatedVolume,
    name: String,
    generation: u64,
}

impl SimulatedFile {
    fn with<T>(&self, change: impl FnOnce(&mut Content) -> T) -> T {
        let mut disk = self.volume.disk();
        // A displaced file goes on under its descriptor; nobody can read what is written there.
        change(disk.files.get_mut(&self.name).filter(|file| file.generation == self.generation).unwrap_or(&mut Content::default()))
    }

    /// The same, as an operation of which the disk may keep the moment.
    fn step(&self, synced: Option<bool>, change: impl FnOnce(&mut Content)) {
        self.with(change);
        self.volume.disk().step(synced);
    }

    /// Takes the first fault of one sort.
    fn fault(&self, sort: impl Fn(&Fault) -> Option<i32>) -> Option<i32> {
        let mut disk = self.volume.disk();
        let at = disk.faults.iter().position(|fault| sort(fault).is_some())?;
        sort(&disk.faults.remove(at))
    }
}

impl Storage for SimulatedFile {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fault = self.fault(|fault| if let Fault::Write(errno) = fault { Some(*errno) } else { None });
        let free = self.volume.disk().free();
        let (take, errno) = match fault {
            Some(errno) => (bytes.len() / 2, Some(errno)),
            None if free < bytes.len() as u64 => (free as usize, Some(libc::ENOSPC)),
            None => (bytes.len(), None),
        };
        self.step(None, |file| file.append(&bytes[..take]));
        errno.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(errno) = self.fault(|fault| if let Fault::Sync(errno) = fault { Some(*errno) } else { None }) {
            self.step(Some(false), Content::fail_sync);
            return Err(io::Error::from_raw_os_error(errno));
        }
        let lies = self.volume.disk().lies;
        self.step(Some(true), |file| {
            if !lies {
                file.sync()
            }
        });
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if let Some(errno) = self.fault(|fault| if let Fault::Truncate(errno) = fault { Some(*errno) } else { None }) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.step(None, |file| file.cut(len as usize));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.with(|file| file.bytes.len() as u64))
    }

    fn displaced(&self) -> bool {
        self.volume.disk().files.get(&self.name).is_none_or(|file| file.generation != self.generation)
    }
}
