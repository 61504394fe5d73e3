//! What the kernel said about a process, judged and fit for the record: no descriptors, no raw bytes.

use serde::{Deserialize, Serialize};

/// Facts about one process at one moment. Every text has been escaped to printable ASCII.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Process id in the daemon's pid namespace.
    pub pid: u32,
    /// Effective user id at connect.
    pub uid: u32,
    /// Effective group id at connect.
    pub gid: u32,
    /// Supplementary groups at connect.
    pub groups: Vec<u32>,
    /// The name of `uid`, where the host knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Start of the process in clock ticks since boot (`/proc/PID/stat` field 22).
    pub start: u64,
    /// The executable, unless the kernel or its file system would not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<Exe>,
    /// Path in the unified control group hierarchy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The systemd unit that the control group belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    /// The container id that the control group bears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The audit login uid, if set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<Login>,
    /// Namespaces that differ from those of PID 1: any of `user`, `pid`, `mnt`, and `root` for a changed root directory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
    /// The process that traces it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracer: Option<u32>,
    /// The manifest by which the launcher started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
    /// Ancestors, nearest first, up to PID 1 or the bound.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// An executable file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exe {
    /// The path as the kernel shows it; a name only, unless `verified`.
    pub path: String,
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// File system type, such as `ext4`.
    pub fs: String,
    /// The path leads to this very file in the host's own tree.
    pub verified: bool,
    /// Owned by root and writable by nobody else, as are all folders above it.
    pub root_owned: bool,
    /// SHA-256 in hex, if a policy or a selector needed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// `orders.service`.
    pub name: String,
    /// The invocation id, where systemd publishes it: another start of the unit is another invocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<String>,
    /// Lies directly below `system.slice` or a slice of the system manager, not below a user's own manager.
    pub system: bool,
}

/// Who logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The login uid.
    pub uid: u32,
    /// It equals the real uid of the session's root process, which lies in a control group that root made for that uid.
    /// Otherwise it is only claimed: a process may write an unset login uid itself.
    pub verified: bool,
}

/// One process above the attested one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// Process id.
    pub pid: u32,
    /// Its effective uid.
    pub uid: u32,
    /// Its executable's path, if the kernel said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}
