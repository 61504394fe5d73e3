//! Our own certificate, for servers that ask for one.

use crate::{
    digest::{EcdsaKey, Ed25519Key},
    model::SecretBytes,
    sys::{self, FileError},
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, Signer, SigningKey},
};
use std::{
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The longest file of certificates, and of a key.
const MAX_CHAIN: usize = 1 << 20;
const MAX_KEY: usize = 16 << 10;

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
    /// The certificate's file cannot be read, or others could have written it.
    #[error("client certificate: {0}")]
    Chain(#[from] sys::TrustError),
    /// The key's cannot be read, or others could have read it.
    #[error("client certificate: {0}")]
    File(#[from] FileError),
}

/// A chain of certificates and the key of the first, which rests in the vault.
pub struct ClientCertificate {
    current: Mutex<Current>,
    files: Option<Files>,
}

/// The newest pair that belongs together.
struct Current {
    certified: Arc<CertifiedKey>,
    stamps: Option<Stamps>,
    /// Of a pair that cannot be used, so that it is read and complained about once.
    refused: Option<Stamps>,
    /// How often it was exchanged.
    generation: u64,
}

/// Where both are, to be read anew when somebody exchanged them: certificates that live for hours come this way (SPIFFE's `spiffe-helper`).
struct Files {
    chain: PathBuf,
    key: PathBuf,
}

/// What changes when a file is exchanged or written to: device, inode, length, and the time of its last change in nanoseconds.
type Stamp = (u64, u64, u64, i64, i64);
type Stamps = [Stamp; 2];

impl Files {
    /// Nothing where one is not there, which is for a moment only if somebody is about to exchange it.
    fn stamps(&self) -> Option<Stamps> {
        let stamp = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.size(), meta.ctime(), meta.ctime_nsec()))
        };
        Some([stamp(&self.chain)?, stamp(&self.key)?])
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, ClientCertificateError> {
        let chain = sys::read_trusted(&self.chain, MAX_CHAIN)?;
        certified(chain.as_bytes(), &sys::read_private(&self.key, MAX_KEY)?)
    }
}

impl ClientCertificate {
    /// Reads both from PEM.
    pub fn new(chain_pem: &[u8], key_pem: &SecretBytes) -> Result<Self, ClientCertificateError> {
        Ok(Self::of(certified(chain_pem, key_pem)?, None, None))
    }

    /// Reads both from files, now and whenever a connection begins and they are others than before: a trusted file with the chain and a
    /// private one with the key ([`sys::read_trusted`], [`sys::read_private`]).
    pub fn of_files(chain: PathBuf, key: PathBuf) -> Result<Self, ClientCertificateError> {
        let files = Files { chain, key };
        // Before they are read: what is written meanwhile is seen at the next look.
        let stamps = files.stamps();
        Ok(Self::of(files.read()?, stamps, Some(files)))
    }

    fn of(certified: Arc<CertifiedKey>, stamps: Option<Stamps>, files: Option<Files>) -> Self {
        Self { current: Mutex::new(Current { certified, stamps, refused: None, generation: 0 }), files }
    }

    /// How often it was exchanged: a connection that began under another number shows another certificate.
    pub(super) fn generation(&self) -> u64 {
        self.current().generation
    }

    /// Looks whether the files are others now.
    fn current(&self) -> MutexGuard<'_, Current> {
        // Held for a few lines that cannot leave it half changed.
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = &self.files
            && let Some(stamps) = files.stamps()
            && ![current.stamps, current.refused].contains(&Some(stamps))
            && !crate::mutation!("certificate-exchanged")
        {
            match files.read() {
                Ok(certified) => {
                    tracing::info!(file = %files.chain.display(), "our certificate was exchanged");
                    *current = Current { certified, stamps: Some(stamps), refused: None, generation: current.generation + 1 };
                }
                // Who writes two files is between them for a moment: the pair before holds until they change again.
                Err(why) => {
                    tracing::warn!(file = %files.chain.display(), %why, "our certificate was changed and cannot be used; the one before is shown");
                    current.refused = Some(stamps).filter(|_| !sys::is_passing(&why));
                }
            }
        }
        current
    }
}

fn certified(chain_pem: &[u8], key_pem: &SecretBytes) -> Result<Arc<CertifiedKey>, ClientCertificateError> {
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
    Ok(Arc::new(certified))
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate")
    }
}

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current().certified.clone();
        current.key.choose_scheme(schemes).is_some().then_some(current)
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
