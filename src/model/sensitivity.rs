//! How much harm a secret's disclosure would do.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A property of every secret, from least to most sensitive; `Ord` follows that. There is no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sensitivity {
    /// Would harm nobody.
    Public,
    /// For anything inside the organisation.
    Internal,
    /// Customer or business data.
    Confidential,
    /// Disclosure is an incident.
    Restricted,
    /// The crown jewels.
    Critical,
}

impl Sensitivity {
    /// Every level, least sensitive first.
    pub const ALL: [Sensitivity; 5] =
        [Sensitivity::Public, Sensitivity::Internal, Sensitivity::Confidential, Sensitivity::Restricted, Sensitivity::Critical];

    /// The word users see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Sensitivity::Public => "public",
            Sensitivity::Internal => "internal",
            Sensitivity::Confidential => "confidential",
            Sensitivity::Restricted => "restricted",
            Sensitivity::Critical => "critical",
        }
    }
}

impl fmt::Display for Sensitivity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
