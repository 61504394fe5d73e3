//! A *no* that the asking workload may read: a stable code, a safe sentence, and what would help.

use super::TicketId;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt};

/// What sort of *no* it is; decides the HTTP status and the exit code of `clav`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// The request cannot be understood.
    Malformed,
    /// The process could not be attested, or is no longer the one that was.
    Attestation,
    /// Understood, and refused.
    Denied,
    /// Would be granted with evidence that is missing.
    Needs,
    /// There is no such thing for this caller.
    NotFound,
    /// It was there and has ended.
    Gone,
    /// Contradicts an earlier request.
    Conflict,
    /// Too much at once; later may do.
    Limit,
    /// The daemon cannot serve it now (frozen, no space for the record, upstream down).
    Unavailable,
}

/// A stable code. Those of the daemon are constants here; policies bring codes of their own in `@code`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Code {
    name: Cow<'static, str>,
    class: Class,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $class:ident, $sentence:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $constant: Code = Code { name: Cow::Borrowed($name), class: Class::$class };)*

            /// Every code of the daemon itself with its class and sentence, for documentation and its test.
            pub const ALL: &'static [(Code, &'static str)] = &[$((Code::$constant, $sentence)),*];
        }
    };
}

codes! {
    /// The body or a path parameter is not what the API describes.
    MALFORMED = "malformed", Malformed, "The request is not what the API describes.";
    /// No such route.
    NO_ROUTE = "no_route", NotFound, "There is no such route on this socket.";
    /// Route exists, method does not.
    METHOD = "method_not_allowed", Malformed, "This route does not take that method.";
    /// Body over 16 KiB.
    TOO_LARGE = "too_large", Malformed, "The request is larger than is accepted.";
    /// The process could not be attested.
    ATTESTATION_FAILED = "attestation_failed", Attestation, "The calling process could not be attested.";
    /// Ids now differ from those at connect.
    CREDENTIALS_CHANGED = "credentials_changed", Attestation, "The calling process changed its credentials after it connected.";
    /// Another program now runs in the process.
    PROGRAM_CHANGED = "program_changed", Attestation, "The calling process became another program after it connected.";
    /// Bytes came from another process.
    FOREIGN_WRITER = "foreign_writer", Attestation, "Another process wrote on this connection.";
    /// The process is gone.
    PEER_GONE = "peer_gone", Attestation, "The calling process is gone.";
    /// Freshness must be proved on this kernel.
    NONCE_REQUIRED = "nonce_required", Attestation, "This kernel needs the request repeated with the nonce on the same connection.";
    /// No registered identity matches.
    NO_IDENTITY = "no_identity", Denied, "No registered identity matches the calling process.";
    /// Two match and neither is narrower.
    AMBIGUOUS_IDENTITY = "ambiguous_identity", Denied, "More than one registered identity matches the calling process.";
    /// An agent's process outside its session.
    LEFT_AGENT_SESSION = "left_agent_session", Denied, "The calling process shares a uid with an agent and is not isolated from it.";
    /// An agent's descendant that matches a workload.
    AGENT_DESCENDANT = "agent_descendant", Denied, "The calling process descends from an agent and cannot be another identity.";
    /// Unknown secret or nothing grants it: deliberately one code.
    NO_GRANT = "no_grant", Denied, "No grant covers this request.";
    /// A secret alone was named and no single declared use fits.
    NO_DECLARED_USE = "no_declared_use", Denied, "No single declared use fits; say the purpose.";
    /// The value is given to a key of the process's own only.
    PINNED_REQUIRED = "pinned_required", Denied, "This secret is given only sealed to a key that the calling process made.";
    /// Evidence is missing.
    NEEDS = "needs", Needs, "The request would be granted with the evidence listed.";
    /// A policy could not be evaluated.
    POLICY_ERROR = "policy_error", Denied, "The request could not be decided and is refused.";
    /// Frozen by an operator.
    FROZEN = "frozen", Unavailable, "Issuing is stopped on this host by an operator.";
    /// Daemon started read-only.
    READ_ONLY = "read_only", Unavailable, "Issuing is stopped until an operator confirms this host's state.";
    /// No such lease for this caller.
    NO_LEASE = "no_lease", NotFound, "There is no such lease for the calling process.";
    /// No such thing for an operator.
    NOT_FOUND = "not_found", NotFound, "There is no such thing.";
    /// The lease is over.
    LEASE_ENDED = "lease_ended", Gone, "The lease has ended.";
    /// No use or read is left on the lease.
    USED_UP = "used_up", Denied, "The lease has no use left.";
    /// Read cap of the lease reached.
    READS_EXCEEDED = "reads_exceeded", Limit, "The lease's value was read as often as is allowed.";
    /// Not renewable.
    NOT_RENEWABLE = "not_renewable", Denied, "The lease cannot be renewed.";
    /// The idempotency key was used with another body.
    IDEMPOTENCY = "idempotency_conflict", Conflict, "The idempotency key was used for another request.";
    /// A limit of this identity or uid.
    LIMIT = "limit", Limit, "Too many requests from this identity or uid.";
    /// The audit budget of this identity is used up.
    AUDIT_BUDGET = "audit_budget", Limit, "This identity has used up its share of the audit log.";
    /// No record could be written.
    AUDIT_UNAVAILABLE = "audit_unavailable", Unavailable, "The audit log cannot take a record, so nothing is issued.";
    /// No space for the lease journal.
    NO_SPACE = "no_space", Unavailable, "There is too little disk space to issue safely.";
    /// Upstream cannot issue.
    ENGINE_UNAVAILABLE = "engine_unavailable", Unavailable, "The secrets engine cannot issue now.";
    /// Upstream says no, or is not what it should be.
    ENGINE_REFUSED = "engine_refused", Unavailable, "The secret's source refuses or is set up wrongly; an operator has to look.";
    /// Policy allows a channel over which this version cannot hand anything.
    CHANNEL_UNAVAILABLE = "channel_unavailable", Denied, "This version hands values over; it cannot inject them or sign with them.";
    /// The engine has no value.
    NO_VALUE = "no_value", NotFound, "The secret has no value yet.";
    /// There is no such key, or it cannot be changed now.
    KEY_NOT_ROTATED = "key_not_rotated", Conflict, "The key was not changed.";
    /// A value was not changed at its source.
    NOT_ROTATED = "not_rotated", Conflict, "The secret was not rotated.";
    /// Only operators.
    NOT_OPERATOR = "not_operator", Denied, "The calling process may not use the operator socket for this.";
    /// Only the launcher may register what it launches.
    NOT_LAUNCHER = "not_launcher", Denied, "Only the launcher may ask for a program to be started apart.";
    /// Only systemd.
    NOT_SERVICE_MANAGER = "not_service_manager", Denied, "Only the service manager may load the credentials of a unit, and only of the one that it starts.";
    /// The table of launches or the groups for them.
    LAUNCH_UNAVAILABLE = "launch_unavailable", Unavailable, "This host cannot start programs apart now.";
    /// Our own failure; details are inside.
    INTERNAL = "internal_error", Unavailable, "Internal error.";
}

impl Code {
    /// A code that a policy brought, as `Denied`.
    pub fn from_policy(name: &str) -> Code {
        Code { name: Cow::Owned(name.to_owned()), class: Class::Denied }
    }

    /// The stable word.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// What sort of *no* it is.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The sentence that goes with it.
    pub fn sentence(&self) -> &'static str {
        Code::ALL.iter().find(|(code, _)| code == self).map_or("Refused by policy.", |(_, sentence)| sentence)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name)
    }
}

/// One thing that would help, all of them named at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Remedy {
    /// What is needed, from a closed list: `ticket`, `approval`, `confirmation`, `user`, `control`, `assurance`, `grant_ticket`, `grant_signature`, ...
    pub require: String,
    /// One sentence for people.
    pub sentence: String,
    /// The policy that asks, for operators; absent in answers to workloads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// A ticket that would do, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketId>,
}

/// A *no*. `message` and `remedies` may be shown to the workload; `detail` is for operators and the record only.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Refusal {
    /// The stable code.
    pub code: Code,
    /// A safe sentence: never holds anything the caller may not know.
    pub message: Cow<'static, str>,
    /// The field at fault, where there is one.
    pub field: Option<Cow<'static, str>>,
    /// What would help.
    pub remedies: Vec<Remedy>,
    /// Why exactly, for operators.
    pub detail: Option<String>,
    /// In how many seconds asking again may do, where the source of the secret says so.
    pub retry_after: Option<u64>,
    /// It is on the record, so that operators may ask why.
    pub recorded: bool,
}

impl Refusal {
    /// The code with its own sentence.
    pub fn new(code: Code) -> Self {
        let message = Cow::Borrowed(code.sentence());
        Self { code, message, field: None, remedies: Vec::new(), detail: None, retry_after: None, recorded: false }
    }

    /// A malformed field, with what is wrong about it.
    pub fn field(field: impl Into<Cow<'static, str>>, why: impl fmt::Display) -> Self {
        let field = field.into();
        Self { message: Cow::Owned(format!("{field} {why}.")), field: Some(field), ..Self::new(Code::MALFORMED) }
    }

    /// The same refusal under a more telling code.
    pub fn code(mut self, code: Code) -> Self {
        self.code = code;
        self
    }

    /// Adds what operators should know.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Replaces the sentence; it must be safe to show to the workload.
    pub fn message(mut self, message: impl Into<Cow<'static, str>>) -> Self {
        self.message = message.into();
        self
    }
}
