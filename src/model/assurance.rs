//! What an attestation is worth.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How far the kernel's word reaches, from weakest to strongest; `Ord` follows that.
///
/// Only `Isolated` and `Measured` are boundaries between programs of one user id. `Program` is hygiene: another
/// process of the same uid can run code inside the genuine executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Assurance {
    /// uid, gid and groups only.
    Uid,
    /// Control group, unit and executable are known, on a uid shared with other code.
    Program,
    /// The kernel keeps neighbours out: a uid or unit of its own, the setgid launcher, an LSM label.
    Isolated,
    /// Isolated, and the content that runs was measured.
    Measured,
}

impl Assurance {
    /// Every level, weakest first.
    pub const ALL: [Assurance; 4] = [Assurance::Uid, Assurance::Program, Assurance::Isolated, Assurance::Measured];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Assurance::Uid => "uid",
            Assurance::Program => "program",
            Assurance::Isolated => "isolated",
            Assurance::Measured => "measured",
        }
    }
}

impl fmt::Display for Assurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
