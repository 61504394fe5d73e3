//! Request body to `Intent`: what the caller says it wants, kept apart from what would really be issued.
//!
//! `Claimed` is what the caller (or a reviewed declared use) said. `Effective` is what the broker would issue; it is computed
//! here and narrowed by policy, and nothing that a caller says can widen it: there is no way to read one from a request.

mod ask;
mod declare;

pub use ask::{Adapter, Ask, HolderChoice, MAX_BODY};

use crate::model::{Channel, Line, Operation, Purpose, SecretDefinition, Target, TicketId, Ttl};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Who said it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A declared use of the identity's registry row, reviewed beforehand.
    Registry,
    /// The caller itself, in this request.
    Caller,
    /// An adapter for another protocol, on the caller's behalf.
    Adapter,
}

/// What was said. None of it is checked beyond its form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claimed {
    /// Why.
    pub purpose: Purpose,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// For how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// How often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// What a person is told; never evidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Line>,
    /// Tickets named; only a connector can turn one into evidence.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tickets: Vec<TicketId>,
}

/// What would really be issued. Deliberately not `Deserialize`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Effective {
    /// The worst the issued credential allows.
    pub operation: Operation,
    /// Where it may be used: the claimed targets, or all hosts of the secret.
    pub hosts: Vec<Target>,
    /// How long.
    pub ttl: Ttl,
    /// How many uses.
    pub uses: u64,
}

/// A parsed declaration about one secret of the catalogue.
#[derive(Clone)]
#[must_use]
pub struct Intent {
    secret: Arc<SecretDefinition>,
    channel: Channel,
    source: Source,
    claimed: Claimed,
    effective: Effective,
}

impl Intent {
    /// Puts the claim beside what would be issued: the operation that its engine can keep the credential to, which is the worst it allows
    /// unless less is claimed, all hosts unless fewer are claimed, and the shorter of the times and counts. Nothing claimed can make any of
    /// them larger.
    pub fn new(secret: Arc<SecretDefinition>, channel: Channel, source: Source, claimed: Claimed) -> Self {
        let asked = claimed.ttl.unwrap_or(secret.ttl.default);
        let effective = Effective {
            operation: match claimed.operation {
                Some(asked) if crate::mutation!("operation-believed") => asked.min(secret.operation),
                asked => secret.operation_for(asked),
            },
            hosts: if claimed.targets.is_empty() { secret.hosts.clone() } else { claimed.targets.clone() },
            ttl: asked.min(secret.ttl.max),
            uses: claimed.uses.unwrap_or(crate::model::UNLIMITED),
        };
        Self { secret, channel, source, claimed, effective }
    }

    /// What a live lease stands for, to be decided again: as narrow as it was granted.
    pub fn of_lease(
        secret: Arc<SecretDefinition>,
        purpose: &Purpose,
        operation: Operation,
        channel: Channel,
        hosts: &[Target],
        ttl: Ttl,
        source: Source,
    ) -> Self {
        let claimed = Claimed {
            purpose: purpose.clone(),
            operation: Some(operation),
            targets: hosts.to_vec(),
            ttl: Some(ttl),
            uses: None,
            reason: None,
            tickets: Vec::new(),
        };
        Self::new(secret, channel, source, claimed)
    }

    /// The secret it is about.
    pub fn secret(&self) -> &Arc<SecretDefinition> {
        &self.secret
    }

    /// How it should reach its use.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// Who said it.
    pub fn source(&self) -> Source {
        self.source
    }

    /// What was said.
    pub fn claimed(&self) -> &Claimed {
        &self.claimed
    }

    /// What would be issued.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }
}
