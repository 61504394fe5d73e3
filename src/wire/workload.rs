//! What workloads send and read.

use crate::model::{
    Assurance, Channel, EndReason, EndResult, EndsBy, HolderKind, IdentityKind, IdentityName, LeaseId, Operation, Purpose, Remedy,
    RequestId, SecretName, Sensitivity, Target,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `POST /v1/leases` and `POST /v1/explain`. Only `secret` is mandatory, and `purpose` where no single use is declared.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Which secret.
    pub secret: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// `read`, `write`, `admin` or `destroy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Where it will be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Seconds, or such as `15m`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<String>,
    /// How many uses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// For people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Tickets as `system:id`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tickets: Vec<String>,
    /// `deliver`, `inject` or `sign`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// `process`, `ancestor`, `unit` or `container`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// The same key gives the same lease again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// A lease as its holder and operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// Its id.
    pub id: LeaseId,
    /// `live`, `ending`, `irrevocable` or `ended`.
    pub state: String,
    /// Who has it.
    pub identity: IdentityName,
    /// Which secret.
    pub secret: SecretName,
    /// How sensitive.
    pub sensitivity: Sensitivity,
    /// How the credential ends.
    pub ends_by: EndsBy,
    /// Why it was issued.
    pub purpose: Purpose,
    /// The worst it allows.
    pub operation: Operation,
    /// Where it may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Target>,
    /// How it was given.
    pub channel: Channel,
    /// What it is bound to.
    pub holder: HolderView,
    /// When it was issued, RFC 3339.
    pub issued: String,
    /// When it ends at the latest, RFC 3339.
    pub expires: String,
    /// Seconds left.
    pub remaining: u64,
    /// Granted time to live in seconds.
    pub ttl: u32,
    /// Granted uses; absent when unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// The lease whose credential it has, where that is another one of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<LeaseId>,
    /// Why it is ending or ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// What became of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<EndResult>,
}

/// What a lease is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderView {
    /// What sort.
    pub kind: HolderKind,
    /// The process, or the one that asked.
    pub pid: u32,
    /// The control group, for units and containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// A secret on its way to its holder. The client deserialises it; the server writes it without a `String` of the value.
#[derive(Deserialize)]
pub struct Issued {
    /// The request.
    pub request: RequestId,
    /// The lease.
    pub lease: LeaseView,
    /// The value.
    pub secret: SecretValue,
    /// Names beside the value: user name, host ...
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    /// What policy shortened.
    #[serde(default)]
    pub clamped: Vec<String>,
}

/// The value with its encoding.
#[derive(Deserialize)]
pub struct SecretValue {
    /// `utf-8` as it is, `base64` for bytes that are not text, or `hpke` for what is sealed to the key that was sent.
    pub encoding: String,
    /// The value.
    pub value: String,
}

/// Every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The request, for `clav why`.
    pub request: RequestId,
    /// What.
    pub error: ErrorView,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorView {
    /// Stable code.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The field at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// All that is missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Remedy>,
    /// With `nonce_required`: what to send back on the same connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Seconds after which asking again may do, where the source of the secret asks to wait; also in the header `Retry-After`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The refusal is on the record: `clav why` finds it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recorded: bool,
}

/// `GET /v1/whoami`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The request.
    pub request: RequestId,
    /// What the attestation is worth.
    pub assurance: Assurance,
    /// What that rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// The identity, if there is exactly one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<IdentityView>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ErrorView>,
    /// The attested facts as selectors.
    pub selectors: Vec<String>,
    /// The attested facts.
    pub attested: serde_json::Value,
    /// `clav` spoke for the subject.
    pub via_client: bool,
}

/// An identity as a workload may see its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityView {
    /// Name.
    pub name: IdentityName,
    /// Workload, agent or shared.
    pub kind: IdentityKind,
    /// Owner.
    pub owner: String,
    /// Environment.
    pub environment: String,
    /// Purposes it may declare.
    pub purposes: Vec<Purpose>,
    /// The most sensitive secret it may have.
    pub max_sensitivity: Sensitivity,
    /// When the row stops counting, RFC 3339.
    pub expires: String,
}

/// `GET /v1/secrets`: what the caller could be granted now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretList {
    /// The request.
    pub request: RequestId,
    /// By name.
    pub secrets: Vec<SecretView>,
}

/// One secret that something grants to the caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    /// Name.
    pub name: SecretName,
    /// What it is.
    pub description: String,
    /// How sensitive.
    pub sensitivity: Sensitivity,
    /// How it ends.
    pub ends_by: EndsBy,
    /// For which purposes something grants it.
    pub purposes: Vec<Purpose>,
    /// `permit` or `needs`.
    pub outcome: String,
}

/// `GET /v1/leases`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseList {
    /// The request.
    pub request: RequestId,
    /// Oldest first.
    pub leases: Vec<LeaseView>,
}

/// `GET`, `DELETE` and `renew` of one lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseAnswer {
    /// The request.
    pub request: RequestId,
    /// The lease.
    pub lease: LeaseView,
}

/// One event of `GET /v1/watch`: the name of the server-sent event, and its data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event", content = "data")]
pub enum LeaseEvent {
    /// A lease of the caller's that was not told before, or that lives longer now.
    Lease(Box<LeaseView>),
    /// Its secret has a newer value: asking for the secret anew gives it. The lease lives on, with the value it has.
    Rotated {
        /// Which lease.
        lease: LeaseId,
        /// Of which secret.
        secret: SecretName,
    },
    /// It is over, or ending: its value is not given any more.
    Ended {
        /// Which lease.
        lease: LeaseId,
        /// Of which secret.
        secret: SecretName,
        /// Why, unless that is forgotten already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<EndReason>,
    },
}

/// `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The request.
    pub request: RequestId,
    /// `permit`, `needs` or `refuse`.
    pub outcome: String,
    /// The refusal, or what is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
    /// What would be issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<serde_json::Value>,
    /// What policy shortened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clamped: Vec<String>,
    /// In sentences, for operators only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// `GET /v1/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, `frozen`, `read_only` or `degraded`.
    pub status: String,
    /// The daemon's version.
    pub version: String,
}
