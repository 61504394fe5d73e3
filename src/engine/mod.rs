//! Clearance to issued secret: one file or folder per secrets engine behind one trait.
//!
//! The contract every engine keeps (the contract suite holds all of them to it):
//!
//! 1. `issue` is called only after the lease's reservation is durable (engines with nothing upstream: together with it). Whatever it
//!    makes upstream bears a name that follows from the lease id and the daemon's mark alone, so that it can be found without a reference.
//! 2. `issue` either returns a credential or leaves nothing behind that `settle` would not find and kill.
//! 3. `read` makes the value again from the lease: the same bytes, or for signed tokens an equally valid one, also after a restart.
//!    No engine keeps values of live leases.
//! 4. `end` is idempotent and safe to repeat at any time, for ever. It answers `Revoked` only when the source confirmed that the
//!    credential is dead, `Lapsed` when there is nothing upstream to revoke. It never answers done without having looked.
//! 5. `settle` ends what a reservation without a commit may have left: it looks for the deterministic name, and it waits for an issue that
//!    is still under way at the source, so that nothing comes into being after it said that there was nothing.
//! 6. No error, log line or upstream statement holds a secret byte.
//! 7. Every wait has a deadline.
//! 8. `inventory` lists what exists upstream under this daemon's mark and nothing else; each can be ended with an empty reference. What
//!    bears another mark is never touched.
//! 9. `end` and `settle` need neither the definition nor the settings the credential was issued under: a secret whose row was changed or
//!    deleted can still be ended.

pub mod jwt;
pub mod local;
mod members;
pub mod postgres;
mod registry;

pub use members::Members;
pub use registry::Engines;

use crate::digest::sha256;
use crate::model::{
    EndResult, EndsBy, IdentityName, LeaseId, Operation, Purpose, RequestId, SecretBytes, SecretDefinition, Target, WallTime,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The mark that everything made upstream bears: which daemon, and which state of it, it belongs to. Two daemons never share one, nor do
/// a machine and its clone that began with states of their own; a daemon touches only what bears its mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mark(String);

impl Mark {
    /// The mark of a state (a random id made at first start) on a machine (`/etc/machine-id`): 16 characters of `0-9a-f`.
    pub fn new(machine: &[u8], state: &[u8]) -> Self {
        Self(hex::encode(&sha256(&[b"claviger mark\0", &(machine.len() as u64).to_be_bytes(), machine, state])[..8]))
    }

    /// The mark as it stands in upstream names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an engine is asked to make. Built from a clearance and a reserved slot only.
pub struct Order<'a> {
    /// The lease it belongs to.
    pub lease: LeaseId,
    /// The request that led to it.
    pub request: RequestId,
    /// What is asked for.
    pub secret: &'a SecretDefinition,
    /// Who asked.
    pub identity: &'a IdentityName,
    /// Why.
    pub purpose: &'a Purpose,
    /// The worst the credential may allow.
    pub operation: Operation,
    /// Where it will be used.
    pub hosts: &'a [Target],
    /// When it was issued, on the wall clock.
    pub issued: WallTime,
    /// When it must be dead, on the wall clock.
    pub expires: WallTime,
}

/// The engine's own reference for revoking and reading again. Kept in the journal, so it never holds a secret byte.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRef(pub Members);

/// A credential that exists.
pub struct Issued {
    /// The value.
    pub value: SecretBytes,
    /// Names beside the value that the holder needs (user name, host, token id ...); none is secret.
    pub attributes: Vec<(&'static str, String)>,
    /// How to find it again.
    pub reference: UpstreamRef,
}

/// The value of a credential that was issued before.
pub struct Again {
    /// The value.
    pub value: SecretBytes,
    /// Names beside the value that the holder needs.
    pub attributes: Vec<(&'static str, String)>,
}

impl From<Issued> for Again {
    fn from(Issued { value, attributes, reference: _ }: Issued) -> Self {
        Self { value, attributes }
    }
}

/// Why an engine could not do it.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The operator has to mend something: a definition, a missing value, a wrong grant. Trying again changes nothing.
    #[error("{0}")]
    Setup(String),
    /// There is no value for this secret yet.
    #[error("the secret has no value")]
    NoValue,
    /// The source cannot be reached or did not answer in time. Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// The source refused.
    #[error("{0}")]
    Refused(String),
}

/// One source of secrets. See the module for the contract.
#[async_trait]
pub trait Engine: Send + Sync {
    /// `local`, `jwt`, `postgres`, ...
    fn kind(&self) -> &'static str;

    /// How its credentials end.
    fn ends_by(&self) -> EndsBy;

    /// Whether something exists upstream, so that the reservation must be durable before `issue`.
    fn has_upstream(&self) -> bool;

    /// Checks a definition's settings at load; the text names what is wrong.
    fn check(&self, secret: &SecretDefinition) -> Result<(), String>;

    /// Makes the credential.
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError>;

    /// Makes the value of a live lease again.
    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError>;

    /// The same as [`Engine::read`] where nothing has to be waited for; `None` says that `read` has to be asked.
    fn read_now(&self, _order: &Order<'_>, _reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        None
    }

    /// Whether an issue now would give the same version of the value. Sources that keep no versions, and those that would have to be asked,
    /// say yes.
    fn is_newest(&self, _secret: &SecretDefinition, _reference: &UpstreamRef) -> bool {
        true
    }

    /// Makes the credential last until `order.expires`.
    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError>;

    /// Ends the credential. `Revoked` or `Lapsed`; everything else is an error.
    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<EndResult, EngineError>;

    /// Ends whatever a reservation without a commit may have left. `Revoked` when something was found and ended, `Lapsed` when nothing was there.
    async fn settle(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<EndResult, EngineError>;

    /// The leases of which something still exists upstream under our mark, whether or not any lease is known here. What no journal
    /// knows can then be ended by [`Engine::end`] with an empty reference. Empty for engines with nothing upstream.
    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        Ok(Vec::new())
    }
}
