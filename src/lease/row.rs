//! One lease: the duty to end a secret, and everything that is needed to do it.

use crate::{
    engine::UpstreamRef,
    intent::Source,
    model::{
        Assurance, BootTime, Channel, EndReason, EndResult, EndsBy, EngineName, HolderKind, IdentityKind, IdentityName, LeaseId, Operation,
        Owner, Purpose, RequestId, SecretName, Sensitivity, Target, Ttl, UNLIMITED, WallTime,
    },
    sys::PidHandle,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a lease is bound to, so that it can be found again after a restart of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// What sort of holder.
    pub kind: HolderKind,
    /// The process, or the one that asked on behalf of a unit or container.
    pub pid: u32,
    /// Its start in clock ticks since boot.
    pub start: u64,
    /// Its inode in pidfs, where there is one: unique for one boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Its handle in pidfs, where the kernel can open it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<PidHandle>,
    /// The boot it lives in.
    pub boot: Arc<str>,
    /// Its control group: path and directory inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<HolderGroup>,
    /// The executable it had: path, device, inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<(String, u64, u64)>,
    /// Its uid.
    pub uid: u32,
}

/// A control group that holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderGroup {
    /// Path in the unified hierarchy.
    pub path: String,
    /// Inode of its directory, 0 if the kernel did not say.
    pub id: u64,
    /// systemd's invocation id of its unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
}

/// Holders are the same when these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HolderKey {
    /// By pidfs inode, or number and start where there is none.
    Process(u64, u64),
    /// By control group.
    Group(String, u64),
}

impl Holder {
    /// The key under which leases of one holder are found.
    pub fn key(&self) -> HolderKey {
        match (self.kind, &self.cgroup) {
            (HolderKind::Unit | HolderKind::Container, Some(group)) => HolderKey::Group(group.path.clone(), group.id),
            _ => self.inode.map_or(HolderKey::Process(u64::from(self.pid), self.start), |inode| HolderKey::Process(inode, 0)),
        }
    }
}

/// Where a lease is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum State {
    /// Written down before the engine is asked. Nobody has the secret yet.
    Reserved,
    /// Its holder has the secret.
    Live,
    /// Being ended; tried again until the source confirms or the tries are used up.
    Ending {
        /// Why.
        reason: EndReason,
        /// The operator's request that asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<RequestId>,
        /// When it began to end.
        since: WallTime,
        /// Failed tries so far.
        tries: u32,
        /// Given up; an operator must look.
        irrevocable: bool,
    },
}

/// Why a lease is to end, and which operator's request asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub reason: EndReason,
    /// The operator's request, whose record names the person.
    pub by: Option<RequestId>,
}

impl From<EndReason> for Cause {
    fn from(reason: EndReason) -> Self {
        Self { reason, by: None }
    }
}

impl Cause {
    /// An operator's act.
    pub fn operator(request: RequestId) -> Self {
        Self { reason: EndReason::Operator, by: Some(request) }
    }
}

/// A lease as the journal keeps it. It never holds a secret byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// The request that led to it.
    pub request: RequestId,
    /// Who has it.
    pub identity: IdentityName,
    /// What sort of identity.
    pub identity_kind: IdentityKind,
    /// What the attestation was worth.
    pub assurance: Assurance,
    /// Which secret.
    pub secret: SecretName,
    /// The secret's recipe then.
    // As the journal has called it from the first.
    #[serde(rename = "generation")]
    pub recipe: Arc<str>,
    /// Which engine made it.
    pub engine: EngineName,
    /// How sensitive.
    pub sensitivity: Sensitivity,
    /// How it ends.
    pub ends_by: EndsBy,
    /// Who answers for the secret.
    pub owner: Owner,
    /// Why it was issued.
    pub purpose: Purpose,
    /// The worst it allows.
    pub operation: Operation,
    /// Where it may be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Target>,
    /// How it was given.
    pub channel: Channel,
    /// Who had declared the intent.
    pub source: Source,
    /// What it is bound to.
    pub holder: Arc<Holder>,
    /// Granted time to live; a renewal gives as much again.
    pub ttl: Ttl,
    /// When it was issued.
    pub issued: WallTime,
    /// When it ends at the latest, on the wall clock: what the source was told.
    pub expires: WallTime,
    /// The same on the clock that decides.
    pub deadline: BootTime,
    /// How many uses were granted.
    pub uses: u64,
    /// How often its value may be read again.
    pub reads_max: u64,
    /// Whether it may be renewed.
    pub renewable: bool,
    /// The grant that covers it.
    pub grant: Arc<str>,
    /// The policy bundle that decided.
    pub bundle: Arc<str>,
    /// The caller's key against repetition with the digest of the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency: Option<Box<(String, String)>>,
    /// The lease under whose id the credential was made, where that is another one of the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shares: Option<LeaseId>,
    /// The engine's reference.
    pub reference: UpstreamRef,
    /// Where it is in its life.
    #[serde(flatten)]
    pub state: State,
}

impl Lease {
    /// The id under which its credential is known at the source.
    pub fn credential(&self) -> LeaseId {
        self.shares.unwrap_or(self.id)
    }

    /// Whether a number of uses was granted, of which each delivery of its value is one. How many were made is known until the daemon's next
    /// start; then none is left.
    pub fn has_counted_uses(&self) -> bool {
        self.uses != UNLIMITED
    }
}

/// What is remembered of an ended lease, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its id.
    pub id: LeaseId,
    /// Who had it.
    pub identity: IdentityName,
    /// Which secret.
    pub secret: SecretName,
    /// Its holder.
    pub holder: Arc<Holder>,
    /// Why it ended.
    pub reason: EndReason,
    /// What became of the credential.
    pub result: EndResult,
    /// When our books closed.
    pub at: WallTime,
}
