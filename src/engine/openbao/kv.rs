//! Values of a KV version 2 store: fetched by version, shared by all who ask at once, and kept for a while in the vault.

use super::{
    super::EngineError,
    api::{Fault, encoded},
    session::{Session, Token},
    offline::{Copy, Offline},
    settings::{Kv, KvPath},
};
use crate::{
    model::{BootTime, WallTime},
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
const KEPT_FOR: u64 = 300_000_000;
/// The longest value, in bytes of JSON.
const VALUE_MAX: usize = 64 << 10;

/// When the server said something, on a clock that nobody sets: a failure in between makes it no younger.
#[derive(Clone, Copy)]
struct Said {
    at: BootTime,
    /// How old it was then, in microseconds: more than nothing for what a daemon before this one was told.
    age: u64,
}

impl Said {
    fn age(self, now: BootTime) -> u64 {
        self.age.saturating_add(now.since(self.at))
    }
}

/// One version's members, as JSON.
pub(super) struct Version {
    pub(super) number: u64,
    pub(super) made: WallTime,
    said: Said,
    members: VaultBytes,
}

impl Version {
    /// The members; the copy is wiped when it is freed.
    pub(super) fn members(&self) -> Map<String, Value> {
        // They were written by us.
        serde_json::from_slice(self.members.expose()).unwrap_or_default()
    }
}

type Place = (KvPath, Option<u64>);
type Fetched = Arc<OnceCell<Result<Arc<Version>, Failure>>>;

/// A failure that is told to all who waited.
#[derive(Clone)]
enum Failure {
    NoValue,
    Setup(String),
    Unreachable(String),
    Refused(String),
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoValue => Failure::NoValue,
            EngineError::Setup(text) => Failure::Setup(text),
            EngineError::Unreachable(text) => Failure::Unreachable(text),
            EngineError::Refused(text) => Failure::Refused(text),
        }
    }
}

impl From<Failure> for EngineError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoValue => EngineError::NoValue,
            Failure::Setup(text) => EngineError::Setup(text),
            Failure::Unreachable(text) => EngineError::Unreachable(text),
            Failure::Refused(text) => EngineError::Refused(text),
        }
    }
}

pub(super) struct KvStore {
    pub(super) session: Arc<Session>,
    clock: Arc<dyn Clock>,
    offline: Offline,
    kept: moka::sync::Cache<(KvPath, u64), Arc<Version>>,
    /// Calls that are under way.
    under_way: Mutex<HashMap<Place, Fetched>>,
    /// The newest version at each path as it was seen last.
    latest: Mutex<HashMap<KvPath, (u64, Said)>>,
    /// The longest `max_stale` of any secret, in microseconds: values are kept so long.
    longest: AtomicU64,
}

impl KvStore {
    pub(super) fn new(session: Arc<Session>, clock: Arc<dyn Clock>, offline: Offline) -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(KEPT_BYTES)
            .weigher(|_, version: &Arc<Version>| u32::try_from(version.members.len()).unwrap_or(u32::MAX).saturating_add(EACH_COSTS))
            .build();
        let (under_way, latest, longest) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Self { session, clock, offline, kept, under_way, latest, longest }
    }

    /// A version that is kept here, and that the server spoke of not long ago.
    pub(super) fn kept(&self, path: &KvPath, version: u64) -> Option<Arc<Version>> {
        let kept = self.kept.get(&(path.clone(), version))?;
        let age = kept.said.age(self.clock.boot());
        if age < KEPT_FOR {
            return Some(kept);
        }
        // What nobody may be given any more does not rest in memory.
        if age >= self.longest.load(Ordering::Relaxed) {
            self.kept.invalidate(&(path.clone(), version));
        }
        None
    }

    /// The value of a secret as it was known last, for a server that cannot be asked, with its age in microseconds: no older than the
    /// secret allows. Without a version it is the newest.
    pub(super) fn stale(&self, row: &Kv, version: Option<u64>) -> Option<(Arc<Version>, u64)> {
        let max = u64::from(row.max_stale?.as_secs()) * 1_000_000;
        let find = || {
            let newest = self.seen().get(&row.path).copied();
            let number = version.or(newest.map(|(number, _)| number))?;
            let kept = self.kept.get(&(row.path.clone(), number))?;
            // That this is the newest version was said when it was asked for, not when this version was fetched.
            let said = if version.is_none() { newest.map(|(_, said)| said)? } else { kept.said };
            Some((kept, said.age(self.clock.boot())))
        };
        let found = find().or_else(|| {
            let copy = row.offline.then(|| self.offline.load(&row.path, self.clock.wall())).flatten()?;
            self.take(&row.path, copy);
            find()
        });
        found.filter(|(_, age)| *age <= max || crate::mutation!("max-stale"))
    }

    /// What was kept on the disk, as if it had been fetched then; whatever is known better stays.
    fn take(&self, path: &KvPath, copy: Copy) {
        let said = Said { at: self.clock.boot(), age: copy.age };
        let version = Version { number: copy.number, made: copy.made, said, members: VaultBytes::of(copy.members.expose()) };
        self.seen().entry(path.clone()).or_insert((copy.number, said));
        self.kept.entry((path.clone(), copy.number)).or_insert(Arc::new(version));
    }

    /// Puts what was fetched on the disk, sealed, where the secret says so; and notes how long it may be needed.
    pub(super) fn keep(&self, row: &Kv, version: &Version) {
        if let Some(max) = row.max_stale {
            self.longest.fetch_max(u64::from(max.as_secs()) * 1_000_000, Ordering::Relaxed);
        }
        if row.offline && row.version.is_none_or(|number| number == version.number) {
            self.offline.save(&row.path, (version.number, version.made), version.members.expose(), (self.clock.boot(), self.clock.wall()));
        }
    }

    /// The server said no, or that there is nothing: what was known before is given to nobody any more.
    pub(super) fn forget(&self, path: &KvPath) {
        self.seen().remove(path);
        let of_path: Vec<_> = self.kept.iter().filter(|(place, _)| place.0 == *path).map(|(place, _)| place).collect();
        of_path.iter().for_each(|place| self.kept.invalidate(&**place));
        self.offline.remove(path);
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
        let result = cell.get_or_init(async || self.fetch(path, version).await.map_err(Failure::from)).await.clone();
        let mut under_way = self.under_way();
        if under_way.get(&place).is_some_and(|current| Arc::ptr_eq(current, &cell)) {
            under_way.remove(&place);
        }
        drop(under_way);
        result.map_err(EngineError::from)
    }

    /// The newest version that was seen at a path.
    pub(super) fn latest(&self, path: &KvPath) -> Option<u64> {
        self.seen().get(path).map(|(number, _)| *number)
    }

    /// Held for a line.
    fn seen(&self) -> MutexGuard<'_, HashMap<KvPath, (u64, Said)>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn url(&self, path: &KvPath) -> String {
        format!("{}/data/{}", encoded(&path.mount), encoded(&path.path))
    }

    /// Asks the server.
    pub(super) async fn fetch(&self, path: &KvPath, version: Option<u64>) -> Result<Arc<Version>, EngineError> {
        // From when it was asked on: an answer that was long on its way is as old as the question.
        let said = Said { at: self.clock.boot(), age: 0 };
        let which = version.map_or_else(String::new, |version| format!("?version={version}"));
        let url = &format!("{}{which}", self.url(path));
        let doing = format!("reading {}/{}", path.mount, path.path);
        let session = &self.session;
        let read = session.with_token(&doing, async move |us: Arc<Token>| session.api.get(us.expose(), url).await);
        let reply = match read.await? {
            // Nothing was ever there, or what was is deleted or destroyed.
            Err(Fault::Absent) => return Err(EngineError::NoValue),
            reply => reply.map_err(|fault| fault.during(&doing))?,
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
        if version.is_none() {
            self.seen().insert(path.clone(), (number, said));
        }
        let version = Arc::new(Version { number, made, said, members: VaultBytes::of(&text) });
        self.kept.insert((path.clone(), number), version.clone());
        Ok(version)
    }

    /// Held for a few lines that cannot leave the table half changed.
    fn under_way(&self) -> MutexGuard<'_, HashMap<Place, Fetched>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
