//! How everything is called that programs make for this daemon, and what they list of it.

use super::{About, Call, CommandEngine, Done, EngineError, answered, kept::NUMBER_MAX, other_call};
use crate::{
    digest::sha256,
    model::{LeaseId, SecretName},
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// So many are named in one line of the log.
const MANY: usize = 20;

/// How the versions of those values begin whose definitions there are; unknown until it is said.
#[derive(Default)]
pub(super) struct Known(Mutex<Option<BTreeSet<String>>>);

impl CommandEngine {
    /// How everything of this daemon is called.
    pub(super) fn prefix(&self) -> String {
        format!("clv_{}_", self.mark)
    }

    /// How what is made for a lease is called.
    pub(super) fn name_of(&self, lease: LeaseId) -> String {
        self.prefix() + &lease.bare()
    }

    /// How a version is called at the source: as long as the name of a lease's, and never taken for one.
    pub(super) fn version_name(&self, secret: &SecretName, version: u64) -> String {
        format!("{}{}{version:013}", self.prefix(), version_prefix(secret))
    }

    /// Says which values last.
    pub(super) fn know<'a>(&self, secrets: impl Iterator<Item = &'a SecretName>) {
        *self.known.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(secrets.map(version_prefix).collect());
    }

    /// The names of all that there is under our mark, without it.
    pub(super) async fn listed(&self) -> Result<Vec<String>, EngineError> {
        let answer = self.program.call(&self.request(Call::List, About::All), || (), || ()).await?;
        let Done::Listed(names) = answered(Call::List, About::All, &answer, &|_| false)? else { return Err(other_call()) };
        let prefix = self.prefix();
        // Whatever else it lists is not ours to end.
        Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect())
    }

    /// The leases among them. Versions of a value whose definition is gone are told: whether those end is for people to say.
    pub(super) async fn leases(&self) -> Result<Vec<LeaseId>, EngineError> {
        let names = self.listed().await?;
        if let Some(known) = &*self.known.0.lock().unwrap_or_else(PoisonError::into_inner) {
            let is_left = |name: &&String| name.starts_with('v') && !known.iter().any(|prefix| name.starts_with(prefix));
            let left: Vec<&str> = names.iter().filter(is_left).map(String::as_str).take(MANY).collect();
            if !left.is_empty() {
                let (engine, mark) = (&self.name, self.prefix());
                tracing::warn!(%engine, mark, ?left, "values that last are left at the source, and no definition is theirs: take them back there");
            }
        }
        Ok(names.iter().filter_map(|name| LeaseId::parse(&format!("lease-{name}")).ok()).collect())
    }

    /// The versions of a secret that there are at the source, sorted: what is called exactly as we would call it.
    pub(super) async fn version_numbers(&self, secret: &SecretName) -> Result<Vec<u64>, EngineError> {
        let prefix = version_prefix(secret);
        let number = |name: &String| {
            let number: u64 = name.strip_prefix(&prefix)?.parse().ok()?;
            ((1..=NUMBER_MAX).contains(&number) && *name == format!("{prefix}{number:013}")).then_some(number)
        };
        let mut numbers: Vec<u64> = self.listed().await?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Thirteen characters of which the first begins no lease's name; the number follows.
fn version_prefix(secret: &SecretName) -> String {
    format!("v{}", hex::encode(&sha256(&[b"claviger version\0", secret.as_str().as_bytes()])[..6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_called_by_secret_and_number_and_never_like_a_lease() {
        let name = |text: &str| SecretName::parse(text).unwrap();
        let (one, other) = (version_prefix(&name("status/monitor")), version_prefix(&name("status/other")));
        assert!(one != other && one.len() == 13);
        let whole = format!("{one}{NUMBER_MAX:013}");
        assert_eq!(whole.len(), LeaseId::from_parts(1, 1).bare().len());
        assert!(LeaseId::parse(&format!("lease-{whole}")).is_err());
    }
}
