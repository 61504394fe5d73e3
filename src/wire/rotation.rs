//! What operators read and ask about values that last.

use crate::model::{EngineName, RequestId, SecretName};
use serde::{Deserialize, Serialize};

/// How a value that lasts stands: one that has to be changed now and then, or that this daemon can change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationRow {
    /// Of which secret.
    pub name: SecretName,
    /// Its engine.
    pub engine: EngineName,
    /// Whether this daemon changes it; otherwise a person does, where it is used.
    pub changed_here: bool,
    /// The version that is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
    /// From when it is changed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
    /// By when it has to be, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<String>,
    /// Whether that has passed.
    #[serde(default)]
    pub overdue: bool,
    /// Why it could not be changed, does not work, or cannot be looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// `GET /v1/rotations`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationList {
    /// The request.
    pub request: RequestId,
    /// By name.
    pub rotations: Vec<RotationRow>,
}

/// `POST /v1/rotations/{name}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RotationAnswer {
    /// The request.
    pub request: RequestId,
    /// Of which secret.
    pub name: SecretName,
    /// The version that is given from now on.
    pub version: u64,
    /// When it was made, RFC 3339.
    pub made: String,
}
