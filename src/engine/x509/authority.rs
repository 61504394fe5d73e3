//! The authority that signs: one of our own, made once and kept sealed, or one that an operator brings. Its key rests in the vault.

use super::{X509Config, X509Error, at};
use crate::{
    digest::{EcdsaKey, Ed25519Key, KeyError},
    engine::local::LocalStore,
    model::{EngineName, SecretBytes, WallTime},
};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationList, CertificateRevocationListParams, DistinguishedName,
    DnType, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData, SignatureAlgorithm, SigningKey,
};
use serde::{Deserialize, Serialize};
use x509_parser::{certificate::X509Certificate, extensions::ParsedExtension, pem::Pem, prelude::FromDer};
use zeroize::Zeroizing;

/// How long an authority of our own lives, in seconds: ten years of 365 days.
const LIFE: u64 = 3650 * 86_400;
/// Clocks of verifiers that are late by so many seconds take what was made just now.
pub(super) const LATE_CLOCKS: u64 = 60;
/// `prime256v1` (RFC 5480) and the algorithms of its keys and of Ed25519's (RFC 8410).
const EC: &str = "1.2.840.10045.2.1";
const ED25519: &str = "1.3.101.112";

/// Signs in rcgen's words with a key that rcgen never sees.
pub(super) enum Signer {
    Ed25519(Ed25519Key),
    P256(EcdsaKey),
}

impl PublicKeyData for Signer {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Signer::Ed25519(key) => key.public(),
            Signer::P256(key) => key.public(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Signer::Ed25519(_) => &rcgen::PKCS_ED25519,
            Signer::P256(_) => &rcgen::PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl SigningKey for Signer {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Signer::Ed25519(key) => Ok(key.sign(message)),
            Signer::P256(key) => key.sign(message).map(|pair| ecdsa_der(&pair)).map_err(|_| rcgen::Error::RemoteKeyError),
        }
    }
}

/// r || s as certificates have it: a sequence of two integers without needless zeros (RFC 3279, 2.2.3).
fn ecdsa_der(pair: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(72);
    for half in pair.chunks(pair.len() / 2) {
        let from = half.iter().position(|byte| *byte != 0).unwrap_or(half.len() - 1);
        let negative = half[from] >= 0x80;
        body.extend_from_slice(&[2, (half.len() - from + usize::from(negative)) as u8]);
        body.extend_from_slice(&[0][..usize::from(negative)]);
        body.extend_from_slice(&half[from..]);
    }
    let mut der = vec![0x30, body.len() as u8];
    der.extend_from_slice(&body);
    der
}

/// Who signs, and what verifiers and peers are told about it.
pub(super) struct Authority {
    issuer: Issuer<'static, Signer>,
    /// PEM of what verifiers trust: the authority, with those above it where an operator gave them.
    pub(super) certificates: String,
    /// PEM of what goes along with every certificate: those of the above that are not signed by themselves.
    pub(super) chain: String,
    /// How its key is named in what it signs: as its own certificate says.
    pub(super) key_id: KeyIdMethod,
    /// When it ends; no certificate of a lease outlives it.
    pub(super) ends: WallTime,
}

/// What stands before the key where it is kept.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    certificate: String,
}

impl Authority {
    /// The one that the configuration brings, or our own, made at the first start.
    pub(super) fn open(config: &X509Config, store: &LocalStore, now: WallTime) -> Result<Self, X509Error> {
        let unusable = |why: String| X509Error::Authority { engine: config.name.clone(), why };
        if let Some(given) = &config.authority {
            return Self::given(&given.certificates, &given.key).map_err(unusable);
        }
        let label = format!("x509/{}", config.name);
        let kept = match store.load_own(&label)? {
            Some(kept) => kept,
            None => {
                let made = make(&config.name, now)?;
                store.save_own(&label, &made)?;
                made
            }
        };
        let (certificate, key) = read(kept.expose())?;
        Self::of(&certificate, Signer::Ed25519(Ed25519Key::from_pkcs8(key)?)).map_err(unusable)
    }

    fn given(certificates: &str, key: &SecretBytes) -> Result<Self, String> {
        let not_pem = || "ca_key_file: is not PEM with a PRIVATE KEY (PKCS #8)".to_owned();
        // What the parser copies of it is wiped when it is freed, like everything of this process.
        let pem = Pem::iter_from_buffer(key.expose()).next().ok_or_else(not_pem)?.map_err(|_| not_pem())?;
        let bytes = Zeroizing::new(pem.contents);
        if pem.label != "PRIVATE KEY" {
            return Err(not_pem());
        }
        let der = first_of(certificates)?;
        let (_, first) = X509Certificate::from_der(&der).map_err(|_| "ca_cert_file: holds no certificate".to_owned())?;
        let other = |_: KeyError| "ca_key_file: is not the private key of the certificate's kind".to_owned();
        let signer = match first.public_key().algorithm.algorithm.to_id_string().as_str() {
            ED25519 => Signer::Ed25519(Ed25519Key::from_pkcs8_maybe_unpaired(&bytes).map_err(other)?),
            EC => Signer::P256(EcdsaKey::from_pkcs8(&bytes).map_err(other)?),
            _ => return Err("ca_cert_file: its key must be Ed25519 or P-256".to_owned()),
        };
        Self::of(certificates, signer)
    }

    /// Checks that the first certificate is an authority's that may sign both, and that the key is its own.
    fn of(certificates: &str, signer: Signer) -> Result<Self, String> {
        let der = first_of(certificates)?;
        let (_, first) = X509Certificate::from_der(&der).map_err(|_| "ca_cert_file: holds no certificate".to_owned())?;
        if first.public_key().subject_public_key.data.as_ref() != signer.der_bytes() {
            return Err("the key is not that of the certificate".to_owned());
        }
        if !first.is_ca() {
            return Err("the certificate is no authority's (basicConstraints CA:TRUE)".to_owned());
        }
        // Absent, it allows everything.
        if let Ok(Some(usage)) = first.key_usage()
            && !(usage.value.key_cert_sign() && usage.value.crl_sign())
        {
            return Err("the certificate may not sign certificates and revocation lists (keyUsage)".to_owned());
        }
        let key_id = first.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(KeyIdMethod::PreSpecified(id.0.to_vec())),
            _ => None,
        });
        let ends = first.validity().not_after.timestamp();
        let mut chain = String::new();
        for pem in Pem::iter_from_buffer(certificates.as_bytes()) {
            let pem = pem.map_err(|error| format!("ca_cert_file: {error}"))?;
            let (_, one) = X509Certificate::from_der(&pem.contents).map_err(|_| "ca_cert_file: holds no certificate".to_owned())?;
            if one.subject() != one.issuer() {
                chain.push_str(&super::certificate::pem("CERTIFICATE", &pem.contents));
            }
        }
        let issuer = Issuer::from_ca_cert_der(&der.as_slice().into(), signer).map_err(|error| error.to_string())?;
        // Names with two parts of one kind (DC=example, DC=com) would come out with one of them, and no verifier would find the authority.
        let trial = CertificateParams::default().signed_by(issuer.key(), &issuer).map_err(|error| error.to_string())?;
        let named = X509Certificate::from_der(trial.der()).is_ok_and(|(_, trial)| trial.issuer().as_raw() == first.subject().as_raw());
        if !named {
            return Err("the certificate's subject has parts that cannot be repeated in what it signs (two of one kind)".to_owned());
        }
        Ok(Self {
            issuer,
            certificates: certificates.to_owned(),
            chain,
            key_id: key_id.unwrap_or(KeyIdMethod::Sha256),
            ends: WallTime(u64::try_from(ends).unwrap_or_default().saturating_mul(1_000_000)),
        })
    }

    /// A certificate over this public key.
    pub(super) fn sign(&self, params: &CertificateParams, key: &Signer) -> Result<Certificate, rcgen::Error> {
        params.signed_by(key, &self.issuer)
    }

    /// A revocation list.
    pub(super) fn sign_list(&self, params: &CertificateRevocationListParams) -> Result<CertificateRevocationList, rcgen::Error> {
        params.signed_by(&self.issuer)
    }
}

fn first_of(certificates: &str) -> Result<Vec<u8>, String> {
    let none = || "ca_cert_file: holds no certificate in PEM".to_owned();
    let pem = Pem::iter_from_buffer(certificates.as_bytes()).next().ok_or_else(none)?.map_err(|_| none())?;
    if pem.label == "CERTIFICATE" { Ok(pem.contents) } else { Err(none()) }
}

/// A line of JSON, and after it the private key.
fn make(name: &EngineName, now: WallTime) -> Result<SecretBytes, X509Error> {
    let key = Ed25519Key::generate()?;
    let signer = Signer::Ed25519(Ed25519Key::from_pkcs8(key.expose())?);
    let mut subject = DistinguishedName::new();
    // Two hosts' authorities are told apart by it, also where a verifier trusts both.
    let print = hex::encode(&crate::digest::sha256(&[signer.der_bytes()])[..4]);
    subject.push(DnType::CommonName, format!("claviger {name} {print}"));
    let mut params = CertificateParams::default();
    params.distinguished_name = subject;
    params.not_before = at(now.unix_secs().saturating_sub(LATE_CLOCKS))?;
    params.not_after = at(now.unix_secs().saturating_add(LIFE))?;
    // It signs leases' certificates and no other authority's.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&signer)?.pem();
    let mut bytes = serde_json::to_vec(&Head { format: 1, certificate }).map_err(|_| X509Error::Unreadable)?;
    bytes.push(b'\n');
    // Room before the first secret byte goes in, so that nothing moves and leaves a copy.
    bytes.reserve_exact(key.len());
    bytes.extend_from_slice(key.expose());
    Ok(SecretBytes::new(bytes))
}

fn read(kept: &[u8]) -> Result<(String, &[u8]), X509Error> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let line = kept.iter().position(|byte| *byte == b'\n').ok_or(X509Error::Unreadable)?;
    // The format alone first: another one may have members that this version does not know.
    let Format { format } = serde_json::from_slice(&kept[..line]).map_err(|_| X509Error::Unreadable)?;
    if format != 1 {
        return Err(X509Error::Format(format));
    }
    let head: Head = serde_json::from_slice(&kept[..line]).map_err(|_| X509Error::Unreadable)?;
    Ok((head.certificate, &kept[line + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_two_short_positive_integers() {
        let pair = |r: u8, s: u8| [vec![0; 31], vec![r], vec![0; 31], vec![s]].concat();
        assert_eq!(ecdsa_der(&pair(1, 0x7f)), [0x30, 6, 2, 1, 1, 2, 1, 0x7f]);
        assert_eq!(ecdsa_der(&pair(0x80, 0)), [0x30, 7, 2, 2, 0, 0x80, 2, 1, 0]);
        assert_eq!(ecdsa_der(&[0xff; 64]).len(), 72);
    }
}
