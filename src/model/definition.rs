//! The catalogue of secrets: what each one is, who answers for it, and how long it may be out.

use super::{EngineName, Environment, Operation, Owner, Purpose, Rotation, SecretName, Sensitivity, Target, Ttl};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// How a credential ends, said wherever it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndsBy {
    /// Revoked at the source.
    Upstream,
    /// Dies by its own expiry.
    ShortLife,
    /// A copy already taken stays valid until the secret is rotated.
    None,
}

impl EndsBy {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndsBy::Upstream => "upstream",
            EndsBy::ShortLife => "short-life",
            EndsBy::None => "none",
        }
    }
}

impl fmt::Display for EndsBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What of a row of `secrets.d` follows from its engine and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfEngine {
    /// As [`SecretDefinition::ends_by`].
    pub ends_by: EndsBy,
    /// As [`SecretDefinition::narrows`].
    pub narrows: Vec<Operation>,
}

impl OfEngine {
    /// Of one that makes the same for every operation.
    pub fn ends_by(ends_by: EndsBy) -> Self {
        Self { ends_by, narrows: Vec::new() }
    }
}

/// How long one lease of a secret may live, before policy shortens it further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TtlLimits {
    /// When nobody asks for less.
    pub default: Ttl,
    /// At most, renewals not counted.
    pub max: Ttl,
}

/// One row of `secrets.d`.
#[derive(Clone, Debug, PartialEq)]
pub struct SecretDefinition {
    /// Its name.
    pub name: SecretName,
    /// Which configured engine makes it.
    pub engine: EngineName,
    /// Who answers for it.
    pub owner: Owner,
    /// How much harm its disclosure would do.
    pub sensitivity: Sensitivity,
    /// The environment it belongs to.
    pub environment: Environment,
    /// What it may be used for.
    pub purposes: Vec<Purpose>,
    /// The worst that the credential allows.
    pub operation: Operation,
    /// Where it may be used; every target of an intent must be among these.
    pub hosts: Vec<Target>,
    /// How long it may be out.
    pub ttl: TtlLimits,
    /// How often one lease's value may be read again.
    pub reads_max: u64,
    /// Out of use until an operator says otherwise.
    pub quarantined: bool,
    /// Given only to a key that the attested process made.
    pub pinned: bool,
    /// Who has one credential of it together.
    pub share: Share,
    /// When its value is to be changed, where it has one that lasts.
    pub rotate: Option<Rotation>,
    /// One line for people.
    pub description: String,
    /// How it ends: follows from the engine.
    pub ends_by: EndsBy,
    /// Operations below `operation` for which the engine makes a credential that allows no more, least harmful first: follows from the
    /// engine and its settings.
    pub narrows: Vec<Operation>,
    /// What only its engine understands, checked by the engine at load.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// SHA-256 over what its engine makes credentials of (engine, operation, hosts, settings), in hex: another one makes other credentials.
    pub recipe: Arc<str>,
    /// SHA-256 over the row as loaded, in hex: a changed row is another generation.
    pub generation: Arc<str>,
}

impl SecretDefinition {
    /// The worst that the credential allows which is made for whoever asks for this operation: never more than `operation`, and less only
    /// where the engine makes one of less.
    pub fn operation_for(&self, asked: Option<Operation>) -> Operation {
        let fits = asked.and_then(|asked| self.narrows.iter().copied().find(|made| *made >= asked));
        fits.map_or(self.operation, |made| made.min(self.operation))
    }
}

/// Who has one credential together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Share {
    /// Nobody: each lease has its own.
    #[default]
    Holder,
    /// The processes of one identity, for the same purpose, operation and targets. It is revoked when the last of their leases ends.
    Identity,
}

/// Every secret of the host.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    rows: BTreeMap<SecretName, Arc<SecretDefinition>>,
}

impl Catalogue {
    /// Takes rows whose names differ.
    pub fn new(rows: Vec<SecretDefinition>) -> Self {
        Self { rows: rows.into_iter().map(|row| (row.name.clone(), Arc::new(row))).collect() }
    }

    /// The row of that name.
    pub fn find(&self, name: &SecretName) -> Option<&Arc<SecretDefinition>> {
        self.rows.get(name)
    }

    /// All rows, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<SecretDefinition>> {
        self.rows.values()
    }
}
