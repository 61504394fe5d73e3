//! What of a secret's rights goes with the targets that were granted.

use crate::model::{SecretDefinition, Target};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Rights that go with a target: each target of the secret with what it needs. A right that no target names goes with every grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(in super::super) struct ByTarget(BTreeMap<String, BTreeSet<String>>);

impl ByTarget {
    /// Checks that targets are the secret's and rights are among `all`; the text names what is wrong.
    pub(in super::super) fn check(&self, secret: &SecretDefinition, all: &BTreeSet<&str>, what: &str) -> Result<(), String> {
        for (target, rights) in &self.0 {
            if !secret.hosts.iter().any(|host| host.as_str() == target) {
                return Err(format!("targets: {target:?} is not among the secret's hosts"));
            }
            if rights.is_empty() {
                return Err(format!("targets: {target:?} names no {what}"));
            }
            if let Some(right) = rights.iter().find(|right| !all.contains(right.as_str())) {
                return Err(format!("targets: {target:?}: {right:?} is not among {what}"));
            }
        }
        Ok(())
    }

    /// Whether a right goes with these targets.
    pub(in super::super) fn grants(&self, right: &str, granted: &[Target]) -> bool {
        if crate::mutation!("bearer-targets") {
            return true;
        }
        let mut naming = self.0.iter().filter(|(_, rights)| rights.contains(right)).peekable();
        naming.peek().is_none() || naming.any(|(target, _)| granted.iter().any(|host| host.as_str() == target))
    }
}
