//! The other end of one connection with what was found out about it, so that it is found out once.

use super::{Broker, Governance, record};
use crate::{
    attest::{Attestor, Facts as ProcessFacts, Peer, StartingUnit, Workload},
    audit::Facts,
    lease::Lease,
    model::{BootTime, LeaseId, Refusal, SecretName},
};
use arc_swap::ArcSwapOption;
use std::{
    ops::Deref,
    sync::{Arc, Mutex, PoisonError},
};

/// A pinned peer. What was read from the kernel when it connected does not change, so who it is changes only with the registry.
pub struct Caller {
    peer: Peer,
    unit: Option<StartingUnit>,
    known: ArcSwapOption<Known>,
    shown: ArcSwapOption<Shown>,
}

/// The lease that was shown last, in JSON: it changes once a second.
struct Shown {
    lease: Arc<Lease>,
    remaining: u64,
    text: Vec<u8>,
}

/// Who the peer is under one generation, and the same as it stands in records.
pub(super) struct Known {
    generation: u64,
    pub(super) workload: Workload,
    pub(super) basis: Option<Facts>,
    pub(super) attestor: Option<Facts>,
    pub(super) attested: Option<Facts>,
    pub(super) client: Option<Facts>,
    /// What it was given last by name, where a protocol knows no leases.
    named: Mutex<Vec<Named>>,
}

/// A lease that stands for a name, for as long as what policy said about it stands for another question.
struct Named {
    secret: SecretName,
    lease: LeaseId,
    until: BootTime,
}

/// So many names are remembered for one connection.
const NAMES: usize = 8;

impl Known {
    /// The lease that a name led to a moment ago.
    pub(super) fn named(&self, secret: &str, now: BootTime) -> Option<LeaseId> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.iter().find(|named| named.secret.as_str() == secret && now < named.until).map(|named| named.lease)
    }

    /// A name led to a lease.
    pub(super) fn name(&self, secret: &SecretName, lease: LeaseId, until: BootTime) {
        let mut named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
        named.retain(|named| named.secret != *secret);
        if named.len() == NAMES {
            named.remove(0);
        }
        named.push(Named { secret: secret.clone(), lease, until });
    }
}

/// A process that is no registered identity, and why.
pub(super) type Nobody = (Refusal, ProcessFacts);

impl Caller {
    /// A peer of which nothing is known yet.
    pub fn new(peer: Peer) -> Self {
        Self { peer, unit: None, known: ArcSwapOption::empty(), shown: ArcSwapOption::empty() }
    }

    /// PID 1, for the unit that it starts.
    pub(super) fn starting(self, unit: StartingUnit) -> Self {
        Self { unit: Some(unit), known: ArcSwapOption::empty(), ..self }
    }

    /// A lease in JSON as it stands in answers. `with` is handed the text.
    pub fn show<T>(&self, broker: &Broker, lease: &Arc<Lease>, with: impl FnOnce(&[u8]) -> T) -> T {
        let remaining = broker.remaining(lease);
        if let Some(shown) = &*self.shown.load()
            && Arc::ptr_eq(&shown.lease, lease)
            && shown.remaining == remaining
        {
            return with(&shown.text);
        }
        // Texts and numbers always have a JSON form.
        let text = serde_json::to_vec(&broker.view(lease)).unwrap_or_default();
        let shown = Arc::new(Shown { lease: lease.clone(), remaining, text });
        self.shown.store(Some(shown.clone()));
        with(&shown.text)
    }

    /// Who it is, if that was found out under this generation.
    pub(super) fn known(&self, governance: &Governance) -> Option<Arc<Known>> {
        self.known.load_full().filter(|known| known.generation == governance.generation)
    }

    /// Who it is under this generation, or why it is nobody, with what was attested all the same; a refusal is never remembered.
    pub(super) fn attest(&self, attestor: &Attestor, governance: &Governance) -> Result<Result<Arc<Known>, Nobody>, Refusal> {
        if let Some(known) = self.known(governance) {
            return Ok(Ok(known));
        }
        let attested = match &self.unit {
            None => attestor.examine(&self.peer, &governance.roll)?,
            Some(unit) => attestor.examine_unit(unit, &governance.roll),
        };
        let workload = match attested.workload {
            Ok(workload) => workload,
            Err(refusal) => return Ok(Err((refusal, attested.candidate.facts))),
        };
        let known = Arc::new(Known {
            generation: governance.generation,
            basis: record::facts(&workload.basis()),
            attestor: record::facts(&attestor.source().eyes()),
            attested: record::facts(&**workload.facts()),
            client: workload.client().and_then(|client| record::facts(&**client)),
            named: Mutex::default(),
            workload,
        });
        // What a nonce has yet to prove may still change.
        if self.peer.is_fresh() {
            self.known.store(Some(known.clone()));
        }
        Ok(Ok(known))
    }
}

impl Deref for Caller {
    type Target = Peer;
    fn deref(&self) -> &Peer {
        &self.peer
    }
}
