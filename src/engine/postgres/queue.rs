//! Endings wait for each other outside of any deadline, as long as they come to an end: when all holders die at once, nobody's ending
//! fails for the number of the others, and whoever asks for a new credential finds a connection meanwhile.

use super::super::EngineError;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Whose turn it is.
pub(super) struct Queue {
    slots: Semaphore,
    /// How many have come to a good end.
    done: AtomicU64,
    patience: Duration,
}

impl Queue {
    /// Leaves a quarter of the connections, and at least one, to whoever asks for something new, unless there is only one. A wait in which
    /// nobody comes to a good end is over after `patience`.
    pub(super) fn new(connections: usize, patience: Duration) -> Self {
        let others = connections.div_ceil(4).min(connections.saturating_sub(1));
        Self { slots: Semaphore::new((connections - others).max(1)), done: AtomicU64::new(0), patience }
    }

    /// Waits for a turn, which lasts until the permit is dropped.
    pub(super) async fn turn(&self) -> Result<SemaphorePermit<'_>, EngineError> {
        // Waited for in one place of the queue all the while.
        let mut turn = std::pin::pin!(self.slots.acquire());
        loop {
            let before = self.done.load(Ordering::Relaxed);
            match tokio::time::timeout(self.patience, &mut turn).await {
                // The semaphore is never closed.
                Ok(turn) => return turn.map_err(|_| EngineError::Unreachable("the engine is closed".into())),
                Err(_) if self.done.load(Ordering::Relaxed) != before => {}
                Err(_) => {
                    let waited = self.patience.as_millis();
                    return Err(EngineError::Unreachable(format!("of the endings before this one none was done within {waited} ms")));
                }
            }
        }
    }

    /// Somebody's turn came to a good end.
    pub(super) fn moved(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_patient_only_while_others_come_to_an_end() {
        let queue = Queue::new(2, Duration::from_millis(500));
        let first = queue.turn().await.unwrap();
        let (waits, moves) = (queue.turn(), async {
            for _ in 0..8 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                queue.moved();
            }
            drop(first);
        });
        let (turn, ()) = tokio::join!(waits, moves);
        let _turn = turn.expect("the queue moved all the while");
        assert!(matches!(queue.turn().await, Err(EngineError::Unreachable(_))), "it does not move");
    }

    #[test]
    fn there_is_room_for_what_is_new() {
        let slots = |connections| Queue::new(connections, Duration::ZERO).slots.available_permits();
        assert_eq!([1, 2, 3, 4, 8].map(slots), [1, 1, 2, 3, 6]);
    }
}
