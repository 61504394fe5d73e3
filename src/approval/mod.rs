//! Permit to `Clearance`: whether every piece of evidence is in hand.
//!
//! A permit that policy gives without asking for evidence is cleared at once. Requests that wait while people answer are not part of
//! this version: what is missing is answered all at once, and the caller asks again when it is there.

use crate::policy::Permit;

/// The proof that policy said yes and that nothing it asks for is missing. Only this module makes one.
#[must_use]
pub struct Clearance {
    permit: Permit,
}

impl Clearance {
    /// Clears a permit. Policy made it with the evidence at hand, so there is nothing left to settle.
    pub fn settle(permit: Permit) -> Self {
        Self { permit }
    }

    /// What was permitted.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }
}
