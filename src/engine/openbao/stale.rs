//! Values while the server cannot be asked: which are kept how long, on whose word, and what ends that.

use super::{
    super::Kept,
    kv::{KEPT_FOR, KvStore, Said, Version},
    offline::{Copy, Place},
    settings::{Kv, KvPath},
};
use crate::sys::VaultBytes;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::Ordering},
};

impl Kv {
    /// How old a value may be that is given while the server cannot be asked, in microseconds.
    fn budget(&self) -> Option<u64> {
        self.max_stale.map(|max| u64::from(max.as_secs()) * 1_000_000)
    }

    fn place(&self) -> Place {
        (self.path.clone(), self.version)
    }
}

impl KvStore {
    /// A value as it was known last, for a server that cannot be asked, with its age in microseconds: younger than its secret allows.
    /// Without a version it is the newest.
    pub(super) async fn stale(&self, row: &Kv, version: Option<u64>) -> Option<(Arc<Version>, u64)> {
        let budget = row.budget()?;
        if self.session.is_refused() {
            // The last word that was heard was no.
            self.forget_all().await;
            return None;
        }
        let found = self.remembered(&row.path, version).or_else(|| {
            let before = self.forgotten(&self.known(), &row.path);
            let copy = if row.offline { self.offline.load(&row.place(), self.now()) } else { None };
            self.take(row, copy?, before);
            self.remembered(&row.path, version)
        });
        found.filter(|(_, age)| *age < budget || crate::mutation!("max-stale"))
    }

    fn remembered(&self, path: &KvPath, version: Option<u64>) -> Option<(Arc<Version>, u64)> {
        let newest = self.known().get(path).and_then(|known| known.newest);
        let number = version.or(newest.map(|(number, _)| number))?;
        let kept = self.kept.get(&(path.clone(), number))?;
        // That this is the newest version was said when the newest was asked for.
        let said = if version.is_none() { newest.map(|(_, said)| said)? } else { kept.said };
        Some((kept, said.age(self.now())))
    }

    /// What was kept on the disk, as if it had been fetched then. Whatever is known better stays, and nothing comes back that was forgotten
    /// while the disk was read.
    fn take(&self, row: &Kv, copy: Copy, forgotten: u64) {
        let Copy { number, made, age, members } = copy;
        let said = Said { at: self.now(), age };
        let mut known = self.known();
        if self.forgotten(&known, &row.path) != forgotten {
            return;
        }
        if row.version.is_none() {
            known.entry(row.path.clone()).or_default().newest.get_or_insert((number, said));
        }
        let version = || Arc::new(Version { number, made, said, forgotten, members: VaultBytes::of(members.expose()) });
        self.kept.entry((row.path.clone(), number)).or_insert_with(version);
    }

    /// Puts what was fetched on the disk, sealed, where the secret says so.
    pub(super) fn keep(&self, row: &Kv, version: &Version) {
        if row.offline && self.forgotten(&self.known(), &row.path) == version.forgotten {
            let now = self.now();
            self.offline.save(&row.place(), (version.number, version.made), version.members.expose(), (version.said.age(now), now));
        }
    }

    /// There is another newest version of a path: the copy of the one before is given to nobody any more.
    pub(super) async fn outdated(&self, path: &KvPath, newest: u64) {
        let place = (path.clone(), None);
        if self.offline.at(&place, self.now()).is_some_and(|(number, _)| number != newest) {
            self.offline.remove(&[place]).await;
        }
    }

    /// Nobody is given any more what was known of a path, or of one of its versions: the server said no, or that there is nothing, or an
    /// operator wants it gone. How much it was.
    pub(super) async fn forget(&self, path: &KvPath, version: Option<u64>) -> usize {
        let is_meant = |number: u64| version.is_none_or(|version| version == number);
        let in_memory = {
            let mut known = self.known();
            let known = known.entry(path.clone()).or_default();
            known.forgotten += 1;
            known.newest.take_if(|(number, _)| is_meant(*number));
            self.let_go(|place, _| place.0 == *path && is_meant(place.1))
        };
        let known = self.offline.places().into_iter().filter(|((at, _), number)| at == path && is_meant(*number)).map(|(place, _)| place);
        let mut places: Vec<Place> = known.collect();
        // Also one that nobody has looked at yet.
        places.push((path.clone(), version));
        in_memory + self.offline.remove(&places).await
    }

    /// The same of all versions, a copy of the one that a secret names included: after a start nobody may have looked at that yet.
    pub(super) async fn forget_all_of(&self, path: &KvPath, named: Option<u64>) -> usize {
        let of_named = if named.is_some() { self.forget(path, named).await } else { 0 };
        of_named + self.forget(path, None).await
    }

    /// Lets go of what is kept in memory, so that it rests there no longer. How much it was.
    fn let_go(&self, which: impl Fn(&(KvPath, u64), &Version) -> bool) -> usize {
        let gone: Vec<_> = self.kept.iter().filter(|(place, version)| which(place, version)).map(|(place, _)| place).collect();
        gone.iter().for_each(|place| self.kept.invalidate(&**place));
        if !gone.is_empty() {
            self.kept.run_pending_tasks();
        }
        gone.len()
    }

    /// The same of everything.
    pub(super) async fn forget_all(&self) -> usize {
        let in_memory = {
            let mut known = self.known();
            self.all_forgotten.fetch_add(1, Ordering::AcqRel);
            known.values_mut().for_each(|known| known.newest = None);
            self.let_go(|_, _| true)
        };
        in_memory + self.offline.only(&HashSet::new()).await
    }

    /// What is kept of a secret's value.
    pub(super) fn list(&self, row: &Kv) -> Vec<Kept> {
        let (now, budget) = (self.now(), row.budget().unwrap_or(0));
        let of_path = self.kept.iter().filter(|(place, _)| place.0 == row.path && row.version.is_none_or(|version| version == place.1));
        let in_memory = |(place, version): (Arc<(KvPath, u64)>, Arc<Version>)| {
            let age = version.said.age(now);
            Kept {
                version: place.1,
                on_disk: false,
                age: Some(age),
                left: KEPT_FOR.max(budget).saturating_sub(age),
                stale: age >= KEPT_FOR,
            }
        };
        let mut out: Vec<Kept> = of_path.map(in_memory).collect();
        out.sort_by_key(|kept| std::cmp::Reverse(kept.version));
        let on_disk = if row.offline { self.offline.at(&row.place(), now) } else { None };
        let left = |age: Option<u64>| age.map_or(0, |age| budget.saturating_sub(age));
        out.extend(on_disk.map(|(version, age)| Kept { version, on_disk: true, age, left: left(age), stale: true }));
        out
    }

    /// Forgets what none of these secrets lets be given any more: it is too old, or the definition is gone or names another place.
    pub(super) async fn tidy(&self, rows: &[Kv]) {
        if self.session.is_refused() {
            self.forget_all().await;
            return;
        }
        let now = self.now();
        let mut budgets: HashMap<&KvPath, u64> = HashMap::new();
        let mut places: HashMap<Place, u64> = HashMap::new();
        for row in rows {
            let budget = row.budget().unwrap_or(0);
            let longest = budgets.entry(&row.path).or_insert(KEPT_FOR);
            *longest = budget.max(*longest);
            if row.offline {
                let longest = places.entry(row.place()).or_default();
                *longest = budget.max(*longest);
            }
        }
        self.let_go(|place, version| budgets.get(&place.0).is_none_or(|budget| version.said.age(now) >= *budget));
        self.offline.only(&places.keys().cloned().collect()).await;
        let is_over = |place: &&Place| {
            let age = self.offline.at(place, now).and_then(|(_, age)| age);
            age.is_some_and(|age| age >= places[*place])
        };
        let over: Vec<Place> = places.keys().filter(is_over).cloned().collect();
        self.offline.remove(&over).await;
    }
}
