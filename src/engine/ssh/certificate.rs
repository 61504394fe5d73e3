//! What a lease's certificate says, from the secret's settings and the order (OpenSSH's PROTOCOL.certkeys).

use super::{super::Order, SshError};
use crate::{
    digest::{Ed25519Key, SealKey, sha256},
    model::{LeaseId, SecretBytes, SecretDefinition},
    sys::scrub_stack,
};
use serde::Deserialize;
use serde_json::Value;
use ssh_key::{
    Algorithm, LineEnding, PrivateKey, PublicKey, Signature,
    certificate::{Builder, CertType, Certificate},
    private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData},
    public::{Ed25519PublicKey, KeyData},
};
use std::{net::IpAddr, str::FromStr};

const IDENTITY: &str = "{{identity}}";
/// A minute, for servers whose clocks are late.
const LATE_CLOCKS: u64 = 60;
const PRINCIPALS_MAX: usize = 256;

/// What a session may do beyond running a command (sshd's names).
const EXTENSIONS: [&str; 5] =
    ["permit-pty", "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding", "permit-user-rc"];

/// The settings of one secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    principals: Vec<String>,
    force_command: Option<String>,
    #[serde(default)]
    source_address: Vec<String>,
    #[serde(default)]
    extensions: Vec<String>,
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Settings =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        let wrong = |what: &str| Err(format!("{}: {what}", secret.name));
        // A certificate without principals is good for every account.
        if settings.principals.is_empty() || settings.principals.len() > PRINCIPALS_MAX {
            return wrong("principals: name the accounts, 256 at most");
        }
        for principal in &settings.principals {
            let plain = principal.replace(IDENTITY, "x");
            // A comma separates principals in sshd's own files, and a star is a pattern there.
            let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
            if plain.is_empty() || !plain.bytes().all(sound) {
                return wrong(&format!("principals: {principal:?} has letters, digits, - _ . @ only; the only placeholder is {IDENTITY}"));
            }
        }
        if settings.force_command.as_ref().is_some_and(|command| command.trim().is_empty() || command.contains(['\n', '\0'])) {
            return wrong("force_command: is one line, and not empty");
        }
        if let Some(bad) = settings.source_address.iter().find(|text| !is_network(text)) {
            return wrong(&format!("source_address: {bad:?} is no address and no ADDRESS/BITS"));
        }
        if let Some(bad) = settings.extensions.iter().find(|name| !EXTENSIONS.contains(&name.as_str())) {
            return wrong(&format!("extensions: {bad:?} is none of {}", EXTENSIONS.join(", ")));
        }
        Ok(settings)
    }
}

/// What sshd takes in a certificate: an address, or a network without bits behind its mask.
fn is_network(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return IpAddr::from_str(text).is_ok() };
    let Ok(length) = bits.parse::<u32>() else { return false };
    let (value, width) = match IpAddr::from_str(address) {
        Ok(IpAddr::V4(v4)) => (u128::from(u32::from(v4)) << 96, 32),
        Ok(IpAddr::V6(v6)) => (u128::from(v6), 128),
        Err(_) => return false,
    };
    length.to_string() == bits && length <= width && value.checked_shl(length).unwrap_or(0) == 0
}

/// Signs in the library's words with a key that it never sees.
pub(super) struct Authority(pub(super) Ed25519Key);

impl signature::Signer<Signature> for Authority {
    fn try_sign(&self, message: &[u8]) -> Result<Signature, signature::Error> {
        Signature::new(Algorithm::Ed25519, self.0.sign(message)).map_err(|_| signature::Error::new())
    }
}

impl From<&Authority> for KeyData {
    fn from(authority: &Authority) -> KeyData {
        public(&authority.0)
    }
}

impl Authority {
    /// The line that servers trust.
    pub(super) fn line(&self, comment: &str) -> Result<String, SshError> {
        Ok(PublicKey::new(self.into(), comment).to_openssh()?)
    }
}

fn public(key: &Ed25519Key) -> KeyData {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.public());
    KeyData::Ed25519(Ed25519PublicKey(bytes))
}

pub(super) fn valid_until(line: &str) -> Option<u64> {
    ssh_key::Certificate::from_openssh(line.trim()).ok().map(|certificate| certificate.valid_before())
}

/// A lease's id has 16 bytes and a serial number 8: the first of its SHA-256, so that no part of an id has to be random.
pub(super) fn serial(lease: LeaseId) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&sha256(&[b"claviger ssh\0", &lease.to_bytes()])[..8]);
    u64::from_be_bytes(first)
}

/// What stands in sshd's log beside every login.
pub(super) fn key_id(order: &Order<'_>) -> String {
    format!("claviger lease={} identity={} intent={}", order.lease, order.identity, order.intent_digest())
}

/// The private key in OpenSSH's format, and the certificate as one line.
pub(super) fn make(
    key: &SealKey,
    authority: &Authority,
    order: &Order<'_>,
    settings: &Settings,
) -> Result<(SecretBytes, String), SshError> {
    let made = below(key, authority, order, settings);
    // The library copies the key about on the stack.
    scrub_stack();
    made
}

#[inline(never)]
fn below(key: &SealKey, authority: &Authority, order: &Order<'_>, settings: &Settings) -> Result<(SecretBytes, String), SshError> {
    let lease = order.lease.to_bytes();
    // Key and nonce follow from the lease and the engine's key, so that they are stored nowhere and can be made again.
    let seed = key.mac(&lease);
    let pair = Ed25519Key::from_seed(seed.expose())?;
    let KeyData::Ed25519(public_bytes) = public(&pair) else { return Err(SshError::Unreadable) };
    let nonce = key.derive("nonce").mac(&lease);
    let (from, until) = (order.issued.unix_secs().saturating_sub(LATE_CLOCKS), order.expires.unix_secs());
    let mut builder = Builder::new(nonce.expose(), KeyData::Ed25519(public_bytes), from, until)?;
    builder.serial(serial(order.lease))?.cert_type(CertType::User)?.key_id(key_id(order))?;
    for principal in &settings.principals {
        builder.valid_principal(principal.replace(IDENTITY, order.identity.as_str()))?;
    }
    if let Some(command) = &settings.force_command {
        builder.critical_option("force-command", command.as_str())?;
    }
    if !settings.source_address.is_empty() {
        builder.critical_option("source-address", settings.source_address.join(","))?;
    }
    for name in &settings.extensions {
        builder.extension(name.as_str(), "")?;
    }
    let certificate: Certificate = builder.sign(authority)?;
    let private = Ed25519PrivateKey::try_from(seed.expose())?;
    let pair = KeypairData::Ed25519(Ed25519Keypair { public: public_bytes, private });
    let mut text = PrivateKey::new(pair, "")?.to_openssh(LineEnding::LF)?;
    Ok((SecretBytes::new(std::mem::take(&mut *text).into_bytes()), certificate.to_openssh()?))
}
