//! Values of a KV version 2 store: fetched by version, shared by all who ask at once, and kept for a while in the vault.

use super::{
    super::EngineError,
    api::{Fault, encoded},
    offline::{Now, Offline, Place, Which},
    session::{Session, Token},
    settings::KvPath,
};
use crate::{
    model::WallTime,
    sys::{Clock, VaultBytes},
};
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::OnceCell;

/// Bytes of values that are kept, each with what it costs beside.
const KEPT_BYTES: u64 = 4 << 20;
const EACH_COSTS: u32 = 256;
/// How long a value is given without asking, in microseconds: a version that was destroyed at the server is refused after that at the latest.
pub(super) const KEPT_FOR: u64 = 300_000_000;
/// Between two lines of the log that say that values are given without asking, in microseconds.
const TOLD_EVERY: u64 = 10_000_000;
/// The longest value, in bytes of JSON.
const VALUE_MAX: usize = 64 << 10;

/// When the server said something, on both clocks: a failure in between makes it no younger, nor does a wall clock that is set back. (One
/// that is ahead may be right: the other one stands still while a machine is a snapshot.)
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) at: Now,
    /// How old it was then, in microseconds: more than nothing for what a daemon before this one was told.
    pub(super) age: u64,
}

impl Said {
    pub(super) fn age(self, now: Now) -> u64 {
        self.age.saturating_add(now.boot.since(self.at.boot).max(now.wall.0.saturating_sub(self.at.wall.0)))
    }
}

/// One version's members, as JSON.
pub(super) struct Version {
    pub(super) which: Which,
    pub(super) said: Said,
    /// What [`KvStore::forgotten`] was when it was asked for.
    pub(super) forgotten: u64,
    pub(super) members: VaultBytes,
}

impl Version {
    /// The members; the copy is wiped when it is freed.
    pub(super) fn members(&self) -> Map<String, Value> {
        // They were written by us.
        serde_json::from_slice(self.members.expose()).unwrap_or_default()
    }
}

type Fetched = Arc<OnceCell<Result<Arc<Version>, EngineError>>>;

/// What the server said of a path.
#[derive(Default)]
pub(super) struct Known {
    /// The newest version, and when it was said to be that.
    pub(super) newest: Option<(Which, Said)>,
    /// How often what was known had to be forgotten: an answer to a question from before is given and not kept.
    pub(super) forgotten: u64,
}

pub(super) struct KvStore {
    pub(super) session: Arc<Session>,
    clock: Arc<dyn Clock>,
    pub(super) offline: Offline,
    pub(super) kept: moka::sync::Cache<(KvPath, u64), Arc<Version>>,
    /// Calls that are under way.
    under_way: Mutex<HashMap<Place, Fetched>>,
    known: Mutex<HashMap<KvPath, Known>>,
    /// The same count for all paths at once.
    pub(super) all_forgotten: AtomicU64,
    /// When it was last said that a value is given without asking; 0 before the first time.
    told: AtomicU64,
}

impl KvStore {
    pub(super) fn new(session: Arc<Session>, clock: Arc<dyn Clock>, offline: Offline) -> Self {
        // How long something is kept is told by our clock, in `stale`.
        let kept = moka::sync::Cache::builder()
            .max_capacity(KEPT_BYTES)
            .weigher(|_, version: &Arc<Version>| u32::try_from(version.members.len()).unwrap_or(u32::MAX).saturating_add(EACH_COSTS))
            .build();
        Self {
            session,
            clock,
            offline,
            kept,
            under_way: Mutex::default(),
            known: Mutex::default(),
            all_forgotten: AtomicU64::new(0),
            told: AtomicU64::new(0),
        }
    }

    /// A version that is kept here, and that the server spoke of not long ago.
    pub(super) fn kept(&self, path: &KvPath, version: u64) -> Option<Arc<Version>> {
        self.kept.get(&(path.clone(), version)).filter(|kept| kept.said.age(self.now()) < KEPT_FOR)
    }

    /// Whether the log should say that values are given without asking: not for each of them.
    pub(super) fn is_due_to_tell(&self) -> bool {
        let (now, told) = (self.clock.boot().0.max(1), self.told.load(Ordering::Relaxed));
        let due = told == 0 || now.saturating_sub(told) >= TOLD_EVERY;
        if due {
            self.told.store(now, Ordering::Relaxed);
        }
        due
    }

    pub(super) fn now(&self) -> Now {
        Now { boot: self.clock.boot(), wall: self.clock.wall() }
    }

    /// A version that is kept here or at the server.
    pub(super) async fn version(&self, path: &KvPath, version: u64) -> Result<Arc<Version>, EngineError> {
        match self.kept(path, version) {
            Some(kept) => Ok(kept),
            None => self.shared(path, Some(version)).await,
        }
    }

    /// The newest version, or the one that is named, asked of the server now. Whoever asks while a call is under way gets its answer.
    pub(super) async fn shared(&self, path: &KvPath, version: Option<u64>) -> Result<Arc<Version>, EngineError> {
        let place = (path.clone(), version);
        let cell = self.under_way().entry(place.clone()).or_default().clone();
        // Whoever comes first asks; if that one is dropped, the next does.
        let result = cell.get_or_init(async || self.fetch(path, version).await).await.clone();
        let mut under_way = self.under_way();
        if under_way.get(&place).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            under_way.remove(&place);
        }
        drop(under_way);
        result
    }

    /// The newest version that was seen at a path.
    pub(super) fn latest(&self, path: &KvPath) -> Option<Which> {
        self.known().get(path)?.newest.map(|(which, _)| which)
    }

    /// Held for a few lines that cannot leave the table half changed.
    pub(super) fn known(&self) -> MutexGuard<'_, HashMap<KvPath, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that is another one when something about a path had to be forgotten.
    pub(super) fn forgotten(&self, known: &HashMap<KvPath, Known>, path: &KvPath) -> u64 {
        known.get(path).map_or(0, |known| known.forgotten) + self.all_forgotten.load(Ordering::Acquire)
    }

    pub(super) fn url(&self, path: &KvPath) -> String {
        format!("{}/data/{}", encoded(&path.mount), encoded(&path.path))
    }

    /// Asks the server.
    pub(super) async fn fetch(&self, path: &KvPath, version: Option<u64>) -> Result<Arc<Version>, EngineError> {
        // From when it was asked on: an answer that was long on its way is as old as the question.
        let said = Said { at: self.now(), age: 0 };
        let forgotten = self.forgotten(&self.known(), path);
        let query = version.map_or_else(String::new, |version| format!("?version={version}"));
        let url = &format!("{}{query}", self.url(path));
        let doing = format!("reading {}/{}", path.mount, path.path);
        let session = &self.session;
        let read = session.with_token(&doing, async move |us: Arc<Token>| session.api.get(us.expose(), url).await);
        let reply = match read.await {
            Err(error) => {
                // Whoever may not come in any more is given nothing that was read before.
                if self.session.is_refused() {
                    self.forget_all().await;
                }
                return Err(error);
            }
            // Nothing was ever there, or what was is deleted or destroyed.
            Ok(Err(Fault::Absent | Fault::Deleted)) => {
                self.forget(path, version).await;
                return Err(EngineError::NoValue);
            }
            Ok(Err(fault @ (Fault::Denied(_) | Fault::Rejected(..)))) => {
                if !crate::mutation!("stale-refused") {
                    self.forget_all_of(path, version).await;
                }
                return Err(fault.during(&doing));
            }
            Ok(reply) => reply.map_err(|fault| fault.during(&doing))?,
        };
        let mut data = reply.data.unwrap_or_default();
        let about = |name: &str| data.get("metadata").and_then(|metadata| metadata.get(name));
        let number = about("version").and_then(Value::as_u64);
        let made = about("created_time").and_then(Value::as_str).and_then(WallTime::parse);
        let (Some(number), Some(made), Some(Value::Object(members))) = (number, made, data.remove("data")) else {
            return Err(EngineError::Setup(format!("{doing}: not what a KV store of version 2 answers (is it version 1?)")));
        };
        if version.is_some_and(|version| version != number) {
            return Err(EngineError::Unreachable(format!("{doing}: the answer is about another version")));
        }
        // Never fails: the members are JSON already.
        let text = zeroize::Zeroizing::new(serde_json::to_vec(&members).unwrap_or_default());
        if text.len() > VALUE_MAX {
            return Err(EngineError::Setup(format!("{doing}: has {} bytes; {VALUE_MAX} are the most", text.len())));
        }
        let which = Which { number, made };
        let fetched = Arc::new(Version { which, said, forgotten, members: VaultBytes::of(&text) });
        if version.is_none() {
            self.outdated(path, which, said).await;
        }
        let (mut known, now) = (self.known(), self.now());
        if self.forgotten(&known, path) == forgotten {
            // An answer that was long on its way says nothing about what was asked later.
            let is_later = |known: Said| known.age(now) < said.age(now);
            if version.is_none() {
                let newest = &mut known.entry(path.clone()).or_default().newest;
                if !newest.is_some_and(|(_, known)| is_later(known)) {
                    *newest = Some((which, said));
                }
            }
            let place = (path.clone(), number);
            if !self.kept.get(&place).is_some_and(|kept| is_later(kept.said)) {
                self.kept.insert(place, fetched.clone());
            }
        }
        Ok(fetched)
    }

    /// Held for a few lines that cannot leave the table half changed.
    fn under_way(&self) -> MutexGuard<'_, HashMap<Place, Fetched>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
