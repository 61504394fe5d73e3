//! Names, parsed once and canonical: two different byte strings never mean the same thing.
//!
//! A name that is not canonical is refused, never repaired: policy, cache, audit and limits all see the same bytes.

use serde::Deserialize;
use std::{fmt, sync::Arc};

/// Why a name was refused. The offending text is not repeated: it may hold anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("is empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("may hold only a-z, 0-9, '.', '_' and '-', and must start with a letter or digit")]
    Character,
    #[error("may hold only letters, digits, '.', '_' and '-', and must not start with a dot")]
    Credential,
    #[error("must be up to 8 parts joined by single slashes, each of a-z, 0-9, '.', '_' and '-' and beginning with a letter or digit")]
    Parts,
    #[error("must read SYSTEM:ID, such as jira:OPS-1: the system as a-z, 0-9, '.', '_' and '-', the id as letters, digits and -_.#/")]
    Ticket,
}

fn check_part(part: &str) -> Result<(), NameError> {
    let bytes = part.as_bytes();
    let Some(first) = bytes.first() else { return Err(NameError::Parts) };
    if !(first.is_ascii_lowercase() || first.is_ascii_digit()) {
        return Err(NameError::Character);
    }
    if bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b)) {
        Ok(())
    } else {
        Err(NameError::Character)
    }
}

fn check(text: &str, max_bytes: usize, max_parts: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max_bytes {
        return Err(NameError::TooLong(max_bytes));
    }
    let mut parts = 0;
    for part in text.split('/') {
        check_part(part).map_err(|error| if max_parts == 1 { error } else { NameError::Parts })?;
        parts += 1;
    }
    if parts > max_parts { Err(if max_parts == 1 { NameError::Character } else { NameError::Parts }) } else { Ok(()) }
}

macro_rules! names {
    ($($(#[$doc:meta])* $type:ident($bytes:expr, $parts:expr);)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(Arc<str>);
        super::text::as_text!($type);

        impl $type {
            /// Parses the canonical form; anything else is refused.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                check(text, $bytes, $parts)?;
                Ok(Self(text.into()))
            }

            /// The name as it is written everywhere.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                check(&text, $bytes, $parts)?;
                Ok(Self(text.into()))
            }
        }

        impl std::str::FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    )*};
}

names! {
    /// A secret in the catalogue, such as `prod-db/orders-ro`. Everything before a slash is a folder that policy can name.
    SecretName(200, 8);
    /// A registered workload, agent or shared identity.
    IdentityName(64, 1);
    /// A group of identities, for policy.
    GroupName(64, 1);
    /// Why something is done, from a closed catalogue: an identity and a secret must both list it.
    Purpose(64, 1);
    /// `prod`, `staging` and the like; an identity never reaches another environment's secrets.
    Environment(32, 1);
    /// The team or person who answers for a secret, an identity or a grant.
    Owner(64, 1);
    /// One configured secrets engine.
    EngineName(64, 1);
}

impl SecretName {
    /// The folders above this secret, outermost first: `a/b/c` lies in `a` and `a/b`.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.0.match_indices('/').map(|(at, _)| &self.0[..at])
    }
}

/// What a unit calls one of its credentials (systemd.exec(5), `LoadCredential=`): letters, digits, `.`, `_` and `-`, not beginning with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct CredentialName(Arc<str>);
super::text::as_text!(CredentialName);

impl CredentialName {
    /// Parses the name; anything else is refused.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match text.as_bytes() {
            [] => Err(NameError::Empty),
            bytes if bytes.len() > 255 => Err(NameError::TooLong(255)),
            [b'.', ..] => Err(NameError::Credential),
            bytes if bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b)) => Ok(Self(text.into())),
            _ => Err(NameError::Credential),
        }
    }

    /// The name as it is written everywhere.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CredentialName {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

/// A ticket in some tracker, as `SYSTEM:ID` in the tracker's own spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TicketId(Arc<str>);
super::text::as_text!(TicketId);

impl TicketId {
    /// Parses `system:id`: the system in lower case, the id of letters, digits, `-`, `_`, `.`, `#`, `/`.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.len() > 96 {
            return Err(NameError::TooLong(96));
        }
        let (system, id) = text.split_once(':').ok_or(NameError::Ticket)?;
        check(system, 32, 1).map_err(|_| NameError::Ticket)?;
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.#/".contains(&b)) {
            return Err(NameError::Ticket);
        }
        Ok(Self(text.into()))
    }

    /// The ticket as it is written everywhere.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TicketId {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn canonical_names_are_kept_and_everything_else_is_refused() {
        for good in ["a", "prod-db/orders-ro", "0/1/2/3/4/5/6/7", "a.b_c-d"] {
            assert_eq!(SecretName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "a/", "/a", "a//b", "A", "a b", " a", "a\n", "ä", "a/-b", "0/1/2/3/4/5/6/7/8", "..", "a/../b", "a\0"] {
            assert!(SecretName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(IdentityName::parse("a/b").is_err());
    }

    #[test]
    fn folders_lead_to_the_secret() {
        let name = SecretName::parse("a/b/c").unwrap();
        assert_eq!(name.folders().collect::<Vec<_>>(), ["a", "a/b"]);
    }

    proptest! {
        #[test]
        fn parsing_never_changes_a_byte(text in "\\PC{0,40}|[a-z0-9._/-]{0,40}") {
            if let Ok(name) = SecretName::parse(&text) {
                prop_assert_eq!(name.as_str().as_bytes(), text.as_bytes());
            }
        }
    }
}
