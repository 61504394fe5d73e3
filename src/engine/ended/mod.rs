//! Leases that ended before their certificates did: remembered on disk, and published as a list for those who verify certificates.

mod book;
#[cfg(test)]
mod tests;

use crate::{
    model::{LeaseId, Ttl, WallTime},
    sys::{self, Clock, FileError, TrustError},
};
use book::{Book, LOOK};
use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// After so many looks, which is a day, the list is written anew while nothing ends.
const ANEW: u64 = 86_400 / LOOK;
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes of the largest book: some millions of leases. Any that was written while it was 256 MiB can be read and written in the second
/// version, whose rows are half as long again.
const BOOK_MAX: usize = 400 << 20;

/// Why ended leases could not be read, remembered or published.
#[derive(Debug, thiserror::Error)]
pub enum EndedError {
    /// What is remembered of ended leases cannot be read.
    #[error("{0}: is no list of ended leases of this version; restore it, or remove it once every certificate of before has expired")]
    Book(PathBuf),
    /// What is remembered could not be read.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The list or what is remembered could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The list could not be made.
    #[error("the list of ended leases: {0}")]
    Made(String),
}

/// Where ended leases are published and remembered.
#[derive(Clone, Debug)]
pub struct ListPlaces {
    /// The list for verifiers.
    pub file: PathBuf,
    /// What we remember ourselves, in the state folder.
    pub book: PathBuf,
}

/// What a list is made from.
pub(super) struct Edition<'a> {
    /// Its number: never given twice.
    pub(super) number: u64,
    /// When it is made, in seconds since 1970.
    pub(super) now: u64,
    /// Leases, and when they ended, in seconds since 1970.
    pub(super) leases: &'a [(LeaseId, u64)],
}

/// Makes the list that verifiers read.
pub(super) type Render = Box<dyn Fn(&Edition<'_>) -> Result<Vec<u8>, String> + Send + Sync>;

/// The list of one engine.
pub(super) struct EndedList {
    render: Render,
    clock: Arc<dyn Clock>,
    /// What verifiers read.
    file: PathBuf,
    /// What we remember ourselves.
    book: PathBuf,
    ended: Mutex<Book>,
    /// When the last certificate ends that was made for a lease which has not ended.
    made: Mutex<HashMap<LeaseId, WallTime>>,
    /// Up to which step everything is on disk.
    written: tokio::sync::Mutex<u64>,
}

impl EndedList {
    /// Reads what is remembered and writes the list, which is written anew every day from then on. `life` is the longest that certificates
    /// may have.
    pub(super) fn open(places: ListPlaces, life: Ttl, clock: Arc<dyn Clock>, render: Render) -> Result<Arc<Self>, EndedError> {
        let ListPlaces { file, book } = places;
        let ended = match sys::read_trusted(&book, BOOK_MAX) {
            Ok(text) => Book::read(&text, life).ok_or_else(|| EndedError::Book(book.clone()))?,
            Err(sys::TrustError::Io(_, error)) if error.kind() == std::io::ErrorKind::NotFound => Book::new(life),
            Err(error) => return Err(error.into()),
        };
        let (ended, made, written) = (Mutex::new(ended), Mutex::default(), tokio::sync::Mutex::new(0));
        let list = Arc::new(Self { render, clock, file, book, ended, made, written });
        list.write()?;
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(keep(Arc::downgrade(&list)));
        }
        Ok(list)
    }

    /// A certificate of this lease is good until then. Once the lease has ended it stays on the list for as long.
    pub(super) fn made(&self, lease: LeaseId, until: WallTime) {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let last = made.entry(lease).or_insert(until);
        *last = until.max(*last);
    }

    /// Puts a lease on the list; it is there on disk when this returns. Those who come at the same time are written together.
    pub(super) async fn add(&self, lease: LeaseId) -> Result<(), EndedError> {
        let until = self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        let mine = self.ended().add(lease, until, self.clock.boot(), self.clock.wall());
        let mut written = self.written.lock().await;
        if *written < mine {
            *written = sys::blocking(|| self.write())?;
        }
        Ok(())
    }

    /// Writes both files and says up to which step. The book first: what verifiers were told once is never forgotten.
    fn write(&self) -> Result<u64, EndedError> {
        let (now, noted) = self.note()?;
        let list = (self.render)(&Edition { number: noted.number, now, leases: &noted.leases() }).map_err(EndedError::Made)?;
        sys::write_atomic(&self.file, &list, 0o644)?;
        Ok(noted.step)
    }

    /// Looks at the clocks and writes the book: what it said then, and when that was.
    fn note(&self) -> Result<(u64, Book), EndedError> {
        let (now, noted) = {
            let mut ended = self.ended();
            let now = self.clock.wall();
            ended.look(self.clock.boot(), now);
            ended.number += 1;
            // Whoever ends meanwhile does not wait for the writing.
            (now.unix_secs(), ended.clone())
        };
        sys::write_atomic(&self.book, noted.text().as_bytes(), 0o600)?;
        Ok((now, noted))
    }

    /// Changed whole under the lock; a panic leaves no half of it.
    fn ended(&self) -> MutexGuard<'_, Book> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks every hour, and writes the list before the last one is too old, also while nothing ends; ends with the engine.
async fn keep(list: Weak<EndedList>) {
    let (hour, mut looks) = (Duration::from_secs(LOOK), 0);
    let mut pause = hour;
    loop {
        tokio::time::sleep(pause).await;
        let Some(list) = list.upgrade() else { return };
        let mut written = list.written.lock().await;
        looks += 1;
        let done = match looks < ANEW {
            // Nothing is on the list that could go.
            true if list.ended().is_empty() => Ok(()),
            true => sys::blocking(|| list.note()).map(drop),
            false => sys::blocking(|| list.write()).map(|step| (*written, looks) = (step, 0)),
        };
        pause = match done {
            Ok(()) => hour,
            Err(error) => {
                tracing::warn!(file = %list.file.display(), %error, "the list of ended leases was not written");
                PAUSE
            }
        };
    }
}
