//! Digests of executables: taken through the pinned descriptor, remembered, bounded in size and in rate.

use crate::{
    digest::Hasher,
    sys::{Clock, Executable, blocking},
};
use moka::sync::Cache;
use std::{
    collections::HashMap,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
};

/// What a digest is remembered under. A reused inode number has another handle; changed content has another change time.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    dev: u64,
    ino: u64,
    handle: Vec<u8>,
    size: u64,
    mtime: i128,
    ctime: i128,
    fs: String,
}

/// Why a digest was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// Larger than is hashed.
    #[error("the executable is larger than {0} bytes")]
    TooLarge(u64),
    /// This uid has had its share for now.
    #[error("uid {0} has used up its budget for hashing")]
    Budget(u32),
    /// Its file system is not one whose files are opened, or reading failed.
    #[error("the executable cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It changed while it was read.
    #[error("the executable changed while it was hashed")]
    Changed,
}

/// Hashes executables for those who need it.
pub struct ExeHashes {
    cache: Cache<Key, String>,
    max_bytes: u64,
    budget_per_second: u64,
    spent: Mutex<HashMap<u32, (u64, u64)>>,
    clock: Arc<dyn Clock>,
}

/// A cached digest of a file whose last change is younger than this may miss a later one (coarse timestamps before Linux 6.13).
const RACY_NANOS: i128 = 2_000_000_000;

impl ExeHashes {
    /// At most `max_bytes` a file and `budget_per_second` bytes a second for each uid (bursts of ten seconds' worth).
    pub fn new(max_bytes: u64, budget_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { cache: Cache::new(512), max_bytes, budget_per_second, spent: Mutex::default(), clock }
    }

    /// The SHA-256 of the pinned executable in hex. Blocks for about 0.6 ms a mebibyte when it is not remembered.
    pub fn of(&self, exe: &Executable, uid: u32) -> Result<String, HashError> {
        let key = exe.handle().map(|handle| Key {
            dev: exe.id.dev,
            ino: exe.id.ino,
            handle,
            size: exe.id.size,
            mtime: exe.id.mtime,
            ctime: exe.id.ctime,
            fs: exe.fs.clone(),
        });
        if let Some(hash) = key.as_ref().and_then(|key| self.cache.get(key)) {
            return Ok(hash);
        }
        if exe.id.size > self.max_bytes {
            return Err(HashError::TooLarge(self.max_bytes));
        }
        self.spend(uid, exe.id.size)?;
        let hash = blocking(|| self.read(exe))?;
        let settled = i128::from(self.clock.wall().0) * 1_000 - exe.id.ctime > RACY_NANOS;
        if let Some(key) = key.filter(|_| settled) {
            self.cache.insert(key, hash.clone());
        }
        Ok(hash)
    }

    fn read(&self, exe: &Executable) -> Result<String, HashError> {
        let mut file = exe.open()?;
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 256 << 10];
        let mut left = exe.id.size;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => {
                    left = left.checked_sub(n as u64).ok_or(HashError::Changed)?;
                    hasher.update(&buffer[..n]);
                }
            }
        }
        if left == 0 && exe.unchanged() { Ok(hex::encode(hasher.finish())) } else { Err(HashError::Changed) }
    }

    fn spend(&self, uid: u32, bytes: u64) -> Result<(), HashError> {
        let now = self.clock.boot().0 / 1_000_000;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let (used, at) = spent.entry(uid).or_insert((0, now));
        *used = used.saturating_sub((now - (*at).min(now)) * self.budget_per_second);
        *at = now;
        if *used > 0 && *used + bytes > 10 * self.budget_per_second && !crate::mutation!("hash-budget") {
            return Err(HashError::Budget(uid));
        }
        *used += bytes;
        Ok(())
    }
}
