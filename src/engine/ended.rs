//! Leases that ended before their certificates did: remembered on disk, and published as a list for those who verify certificates.

use crate::{
    model::{LeaseId, Ttl},
    sys::{self, Clock, FileError, TrustError},
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// Seconds that a lease stays on the list after its last certificate died.
const SLACK: u64 = 86_400;
/// How often it is written anew while nothing ends.
const ANEW: Duration = Duration::from_secs(86_400);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes of the largest book: some millions of leases.
const BOOK_MAX: usize = 256 << 20;

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
    /// The longest life of a certificate: how long an ended lease has to stay on the list.
    life: Ttl,
    ended: Mutex<Ended>,
    /// Up to which step everything is on disk.
    written: tokio::sync::Mutex<u64>,
}

#[derive(Default)]
struct Ended {
    /// The list's number: never given twice.
    number: u64,
    /// Counts what was added.
    step: u64,
    leases: BTreeMap<LeaseId, One>,
}

struct One {
    /// Seconds since 1970.
    at: u64,
    step: u64,
}

impl EndedList {
    /// Reads what is remembered and writes the list, which is written anew every day from then on.
    pub(super) fn open(places: ListPlaces, life: Ttl, clock: Arc<dyn Clock>, render: Render) -> Result<Arc<Self>, EndedError> {
        let ListPlaces { file, book } = places;
        let ended = match sys::read_trusted(&book, BOOK_MAX) {
            Ok(text) => read(&text).ok_or_else(|| EndedError::Book(book.clone()))?,
            Err(sys::TrustError::Io(_, error)) if error.kind() == std::io::ErrorKind::NotFound => Ended::default(),
            Err(error) => return Err(error.into()),
        };
        let list = Arc::new(Self { render, clock, file, book, life, ended: Mutex::new(ended), written: tokio::sync::Mutex::new(0) });
        list.write()?;
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(keep(Arc::downgrade(&list)));
        }
        Ok(list)
    }

    /// Puts a lease on the list; it is there on disk when this returns. Those who come at the same time are written together.
    pub(super) async fn add(&self, lease: LeaseId) -> Result<(), EndedError> {
        let mine = {
            let mut ended = self.ended();
            let (at, step) = (self.clock.wall().unix_secs(), ended.step + 1);
            let one = ended.leases.entry(lease).or_insert(One { at, step });
            let mine = one.step;
            ended.step = ended.step.max(mine);
            mine
        };
        let mut written = self.written.lock().await;
        if *written < mine {
            *written = sys::blocking(|| self.write())?;
        }
        Ok(())
    }

    /// Writes both files and says up to which step. The book first: what verifiers were told once is never forgotten.
    fn write(&self) -> Result<u64, EndedError> {
        let now = self.clock.wall().unix_secs();
        let (step, number, leases) = {
            let mut ended = self.ended();
            let life = u64::from(self.life.as_secs());
            let step = ended.step;
            // No certificate of that lease is alive any more, also for clocks that are late.
            ended.leases.retain(|_, one| one.at.saturating_add(life).saturating_add(SLACK) > now);
            ended.number += 1;
            (step, ended.number, ended.leases.iter().map(|(lease, one)| (*lease, one.at)).collect::<Vec<_>>())
        };
        let mut book = format!("claviger ended 1 {number}\n");
        for (lease, at) in &leases {
            book.push_str(&format!("{lease} {at}\n"));
        }
        sys::write_atomic(&self.book, book.as_bytes(), 0o600)?;
        let list = (self.render)(&Edition { number, now, leases: &leases }).map_err(EndedError::Made)?;
        sys::write_atomic(&self.file, &list, 0o644)?;
        Ok(step)
    }

    /// Changed whole under the lock; a panic leaves no half of it.
    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(book: &str) -> Option<Ended> {
    let (head, rows) = book.split_once('\n')?;
    let number = head.strip_prefix("claviger ended 1 ")?.parse().ok()?;
    let mut leases = BTreeMap::new();
    for row in rows.lines() {
        let (lease, at) = row.split_once(' ')?;
        leases.insert(LeaseId::parse(lease).ok()?, One { at: at.parse().ok()?, step: 0 });
    }
    Some(Ended { number, step: 0, leases })
}

/// Writes the list before the last one is too old, also while nothing ends; ends with the engine.
async fn keep(list: Weak<EndedList>) {
    let mut pause = ANEW;
    loop {
        tokio::time::sleep(pause).await;
        let Some(list) = list.upgrade() else { return };
        let mut written = list.written.lock().await;
        pause = match sys::blocking(|| list.write()) {
            Ok(step) => {
                *written = step;
                ANEW
            }
            Err(error) => {
                tracing::warn!(file = %list.file.display(), %error, "the list of ended leases was not written");
                PAUSE
            }
        };
    }
}
