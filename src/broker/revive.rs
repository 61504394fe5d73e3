//! After a start: reservations settled, holders bound again, endings carried on.
//!
//! A holder is bound again only if it is provably the same process (pidfs handle or inode, within the same boot) and a full attestation
//! still makes it the same identity. Whatever is not certain ends.

use super::{Broker, holder::Bound};
use crate::{
    attest::{Subject, Unavailable},
    lease::{Holder, Lease, Recovered, State},
    model::{EndReason, ExecRule, HolderKind},
    sys::{Found, GroupWatch, Pidfd},
};
use std::{sync::Arc, time::Duration};

/// At a start, how long each try to reach the attestor waits, and the pause after it.
const LOOK_FOR_ATTESTOR: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);

/// What became of what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// Reservations that were settled or are being settled.
    pub settled: usize,
    /// Leases whose holders live on.
    pub bound: usize,
    /// Leases that end because their holder is gone or another.
    pub lost: usize,
    /// Endings carried on.
    pub resumed: usize,
}

impl Broker {
    /// Takes up what the journal held, then begins to watch. Call once, before any connection is accepted.
    pub async fn start(self: &Arc<Self>, recovered: Recovered) -> Revived {
        let mut revived = Revived::default();
        if self.read_only.is_some() {
            // The leases are another machine's: to end one here would kill a credential that is in use there.
            return revived;
        }
        for lease in recovered.live {
            match self.bind_again(&lease).await {
                Ok(bound) => {
                    // A holder that goes from now on is seen: the lease is live.
                    let _watch = self.reaper.watch(self, &lease, bound);
                    revived.bound += 1;
                }
                Err(reason) => {
                    revived.lost += 1;
                    self.end_in_background(&lease, reason);
                }
            }
        }
        for lease in recovered.reserved {
            revived.settled += 1;
            self.end_in_background(&lease, EndReason::Unfinished);
        }
        for lease in recovered.ending {
            if let State::Ending { tries, irrevocable: false, .. } = lease.state {
                revived.resumed += 1;
                let broker = self.clone();
                tokio::spawn(async move { broker.resume(lease.id, tries).await });
            }
        }
        // The files may have changed while the daemon was down.
        let (broker, governance) = (self.clone(), self.governance());
        tokio::spawn(async move { broker.decide_again(&governance).await });
        tokio::spawn(self.clone().reconcile());
        tokio::spawn(self.clone().keep_deadlines());
        tokio::spawn(self.clone().sweep());
        revived
    }

    fn end_in_background(self: &Arc<Self>, lease: &Arc<Lease>, reason: EndReason) {
        let (broker, id) = (self.clone(), lease.id);
        tokio::spawn(async move { broker.end(id, reason).await });
    }

    async fn bind_again(&self, lease: &Lease) -> Result<Bound, EndReason> {
        let holder = &lease.holder;
        if holder.boot != self.settings.boot {
            return Err(EndReason::HolderGone);
        }
        if let (HolderKind::Unit | HolderKind::Container, Some(group)) = (holder.kind, &holder.cgroup) {
            let populated = GroupWatch::open(&group.path, group.id).is_ok_and(|watch| watch.is_populated());
            return if populated { Ok(Bound { holder: holder.clone(), subject: None }) } else { Err(EndReason::HolderGone) };
        }
        let pidfd = self.find(holder).await.ok_or(EndReason::HolderGone)?;
        let subject = self.seen_again(&pidfd, holder.pid).await.ok_or(EndReason::HolderGone)?;
        if !self.is_as_before(lease, &subject) {
            return Err(EndReason::HolderChanged);
        }
        Ok(Bound { holder: holder.clone(), subject: Some(Arc::new(subject)) })
    }

    /// The very process that held, if it lives. That nobody can look for it is no reason to end a lease: that is waited for.
    async fn find(&self, holder: &Holder) -> Option<Pidfd> {
        let mut found = match holder.handle {
            Some(handle) => self.attestor.source().find(handle).await,
            None => Ok(Found::Unsupported),
        };
        while let (Some(handle), Err(error)) = (holder.handle, &found) {
            if !Unavailable::is(error) {
                return None;
            }
            self.wait_for_attestor().await;
            found = self.attestor.source().find(handle).await;
        }
        match found.ok()? {
            Found::Alive(pidfd) => return Some(pidfd),
            Found::Gone => return None,
            Found::Unsupported => {}
        }
        let pidfd = Pidfd::open(holder.pid).ok()?;
        // A pidfs inode is never used twice in one boot; without one nothing tells a reused number apart.
        (holder.inode.is_some() && pidfd.inode() == holder.inode && pidfd.is_alive()).then_some(pidfd)
    }

    async fn wait_for_attestor(&self) {
        self.attestor.source().reached(LOOK_FOR_ATTESTOR).await;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }

    /// What a process is now; `None` when it is gone. That nobody can look at it is no reason to end a lease: that is waited for.
    async fn seen_again(&self, pidfd: &Pidfd, pid: u32) -> Option<Subject> {
        loop {
            match self.attestor.look_again(pidfd.try_clone().ok()?, pid, &self.governance().roll).await {
                Ok(subject) => return Some(subject),
                Err(error) if Unavailable::is(&error) => {
                    self.wait_for_attestor().await;
                }
                Err(_) => return None,
            }
        }
    }

    fn is_as_before(&self, lease: &Lease, subject: &Subject) -> bool {
        let process = &subject.evidence.process;
        let same_program = match (&lease.holder.exe, &process.exe) {
            (Some((_, dev, ino)), Some(exe)) => (*dev, *ino) == (exe.id.dev, exe.id.ino),
            (None, None) => true,
            _ => false,
        };
        let same_process = (process.pid, process.start, process.uids[1]) == (lease.holder.pid, lease.holder.start, lease.holder.uid);
        if lease.holder.kind == HolderKind::Ancestor {
            return same_process;
        }
        let workload = self.attestor.examine_process(subject, &self.governance().roll).ok().and_then(|attested| attested.workload.ok());
        // Our client as holder (`clav exec`) spoke for its parent; that it is the same process with the same program must do.
        let same_identity = self.attestor.is_client(subject)
            || workload.is_some_and(|workload| workload.identity().name == lease.identity && workload.assurance() >= lease.assurance);
        // An identity whose leases live through an exec may run another program now; the attestation above covers it.
        let may_change = !self.attestor.is_client(subject)
            && self.governance().roll.registry().find(&lease.identity).is_some_and(|row| row.on_exec == ExecRule::Reattest);
        same_process && (same_program || may_change) && same_identity
    }
}
