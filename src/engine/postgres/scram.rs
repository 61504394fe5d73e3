//! What the server keeps of a password: a SCRAM-SHA-256 verifier (RFC 5802, RFC 7677), as PostgreSQL writes it.

use crate::{
    digest::{Random, hmac_sha256, pbkdf2_hmac_sha256, sha256},
    model::SecretBytes,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::num::NonZeroU32;
use zeroize::Zeroizing;

/// The least that RFC 7677 recommends, and that all clients take. Behind our passwords stand 256 random bits, which no number of rounds makes
/// harder to guess; the server runs through them for each verifier it is given, to see that it is not an empty password's (`CreateRole` in
/// user.c), which is most of what making a role costs it.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);
/// The most: about half a second of the server's.
pub(super) const ITERATIONS_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(999_999);

/// The verifier of a password of ours, which is ASCII: nothing of it has to be prepared (SASLprep).
pub(super) fn verifier(password: &SecretBytes, iterations: NonZeroU32, random: &dyn Random) -> Zeroizing<String> {
    let mut salt = [0; 16];
    random.fill(&mut salt);
    salted(password.expose(), iterations, &salt)
}

fn salted(password: &[u8], iterations: NonZeroU32, salt: &[u8]) -> Zeroizing<String> {
    let salted = pbkdf2_hmac_sha256(password, salt, iterations);
    let client_key = Zeroizing::new(hmac_sha256(&*salted, b"Client Key"));
    let (stored_key, server_key) = (sha256(&[&*client_key]), hmac_sha256(&*salted, b"Server Key"));
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    Zeroizing::new(format!("SCRAM-SHA-256${iterations}:{}${}:{}", text(salt), text(&stored_key), text(&server_key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    /// The example of RFC 7677, as `psql`'s `\password` writes it.
    #[test]
    fn a_verifier_is_the_one_of_the_standard() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        assert_eq!(
            *salted(b"pencil", ITERATIONS, &salt),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
    }

    #[test]
    fn each_has_a_salt_of_its_own() {
        let (random, password) = (SeededRandom::new(1), SecretBytes::new(b"p".to_vec()));
        assert_ne!(*verifier(&password, ITERATIONS, &random), *verifier(&password, ITERATIONS, &random));
        assert!(verifier(&password, NonZeroU32::MIN, &random).starts_with("SCRAM-SHA-256$1:"));
    }
}
