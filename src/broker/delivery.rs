//! A secret that may leave: it cannot be put together without the proof that its record is written.

use crate::{
    audit::Recorded,
    engine::Again,
    lease::Lease,
    model::{RequestId, SecretBytes},
};
use std::sync::Arc;

/// What the holder gets.
#[must_use]
pub struct Delivery {
    request: RequestId,
    lease: Arc<Lease>,
    credential: Again,
    clamped: Vec<String>,
    recorded: Recorded,
}

impl Delivery {
    pub(super) fn new(
        request: RequestId,
        lease: Arc<Lease>,
        credential: impl Into<Again>,
        clamped: Vec<String>,
        recorded: Recorded,
    ) -> Self {
        Self { request, lease, credential: credential.into(), clamped, recorded }
    }

    /// The request it answers.
    pub fn request(&self) -> RequestId {
        self.request
    }
    /// The lease it belongs to.
    pub fn lease(&self) -> &Arc<Lease> {
        &self.lease
    }
    /// The value.
    pub fn value(&self) -> &SecretBytes {
        &self.credential.value
    }
    /// Names beside the value.
    pub fn attributes(&self) -> &[(&'static str, String)] {
        &self.credential.attributes
    }
    /// What policy shortened, in words.
    pub fn clamped(&self) -> &[String] {
        &self.clamped
    }
    /// The record.
    pub fn recorded(&self) -> &Recorded {
        &self.recorded
    }
}
