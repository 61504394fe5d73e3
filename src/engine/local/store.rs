//! The store: sealed values in one folder, one file each, with an index of the sealed bytes in memory.

use super::{
    StoreError,
    envelope::{Envelope, Master, key_id},
    record::{FORMAT, Record, VERSIONS_KEPT, Version, file_name},
};
use crate::{
    digest::{Random, SealKey},
    model::{SecretBytes, SecretName, WallTime},
    sys::{Clock, FileLock, file_names, private_folder, read_private, write_atomic},
};
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The longest value the store takes, in bytes.
pub const VALUE_MAX: usize = 64 * 1024;

/// Bytes of the largest file: ten of the longest values in base64, and room for what is around them.
const FILE_MAX: usize = 1024 * 1024;

/// Begins the names of our own values; no secret's name can.
const OWN: char = '@';

/// One secret as an operator sees it: everything but the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    /// Its name.
    pub name: SecretName,
    /// The versions that are kept, oldest first.
    pub versions: Vec<StoredVersion>,
}

/// One version of a secret, without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredVersion {
    /// Its number, from 1; never given twice.
    pub version: u64,
    /// Bytes in the value.
    pub bytes: usize,
    /// When it was put.
    pub created: WallTime,
}

/// The encrypted store of this host. Reads need no lock and take microseconds; writes are synced before they return and may block for
/// as long as the disk does.
pub struct LocalStore {
    folder: PathBuf,
    id: String,
    index: ArcSwap<Index>,
    writer: Mutex<()>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    _lock: FileLock,
}

/// A consistent picture: the records and the keys that open them.
#[derive(Clone)]
struct Index {
    masters: Vec<Master>,
    records: BTreeMap<String, Arc<Record>>,
}

/// `.store`: which store this is.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    store: String,
}

impl LocalStore {
    /// Opens the store in `folder`, or makes an empty one. `previous` is the master key before the last rewrap: what a crash left under
    /// it is rewrapped now. Fails if a file cannot be read or is sealed under another key: nothing is skipped.
    pub fn open(
        folder: &Path,
        master: SealKey,
        previous: Option<SealKey>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        private_folder(folder)?;
        let lock = FileLock::take(&folder.join(".lock"))?;
        let names = file_names(folder)?;
        let records_are_there = names.iter().any(|name| name.ends_with(".json") && !name.starts_with('.'));
        let id = open_head(folder, records_are_there, &*random)?;
        let masters: Vec<Master> = [Some(master), previous].into_iter().flatten().map(Master::new).collect();
        let mut records = BTreeMap::new();
        for name in names.iter().filter(|name| name.ends_with(".json") && !name.starts_with('.')) {
            let path = folder.join(name);
            let record = Record::parse(&path, read_private(&path, FILE_MAX)?.expose(), &id)?;
            for version in &record.versions {
                version.envelope.open(&masters, &record.place(version.version, version.created))?;
            }
            records.insert(record.name.clone(), Arc::new(record));
        }
        let index = ArcSwap::from_pointee(Index { masters, records });
        let store = Self { folder: folder.into(), id, index, writer: Mutex::new(()), random, clock, _lock: lock };
        store.finish_rewrap(&store.write())?;
        Ok(store)
    }

    /// Adds a version and gives its number. Live leases keep the version they were issued with while it is among the last
    /// [`VERSIONS_KEPT`].
    pub fn put(&self, name: &SecretName, value: &SecretBytes) -> Result<u64, StoreError> {
        self.add(&self.write(), name.as_str(), value)
    }

    /// Every secret that has a value, by name.
    pub fn list(&self) -> Vec<StoredSecret> {
        let index = self.index.load();
        let rows = index.records.values().filter(|record| !record.versions.is_empty());
        rows.filter_map(|record| {
            let name = SecretName::parse(&record.name).ok()?;
            let versions = record.versions.iter().map(|v| StoredVersion { version: v.version, bytes: v.bytes, created: v.created });
            Some(StoredSecret { name, versions: versions.collect() })
        })
        .collect()
    }

    /// Destroys every version of the secret; says whether there was one. Live leases of it can no longer be read.
    pub fn remove(&self, name: &SecretName) -> Result<bool, StoreError> {
        let guard = self.write();
        match self.record(name.as_str()) {
            Some(record) if !record.versions.is_empty() => {
                self.save(&guard, Record { versions: Vec::new(), ..(*record).clone() }).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// A name for the key that seals: it follows from the key and tells nothing about it.
    pub fn key_id(&self) -> String {
        // Every picture has a first master.
        self.index.load().masters[0].id.clone()
    }

    /// Nothing is sealed under a key before that one: the last rewrap, if there was one, came to its end.
    pub fn is_settled(&self) -> bool {
        self.index.load().masters.len() == 1
    }

    /// The name that a key would have.
    pub fn id_of(key: &SealKey) -> String {
        key_id(key)
    }

    /// Seals every key under `master`; values are not touched. If it fails half-way both keys go on opening, and it may be repeated;
    /// the old key may be thrown away only after it returned well.
    pub fn rewrap(&self, master: SealKey) -> Result<(), StoreError> {
        let guard = self.write();
        let mut index = (**self.index.load()).clone();
        index.masters.insert(0, Master::new(master));
        self.index.store(Arc::new(index));
        self.finish_rewrap(&guard)
    }

    /// The newest version of a secret: its number and its value.
    pub fn newest(&self, name: &SecretName) -> Result<(u64, SecretBytes), StoreError> {
        let record = self.record(name.as_str()).ok_or(StoreError::NoValue)?;
        let version = record.versions.last().ok_or(StoreError::NoValue)?;
        Ok((version.version, self.open_version(&record, version)?))
    }

    /// The number of the newest version of a secret, and when it was stored.
    pub fn newest_version(&self, name: &SecretName) -> Option<(u64, WallTime)> {
        self.record(name.as_str())?.versions.last().map(|version| (version.version, version.created))
    }

    /// One version of a secret.
    pub fn version(&self, name: &SecretName, version: u64) -> Result<SecretBytes, StoreError> {
        let record = self.record(name.as_str()).ok_or(StoreError::NoValue)?;
        self.open_version(&record, record.find(version).ok_or(StoreError::NoValue)?)
    }

    /// A key of our own that outlives the master key: made at first use, kept sealed like any value, never listed or delivered.
    /// `label` holds only `a-z`, `0-9`, `-`, `_`, `.` and `/`.
    pub fn own_key(&self, label: &str) -> Result<SealKey, StoreError> {
        let guard = self.write();
        if self.load_own(label)?.is_none() {
            let key = SealKey::generate(&*self.random);
            self.add(&guard, &own_name(label)?, &SecretBytes::new(key.expose().to_vec()))?;
        }
        let kept = self.load_own(label)?.ok_or(StoreError::NoValue)?;
        SealKey::from_bytes(kept.expose()).ok_or_else(|| StoreError::Damaged(label.into()))
    }

    /// Keeps something of our own, such as signing keys, sealed like any value but never listed or delivered.
    pub fn save_own(&self, label: &str, value: &SecretBytes) -> Result<(), StoreError> {
        self.add(&self.write(), &own_name(label)?, value).map(drop)
    }

    /// What [`LocalStore::save_own`] kept last under that label.
    pub fn load_own(&self, label: &str) -> Result<Option<SecretBytes>, StoreError> {
        let Some(record) = self.record(&own_name(label)?) else { return Ok(None) };
        record.versions.last().map(|version| self.open_version(&record, version)).transpose()
    }

    /// The labels with this beginning under which anything is kept.
    pub fn own_labels(&self, prefix: &str) -> Vec<String> {
        let (index, begin) = (self.index.load(), format!("{OWN}{prefix}"));
        let rows = index.records.range(begin.clone()..).take_while(|(name, _)| name.starts_with(&begin));
        rows.filter(|(_, record)| !record.versions.is_empty()).filter_map(|(name, _)| name.strip_prefix(OWN).map(str::to_owned)).collect()
    }

    /// When that was kept.
    pub fn own_created(&self, label: &str) -> Option<WallTime> {
        self.record(&own_name(label).ok()?)?.versions.last().map(|version| version.created)
    }

    /// Forgets what was kept under that label.
    pub fn remove_own(&self, label: &str) -> Result<(), StoreError> {
        let guard = self.write();
        match self.record(&own_name(label)?) {
            Some(record) if !record.versions.is_empty() => self.save(&guard, Record { versions: Vec::new(), ..(*record).clone() }),
            _ => Ok(()),
        }
    }

    fn record(&self, name: &str) -> Option<Arc<Record>> {
        self.index.load().records.get(name).cloned()
    }

    fn open_version(&self, record: &Record, version: &Version) -> Result<SecretBytes, StoreError> {
        version.envelope.open(&self.index.load().masters, &record.place(version.version, version.created))
    }

    fn add(&self, guard: &MutexGuard<'_, ()>, name: &str, value: &SecretBytes) -> Result<u64, StoreError> {
        if value.is_empty() {
            return Err(StoreError::Empty);
        }
        if value.len() > VALUE_MAX {
            return Err(StoreError::TooLarge);
        }
        let mut record = self.record(name).map_or_else(|| Record::new(&self.id, name), |found| (*found).clone());
        let (number, created) = (record.next, self.clock.wall());
        let place = record.place(number, created);
        // Every picture has a first master: `open` is given one and `rewrap` adds in front.
        let envelope = Envelope::seal(&self.index.load().masters[0], &place, value, &*self.random);
        record.next += 1;
        record.versions.push(Version { version: number, bytes: value.len(), created, envelope });
        // Of our own only the last is ever asked for; a signing key that is done with should not lie on in an older version.
        let kept = if name.starts_with(OWN) { 1 } else { VERSIONS_KEPT };
        let surplus = record.versions.len().saturating_sub(kept);
        record.versions.drain(..surplus);
        self.save(guard, record)?;
        Ok(number)
    }

    /// On disk first, then in memory: a failed write changes nothing.
    fn save(&self, _guard: &MutexGuard<'_, ()>, record: Record) -> Result<(), StoreError> {
        let path = self.folder.join(file_name(&record.name));
        let bytes = serde_json::to_vec(&record).map_err(|why| StoreError::Unreadable { path: path.clone(), why: why.to_string() })?;
        write_atomic(&path, &bytes, 0o600)?;
        let mut index = (**self.index.load()).clone();
        index.records.insert(record.name.clone(), Arc::new(record));
        self.index.store(Arc::new(index));
        Ok(())
    }

    fn finish_rewrap(&self, guard: &MutexGuard<'_, ()>) -> Result<(), StoreError> {
        let index = self.index.load_full();
        for record in index.records.values() {
            if record.versions.iter().all(|version| version.envelope.is_under(&index.masters[0])) {
                continue;
            }
            let mut moved = (**record).clone();
            for version in &mut moved.versions {
                let place = record.place(version.version, version.created);
                version.envelope = version.envelope.rewrap(&index.masters, &place, &*self.random)?;
            }
            self.save(guard, moved)?;
        }
        let mut index = (**self.index.load()).clone();
        index.masters.truncate(1);
        self.index.store(Arc::new(index));
        Ok(())
    }

    /// Writers take turns; a panic in one cannot leave the index half changed, as it is replaced whole.
    fn write(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_head(folder: &Path, records_are_there: bool, random: &dyn Random) -> Result<String, StoreError> {
    let path = folder.join(".store");
    match read_private(&path, FILE_MAX) {
        Ok(bytes) => {
            #[derive(Deserialize)]
            struct Format {
                format: u32,
            }
            let unreadable = |why: serde_json::Error| StoreError::Unreadable { path: path.clone(), why: why.to_string() };
            // The format alone first: another one may have members that this version does not know.
            let Format { format } = serde_json::from_slice(bytes.expose()).map_err(unreadable)?;
            if format != FORMAT {
                return Err(StoreError::Format { path, found: format });
            }
            serde_json::from_slice::<Head>(bytes.expose()).map(|head| head.store).map_err(unreadable)
        }
        Err(crate::sys::FileError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !records_are_there => {
            let head = Head { format: FORMAT, store: hex::encode(random.u128().to_be_bytes()) };
            let bytes = serde_json::to_vec(&head).map_err(|why| StoreError::Unreadable { path: path.clone(), why: why.to_string() })?;
            write_atomic(&path, &bytes, 0o600)?;
            Ok(head.store)
        }
        Err(error) => Err(error.into()),
    }
}

/// Our own values lie beside the secrets under names that no secret can have.
fn own_name(label: &str) -> Result<String, StoreError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./".contains(&b);
    if label.is_empty() || label.len() > 200 || !label.bytes().all(plain) {
        return Err(StoreError::Damaged(format!("label {label}")));
    }
    Ok(format!("{OWN}{label}"))
}
