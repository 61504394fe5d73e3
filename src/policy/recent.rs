//! The last few evaluations of a slice. A decision is a function of what it looks at; asked the same within the same second, Cedar need
//! not be asked again.
//!
//! What is remembered dies with its bundle and with its second (a context's `now` has whole seconds), so it outlives nothing that it
//! depends on. Only answers without errors are remembered.

use super::{
    context::{Facts, Limits},
    evidence::Evidence,
    rule::GrantFacts,
};
use crate::{
    intent::{Effective, Source},
    model::{Assurance, Operation, Purpose, Target, Ttl},
};
use std::sync::{Mutex, PoisonError};

/// Everything that a context is made of: a member here for each one there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Looked {
    purpose: Purpose,
    targets: Vec<Target>,
    source: Source,
    intended: Option<Operation>,
    seconds: Option<Ttl>,
    times: Option<u64>,
    effective: Effective,
    limits: Limits,
    assurance: Assurance,
    traced: bool,
    via_client: bool,
    evidence: Evidence,
    grant: GrantFacts,
    second: u64,
    frozen: bool,
}

impl Looked {
    pub(super) fn at(facts: &Facts<'_>) -> Self {
        let claimed = facts.intent.claimed();
        Self {
            purpose: claimed.purpose.clone(),
            targets: claimed.targets.clone(),
            source: facts.intent.source(),
            intended: claimed.operation,
            seconds: claimed.ttl,
            times: claimed.uses,
            effective: facts.intent.effective().clone(),
            limits: facts.limits,
            assurance: facts.assurance,
            traced: facts.workload.facts().tracer.is_some(),
            via_client: facts.workload.client().is_some(),
            evidence: facts.evidence.clone(),
            grant: facts.grant,
            second: facts.now.unix_secs(),
            frozen: facts.frozen,
        }
    }
}

/// The last few, oldest first: what was looked at, and which rules refused.
#[derive(Default)]
pub(super) struct Recent(Mutex<Vec<(Looked, Vec<usize>)>>);

const KEPT: usize = 8;

impl Recent {
    /// The rules that refused the same before.
    pub(super) fn find(&self, looked: &Looked) -> Option<Vec<usize>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().rev().find(|(before, _)| before == looked).map(|(_, rules)| rules.clone())
    }

    /// Remembers an answer in place of the oldest.
    pub(super) fn keep(&self, looked: Looked, rules: Vec<usize>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((looked, rules));
    }
}
