//! How an ending came out, and how that is known.

use crate::model::{EndResult, Proof};

/// What became of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// `Revoked` or `Lapsed`; `Shared` where no engine was asked.
    pub result: EndResult,
    /// What was seen; none where nothing exists that could be looked at.
    pub proof: Option<Proof>,
}

impl Over {
    /// The source confirmed that it is dead.
    pub const fn revoked(proof: Proof) -> Self {
        Self { result: EndResult::Revoked, proof: Some(proof) }
    }

    /// There is nothing at the source to be revoked: looked for, or known.
    pub const fn lapsed(proof: Proof) -> Self {
        Self { result: EndResult::Lapsed, proof: Some(proof) }
    }

    /// There never was anything at a source: a copy lives on until it expires or is rotated.
    pub const LAPSED: Self = Self { result: EndResult::Lapsed, proof: None };

    /// Other leases have the same credential, so it lives.
    pub const SHARED: Self = Self { result: EndResult::Shared, proof: None };
}

/// For whoever does not ask how it is known.
impl PartialEq<EndResult> for Over {
    fn eq(&self, result: &EndResult) -> bool {
        self.result == *result
    }
}
