//! What launcher and daemon say to each other: one question and one answer, a line each, in one message of a `SOCK_SEQPACKET` socket.

use crate::sys::LAUNCH_GIDS;
use std::{fmt, sync::Arc};

/// Bytes of a message, at most.
pub const MAX_MESSAGE: usize = 512;
/// What every question begins with: the protocol and its version.
const HEAD: &str = "claviger-launch/1";

/// The name of a manifest, and so of what is launched by it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchName(Arc<str>);

impl LaunchName {
    /// Letters, digits, `.`, `_`, `-`, at most 64, beginning with a letter or digit. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = text.bytes();
        let begins = bytes.next().is_some_and(|first| first.is_ascii_lowercase() || first.is_ascii_digit());
        let sound = bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte));
        (begins && sound && text.len() <= 64).then(|| Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LaunchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The launcher is about to become this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which manifest.
    pub name: LaunchName,
    /// Whether what it starts belongs to it.
    pub descendants: bool,
}

impl Question {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        format!("{HEAD} {} {}", self.name, if self.descendants { "tree" } else { "alone" }).into_bytes()
    }

    /// As it came; `None` for anything that [`encode`](Self::encode) does not make.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let rest = std::str::from_utf8(bytes).ok()?.strip_prefix(HEAD)?.strip_prefix(' ')?;
        let (name, scope) = rest.split_once(' ')?;
        let descendants = match scope {
            "tree" => true,
            "alone" => false,
            _ => return None,
        };
        Some(Self { name: LaunchName::parse(name)?, descendants })
    }
}

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Take this group: the process is on the record as what it is about to become.
    Group(u32),
    /// It is not launched, and why.
    Refused(String),
}

impl Answer {
    /// As it is sent. A sentence that does not fit is cut.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Answer::Group(gid) => format!("group {gid}").into_bytes(),
            Answer::Refused(why) => {
                let mut text = String::from("refused ");
                text.extend(why.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(MAX_MESSAGE - text.len()));
                text.into_bytes()
            }
        }
    }

    /// As it came; `None` for anything else, and for a group that is none of the launches'.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '))?;
        if let Some(why) = text.strip_prefix("refused ") {
            return Some(Answer::Refused(why.to_owned()));
        }
        let digits = text.strip_prefix("group ")?;
        let gid: u32 = digits.parse().ok()?;
        (gid.to_string() == digits && LAUNCH_GIDS.contains(&gid)).then_some(Answer::Group(gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_said_is_understood_and_nothing_else() {
        let name = LaunchName::parse("nightly-report").unwrap();
        for descendants in [false, true] {
            let question = Question { name: name.clone(), descendants };
            assert_eq!(Question::decode(&question.encode()), Some(question));
        }
        for bad in [
            "",
            "claviger-launch/1",
            "claviger-launch/2 a alone",
            "claviger-launch/1 A alone",
            "claviger-launch/1 a all",
            "claviger-launch/1 ../a alone",
            "claviger-launch/1  alone",
        ] {
            assert_eq!(Question::decode(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Answer::decode(&Answer::Group(2_010_000_000).encode()), Some(Answer::Group(2_010_000_000)));
        // A daemon that was taken over gives nobody root's group, or shadow's.
        for bad in [
            "group 0",
            "group 42",
            "group 2009999999",
            "group 2140000000",
            "group 02010000000",
            "group +2010000000",
            "group 4294967296",
            "group ",
            "grop 1",
        ] {
            assert_eq!(Answer::decode(bad.as_bytes()), None, "{bad}");
        }
        let long = Answer::Refused("ä\n".repeat(1000)).encode();
        assert!(long.len() <= MAX_MESSAGE && Answer::decode(&long).is_some());
    }

    proptest! {
        #[test]
        fn bytes_that_are_understood_are_the_ones_that_would_be_sent(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Some(question) = Question::decode(&bytes) { prop_assert_eq!(question.encode(), bytes.clone()); }
            if let Some(answer) = Answer::decode(&bytes) { prop_assert_eq!(answer.encode(), bytes); }
        }
    }
}
