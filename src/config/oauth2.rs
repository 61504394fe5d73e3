//! `[[engine]]` with `kind = "oauth2"`.

use super::engines::default_timeout;
use crate::model::{EngineName, Ttl};
use serde::Deserialize;
use std::path::PathBuf;

/// An `oauth2` engine: one client at one authorization server. All endpoints are at one host.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct OAuth2Config {
    /// What secrets call it.
    pub name: EngineName,
    /// Where tokens are made: `https://HOST[:PORT]/PATH`, or with `plain_loopback` `http://` to this host.
    pub token_endpoint: String,
    /// Where tokens are revoked (RFC 7009); without, they die by their own expiry alone.
    #[serde(default)]
    pub revocation_endpoint: Option<String>,
    /// Where a revoked token is looked for (RFC 7662).
    #[serde(default)]
    pub introspection_endpoint: Option<String>,
    /// Whether `http://` to this host is meant.
    #[serde(default)]
    pub plain_loopback: bool,
    /// PEM file of the authorities that may sign the server's certificate; the system's without.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the host's.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Who we are at the server.
    pub client_id: String,
    /// How we show it.
    pub authenticate: OAuth2Authentication,
    /// For secrets with `grant = "token_exchange"`: whose tokens about identities the server believes.
    #[serde(default)]
    pub exchange: Option<OAuth2Exchange>,
    /// The longest life that the server gives this client's tokens.
    pub max_ttl: Ttl,
    /// Seconds for each call, all waits included.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

/// How an `oauth2` engine authenticates, by its `method`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum OAuth2Authentication {
    /// A secret in a header.
    ClientSecretBasic {
        /// A 0400 file with it.
        #[serde(default)]
        secret_file: Option<PathBuf>,
        /// The systemd credential with it.
        #[serde(default)]
        secret_credential: Option<String>,
    },
    /// A secret in the body.
    ClientSecretPost {
        /// A 0400 file with it.
        #[serde(default)]
        secret_file: Option<PathBuf>,
        /// The systemd credential with it.
        #[serde(default)]
        secret_credential: Option<String>,
    },
    /// A token of one of this host's own `jwt` engines.
    PrivateKeyJwt {
        /// The `jwt` engine that signs.
        engine: EngineName,
        /// `aud` of the token: what the server takes for itself.
        audience: String,
    },
}

/// The tokens about identities that are exchanged.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct OAuth2Exchange {
    /// The `jwt` engine that signs.
    pub engine: EngineName,
    /// `aud` of the token: what the server takes for itself.
    pub audience: String,
}

impl OAuth2Config {
    /// Every file that is read, at start or at a call.
    pub fn files(&self) -> Vec<&PathBuf> {
        let secret = match &self.authenticate {
            OAuth2Authentication::ClientSecretBasic { secret_file, .. } | OAuth2Authentication::ClientSecretPost { secret_file, .. } => {
                secret_file
            }
            OAuth2Authentication::PrivateKeyJwt { .. } => &None,
        };
        [&self.ca_file, secret].into_iter().flatten().collect()
    }
}
