//! Tokens of leases in a namespace. OpenBao takes ids that somebody chooses in its root namespace only: elsewhere a token has an id of the
//! server's, is named by its accessor, and is found by its mark. There is no fence then. So whoever settles a lease waits until no call of
//! before can be under way, and looks after that.

use super::{
    super::{EngineError, Issued, Over},
    OpenBaoEngine,
    child::{Children, Marked},
    settings::{Read, Settings},
};
use crate::{
    model::{BootTime, Finding, LeaseId, Proof, SecretDefinition},
    sys::Clock,
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Longer than the server works on any request (`max_request_duration`, 90 s), in microseconds.
const LATE: u64 = 150_000_000;

/// How a lease's token is named to the server.
#[derive(Clone, Copy)]
pub(super) enum Handle<'a> {
    /// By the id that follows from the lease.
    Id(LeaseId),
    /// By the server's name for it, which lets nobody use it.
    Accessor(&'a str),
}

impl<'a> Handle<'a> {
    pub(super) fn of(lease: LeaseId, accessor: Option<&'a String>) -> Self {
        accessor.map_or(Handle::Id(lease), |accessor| Handle::Accessor(accessor))
    }
}

/// From when on it is certain that no call for a lease is under way.
pub(super) struct Space {
    clock: Arc<dyn Clock>,
    still: Mutex<HashMap<LeaseId, BootTime>>,
    /// The last list of tokens, and when it was begun: whoever settles many lists them once.
    last: tokio::sync::Mutex<Option<(BootTime, Arc<Vec<Marked>>)>>,
}

impl Space {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, still: Mutex::default(), last: tokio::sync::Mutex::default() }
    }

    fn still(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, BootTime>> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An issue came to its end. Who was not answered may have left a call behind; what dies by itself is not asked about any more.
    pub(super) fn heard(&self, lease: LeaseId, made: &Result<Issued, EngineError>, is_short: bool) {
        match made {
            Err(error) if error.is_passing() => {}
            Ok(_) if is_short => {}
            _ => {
                self.still().insert(lease, self.clock.boot());
            }
        }
    }

    /// An error as long as a call of before may be under way: of one that we know nothing of, for a while from now.
    fn must_be_still(&self, lease: LeaseId) -> Result<BootTime, EngineError> {
        let now = self.clock.boot();
        let from = *self.still().entry(lease).or_insert(BootTime(now.0.saturating_add(LATE)));
        match from.0.saturating_sub(now.0).div_ceil(1_000_000) {
            0 => Ok(from),
            _ if crate::mutation!("openbao-still") => Ok(from),
            seconds => Err(EngineError::Busy(
                format!("a call for {lease} may be under way yet: it is looked for in {seconds} s"),
                Duration::from_secs(seconds),
            )),
        }
    }

    /// Tokens of these were listed: what nobody knows of them may be asked about together, without waiting for each in its turn.
    pub(super) fn listed(&self, leases: &[LeaseId]) {
        let certain = BootTime(self.clock.boot().0.saturating_add(LATE));
        let mut still = self.still();
        for lease in leases {
            still.entry(*lease).or_insert(certain);
        }
    }

    pub(super) fn forget(&self, lease: LeaseId) {
        self.still().remove(&lease);
    }
}

impl Children {
    /// The accessors of a lease's tokens, with the paths that were read with them, in a list that was begun since that moment. One at a time
    /// makes one, which serves all who wait.
    async fn search(&self, space: &Space, lease: LeaseId, since: BootTime) -> Result<Vec<(String, Option<String>)>, EngineError> {
        let mut last = space.last.lock().await;
        let known = last.as_ref().filter(|(begun, _)| *begun > since).map(|(_, marked)| marked.clone());
        let marked = match known {
            Some(marked) => marked,
            None => {
                let begun = space.clock.boot();
                let marked = Arc::new(self.marked().await?);
                *last = Some((begun, marked.clone()));
                marked
            }
        };
        drop(last);
        let of_lease = marked.iter().filter(|mark| mark.lease == lease);
        Ok(of_lease.map(|mark| (mark.accessor.clone(), mark.path.clone())).collect())
    }
}

impl OpenBaoEngine {
    /// Notes in a namespace what became of an issue.
    pub(super) fn heard(&self, lease: LeaseId, made: Result<Issued, EngineError>, is_short: bool) -> Result<Issued, EngineError> {
        self.children.space.iter().for_each(|space| space.heard(lease, &made, is_short));
        made
    }

    /// Ends what a lost issue left in a namespace. What hangs on a token has its path at the token; where a try before has revoked that and was
    /// cut off, the secret's row says the path.
    pub(super) async fn settle_in_space(
        &self,
        space: &Space,
        lease: LeaseId,
        secret: Option<&SecretDefinition>,
    ) -> Result<Over, EngineError> {
        let since = space.must_be_still(lease)?;
        let found = self.children.search(space, lease, since).await?;
        let mut paths: BTreeSet<String> = found.iter().filter_map(|(_, path)| path.clone()).collect();
        paths.extend(leased_paths(secret));
        for (accessor, _) in &found {
            self.children.revoke(Handle::Accessor(accessor)).await?;
        }
        let mut looked = true;
        for path in &paths {
            looked &= self.wait_until_ended(path).await?;
        }
        for (accessor, _) in &found {
            self.must_be_gone(Handle::Accessor(accessor)).await?;
        }
        space.forget(lease);
        let proof = if looked { Proof::looked(&[Finding::TokenUnknown]) } else { Proof::TOLD };
        Ok(if found.is_empty() { Over::lapsed(proof) } else { Over::revoked(proof) })
    }
}

/// The paths from which this row's leases come, as far as something hangs on them.
pub(super) fn leased_paths(secret: Option<&SecretDefinition>) -> Vec<String> {
    match secret.map(Settings::parse) {
        Some(Ok(Settings::Read(read @ Read { short_life: false, .. }))) => read.all().map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}
