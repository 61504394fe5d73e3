//! Whether state or audit log is an older copy that was put back: each is asked what the other knows.
//!
//! The state keeps how far the log had come, so a log that is shorter, or another, is told. The end of the log names leases that were
//! issued; a journal that has never heard of one is older. And the log's head is signed by a key that the state has.
//! What cannot be told: both put back together, with no head kept elsewhere (`clav audit verify --anchors`).

use crate::{
    audit::{self, Audit, Books, Note, Tip},
    broker::Broker,
    lease::Leases,
    sys,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// In the state folder: how far the log had come.
const SEEN: &str = "log-seen";
/// In the state folder, put there by an operator: an older copy of it is gone on with.
const ACCEPTED: &str = "go-on";
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// What the state says of the log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    seq: u64,
    hash: String,
    /// What stands up to this record is of another state, or of one that was gone on with in an older copy: it is not asked about leases.
    begin: u64,
}

impl Seen {
    fn at(tip: Tip, begin: u64) -> Self {
        Self { seq: tip.seq, hash: hex::encode(tip.hash), begin }
    }

    /// The record; one that no log has where this is not of our writing, which is done in one step.
    pub(super) fn tip(&self) -> Tip {
        let hash = hex::decode(&self.hash).ok().and_then(|bytes| bytes.try_into().ok());
        hash.map_or(Tip { seq: u64::MAX, hash: [0; 32] }, |hash| Tip { seq: self.seq, hash })
    }

    fn write(&self, state: &Path) -> Result<(), sys::FileError> {
        // A struct of strings and numbers always has a JSON form.
        let text = serde_json::to_vec(self).unwrap_or_default();
        sys::write_atomic(&state.join(SEEN), &text, 0o600)
    }
}

/// What was found, and what the state says of the log from now on.
pub(super) enum Restored {
    /// Nothing speaks for it.
    No(Seen),
    /// An operator knows, and goes on with this copy.
    Accepted(Seen),
    /// Nothing may be issued or ended; why, and what to do.
    Yes(String),
}

/// How far the log had come when this state was last written; `None` at first start.
pub(super) fn seen(state: &Path) -> Result<Option<Seen>, sys::FileError> {
    let path = state.join(SEEN);
    if !path.exists() {
        return Ok(None);
    }
    let text = sys::read_private(&path, 4096)?;
    Ok(Some(serde_json::from_slice(text.expose()).unwrap_or_default()))
}

/// Compares state and log, which are open.
pub(super) fn look(
    (state, seen): (&Path, Option<Seen>),
    log: &Path,
    leases: &Leases,
    audit: &Audit,
    books: &Books,
) -> Result<Restored, RestoredError> {
    let end = audit.opened_at();
    let why = match &seen {
        _ if crate::mutation!("older-log") => None,
        Some(seen) if seen.tip().seq > end.seq => Some(format!("it ends at record {}, and this state has seen later ones", end.seq)),
        Some(_) if books.differs() => Some("a record that this state has seen is another one there".to_owned()),
        _ => None,
    };
    if let Some(why) = why {
        return Ok(Restored::Yes(format!(
            "the audit log in {} was cut, or is an older copy that was put back: {why}. {NOTHING} Put the newer log back; to go on with \
             this one, remove {} and restart",
            log.display(),
            state.join(SEEN).display()
        )));
    }
    let seen = match seen {
        Some(seen) => seen,
        None => {
            // A new state beside a log that is there is asked about nothing that was before it.
            let begin = if leases.known().0.is_empty() { end.seq } else { 0 };
            let seen = Seen::at(end, begin);
            seen.write(state)?;
            seen
        }
    };
    let Some(why) = older_state(log, leases, books, seen.begin)? else { return Ok(Restored::No(seen)) };
    if state.join(ACCEPTED).try_exists()? {
        let seen = Seen::at(end, end.seq);
        seen.write(state)?;
        std::fs::remove_file(state.join(ACCEPTED))?;
        return Ok(Restored::Accepted(seen));
    }
    Ok(Restored::Yes(format!(
        "the state in {} is an older copy that was put back: {why}. {NOTHING} Put the newer state back; to go on with this one (all of its \
         leases end), create the file {} and restart",
        state.display(),
        state.join(ACCEPTED).display()
    )))
}

/// State and log could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum RestoredError {
    /// Reading.
    #[error("comparing state and audit log: {0}")]
    Io(#[from] io::Error),
    /// Writing.
    #[error(transparent)]
    File(#[from] sys::FileError),
}

const NOTHING: &str = "Nothing is issued and nothing is ended.";

fn older_state(log: &Path, leases: &Leases, books: &Books, begin: u64) -> Result<Option<String>, io::Error> {
    let (known, forgot_none) = leases.known();
    // Of those that are over, a journal forgets the oldest.
    let strange = |id| !known.contains(&id) && (forgot_none || books.end_of(id).is_none());
    if crate::mutation!("older-state") {
        return Ok(None);
    }
    if let Some((id, time)) = books.certain(begin).filter(|(id, _)| strange(*id)).last() {
        return Ok(Some(format!("{id}, issued {}, is on the record and not in the journal", time.rfc3339())));
    }
    let head = match std::fs::read_to_string(log.join("head")) {
        Ok(text) => Note::find(&text).filter(|head| head.tip.seq > begin),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let keys = audit::read_keys(&log.join("audit.pub"))?;
    Ok(head.filter(|head| !keys.contains(&head.key)).map(|_| "the log's head is signed by a key that it does not have".to_owned()))
}

/// Writes down how far the log has come, now and then, and a last time by `now`.
pub(super) struct Keeper {
    broker: Arc<Broker>,
    state: PathBuf,
    seen: Seen,
}

impl Keeper {
    pub(super) fn new(broker: Arc<Broker>, state: &Path, seen: Seen) -> Self {
        Self { broker, state: state.into(), seen }
    }

    /// For ever.
    pub(super) async fn keep(mut self) {
        loop {
            tokio::time::sleep(WRITE_EVERY).await;
            let done = tokio::task::spawn_blocking(move || {
                self.now();
                self
            });
            match done.await {
                Ok(back) => self = back,
                Err(_) => return,
            }
        }
    }

    /// Writes it if it has changed. Blocks.
    pub(super) fn now(&mut self) {
        // While nothing is certain, what is known stays as it is.
        let changed = |tip: &Tip| self.broker.read_only().is_none() && tip.seq > self.seen.seq;
        let Some(tip) = self.broker.audit().headed().filter(changed) else { return };
        let seen = Seen::at(tip, self.seen.begin);
        match seen.write(&self.state) {
            Ok(()) => self.seen = seen,
            Err(error) => tracing::warn!(%error, "how far the audit log has come could not be written down"),
        }
    }
}
