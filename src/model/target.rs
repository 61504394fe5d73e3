//! Where a credential is used: a host, with a port if it matters.

use serde::Deserialize;
use std::{fmt, sync::Arc};

/// Not a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a host name in lower case, with an optional port: no wildcard, no address, no path")]
pub struct TargetError;

/// A host name in lower case, with an optional port: `db.prod.example:5432`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Target(Arc<str>);
super::text::as_text!(Target);

impl Target {
    /// Parses the canonical form; anything else is refused.
    pub fn parse(text: &str) -> Result<Self, TargetError> {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if let Some(port) = port {
            let number: u16 = port.parse().map_err(|_| TargetError)?;
            if number == 0 || number.to_string() != port {
                return Err(TargetError);
            }
        }
        if host.is_empty() || host.len() > 253 || !host.split('.').all(is_label) {
            return Err(TargetError);
        }
        // Four numbers are an address however they are written, not a name.
        if host.split('.').all(|label| label.bytes().all(|b| b.is_ascii_digit())) {
            return Err(TargetError);
        }
        Ok(Self(text.into()))
    }

    /// The target as it is written everywhere.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty()
        && label.len() <= 63
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

impl TryFrom<String> for Target {
    type Error = TargetError;
    fn try_from(text: String) -> Result<Self, TargetError> {
        Self::parse(&text)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_of_a_host() {
        for good in ["db", "db.prod.example:5432", "xn--bcher-kva.example", "localhost:1"] {
            assert!(Target::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.example",
            "DB",
            "db.",
            ".db",
            "db:0",
            "db:05432",
            "db:65536",
            "127.0.0.1",
            "1.2",
            "db/x",
            "a_b",
            "[::1]",
            "-a",
            "db:",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
