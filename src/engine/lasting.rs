//! Values that last, as engines keep them that change them at their source (ADR 14): the one that is given, the one before, and the one that
//! is being set. Sealed in the local store, under a name that follows from the secret's.

use super::{EngineError, local::LocalStore};
use crate::{
    digest::{Random, sha256},
    model::{EngineName, SecretBytes, SecretName},
    sys::blocking,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::RwLock;
use zeroize::Zeroizing;

const FORMAT: u32 = 1;
/// Room for three values (the store takes no more), so that what is written does not grow and leave copies.
const ROOM: usize = 64 << 10;

/// A value that is kept, and how it is written down.
pub(super) trait Lasts: Sized {
    /// As it is written; what is secret is borrowed.
    type Row<'a>: Serialize
    where
        Self: 'a;
    /// As it is read.
    type Read<'a>: Deserialize<'a>;

    /// For writing.
    fn row(&self) -> Self::Row<'_>;
    /// The same of one that is given no more: without its value, where that is not needed for taking it back.
    fn retired(&self) -> Self::Row<'_> {
        self.row()
    }
    /// What was read; `None` if that is none.
    fn of(row: Self::Read<'_>) -> Option<Self>;
}

/// The values of one secret.
pub(super) struct Kept<V> {
    /// What is given: it was seen to work.
    pub(super) current: Option<V>,
    /// What was given before, as long as it is good.
    pub(super) previous: Option<V>,
    /// What was to be set last. Whether it was is found out by trying.
    pub(super) pending: Option<V>,
    /// What is given no more and still has to be taken back.
    pub(super) retired: Vec<V>,
    /// Numbers up to this one have been used, whether or not anything is kept of them.
    pub(super) past: u64,
}

impl<V> Default for Kept<V> {
    fn default() -> Self {
        Self { current: None, previous: None, pending: None, retired: Vec::new(), past: 0 }
    }
}

/// 32 random bytes as 43 characters of base64.
pub(super) fn random_value(random: &dyn Random) -> SecretBytes {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(&mut *bytes);
    // The buffer is exact, so nothing moves and leaves a copy.
    let mut text = Zeroizing::new(vec![0; 43]);
    // 43 bytes hold 32 in base64.
    URL_SAFE_NO_PAD.encode_slice(*bytes, &mut text).expect("room for 32 bytes in base64");
    SecretBytes::take_from(&mut text)
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows<'a, R> {
    format: u32,
    #[serde(borrow)]
    secret: Cow<'a, str>,
    current: Option<R>,
    previous: Option<R>,
    pending: Option<R>,
    #[serde(default = "Vec::new", skip_serializing_if = "Vec::is_empty")]
    retired: Vec<R>,
    #[serde(default, skip_serializing_if = "is_zero")]
    past: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The values of all secrets of one engine.
pub(super) struct Shelf<V> {
    kind: &'static str,
    engine: EngineName,
    store: Arc<LocalStore>,
    turns: Mutex<HashMap<SecretName, Arc<RwLock<()>>>>,
    of: PhantomData<fn() -> V>,
}

impl<V: Lasts> Shelf<V> {
    pub(super) fn new(kind: &'static str, engine: EngineName, store: Arc<LocalStore>) -> Self {
        Self { kind, engine, store, turns: Mutex::default(), of: PhantomData }
    }

    /// Held to write by whoever changes a secret's values.
    pub(super) fn turn(&self, secret: &SecretName) -> Arc<RwLock<()>> {
        // Held for a look into the table.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(secret.clone()).or_default().clone()
    }

    fn label(&self, secret: &SecretName) -> String {
        // Names of secrets may be longer than the store's labels.
        format!("{}/{}/{}", self.kind, self.engine, hex::encode(&sha256(&[secret.as_str().as_bytes()])[..16]))
    }

    /// The secrets of which anything is kept. What cannot be read is told in the log, and keeps nobody from the rest.
    pub(super) fn secrets(&self) -> Vec<SecretName> {
        #[derive(Deserialize)]
        struct Whose<'a> {
            #[serde(borrow)]
            secret: Cow<'a, str>,
        }
        let read = |label: &String| {
            let bytes = self.store.load_own(label).ok()??;
            let Whose { secret } = serde_json::from_slice(bytes.expose()).ok()?;
            SecretName::parse(&secret).ok()
        };
        let labels = self.store.own_labels(&format!("{}/{}/", self.kind, self.engine));
        let whose = labels.iter().filter_map(|label| {
            let secret = read(label);
            if secret.is_none() {
                tracing::error!(engine = %self.engine, label, "local store: values cannot be read, nor whose they are");
            }
            secret
        });
        whose.collect()
    }

    /// What is kept; nothing for a secret whose values were never changed from here.
    pub(super) fn load(&self, secret: &SecretName) -> Result<Kept<V>, EngineError> {
        let broken = |why: String| EngineError::Setup(format!("local store: the values of {secret} {why}"));
        let bytes = self.store.load_own(&self.label(secret)).map_err(|error| broken(format!("cannot be read: {error}")))?;
        let Some(bytes) = bytes else { return Ok(Kept::default()) };
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        // The parser's words may quote what it read.
        let unreadable = || broken("cannot be read".into());
        let Head { format } = serde_json::from_slice(bytes.expose()).map_err(|_| unreadable())?;
        if format != FORMAT {
            return Err(broken(format!("have format {format}, this version reads {FORMAT}: start the version that wrote them")));
        }
        let rows: Rows<'_, V::Read<'_>> = serde_json::from_slice(bytes.expose()).map_err(|_| unreadable())?;
        if rows.secret != secret.as_str() {
            return Err(broken("are another secret's".into()));
        }
        let read = |row: Option<V::Read<'_>>| row.map(|row| V::of(row).ok_or_else(unreadable)).transpose();
        let retired = rows.retired.into_iter().map(|row| V::of(row).ok_or_else(unreadable)).collect::<Result<_, _>>()?;
        Ok(Kept { current: read(rows.current)?, previous: read(rows.previous)?, pending: read(rows.pending)?, retired, past: rows.past })
    }

    /// Keeps it; it is on the disk when this returns.
    pub(super) fn save(&self, secret: &SecretName, kept: &Kept<V>) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::Unreachable(format!("local store: the values of {secret} cannot be kept: {why}"));
        let rows = Rows {
            format: FORMAT,
            secret: secret.as_str().into(),
            current: kept.current.as_ref().map(V::row),
            previous: kept.previous.as_ref().map(V::row),
            pending: kept.pending.as_ref().map(V::row),
            retired: kept.retired.iter().map(V::retired).collect(),
            past: kept.past,
        };
        let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(&mut *text, &rows).map_err(|why| failed(why.to_string()))?;
        let text = SecretBytes::take_from(&mut text);
        blocking(|| self.store.save_own(&self.label(secret), &text)).map_err(|why| failed(why.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    #[test]
    fn values_are_long_and_differ() {
        let random = SeededRandom::new(1);
        let (one, other) = (random_value(&random), random_value(&random));
        assert!(one.len() == 43 && one.expose() != other.expose());
        assert!(one.expose().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
    }
}
