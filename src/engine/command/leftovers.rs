//! Versions of values that no definition names any more. Nobody asks for them and no lease ends them: they are told, and an operator has them
//! taken back.

use super::{
    super::{Defined, EngineError, Leftover, TakenBack},
    Call, CommandEngine, Done,
    kept::Kept,
    lasting::Which,
    names::{version_of, version_prefix},
};
use crate::model::SecretName;
use serde_json::Map;
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::time::{Instant, timeout};

/// What became of so many versions is remembered.
const TOLD_MAX: usize = 1_000;

impl CommandEngine {
    /// Those at the source, and those that are kept here.
    pub(super) async fn left(&self, defined: Defined<'_>) -> Result<Vec<Leftover>, EngineError> {
        let kept: HashMap<String, SecretName> = self.values.secrets().into_iter().map(|secret| (version_prefix(&secret), secret)).collect();
        let listed = self.listed().await?;
        let named = prefixes(defined);
        let mut left = BTreeSet::new();
        for name in listed {
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
    pub(super) async fn take_left(&self, left: &Leftover, defined: Defined<'_>) -> Result<bool, EngineError> {
        let bare = left.name.strip_prefix(&self.prefix()).and_then(version_of);
        let (prefix, version) = bare.ok_or_else(|| EngineError::Setup(format!("{} is no version of ours", left.name)))?;
        let still_left = || match prefixes(defined).contains(prefix) && !crate::mutation!("command-defined-again") {
            true => Err(EngineError::Setup(format!("{} is defined again", left.name))),
            false => Ok(()),
        };
        let secret = left.secret.as_ref().filter(|secret| version_prefix(secret) == prefix);
        // Looked at with the turn: a change that was under way may have given it meanwhile, for a definition that is back.
        let turn = secret.map(|secret| self.values.turn(secret));
        let _turn = match &turn {
            Some(turn) => {
                let busy = |_| EngineError::Unreachable(format!("{} is in use", left.name));
                Some(timeout(self.program.timeout * 5, turn.write()).await.map_err(busy)?)
            }
            None => None,
        };
        still_left()?;
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
            still_left()?;
        }
        let found = self.end_version((secret, &left.name), &kept, version).await?;
        if let Some(secret) = secret {
            kept.part_from(version);
            self.values.save(secret, &kept)?;
        }
        Ok(found)
    }

    /// Takes a version away that is given no more. One that stood in the place of others, and does not work, was replaced: who takes that
    /// place away takes somebody else's value.
    async fn end_version(&self, about: (Option<&SecretName>, &str), kept: &Kept, version: u64) -> Result<bool, EngineError> {
        let none = Map::new();
        let unknown = Which { number: version, value: None, reference: None, parameters: &none };
        let Some(value) = kept.retired.iter().find(|value| value.version == version) else {
            return self.revoke_version(about, kept, unknown).await;
        };
        if !value.overlap && !value.value.is_empty() && !crate::mutation!("command-replaced") {
            let tried = self.ask_about(Call::Probe, about, None, kept, Which::of(value)).await?;
            if matches!(tried, Done::Probed(false)) {
                return Ok(false);
            }
        }
        self.revoke_version(about, kept, Which::retired(value)).await
    }
}

/// How the versions begin of those values that last and are defined.
fn prefixes(defined: Defined<'_>) -> BTreeSet<String> {
    defined().iter().map(version_prefix).collect()
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
