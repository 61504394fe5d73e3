//! What is kept of a secret's static roles: the password that is given, the other role's, and the one that is being set. Sealed in the
//! local store, under a name that follows from the secret's.

use super::super::{EngineError, local::LocalStore};
use crate::{
    digest::{Random, sha256},
    model::{EngineName, SecretBytes, SecretName, WallTime},
    sys::blocking,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::RwLock;
use zeroize::Zeroizing;

const FORMAT: u32 = 1;

/// A password of a role.
pub(super) struct Value {
    pub(super) role: String,
    pub(super) version: u64,
    pub(super) made: WallTime,
    pub(super) password: SecretBytes,
}

/// The passwords of one secret.
#[derive(Default)]
pub(super) struct Kept {
    /// What is given: the server let us in with it.
    pub(super) current: Option<Value>,
    /// Another role's that was given before, and is as good until that role's turn comes.
    pub(super) previous: Option<Value>,
    /// What was to be set last. Whether it was is found out by logging in.
    pub(super) pending: Option<Value>,
}

impl Kept {
    /// Makes a password for a role: 256 random bits.
    pub(super) fn begin(&mut self, role: &str, made: WallTime, random: &dyn Random) {
        let version = [&self.current, &self.pending].into_iter().flatten().map(|value| value.version).max().unwrap_or(0) + 1;
        self.pending = Some(Value { role: role.into(), version, made, password: random_password(random) });
    }

    /// The password that was set is the one that is given; what the same role had before is dead.
    pub(super) fn promote(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        let before = [self.current.take(), self.previous.take()].into_iter().flatten();
        self.previous = before.into_iter().find(|value| value.role != pending.role);
        self.current = Some(pending);
    }

    /// A version that can still be given.
    pub(super) fn find(&self, role: &str, version: u64) -> Option<&Value> {
        [&self.current, &self.previous].into_iter().flatten().find(|value| value.role == role && value.version == version)
    }
}

/// 32 random bytes as 43 characters of base64.
pub(super) fn random_password(random: &dyn Random) -> SecretBytes {
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
struct Row<'a> {
    format: u32,
    #[serde(borrow)]
    secret: Cow<'a, str>,
    #[serde(borrow)]
    current: Option<ValueRow<'a>>,
    #[serde(borrow)]
    previous: Option<ValueRow<'a>>,
    #[serde(borrow)]
    pending: Option<ValueRow<'a>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueRow<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    version: u64,
    made: WallTime,
    /// Never escaped, so never copied on its way.
    #[serde(borrow)]
    password: &'a str,
}

impl<'a> ValueRow<'a> {
    fn of(value: &'a Value) -> Self {
        let password = std::str::from_utf8(value.password.expose()).unwrap_or_default();
        Self { role: value.role.as_str().into(), version: value.version, made: value.made, password }
    }

    fn read(self) -> Value {
        let password = SecretBytes::new(self.password.as_bytes().to_vec());
        Value { role: self.role.into_owned(), version: self.version, made: self.made, password }
    }
}

/// The passwords of all secrets of one engine.
pub(super) struct Passwords {
    engine: EngineName,
    store: Arc<LocalStore>,
    turns: Mutex<HashMap<SecretName, Arc<RwLock<()>>>>,
}

impl Passwords {
    pub(super) fn new(engine: EngineName, store: Arc<LocalStore>) -> Self {
        Self { engine, store, turns: Mutex::default() }
    }

    /// Held to write by whoever changes a secret's passwords.
    pub(super) fn turn(&self, secret: &SecretName) -> Arc<RwLock<()>> {
        // Held for a look into the table.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(secret.clone()).or_default().clone()
    }

    fn label(&self, secret: &SecretName) -> String {
        // Names of secrets may be longer than the store's labels.
        format!("postgres/{}/{}", self.engine, hex::encode(&sha256(&[secret.as_str().as_bytes()])[..16]))
    }

    /// What is kept; nothing for a secret whose roles were never taken over.
    pub(super) fn load(&self, secret: &SecretName) -> Result<Kept, EngineError> {
        let broken = |why: String| EngineError::Setup(format!("local store: the passwords of {secret} {why}"));
        let bytes = self.store.load_own(&self.label(secret)).map_err(|error| broken(format!("cannot be read: {error}")))?;
        let Some(bytes) = bytes else { return Ok(Kept::default()) };
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        // The parser's words may quote what it read.
        let Head { format } = serde_json::from_slice(bytes.expose()).map_err(|_| broken("cannot be read".into()))?;
        if format != FORMAT {
            return Err(broken(format!("have format {format}, this version reads {FORMAT}: start the version that wrote them")));
        }
        let row: Row<'_> = serde_json::from_slice(bytes.expose()).map_err(|_| broken("cannot be read".into()))?;
        if row.secret != secret.as_str() {
            return Err(broken("are another secret's".into()));
        }
        let read = |row: Option<ValueRow<'_>>| row.map(ValueRow::read);
        Ok(Kept { current: read(row.current), previous: read(row.previous), pending: read(row.pending) })
    }

    /// Keeps it; it is on the disk when this returns.
    pub(super) fn save(&self, secret: &SecretName, kept: &Kept) -> Result<(), EngineError> {
        let failed = |why: String| EngineError::Unreachable(format!("local store: the passwords of {secret} cannot be kept: {why}"));
        let row = Row {
            format: FORMAT,
            secret: secret.as_str().into(),
            current: kept.current.as_ref().map(ValueRow::of),
            previous: kept.previous.as_ref().map(ValueRow::of),
            pending: kept.pending.as_ref().map(ValueRow::of),
        };
        // Large enough for three of them, so that it does not grow and leave copies.
        let mut text = Zeroizing::new(Vec::with_capacity(4096));
        serde_json::to_writer(&mut *text, &row).map_err(|why| failed(why.to_string()))?;
        let text = SecretBytes::take_from(&mut text);
        blocking(|| self.store.save_own(&self.label(secret), &text)).map_err(|why| failed(why.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    fn given(kept: &Kept) -> Option<(&str, u64)> {
        kept.current.as_ref().map(|value| (value.role.as_str(), value.version))
    }

    #[test]
    fn one_role_has_one_password_and_two_have_two() {
        let random = SeededRandom::new(1);
        let mut kept = Kept::default();
        kept.begin("a", WallTime(1), &random);
        assert!(given(&kept).is_none() && kept.find("a", 1).is_none(), "what was not tried is not given");
        kept.promote();
        kept.begin("a", WallTime(2), &random);
        assert_eq!(given(&kept), Some(("a", 1)));
        kept.promote();
        assert_eq!(given(&kept), Some(("a", 2)));
        assert!(kept.find("a", 1).is_none(), "dead at the server");
        kept.begin("b", WallTime(3), &random);
        kept.promote();
        assert_eq!(given(&kept), Some(("b", 3)));
        assert!(kept.find("a", 2).is_some(), "as good as before");
        kept.begin("a", WallTime(4), &random);
        kept.promote();
        assert!(kept.find("a", 2).is_none() && kept.find("b", 3).is_some() && kept.find("a", 4).is_some());
    }

    #[test]
    fn passwords_are_long_and_differ() {
        let random = SeededRandom::new(1);
        let (one, other) = (random_password(&random), random_password(&random));
        assert!(one.len() == 43 && one.expose() != other.expose());
        assert!(one.expose().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
    }
}
