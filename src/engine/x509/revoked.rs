//! Leases that ended before their certificates did: remembered on disk, and published as a revocation list (RFC 5280, 5).

use super::{X509Error, at, authority::Authority, certificate::serial};
use crate::{
    model::{LeaseId, Ttl},
    sys::{self, Clock},
};
use rcgen::{CertificateRevocationListParams, RevokedCertParams, SerialNumber};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

/// Seconds for which verifiers may go on with a list.
const GOOD_FOR: u64 = 7 * 86_400;
/// Seconds that a lease stays on the list after its last certificate died.
const SLACK: u64 = 86_400;
/// How often it is written anew while nothing ends.
const ANEW: Duration = Duration::from_secs(86_400);
/// The pause after a write that failed.
const PAUSE: Duration = Duration::from_secs(60);
/// Bytes of the largest book: some millions of leases.
const BOOK_MAX: usize = 256 << 20;

/// The list of one engine.
pub(super) struct RevocationList {
    authority: Arc<Authority>,
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

impl RevocationList {
    /// Reads what is remembered and writes the list, which is written anew every day from then on.
    pub(super) fn open(
        (file, book): (PathBuf, PathBuf),
        authority: Arc<Authority>,
        life: Ttl,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, X509Error> {
        let ended = match sys::read_trusted(&book, BOOK_MAX) {
            Ok(text) => read(&text).ok_or_else(|| X509Error::Book(book.clone()))?,
            Err(sys::TrustError::Io(_, error)) if error.kind() == std::io::ErrorKind::NotFound => Ended::default(),
            Err(error) => return Err(error.into()),
        };
        let list = Arc::new(Self { authority, clock, file, book, life, ended: Mutex::new(ended), written: tokio::sync::Mutex::new(0) });
        list.write()?;
        if tokio::runtime::Handle::try_current().is_ok() {
            tokio::spawn(keep(Arc::downgrade(&list)));
        }
        Ok(list)
    }

    /// Puts a lease on the list; it is there on disk when this returns. Those who come at the same time are written together.
    pub(super) async fn add(&self, lease: LeaseId) -> Result<(), X509Error> {
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
    fn write(&self) -> Result<u64, X509Error> {
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
        let mut book = format!("claviger x509 1 {number}\n");
        for (lease, at) in &leases {
            book.push_str(&format!("{lease} {at}\n"));
        }
        sys::write_atomic(&self.book, book.as_bytes(), 0o600)?;
        let revoked = leases.iter().map(|(lease, time)| {
            Ok(RevokedCertParams { serial_number: serial(*lease), revocation_time: at(*time)?, reason_code: None, invalidity_date: None })
        });
        let list = self.authority.sign_list(&CertificateRevocationListParams {
            this_update: at(now.saturating_sub(super::authority::LATE_CLOCKS))?,
            next_update: at(now.saturating_add(GOOD_FOR))?,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect::<Result<_, X509Error>>()?,
            key_identifier_method: self.authority.key_id.clone(),
        })?;
        sys::write_atomic(&self.file, list.pem()?.as_bytes(), 0o644)?;
        Ok(step)
    }

    /// Changed whole under the lock; a panic leaves no half of it.
    fn ended(&self) -> MutexGuard<'_, Ended> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(book: &str) -> Option<Ended> {
    let (head, rows) = book.split_once('\n')?;
    let number = head.strip_prefix("claviger x509 1 ")?.parse().ok()?;
    let mut leases = BTreeMap::new();
    for row in rows.lines() {
        let (lease, at) = row.split_once(' ')?;
        leases.insert(LeaseId::parse(lease).ok()?, One { at: at.parse().ok()?, step: 0 });
    }
    Some(Ended { number, step: 0, leases })
}

/// Writes the list before the last one is too old, also while nothing ends; ends with the engine.
async fn keep(list: Weak<RevocationList>) {
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
                tracing::warn!(file = %list.file.display(), %error, "the revocation list was not written");
                PAUSE
            }
        };
    }
}
