//! Signing keys: which are published, which one signs, and how they hand over.
//!
//! A new key is published one longest token life before it signs, so that every verifier that refreshes its copy in time knows it; the
//! one before stays published for one longest token life after it last signed, so that every token it signed can be verified until
//! it expires.

use super::JwtError;
use crate::{
    digest::{EcdsaKey, Ed25519Key, sha256},
    model::{SecretBytes, Ttl, WallTime},
    sys::VaultBytes,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How tokens are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA over P-256 with SHA-256 (RFC 7518).
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519 (RFC 8037).
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// The name in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Es256 => "ES256",
            Algorithm::EdDsa => "EdDSA",
        }
    }
}

/// One key pair and the time from which it signs.
pub(super) struct SigningKey {
    pub(super) kid: String,
    pub(super) algorithm: Algorithm,
    pub(super) signs_from: WallTime,
    pair: Pair,
    pkcs8: VaultBytes,
}

enum Pair {
    Es256(EcdsaKey),
    EdDsa(Ed25519Key),
}

impl SigningKey {
    fn generate(algorithm: Algorithm, signs_from: WallTime) -> Result<Self, JwtError> {
        let pkcs8 = match algorithm {
            Algorithm::Es256 => EcdsaKey::generate()?,
            Algorithm::EdDsa => Ed25519Key::generate()?,
        };
        Self::load(algorithm, signs_from, pkcs8.expose())
    }

    fn load(algorithm: Algorithm, signs_from: WallTime, pkcs8: &[u8]) -> Result<Self, JwtError> {
        let pair = match algorithm {
            Algorithm::Es256 => Pair::Es256(EcdsaKey::from_pkcs8(pkcs8)?),
            Algorithm::EdDsa => Pair::EdDsa(Ed25519Key::from_pkcs8(pkcs8)?),
        };
        let kid = URL_SAFE_NO_PAD.encode(sha256(&[thumbprint_input(&pair).as_bytes()]));
        Ok(Self { kid, algorithm, signs_from, pair, pkcs8: VaultBytes::of(pkcs8) })
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, JwtError> {
        match &self.pair {
            Pair::Es256(key) => Ok(key.sign(message)?),
            Pair::EdDsa(key) => Ok(key.sign(message)),
        }
    }

    /// The public half as a JSON Web Key (RFC 7517, 8037).
    pub(super) fn jwk(&self) -> Value {
        let (kid, alg) = (&self.kid, self.algorithm.as_str());
        match &self.pair {
            Pair::Es256(key) => {
                let (x, y) = coordinates(key);
                json!({"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": kid, "alg": alg, "use": "sig"})
            }
            Pair::EdDsa(key) => {
                let x = URL_SAFE_NO_PAD.encode(key.public());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid, "alg": alg, "use": "sig"})
            }
        }
    }
}

/// The required members in the order of their names without spaces: what RFC 7638 hashes into a key's id.
fn thumbprint_input(pair: &Pair) -> String {
    match pair {
        Pair::Es256(key) => {
            let (x, y) = coordinates(key);
            format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#)
        }
        Pair::EdDsa(key) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, URL_SAFE_NO_PAD.encode(key.public())),
    }
}

/// The point without its leading 0x04, in halves.
fn coordinates(key: &EcdsaKey) -> (String, String) {
    let point = key.public();
    (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]))
}

/// All keys of one engine, of every algorithm, oldest first.
#[derive(Clone, Default)]
pub(super) struct KeyRing(Vec<Arc<SigningKey>>);

/// What stands before the keys' bytes where they are kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    keys: Vec<HeadKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadKey {
    algorithm: Algorithm,
    signs_from: WallTime,
    bytes: usize,
}

impl KeyRing {
    /// The key that signs now: the newest whose time has come.
    pub(super) fn signing(&self, algorithm: Algorithm, now: WallTime) -> Option<&Arc<SigningKey>> {
        let mine = self.0.iter().filter(|key| key.algorithm == algorithm);
        // If the clock went back behind every key's time, the oldest signs: it is published, and refusing would help nobody.
        mine.clone().filter(|key| key.signs_from <= now).max_by_key(|key| key.signs_from).or_else(|| mine.min_by_key(|key| key.signs_from))
    }

    /// Every key a verifier may need, with those that are to sign later.
    pub(super) fn published(&self) -> impl Iterator<Item = &Arc<SigningKey>> {
        self.0.iter()
    }

    /// When the key signs no more: when the next of its algorithm begins.
    pub(super) fn signs_until(&self, key: &SigningKey) -> Option<WallTime> {
        let later = self.0.iter().filter(|other| other.algorithm == key.algorithm && other.signs_from > key.signs_from);
        later.map(|other| other.signs_from).min()
    }

    /// Adds a first key that signs at once.
    pub(super) fn begin(&mut self, algorithm: Algorithm, now: WallTime) -> Result<(), JwtError> {
        self.0.push(Arc::new(SigningKey::generate(algorithm, now)?));
        Ok(())
    }

    /// Adds a key that signs one longest token life from now. Not while the one before still waits for its time: a second hand-over on
    /// top of a first would shorten how long a key is known before it signs.
    pub(super) fn rotate(&mut self, algorithm: Algorithm, now: WallTime, life: Ttl) -> Result<Arc<SigningKey>, JwtError> {
        let newest = self.0.iter().filter(|key| key.algorithm == algorithm).map(|key| key.signs_from).max();
        if let Some(waits_until) = newest.filter(|from| *from > now) {
            return Err(JwtError::Pending(waits_until));
        }
        let key = Arc::new(SigningKey::generate(algorithm, plus(now, life))?);
        self.0.push(key.clone());
        Ok(key)
    }

    /// Drops every key of the algorithm and begins anew: for a key that somebody else may have.
    pub(super) fn discard_and_begin(&mut self, algorithm: Algorithm, now: WallTime) -> Result<(), JwtError> {
        self.0.retain(|key| key.algorithm != algorithm);
        self.begin(algorithm, now)
    }

    /// Drops keys under which no token can be alive any more; says whether any were.
    pub(super) fn prune(&mut self, now: WallTime, life: Ttl) -> bool {
        let before = self.0.len();
        let all = self.clone();
        self.0.retain(|key| all.signs_until(key).is_none_or(|until| plus(until, life) > now));
        self.0.len() < before
    }

    /// For keeping, sealed: a line of JSON and after it the private keys one after another.
    pub(super) fn to_bytes(&self) -> Result<SecretBytes, JwtError> {
        let keys = self.0.iter().map(|key| HeadKey { algorithm: key.algorithm, signs_from: key.signs_from, bytes: key.pkcs8.len() });
        let mut bytes = serde_json::to_vec(&Head { format: 1, keys: keys.collect() }).map_err(|_| JwtError::Unreadable)?;
        bytes.push(b'\n');
        // Room for everything before the first secret byte goes in, so that nothing moves and leaves a copy.
        bytes.reserve_exact(self.0.iter().map(|key| key.pkcs8.len()).sum());
        let mut bytes = Zeroizing::new(bytes);
        for key in &self.0 {
            bytes.extend_from_slice(key.pkcs8.expose());
        }
        Ok(SecretBytes::take_from(&mut bytes))
    }

    pub(super) fn from_bytes(bytes: &SecretBytes) -> Result<Self, JwtError> {
        let bytes = bytes.expose();
        let line = bytes.iter().position(|byte| *byte == b'\n').ok_or(JwtError::Unreadable)?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        // The format alone first: another one may have members that this version does not know.
        let Format { format } = serde_json::from_slice(&bytes[..line]).map_err(|_| JwtError::Unreadable)?;
        if format != 1 {
            return Err(JwtError::Format(format));
        }
        let head: Head = serde_json::from_slice(&bytes[..line]).map_err(|_| JwtError::Unreadable)?;
        let mut rest = &bytes[line + 1..];
        let mut keys = Vec::with_capacity(head.keys.len());
        for key in head.keys {
            let (own, after) = rest.split_at_checked(key.bytes).ok_or(JwtError::Unreadable)?;
            keys.push(Arc::new(SigningKey::load(key.algorithm, key.signs_from, own)?));
            rest = after;
        }
        if rest.is_empty() { Ok(Self(keys)) } else { Err(JwtError::Unreadable) }
    }
}

fn plus(at: WallTime, life: Ttl) -> WallTime {
    WallTime(at.0.saturating_add(u64::from(life.as_secs()) * 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Ttl = Ttl::from_secs(3600).unwrap();

    fn at(seconds: u64) -> WallTime {
        WallTime(seconds * 1_000_000)
    }

    #[test]
    fn a_key_is_known_before_it_signs_and_until_its_last_token_is_dead() {
        for algorithm in [Algorithm::Es256, Algorithm::EdDsa] {
            let mut ring = KeyRing::default();
            ring.begin(algorithm, at(0)).unwrap();
            let first = ring.signing(algorithm, at(0)).unwrap().kid.clone();
            let second = ring.rotate(algorithm, at(10_000), LIFE).unwrap().kid.clone();
            assert_ne!(first, second);
            assert_eq!(ring.signing(algorithm, at(13_599)).unwrap().kid, first);
            assert_eq!(ring.signing(algorithm, at(13_600)).unwrap().kid, second);
            assert!(matches!(ring.rotate(algorithm, at(13_599), LIFE), Err(JwtError::Pending(t)) if t == at(13_600)));
            assert!(!ring.prune(at(17_199), LIFE), "a token signed at 13599 lives until 17199");
            assert_eq!(ring.published().count(), 2);
            assert!(ring.prune(at(17_200), LIFE));
            assert_eq!(ring.published().map(|key| key.kid.clone()).collect::<Vec<_>>(), [second]);
        }
    }

    #[test]
    fn algorithms_rotate_apart_and_keys_are_kept_whole() {
        let mut ring = KeyRing::default();
        ring.begin(Algorithm::Es256, at(0)).unwrap();
        ring.begin(Algorithm::EdDsa, at(0)).unwrap();
        ring.rotate(Algorithm::EdDsa, at(1), LIFE).unwrap();
        let again = KeyRing::from_bytes(&ring.to_bytes().unwrap()).unwrap();
        let kids = |ring: &KeyRing| ring.published().map(|key| key.kid.clone()).collect::<Vec<_>>();
        assert_eq!(kids(&ring), kids(&again));
        assert_eq!(again.signs_until(again.signing(Algorithm::Es256, at(9_999)).unwrap()), None);
        let mut cut = ring.to_bytes().unwrap().expose().to_vec();
        cut.pop();
        assert!(KeyRing::from_bytes(&SecretBytes::new(cut)).is_err());
    }

    #[test]
    fn a_key_id_is_the_thumbprint_of_rfc_8037() {
        // RFC 8037, A.1 and A.3.
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        // ring wants the public key beside the private one.
        let public = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let mut document = hex::decode("3053020101300506032b657004220420").unwrap();
        document.extend_from_slice(&seed);
        document.extend_from_slice(&hex::decode("a123032100").unwrap());
        document.extend_from_slice(&public);
        let key = SigningKey::load(Algorithm::EdDsa, at(0), &document).unwrap();
        assert_eq!(key.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(key.jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
    }
}
