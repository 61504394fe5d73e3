//! Envelopes: a value sealed by a key of its own, and that key sealed by the master key. A new master key rewraps only the small one.

use super::StoreError;
use crate::{
    digest::{Random, SealKey},
    model::SecretBytes,
};
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// A master key and the name under which records refer to it. The name follows from the key and tells nothing about it.
#[derive(Clone)]
pub(super) struct Master {
    pub(super) id: String,
    key: Arc<SealKey>,
}

impl Master {
    pub(super) fn new(key: SealKey) -> Self {
        Self { id: key_id(&key), key: Arc::new(key) }
    }
}

/// The name of a key.
pub(super) fn key_id(key: &SealKey) -> String {
    hex::encode(&key.derive("key id").mac(b"").expose()[..8])
}

/// One value at rest. Everything in it may be seen by anybody who has not the master key.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope {
    /// Which master key sealed `key`.
    master: String,
    /// The value's own key, sealed.
    #[serde(with = "base64_text")]
    key: Vec<u8>,
    /// The value, sealed.
    #[serde(with = "base64_text")]
    value: Vec<u8>,
    /// The same key opened, once the value was read: it rests beside the master key, in memory of the same kind.
    #[serde(skip)]
    opened: Arc<Opened>,
}

/// An envelope's own key, kept for the next read.
#[derive(Default)]
struct Opened(OnceLock<SealKey>);

/// Keys that are kept so, and how many may be.
static KEPT: AtomicUsize = AtomicUsize::new(0);
const KEPT_MOST: usize = 1024;

impl Opened {
    /// Keeps it, if there is room and nobody did in the same moment.
    fn keep(&self, key: SealKey) {
        if KEPT.fetch_add(1, Ordering::Relaxed) >= KEPT_MOST || self.0.set(key).is_err() {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.0.get().is_some() {
            KEPT.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Envelope {
    /// Seals `value` with a new key. `place` says where it belongs; it opens nowhere else.
    pub(super) fn seal(master: &Master, place: &str, value: &SecretBytes, random: &dyn Random) -> Self {
        let own = SealKey::generate(random);
        Self {
            master: master.id.clone(),
            key: master.key.seal(format!("{place}\0key").as_bytes(), own.expose(), random),
            value: own.seal(format!("{place}\0value").as_bytes(), value.expose(), random),
            opened: Arc::default(),
        }
    }

    /// Opens the value with whichever of the keys it was sealed under.
    pub(super) fn open(&self, masters: &[Master], place: &str) -> Result<SecretBytes, StoreError> {
        let context = format!("{place}\0value");
        let damaged = |_| StoreError::Damaged(shown(place));
        if let Some(own) = self.opened.0.get() {
            return own.open(context.as_bytes(), &self.value).map_err(damaged);
        }
        let own = self.own_key(masters, place)?;
        let value = own.open(context.as_bytes(), &self.value).map_err(damaged)?;
        self.opened.keep(own);
        Ok(value)
    }

    /// The same envelope under the first of the keys.
    pub(super) fn rewrap(&self, masters: &[Master], place: &str, random: &dyn Random) -> Result<Self, StoreError> {
        let own = self.own_key(masters, place)?;
        // There is always a first: a store is opened with one and `rewrap` puts the new one in front.
        let first = masters.first().ok_or_else(|| StoreError::OtherKey(self.master.clone()))?;
        let key = first.key.seal(format!("{place}\0key").as_bytes(), own.expose(), random);
        Ok(Self { master: first.id.clone(), key, value: self.value.clone(), opened: Arc::default() })
    }

    pub(super) fn is_under(&self, master: &Master) -> bool {
        self.master == master.id
    }

    fn own_key(&self, masters: &[Master], place: &str) -> Result<SealKey, StoreError> {
        let master = masters.iter().find(|m| self.is_under(m)).ok_or_else(|| StoreError::OtherKey(self.master.clone()))?;
        let own = master.key.open(format!("{place}\0key").as_bytes(), &self.key).map_err(|_| StoreError::Damaged(shown(place)))?;
        SealKey::from_bytes(own.expose()).ok_or_else(|| StoreError::Damaged(shown(place)))
    }
}

/// A place as people read it.
fn shown(place: &str) -> String {
    place.replace('\0', " ")
}

mod base64_text {
    //! Bytes as base64 in JSON.

    use super::BASE64;
    use base64::Engine as _;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        BASE64.decode(String::deserialize(from)?).map_err(|_| D::Error::custom("is not base64"))
    }
}
