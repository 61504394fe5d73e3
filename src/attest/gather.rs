//! Gathering evidence: the privileged half. Reads the kernel, judges nothing, holds no secret.
//!
//! Every error fails the whole attestation. Nothing here opens, hashes or walks a file before the kernel has named its file system.

use super::{
    evidence::{ExeEvidence, Gathered, Look, Measured, ProcessEvidence, Sight, mark_of_groups},
    hash::{ExeHashes, HashError},
    recent::{Recent, Seen},
};
use crate::sys::{Clock, Executable, Found, Host, HostFile, IdFiles, Kernel, MapPin, PidHandle, Pidfd, ProcDir};
use std::{io, sync::Arc};

/// Ancestors looked at, at most: deeper trees are not attested.
const MAX_ANCESTORS: usize = 64;

/// Gathers through one kernel's tier.
pub struct Gatherer {
    kernel: Kernel,
    host: Host,
    hashes: ExeHashes,
    recent: Recent,
    privileged: bool,
}

impl Gatherer {
    /// Gathers through what this kernel offers.
    pub fn new(kernel: Kernel, host: Host, hashes: ExeHashes, clock: Arc<dyn Clock>) -> Self {
        Self { kernel, host, hashes, recent: Recent::new(clock), privileged: crate::sys::may_look_at_all() }
    }

    /// What it can see.
    pub fn sight(&self) -> Sight {
        Sight {
            of_pid_1: self.host.of_pid_1,
            looks_at_all: self.privileged,
            own_users: crate::sys::has_own_users(),
            finds_handles: self.kernel.pidfd_handle,
            pidfd_info: self.kernel.pidfd_info,
        }
    }

    /// Everything about the process that a pidfd pins, whose number is `pid`; `full` reads its ancestors as closely, as matching agents
    /// needs. With it comes what pins its memory map, and on kernels without `PIDFD_GET_INFO` what its ids are
    /// read from.
    pub fn process(&self, pidfd: &Pidfd, pid: u32, full: bool) -> io::Result<(Gathered, MapPin, Option<IdFiles>)> {
        let own = if self.kernel.pidfd_info { Some(pidfd.info()?.pid) } else { pidfd.pid_from_fdinfo() };
        if own != Some(pid) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (process, map, directory) = match self.remembered(pid, true) {
            Some((seen, _)) => {
                let (status, proc) = (seen.proc.status()?, &seen.proc);
                let (uids, gids, groups, tracer) = (status.uids, status.gids, status.groups, status.tracer);
                let (login_uid, foreign, capabilities) = (proc.login_uid(), self.foreign(proc)?, status.capabilities);
                let process = ProcessEvidence { uids, gids, groups, tracer, login_uid, foreign, capabilities, ..seen.evidence.clone() };
                (process, seen.map.try_clone()?, None)
            }
            None => {
                let proc = ProcDir::of(pidfd, pid)?;
                let before = if self.kernel.pidfd_info { Some(Recent::before(pid, &proc)?) } else { None };
                let map = before.as_ref().map_or_else(|| proc.pin(), |before| before.map.try_clone())?;
                let process = self.read(&proc, self.executable(&proc, false)?.as_ref())?;
                match before {
                    Some(before) => {
                        self.recent.keep(before, true, &process)?;
                        (process, map, None)
                    }
                    None => (process, map, Some(proc)),
                }
            }
        };
        let mut tries = 0;
        // An ancestor that goes while they are read moves its children elsewhere, so the walk starts over, a few times.
        let ancestors = loop {
            match self.walk_ancestors(pidfd, directory.as_ref(), full) {
                Err(error) if is_gone(&error) && tries < 5 && pidfd.is_alive() => tries += 1,
                done => break done?,
            }
        };
        let ids = directory.map(|directory| directory.ids()).transpose()?;
        // All of the above was of one living process with one memory map.
        if !map.holds() || !pidfd.is_alive() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((Gathered { process, ancestors, ancestors_in_full: full }, map, ids))
    }

    fn remembered(&self, pid: u32, full: bool) -> Option<(Arc<Seen>, u32)> {
        if self.kernel.pidfd_info { self.recent.find(pid, full) } else { None }
    }

    fn foreign(&self, proc: &ProcDir) -> io::Result<Vec<String>> {
        Ok(self.host.foreign(proc)?.into_iter().map(str::to_owned).collect())
    }

    /// What it executes, who traces it and its groups now; `None` when it is gone.
    pub fn look(&self, pidfd: &Pidfd, pid: u32) -> Option<Look> {
        let proc = self.directory(pidfd, pid).ok()?;
        let exe = match Executable::id_of(&proc) {
            Ok(id) => Some(id),
            Err(error) if is_gone(&error) => None,
            Err(_) => return None,
        };
        let status = proc.status().ok()?;
        pidfd.is_alive().then(|| Look { exe, tracer: status.tracer, groups: mark_of_groups(&status.groups) })
    }

    /// The content of what it executes now, at this uid's expense.
    pub fn measure(&self, pidfd: &Pidfd, pid: u32, uid: u32) -> Result<Measured, HashError> {
        let exe = Executable::of(&self.directory(pidfd, pid)?)?;
        let sha256 = self.hashes.of(&exe, uid)?;
        if pidfd.is_alive() { Ok(Measured { exe: exe.id, sha256 }) } else { Err(HashError::Changed) }
    }

    /// A remembered process of this boot. Opening handles takes a privilege of its own on some hosts.
    pub fn find(&self, handle: PidHandle) -> Found {
        if self.kernel.pidfd_handle { Pidfd::find(handle) } else { Found::Unsupported }
    }

    /// What a path leads to on the host; `None` when nowhere that can be trusted.
    pub fn file(&self, path: &[u8]) -> io::Result<Option<HostFile>> {
        self.host.file(path)
    }

    /// The directory of the pinned process. A number that is not its own is a mistake of whoever asks, and must not become an answer.
    fn directory(&self, pidfd: &Pidfd, pid: u32) -> io::Result<ProcDir> {
        let own = if self.kernel.pidfd_info { Some(pidfd.info()?.pid) } else { pidfd.pid_from_fdinfo() };
        if own == Some(pid) { ProcDir::of(pidfd, pid) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// The executable; `None` when there is none, or none that may be looked at by somebody without privilege.
    fn executable(&self, proc: &ProcDir, denied_is_none: bool) -> io::Result<Option<Executable>> {
        match Executable::of(proc) {
            Ok(exe) => Ok(Some(exe)),
            // The first thread has exited while others run: there is no link, and nothing that needs one will match.
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) if denied_is_none && error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(&self, proc: &ProcDir, exe: Option<&Executable>) -> io::Result<ProcessEvidence> {
        let status = proc.status()?;
        let cgroup = proc.cgroup()?;
        let stat = proc.stat()?;
        Ok(ProcessEvidence {
            pid: proc.pid(),
            start: stat.start,
            session: stat.session,
            uids: status.uids,
            gids: status.gids,
            groups: status.groups,
            tracer: status.tracer,
            exe: exe.map(|exe| self.exe(exe)).transpose()?,
            invocation: cgroup.as_deref().and_then(invocation_of),
            cgroup,
            login_uid: proc.login_uid(),
            foreign: self.foreign(proc)?,
            capabilities: status.capabilities,
            launch: None,
        })
    }

    fn exe(&self, exe: &Executable) -> io::Result<ExeEvidence> {
        let trusted_fs = exe.on_trusted_fs();
        let host = if trusted_fs { self.host.file(&exe.path)? } else { None };
        let verified = host.as_ref().is_some_and(|file| file.id.same_file(&exe.id) || crate::mutation!("path-verified"));
        Ok(ExeEvidence {
            path: exe.path.clone(),
            id: exe.id,
            handle: exe.handle(),
            fs: exe.fs.clone(),
            trusted_fs,
            deleted: exe.id.nlink == 0,
            verified,
            root_owned: verified && host.is_some_and(|file| file.root_owned),
        })
    }

    fn walk_ancestors(&self, pidfd: &Pidfd, from: Option<&ProcDir>, full: bool) -> io::Result<Vec<ProcessEvidence>> {
        let parent_of_first = || match from {
            None => pidfd.info().map(|info| info.ppid),
            Some(proc) => proc.stat().map(|stat| stat.ppid),
        };
        let mut out: Vec<ProcessEvidence> = Vec::new();
        let mut pid = parent_of_first()?;
        let mut child: Option<Above> = None;
        while pid > 1 {
            if out.len() == MAX_ANCESTORS {
                return Err(io::Error::other("the process tree is deeper than is attested"));
            }
            let (evidence, next, above) = match self.remembered(pid, full) {
                Some((seen, parent)) => (seen.evidence.clone(), parent, Above::Remembered(seen)),
                None => self.read_ancestor(pid, full)?,
            };
            // The child still has this parent, so what was read was its parent and not a later process of the same number.
            let still = match &child {
                None => parent_of_first()?,
                Some(child) => child.parent()?,
            };
            if still != pid {
                return Err(io::ErrorKind::NotFound.into());
            }
            out.push(evidence);
            child = Some(above);
            pid = next;
        }
        Ok(out)
    }

    fn read_ancestor(&self, pid: u32, full: bool) -> io::Result<(ProcessEvidence, u32, Above)> {
        let proc = ProcDir::open(pid)?;
        // What may not be pinned, by somebody without privilege, is not remembered.
        let before = if self.kernel.pidfd_info { Recent::before(pid, &proc).ok() } else { None };
        let stat = proc.stat()?;
        let evidence = if full {
            // Whoever could hide an ancestor's program could hide an agent. A daemon without privilege sees its own user only.
            self.read(&proc, self.executable(&proc, !self.privileged)?.as_ref())?
        } else {
            let status = proc.status()?;
            let exe = proc.link("exe").ok().map(|path| ExeEvidence { path: path.into_encoded_bytes(), ..Default::default() });
            let (login_uid, cgroup) = (proc.login_uid(), proc.cgroup()?);
            let (uids, gids, start, session) = (status.uids, status.gids, stat.start, stat.session);
            ProcessEvidence { pid, start, session, uids, gids, exe, login_uid, cgroup, ..Default::default() }
        };
        if let Some(before) = before {
            self.recent.keep(before, full, &evidence)?;
        }
        Ok((evidence, stat.ppid, Above::Read(proc)))
    }
}

/// An ancestor whose parent is asked for once more.
enum Above {
    Read(ProcDir),
    Remembered(Arc<Seen>),
}

impl Above {
    fn parent(&self) -> io::Result<u32> {
        match self {
            Above::Read(proc) => proc.stat().map(|stat| stat.ppid),
            Above::Remembered(seen) => seen.parent(),
        }
    }
}

/// `/proc` says that something is gone in two ways.
pub(super) fn is_gone(error: &io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

/// The present invocation id of the unit that a control group belongs to: systemd publishes those of system units as targets of links.
pub fn invocation_of(cgroup: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(cgroup).ok()?;
    let unit = path.split('/').find(|part| part.ends_with(".service") || part.ends_with(".scope"))?;
    let link = std::fs::read_link(format!("/run/systemd/units/invocation:{unit}")).ok()?;
    let id = link.to_str()?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}
