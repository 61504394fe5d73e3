//! Sealing a message to a public key so that only who holds the other half reads it: HPKE (RFC 9180), base mode, one message for each key,
//! with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305.
//!
//! *ring* has the primitives and not the composition, which is this file; a vector that another implementation made holds it.

use super::{SealError, hash::hmac_sha256};
use crate::{model::SecretBytes, sys::scrub_stack};
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    agreement::{EphemeralPrivateKey, UnparsedPublicKey, X25519, agree_ephemeral},
    rand::SystemRandom,
};
use zeroize::Zeroizing;

const KEM: &[u8] = b"KEM\x00\x20";
const SUITE: &[u8] = b"HPKE\x00\x20\x00\x01\x00\x03";
const TAG: usize = 16;

/// A public key that messages are sealed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealTo([u8; SealTo::LEN]);

/// Opens the one message that is sealed to its public key.
pub struct Opener {
    private: EphemeralPrivateKey,
    public: [u8; SealTo::LEN],
}

impl SealTo {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// Takes over the bytes of a key; `None` unless there are exactly 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Seals a message; `info` must be given again to open it. The result is the encapsulated key and the ciphertext.
    pub fn seal(&self, info: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let sealed = self.seal_on_stack(info, plain);
        scrub_stack();
        sealed
    }

    #[inline(never)]
    fn seal_on_stack(&self, info: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let Opener { private, public } = Opener::generate()?;
        let key = agree(private, &self.0, |dh| key(dh, &public, &self.0, info))??;
        // One allocation that never grows: a vector that moved would leave a copy behind.
        let mut out = Vec::with_capacity(public.len() + plain.len() + TAG);
        out.extend_from_slice(&public);
        out.extend_from_slice(plain);
        let tag = key.0.seal_in_place_separate_tag(key.nonce(), Aad::empty(), &mut out[public.len()..]).map_err(|_| SealError)?;
        out.extend_from_slice(tag.as_ref());
        Ok(out)
    }
}

impl Opener {
    /// A new pair of keys.
    pub fn generate() -> Result<Self, SealError> {
        let private = EphemeralPrivateKey::generate(&X25519, &SystemRandom::new()).map_err(|_| SealError)?;
        let public = private.compute_public_key().map_err(|_| SealError)?;
        Ok(Self { public: public.as_ref().try_into().map_err(|_| SealError)?, private })
    }

    /// What others seal to.
    pub fn seal_to(&self) -> SealTo {
        SealTo(self.public)
    }

    /// Opens the message.
    pub fn open(self, info: &[u8], sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let Self { private, public } = self;
        let (encapsulated, text) = sealed.split_at_checked(SealTo::LEN).ok_or(SealError)?;
        let opened = agree(private, encapsulated, |dh| open_with(dh, encapsulated, &public, info, text))?;
        scrub_stack();
        opened
    }
}

impl AsRef<[u8]> for SealTo {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

fn agree<T>(private: EphemeralPrivateKey, public: &[u8], with: impl FnOnce(&[u8]) -> T) -> Result<T, SealError> {
    // Fails where the other side's key is of small order.
    agree_ephemeral(private, &UnparsedPublicKey::new(&X25519, public), with).map_err(|_| SealError)
}

fn open_with(dh: &[u8], encapsulated: &[u8], public: &[u8], info: &[u8], text: &[u8]) -> Result<SecretBytes, SealError> {
    let key = key(dh, encapsulated, public, info)?;
    let mut text = Zeroizing::new(text.to_vec());
    let plain = key.0.open_in_place(key.nonce(), Aad::empty(), &mut text).map_err(|_| SealError)?.len();
    text.truncate(plain);
    Ok(SecretBytes::take_from(&mut text))
}

/// The key of one message with the nonce of the first and only one.
struct MessageKey(LessSafeKey, [u8; 12]);

impl MessageKey {
    fn nonce(&self) -> Nonce {
        Nonce::assume_unique_for_key(self.1)
    }
}

/// `ExtractAndExpand` (RFC 9180, 4.1) and `KeySchedule` in base mode (5.1).
fn key(dh: &[u8], encapsulated: &[u8], public: &[u8], info: &[u8]) -> Result<MessageKey, SealError> {
    let prk = extract(KEM, b"", b"eae_prk", dh);
    let shared = expand(KEM, &*prk, b"shared_secret", &[encapsulated, public].concat(), 32);
    let context = [&[0][..], &*extract(SUITE, b"", b"psk_id_hash", b""), &*extract(SUITE, b"", b"info_hash", info)].concat();
    let secret = extract(SUITE, &shared, b"secret", b"");
    let key = expand(SUITE, &*secret, b"key", &context, 32);
    let nonce = expand(SUITE, &*secret, b"base_nonce", &context, 12);
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key).map_err(|_| SealError)?;
    let nonce = nonce.first_chunk().copied().ok_or(SealError)?;
    Ok(MessageKey(LessSafeKey::new(key), nonce))
}

/// `LabeledExtract` (RFC 9180, 4); HKDF's extraction is one HMAC (RFC 5869, 2.2).
fn extract(suite: &[u8], salt: &[u8], label: &[u8], message: &[u8]) -> Zeroizing<[u8; 32]> {
    let message = Zeroizing::new([b"HPKE-v1", suite, label, message].concat());
    Zeroizing::new(hmac_sha256(salt, &message))
}

/// `LabeledExpand` (RFC 9180, 4) for at most 32 bytes, which are the first block of HKDF's expansion (RFC 5869, 2.3).
fn expand(suite: &[u8], key: &[u8], label: &[u8], info: &[u8], len: u8) -> Zeroizing<Vec<u8>> {
    let message = [&[0, len][..], b"HPKE-v1", suite, label, info, &[1]].concat();
    Zeroizing::new(Zeroizing::new(hmac_sha256(key, &message))[..usize::from(len)].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_to_a_key_opens_with_its_other_half_alone() {
        for plain in [&b""[..], b"value", &[7; 5000]] {
            let opener = Opener::generate().unwrap();
            let sealed = opener.seal_to().seal(b"info", plain).unwrap();
            assert_eq!(sealed.len(), SealTo::LEN + plain.len() + TAG);
            assert_eq!(opener.open(b"info", &sealed).unwrap().expose(), plain);
        }
        let opened = |info: &[u8], change: fn(&mut Vec<u8>)| {
            let opener = Opener::generate().unwrap();
            let mut sealed = opener.seal_to().seal(b"info", b"value").unwrap();
            change(&mut sealed);
            opener.open(info, &sealed).is_ok()
        };
        assert!(opened(b"info", |_| {}));
        assert!(!opened(b"other", |_| {}));
        assert!(!opened(b"info", |sealed| sealed[0] ^= 1));
        assert!(!opened(b"info", |sealed| *sealed.last_mut().unwrap() ^= 1));
        assert!(!opened(b"info", |sealed| sealed.truncate(20)));
        let sealed = Opener::generate().unwrap().seal_to().seal(b"info", b"value").unwrap();
        assert!(Opener::generate().unwrap().open(b"info", &sealed).is_err(), "another's key");
        assert!(SealTo::from_bytes(&[0; 32]).unwrap().seal(b"info", b"value").is_err(), "a key of small order");
        assert!(SealTo::from_bytes(&[1; 31]).is_none());
    }

    /// Made by another implementation (pyca/cryptography 48, `hpke.Suite(X25519, HKDF_SHA256, CHACHA20_POLY1305)`).
    #[test]
    fn another_implementation_seals_the_same_way() {
        let hex = |text: &str| hex::decode(text).unwrap();
        let (dh, public, sealed) = (hex(DH), hex(PUBLIC), hex(SEALED));
        let (encapsulated, text) = sealed.split_at(SealTo::LEN);
        assert_eq!(open_with(&dh, encapsulated, &public, b"claviger-pinned/1 0123", text).unwrap().expose(), b"a value");
    }

    const DH: &str = "f8ddb34c6faf829278acdbf3c55ad0c9174116e59b1aa1f326d0cb0118379067";
    const PUBLIC: &str = "c6eb9014c91d9f74b73463026d6bde15cf5f4af1f4c5aea68988399a8872cd4f";
    const SEALED: &str = "675aeb0161e85316d6e1f63691d0fc6a23d15d29576df4b5ace55abb60c540664862b690406e4a461672fde1e62318d3090ef1da05bb26";
}
