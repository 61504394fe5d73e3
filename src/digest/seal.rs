//! Sealing with AES-256-GCM, and keys derived by HKDF-SHA-256.

use super::random::Random;
use crate::{
    model::SecretBytes,
    sys::{VaultBytes, scrub_stack},
};
use ring::{aead, hkdf};
use zeroize::Zeroizing;

/// The sealed bytes are not what was sealed under this key with this context.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed bytes do not open: another key, another place, or they were changed")]
pub struct SealError;

/// A 256-bit key, which rests in the vault. There is deliberately no `Debug` or `Clone`.
///
/// What computing with it leaves on the stack (the cipher's round keys, blocks of the value) is wiped before a call returns.
pub struct SealKey(VaultBytes);

const NONCE: usize = 12;

impl SealKey {
    /// Bytes of a key.
    pub const LEN: usize = 32;

    /// Takes over existing key bytes; `None` unless there are exactly 32.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        (bytes.len() == Self::LEN).then(|| Self(VaultBytes::of(bytes)))
    }

    /// A new key.
    pub fn generate(random: &dyn Random) -> Self {
        let mut key = VaultBytes::zeroed(Self::LEN);
        random.fill(key.bytes_mut());
        Self(key)
    }

    /// Another key for another use: HKDF-SHA-256 (RFC 5869) with `label` as its info.
    pub fn derive(&self, label: &str) -> SealKey {
        let derived = self.derive_on_stack(label);
        scrub_stack();
        derived
    }

    #[inline(never)]
    fn derive_on_stack(&self, label: &str) -> SealKey {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                SealKey::LEN
            }
        }
        let prk = hkdf::Salt::new(hkdf::HKDF_SHA256, b"claviger").extract(self.expose());
        let mut out = VaultBytes::zeroed(Self::LEN);
        // Both calls fail only for more than 255 blocks of output; one is asked.
        prk.expand(&[label.as_bytes()], Len).and_then(|okm| okm.fill(out.bytes_mut())).expect("32 bytes are within HKDF's bound");
        SealKey(out)
    }

    /// HMAC-SHA-256 of `message` under this key, for values that must be made again from their name.
    pub fn mac(&self, message: &[u8]) -> SecretBytes {
        let mac = self.mac_on_stack(message);
        scrub_stack();
        mac
    }

    #[inline(never)]
    fn mac_on_stack(&self, message: &[u8]) -> SecretBytes {
        SecretBytes::take_from(&mut super::hash::hmac_sha256(self.expose(), message))
    }

    /// The key itself, to be wrapped by another.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    /// Seals `plain`; `context` must be given again to open it. The result begins with a random 96-bit nonce.
    pub fn seal(&self, context: &[u8], plain: &[u8], random: &dyn Random) -> Vec<u8> {
        let sealed = self.seal_on_stack(context, plain, random);
        scrub_stack();
        sealed
    }

    #[inline(never)]
    fn seal_on_stack(&self, context: &[u8], plain: &[u8], random: &dyn Random) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        random.fill(&mut nonce);
        let mut out = Vec::with_capacity(NONCE + plain.len() + 16);
        out.extend_from_slice(&nonce);
        let mut body = Zeroizing::new(Vec::with_capacity(plain.len() + 16));
        body.extend_from_slice(plain);
        // Sealing fails only past 64 GiB, far above what the store accepts.
        let tag = self
            .key()
            .seal_in_place_separate_tag(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::from(context), &mut body)
            .expect("a value below 64 GiB can be sealed");
        out.extend_from_slice(&body);
        out.extend_from_slice(tag.as_ref());
        out
    }

    /// Opens what `seal` made with the same context.
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let opened = self.open_on_stack(context, sealed);
        scrub_stack();
        opened
    }

    #[inline(never)]
    fn open_on_stack(&self, context: &[u8], sealed: &[u8]) -> Result<SecretBytes, SealError> {
        let (nonce, body) = sealed.split_at_checked(NONCE).ok_or(SealError)?;
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = aead::Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError)?;
        let plain = self.key().open_in_place(nonce, aead::Aad::from(context), &mut body).map_err(|_| SealError)?;
        Ok(SecretBytes::take_from(plain))
    }

    fn key(&self) -> aead::LessSafeKey {
        // 32 bytes always make a key of this algorithm.
        aead::LessSafeKey::new(aead::UnboundKey::new(&aead::AES_256_GCM, self.expose()).expect("32 bytes are an AES-256 key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    #[test]
    fn opens_only_in_its_own_place_and_unchanged() {
        let random = SeededRandom::new(1);
        let key = SealKey::generate(&random);
        let sealed = key.seal(b"name\0v1", b"value", &random);
        assert_eq!(key.open(b"name\0v1", &sealed).unwrap().expose(), b"value");
        assert!(key.open(b"name\0v2", &sealed).is_err());
        assert!(key.derive("other").open(b"name\0v1", &sealed).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(key.open(b"name\0v1", &bad).is_err(), "bit {bit}");
        }
        for cut in 0..sealed.len() {
            assert!(key.open(b"name\0v1", &sealed[..cut]).is_err());
        }
    }

    /// Whether the bytes lie somewhere in the 16 KiB below this frame, as the kernel reads them.
    #[inline(never)]
    fn below(needle: &[u8]) -> bool {
        use std::os::unix::fs::FileExt;
        let here = 0u8;
        let mut stack = vec![0; 16 << 10];
        let from = &raw const here as u64 - stack.len() as u64;
        std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut stack, from).unwrap();
        stack.windows(needle.len()).any(|window| window == needle)
    }

    #[test]
    fn nothing_of_a_key_is_left_on_the_stack() {
        let random = SeededRandom::new(2);
        let key = SealKey::generate(&random);
        let sealed = key.seal(b"place", b"value", &random);
        // The cipher's first round key is the key's first half.
        let left = |compute: &dyn Fn() -> bool| compute() && below(&key.expose()[..16]);
        assert!(left(&|| key.open_on_stack(b"place", &sealed).is_ok()), "computing leaves it there");
        assert!(!left(&|| key.open(b"place", &sealed).is_ok()));
        assert!(!left(&|| !key.seal(b"place", b"value", &random).is_empty()));
        assert!(!left(&|| key.derive("other").expose().len() == 32 && !key.mac(b"message").is_empty()));
    }
}
