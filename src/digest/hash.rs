//! SHA-256, HMAC-SHA-256, and PBKDF2 with it.

use ring::{digest, hmac};
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// 32 bytes of SHA-256.
pub type Digest = [u8; 32];

/// SHA-256 over the parts in order. The caller keeps the parts apart where their boundaries matter.
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finish()
}

/// SHA-256 fed piece by piece.
pub struct Hasher(digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

/// HMAC-SHA-256 of `message` under `key`.
pub fn hmac_sha256(key: &[u8], message: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref());
    out
}

/// PBKDF2 with HMAC-SHA-256 (RFC 8018 5.2), 32 bytes of it.
pub fn pbkdf2_hmac_sha256(password: &[u8], salt: &[u8], rounds: NonZeroU32) -> Zeroizing<Digest> {
    let mut out = Zeroizing::new([0; 32]);
    pbkdf2::pbkdf2_hmac::<pbkdf2::sha2::Sha256>(password, salt, rounds.get(), &mut *out);
    out
}
