//! What operators read and ask about values that are kept beside their sources.

use crate::model::{EngineName, RequestId, SecretName};
use serde::{Deserialize, Serialize};

/// Something of a secret's value that is kept on this host; never the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRow {
    /// Of which secret.
    pub name: SecretName,
    /// Its engine.
    pub engine: EngineName,
    /// Which version of the value.
    pub version: u64,
    /// `memory` (locked), or `disk` (sealed).
    pub place: String,
    /// It is given only while its source cannot be asked; otherwise leases read it again without asking.
    pub stale: bool,
    /// For how many seconds its source has not confirmed it; missing where the clocks do not tell: then nobody is given it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// When its source confirmed it last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<String>,
    /// Until when it is given at most, unless its source confirms it again, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Live leases of this version.
    pub leases: usize,
}

/// `GET /v1/cache`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptList {
    /// The request.
    pub request: RequestId,
    /// By name of the secret.
    pub kept: Vec<KeptRow>,
}

/// `DELETE /v1/cache` and `DELETE /v1/cache/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictAnswer {
    /// The request.
    pub request: RequestId,
    /// What was kept and is not any more.
    pub evicted: Vec<EvictRow>,
}

/// One secret of which something was kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvictRow {
    /// Which.
    pub name: SecretName,
    /// How many copies of its values there were.
    pub copies: usize,
}
