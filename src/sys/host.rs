//! The host as PID 1 sees it: what "the same namespace" and "that path" mean for every attestation.
//!
//! The daemon's own namespaces are no measure: its unit has private ones.

use super::{
    exe::{FileId, TRUSTED_FILE_SYSTEMS, file_id, file_system},
    is_passing_io, is_shortage,
    procfs::ProcDir,
};
use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use std::{ffi::OsStr, io, os::fd::OwnedFd, os::unix::ffi::OsStrExt};

/// Namespaces and root directory to compare with.
pub struct Host {
    root: OwnedFd,
    root_id: FileId,
    user: Option<u64>,
    pid: Option<u64>,
    mnt: Option<u64>,
    /// Taken from PID 1. Otherwise PID 1 cannot be looked at and the daemon's own namespaces stand in: then a peer in the host's
    /// namespaces counts as foreign if the daemon's differ, so less is attested, never more.
    pub of_pid_1: bool,
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostFile {
    /// The file at its end.
    pub id: FileId,
    /// It and every folder above it are owned by root and writable by root alone.
    pub root_owned: bool,
}

impl Host {
    /// Looks at PID 1 once.
    pub fn probe() -> io::Result<Host> {
        match Self::of(1) {
            Ok(host) => Ok(Host { of_pid_1: true, ..host }),
            // Short of something, which is no answer.
            Err(error) if is_passing_io(&error) => Err(error),
            Err(_) => Self::of(std::process::id()),
        }
    }

    fn of(pid: u32) -> io::Result<Host> {
        let proc = ProcDir::open(pid)?;
        let root = openat(proc.fd(), "root", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Host {
            root_id: file_id(&root)?,
            root,
            user: Some(proc.namespace("user")?),
            pid: Some(proc.namespace("pid")?),
            mnt: Some(proc.namespace("mnt")?),
            of_pid_1: false,
        })
    }

    /// Which of `user`, `pid`, `mnt` and `root` differ. What cannot be read differs; an error says that this host is short of something.
    pub fn foreign(&self, proc: &ProcDir) -> io::Result<Vec<&'static str>> {
        let mut out = Vec::new();
        for (name, ours) in [("user", self.user), ("pid", self.pid), ("mnt", self.mnt)] {
            if told(proc.namespace(name))? != ours {
                out.push(name);
            }
        }
        if told(proc.root())? != Some((self.root_id.dev, self.root_id.ino)) {
            out.push("root");
        }
        Ok(out)
    }

    /// Walks an absolute path part by part, so that no untrusted file system is asked and no link is followed. `None` when it leads
    /// nowhere, through a link, or out of the trusted file systems; an error says that this host is short of something.
    pub fn file(&self, path: &[u8]) -> io::Result<Option<HostFile>> {
        told(self.walk(path)).map(Option::flatten)
    }

    fn walk(&self, path: &[u8]) -> io::Result<Option<HostFile>> {
        let mut at = self.root.try_clone()?;
        let mut id = file_id(&at)?;
        let mut root_owned = id.root_only();
        let mut trusted_mount = None;
        // The walk is on that tree's mounts, so its mountinfo knows them.
        let mounts = told(ProcDir::open(if self.of_pid_1 { 1 } else { std::process::id() }))?;
        let Some(path) = path.strip_prefix(b"/") else { return Ok(None) };
        for part in path.split(|b| *b == b'/') {
            if part.is_empty() || part == b"." || part == b".." || !id.is_dir() {
                return Ok(None);
            }
            // Before anything is looked up on a file system, the kernel must have said that it is one of the trusted.
            if trusted_mount != Some(id.mount) {
                let fs = file_system(&at, &id, mounts.as_ref())?;
                if !TRUSTED_FILE_SYSTEMS.contains(&fs.as_str()) && !crate::mutation!("file-system") {
                    return Ok(None);
                }
                trusted_mount = Some(id.mount);
            }
            at = openat(&at, OsStr::from_bytes(part), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
            id = file_id(&at)?;
            root_owned &= id.root_only();
        }
        Ok(Some(HostFile { id, root_owned }))
    }
}

/// Nothing where the kernel says no, for that is an answer. That it is short of something is none.
fn told<T>(asked: io::Result<T>) -> io::Result<Option<T>> {
    match asked {
        Err(error) if is_shortage(&error) => Err(error),
        asked => Ok(asked.ok()),
    }
}
