//! `[[engine]]` with `kind = "x509"`.

use crate::model::{EngineName, Ttl};
use serde::Deserialize;
use std::path::PathBuf;

/// An `x509` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct X509Config {
    /// What secrets call it.
    pub name: EngineName,
    /// The longest any certificate lives.
    pub max_ttl: Ttl,
    /// PEM file of the authority that signs, and of those above it; an authority of its own without.
    #[serde(default)]
    pub ca_cert_file: Option<PathBuf>,
    /// A 0400 file with its private key: PEM in PKCS #8, Ed25519 or P-256.
    #[serde(default)]
    pub ca_key_file: Option<PathBuf>,
    /// The systemd credential with its private key.
    #[serde(default)]
    pub ca_key_credential: Option<String>,
    /// Where the revocation list is written; none without.
    #[serde(default)]
    pub crl_file: Option<PathBuf>,
}
