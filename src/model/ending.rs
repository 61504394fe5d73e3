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

/// How it is known what became of a credential: what its engine saw when it ended, and what that is worth. The lease's revocation receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// What it is worth.
    pub by: ProofBy,
    /// What was seen, in the order in which it was.
    pub seen: &'static [Finding],
}

impl Proof {
    /// Somebody looked, after the end.
    pub const fn looked(seen: &'static [Finding]) -> Self {
        Self { by: ProofBy::Looked, seen }
    }

    /// The source answered that it is done, and nobody could look.
    pub const TOLD: Self = Self { by: ProofBy::Told, seen: &[Finding::Acknowledged] };
    /// Verifiers that read the list refuse it.
    pub const LISTED: Self = Self { by: ProofBy::Listed, seen: &[Finding::OnRevocationList] };
    /// Its own expiry is past.
    pub const EXPIRED: Self = Self { by: ProofBy::Expired, seen: &[Finding::PastExpiry] };
    /// By our own books nothing was ever made.
    pub const NEVER: Self = Self { by: ProofBy::Books, seen: &[Finding::NeverMade] };
}

/// What a proof is worth, the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofBy {
    /// The engine looked at the source after the end: what it was is dead there.
    Looked,
    /// The source said that it is done; nobody could look.
    Told,
    /// It dies by its own expiry, and that is past.
    Expired,
    /// By our own books nothing was ever made at the source.
    Books,
    /// It is on a list of what is revoked: dead for verifiers that read the list, alive until its expiry for all others.
    Listed,
}

impl ProofBy {
    /// The stable word in records and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProofBy::Looked => "looked",
            ProofBy::Told => "told",
            ProofBy::Expired => "expired",
            ProofBy::Books => "books",
            ProofBy::Listed => "listed",
        }
    }
}

/// One thing that an engine saw of a credential that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// No session of the role is open (`pg_stat_activity`).
    SessionsGone,
    /// The role was dropped and is not in the catalogue any more (`pg_roles`).
    RoleGone,
    /// There was no such role when it came to be ended, in the catalogue or in the making.
    RoleAbsent,
    /// The server knows no such lease (`sys/leases/lookup`).
    LeaseUnknown,
    /// The server knows no such token (`auth/token/lookup`).
    TokenUnknown,
    /// In the token's place stands one that may do nothing, put there when the lease was settled.
    TokenFenced,
    /// The server says that the token is not active (RFC 7662, 2.2).
    TokenInactive,
    /// The token was shown once more and answered with 401.
    UseRefused,
    /// The program's own look says that it is dead.
    ProgramLooked,
    /// The source's own word that it is done.
    Acknowledged,
    /// Its serial number is on the published list.
    OnRevocationList,
    /// Its own expiry is past.
    PastExpiry,
    /// Nothing of it was ever asked for.
    NeverMade,
}
