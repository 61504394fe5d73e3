//! Versions of values that no definition names any more. Nobody asks for them and no lease ends them: they are told, and an operator has them
//! taken back.

use super::{
    super::{Engine, EngineError, Leftover, TakenBack},
    CommandEngine,
    kept::Kept,
    lasting::Which,
    names::{version_of, version_prefix},
};
use crate::model::{EndsBy, SecretDefinition, SecretName};
use serde_json::Map;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::time::{Instant, timeout};

/// What became of so many versions is remembered.
const TOLD_MAX: usize = 1_000;

impl CommandEngine {
    /// Those at the source, and those that are kept here.
    pub(super) async fn left(&self, secrets: &[Arc<SecretDefinition>]) -> Result<Vec<Leftover>, EngineError> {
        let named = self.named_by(secrets);
        let kept: HashMap<String, SecretName> =
            self.values.secrets()?.into_iter().map(|secret| (version_prefix(&secret), secret)).collect();
        let mut left = BTreeSet::new();
        for name in self.listed().await? {
            if let Some((prefix, version)) = version_of(&name).filter(|(prefix, _)| !named.contains(*prefix)) {
                left.insert(Leftover { name: self.prefix() + &name, secret: kept.get(prefix).cloned(), version });
            }
        }
        for (_, secret) in kept.iter().filter(|(prefix, _)| !named.contains(*prefix)) {
            for value in self.values.load(secret)?.all() {
                let name = self.version_name(secret, value.version);
                left.insert(Leftover { name, secret: Some(secret.clone()), version: value.version });
            }
        }
        Ok(left.into_iter().collect())
    }

    /// Takes one back. Whether it was at the source.
    pub(super) async fn take_left(&self, left: &Leftover, secrets: &[Arc<SecretDefinition>]) -> Result<bool, EngineError> {
        let bare = left.name.strip_prefix(&self.prefix()).and_then(version_of);
        let (prefix, version) = bare.ok_or_else(|| EngineError::Setup(format!("{} is no version of ours", left.name)))?;
        if self.named_by(secrets).contains(prefix) && !crate::mutation!("command-defined-again") {
            return Err(EngineError::Setup(format!("a definition names {} again", left.name)));
        }
        let secret = left.secret.as_ref().filter(|secret| version_prefix(secret) == prefix);
        // Whoever defines it again waits for the same turn before it is changed; until then nothing of it is given.
        let turn = secret.map(|secret| self.values.turn(secret));
        let _turn = match &turn {
            Some(turn) => {
                let busy = |_| EngineError::Unreachable(format!("{} is in use", left.name));
                Some(timeout(self.program.timeout * 5, turn.write()).await.map_err(busy)?)
            }
            None => None,
        };
        let mut kept = match secret {
            Some(secret) => self.values.load(secret)?,
            None => Kept::default(),
        };
        if let Some(secret) = secret.filter(|_| kept.retire_all()) {
            // From here on nobody is given it, whoever defines it again meanwhile.
            self.values.save(secret, &kept)?;
        }
        if let Some(over) = self.open.over_at(&left.name, Instant::now()) {
            // A change that was cut short may still set it.
            tokio::time::sleep_until(over).await;
        }
        let none = Map::new();
        let unknown = Which { number: version, value: None, reference: None, parameters: &none };
        let which = kept.retired.iter().find(|value| value.version == version).map_or(unknown, Which::retired);
        let found = self.revoke_version((secret, &left.name), &kept, which).await?;
        if let Some(secret) = secret {
            kept.retired.retain(|value| value.version != version);
            match kept.retired.is_empty() {
                true => self.values.remove(secret)?,
                false => self.values.save(secret, &kept)?,
            }
        }
        Ok(found)
    }

    /// How the versions begin of those values that last and that these define.
    fn named_by(&self, secrets: &[Arc<SecretDefinition>]) -> BTreeSet<String> {
        secrets.iter().filter(|secret| self.ends_by(secret) == EndsBy::None).map(|secret| version_prefix(&secret.name)).collect()
    }
}

/// What became of versions, until somebody asks.
#[derive(Default)]
pub(super) struct Taken(Mutex<Vec<TakenBack>>);

impl Taken {
    pub(super) fn tell(&self, taken: TakenBack) {
        let mut all = self.lock();
        if all.len() < TOLD_MAX {
            all.push(taken);
        }
    }

    pub(super) fn take(&self) -> Vec<TakenBack> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<TakenBack>> {
        // A push that panicked left the list as it was.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
