//! Evidence: what was read from the kernel about a peer, before anybody judges it.
//!
//! Gathering it needs privilege and no secrets; judging it needs neither. This type is the seam between the two: plain data that can
//! cross a process boundary.

use crate::{launch::LaunchName, sys::FileId};
use serde::{Deserialize, Serialize};

/// Everything about one connection's process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Ids at connect.
    pub connect: ConnectIds,
    /// The process as it is now.
    pub process: ProcessEvidence,
    /// Its ancestors, nearest first.
    pub ancestors: Vec<ProcessEvidence>,
    /// Its ancestors were read as closely as itself, as matching agents needs.
    pub ancestors_in_full: bool,
    /// The kernel pinned the process at connect, or it proved itself by a nonce. Otherwise nothing beyond ids is believed.
    pub pinned: bool,
}

/// `SO_PEERCRED` and `SO_PEERGROUPS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectIds {
    /// Process id then.
    pub pid: u32,
    /// Effective uid then.
    pub uid: u32,
    /// Effective gid then.
    pub gid: u32,
    /// Supplementary groups then.
    pub groups: Vec<u32>,
}

/// One process, read through its pinned `/proc` directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEvidence {
    /// Process id.
    pub pid: u32,
    /// Start in clock ticks since boot.
    pub start: u64,
    /// The process that leads its session.
    pub session: u32,
    /// Real, effective, saved and file-system uid.
    pub uids: [u32; 4],
    /// The same for groups.
    pub gids: [u32; 4],
    /// Supplementary groups now.
    pub groups: Vec<u32>,
    /// Tracer's pid, 0 for none.
    pub tracer: u32,
    /// Its executable; `None` when it has none that can be looked at (its first thread has exited).
    pub exe: Option<ExeEvidence>,
    /// Path in the unified control group hierarchy, raw.
    pub cgroup: Option<Vec<u8>>,
    /// systemd's invocation id of the unit in that path.
    pub invocation: Option<String>,
    /// The audit login uid.
    pub login_uid: Option<u32>,
    /// Namespaces that are not the host's.
    pub foreign: Vec<String>,
    /// Effective capabilities, as a set of bits.
    pub capabilities: u64,
    /// What it was launched as: whoever judges has that from its own table, and from nobody who gathers.
    #[serde(skip)]
    pub launch: Option<LaunchName>,
}

/// One executable file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExeEvidence {
    /// The path as the kernel shows it, raw.
    pub path: Vec<u8>,
    /// The file itself.
    pub id: FileId,
    /// Inode with its generation, where the file system has such handles.
    pub handle: Option<Vec<u8>>,
    /// File system type.
    pub fs: String,
    /// The file system is local and kernel-served.
    pub trusted_fs: bool,
    /// No link leads to it any more.
    pub deleted: bool,
    /// In the host's own tree the path leads to this very file.
    pub verified: bool,
    /// Owned by root and writable by nobody else, as are all folders above it.
    pub root_owned: bool,
}

/// What was read about one process through its pidfd, with those above it. Beside it goes the descriptor that pins its memory map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gathered {
    /// The process.
    pub process: ProcessEvidence,
    /// Its ancestors, nearest first.
    pub ancestors: Vec<ProcessEvidence>,
    /// The ancestors were read as closely as the process.
    pub ancestors_in_full: bool,
}

/// A second look at a pinned process: what may have changed since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The file that it executes; `None` when there is none.
    pub exe: Option<FileId>,
    /// Tracer's pid, 0 for none.
    pub tracer: u32,
    /// [`mark_of_groups`] of its supplementary groups.
    pub groups: [u8; 32],
}

/// What tells one set of supplementary groups from another, in any order: SHA-256 of the numbers. No pidfd tells the groups themselves.
pub fn mark_of_groups(groups: &[u32]) -> [u8; 32] {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    let bytes: Vec<u8> = groups.iter().flat_map(|gid| gid.to_be_bytes()).collect();
    crate::digest::sha256(&[&bytes])
}

/// The content of the executable of a pinned process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measured {
    /// The file that was read, before and after.
    pub exe: FileId,
    /// SHA-256 in hex.
    pub sha256: String,
}

/// What whoever gathers can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    /// PID 1 could be looked at, so its namespaces and root are the measure.
    pub of_pid_1: bool,
    /// It may look at every process (`CAP_SYS_PTRACE`).
    pub looks_at_all: bool,
    /// It runs in a user namespace of its own, where other users are nobody and its capabilities count for nothing.
    pub own_users: bool,
    /// Remembered processes are found again by their handles.
    pub finds_handles: bool,
    /// `PIDFD_GET_INFO` is used; without it what ids are read from goes with the evidence.
    pub pidfd_info: bool,
}
