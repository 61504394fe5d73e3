//! The registry of identities: who a process may turn out to be, and what was reviewed about it.

use super::{
    CredentialName, Environment, GroupName, IdentityName, Line, Operation, Owner, Purpose, SecretName, Selector, Sensitivity, Target, Ttl,
    WallTime,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What sort of identity a row describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IdentityKind {
    /// A program with a fixed task.
    Workload,
    /// A program whose demand is dynamic; everything below it in its process tree is it too.
    Agent,
    /// A uid used by several programs or people: never above `internal`.
    Shared,
}

impl IdentityKind {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            IdentityKind::Workload => "workload",
            IdentityKind::Agent => "agent",
            IdentityKind::Shared => "shared",
        }
    }
}

/// What happens to a lease when its holder executes another program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExecRule {
    /// The lease lives if the new program is the same identity at the same assurance.
    #[default]
    Reattest,
    /// The lease ends.
    End,
}

/// One reviewed use of one secret: fills what a request leaves unsaid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredUse {
    /// The secret it is for.
    pub secret: SecretName,
    /// Why.
    pub purpose: Purpose,
    /// What for; the worst the credential allows when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Operation>,
    /// Where; all hosts of the secret when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// How long at most; as long as policy allows when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// How often at most; as often as policy allows when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// What a person is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Line>,
    /// What a unit calls it in `LoadCredential=`; the secret's own name will do where it has no slash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialName>,
}

impl DeclaredUse {
    /// Whether a unit that loads a credential of this name means this use.
    pub fn is_credential(&self, name: &CredentialName) -> bool {
        match &self.credential {
            Some(own) => own == name,
            None => self.secret.as_str() == name.as_str(),
        }
    }
}

/// One row of `identities.d`. A process is this identity when every selector is among its attested facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name in policy, records and answers.
    pub name: IdentityName,
    /// Workload, agent or shared.
    pub kind: IdentityKind,
    /// Who answers for it.
    pub owner: Owner,
    /// The only environment whose secrets it may have.
    pub environment: Environment,
    /// What it may ask secrets for.
    pub purposes: Vec<Purpose>,
    /// The most sensitive secret it may ever have.
    pub max_sensitivity: Sensitivity,
    /// When the row stops counting.
    pub expires: WallTime,
    /// Switched off by hand.
    pub suspended: bool,
    /// Groups that policy may name.
    pub groups: Vec<GroupName>,
    /// All of these must hold. Never empty.
    pub selectors: Vec<Selector>,
    /// An operator asserts that no other code runs on the selected uid; recorded with each attestation that rests on it.
    pub exclusive_uid: bool,
    /// What happens to its leases when it executes another program.
    pub on_exec: ExecRule,
    /// Reviewed uses.
    pub uses: Vec<DeclaredUse>,
    /// SHA-256 over the row as loaded, in hex: a changed row is another generation.
    pub generation: String,
}

/// Every identity of the host, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    identities: Vec<Arc<Identity>>,
}

impl Registry {
    /// Takes rows whose names differ.
    pub fn new(mut identities: Vec<Identity>) -> Self {
        identities.sort_by(|a, b| a.name.cmp(&b.name));
        Self { identities: identities.into_iter().map(Arc::new).collect() }
    }

    /// All rows, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Identity>> {
        self.identities.iter()
    }

    /// The row of that name.
    pub fn find(&self, name: &IdentityName) -> Option<&Arc<Identity>> {
        self.identities.binary_search_by(|row| row.name.cmp(name)).ok().map(|at| &self.identities[at])
    }
}
