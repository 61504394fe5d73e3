//! Holders from before a restart that have not been looked at again yet.
//!
//! Each is watched from the first moment, so that its death is seen. What it is now is found out beside the serving, once for each holder
//! however many leases it has, and before anything of its leases is given out again: who asks first waits for it.

use super::{Broker, reaper::changed_or_gone};
use crate::{
    lease::{HolderKey, Lease},
    model::EndReason,
    sys::Pidfd,
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::OnceCell;

/// Looked at again at a time.
const AT_A_TIME: usize = 8;

/// One holder with its leases.
pub(super) struct Holding {
    pub(super) leases: Vec<Arc<Lease>>,
    pub(super) pidfd: Arc<Pidfd>,
    looked: OnceCell<()>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Unbound {
    holdings: Mutex<HashMap<HolderKey, Arc<Holding>>>,
    count: AtomicUsize,
}

impl Unbound {
    fn lock(&self) -> MutexGuard<'_, HashMap<HolderKey, Arc<Holding>>> {
        // Each step below is one call of the map.
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, key: HolderKey, leases: Vec<Arc<Lease>>, pidfd: Arc<Pidfd>) {
        let mut holdings = self.lock();
        holdings.insert(key, Arc::new(Holding { leases, pidfd, looked: OnceCell::new() }));
        self.count.store(holdings.len(), Ordering::Release);
    }

    /// Whether every holder was looked at, as is so but for the first moments.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn find(&self, key: &HolderKey) -> Option<Arc<Holding>> {
        self.lock().get(key).cloned()
    }

    fn remove(&self, key: &HolderKey) {
        let mut holdings = self.lock();
        holdings.remove(key);
        self.count.store(holdings.len(), Ordering::Release);
    }

    fn keys(&self) -> Vec<HolderKey> {
        self.lock().keys().cloned().collect()
    }
}

impl Broker {
    /// Looks at every holder that was not looked at yet, a few at a time. Returns when none is left.
    pub(super) async fn bind_all(self: &Arc<Self>) {
        use futures_util::StreamExt;
        let keys = futures_util::stream::iter(self.unbound.keys());
        keys.for_each_concurrent(AT_A_TIME, |key| async move {
            self.bound(&key).await;
            // Thousands of holders must not keep a worker from its requests.
            tokio::task::yield_now().await;
        })
        .await;
    }

    /// Returns when this holder was looked at since the start; at once when it was.
    pub(super) async fn bound(self: &Arc<Self>, key: &HolderKey) {
        if self.unbound.is_empty() {
            return;
        }
        let Some(holding) = self.unbound.find(key) else { return };
        holding.looked.get_or_init(|| self.look_at(key, &holding)).await;
        self.unbound.remove(key);
    }

    /// Its leases live on if it is provably what it was; all others end.
    async fn look_at(self: &Arc<Self>, key: &HolderKey, holding: &Holding) {
        let pid = holding.leases.first().map_or(0, |lease| lease.holder.pid);
        let Some(subject) = self.seen_again(&holding.pidfd, pid).await else {
            return holding.leases.iter().for_each(|lease| drop(self.begin_end(lease.id, EndReason::HolderGone)));
        };
        let workload = self.workload_of(&subject);
        let (same, changed): (Vec<_>, Vec<_>) =
            holding.leases.iter().partition(|lease| self.is_as_before(lease, &subject, workload.as_ref()));
        if !changed.is_empty() {
            let reason = match subject.evidence.process.exe {
                Some(_) => EndReason::HolderChanged,
                None => changed_or_gone(&holding.pidfd).await,
            };
            changed.into_iter().for_each(|lease| drop(self.begin_end(lease.id, reason)));
        }
        if !same.is_empty() {
            self.reaper.replace(key, subject);
        }
    }
}
