//! Values while the server cannot be asked: which are kept how long, on whose word, and what ends that.

use super::{
    super::Kept,
    kv::{KEPT_FOR, KvStore, Said, Version},
    offline::{Copy, Place, Which},
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
        let number = version.or(newest.map(|(which, _)| which.number))?;
        let kept = self.kept.get(&(path.clone(), number))?;
        if version.is_some() {
            let age = kept.said.age(self.now());
            return Some((kept, age));
        }
        // That this is the newest version was said when the newest was asked for.
        let (which, said) = newest?;
        (which == kept.which).then(|| (kept, said.age(self.now())))
    }

    /// What was kept on the disk, as if it had been fetched then. Whatever is known better stays, and nothing comes back that was forgotten
    /// while the disk was read.
    fn take(&self, row: &Kv, copy: Copy, forgotten: u64) {
        let Copy { which, age, members } = copy;
        let said = Said { at: self.now(), age };
        let mut known = self.known();
        if self.forgotten(&known, &row.path) != forgotten {
            return;
        }
        if row.version.is_none() {
            let newest = *known.entry(row.path.clone()).or_default().newest.get_or_insert((which, said));
            if newest.0 != which {
                return;
            }
        }
        let version = || Arc::new(Version { which, said, forgotten, members: VaultBytes::of(members.expose()) });
        self.kept.entry((row.path.clone(), which.number)).or_insert_with(version);
    }

    /// Puts what was fetched on the disk, sealed, where the secret says so.
    pub(super) fn keep(&self, row: &Kv, version: &Version) {
        if !row.offline {
            return;
        }
        let turn = {
            // Until the copy is known of: whoever forgets this path afterwards finds it.
            let known = self.known();
            let now = self.now();
            let newest = known.get(&row.path).and_then(|known| known.newest);
            let is_newest = row.version.is_some() || newest.is_some_and(|(which, _)| which == version.which);
            let is_current = self.forgotten(&known, &row.path) == version.forgotten;
            if is_newest && is_current { self.offline.begin(&row.place(), version.which, (version.said.age(now), now)) } else { None }
        };
        if let Some(turn) = turn {
            self.offline.write(turn, version.members.expose());
        }
    }

    /// There is another newest version of a path: the copy of the one before is given to nobody any more.
    pub(super) async fn outdated(&self, path: &KvPath, newest: Which, said: Said) {
        let now = self.now();
        self.offline.outdated((path.clone(), None), newest, (said.age(now), now)).await;
    }

    /// Nobody is given any more what was known of a path, or of one of its versions: the server said no, or that there is nothing, or an
    /// operator wants it gone. How much it was.
    pub(super) async fn forget(&self, path: &KvPath, version: Option<u64>) -> usize {
        let is_meant = |number: u64| version.is_none_or(|version| version == number);
        let in_memory = {
            let mut known = self.known();
            let known = known.entry(path.clone()).or_default();
            known.forgotten += 1;
            known.newest.take_if(|(which, _)| is_meant(which.number));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::{SealKey, SystemRandom},
        engine::{
            local::LocalStore,
            openbao::{
                api::Api,
                config::{Login, Source},
                offline::{Copies, Offline},
                session::Session,
            },
        },
        model::{BootTime, EngineName, WallTime},
        outbound::{Address, Client, Limits},
        sys::{Clock, SystemClock},
    };
    use std::sync::{Mutex, mpsc};

    /// A clock that lets others do something whenever it is asked.
    #[derive(Default)]
    struct Interrupting(Mutex<Option<Box<dyn FnOnce() + Send>>>);

    impl Clock for Interrupting {
        fn boot(&self) -> BootTime {
            let meanwhile = self.0.lock().unwrap().take();
            if let Some(meanwhile) = meanwhile {
                meanwhile();
            }
            SystemClock.boot()
        }
        fn wall(&self) -> WallTime {
            SystemClock.wall()
        }
    }

    fn store(folder: &std::path::Path, clock: Arc<dyn Clock>) -> KvStore {
        let random = Arc::new(SystemRandom::default());
        let key = || SealKey::from_bytes(&[7; 32]).unwrap();
        let local = LocalStore::open(&folder.join("local"), key(), None, random.clone(), clock.clone()).unwrap();
        let nowhere = Address::parse("unix:/nowhere", false).unwrap();
        let client = Client::new(nowhere, None, || unreachable!("no TLS"), None, Limits::default(), clock.clone()).unwrap();
        let login = Login::Token { token: Source::new(|| Err("there is none".into())) };
        let name = EngineName::parse("bao").unwrap();
        let session = Session::new(Api::new(client, None), login, name, Arc::new(local), clock.clone(), random.clone());
        let copies = Copies { folder: folder.join("copies"), server: "s".into(), boot: "boot".into(), not_before: WallTime(0) };
        KvStore::new(Arc::new(session), clock, Offline::new(copies, key(), random))
    }

    /// As if it had just been fetched.
    fn fetched(kv: &KvStore, row: &Kv, which: Which) -> Version {
        let (mut known, said) = (kv.known(), Said { at: kv.now(), age: 0 });
        known.entry(row.path.clone()).or_default().newest = Some((which, said));
        Version { which, said, forgotten: kv.forgotten(&known, &row.path), members: VaultBytes::of(b"{}") }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_forgotten_in_any_moment_of_its_keeping_does_not_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let clock = Arc::new(Interrupting::default());
        let kv = Arc::new(store(&folder, clock.clone()));
        let place = KvPath { mount: "secret".into(), path: "app".into() };
        let max_stale = Some(crate::model::Ttl::parse("1h").unwrap());
        let row = Kv { path: place.clone(), version: None, pick: Default::default(), generate: None, max_stale, offline: true };
        let version = fetched(&kv, &row, Which { number: 1, made: WallTime(1) });
        let (done, finished) = mpsc::channel();
        let (forgetting, runtime) = (kv.clone(), tokio::runtime::Handle::current());
        // Somebody evicts it while it is being kept: at once, or as soon as that is let happen.
        *clock.0.lock().unwrap() = Some(Box::new(move || {
            let (now, early) = mpsc::channel();
            std::thread::spawn(move || {
                runtime.block_on(forgetting.forget(&place, None));
                let _ = now.send(());
                done.send(()).unwrap();
            });
            let _ = early.recv_timeout(std::time::Duration::from_millis(300));
        }));
        kv.keep(&row, &version);
        tokio::task::block_in_place(|| finished.recv().unwrap());
        assert!(kv.list(&row).is_empty(), "{:?}", kv.list(&row));
        // Without that it is there.
        let version = fetched(&kv, &row, Which { number: 1, made: WallTime(1) });
        kv.keep(&row, &version);
        assert_eq!(kv.list(&row).len(), 1);
        while crate::sys::file_names(&folder.join("copies")).unwrap_or_default().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        // An answer that was long on its way keeps nothing, once a newer version was seen.
        let before = fetched(&kv, &row, Which { number: 1, made: WallTime(1) });
        let newest = fetched(&kv, &row, Which { number: 2, made: WallTime(2) });
        kv.outdated(&row.path, newest.which, newest.said).await;
        kv.keep(&row, &before);
        assert!(kv.list(&row).is_empty() && crate::sys::file_names(&folder.join("copies")).unwrap().is_empty());
    }
}
