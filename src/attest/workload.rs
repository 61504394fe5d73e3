//! `Workload`: the proof that a process was attested and is exactly one registered identity.

use super::facts::Facts;
use crate::model::{Assurance, Identity, Selector};
use std::sync::Arc;

/// An attested process with its identity. Only this module's parent makes one.
#[derive(Clone)]
#[must_use]
pub struct Workload {
    identity: Arc<Identity>,
    assurance: Assurance,
    facts: Arc<Facts>,
    selectors: Arc<[Selector]>,
    client: Option<Arc<Facts>>,
    basis: Basis,
}

/// What the assurance rests on; part of every record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Nothing beyond ids.
    Ids,
    /// Control group and executable on a shared uid.
    Program,
    /// A system unit whose uid belongs to nothing else.
    SystemUnit,
    /// The registry row asserts that the uid is exclusive.
    ExclusiveUid,
    /// The launcher started it in a group of its own.
    Launch,
    /// PID 1's word that it starts the unit; its program has not run yet.
    ServiceManager,
}

/// Which process looked at the caller; part of every record beside the basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Eyes {
    /// The daemon itself: whoever takes it over has the secrets and can read every process.
    Daemon,
    /// A process without secrets, for a daemon without privilege.
    Process,
}

impl Workload {
    pub(super) fn new(
        identity: Arc<Identity>,
        assurance: Assurance,
        basis: Basis,
        facts: Arc<Facts>,
        selectors: Arc<[Selector]>,
        client: Option<Arc<Facts>>,
    ) -> Self {
        Self { identity, assurance, facts, selectors, client, basis }
    }

    /// A workload that nobody attested, for tests of later stages.
    #[cfg(any(test, feature = "testing"))]
    pub fn for_test(identity: Arc<Identity>, assurance: Assurance, facts: Facts) -> Self {
        Self::new(identity, assurance, Basis::Program, Arc::new(facts), Arc::from([]), None)
    }

    /// Who it is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What the attestation is worth.
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// What the assurance rests on.
    pub fn basis(&self) -> Basis {
        self.basis
    }

    /// What the kernel said about the subject.
    pub fn facts(&self) -> &Arc<Facts> {
        &self.facts
    }

    /// The same as selectors.
    pub fn selectors(&self) -> &Arc<[Selector]> {
        &self.selectors
    }

    /// The configured client that spoke for the subject, when the peer was `clav`.
    pub fn client(&self) -> Option<&Arc<Facts>> {
        self.client.as_ref()
    }
}
