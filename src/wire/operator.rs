//! What operators send and read.

use super::{LeaseView, RotationRow};
use crate::model::{EndResult, EngineName, IdentityKind, IdentityName, LeaseId, Owner, RequestId, SecretName, Sensitivity};
use serde::{Deserialize, Serialize};

/// `POST /v1/leases/end`: exactly one selection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndRequest {
    /// One lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<LeaseId>,
    /// All leases held by a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The same with all its descendants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<u32>,
    /// All held within a systemd unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// All of an identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityName>,
    /// All of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretName>,
    /// Try an irrevocable end once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
    /// Close the books on irrevocable ends, for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub give_up: Option<String>,
}

/// What became of each selected lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndAnswer {
    /// The request.
    pub request: RequestId,
    /// One row each.
    pub ended: Vec<EndRow>,
}

/// One ended lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRow {
    /// Which.
    pub id: LeaseId,
    /// Of which secret.
    pub secret: SecretName,
    /// What became of the credential.
    pub result: EndResult,
}

/// A value of the local store, as listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredView {
    /// Name.
    pub name: SecretName,
    /// Newest version.
    pub version: u64,
    /// Bytes of it.
    pub size: usize,
    /// When it was put, RFC 3339.
    pub updated: String,
    /// Whether the catalogue knows it.
    pub defined: bool,
}

/// `GET /v1/secrets/local`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredList {
    /// The request.
    pub request: RequestId,
    /// By name.
    pub values: Vec<StoredView>,
}

/// An identity with everything an operator may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRow {
    /// Name.
    pub name: IdentityName,
    /// Kind.
    pub kind: IdentityKind,
    /// Owner.
    pub owner: Owner,
    /// Environment.
    pub environment: String,
    /// The most sensitive secret.
    pub max_sensitivity: Sensitivity,
    /// When it stops counting.
    pub expires: String,
    /// Off.
    pub suspended: bool,
    /// All must hold.
    pub selectors: Vec<String>,
    /// Live leases.
    pub leases: usize,
}

/// `GET /v1/identities`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityList {
    /// The request.
    pub request: RequestId,
    /// By name.
    pub identities: Vec<IdentityRow>,
}

/// `GET /v1/identities/try?pid=N`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityTry {
    /// The request.
    pub request: RequestId,
    /// The attested facts.
    pub attested: serde_json::Value,
    /// Selectors to paste.
    pub selectors: Vec<SelectorView>,
    /// Rows whose selectors all hold.
    pub matches: Vec<IdentityName>,
    /// Who it would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityName>,
    /// At which assurance.
    pub assurance: String,
    /// Why nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// One selector with its strength.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorView {
    /// `kind:value`.
    pub selector: String,
    /// `weak` or `strong`.
    pub strength: String,
}

/// `POST /v1/policy/check` and `/v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleAnswer {
    /// The request.
    pub request: RequestId,
    /// Whether the files make a bundle.
    pub ok: bool,
    /// The bundle in force afterwards.
    pub bundle: String,
    /// Its generation in this run of the daemon.
    pub generation: u64,
    /// What is wrong, with file and line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
    /// What is worth knowing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// `POST /v1/freeze`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeRequest {
    /// On or off.
    pub frozen: bool,
    /// Why, for the record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The request.
    pub request: RequestId,
    /// The daemon's version.
    pub version: String,
    /// What the kernel gives, in one line.
    pub kernel: String,
    /// Who looks at those who ask, and whether that one is there.
    #[serde(default)]
    pub attestor: String,
    /// What this deployment does not protect.
    pub unprotected: Vec<String>,
    /// Seconds since start.
    pub uptime: u64,
    /// Issuing is stopped by an operator.
    pub frozen: bool,
    /// Issuing is stopped because the state does not fit the machine.
    pub read_only: Option<String>,
    /// The bundle in force.
    pub bundle: String,
    /// When it was loaded, RFC 3339.
    pub bundle_since: String,
    /// Why newer files are not in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundle_problems: Vec<String>,
    /// Leases that are not over, by state.
    pub leases: LeaseCounts,
    /// The audit log.
    pub audit: serde_json::Value,
    /// Engines and whether they answer.
    pub engines: Vec<EngineView>,
    /// Values that could not be changed, do not work, or are too old.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rotations: Vec<RotationRow>,
}

/// Leases by state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseCounts {
    /// Held.
    pub live: usize,
    /// Being ended.
    pub ending: usize,
    /// Given up.
    pub irrevocable: usize,
}

/// One engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineView {
    /// Its configured name.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// When what is at its source was looked at last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub looked: Option<String>,
    /// Credentials that bore our mark there then.
    #[serde(default)]
    pub there: usize,
    /// Those among them that were in no journal and were not ended: an operator must say so.
    #[serde(default)]
    pub waiting: usize,
    /// Versions of values that last and that no definition named then: an operator has them taken back.
    #[serde(default)]
    pub left: usize,
    /// Why it could not be looked at, or an ending failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// `GET /v1/engines`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineList {
    /// The request.
    pub request: RequestId,
    /// Every engine, by name.
    pub engines: Vec<EngineView>,
}

/// Body of `POST /v1/engines/{engine}/reconcile`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileRequest {
    /// Ends whatever is in no journal, however much it is.
    #[serde(default)]
    pub end: bool,
    /// Takes back every version of a value that lasts and that no definition names.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub end_values: bool,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReconcileAnswer {
    /// The request.
    pub request: RequestId,
    /// Which engine.
    pub engine: EngineName,
    /// Credentials at the source that bear our mark.
    pub there: usize,
    /// Those that are in no journal.
    pub orphans: Vec<LeaseId>,
    /// Those of them that were ended.
    pub ended: Vec<LeaseId>,
    /// Versions of values that last and that no definition names, as the source calls them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Those of them that were taken back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values_ended: Vec<String>,
    /// Those that could not be ended, and why.
    pub failed: Vec<String>,
}

/// A key of the daemon's own, without its secret half.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// What `rotate` calls it: `local`, `audit`, or the name of an engine.
    pub name: String,
    /// `local`, `jwt` or `audit`.
    pub kind: String,
    /// The key's own id: a hash, a thumbprint (`kid`), a public key.
    pub id: String,
    /// What it does now, in words.
    pub state: String,
    /// Since when it has been in use, or from when it will be (RFC 3339), where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

/// `GET /v1/keys`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The request.
    pub request: RequestId,
    /// By kind; the keys of an engine oldest first.
    pub keys: Vec<KeyRow>,
}

/// The body of `POST /v1/keys/{key}/rotate`; without one nothing in it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRequest {
    /// Give up the keys of before at once, and with them all that they have signed. Only of a `jwt` engine.
    #[serde(default)]
    pub discard: bool,
}

/// `POST /v1/keys/{key}/rotate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAnswer {
    /// The request.
    pub request: RequestId,
    /// What was done and what follows from it, in sentences.
    pub done: Vec<String>,
    /// The keys afterwards.
    pub keys: Vec<KeyRow>,
}

/// `GET /v1/leases` on the operator socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllLeases {
    /// The request.
    pub request: RequestId,
    /// Oldest first.
    pub leases: Vec<LeaseView>,
}
