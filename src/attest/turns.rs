//! How many fresh connections of one uid are looked at together: somebody whose processes take long to look at (endless tables of mounts)
//! keeps waiting his own, and leaves the attestor's other threads to others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Half of the threads that answer on a connection to the attestor.
const EACH: usize = super::serve::THREADS / 2;
/// Uids of which something is remembered, before those that wait for nothing are forgotten.
const MOST: usize = 1024;

#[derive(Default)]
pub(super) struct Turns(Mutex<HashMap<u32, Arc<Semaphore>>>);

impl Turns {
    /// Waits for a turn, first come, first served within a uid. `None` never happens while this lives.
    pub(super) async fn take(&self, uid: u32) -> Option<OwnedSemaphorePermit> {
        let of_uid = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MOST {
                // Whoever is being looked at, or waits, holds one more.
                all.retain(|_, turns| Arc::strong_count(turns) > 1);
            }
            all.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(EACH))).clone()
        };
        of_uid.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn one_uid_waits_for_itself_and_for_nobody_else() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..EACH {
            held.push(turns.take(1).await.unwrap());
        }
        assert!(turns.take(1).now_or_never().is_none(), "all of its turns are taken");
        assert!(turns.take(2).now_or_never().is_some(), "another's are not");
        held.pop();
        assert!(turns.take(1).now_or_never().is_some());
        for uid in 10..10 + 2 * MOST as u32 {
            drop(turns.take(uid).await.unwrap());
        }
        assert!(turns.0.lock().unwrap().len() <= MOST, "those that wait for nothing are forgotten");
        let mut more = Vec::new();
        while let Some(turn) = turns.take(1).now_or_never() {
            more.push(turn);
        }
        assert_eq!(held.len() + more.len(), EACH, "those that are held are not");
    }
}
