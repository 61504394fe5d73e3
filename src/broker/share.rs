//! Credentials that processes of one identity have together: one is made for the first, the others join, the last one's end revokes it.
//!
//! Who has a credential is counted by the lease table alone, under its lock. What is here only finds the credential that a newcomer may join,
//! and lets one at a time make or prolong it. It is not kept over a restart: whoever comes after one gets another credential.

use super::{Broker, Stop};
use crate::{
    lease::{Lease, Slot},
    model::{
        Assurance, Code, IdentityKind, IdentityName, LeaseId, Operation, Purpose, Refusal, SecretDefinition, SecretName, Share, Target,
    },
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// How long a request waits for those before it that make the same.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Uses that are kept whether somebody has their credential or not.
const MANY: usize = 1_024;

/// What is the same for all who have a credential together.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Use {
    identity: IdentityName,
    secret: SecretName,
    /// Nobody gets what a stronger attestation was needed for.
    assurance: Assurance,
    recipe: Arc<str>,
    purpose: Purpose,
    operation: Operation,
    hosts: Vec<Target>,
}

/// The newest credential of a use. Held by whoever makes or prolongs one.
pub(super) type Newest = OwnedMutexGuard<Option<LeaseId>>;

/// The credentials that may be joined.
#[derive(Default)]
pub(super) struct Shares(Mutex<HashMap<Use, Arc<tokio::sync::Mutex<Option<LeaseId>>>>>);

impl Shares {
    /// Waits for a turn.
    async fn turn(&self, lease: &Lease) -> Newest {
        let key = Use {
            identity: lease.identity.clone(),
            secret: lease.secret.clone(),
            assurance: lease.assurance,
            recipe: lease.recipe.clone(),
            purpose: lease.purpose.clone(),
            operation: lease.operation,
            hosts: lease.hosts.clone(),
        };
        let turn = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().clone();
        turn.lock_owned().await
    }

    /// Forgets credentials that nobody has any more.
    fn forget(&self, has_users: impl Fn(LeaseId) -> bool) {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.len() < MANY {
            return;
        }
        shares.retain(|_, turn| Arc::strong_count(turn) > 1 || turn.try_lock().map_or(true, |newest| newest.is_some_and(&has_users)));
    }
}

/// What is never shared.
fn has_its_own(lease: &Lease) -> bool {
    let agent = lease.identity_kind == IdentityKind::Agent && !crate::mutation!("share-agent");
    agent || lease.has_counted_uses()
}

impl Broker {
    /// A place beside those who have a credential for the same use. Without one, a turn to make it, or nothing where each has its own: what
    /// is counted is one holder's, and so is what an agent has, whose every call must be told from all others.
    pub(super) async fn join(&self, secret: &SecretDefinition, draft: &Lease) -> Result<(Option<Slot>, Option<Newest>), Stop> {
        if secret.share != Share::Identity || has_its_own(draft) {
            return Ok((None, None));
        }
        self.shares.forget(|credential| self.leases.longest(credential).is_some());
        // Behind a source that hangs nobody waits for all the others: whoever waited long enough asks it alone.
        let turn = tokio::time::timeout(LONGEST_WAIT, self.shares.turn(draft)).await;
        // Others may have taken long, and have leases now.
        self.must_be_within_limit(&draft.identity)?;
        let Ok(turn) = turn else { return Ok((None, None)) };
        let (wall, boot) = (self.clock.wall(), self.clock.boot());
        let draft = Lease { issued: wall, expires: wall.plus(draft.ttl), deadline: boot.plus(draft.ttl), ..draft.clone() };
        let joined = match *turn {
            Some(credential) => self.leases.join(draft, credential, boot)?,
            None => None,
        };
        Ok(if joined.is_some() { (joined, None) } else { (None, Some(turn)) })
    }

    /// A turn to prolong a credential that others may have too. Whoever has waited for one decides anew.
    pub(super) async fn turn_to_prolong(&self, lease: &Lease) -> Result<Option<Newest>, Stop> {
        let is_shared = |secret: &Arc<SecretDefinition>| secret.share == Share::Identity;
        // Before uses were counted, leases with a number of them had others' credentials too.
        if has_its_own(lease) && lease.shares.is_none() {
            return Ok(None);
        }
        if lease.shares.is_none() && !self.governance().catalogue.find(&lease.secret).is_some_and(is_shared) {
            return Ok(None);
        }
        let busy = || Refusal::new(Code::ENGINE_UNAVAILABLE).message("Others that have the same credential are before you; try again.");
        Ok(Some(tokio::time::timeout(LONGEST_WAIT, self.shares.turn(lease)).await.map_err(|_| busy())?))
    }
}
