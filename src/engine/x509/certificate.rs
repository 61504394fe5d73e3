//! What a lease's certificate says, from the secret's settings and the order, and the bundle that its holder gets.

use super::{
    super::Order,
    X509Error, at,
    authority::{Authority, LATE_CLOCKS, Signer},
};
use crate::{
    digest::{Ed25519Key, SealKey},
    model::{LeaseId, SecretBytes, SecretDefinition, Target},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType, SerialNumber,
};
use serde::Deserialize;
use serde_json::Value;
use std::net::IpAddr;
use zeroize::Zeroizing;

const IDENTITY: &str = "{{identity}}";

/// What stands before the seed of an Ed25519 key in PKCS #8 (RFC 8410, 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// The settings of one secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    ip: Vec<IpAddr>,
    #[serde(default)]
    uri: Vec<String>,
    #[serde(default = "client")]
    usages: Vec<Usage>,
}

/// What a certificate is for (RFC 5280, 4.2.1.12).
#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Usage {
    Client,
    Server,
}

fn client() -> Vec<Usage> {
    vec![Usage::Client]
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Settings =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        let wrong = |what: &str| Err(format!("{}: {what}", secret.name));
        if settings.usages.is_empty() {
            return wrong("usages: client, server, or both");
        }
        if settings.dns.is_empty() && settings.ip.is_empty() && settings.uri.is_empty() {
            return wrong("name at least one of dns, ip and uri: verifiers look at nothing else");
        }
        for name in &settings.dns {
            // Certificates know no ports, and a wildcard would be good for hosts that nobody has thought of.
            if name.contains(':') || Target::parse(name).is_err() {
                return wrong(&format!("dns: {name:?} must be a host name in lower case, without wildcard and port"));
            }
        }
        for uri in &settings.uri {
            let plain = uri.replace(IDENTITY, "x");
            let scheme = plain.split_once("://").is_some_and(|(scheme, rest)| {
                !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase()) && !rest.is_empty() && !rest.starts_with('/')
            });
            if !scheme || plain.contains("{{") || !plain.bytes().all(|byte| byte.is_ascii_graphic()) {
                return wrong(&format!("uri: {uri:?} must be SCHEME://AUTHORITY/..., the only placeholder is {IDENTITY}"));
            }
        }
        Ok(settings)
    }

    /// The names for this order: a DNS name that is among the secret's hosts only if it is one of the targets that were granted.
    fn names(&self, order: &Order<'_>) -> Result<Vec<SanType>, X509Error> {
        let is = |name: &str, hosts: &[Target]| hosts.iter().any(|host| host.as_str().split(':').next() == Some(name));
        let narrow = |name: &str| !crate::mutation!("x509-targets") && is(name, &order.secret.hosts) && !is(name, order.hosts);
        let mut names = Vec::new();
        for name in self.dns.iter().filter(|name| !narrow(name)) {
            names.push(SanType::DnsName(name.as_str().try_into()?));
        }
        names.extend(self.ip.iter().copied().map(SanType::IpAddress));
        for uri in &self.uri {
            names.push(SanType::URI(uri.replace(IDENTITY, order.identity.as_str()).as_str().try_into()?));
        }
        Ok(names)
    }

    /// The certificate's contents: nothing but settings and order are in them, so they are the same whenever they are made.
    pub(super) fn params(&self, order: &Order<'_>) -> Result<CertificateParams, X509Error> {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, order.identity.as_str());
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.subject_alt_names = self.names(order)?;
        if params.subject_alt_names.is_empty() {
            return Err(X509Error::NoName);
        }
        params.serial_number = Some(serial(order.lease));
        params.not_before = at(order.issued.unix_secs().saturating_sub(LATE_CLOCKS))?;
        params.not_after = at(order.expires.unix_secs())?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = |usage: &Usage| match usage {
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
        };
        params.extended_key_usages = self.usages.iter().map(usage).collect();
        params.use_authority_key_identifier_extension = true;
        params.custom_extensions = vec![comment(&format!("lease={} intent={}", order.lease, order.intent_digest()))];
        Ok(params)
    }
}

/// The object identifier of a comment in a certificate (Netscape Certificate Extensions), which OpenSSL shows and no verifier weighs.
const COMMENT: [u64; 7] = [2, 16, 840, 1, 113_730, 1, 13];

/// Words of ours: an `IA5String` of less than 128 bytes, so that its length is one byte (X.690, 8.1.3.4).
fn comment(text: &str) -> CustomExtension {
    let words = &text.as_bytes()[..text.len().min(127)];
    CustomExtension::from_oid_content(&COMMENT, [&[0x16, words.len() as u8], words].concat())
}

/// The lease's id as a number, so that whoever sees the serial finds the lease.
pub(super) fn serial(lease: LeaseId) -> SerialNumber {
    SerialNumber::from_slice(&lease.to_bytes())
}

/// Key, certificate and those of the authorities between it and the root, in PEM one after another.
pub(super) fn bundle(
    key: &SealKey,
    order: &Order<'_>,
    params: &CertificateParams,
    authority: &Authority,
) -> Result<SecretBytes, X509Error> {
    // The key follows from the lease and the engine's key, so that it is stored nowhere and can be made again.
    let seed = key.mac(&order.lease.to_bytes());
    let signer = Signer::Ed25519(Ed25519Key::from_seed(seed.expose())?);
    let certificate = authority.sign(params, &signer)?;
    let certificate = pem("CERTIFICATE", certificate.der());
    let mut der = Zeroizing::new([0; PKCS8.len() + SealKey::LEN]);
    der[..PKCS8.len()].copy_from_slice(&PKCS8);
    der[PKCS8.len()..].copy_from_slice(seed.expose());
    // 48 bytes are one line of 64 characters; with exact room nothing moves and leaves a copy.
    let (head, foot) = ("-----BEGIN PRIVATE KEY-----\n", "\n-----END PRIVATE KEY-----\n");
    let mut text = Zeroizing::new(String::with_capacity(head.len() + 64 + foot.len() + certificate.len() + authority.chain.len()));
    text.push_str(head);
    STANDARD.encode_string(der.as_slice(), &mut text);
    text.push_str(foot);
    text.push_str(&certificate);
    text.push_str(&authority.chain);
    Ok(SecretBytes::new(std::mem::take(&mut *text).into_bytes()))
}

/// RFC 7468: lines of 64 characters.
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        // Base64 is ASCII.
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}
