//! What is kept of a secret's static roles: the password that is given, the other role's, and the one that is being set.

use super::super::lasting::{self, Lasts, random_value};
use crate::{
    digest::Random,
    model::{SecretBytes, WallTime},
};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A password of a role.
pub(super) struct Value {
    pub(super) role: String,
    pub(super) version: u64,
    pub(super) made: WallTime,
    pub(super) password: SecretBytes,
}

/// The passwords of one secret. `previous` is another role's, and as good until that role's turn comes.
pub(super) type Kept = lasting::Kept<Value>;

/// The passwords of all secrets of one engine.
pub(super) type Passwords = lasting::Shelf<Value>;

impl Kept {
    /// Makes a password for a role: 256 random bits.
    pub(super) fn begin(&mut self, role: &str, made: WallTime, random: &dyn Random) {
        let version = [&self.current, &self.pending].into_iter().flatten().map(|value| value.version).max().unwrap_or(0) + 1;
        self.pending = Some(Value { role: role.into(), version, made, password: random_value(random) });
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

/// As it lies in the store.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ValueRow<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
    version: u64,
    made: WallTime,
    /// Never escaped, so never copied on its way.
    #[serde(borrow)]
    password: &'a str,
}

impl Lasts for Value {
    type Row<'a> = ValueRow<'a>;
    type Read<'a> = ValueRow<'a>;

    fn row(&self) -> ValueRow<'_> {
        let password = std::str::from_utf8(self.password.expose()).unwrap_or_default();
        ValueRow { role: self.role.as_str().into(), version: self.version, made: self.made, password }
    }

    fn of(row: ValueRow<'_>) -> Option<Self> {
        let password = SecretBytes::new(row.password.as_bytes().to_vec());
        Some(Self { role: row.role.into_owned(), version: row.version, made: row.made, password })
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
}
