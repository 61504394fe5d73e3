//! Our own certificate, for servers that ask for one.

use crate::{
    digest::{EcdsaKey, Ed25519Key},
    model::SecretBytes,
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, Signer, SigningKey},
};
use std::{fmt, sync::Arc};

/// Why a certificate and its key are not used.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    /// No certificate in the file, or one that cannot be read.
    #[error("client certificate: no certificate that can be read in the file")]
    Certificate,
    /// Not a key of a kind whose private half rests in the vault.
    #[error("client certificate: the key must be P-256 or Ed25519 in PKCS #8 (openssl pkcs8 -topk8 -nocrypt)")]
    Key,
    /// Of another certificate.
    #[error("client certificate: the key is not the certificate's")]
    Mismatch,
}

/// A chain of certificates and the key of the first, which rests in the vault.
pub struct ClientCertificate(Arc<CertifiedKey>);

impl ClientCertificate {
    /// Reads both from PEM.
    pub fn new(chain_pem: &[u8], key_pem: &SecretBytes) -> Result<Self, ClientCertificateError> {
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty()).ok_or(ClientCertificateError::Certificate)?;
        // What the library copies is wiped when it is freed, by the allocator of the daemon.
        let key = PrivateKeyDer::from_pem_slice(key_pem.expose()).map_err(|_| ClientCertificateError::Key)?;
        let PrivateKeyDer::Pkcs8(key) = &key else { return Err(ClientCertificateError::Key) };
        let bytes = key.secret_pkcs8_der();
        let key = match (EcdsaKey::from_pkcs8(bytes), Ed25519Key::from_pkcs8(bytes)) {
            (Ok(key), _) => VaultKey::P256(key),
            (_, Ok(key)) => VaultKey::Ed25519(key),
            _ => return Err(ClientCertificateError::Key),
        };
        let info = info(&key);
        let certified = CertifiedKey::new(chain, Arc::new(Key { key: Arc::new(key), info }));
        certified.keys_match().map_err(|_| ClientCertificateError::Mismatch)?;
        Ok(Self(Arc::new(certified)))
    }
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).is_some().then(|| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

enum VaultKey {
    P256(EcdsaKey),
    Ed25519(Ed25519Key),
}

impl VaultKey {
    fn scheme(&self) -> SignatureScheme {
        match self {
            VaultKey::P256(_) => SignatureScheme::ECDSA_NISTP256_SHA256,
            VaultKey::Ed25519(_) => SignatureScheme::ED25519,
        }
    }
}

struct Key {
    key: Arc<VaultKey>,
    info: Vec<u8>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.key.scheme()).then(|| Box::new(Signing(self.key.clone())) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<rustls::pki_types::SubjectPublicKeyInfoDer<'_>> {
        Some(self.info.as_slice().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match *self.key {
            VaultKey::P256(_) => SignatureAlgorithm::ECDSA,
            VaultKey::Ed25519(_) => SignatureAlgorithm::ED25519,
        }
    }
}

struct Signing(Arc<VaultKey>);

impl fmt::Debug for Signing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signing")
    }
}

impl Signer for Signing {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        match &*self.0 {
            VaultKey::P256(key) => {
                let fixed = key.sign(message).map_err(|_| rustls::Error::General("signing failed".into()))?;
                Ok(der_signature(&fixed))
            }
            VaultKey::Ed25519(key) => Ok(key.sign(message)),
        }
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

/// SubjectPublicKeyInfo (RFC 5280 4.1, RFC 5480, RFC 8410): a constant head and the public key.
fn info(key: &VaultKey) -> Vec<u8> {
    const P256: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
    const ED25519: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
    match key {
        VaultKey::P256(key) => [P256, key.public()].concat(),
        VaultKey::Ed25519(key) => [ED25519, key.public()].concat(),
    }
}

/// r || s as TLS wants it: a SEQUENCE of two INTEGERs (RFC 3279 2.2.3), at most 72 bytes, so every length is one byte.
fn der_signature(fixed: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(70);
    for half in fixed.chunks(fixed.len().div_ceil(2)) {
        let zeros = half.iter().take_while(|byte| **byte == 0).count().min(half.len() - 1);
        let number = &half[zeros..];
        let padded = number[0] >= 0x80;
        body.push(2);
        body.push((number.len() + usize::from(padded)) as u8);
        body.extend(padded.then_some(0));
        body.extend_from_slice(number);
    }
    [&[0x30, body.len() as u8], body.as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(key: &rcgen::KeyPair) -> String {
        rcgen::CertificateParams::new(vec!["host.test".into()]).unwrap().self_signed(key).unwrap().pem()
    }

    #[test]
    fn a_key_belongs_to_its_certificate_and_is_of_a_kind_that_rests_in_the_vault() {
        let (ec, ed) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
        let pem = |key: &rcgen::KeyPair| SecretBytes::new(key.serialize_pem().into_bytes());
        for key in [&ec, &ed] {
            ClientCertificate::new(made(key).as_bytes(), &pem(key)).unwrap();
        }
        let other = rcgen::KeyPair::generate().unwrap();
        assert!(matches!(ClientCertificate::new(made(&ec).as_bytes(), &pem(&other)), Err(ClientCertificateError::Mismatch)));
        assert!(matches!(ClientCertificate::new(b"", &pem(&ec)), Err(ClientCertificateError::Certificate)));
        let large = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        assert!(matches!(ClientCertificate::new(made(&large).as_bytes(), &pem(&large)), Err(ClientCertificateError::Key)));
        assert!(matches!(ClientCertificate::new(made(&ec).as_bytes(), &SecretBytes::new(b"x".to_vec())), Err(ClientCertificateError::Key)));
    }

    #[test]
    fn a_signature_is_two_positive_numbers_without_leading_zeros() {
        let mut fixed = [0u8; 64];
        fixed[0] = 0x80;
        fixed[63] = 5;
        let der = der_signature(&fixed);
        assert_eq!(der[..6], [0x30, 38, 2, 33, 0, 0x80]);
        assert_eq!(der[der.len() - 3..], [2, 1, 5]);
        assert_eq!(der_signature(&[0; 64]), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    }
}
