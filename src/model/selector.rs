//! One attested fact as `kind:value`, in SPIRE's spelling.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// How hard a selector is to arrange for another program of the same user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strength {
    /// A neighbour of the same uid can bring it about: executable path or digest, a unit of the user's own manager.
    Weak,
    /// The kernel or root decides it: uid, gid, system unit, container, the launcher.
    Strong,
}

/// Not a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("must read kind:value, such as unix:uid:1000")]
    Shape,
    #[error("is not of a kind that this version attests; there is {}", Selector::kinds().collect::<Vec<_>>().join(", "))]
    Kind,
    #[error("has a value that {0} never has: it is {1}")]
    Value(&'static str, &'static str),
}

/// `kind:value`, for instance `unix:uid:1000`, `unix:path:/usr/bin/psql`, `systemd:id:orders.service`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Selector {
    text: Arc<str>,
    value_at: u16,
}
super::text::as_text!(Selector);

/// A kind, what its value must look like, and how strong it is.
type Kind = (&'static str, Form, Strength);

/// What a value looks like, and in words.
type Form = (fn(&str) -> bool, &'static str);

const ID: Form = (is_id, "a number, such as 1000");
const WORD: Form = (is_word, "a name without a slash");
const PATH: Form = (is_path, "an absolute path without '.', '..' or doubled slashes");
const SHA256: Form = (is_sha256, "64 characters of 0-9a-f");

/// Kinds with what their value must look like and how strong they are.
const KINDS: &[Kind] = &[
    ("unix:uid", ID, Strength::Strong),
    ("unix:user", WORD, Strength::Strong),
    ("unix:gid", ID, Strength::Strong),
    ("unix:group", WORD, Strength::Strong),
    ("unix:supplementary_gid", ID, Strength::Strong),
    ("unix:supplementary_group", WORD, Strength::Strong),
    ("unix:path", PATH, Strength::Weak),
    ("unix:sha256", SHA256, Strength::Weak),
    ("exe:root-owned", PATH, Strength::Weak),
    ("cgroup:path", PATH, Strength::Strong),
    ("systemd:id", WORD, Strength::Strong),
    ("systemd:loads", WORD, Strength::Strong),
    ("systemd:user-unit", WORD, Strength::Weak),
    ("container:id", WORD, Strength::Strong),
    ("launch:id", WORD, Strength::Strong),
];

fn is_id(value: &str) -> bool {
    value.parse::<u32>().is_ok_and(|id| id.to_string() == value)
}
fn is_word(value: &str) -> bool {
    !value.is_empty() && value.len() <= 255 && value.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}
fn is_path(value: &str) -> bool {
    value.starts_with('/')
        && value.len() <= 4095
        && !value.chars().any(char::is_control)
        && (value == "/" || value[1..].split('/').all(|part| !part.is_empty() && part != "." && part != ".."))
}
fn is_sha256(value: &str) -> bool {
    value.len() == 64 && value.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Selector {
    /// Parses `kind:value` of a known kind.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut colons = text.match_indices(':').map(|(at, _)| at);
        let at = colons.nth(1).ok_or(SelectorError::Shape)?;
        let (kind, value) = (&text[..at], &text[at + 1..]);
        let &(name, (fits, form), _) = KINDS.iter().find(|(k, _, _)| *k == kind).ok_or(SelectorError::Kind)?;
        if fits(value) { Ok(Self { text: text.into(), value_at: (at + 1) as u16 }) } else { Err(SelectorError::Value(name, form)) }
    }

    /// A fact that was attested; `None` when the value cannot be written as a selector (an executable's odd name, say),
    /// and then nothing can match it.
    pub fn of(kind: &str, value: impl fmt::Display) -> Option<Self> {
        Self::parse(&format!("{kind}:{value}")).ok()
    }

    /// `unix:uid` in `unix:uid:1000`.
    pub fn kind(&self) -> &str {
        &self.text[..self.value_at as usize - 1]
    }

    /// `1000` in `unix:uid:1000`.
    pub fn value(&self) -> &str {
        &self.text[self.value_at as usize..]
    }

    /// How hard it is to arrange.
    pub fn strength(&self) -> Strength {
        KINDS.iter().find(|(k, _, _)| *k == self.kind()).map_or(Strength::Weak, |(_, _, s)| *s)
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Every kind that is attested, for error messages and documentation.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        KINDS.iter().map(|(kind, _, _)| *kind)
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;
    fn try_from(text: String) -> Result<Self, SelectorError> {
        Self::parse(&text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_kinds_with_sound_values_only() {
        let s = Selector::parse("unix:path:/usr/bin/a:b").unwrap();
        assert_eq!((s.kind(), s.value(), s.strength()), ("unix:path", "/usr/bin/a:b", Strength::Weak));
        assert_eq!(Selector::parse("unix:uid:1000").unwrap().strength(), Strength::Strong);
        for bad in [
            "",
            "unix",
            "unix:uid",
            "unix:uid:",
            "unix:uid:01",
            "unix:uid:-1",
            "unix:uid:4294967296",
            "unix:path:bin",
            "unix:path:/a/../b",
            "unix:path:/a\n",
            "unix:sha256:00",
            "unix:cmdline:x",
            "systemd:id:a/b",
            "systemd:id:",
        ] {
            assert!(Selector::parse(bad).is_err(), "{bad}");
        }
        assert!(Selector::of("unix:path", "/x (deleted)\n").is_none());
    }
}
