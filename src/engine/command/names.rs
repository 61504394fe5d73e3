//! How everything is called that programs make for this daemon, and what they list of it.

use super::{About, Call, CommandEngine, Done, EngineError, answered, kept::NUMBER_MAX, other_call};
use crate::{
    digest::sha256,
    model::{LeaseId, SecretName},
};

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

    /// The names of all that there is under our mark, without it.
    pub(super) async fn listed(&self) -> Result<Vec<String>, EngineError> {
        let answer = self.program.call(&self.request(Call::List, About::All), || (), || ()).await?;
        let Done::Listed(names) = answered(Call::List, About::All, &answer, &|_| false)? else { return Err(other_call()) };
        let prefix = self.prefix();
        // Whatever else it lists is not ours to end.
        Ok(names.iter().filter_map(|name| name.strip_prefix(&prefix).map(str::to_owned)).collect())
    }

    /// The leases among them.
    pub(super) async fn leases(&self) -> Result<Vec<LeaseId>, EngineError> {
        Ok(self.listed().await?.iter().filter_map(|name| LeaseId::parse(&format!("lease-{name}")).ok()).collect())
    }

    /// The versions of a secret that there are at the source, sorted: what is called exactly as we would call it.
    pub(super) async fn version_numbers(&self, secret: &SecretName) -> Result<Vec<u64>, EngineError> {
        let prefix = version_prefix(secret);
        let number = |name: &String| version_of(name).filter(|(begin, _)| *begin == prefix).map(|(_, number)| number);
        let mut numbers: Vec<u64> = self.listed().await?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// What a name says that is exactly as we would call a version: how its secret's versions begin, and its number.
pub(super) fn version_of(name: &str) -> Option<(&str, u64)> {
    let (prefix, digits) = name.split_at_checked(PREFIX)?;
    let is_ours = prefix.strip_prefix('v')?.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let number: u64 = digits.parse().ok()?;
    (is_ours && (1..=NUMBER_MAX).contains(&number) && digits == format!("{number:013}")).then_some((prefix, number))
}

/// How long that beginning is.
const PREFIX: usize = 13;

/// Thirteen characters of which the first begins no lease's name; the number follows.
pub(super) fn version_prefix(secret: &SecretName) -> String {
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
        assert_eq!(version_of(&whole), Some((&*one, NUMBER_MAX)));
        for wrong in [
            "",
            "v",
            "lease",
            &one,
            &whole[1..],
            &format!("{one}+000000000007"),
            &format!("{one}0000000000000"),
            &whole.replacen('v', "w", 1),
        ] {
            assert!(version_of(wrong).is_none(), "{wrong}");
        }
    }
}
