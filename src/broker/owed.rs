//! Endings that the record lacks, because the log took nothing when they happened: they are put on it as soon as it does.
//!
//! Those that a stop leaves are found by the next start, in the journal (`revive`). While the log takes nothing, nothing is issued, so
//! there are never more than there were leases.

use super::Broker;
use crate::audit::{Event, Need};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

/// Until it is tried again.
const AGAIN: Duration = Duration::from_millis(500);

/// What is owed to the record, oldest first.
#[derive(Default)]
pub(super) struct Owed(Mutex<Events>);

#[derive(Default)]
struct Events {
    events: Vec<Event>,
    /// A task sees to it.
    seen_to: bool,
}

impl Owed {
    fn lock(&self) -> MutexGuard<'_, Events> {
        // Each step below is one call of the vector.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Broker {
    /// Endings go on even when the record cannot be written: a dead credential without a record is better than a live one. The record
    /// follows.
    pub(super) async fn on_record(self: &Arc<Self>, event: Event) {
        let Err(error) = self.audit.append(event.clone(), Need::Soon).await else { return };
        tracing::error!(%error, "an ending is not on the record yet");
        if crate::mutation!("record-owed") {
            return;
        }
        let mut owed = self.owed.lock();
        owed.events.push(event);
        if !std::mem::replace(&mut owed.seen_to, true) {
            tokio::spawn(self.clone().pay());
        }
    }

    async fn pay(self: Arc<Self>) {
        loop {
            tokio::time::sleep(AGAIN).await;
            let mut events = std::mem::take(&mut self.owed.lock().events).into_iter();
            let mut failed = None;
            for event in events.by_ref() {
                if self.audit.append(event.clone(), Need::Soon).await.is_err() {
                    failed = Some(event);
                    break;
                }
            }
            let mut owed = self.owed.lock();
            // What came meanwhile is younger.
            let left = failed.into_iter().chain(events).chain(std::mem::take(&mut owed.events)).collect();
            owed.events = left;
            if owed.events.is_empty() || self.closed.load(Ordering::Acquire) {
                owed.seen_to = false;
                return;
            }
        }
    }
}
