//! The attestor: a connection becomes a `Peer`, a peer becomes a `Workload`, and both are looked at again before anything leaves.

use super::{
    evidence::{Evidence, ProcessEvidence},
    gather::{Changed, Gatherer, Pins},
    hash::ExeHashes,
    identity::{Candidate, Roll},
    judge::{facts_of, judge},
    workload::Workload,
};
use crate::{
    digest::Random,
    model::{Assurance, Code, Refusal},
    sys::{Executable, PeerCred, Pidfd},
};
use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
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
    /// The program at a path, if it is a file that only root may change. `trusted_owner` is another uid whose files are accepted, for a
    /// daemon that runs as that user from its own build folder.
    pub fn at(path: &std::path::Path, host: &crate::sys::Host, trusted_owner: u32) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let path = path.canonicalize().ok()?;
        let file = host.file(path.as_os_str().as_bytes())?;
        let owned = file.root_owned || (file.id.uid == trusted_owner && file.id.mode & 0o022 == 0);
        owned.then_some(Self { dev: file.id.dev, ino: file.id.ino, handle: Executable::handle_of(&path) })
    }
}

/// A pinned process with its evidence: the peer itself, or its parent when the peer is the configured client.
pub struct Subject {
    /// What was read.
    pub evidence: Evidence,
    /// What holds it.
    pub pins: Pins,
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
    gatherer: Gatherer,
    hashes: ExeHashes,
    clients: Vec<ClientProgram>,
    random: Arc<dyn Random>,
}

impl Attestor {
    /// `clients` are the programs that speak for their parents.
    pub fn new(gatherer: Gatherer, hashes: ExeHashes, clients: Vec<ClientProgram>, random: Arc<dyn Random>) -> Self {
        Self { gatherer, hashes, clients, random }
    }

    /// The gatherer, for status and operators' questions.
    pub fn gatherer(&self) -> &Gatherer {
        &self.gatherer
    }

    /// Pins and reads the process behind a fresh connection.
    pub fn accept(&self, socket: &impl AsFd) -> io::Result<Peer> {
        let (evidence, pins) = self.gatherer.peer(socket)?;
        let own = Subject { evidence, pins };
        let client = self.is_client(&own);
        let parent = if client { self.parent_of(&own)? } else { None };
        let fresh = AtomicBool::new(own.evidence.pinned);
        Ok(Peer { own: Arc::new(own), parent, client, nonce: format!("{:032x}", self.random.u128()), fresh })
    }

    /// The process that the client speaks for: its parent. A client that the service manager started, or that somebody with other ids or
    /// in other namespaces started (`runuser`, `sudo`, `sg`, `nsenter`), speaks for itself: such a parent wants nothing for its own.
    fn parent_of(&self, own: &Subject) -> io::Result<Option<Arc<Subject>>> {
        let (evidence, pins) = match self.gatherer.parent(&own.pins) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Ok(None),
            other => other?,
        };
        let ids = |process: &ProcessEvidence| {
            let mut groups = process.groups.clone();
            groups.sort_unstable();
            (process.uids, process.gids, groups, process.foreign.clone())
        };
        Ok((ids(&evidence.process) == ids(&own.evidence.process)).then(|| Arc::new(Subject { evidence, pins })))
    }

    /// Whether a process runs the configured client.
    pub fn is_client(&self, subject: &Subject) -> bool {
        subject.evidence.process.exe.as_ref().is_some_and(|exe| {
            let program = ClientProgram { dev: exe.dev, ino: exe.ino, handle: exe.handle.clone() };
            !exe.deleted && self.clients.contains(&program)
        })
    }

    /// Who the peer is under this registry, with everything that `whoami` shows. A failure anywhere fails all of it.
    pub fn examine(&self, peer: &Peer, roll: &Roll) -> Result<Attested, Refusal> {
        let (mut subject, ancestors) = self.candidate(peer.subject(), peer.is_fresh(), roll)?;
        let client = match &peer.parent {
            None => None,
            Some(_) => Some(roll.candidate(judge(&peer.own.evidence)?)),
        };
        self.measure(&mut subject, &peer.subject().pins, roll)?;
        let workload = roll.identify(&subject, &ancestors, client.as_ref());
        let assurance = workload.as_ref().map_or_else(|_| roll.bare_assurance(&subject), Workload::assurance);
        let of_agent = roll.is_agent(&subject) || ancestors.iter().any(|ancestor| roll.is_agent(ancestor));
        Ok(Attested { candidate: subject, workload, assurance, of_agent })
    }

    /// Who a pinned process is now: for holders that are looked at again, and for operators' questions about a pid.
    pub fn examine_process(&self, subject: &Subject, roll: &Roll) -> Result<Attested, Refusal> {
        let (mut candidate, ancestors) = self.candidate(subject, true, roll)?;
        self.measure(&mut candidate, &subject.pins, roll)?;
        let workload = roll.identify(&candidate, &ancestors, None);
        let assurance = workload.as_ref().map_or_else(|_| roll.bare_assurance(&candidate), Workload::assurance);
        let of_agent = roll.is_agent(&candidate) || ancestors.iter().any(|ancestor| roll.is_agent(ancestor));
        Ok(Attested { candidate, workload, assurance, of_agent })
    }

    /// Whether its ancestors were looked at as closely as the registry in force wants.
    pub fn saw_enough(&self, subject: &Subject) -> bool {
        subject.evidence.ancestors_in_full || !self.gatherer.reads_ancestors_in_full()
    }

    /// Gathers anew about a process that is held by its pidfd.
    pub fn look_again(&self, pidfd: Pidfd, pid: u32) -> io::Result<Subject> {
        let (evidence, pins) = self.gatherer.pinned(pidfd, pid)?;
        Ok(Subject { evidence, pins })
    }

    /// Gathers about whatever process has this number now.
    pub fn by_pid(&self, pid: u32) -> io::Result<Subject> {
        let (evidence, pins) = self.gatherer.by_pid(pid)?;
        Ok(Subject { evidence, pins })
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

    fn measure(&self, subject: &mut Candidate, pins: &Pins, roll: &Roll) -> Result<(), Refusal> {
        if !roll.wants_hash_of(subject) {
            return Ok(());
        }
        let Some(exe) = &pins.exe else { return Ok(()) };
        let hash = self
            .hashes
            .of(exe, subject.facts.uid)
            .map_err(|error| Refusal::new(Code::ATTESTATION_FAILED).detail(format!("measuring the executable: {error}")))?;
        let mut facts = subject.facts.clone();
        if let Some(exe) = &mut facts.exe {
            exe.sha256 = Some(hash);
        }
        *subject = roll.candidate(facts);
        Ok(())
    }

    /// The warm check, right before bytes leave: peer and subject are the same processes with the same ids and memory maps. The
    /// executable is compared when a lease is issued and by the sweep.
    pub fn still(&self, peer: &Peer) -> Result<(), Refusal> {
        self.gatherer.still_pinned(&peer.own.pins).map_err(refusal_for)?;
        match &peer.parent {
            Some(parent) => self.gatherer.still_pinned(&parent.pins).map_err(refusal_for),
            None => Ok(()),
        }
    }

    /// The same for issuing, which also compares the executable and looks for a tracer.
    pub fn still_for_issue(&self, peer: &Peer) -> Result<(), Refusal> {
        for subject in std::iter::once(&peer.own).chain(&peer.parent) {
            let traced = subject.evidence.process.tracer != 0;
            self.gatherer.still_for_issue(&subject.pins, traced).map_err(refusal_for)?;
        }
        Ok(())
    }
}

fn refusal_for(changed: Changed) -> Refusal {
    Refusal::new(match changed {
        Changed::Gone => Code::PEER_GONE,
        Changed::Credentials => Code::CREDENTIALS_CHANGED,
        Changed::Program => Code::PROGRAM_CHANGED,
    })
}

impl Peer {
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

    /// Pinned at connect, or proved by the nonce.
    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Ordering::Acquire)
    }
}
