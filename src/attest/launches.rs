//! Programs that were started apart: which process has which launch's group.
//!
//! What makes one believable is the kernel's: nobody but the launcher can take a group of the launches' range, each is given once, and
//! nothing that was launched can hand its on (`sys::launch`). The table says whose it is, and outlives the daemon.

use super::{
    attestor::{Peer, Subject},
    evidence::ProcessEvidence,
    facts::Facts,
    judge::judge,
};
use crate::{
    digest::Random,
    launch::LaunchName,
    model::{Code, Refusal},
    sys::{self, CAP_SETGID, FileError, LAUNCH_GIDS, Pidfd},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError, RwLock},
};

/// The layout that this version writes and reads.
const FORMAT: u32 = 1;
/// Launches that live at a time, at most.
const MOST: usize = 4096;
/// Bytes of the file, at most.
const MAX_BYTES: usize = 4 << 20;

/// Why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LaunchesError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Written by another version, mostly a later one.
    #[error("{0}: the launches have format {1}, this version reads {FORMAT}; nothing was changed. Start the version that wrote them")]
    Newer(PathBuf, u32),
    /// Not what this or any version writes.
    #[error("{0}: {1}")]
    Damaged(PathBuf, serde_json::Error),
}

/// The format alone: another one may have members that this version does not know.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u32,
    boot: String,
    /// The group that comes next. Smaller ones of the range are never given again, nor are larger ones before it.
    next: u32,
    launches: Vec<Row>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    gid: u32,
    name: String,
    uid: u32,
    pid: u32,
    start: u64,
    /// In pidfs: no later process of this boot has it.
    inode: u64,
    descendants: bool,
}

struct Launch {
    row: Row,
    name: LaunchName,
    process: Pidfd,
}

/// See the head of this file.
pub struct Launches {
    path: PathBuf,
    boot: String,
    /// The next group; held while the file is written.
    next: Mutex<u32>,
    /// By group.
    live: RwLock<HashMap<u32, Launch>>,
}

impl Launches {
    /// Reads the table or begins one. Of what it holds, processes that live on are known again.
    pub fn open(path: &Path, boot: &str, random: &dyn Random) -> Result<Self, LaunchesError> {
        let mut live = HashMap::new();
        let next = if path.exists() {
            let text = sys::read_private(path, MAX_BYTES)?;
            let damaged = |error| LaunchesError::Damaged(path.to_owned(), error);
            let Format { format } = serde_json::from_slice(text.expose()).map_err(damaged)?;
            if format != FORMAT {
                return Err(LaunchesError::Newer(path.to_owned(), format));
            }
            let saved: Saved = serde_json::from_slice(text.expose()).map_err(damaged)?;
            let rows = saved.launches.into_iter().filter(|_| saved.boot == boot);
            live.extend(rows.filter_map(Launch::again).map(|launch| (launch.row.gid, launch)));
            saved.next
        } else {
            // Processes of a table that was lost may still have groups: where the new one begins is nobody's choice.
            let span = u128::from(LAUNCH_GIDS.end() - LAUNCH_GIDS.start()) / 2;
            LAUNCH_GIDS.start() + (random.u128() % span) as u32
        };
        Ok(Self { path: path.to_owned(), boot: boot.to_owned(), next: Mutex::new(next), live: RwLock::new(live) })
    }

    /// Gives `subject`, which is the launcher, a group that nobody had before, and remembers what it is about to become.
    /// Waits for the disk.
    pub fn register(&self, subject: &Subject, name: &LaunchName, descendants: bool) -> Result<u32, Refusal> {
        let failed = |why: String| Refusal::new(Code::LAUNCH_UNAVAILABLE).detail(why);
        let process = subject.pins.pidfd.try_clone().map_err(|error| failed(error.to_string()))?;
        let inode =
            process.inode().ok_or_else(|| failed("this kernel does not tell one process from a later one (Linux 6.9)".to_owned()))?;
        let seen = &subject.evidence.process;
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let gid = *next;
        if !LAUNCH_GIDS.contains(&gid) {
            return Err(failed("every group of the launches' range was given".to_owned()));
        }
        let row = Row { gid, name: name.to_string(), uid: seen.uids[0], pid: seen.pid, start: seen.start, inode, descendants };
        let mut rows = {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.retain(|_, launch| launch.process.is_alive());
            if live.len() >= MOST {
                return Err(Refusal::new(Code::LIMIT).detail(format!("{MOST} launched programs run already")));
            }
            live.values().map(|launch| launch.row.clone()).collect::<Vec<_>>()
        };
        rows.push(row.clone());
        // Whatever becomes of the file: this number is not given a second time.
        *next = gid + 1;
        let saved = Saved { format: FORMAT, boot: self.boot.clone(), next: *next, launches: rows };
        let text = serde_json::to_vec(&saved).map_err(|error| failed(error.to_string()))?;
        sys::write_atomic(&self.path, &text, 0o600).map_err(|error| failed(error.to_string()))?;
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(gid, Launch { row, name: name.clone(), process });
        Ok(gid)
    }

    /// What was not launched after all.
    pub fn forget(&self, gid: u32) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(&gid);
    }

    /// Launched programs that live.
    pub fn count(&self) -> usize {
        self.live.read().unwrap_or_else(PoisonError::into_inner).values().filter(|launch| launch.process.is_alive()).count()
    }

    /// Writes into the evidence about a process that is held by `pidfd`, and about those above it, what they were launched as. What stood
    /// there is not believed.
    pub(super) fn mark(&self, pidfd: &Pidfd, process: &mut ProcessEvidence, ancestors: &mut [ProcessEvidence]) {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let of = |seen: &ProcessEvidence, above: &[ProcessEvidence]| {
            let launch = live.get(&seen.gids[0]).filter(|launch| launch.is_its_group(seen))?;
            let whole_tree = launch.row.descendants || crate::mutation!("launch-alone");
            let own = launch.is_root(seen) || (whole_tree && above.iter().any(|above| launch.is_root(above)));
            (own && launch.process.is_alive()).then_some(launch)
        };
        let found = of(process, ancestors);
        // The process itself is pinned, so it is compared by what pins it; those above it by number and start, in a group of their own.
        let same = |launch: &&Launch| !launch.is_root(process) || pidfd.inode() == Some(launch.row.inode);
        process.launch = found.filter(same).map(|launch| launch.name.clone());
        for n in 0..ancestors.len() {
            ancestors[n].launch = of(&ancestors[n], &ancestors[n + 1..]).map(|launch| launch.name.clone());
        }
    }
}

impl Launch {
    /// The process of a row, if it lives.
    fn again(row: Row) -> Option<Self> {
        let name = LaunchName::parse(&row.name)?;
        let process = Pidfd::open(row.pid).ok()?;
        (process.inode() == Some(row.inode) && process.is_alive()).then_some(Self { row, name, process })
    }

    /// Real, effective, saved and file-system group, and the user who launched it.
    fn is_its_group(&self, seen: &ProcessEvidence) -> bool {
        seen.gids == [self.row.gid; 4] && seen.uids == [self.row.uid; 4]
    }

    fn is_root(&self, seen: &ProcessEvidence) -> bool {
        (seen.pid, seen.start) == (self.row.pid, self.row.start)
    }
}

/// What the kernel says about `peer`, and whether it is the launcher at `program` with its privilege in hand, on the host itself, steered
/// by nobody.
pub fn launcher(peer: &Peer, program: &Path) -> (Option<Facts>, Result<(), Refusal>) {
    let evidence = &peer.own().evidence;
    let facts = match judge(evidence) {
        Ok(facts) => facts,
        Err(refusal) => return (None, Err(refusal)),
    };
    let is_it = facts.exe.as_ref().is_some_and(|exe| exe.root_owned && Path::new(&exe.path) == program);
    // Had it not been executed cleanly, it would not have its privilege.
    let privileged = evidence.process.capabilities >> CAP_SETGID & 1 == 1;
    let why = if !peer.is_fresh() || facts.exe.is_none() {
        "it is not known which process asks"
    } else if !is_it && !crate::mutation!("launcher-program") {
        "another program asks"
    } else if !facts.foreign.is_empty() {
        "it runs in a container or in namespaces of its own"
    } else if facts.tracer.is_some() {
        "it is traced"
    } else if !privileged && !crate::mutation!("launcher-privilege") {
        "it has not its privilege, so whoever started it may steer it"
    } else {
        return (Some(facts), Ok(()));
    };
    (Some(facts), Err(Refusal::new(Code::NOT_LAUNCHER).detail(why)))
}
