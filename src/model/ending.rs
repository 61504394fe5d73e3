//! Who holds a lease, why it ended, and what became of its credential.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What a lease is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderKind {
    /// One process.
    Process,
    /// An ancestor of the asking process.
    Ancestor,
    /// One invocation of a systemd unit; ends when its control group is empty.
    Unit,
    /// One container's control group.
    Container,
}

impl HolderKind {
    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            HolderKind::Process => "process",
            HolderKind::Ancestor => "ancestor",
            HolderKind::Unit => "unit",
            HolderKind::Container => "container",
        }
    }
}

/// Why a lease ended: exactly one reason per lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Its holder asked.
    Asked,
    /// Its time was up.
    Expired,
    /// Its last use was taken.
    UsedUp,
    /// The holder is gone.
    HolderGone,
    /// The holder became another program or another identity.
    HolderChanged,
    /// An operator ended it.
    Operator,
    /// A changed policy no longer allows it.
    Policy,
    /// Issuing did not reach its end, so nobody ever had the secret.
    Unfinished,
    /// The daemon was told to end everything when it stops.
    Shutdown,
}

impl EndReason {
    /// The stable word in records and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndReason::Asked => "asked",
            EndReason::Expired => "expired",
            EndReason::UsedUp => "used_up",
            EndReason::HolderGone => "holder_gone",
            EndReason::HolderChanged => "holder_changed",
            EndReason::Operator => "operator",
            EndReason::Policy => "policy",
            EndReason::Unfinished => "unfinished",
            EndReason::Shutdown => "shutdown",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What became of the credential when its lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndResult {
    /// The source confirmed that it is dead.
    Revoked,
    /// There is nothing to revoke at the source: a copy stays usable until its own expiry, or until the secret is rotated.
    Lapsed,
    /// The source has not confirmed yet; it is tried again.
    Retrying,
    /// Given up after many tries; somebody must look.
    Irrevocable,
    /// Other leases of the identity have the same credential: it lives until the last of them ends.
    Shared,
}

impl EndResult {
    /// The stable word in records and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndResult::Revoked => "revoked",
            EndResult::Lapsed => "lapsed",
            EndResult::Retrying => "retrying",
            EndResult::Irrevocable => "irrevocable",
            EndResult::Shared => "shared",
        }
    }
}
