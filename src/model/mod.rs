//! The words of claviger: ids, names, selectors, sensitivity, assurance, secret bytes, refusals.
//!
//! Nothing here does I/O, waits, or looks at a clock. Every other module may import this one and it imports none.

mod assurance;
mod definition;
mod duration;
mod ending;
mod id;
mod identity;
mod name;
mod operation;
mod refusal;
mod rotation;
mod secret;
mod selector;
mod sensitivity;
mod target;
mod text;

pub use assurance::Assurance;
pub use definition::{Catalogue, EndsBy, OfEngine, SecretDefinition, Share, TtlLimits};
pub use duration::{BootTime, Ttl, WallTime};
pub use ending::{EndReason, EndResult, Finding, HolderKind, Proof, ProofBy};
pub use id::{IdError, LeaseId, RequestId};
pub use identity::{DeclaredUse, ExecRule, Identity, IdentityKind, Registry};
pub use name::{CredentialName, EngineName, Environment, GroupName, IdentityName, NameError, Owner, Purpose, SecretName, TicketId};
pub use operation::{Channel, Operation};
pub use refusal::{Class, Code, Refusal, Remedy};
pub use rotation::{Due, Period, Rotation};
pub use secret::SecretBytes;
pub use selector::{Selector, SelectorError, Strength};
pub use sensitivity::Sensitivity;
pub use target::{Target, TargetError};
pub use text::{Line, LineError};

/// Unlimited uses: the largest number a policy can compare.
pub const UNLIMITED: u64 = i64::MAX as u64;
