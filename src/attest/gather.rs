//! Gathering evidence: the privileged half. Reads the kernel, judges nothing, holds no secret.
//!
//! Every error fails the whole attestation. Nothing here opens, hashes or walks a file before the kernel has named its file system.

use super::evidence::{ConnectIds, Evidence, ExeEvidence, ProcessEvidence};
use crate::sys::{Executable, Host, Kernel, MapPin, PeerCred, Pidfd, ProcDir, peer_cred, peer_groups, peer_pidfd};
use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

/// Ancestors looked at, at most: deeper trees are not attested.
const MAX_ANCESTORS: usize = 64;

/// A process held so that it cannot be taken for another: its pidfd, its memory map and its executable.
pub struct Pins {
    /// The process.
    pub pidfd: Pidfd,
    /// Its `/proc` directory.
    pub proc: ProcDir,
    /// Its memory map: breaks on exec.
    pub map: MapPin,
    /// Its executable; `None` when it has none.
    pub exe: Option<Executable>,
    /// Its ids and control group when it was pinned.
    ids: Ids,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Ids {
    ppid: u32,
    uids: [u32; 2],
    gids: [u32; 2],
    cgroup: u64,
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
}

/// Gathers through one kernel's tier.
pub struct Gatherer {
    kernel: Kernel,
    host: Host,
    ancestors_in_full: AtomicBool,
    privileged: bool,
}

/// What was read above a process.
struct Ancestry {
    ancestors: Vec<ProcessEvidence>,
    full: bool,
}

impl Gatherer {
    /// Gathers through what this kernel offers.
    pub fn new(kernel: Kernel, host: Host) -> Self {
        Self { kernel, host, ancestors_in_full: AtomicBool::new(true), privileged: crate::sys::may_look_at_all() }
    }

    /// Whether ancestors are read as closely as the process itself, as matching agents needs.
    pub fn read_ancestors_in_full(&self, full: bool) {
        self.ancestors_in_full.store(full, Ordering::Release);
    }

    /// What was last asked for.
    pub fn reads_ancestors_in_full(&self) -> bool {
        self.ancestors_in_full.load(Ordering::Acquire)
    }

    /// The tier in use.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Whether PID 1 could be looked at.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Everything about the process at the other end of a fresh connection.
    pub fn peer(&self, socket: &impl AsFd) -> io::Result<(Evidence, Pins)> {
        let cred = peer_cred(socket)?;
        let groups = peer_groups(socket)?;
        let pidfd = if self.kernel.peer_pidfd && !crate::mutation!("peer-pidfd") { peer_pidfd(socket)? } else { Pidfd::open(cred.pid)? };
        let (process, pins) = self.process(pidfd, cred.pid)?;
        let connect = ConnectIds { pid: cred.pid, uid: cred.uid, gid: cred.gid, groups };
        let Ancestry { ancestors, full } = self.ancestors(&pins)?;
        Ok((Evidence { connect, process, ancestors, ancestors_in_full: full, pinned: self.kernel.peer_pidfd }, pins))
    }

    /// Everything about the parent of a pinned process, itself pinned: for the configured client, which speaks for its parent.
    /// `InvalidInput` when that is PID 1 or nobody here.
    pub fn parent(&self, child: &Pins) -> io::Result<(Evidence, Pins)> {
        let ppid = self.parent_pid(child)?;
        if ppid <= 1 {
            // The service manager, or a parent outside this pid namespace.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let pidfd = Pidfd::open(ppid)?;
        let (process, pins) = self.process(pidfd, ppid)?;
        // Read again: had the parent gone before it was pinned, the child would have another one now.
        if self.parent_pid(child)? != ppid {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        let connect = ConnectIds { pid: ppid, uid: process.uids[1], gid: process.gids[1], groups: process.groups.clone() };
        let Ancestry { ancestors, full } = self.ancestors(&pins)?;
        Ok((Evidence { connect, process, ancestors, ancestors_in_full: full, pinned: true }, pins))
    }

    /// A process by its number, for operators' questions: right only for whatever has that number now.
    pub fn by_pid(&self, pid: u32) -> io::Result<(Evidence, Pins)> {
        self.pinned(Pidfd::open(pid)?, pid)
    }

    /// A process that is pinned already: a holder that is looked at again.
    pub fn pinned(&self, pidfd: Pidfd, pid: u32) -> io::Result<(Evidence, Pins)> {
        let (process, pins) = self.process(pidfd, pid)?;
        let connect = ConnectIds { pid, uid: process.uids[1], gid: process.gids[1], groups: process.groups.clone() };
        let Ancestry { ancestors, full } = self.ancestors(&pins)?;
        Ok((Evidence { connect, process, ancestors, ancestors_in_full: full, pinned: true }, pins))
    }

    fn process(&self, pidfd: Pidfd, pid: u32) -> io::Result<(ProcessEvidence, Pins)> {
        let proc = ProcDir::of(&pidfd, pid)?;
        let map = proc.pin()?;
        let exe = match Executable::of(&proc) {
            Ok(exe) => Some(exe),
            // The first thread has exited while others run: there is no link, and nothing that needs one will match.
            Err(error) if is_gone(&error) => None,
            Err(error) => return Err(error),
        };
        let evidence = self.read(&proc, exe.as_ref())?;
        let ids = self.ids(&pidfd, &proc)?;
        // All of the above was of one living process with one memory map.
        if !map.holds() || !pidfd.is_alive() || ids.uids != [evidence.uids[0], evidence.uids[1]] {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok((evidence, Pins { pidfd, proc, map, exe, ids }))
    }

    fn read(&self, proc: &ProcDir, exe: Option<&Executable>) -> io::Result<ProcessEvidence> {
        let status = proc.status()?;
        let cgroup = proc.cgroup()?;
        Ok(ProcessEvidence {
            pid: proc.pid(),
            start: proc.stat()?.start,
            uids: status.uids,
            gids: status.gids,
            groups: status.groups,
            tracer: status.tracer,
            exe: exe.map(|exe| self.exe(exe)),
            invocation: cgroup.as_deref().and_then(invocation_of),
            cgroup,
            login_uid: proc.login_uid(),
            foreign: self.host.foreign(proc).into_iter().map(str::to_owned).collect(),
        })
    }

    fn exe(&self, exe: &Executable) -> ExeEvidence {
        let trusted_fs = exe.on_trusted_fs();
        let host = if trusted_fs { self.host.file(&exe.path) } else { None };
        let verified = host.as_ref().is_some_and(|file| file.id.same_file(&exe.id) || crate::mutation!("path-verified"));
        ExeEvidence {
            path: exe.path.clone(),
            dev: exe.id.dev,
            ino: exe.id.ino,
            handle: exe.handle(),
            fs: exe.fs.clone(),
            trusted_fs,
            deleted: exe.id.nlink == 0,
            verified,
            root_owned: verified && host.is_some_and(|file| file.root_owned),
        }
    }

    /// The ancestors; an ancestor that goes while they are read moves its children elsewhere, so the walk starts over, a few times.
    fn ancestors(&self, from: &Pins) -> io::Result<Ancestry> {
        let full = self.ancestors_in_full.load(Ordering::Acquire);
        let mut tries = 0;
        loop {
            match self.walk_ancestors(from, full) {
                Err(error) if is_gone(&error) && tries < 5 && from.pidfd.is_alive() => tries += 1,
                done => return done.map(|ancestors| Ancestry { ancestors, full }),
            }
        }
    }

    fn walk_ancestors(&self, from: &Pins, full: bool) -> io::Result<Vec<ProcessEvidence>> {
        let mut out: Vec<ProcessEvidence> = Vec::new();
        let mut pid = self.parent_pid(from)?;
        let mut child: Option<ProcDir> = None;
        while pid > 1 {
            if out.len() == MAX_ANCESTORS {
                return Err(io::Error::other("the process tree is deeper than is attested"));
            }
            let proc = ProcDir::open(pid)?;
            let stat = proc.stat()?;
            let evidence = if full {
                let exe = match Executable::of(&proc) {
                    Ok(exe) => Some(exe),
                    // Its first thread has exited, or it is none of ours to look at: a daemon without privilege sees its own user only.
                    Err(error) if is_gone(&error) || (is_denied(&error) && !self.privileged) => None,
                    // Whoever could hide an ancestor's program could hide an agent.
                    Err(error) => return Err(error),
                };
                self.read(&proc, exe.as_ref())?
            } else {
                let status = proc.status()?;
                let exe = proc.link("exe").ok().map(|path| ExeEvidence { path: path.into_encoded_bytes(), ..Default::default() });
                let (login_uid, cgroup) = (proc.login_uid(), proc.cgroup()?);
                let (uids, gids) = (status.uids, status.gids);
                ProcessEvidence { pid, start: stat.start, uids, gids, exe, login_uid, cgroup, ..Default::default() }
            };
            let next = stat.ppid;
            // The child still has this parent, so what was read was its parent and not a later process of the same number.
            let still = match &child {
                None => self.parent_pid(from)? == pid,
                Some(child) => child.stat()?.ppid == pid,
            };
            if !still {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            out.push(evidence);
            child = Some(proc);
            pid = next;
        }
        Ok(out)
    }

    fn parent_pid(&self, of: &Pins) -> io::Result<u32> {
        if self.kernel.pidfd_info { of.pidfd.info().map(|info| info.ppid) } else { of.proc.stat().map(|stat| stat.ppid) }
    }

    fn ids(&self, pidfd: &Pidfd, proc: &ProcDir) -> io::Result<Ids> {
        if self.kernel.pidfd_info {
            let info = pidfd.info()?;
            return Ok(Ids { ppid: info.ppid, uids: [info.ruid, info.euid], gids: [info.rgid, info.egid], cgroup: info.cgroup });
        }
        let status = proc.status()?;
        let path = proc.cgroup()?.unwrap_or_default();
        let hash = crate::digest::sha256(&[&path]);
        let cgroup = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        Ok(Ids { ppid: status.ppid, uids: [status.uids[0], status.uids[1]], gids: [status.gids[0], status.gids[1]], cgroup })
    }

    /// The warm check: the same living process with the same ids, control group and memory map. About 2 us.
    pub fn still_pinned(&self, pins: &Pins) -> Result<(), Changed> {
        if !crate::mutation!("map-pin") && !pins.map.holds() {
            return Err(if pins.pidfd.is_alive() { Changed::Program } else { Changed::Gone });
        }
        let now = self.ids(&pins.pidfd, &pins.proc).map_err(|_| Changed::Gone)?;
        let (before, now) = (Ids { ppid: 0, ..pins.ids }, Ids { ppid: 0, ..now });
        if now != before {
            return Err(Changed::Credentials);
        }
        // A process that has exited has ids until it is reaped, and its map lives as long as a helper shares it.
        if pins.pidfd.is_alive() { Ok(()) } else { Err(Changed::Gone) }
    }

    /// The same with the executable compared. About 4 us.
    pub fn still(&self, pins: &Pins) -> Result<(), Changed> {
        self.still_pinned(pins)?;
        // A helper that shares the old map (CLONE_VM) would keep the pin whole through an exec; the executable tells all the same.
        if !crate::mutation!("map-pin") && pins.exe.as_ref().is_some_and(|exe| !exe.is_run_by(&pins.proc)) {
            return Err(if pins.pidfd.is_alive() { Changed::Program } else { Changed::Gone });
        }
        Ok(())
    }

    /// The warm check and, for issuing: the executable is the same file still and nobody has begun to trace the process.
    pub fn still_for_issue(&self, pins: &Pins, traced_before: bool) -> Result<(), Changed> {
        self.still(pins)?;
        let tracer = pins.proc.status().map_err(|_| Changed::Gone)?.tracer;
        if tracer != 0 && !traced_before { Err(Changed::Program) } else { Ok(()) }
    }
}

impl Pins {
    /// The ids that the kernel attaches to what this process writes: its pid and *real* ids.
    pub fn sender(&self) -> PeerCred {
        PeerCred { pid: self.proc.pid(), uid: self.ids.uids[0], gid: self.ids.gids[0] }
    }

    /// The inode of its control group's directory, 0 where the kernel does not say.
    pub fn cgroup_id(&self) -> u64 {
        self.ids.cgroup
    }
}

fn is_denied(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// `/proc` says that something is gone in two ways.
fn is_gone(error: &io::Error) -> bool {
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
