//! After a start: reservations settled, holders bound again, endings carried on.
//!
//! A holder is bound again only if it is provably the same process (pidfs handle or inode, within the same boot), which is found out at
//! once, and a full attestation still makes it the same identity, which is found out beside the serving (`unbound`). Whatever is not
//! certain ends.

use super::{
    Broker,
    holder::{Bound, By},
};
use crate::{
    attest::{Subject, Unavailable, Workload},
    audit::{Books, Ended, Event, Kind, Outcome},
    lease::{Holder, HolderKey, Lease, Recovered, State},
    model::{EndReason, EndResult, ExecRule, HolderKind, LeaseId},
    sys::{Found, GroupWatch, Pidfd, is_shortage},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

/// At a start, how long each try to reach the attestor waits, and the pause after it.
const LOOK_FOR_ATTESTOR: Duration = Duration::from_secs(1);
const BETWEEN_TRIES: Duration = Duration::from_millis(20);
/// While the host is short of descriptors or memory: ten seconds in all.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(100);
const SHORTAGE_TRIES: u32 = 100;

/// What became of what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revived {
    /// Reservations that were settled or are being settled, and issues on the record that do not live and had no end on it.
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
    ///
    /// `books` is what the end of the record says: what is over there is over, whatever the journal says.
    pub async fn start(self: &Arc<Self>, recovered: Recovered, books: &Books) -> Revived {
        let mut revived = Revived::default();
        if self.read_only.is_some() {
            // The leases are another machine's: to end one here would kill a credential that is in use there.
            return revived;
        }
        // Before anything is ended here: whatever that ends would be missing too, and be ended on the record twice.
        let missing: Vec<LeaseId> = books.unended().filter(|id| self.leases.find(*id).is_none()).collect();
        let mut holders: HashMap<HolderKey, Vec<Arc<Lease>>> = HashMap::new();
        let now = self.clock.boot();
        for lease in recovered.given_up {
            revived.lost += 1;
            drop(self.begin_end(lease.id, EndReason::Operator));
        }
        // An operator ended one lease of a credential and not yet the others.
        let is_withdrawn = |lease: &&Arc<Lease>| matches!(lease.state, State::Ending { reason: EndReason::Operator, .. });
        let withdrawn: HashSet<LeaseId> = recovered.ending.iter().filter(is_withdrawn).map(|lease| lease.credential()).collect();
        for lease in recovered.live {
            if withdrawn.contains(&lease.credential()) {
                revived.lost += 1;
                drop(self.begin_end(lease.id, EndReason::Operator));
                continue;
            }
            // The power went, or an older copy was put back, before the journal had its end on the disk.
            if let Some(reason) = books.end_of(lease.id).filter(|_| !crate::mutation!("ended-on-record")) {
                revived.lost += 1;
                drop(self.begin_end(lease.id, reason));
                continue;
            }
            // Nobody was answered: the record comes first.
            if books.lacks(lease.id, lease.issued) && !crate::mutation!("unrecorded") {
                revived.settled += 1;
                drop(self.begin_end(lease.id, EndReason::Unfinished));
                continue;
            }
            // Further away than it can have been granted: the clock is not the one that it was made by, such as that of another time
            // namespace. How long it has lived is not known.
            if lease.holder.boot == self.settings.boot && lease.deadline > now.plus(lease.ttl) {
                revived.lost += 1;
                drop(self.begin_end(lease.id, EndReason::Expired));
                continue;
            }
            holders.entry(lease.holder.key()).or_default().push(lease);
        }
        for (key, leases) in holders {
            let bound = match leases.first() {
                Some(lease) => self.find_again(&lease.holder).await,
                None => None,
            };
            let Some(bound) = bound else {
                revived.lost += leases.len();
                leases.iter().for_each(|lease| drop(self.begin_end(lease.id, EndReason::HolderGone)));
                continue;
            };
            revived.bound += leases.len();
            for lease in &leases {
                // A holder that goes from now on is seen: the lease is live.
                let _watch = self.reaper.watch(self, lease, bound.clone());
            }
            if let By::Pidfd(pidfd) = bound.by {
                self.unbound.add(key, leases, pidfd);
            }
        }
        for lease in recovered.reserved {
            revived.settled += 1;
            drop(self.begin_end(lease.id, EndReason::Unfinished));
        }
        for lease in recovered.ending {
            match lease.state {
                State::Ending { tries, irrevocable: false, .. } => {
                    revived.resumed += 1;
                    let broker = self.clone();
                    tokio::spawn(async move { broker.resume(lease.id, tries).await });
                }
                // Why is not known any more: the next try tells.
                State::Ending { irrevocable: true, .. } => self.overdue.add(&lease.engine, lease.id, super::overdue::Why::Away),
                State::Reserved | State::Live => {}
            }
        }
        revived.settled += self.close_books(missing).await;
        let (broker, governance) = (self.clone(), self.governance());
        tokio::spawn(async move {
            // The files may have changed while the daemon was down.
            broker.decide_again(&governance).await;
        });
        tokio::spawn(self.clone().reconcile());
        tokio::spawn(self.clone().keep_deadlines());
        tokio::spawn(self.clone().sweep());
        tokio::spawn(self.clone().keep_rotating());
        tokio::spawn(self.clone().keep_trying());
        tokio::spawn(self.clone().keep_tidy());
        revived
    }

    /// Ends on the record what was issued on the record and did not live when this start began. Mostly it is in no journal: where nothing exists upstream, record
    /// and journal are written at the same time, and the daemon may die, or the power go, between the two. Nobody was answered then, or no
    /// holder is left. Or it ended while the log took no record.
    async fn close_books(self: &Arc<Self>, missing: Vec<LeaseId>) -> usize {
        let mut closed = 0;
        for id in missing {
            closed += 1;
            let known = self.leases.find_ended(id);
            if known.is_some() && crate::mutation!("books-closed") {
                continue;
            }
            let (reason, result, at, detail) = match &known {
                Some(known) => (known.reason, known.result, known.at, "ended while the log took no record"),
                None => (EndReason::Unfinished, EndResult::Lapsed, self.clock.wall(), "issued on the record and in no journal"),
            };
            let ended = Ended { reason, result, asked: at, ended: at, dead: None, attempts: 1, proof: None };
            self.on_record(Event::new(Kind::End).lease(id).ended(ended).outcome(Outcome::Done).detail(detail)).await;
        }
        closed
    }

    /// The very process or group that held, if it lives.
    async fn find_again(&self, holder: &Arc<Holder>) -> Option<Bound> {
        (holder.boot == self.settings.boot).then_some(())?;
        let by = match (holder.kind, &holder.cgroup) {
            (HolderKind::Unit | HolderKind::Container, Some(group)) => {
                GroupWatch::open(&group.path, group.id).is_ok_and(|watch| watch.is_populated()).then_some(By::Group)?
            }
            _ => By::Pidfd(Arc::new(self.find(holder).await?)),
        };
        Some(Bound { holder: holder.clone(), by })
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
        let mut left = SHORTAGE_TRIES;
        let pidfd = loop {
            match Pidfd::open(holder.pid) {
                Err(error) if is_shortage(&error) && left > 0 => {
                    left -= 1;
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                opened => break opened.ok()?,
            }
        };
        // A pidfs inode is never used twice in one boot; without one nothing tells a reused number apart.
        (holder.inode.is_some() && pidfd.inode() == holder.inode && pidfd.is_alive()).then_some(pidfd)
    }

    async fn wait_for_attestor(&self) {
        self.attestor.source().reached(LOOK_FOR_ATTESTOR).await;
        tokio::time::sleep(BETWEEN_TRIES).await;
    }

    /// What a process is now; `None` when it is gone. That nobody can look at it is no reason to end a lease: that is waited for.
    pub(super) async fn seen_again(&self, pidfd: &Pidfd, pid: u32) -> Option<Subject> {
        let mut left = SHORTAGE_TRIES;
        loop {
            let seen = match pidfd.try_clone() {
                Ok(pidfd) => self.attestor.look_again(pidfd, pid, &self.governance().roll).await,
                Err(error) => Err(error),
            };
            match seen {
                Ok(subject) => return Some(subject),
                Err(error) if Unavailable::is(&error) => self.wait_for_attestor().await,
                // Nor that this host is short of something. Not for ever: what is not certain ends.
                Err(error) if is_shortage(&error) && left > 0 => {
                    left -= 1;
                    tokio::time::sleep(SHORTAGE_PAUSE).await;
                }
                Err(_) => return None,
            }
        }
    }

    /// Who a process is now, if it is a registered identity.
    pub(super) fn workload_of(&self, subject: &Subject) -> Option<Workload> {
        self.attestor.examine_process(subject, &self.governance().roll).ok()?.workload.ok()
    }

    /// Whether a lease's holder is what it was; `workload` is who it is now.
    pub(super) fn is_as_before(&self, lease: &Lease, subject: &Subject, workload: Option<&Workload>) -> bool {
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
        // Our client as holder (`clav exec`) spoke for its parent; that it is the same process with the same program must do.
        let same_identity = self.attestor.is_client(subject)
            || workload.is_some_and(|workload| workload.identity().name == lease.identity && workload.assurance() >= lease.assurance);
        // An identity whose leases live through an exec may run another program now; the attestation above covers it.
        let may_change = !self.attestor.is_client(subject)
            && self.governance().roll.registry().find(&lease.identity).is_some_and(|row| row.on_exec == ExecRule::Reattest);
        same_process && (same_program || may_change) && same_identity
    }
}
