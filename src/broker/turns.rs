//! What somebody is at, so that nobody else begins it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Who has a turn.
pub(super) struct Turns<K>(Arc<Mutex<BTreeSet<K>>>);

/// A turn, given back however it ends.
pub(super) struct Turn<K: Ord> {
    turns: Arc<Mutex<BTreeSet<K>>>,
    whose: K,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Ord + Clone> Turns<K> {
    /// A turn for this, unless somebody has it.
    #[must_use = "it is over when it is dropped"]
    pub(super) fn take(&self, whose: K) -> Option<Turn<K>> {
        lock(&self.0).insert(whose.clone()).then(|| Turn { turns: self.0.clone(), whose })
    }
}

impl<K: Ord> Drop for Turn<K> {
    fn drop(&mut self) {
        lock(&self.turns).remove(&self.whose);
    }
}

/// Held for a line that cannot leave it half changed.
fn lock<K>(turns: &Mutex<BTreeSet<K>>) -> MutexGuard<'_, BTreeSet<K>> {
    turns.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let turns = Turns::default();
        let turn = turns.take("pg");
        assert!(turn.is_some() && (0..2).all(|_| turns.take("pg").is_none()) && turns.take("bao").is_some());
        let panicked = std::thread::spawn(move || {
            let _turn = turn;
            panic!("in the middle of it");
        });
        assert!(panicked.join().is_err() && turns.take("pg").is_some());
    }
}
