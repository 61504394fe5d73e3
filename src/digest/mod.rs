//! Hashes, signatures, sealing and randomness: the only home of `ring`, and of `pbkdf2` for its rounds.
//!
//! Callers name what they want (`sha256`, `Ed25519Key`, `SealKey`); no other module chooses an algorithm.

mod hash;
mod hpke;
mod random;
mod rsa;
mod seal;
mod sign;

pub use hash::{Digest, Hasher, hmac_sha256, pbkdf2_hmac_sha256, sha256};
pub use hpke::{Opener, SealTo};
pub use random::{Random, SeededRandom, SystemRandom};
pub use rsa::RsaKey;
pub use seal::{SealError, SealKey};
pub use sign::{EcdsaKey, Ed25519Key, KeyError, verify_ed25519, verify_es256};
