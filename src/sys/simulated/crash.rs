//! The past of a simulated volume: what the next start could find if the machine or the daemon had ended at any moment of it.

use super::{Content, Disk, Moment, SimulatedVolume};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

impl SimulatedVolume {
    /// From now on keeps the state after each operation, beginning with the present one.
    pub fn keep_moments(&self) {
        let mut disk = self.disk();
        disk.moments = Some(Vec::new());
        disk.step(None);
    }

    /// From now on says that it has synced and does not: a broken disk, to prove that a test notices.
    pub fn lie_about_syncs(&self) {
        self.disk().lies = true;
    }

    /// The number of the present moment. A call that has returned has had its effect in this moment and later ones; one that has not
    /// begun has none in this one and earlier ones.
    pub fn moment(&self) -> usize {
        self.disk().moments.as_ref().map_or(0, |moments| moments.len().saturating_sub(1))
    }

    /// Whether a sync behind moment `from` and not behind `to` succeeded.
    pub fn synced_between(&self, from: usize, to: usize) -> bool {
        self.passed(from, to, Some(true))
    }

    /// Whether one failed.
    pub fn failed_between(&self, from: usize, to: usize) -> bool {
        self.passed(from, to, Some(false))
    }

    fn passed(&self, from: usize, to: usize, synced: Option<bool>) -> bool {
        let disk = self.disk();
        let moments = disk.moments.as_deref().unwrap_or_default();
        moments.get(from + 1..=to).is_some_and(|passed| passed.iter().any(|moment| moment.synced == synced))
    }

    /// What a start may find after a power cut in that moment: one of many states, as the dice fall. `dice(n)` is below `n`.
    pub fn power_cut(&self, moment: usize, dice: &mut dyn FnMut(usize) -> usize) -> SimulatedVolume {
        self.at(moment, |moment| {
            let (mut files, mut kept) = (moment.files.clone(), BTreeSet::new());
            // Newest first: an older change shows only where all newer ones of the name are undone.
            for change in moment.unsettled.iter().rev() {
                if dice(2) == 0 {
                    kept.insert(&change.name);
                }
                if !kept.contains(&change.name) {
                    match &change.before {
                        Some(before) => files.insert(change.name.clone(), before.clone()),
                        None => files.remove(&change.name),
                    };
                }
            }
            files.into_iter().map(|(name, file)| (name, Content::durable(file.torn(dice), file.generation))).collect()
        })
    }

    /// What a start finds if the daemon alone was killed in that moment: the kernel has everything.
    pub fn killed(&self, moment: usize) -> SimulatedVolume {
        self.at(moment, |moment| moment.files.clone())
    }

    /// Whether in that moment something was not on the disk.
    pub fn is_unsettled(&self, moment: usize) -> bool {
        let disk = self.disk();
        let found = disk.moments.as_deref().unwrap_or_default().get(moment);
        found.is_some_and(|moment| !moment.unsettled.is_empty() || moment.files.values().any(|file| !file.is_synced()))
    }

    fn at(&self, moment: usize, found: impl FnOnce(&Moment) -> BTreeMap<String, Content>) -> SimulatedVolume {
        let disk = self.disk();
        let files = disk.moments.as_deref().unwrap_or_default().get(moment).map(found).unwrap_or_default();
        let after = Disk { files, generations: disk.generations, ..Disk::new(disk.capacity, disk.ballast) };
        Self(Arc::new(Mutex::new(after)))
    }
}
