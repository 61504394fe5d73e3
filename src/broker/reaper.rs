//! Who is watched: holders that may die or become another program, and deadlines.

use super::{
    Broker,
    holder::{Bound, By},
};
use crate::{
    attest::{Pins, Subject, invocation_of, is_unseen},
    lease::{HolderGroup, HolderKey, Lease},
    model::{EndReason, ExecRule, HolderKind, LeaseId},
    sys::{GroupWatch, Pidfd},
};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::AbortHandle;

/// How long a unit or container may stand empty and still be the same: between a service's `ExecStartPre=` and its `ExecStart=`, or
/// while a pre-forking server replaces its last worker, nobody is in its control group for a moment.
const EMPTY_FOR: Duration = Duration::from_secs(2);

/// Holders that the sweep looks at in one go.
const SOME: usize = 64;

/// A process that dies loses its memory, and so its program, before it is seen to be gone; under load the kernel may take this long
/// between the two.
const DYING: Duration = Duration::from_millis(200);

/// Every holder of a live lease.
#[derive(Default)]
pub(super) struct Holders {
    watched: Mutex<HashMap<HolderKey, Watched>>,
    watches: AtomicU64,
}

struct Watched {
    watch: Watch,
    subject: Option<Arc<Subject>>,
    leases: HashSet<LeaseId>,
    task: AbortHandle,
    gone: bool,
}

/// One watch of a holder. A control group may be filled again after it was seen to empty: that is another watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Watch(u64);

impl Holders {
    fn lock(&self) -> MutexGuard<'_, HashMap<HolderKey, Watched>> {
        // A panic in between would leave a holder watched for too long, never too short.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a lease's holder from now on. One task waits for each holder, however many leases it has.
    pub(super) fn watch(&self, broker: &Arc<Broker>, lease: &Lease, bound: Bound) -> Watch {
        let key = lease.holder.key();
        let mut holders = self.lock();
        if let Some(watched) = holders.get_mut(&key).filter(|watched| !watched.gone) {
            watched.leases.insert(lease.id);
            return watched.watch;
        }
        let watch = Watch(self.watches.fetch_add(1, Ordering::Relaxed));
        let (broker, lost, by, holder) = (broker.clone(), key.clone(), bound.by.clone(), bound.holder.clone());
        let task = tokio::spawn(async move {
            match (&by, &holder.cgroup) {
                _ if crate::mutation!("holder-death") => std::future::pending().await,
                (By::Process(subject), _) => subject.pins.pidfd.exited().await,
                (By::Pidfd(pidfd), _) => pidfd.exited().await,
                (By::Group, Some(group)) => deserted(group).await,
                (By::Group, None) => {}
            }
            // First said, then acted upon: a pipeline that makes its lease live after this sees it.
            broker.reaper.lose(&broker, &lost, watch);
        });
        let leases = HashSet::from([lease.id]);
        let task = task.abort_handle();
        // Leases of an earlier watch are being ended already and need no other.
        holders.insert(key, Watched { watch, subject: bound.by.subject().cloned(), leases, task, gone: false });
        watch
    }

    /// The holder is gone: its leases end, all at once.
    fn lose(&self, broker: &Arc<Broker>, key: &HolderKey, watch: Watch) {
        let mut holders = self.lock();
        let Some(watched) = holders.get_mut(key).filter(|watched| watched.watch == watch) else { return };
        watched.gone = true;
        for id in watched.leases.iter().copied() {
            let _carried_through_by_itself = broker.begin_end(id, EndReason::HolderGone);
        }
    }

    /// One lease fewer.
    pub(super) fn release(&self, lease: &Lease) {
        let key = lease.holder.key();
        let mut holders = self.lock();
        if let Some(watched) = holders.get_mut(&key) {
            watched.leases.remove(&lease.id);
            if watched.leases.is_empty() {
                watched.task.abort();
                holders.remove(&key);
            }
        }
    }

    /// Whether the holder was seen to go. Asked after a lease became live, this leaves no gap: had the holder gone before, its end would
    /// have missed the lease; if it goes later, its end finds it.
    pub(super) fn is_gone(&self, key: &HolderKey, watch: Watch) -> bool {
        self.lock().get(key).is_none_or(|watched| watched.gone || watched.watch != watch)
    }

    /// The process behind a holder.
    pub(super) fn subject(&self, key: &HolderKey) -> Option<Arc<Subject>> {
        self.lock().get(key)?.subject.clone()
    }

    fn subjects(&self) -> Vec<(HolderKey, Arc<Subject>)> {
        self.lock().iter().filter_map(|(key, watched)| Some((key.clone(), watched.subject.clone()?))).collect()
    }

    /// What is known about a holder from now on.
    pub(super) fn replace(&self, key: &HolderKey, subject: Subject) -> Arc<Subject> {
        let subject = Arc::new(subject);
        if let Some(watched) = self.lock().get_mut(key) {
            watched.subject = Some(subject.clone());
        }
        subject
    }

    /// How many holders are watched.
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }
}

/// Returns when nobody of this group is left, and nobody came in time who belongs to the same run of its unit.
async fn deserted(group: &HolderGroup) {
    let Ok(watch) = GroupWatch::open(&group.path, group.id) else { return };
    loop {
        watch.emptied().await;
        if !watch.refilled(EMPTY_FOR).await || invocation_of(group.path.as_bytes()) != group.invocation {
            return;
        }
    }
}

/// Why leases end whose holder is not what it was: it became something else, or it was dying when it was looked at.
pub(super) async fn changed_or_gone(holder: &Pidfd) -> EndReason {
    match tokio::time::timeout(DYING, holder.exited()).await {
        Ok(()) => EndReason::HolderGone,
        Err(_) => EndReason::HolderChanged,
    }
}

impl Broker {
    /// Ends what is due, for ever. Deadlines are on `CLOCK_BOOTTIME`; timers do not count suspend, so it looks at least every second.
    pub(super) async fn keep_deadlines(self: Arc<Self>) {
        loop {
            let now = self.clock.boot();
            for id in self.leases.due(now) {
                let _carried_through_by_itself = self.begin_end(id, EndReason::Expired);
            }
            let wait = self.leases.next_deadline().map_or(Duration::from_secs(3600), |at| Duration::from_micros(at.since(now)));
            let wait = wait.clamp(Duration::from_millis(1), Duration::from_secs(1));
            if self.leases.next_deadline().is_none() {
                self.leases.changed().await;
            } else {
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.leases.changed() => {}
                }
            }
        }
    }

    /// Looks at every holder's program, for ever: an exec raises no event.
    pub(super) async fn sweep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_micros(self.settings.sweep_micros)).await;
            for some in self.reaper.subjects().chunks(SOME) {
                let pins: Vec<&Pins> = some.iter().map(|(_, subject)| &subject.pins).collect();
                // While nobody answers, the pins alone tell; what they do not tell is found when somebody does.
                let looks = self.attestor.source().look(&pins).await.unwrap_or_default();
                for (at, (key, subject)) in some.iter().enumerate() {
                    let pins = &subject.pins;
                    let same = pins.still().is_ok() && looks.get(at).copied().flatten().is_none_or(|look| pins.agrees(&look).is_ok());
                    if !same && pins.pidfd.is_alive() {
                        self.look_again(key, subject).await;
                    }
                }
                // Thousands of holders must not keep a worker from its requests.
                tokio::task::yield_now().await;
            }
        }
    }

    /// The holder became another program: its leases live if it is the same identity at the same assurance and none asks for more.
    async fn look_again(self: &Arc<Self>, key: &HolderKey, before: &Subject) {
        let governance = self.governance();
        let (roll, pid) = (&governance.roll, before.evidence.process.pid);
        let now = match before.pins.pidfd.try_clone() {
            Ok(pidfd) => self.attestor.look_again(pidfd, pid, roll).await,
            Err(error) => Err(error),
        };
        // That nobody can look says nothing about the process: its leases are kept until somebody can. None is read meanwhile, for the
        // pins say that it changed.
        if now.as_ref().is_err_and(is_unseen) {
            return;
        }
        let (now, leases) = (now.ok(), self.leases.of_holder(key));
        let workload = now.as_ref().and_then(|now| self.attestor.examine_process(now, roll).ok()?.workload.ok());
        let (kept, lost): (Vec<_>, Vec<_>) = leases.iter().partition(|lease| {
            workload.as_ref().is_some_and(|workload| {
                let row = workload.identity();
                // An ancestor that holds is a shell or a supervisor: it need not be the identity that asked, only alive.
                lease.holder.kind == HolderKind::Ancestor
                    || (row.name == lease.identity && workload.assurance() >= lease.assurance && row.on_exec == ExecRule::Reattest)
            })
        });
        let lost: Vec<LeaseId> = lost.into_iter().map(|lease| lease.id).collect();
        match before.pins.pidfd.try_clone() {
            // The sweep goes on. None of the values is read meanwhile: the pins say that the holder changed.
            Ok(pidfd) if now.as_ref().is_none_or(|now| now.evidence.process.exe.is_none()) => {
                let broker = self.clone();
                tokio::spawn(async move {
                    let reason = changed_or_gone(&pidfd).await;
                    lost.into_iter().for_each(|id| drop(broker.begin_end(id, reason)));
                });
            }
            _ => lost.into_iter().for_each(|id| drop(self.begin_end(id, EndReason::HolderChanged))),
        }
        if let (Some(now), false) = (now, kept.is_empty()) {
            self.reaper.replace(key, now);
        }
    }
}
