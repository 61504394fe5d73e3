//! What holds a process so that it cannot be taken for another, and tells without any privilege whether it is still the same.

use super::evidence::{Look, ProcessEvidence, mark_of_groups};
use crate::sys::{FileId, IdFiles, Kernel, MapPin, PeerCred, Pidfd};
use std::{io, os::fd::OwnedFd};

/// A pinned process: its pidfd, its memory map, and what it was when it was pinned.
pub struct Pins {
    /// The process.
    pub pidfd: Pidfd,
    pid: u32,
    /// Breaks on exec.
    map: MapPin,
    /// The file that it executed; `None` when it had none.
    exe: Option<FileId>,
    /// It was traced when it was pinned.
    traced: bool,
    /// [`mark_of_groups`] of those that it had.
    groups: [u8; 32],
    source: IdSource,
    ids: Ids,
}

/// Where ids are read.
enum IdSource {
    /// From the pidfd.
    Pidfd,
    /// From files of `/proc`, on kernels before 6.13.
    Files(IdFiles),
}

#[derive(Clone, Copy)]
struct Ids {
    ppid: u32,
    uids: [u32; 2],
    gids: [u32; 2],
    cgroup: u64,
    /// It is known not to have begun to exit.
    mapped: bool,
}

impl Ids {
    fn same(&self, before: &Self) -> bool {
        (self.uids, self.gids, self.cgroup) == (before.uids, before.gids, before.cgroup)
    }
}

/// What changed about a pinned process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It is gone.
    Gone,
    /// Its ids or control group are others.
    Credentials,
    /// It executed another program.
    Program,
    /// Whoever may look at it does not answer.
    Unseen,
}

impl Pins {
    /// Holds the process that `evidence` is about. `map`, and before Linux 6.13 `files`, come from whoever gathered it. Everything
    /// must be of one living process that has the ids which were read.
    pub(super) fn new(kernel: &Kernel, pidfd: Pidfd, evidence: &ProcessEvidence, map: OwnedFd, files: Option<IdFiles>) -> io::Result<Self> {
        let pid = evidence.pid;
        let source = match (kernel.pidfd_info, files) {
            (true, None) => IdSource::Pidfd,
            (false, Some(files)) => IdSource::Files(files),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let ids = source.ids(&pidfd)?;
        let exe = evidence.exe.as_ref().map(|exe| exe.id);
        let (traced, groups) = (evidence.tracer != 0, mark_of_groups(&evidence.groups));
        let pins = Self { pidfd, pid, map: map.into(), exe, traced, groups, source, ids };
        let read = (ids.uids, ids.gids) == ([evidence.uids[0], evidence.uids[1]], [evidence.gids[0], evidence.gids[1]]);
        if pins.map.holds() && pins.pidfd.is_alive() && read { Ok(pins) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its parent now, 0 when that lies outside this pid namespace.
    pub fn parent(&self) -> io::Result<u32> {
        self.source.ids(&self.pidfd).map(|ids| ids.ppid)
    }

    /// The ids that the kernel attaches to what this process writes: its pid and *real* ids.
    pub fn sender(&self) -> PeerCred {
        PeerCred { pid: self.pid, uid: self.ids.uids[0], gid: self.ids.gids[0] }
    }

    /// The inode of its control group's directory, or a number for its path where the kernel does not say.
    pub fn cgroup_id(&self) -> u64 {
        self.ids.cgroup
    }

    /// The same living process with the same ids, control group and memory map: what is looked at before each answer. Needs no privilege
    /// and asks nobody; about 3 us.
    ///
    /// A helper that shares the map (`CLONE_VM`) keeps it whole through an exec; [`agrees`](Self::agrees) finds that.
    pub fn still(&self) -> Result<(), Changed> {
        if !crate::mutation!("map-pin") && !self.map.holds() {
            return Err(if self.pidfd.is_alive() { Changed::Program } else { Changed::Gone });
        }
        let now = self.source.ids(&self.pidfd).map_err(|_| Changed::Gone)?;
        if !now.same(&self.ids) {
            return Err(Changed::Credentials);
        }
        if now.mapped || self.pidfd.is_alive() { Ok(()) } else { Err(Changed::Gone) }
    }

    /// Whether a second look shows the same executable, unchanged, the same supplementary groups, and nobody who has begun to trace the
    /// process.
    pub fn agrees(&self, look: &Look) -> Result<(), Changed> {
        let same = match (self.exe, look.exe) {
            (Some(before), Some(now)) => before.same_file(&now) || crate::mutation!("executable-compared"),
            (None, None) => true,
            _ => false,
        };
        if (!same && !crate::mutation!("map-pin")) || (look.tracer != 0 && !self.traced) {
            return Err(if self.pidfd.is_alive() { Changed::Program } else { Changed::Gone });
        }
        if look.groups != self.groups && !crate::mutation!("groups-changed") {
            return Err(Changed::Credentials);
        }
        Ok(())
    }

    /// The file that it executed when it was pinned.
    pub fn exe(&self) -> Option<FileId> {
        self.exe
    }
}

impl IdSource {
    fn ids(&self, pidfd: &Pidfd) -> io::Result<Ids> {
        let files = match self {
            IdSource::Pidfd => {
                let info = pidfd.info()?;
                let (uids, gids) = ([info.ruid, info.euid], [info.rgid, info.egid]);
                return Ok(Ids { ppid: info.ppid, uids, gids, cgroup: info.cgroup, mapped: info.mapped });
            }
            IdSource::Files(files) => files,
        };
        let status = files.status()?;
        let path = files.cgroup()?.unwrap_or_default();
        let hash = crate::digest::sha256(&[&path]);
        let cgroup = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        let (uids, gids) = ([status.uids[0], status.uids[1]], [status.gids[0], status.gids[1]]);
        Ok(Ids { ppid: status.ppid, uids, gids, cgroup, mapped: false })
    }
}
