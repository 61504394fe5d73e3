//! Ed25519 (RFC 8032) and ECDSA P-256 with SHA-256 (ES256, RFC 7518) signatures.

use crate::{
    model::SecretBytes,
    sys::{Vaulted, scrub_stack},
};
use ring::{
    rand::SystemRandom,
    signature::{self, KeyPair},
};

/// Bytes that are not a key, or a key that could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a private key of the expected kind (PKCS #8)")]
pub struct KeyError;

/// Calls `compute`, which has a key on its stack, and wipes what that left.
pub(super) fn scrubbed<T>(compute: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn below<T>(compute: impl FnOnce() -> T) -> T {
        compute()
    }
    let out = below(compute);
    scrub_stack();
    out
}

/// An Ed25519 private key, which rests in the vault: the crypto library does not wipe its own.
pub struct Ed25519Key(Vaulted<signature::Ed25519KeyPair>);

impl Ed25519Key {
    /// A new key as PKCS #8 bytes.
    pub fn generate() -> Result<SecretBytes, KeyError> {
        scrubbed(|| {
            let document = signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| KeyError)?;
            Ok(SecretBytes::new(document.as_ref().to_vec()))
        })
    }

    /// Reads PKCS #8.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        scrubbed(|| signature::Ed25519KeyPair::from_pkcs8(bytes).map(|key| Self(Vaulted::new(key))).map_err(|_| KeyError))
    }

    /// The key that follows from a 32-byte seed (RFC 8032, 5.1.5).
    pub fn from_seed(seed: &[u8]) -> Result<Self, KeyError> {
        scrubbed(|| signature::Ed25519KeyPair::from_seed_unchecked(seed).map(|key| Self(Vaulted::new(key))).map_err(|_| KeyError))
    }

    /// Reads PKCS #8 that may lack the public key (RFC 5208), as OpenSSL writes it; where it is there, both must belong together.
    pub fn from_pkcs8_maybe_unpaired(bytes: &[u8]) -> Result<Self, KeyError> {
        scrubbed(|| signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes).map(|key| Self(Vaulted::new(key))).map_err(|_| KeyError))
    }

    /// The 32 public bytes.
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The 64-byte signature.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        scrubbed(|| self.0.sign(message).as_ref().to_vec())
    }
}

/// Whether `signature` over `message` is by the holder of `public` (32 bytes).
pub fn verify_ed25519(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ED25519, public).verify(message, signature).is_ok()
}

/// A P-256 private key for ES256, which rests in the vault.
pub struct EcdsaKey(Vaulted<signature::EcdsaKeyPair>);

impl EcdsaKey {
    /// A new key as PKCS #8 bytes.
    pub fn generate() -> Result<SecretBytes, KeyError> {
        scrubbed(|| {
            let document = signature::EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .map_err(|_| KeyError)?;
            Ok(SecretBytes::new(document.as_ref().to_vec()))
        })
    }

    /// Reads PKCS #8.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, KeyError> {
        scrubbed(|| {
            signature::EcdsaKeyPair::from_pkcs8(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, bytes, &SystemRandom::new())
                .map(|key| Self(Vaulted::new(key)))
                .map_err(|_| KeyError)
        })
    }

    /// The public point, uncompressed: 0x04, x, y.
    pub fn public(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    /// The 64-byte signature r || s.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        scrubbed(|| self.0.sign(&SystemRandom::new(), message).map(|s| s.as_ref().to_vec()).map_err(|_| KeyError))
    }
}

/// Whether the ES256 `signature` (r || s) over `message` is by the holder of `public` (uncompressed point).
pub fn verify_es256(public: &[u8], message: &[u8], signature: &[u8]) -> bool {
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, public).verify(message, signature).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_hold_for_their_message_only() {
        let key = Ed25519Key::from_pkcs8(Ed25519Key::generate().unwrap().expose()).unwrap();
        let signature = key.sign(b"m");
        assert!(verify_ed25519(key.public(), b"m", &signature));
        assert!(!verify_ed25519(key.public(), b"n", &signature));
        let key = EcdsaKey::from_pkcs8(EcdsaKey::generate().unwrap().expose()).unwrap();
        let signature = key.sign(b"m").unwrap();
        assert!(verify_es256(key.public(), b"m", &signature));
        assert!(!verify_es256(key.public(), b"n", &signature));
    }
}
