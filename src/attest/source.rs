//! Where evidence comes from: this process itself, or the attestor, which is another one with the privilege that this one lacks.
//!
//! The same questions go to either. With an attestor this side holds only what needs no privilege: pidfds, pins of memory maps, and plain
//! data. A connection is never passed on: whoever attests cannot read or write it.

use super::{
    evidence::{Gathered, Look, Sight},
    gather::Gatherer,
    hash::HashError,
    pins::Pins,
    protocol::{Answer, Lives, MAX_LOOK, Request},
    remote::Remote,
    workload::Eyes,
};
use crate::sys::{Found, HostFile, IdFiles, Kernel, PidHandle, Pidfd};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Who gathers.
pub enum Source {
    /// This process, which has the privilege and the secrets: for development and containers.
    Here(Box<Gatherer>),
    /// The attestor.
    Attestor(Remote),
}

impl Source {
    /// Everything about a process, which is pinned from now on.
    pub(super) async fn process(&self, kernel: &Kernel, pidfd: Pidfd, pid: u32, full: bool) -> io::Result<(Gathered, Pins)> {
        let (gathered, map, files) = match self {
            Source::Here(gatherer) => {
                let (gathered, map, files) = gatherer.process(&pidfd, pid, full)?;
                (gathered, OwnedFd::from(map), files)
            }
            Source::Attestor(attestor) => {
                let (answer, beside) = attestor.ask(Request::Process { pid, full }, &[pidfd.as_fd()]).await?;
                let Answer::Process { gathered, .. } = answer else { return Err(other()) };
                let mut beside = beside.into_iter();
                let map = beside.next().ok_or_else(other)?;
                let files = beside.next().zip(beside.next()).map(|(status, cgroup)| IdFiles::received(status, cgroup));
                (*gathered, map, files)
            }
        };
        if gathered.process.pid != pid || gathered.ancestors_in_full != full {
            return Err(other());
        }
        let pins = Pins::new(kernel, pidfd, &gathered.process, map, files)?;
        Ok((gathered, pins))
    }

    /// A second look at pinned processes, in their order; `None` for one that is gone.
    pub async fn look(&self, at: &[&Pins]) -> io::Result<Vec<Option<Look>>> {
        let attestor = match self {
            Source::Here(gatherer) => return Ok(at.iter().map(|pins| gatherer.look(&pins.pidfd, pins.pid())).collect()),
            Source::Attestor(attestor) => attestor,
        };
        let mut out = Vec::with_capacity(at.len());
        for some in at.chunks(MAX_LOOK) {
            let beside: Vec<BorrowedFd<'_>> = some.iter().map(|pins| pins.pidfd.as_fd()).collect();
            let question = Request::Look { pids: some.iter().map(|pins| pins.pid()).collect() };
            let (Answer::Look(looks), _) = attestor.ask(question, &beside).await? else { return Err(other()) };
            out.extend(looks);
        }
        Ok(out)
    }

    /// The SHA-256 of what a pinned process executes, in hex; an error if that is not what it executed when it was pinned.
    pub(super) async fn measure(&self, pins: &Pins, uid: u32) -> io::Result<String> {
        let measured = match self {
            Source::Here(gatherer) => gatherer.measure(&pins.pidfd, pins.pid(), uid).map_err(|error| match error {
                HashError::Io(error) => error,
                error => io::Error::other(error),
            })?,
            Source::Attestor(attestor) => match attestor.ask(Request::Measure { pid: pins.pid(), uid }, &[pins.pidfd.as_fd()]).await? {
                (Answer::Measured(measured), _) => measured,
                _ => return Err(other()),
            },
        };
        let same = pins.exe().is_some_and(|exe| exe.same_file(&measured.exe));
        if same { Ok(measured.sha256) } else { Err(io::Error::other("the process executes another file now")) }
    }

    /// The process that was remembered by this handle.
    pub async fn find(&self, handle: PidHandle) -> io::Result<Found> {
        let attestor = match self {
            Source::Here(gatherer) => return Ok(gatherer.find(handle)),
            Source::Attestor(attestor) => attestor,
        };
        match attestor.ask(Request::Find { handle }, &[]).await? {
            (Answer::Found(Lives::Yes), beside) => {
                let found = Pidfd::received(beside.into_iter().next().ok_or_else(other)?)?;
                // It names itself: nobody's word is needed for which process it is.
                if found.handle() != Some(handle) {
                    return Err(other());
                }
                Ok(if found.is_alive() { Found::Alive(found) } else { Found::Gone })
            }
            (Answer::Found(Lives::No), _) => Ok(Found::Gone),
            (Answer::Found(Lives::Unknown), _) => Ok(Found::Unsupported),
            _ => Err(other()),
        }
    }

    /// What an absolute path leads to on the host.
    pub async fn file(&self, path: &[u8]) -> io::Result<Option<HostFile>> {
        match self {
            Source::Here(gatherer) => gatherer.file(path),
            Source::Attestor(attestor) => match attestor.ask(Request::File { path: path.to_vec() }, &[]).await? {
                (Answer::File(file), _) => Ok(file),
                _ => Err(other()),
            },
        }
    }

    /// Which process gathers.
    pub fn eyes(&self) -> Eyes {
        match self {
            Source::Here(_) => Eyes::Daemon,
            Source::Attestor(_) => Eyes::Process,
        }
    }

    /// Whether the host's PID 1 is what namespaces and paths are compared with.
    pub fn sees_pid_1(&self) -> bool {
        self.sight().is_none_or(|sight| sight.of_pid_1)
    }

    /// What whoever gathers can see; `None` while nobody is there.
    pub fn sight(&self) -> Option<Sight> {
        match self {
            Source::Here(gatherer) => Some(gatherer.sight()),
            Source::Attestor(attestor) => attestor.sight(),
        }
    }

    /// Why nothing can be attested just now.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Source::Here(_) => None,
            Source::Attestor(attestor) => attestor.trouble(),
        }
    }

    /// How often the attestor was lost.
    pub fn lost(&self) -> u64 {
        match self {
            Source::Here(_) => 0,
            Source::Attestor(attestor) => attestor.lost(),
        }
    }

    /// Waits until there is somebody to ask; for as long as it takes, unless there is a reason that time does not mend.
    pub async fn reached(&self, within: std::time::Duration) -> bool {
        match self {
            Source::Here(_) => true,
            Source::Attestor(attestor) => attestor.reached(within).await,
        }
    }
}

/// What came is not what was asked for: nothing is known about the process.
fn other() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the evidence is about something else")
}
