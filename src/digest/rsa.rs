//! RSA signatures with PKCS #1 v1.5 padding and SHA-256 (RS256, RFC 7518, 3.3), for sources that take nothing else.

use super::sign::{KeyError, scrubbed};
use crate::sys::VaultBytes;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{rand::SystemRandom, signature};
use zeroize::Zeroizing;

/// An RSA private key of 2048 to 4096 bits. It rests in the vault as it was written: the library's form of it lies in ordinary memory, so it
/// is made for one signature and wiped with it.
pub struct RsaKey {
    der: VaultBytes,
    form: Form,
}

#[derive(Clone, Copy)]
enum Form {
    Pkcs1,
    Pkcs8,
}

impl RsaKey {
    /// Reads PEM (RFC 7468): `RSA PRIVATE KEY` (PKCS #1) or `PRIVATE KEY` (PKCS #8).
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let forms = [(Form::Pkcs1, "RSA PRIVATE KEY"), (Form::Pkcs8, "PRIVATE KEY")];
        let (form, body) = forms.iter().find_map(|(form, label)| Some((*form, body(pem, label)?))).ok_or(KeyError)?;
        let mut text = Zeroizing::new(Vec::with_capacity(body.len()));
        text.extend(body.iter().filter(|byte| !byte.is_ascii_whitespace()));
        // Exact or a little more, so that nothing grows and leaves a copy.
        let mut der = Zeroizing::new(vec![0; text.len() / 4 * 3 + 3]);
        let bytes = STANDARD.decode_slice(text.as_slice(), &mut der).map_err(|_| KeyError)?;
        let key = Self { der: VaultBytes::of(&der[..bytes]), form };
        scrubbed(|| key.pair().map(drop))?;
        Ok(key)
    }

    /// The signature, as long as the modulus.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        scrubbed(|| {
            let pair = self.pair()?;
            let mut out = vec![0; pair.public().modulus_len()];
            pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut out).map_err(|_| KeyError)?;
            Ok(out)
        })
    }

    fn pair(&self) -> Result<signature::RsaKeyPair, KeyError> {
        let der = self.der.expose();
        match self.form {
            Form::Pkcs1 => signature::RsaKeyPair::from_der(der),
            Form::Pkcs8 => signature::RsaKeyPair::from_pkcs8(der),
        }
        .map_err(|_| KeyError)
    }
}

/// What stands between the lines of a label.
fn body<'a>(pem: &'a [u8], label: &str) -> Option<&'a [u8]> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let from = memchr::memmem::find(pem, begin.as_bytes())? + begin.len();
    let to = memchr::memmem::find(&pem[from..], end.as_bytes())?;
    Some(&pem[from..from + to])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rsa_key_is_refused() {
        let other = crate::digest::EcdsaKey::generate().unwrap();
        let other = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(other.expose()));
        for bad in [
            "",
            "x",
            "-----BEGIN RSA PRIVATE KEY-----\n-----END RSA PRIVATE KEY-----\n",
            "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n",
            "-----BEGIN PRIVATE KEY-----\n*\n-----END PRIVATE KEY-----\n",
            &other,
        ] {
            assert!(RsaKey::from_pem(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
