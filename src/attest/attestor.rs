//! The attestor: a connection becomes a `Peer`, a peer becomes a `Workload`, and both are looked at again before anything leaves.

use super::{
    evidence::{ConnectIds, Evidence, Gathered, ProcessEvidence},
    gather::is_gone,
    identity::{Candidate, Roll},
    judge::{facts_of, judge},
    launches::Launches,
    pins::{Changed, Pins},
    remote::is_unseen,
    source::Source,
    turns::Turns,
    workload::Workload,
};
use crate::{
    digest::Random,
    model::{Assurance, Code, Refusal},
    sys::{Executable, HostFile, Kernel, PeerCred, Pidfd, peer_cred, peer_groups, peer_pidfd},
};
use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

/// A configured client (`clav`): when the peer is this very file, the peer's parent is the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientProgram {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Inode with generation.
    pub handle: Option<Vec<u8>>,
}

impl ClientProgram {
    /// The program at a path of which `file` was found out, if only root may change it. `trusted_owner` is another uid whose files are
    /// accepted, for a daemon that runs as that user from its own build folder.
    pub fn of(path: &Path, file: &HostFile, trusted_owner: u32) -> Option<Self> {
        let owned = file.root_owned || (file.id.uid == trusted_owner && file.id.mode & 0o022 == 0);
        owned.then(|| Self { dev: file.id.dev, ino: file.id.ino, handle: Executable::handle_of(path) })
    }
}

/// A pinned process with its evidence: the peer itself, or its parent when the peer is the configured client.
pub struct Subject {
    /// What was read.
    pub evidence: Evidence,
    /// What holds it.
    pub pins: Pins,
    /// The SHA-256 of its executable or why there is none, if an identity that it might be asks for that.
    sha256: Option<io::Result<String>>,
}

/// The other end of one connection, pinned when it was accepted.
pub struct Peer {
    own: Arc<Subject>,
    parent: Option<Arc<Subject>>,
    client: bool,
    nonce: String,
    fresh: AtomicBool,
}

/// What `whoami` shows: attested, whether or not it is a registered identity.
pub struct Attested {
    /// The subject with its selectors.
    pub candidate: Candidate,
    /// Its identity and assurance, or why there is none.
    pub workload: Result<Workload, Refusal>,
    /// What the attestation is worth at most for this peer.
    pub assurance: Assurance,
    /// It, or any process above it, matches a registered agent: also where several do and so none is its identity.
    pub of_agent: bool,
}

/// Turns connections into workloads.
pub struct Attestor {
    source: Source,
    kernel: Kernel,
    clients: Vec<ClientProgram>,
    random: Arc<dyn Random>,
    ancestors_in_full: AtomicBool,
    turns: Turns,
    launches: OnceLock<Arc<Launches>>,
}

/// Tries to read a process that lives and changes.
const GLANCES: u32 = 5;

impl Attestor {
    /// `kernel` is what this process may use of the kernel; `clients` are the programs that speak for their parents.
    pub fn new(source: Source, kernel: Kernel, clients: Vec<ClientProgram>, random: Arc<dyn Random>) -> Self {
        Self {
            source,
            kernel,
            clients,
            random,
            ancestors_in_full: AtomicBool::new(true),
            turns: Turns::default(),
            launches: OnceLock::new(),
        }
    }

    /// Who gathers, for status.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The tier in use.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// From now on launched programs are known. What is given first stays.
    pub fn know_launches(&self, launches: Arc<Launches>) {
        let _ = self.launches.set(launches);
    }

    /// The launched programs.
    pub fn launches(&self) -> Option<&Arc<Launches>> {
        self.launches.get()
    }

    /// Whether ancestors are read as closely as the process itself, as matching agents needs.
    pub fn read_ancestors_in_full(&self, full: bool) {
        self.ancestors_in_full.store(full, Ordering::Release);
    }

    fn full(&self) -> bool {
        self.ancestors_in_full.load(Ordering::Acquire)
    }

    /// Pins and reads the process behind a fresh connection.
    pub async fn accept(&self, socket: &(impl AsFd + Sync), roll: &Roll) -> io::Result<Peer> {
        let cred = peer_cred(socket)?;
        let groups = peer_groups(socket)?;
        let pidfd = if self.kernel.peer_pidfd && !crate::mutation!("peer-pidfd") { peer_pidfd(socket)? } else { Pidfd::open(cred.pid)? };
        let _turn = self.turns.take(cred.uid).await;
        let (gathered, pins) = self.source.process(&self.kernel, pidfd, cred.pid, self.full()).await?;
        let connect = ConnectIds { pid: cred.pid, uid: cred.uid, gid: cred.gid, groups };
        let mut own = self.subject(gathered, pins, Some(connect), self.kernel.peer_pidfd, roll).await;
        let client = self.is_client(&own);
        let parent = if client { self.parent_of(&own, roll).await? } else { None };
        // A client that a launched program starts is in its group, so the same neighbours are kept out.
        if let Some(parent) = &parent {
            own.evidence.process.launch = parent.evidence.process.launch.clone();
        }
        let fresh = AtomicBool::new(own.evidence.pinned);
        Ok(Peer { own: Arc::new(own), parent, client, nonce: format!("{:032x}", self.random.u128()), fresh })
    }

    /// Evidence in one piece. `connect` are the ids at connect; a process that did not connect has those that it has now.
    async fn subject(&self, gathered: Gathered, pins: Pins, connect: Option<ConnectIds>, pinned: bool, roll: &Roll) -> Subject {
        let Gathered { mut process, mut ancestors, ancestors_in_full } = gathered;
        if let Some(launches) = self.launches.get() {
            launches.mark(&pins.pidfd, &mut process, &mut ancestors);
        }
        let now = || ConnectIds { pid: process.pid, uid: process.uids[1], gid: process.gids[1], groups: process.groups.clone() };
        let connect = connect.unwrap_or_else(now);
        let mut evidence = Evidence { connect, process, ancestors, ancestors_in_full, pinned: true };
        // As if it had proved to be fresh already, where that is to come: nothing is measured later.
        let wanted = judge(&evidence).is_ok_and(|facts| roll.wants_hash_of(&roll.candidate(facts)));
        let sha256 = if wanted { Some(self.source.measure(&pins, evidence.connect.uid).await) } else { None };
        evidence.pinned = pinned;
        Subject { evidence, pins, sha256 }
    }

    /// The process that the client speaks for: its parent. A client that the service manager started, or that somebody with other ids or
    /// in other namespaces started (`runuser`, `sudo`, `sg`, `nsenter`), speaks for itself: such a parent wants nothing for its own.
    async fn parent_of(&self, own: &Subject, roll: &Roll) -> io::Result<Option<Arc<Subject>>> {
        let ppid = own.pins.parent()?;
        if ppid <= 1 {
            // The service manager, or a parent outside this pid namespace.
            return Ok(None);
        }
        let pidfd = Pidfd::open(ppid)?;
        let (gathered, pins) = self.source.process(&self.kernel, pidfd, ppid, self.full()).await?;
        // Read again: had the parent gone before it was pinned, the child would have another one now.
        if own.pins.parent()? != ppid {
            return Err(io::ErrorKind::NotFound.into());
        }
        let parent = self.subject(gathered, pins, None, true, roll).await;
        let ids = |process: &ProcessEvidence| {
            let mut groups = process.groups.clone();
            groups.sort_unstable();
            (process.uids, process.gids, groups, process.foreign.clone())
        };
        let same = ids(&parent.evidence.process) == ids(&own.evidence.process) || crate::mutation!("client-ids");
        Ok(same.then(|| Arc::new(parent)))
    }

    /// Whether a process runs the configured client.
    pub fn is_client(&self, subject: &Subject) -> bool {
        subject.evidence.process.exe.as_ref().is_some_and(|exe| {
            let program = ClientProgram { dev: exe.id.dev, ino: exe.id.ino, handle: exe.handle.clone() };
            !exe.deleted && self.clients.contains(&program)
        })
    }

    /// Who the peer is under this registry, with everything that `whoami` shows. A failure anywhere fails all of it.
    pub fn examine(&self, peer: &Peer, roll: &Roll) -> Result<Attested, Refusal> {
        let (subject, ancestors) = self.candidate(peer.subject(), peer.is_fresh(), roll)?;
        let client = match &peer.parent {
            None => None,
            Some(_) => Some(roll.candidate(judge(&peer.own.evidence)?)),
        };
        let subject = measured(subject, peer.subject(), roll)?;
        let workload = roll.identify(&subject, &ancestors, client.as_ref());
        let assurance = workload.as_ref().map_or_else(|_| roll.bare_assurance(&subject), Workload::assurance);
        let of_agent = roll.is_agent(&subject) || ancestors.iter().any(|ancestor| roll.is_agent(ancestor));
        Ok(Attested { candidate: subject, workload, assurance, of_agent })
    }

    /// Who a pinned process is now: for holders that are looked at again, and for operators' questions about a pid.
    pub fn examine_process(&self, subject: &Subject, roll: &Roll) -> Result<Attested, Refusal> {
        let (candidate, ancestors) = self.candidate(subject, true, roll)?;
        let candidate = measured(candidate, subject, roll)?;
        let workload = roll.identify(&candidate, &ancestors, None);
        let assurance = workload.as_ref().map_or_else(|_| roll.bare_assurance(&candidate), Workload::assurance);
        let of_agent = roll.is_agent(&candidate) || ancestors.iter().any(|ancestor| roll.is_agent(ancestor));
        Ok(Attested { candidate, workload, assurance, of_agent })
    }

    /// Whether it was looked at as closely as this registry wants: its ancestors, and the content of its executable.
    pub fn saw_enough(&self, subject: &Subject, roll: &Roll) -> bool {
        let wants_hash = || judge(&subject.evidence).is_ok_and(|facts| roll.wants_hash_of(&roll.candidate(facts)));
        (subject.evidence.ancestors_in_full || !self.full()) && (subject.sha256.is_some() || !wants_hash())
    }

    /// Gathers anew about a process that is held by its pidfd. That its content could not be measured just now is an error too
    /// ([`is_unseen`]): it says nothing about the process.
    pub async fn look_again(&self, pidfd: Pidfd, pid: u32, roll: &Roll) -> io::Result<Subject> {
        let (gathered, pins) = self.source.process(&self.kernel, pidfd, pid, self.full()).await?;
        match self.subject(gathered, pins, None, true, roll).await {
            Subject { sha256: Some(Err(error)), .. } if is_unseen(&error) => Err(error),
            subject => Ok(subject),
        }
    }

    /// What has this number now, where it runs and below whom: as the kernel says it, and nothing is measured. `None` where nothing lives that
    /// has it; what lives and cannot be read is an error, as one that changes its program or its parents all the time is.
    pub async fn glance(&self, pid: u32) -> io::Result<Option<Gathered>> {
        let mut tries = 0;
        loop {
            let pidfd = match Pidfd::open(pid) {
                Err(error) if is_gone(&error) => return Ok(None),
                opened => opened?,
            };
            let known = pidfd.try_clone()?;
            match self.source.process(&self.kernel, pidfd, pid, false).await {
                Ok((gathered, _pins)) => return Ok(Some(gathered)),
                Err(_) if !known.is_alive() => return Ok(None),
                Err(error) if !is_gone(&error) || tries == GLANCES => return Err(error),
                Err(_) => tries += 1,
            }
        }
    }

    /// Gathers about whatever process has this number now.
    pub async fn by_pid(&self, pid: u32, roll: &Roll) -> io::Result<Subject> {
        self.look_again(Pidfd::open(pid)?, pid, roll).await
    }

    fn candidate(&self, subject: &Subject, fresh: bool, roll: &Roll) -> Result<(Candidate, Vec<Candidate>), Refusal> {
        let mut evidence = subject.evidence.clone();
        evidence.pinned = fresh;
        let facts = judge(&evidence)?;
        if roll.has_agents() && !evidence.ancestors_in_full && !crate::mutation!("shallow-ancestry") {
            return Err(Refusal::new(Code::ATTESTATION_FAILED)
                .message("The registry has changed since this connection was made: connect again.")
                .detail("an agent was registered since; the ancestors were not read closely enough to tell one"));
        }
        let ancestors = match fresh && roll.has_agents() {
            true => evidence.ancestors.iter().map(|a| roll.candidate(facts_of(a))).collect(),
            false => Vec::new(),
        };
        Ok((roll.candidate(facts), ancestors))
    }

    /// The warm check, right before bytes leave: peer and subject are the same processes with the same ids and programs.
    pub fn still(&self, peer: &Peer) -> Result<(), Refusal> {
        peer.processes().try_for_each(|subject| subject.pins.still()).map_err(refusal_for)
    }

    /// The same for issuing, which also compares the executable and looks for a tracer. Nothing is awaited after the warm check.
    pub async fn still_for_issue(&self, peer: &Peer) -> Result<(), Refusal> {
        let pins: Vec<&Pins> = peer.processes().map(|subject| &subject.pins).collect();
        let looks = self.source.look(&pins).await.map_err(|error| refusal_for(Changed::Unseen).detail(error.to_string()))?;
        for (pins, look) in pins.iter().zip(&looks) {
            look.as_ref().map_or(Err(Changed::Gone), |look| pins.agrees(look)).map_err(refusal_for)?;
        }
        self.still(peer)
    }
}

/// The candidate with the content of its executable, where a row asks for it.
fn measured(candidate: Candidate, subject: &Subject, roll: &Roll) -> Result<Candidate, Refusal> {
    if !roll.wants_hash_of(&candidate) {
        return Ok(candidate);
    }
    let refused = |why: &str| Refusal::new(Code::ATTESTATION_FAILED).detail(format!("measuring the executable: {why}"));
    let hash = match &subject.sha256 {
        Some(Ok(hash)) => hash.clone(),
        Some(Err(why)) => return Err(refused(&why.to_string())),
        None => {
            return Err(refused("no identity asked for it when this connection was made")
                .message("The registry has changed since this connection was made: connect again."));
        }
    };
    let mut facts = candidate.facts;
    if let Some(exe) = &mut facts.exe {
        exe.sha256 = Some(hash);
    }
    Ok(roll.candidate(facts))
}

fn refusal_for(changed: Changed) -> Refusal {
    Refusal::new(match changed {
        Changed::Gone => Code::PEER_GONE,
        Changed::Credentials => Code::CREDENTIALS_CHANGED,
        Changed::Program => Code::PROGRAM_CHANGED,
        Changed::Unseen => Code::ATTESTATION_FAILED,
    })
}

impl Peer {
    fn processes(&self) -> impl Iterator<Item = &Arc<Subject>> {
        std::iter::once(&self.own).chain(&self.parent)
    }

    /// The process whose identity counts.
    pub fn subject(&self) -> &Arc<Subject> {
        self.parent.as_ref().unwrap_or(&self.own)
    }

    /// The process at the other end, which is the client when it speaks for its parent.
    pub fn own(&self) -> &Arc<Subject> {
        &self.own
    }

    /// Whether the peer is the configured client.
    pub fn is_client(&self) -> bool {
        self.client
    }

    /// The ids that the kernel attaches to what the peer writes.
    pub fn sender(&self) -> PeerCred {
        self.own.pins.sender()
    }

    /// Effective uid at connect, for limits before anything is attested.
    pub fn uid(&self) -> u32 {
        self.own.evidence.connect.uid
    }

    /// What must be repeated on this connection where the kernel does not pin at connect.
    pub fn nonce(&self) -> &str {
        &self.nonce
    }

    /// A request came with this nonce. Its bytes were written by the process with the connecting pid, and if the pinned process is alive
    /// still, it is the one that has that pid: so it is the one that wrote.
    pub fn answer_nonce(&self, nonce: &str) {
        if nonce == self.nonce && self.own.pins.pidfd.is_alive() {
            self.fresh.store(true, Ordering::Release);
        }
    }

    /// Nobody else could have been at the other end, by the socket's mode.
    pub(super) fn believe(&self) {
        self.fresh.store(true, Ordering::Release);
    }

    /// Pinned at connect, or proved by the nonce.
    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Acquire)
    }
}
