//! What is done with a secret, and how it travels.

use serde::{Deserialize, Serialize};
use std::fmt;

/// What the holder will do with the credential. `Ord` is by harm: a later one is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Looks.
    Read,
    /// Changes data.
    Write,
    /// Changes who may do what, or how the system works.
    Admin,
    /// Removes what cannot be brought back.
    Destroy,
}

impl Operation {
    /// Every operation, least harmful first.
    pub const ALL: [Operation; 4] = [Operation::Read, Operation::Write, Operation::Admin, Operation::Destroy];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Operation::Read => "read",
            Operation::Write => "write",
            Operation::Admin => "admin",
            Operation::Destroy => "destroy",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How the secret reaches its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// The holder gets the value.
    Deliver,
    /// The value is put on the wire; the holder never has it.
    Inject,
    /// Only an operation is done with it.
    Sign,
}

impl Channel {
    /// Every channel.
    pub const ALL: [Channel; 3] = [Channel::Deliver, Channel::Inject, Channel::Sign];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Channel::Deliver => "deliver",
            Channel::Inject => "inject",
            Channel::Sign => "sign",
        }
    }
}
