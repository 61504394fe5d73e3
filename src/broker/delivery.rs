//! A secret that may leave: it cannot be put together without the proof that its record is written.

use crate::{
    audit::Recorded,
    digest::SealTo,
    engine::{Again, Attribute},
    lease::Lease,
    model::{RequestId, SecretBytes},
};
use std::sync::Arc;

/// The key that a value is sealed to, made by the process that was pinned: it repeated the nonce, which was made after.
#[derive(Clone)]
pub struct Pinned {
    /// The key.
    pub key: SealTo,
    /// What the message is bound to.
    pub info: String,
}

/// What the holder gets.
#[must_use]
pub struct Delivery {
    request: RequestId,
    lease: Arc<Lease>,
    credential: Again,
    clamped: Vec<String>,
    recorded: Recorded,
    pinned: Option<Pinned>,
}

impl Delivery {
    pub(super) fn new(
        request: RequestId,
        lease: Arc<Lease>,
        credential: impl Into<Again>,
        clamped: Vec<String>,
        recorded: Recorded,
    ) -> Self {
        Self { request, lease, credential: credential.into(), clamped, recorded, pinned: None }
    }

    /// The same, to be sealed to this key.
    pub(super) fn to(self, pinned: Option<Pinned>) -> Self {
        Self { pinned, ..self }
    }

    /// What the value must be sealed to.
    pub fn pinned(&self) -> Option<&Pinned> {
        self.pinned.as_ref()
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
    pub fn attributes(&self) -> &[Attribute] {
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
