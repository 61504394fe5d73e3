//! Processes that were read a moment ago. While the kernel says that nothing about one has changed (it lives, has the same ids, control
//! group, memory map and executable), what was read of it still holds and need not be read again: shells and supervisors stand above
//! thousands of connections.
//!
//! What the kernel does not say of itself (supplementary groups, session, namespaces) is believed for a second at most, and for a process
//! that asks it is always read anew.

use super::evidence::ProcessEvidence;
use crate::sys::{Clock, Executable, MapPin, PidInfo, Pidfd, ProcDir};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

/// Microseconds for which what was read is believed.
const BELIEVED: u64 = 1_000_000;
/// Processes that are remembered, at most. Each costs three descriptors.
const MOST: usize = 128;

/// A process with what was read of it.
pub(super) struct Seen {
    pidfd: Pidfd,
    pub(super) proc: ProcDir,
    pub(super) map: MapPin,
    info: PidInfo,
    /// Read as closely as a process that asks, its executable included.
    full: bool,
    until: u64,
    pub(super) evidence: ProcessEvidence,
}

/// A process that is about to be read.
pub(super) struct Before {
    pidfd: Pidfd,
    info: PidInfo,
    pub(super) map: MapPin,
}

/// See the head of this file.
pub(super) struct Recent {
    seen: Mutex<HashMap<u32, Arc<Seen>>>,
    clock: Arc<dyn Clock>,
}

impl Seen {
    /// Its parent now.
    pub(super) fn parent(&self) -> io::Result<u32> {
        self.pidfd.info().map(|info| info.ppid)
    }

    /// The process and its parent now, if nothing else about it has changed.
    fn parent_if_unchanged(&self) -> Option<u32> {
        let now = self.pidfd.info().ok()?;
        let same_ids = PidInfo { ppid: 0, ..now } == PidInfo { ppid: 0, ..self.info };
        let same_program = || {
            let exe = Executable::id_of(&self.proc).ok();
            let same_exe = match (&self.evidence.exe, exe) {
                // Without privilege nothing is known of some, and nothing is remembered of those.
                (Some(before), Some(now)) => !self.full || before.id.same_file(&now),
                _ => false,
            };
            self.map.holds() && same_exe
        };
        let same = same_ids && (crate::mutation!("recent-program") || same_program()) && self.pidfd.is_alive();
        same.then_some(now.ppid)
    }
}

impl Recent {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { seen: Mutex::default(), clock }
    }

    /// What was read of the process that has this number now, at least so closely, with its parent now.
    pub(super) fn find(&self, pid: u32, full: bool) -> Option<(Arc<Seen>, u32)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).cloned()?;
        if (full && !seen.full) || self.clock.boot().0 >= seen.until {
            return None;
        }
        // A process that lives has its number to itself, so this is the one.
        seen.parent_if_unchanged().map(|parent| (seen, parent))
    }

    /// Before a process is read: what tells afterwards that nothing about it changed meanwhile.
    pub(super) fn before(pid: u32, proc: &ProcDir) -> io::Result<Before> {
        let pidfd = Pidfd::open(pid)?;
        let (info, map) = (pidfd.info()?, proc.pin()?);
        Ok(Before { pidfd, info, map })
    }

    /// Remembers a process that was just read, unless something about it changed meanwhile.
    pub(super) fn keep(&self, before: Before, full: bool, evidence: &ProcessEvidence) -> io::Result<()> {
        let Before { pidfd, info, map } = before;
        let proc = ProcDir::open(evidence.pid)?;
        let until = self.clock.boot().0 + BELIEVED;
        let seen = Arc::new(Seen { pidfd, proc, map, info, full, until, evidence: evidence.clone() });
        // It lives and has had its number to itself all along: every directory that was opened by that number is its own.
        if seen.parent_if_unchanged().is_none() {
            return Ok(());
        }
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            let now = self.clock.boot().0;
            all.retain(|_, seen| now < seen.until);
        }
        if all.len() >= MOST {
            // Whoever is still above somebody is read again at once.
            all.clear();
        }
        all.insert(evidence.pid, seen);
        Ok(())
    }
}
