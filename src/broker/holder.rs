//! What a lease is bound to, and who may read it.

use super::{Broker, Stop};
use crate::{
    attest::{Facts, Peer, ProcessEvidence, Subject, Workload, is_unseen},
    intent::HolderChoice,
    lease::{Holder, HolderGroup, HolderKey, Lease},
    model::{Code, HolderKind, Refusal},
    sys::Pidfd,
};
use std::{collections::HashSet, sync::Arc};

/// A holder with what keeps it from being taken for another.
#[derive(Clone)]
pub(super) struct Bound {
    pub(super) holder: Arc<Holder>,
    pub(super) by: By,
}

/// What is watched.
#[derive(Clone)]
pub(super) enum By {
    /// A process that was attested.
    Process(Arc<Subject>),
    /// A process from before a restart that was not attested again yet.
    Pidfd(Arc<Pidfd>),
    /// A control group.
    Group,
}

impl By {
    pub(super) fn subject(&self) -> Option<&Arc<Subject>> {
        match self {
            By::Process(subject) => Some(subject),
            By::Pidfd(_) | By::Group => None,
        }
    }
}

impl Broker {
    /// Chooses and pins the holder.
    ///
    /// By default it is the peer itself; for our client, which is gone in a moment, the nearest unit, container or session leader of the
    /// process that ran it.
    pub(super) async fn bind(&self, peer: &Peer, workload: &Workload, choice: Option<HolderChoice>) -> Result<Bound, Stop> {
        let facts = workload.facts();
        let choice = match choice {
            Some(choice) => choice,
            None if !peer.is_client() => HolderChoice::Process,
            None if in_system_service(facts) => HolderChoice::Unit,
            None if facts.container.is_some() => HolderChoice::Container,
            None => HolderChoice::Ancestor,
        };
        match choice {
            HolderChoice::Process => Ok(self.process(HolderKind::Process, peer.subject().clone())),
            HolderChoice::Client if peer.is_client() => Ok(self.process(HolderKind::Process, peer.own().clone())),
            HolderChoice::Client => Err(Refusal::field("holder", "can be client only for the configured client program").into()),
            HolderChoice::Ancestor => self.session_leader(peer.subject()).await,
            HolderChoice::Unit if in_system_service(facts) => self.group(HolderKind::Unit, peer.subject(), facts),
            HolderChoice::Unit => {
                Err(Refusal::field("holder", "cannot be a unit: the process is in no service of the system manager").into())
            }
            HolderChoice::Container if facts.container.is_some() => self.group(HolderKind::Container, peer.subject(), facts),
            HolderChoice::Container => Err(Refusal::field("holder", "cannot be a container: the process is in none").into()),
        }
    }

    /// Every holder that the peer could name, and so whatever it may use that is or will be held.
    pub(super) async fn holders_of(&self, peer: &Peer, workload: &Workload) -> HashSet<HolderKey> {
        let mut keys = HashSet::new();
        for choice in [HolderChoice::Process, HolderChoice::Client, HolderChoice::Ancestor, HolderChoice::Unit, HolderChoice::Container] {
            // What it has not got it cannot name.
            if let Ok(bound) = self.bind(peer, workload, Some(choice)).await {
                keys.insert(bound.holder.key());
            }
        }
        keys
    }

    pub(super) fn process(&self, kind: HolderKind, subject: Arc<Subject>) -> Bound {
        let process = &subject.evidence.process;
        let holder = self.describe(kind, process, &subject.pins.pidfd, None);
        Bound { holder: self.leases.share(holder), by: By::Process(subject) }
    }

    fn describe(&self, kind: HolderKind, process: &ProcessEvidence, pidfd: &Pidfd, cgroup: Option<HolderGroup>) -> Holder {
        let printable = |path: &[u8]| crate::sys::printable(path);
        Holder {
            kind,
            pid: process.pid,
            start: process.start,
            inode: pidfd.inode(),
            handle: if self.attestor.kernel().pidfd_handle { pidfd.handle() } else { None },
            boot: self.settings.boot.clone(),
            cgroup,
            exe: process.exe.as_ref().map(|exe| (printable(&exe.path), exe.id.dev, exe.id.ino)),
            uid: process.uids[1],
        }
    }

    /// The process at or above the subject that leads its session; where that is another user's (`su`, `runuser`, a daemon that changed its
    /// uid) or has gone (a job in the background of a shell that was left), the outermost one of the subject's own user in that session:
    /// another user's shell must not keep its lease alive, nor a subshell that is gone in a moment end it.
    async fn session_leader(&self, subject: &Arc<Subject>) -> Result<Bound, Stop> {
        let gone = || Stop::from(Refusal::new(Code::PEER_GONE));
        let session = subject.evidence.process.session;
        if session == subject.evidence.process.pid {
            return Ok(self.process(HolderKind::Ancestor, subject.clone()));
        }
        // Only a process that was attested as an ancestor will do: a leader that is none has gone, and its number may be another's.
        let uid = subject.evidence.process.uids[1];
        let is_own = |a: &&ProcessEvidence| a.uids[1] == uid && a.session == session;
        let own: Vec<&ProcessEvidence> = subject.evidence.ancestors.iter().take_while(is_own).collect();
        let Some(known) = own.iter().find(|a| a.pid == session).or(own.last()) else {
            return Ok(self.process(HolderKind::Ancestor, subject.clone()));
        };
        let leader = self.attestor.by_pid(known.pid, &self.governance().roll).await.map_err(|error| gone_or_unseen(&error))?;
        // The very process that was attested as an ancestor, and not a later one of its number, in the session that it was in.
        if (leader.evidence.process.start, leader.evidence.process.session) != (known.start, session) {
            return Err(gone());
        }
        Ok(self.process(HolderKind::Ancestor, Arc::new(leader)))
    }

    fn group(&self, kind: HolderKind, subject: &Arc<Subject>, facts: &Facts) -> Result<Bound, Stop> {
        let path = facts.cgroup.as_deref().and_then(|path| root_of_group(kind, path, facts));
        let path = path.ok_or_else(|| Stop::from(Refusal::field("holder", "has no control group of its own")))?;
        let invocation = facts.unit.as_ref().and_then(|unit| unit.invocation.clone());
        let id = crate::sys::GroupWatch::id(&path).map_err(|_| Stop::from(Refusal::new(Code::PEER_GONE)))?;
        let group = HolderGroup { path, id, invocation };
        let holder = self.describe(kind, &subject.evidence.process, &subject.pins.pidfd, Some(group));
        Ok(Bound { holder: self.leases.share(holder), by: By::Group })
    }

    /// Whether the peer may have this lease's value and ask about it: its holder, our client speaking for it, a descendant of an
    /// ancestor that holds, or a process of the unit or container that holds. Always the same identity.
    pub(super) fn may_use(&self, peer: &Peer, workload: &Workload, lease: &Lease) -> bool {
        if workload.identity().name != lease.identity {
            return false;
        }
        let holder = &lease.holder;
        let is = |p: &ProcessEvidence, pidfd: Option<&Pidfd>| match (holder.inode, pidfd.and_then(Pidfd::inode)) {
            (Some(held), Some(asking)) => held == asking,
            _ => (p.pid, p.start) == (holder.pid, holder.start),
        };
        let subject = peer.subject();
        let is_holder =
            is(&subject.evidence.process, Some(&subject.pins.pidfd)) || is(&peer.own().evidence.process, Some(&peer.own().pins.pidfd));
        match (holder.kind, &holder.cgroup) {
            (HolderKind::Process, _) => is_holder || crate::mutation!("not-holder"),
            (HolderKind::Ancestor, _) => is_holder || subject.evidence.ancestors.iter().any(|a| is(a, None)),
            (HolderKind::Unit | HolderKind::Container, Some(group)) => {
                let within = workload
                    .facts()
                    .cgroup
                    .as_ref()
                    .is_some_and(|path| *path == group.path || path.starts_with(&format!("{}/", group.path)));
                let invocation = workload.facts().unit.as_ref().and_then(|unit| unit.invocation.clone());
                within && invocation == group.invocation && crate::sys::GroupWatch::id(&group.path).is_ok_and(|id| id == group.id)
            }
            (HolderKind::Unit | HolderKind::Container, None) => false,
        }
    }
}

/// Why a process could not be looked at again: its doing, or that of whoever looks.
fn gone_or_unseen(error: &std::io::Error) -> Stop {
    let code = if is_unseen(error) { Code::ATTESTATION_FAILED } else { Code::PEER_GONE };
    Refusal::new(code).detail(error.to_string()).into()
}

fn in_system_service(facts: &Facts) -> bool {
    let unit = facts.unit.as_ref().filter(|unit| unit.system && unit.name.ends_with(".service"));
    unit.is_some_and(|unit| !unit.name.starts_with("user@"))
}

/// The part of the path that stands for the whole unit or container: what lies below it was made by those inside.
fn root_of_group(kind: HolderKind, path: &str, facts: &Facts) -> Option<String> {
    let mark = match kind {
        HolderKind::Unit => facts.unit.as_ref().map(|unit| unit.name.as_str())?,
        _ => facts.container.as_deref()?,
    };
    let mut end = 0;
    for part in path.split('/').skip(1) {
        end += part.len() + 1;
        if part.contains(mark) {
            return Some(path[..end].to_owned());
        }
    }
    None
}
