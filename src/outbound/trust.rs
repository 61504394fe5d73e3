//! Which authorities may have signed a source's certificate.

use super::ClientCertificate;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::sync::Arc;

/// Where systems keep the authorities that they trust, as one PEM file: Debian and its kin, Fedora and its kin.
pub const SYSTEM_AUTHORITIES: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"];

/// Why there is nobody to trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A certificate in the file cannot be read.
    #[error("certificate authority: {0}")]
    Certificate(String),
    /// The file has none.
    #[error("certificate authority: no certificate in the file")]
    None,
    /// The TLS library.
    #[error("TLS: {0}")]
    Library(rustls::Error),
}

/// The authorities that are believed. No process-wide default is read or set.
pub struct Trust(RootCertStore);

impl Trust {
    /// The authorities of a file that an operator named: all of them must be sound.
    pub fn named(pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|why| TrustError::Certificate(why.to_string()))?;
            roots.add(certificate).map_err(|why| TrustError::Certificate(why.to_string()))?;
        }
        if roots.is_empty() { Err(TrustError::None) } else { Ok(Self(roots)) }
    }

    /// The system's own authorities: what cannot be read among so many is left out.
    pub fn system(pem: &[u8]) -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
        if roots.is_empty() { Err(TrustError::None) } else { Ok(Self(roots)) }
    }

    /// TLS 1.2 and 1.3 with ring; our own certificate is shown to a server that asks for one.
    pub fn config(self, own: Option<Arc<ClientCertificate>>) -> Result<Arc<ClientConfig>, TrustError> {
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TrustError::Library)?
            .with_root_certificates(self.0);
        Ok(Arc::new(match own {
            None => config.with_no_client_auth(),
            Some(own) => {
                let mut config = config.with_client_cert_resolver(own);
                // A session that is resumed is that of the certificate with which it began, which may have been exchanged since.
                if !crate::mutation!("certificate-resumed") {
                    config.resumption = Resumption::disabled();
                }
                config
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_trusted_by_default() {
        for pem in [&b""[..], b"not PEM"] {
            assert!(matches!(Trust::named(pem), Err(TrustError::None)));
            assert!(matches!(Trust::system(pem), Err(TrustError::None)));
        }
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(matches!(Trust::named(broken), Err(TrustError::Certificate(_))));
        assert!(matches!(Trust::system(broken), Err(TrustError::None)));
        let key = rcgen::KeyPair::generate().unwrap();
        let good = rcgen::CertificateParams::new(vec!["ca.test".into()]).unwrap().self_signed(&key).unwrap().pem();
        let both = [good.as_bytes(), broken].concat();
        assert!(matches!(Trust::named(&both), Err(TrustError::Certificate(_))), "a named file is sound as a whole");
        Trust::system(&both).unwrap().config(None).unwrap();
    }
}
