//! `[[engine]]` with `kind = "openbao"`.

use super::engines::default_timeout;
use crate::model::EngineName;
use serde::Deserialize;
use std::path::PathBuf;

/// An `openbao` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct OpenBaoConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// `https://HOST[:PORT]`, `unix:/PATH`, or with `plain_loopback` `http://` to this host.
    pub address: String,
    /// Whether `http://` to this host is meant.
    #[serde(default)]
    pub plain_loopback: bool,
    /// PEM file of the authorities that may sign the server's certificate; the system's without.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the host's.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Our own certificate (PEM), shown to a server that asks for one.
    #[serde(default)]
    pub certificate_file: Option<PathBuf>,
    /// Its key: a 0400 file in PKCS #8.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The systemd credential with its key.
    #[serde(default)]
    pub key_credential: Option<String>,
    /// The namespace that everything is in.
    #[serde(default)]
    pub namespace: Option<String>,
    /// The token role that leases' tokens are made with.
    #[serde(default = "default_token_role")]
    pub token_role: String,
    /// Seconds for each call, all waits included.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    /// How we log in.
    pub login: OpenBaoLogin,
}

fn default_token_role() -> String {
    "claviger".into()
}

/// How an `openbao` engine logs in, by its `method`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "method", rename_all = "lowercase", deny_unknown_fields)]
pub enum OpenBaoLogin {
    /// A role id and a secret id.
    AppRole {
        /// Where the method is mounted.
        #[serde(default = "approle")]
        mount: String,
        /// Not secret.
        role_id: String,
        /// A 0400 file with the secret id.
        #[serde(default)]
        secret_id_file: Option<PathBuf>,
        /// The systemd credential with it.
        #[serde(default)]
        secret_id_credential: Option<String>,
        /// What is there is a wrapping token, to be exchanged once.
        #[serde(default)]
        wrapped: bool,
    },
    /// A token of one of this host's own `jwt` engines.
    Jwt {
        /// Where the method is mounted.
        #[serde(default = "jwt")]
        mount: String,
        /// The role to log in to.
        role: String,
        /// The `jwt` engine that signs.
        engine: EngineName,
        /// `aud` of the token: what the role expects.
        audience: String,
        /// `sub` of the token: who this host is.
        subject: String,
    },
    /// The certificate of `certificate_file`.
    Cert {
        /// Where the method is mounted.
        #[serde(default = "cert")]
        mount: String,
        /// The role to log in to; any that fits without.
        #[serde(default)]
        role: Option<String>,
    },
    /// A token that somebody else keeps fresh.
    Token {
        /// A 0400 file with it.
        #[serde(default)]
        token_file: Option<PathBuf>,
        /// The systemd credential with it.
        #[serde(default)]
        token_credential: Option<String>,
    },
}

fn approle() -> String {
    "approle".into()
}
fn jwt() -> String {
    "jwt".into()
}
fn cert() -> String {
    "cert".into()
}

impl OpenBaoConfig {
    /// Every file that is read, at start or at a login.
    pub fn files(&self) -> Vec<&PathBuf> {
        let login = match &self.login {
            OpenBaoLogin::AppRole { secret_id_file, .. } => secret_id_file,
            OpenBaoLogin::Token { token_file, .. } => token_file,
            OpenBaoLogin::Jwt { .. } | OpenBaoLogin::Cert { .. } => &None,
        };
        [&self.ca_file, &self.certificate_file, &self.key_file, login].into_iter().flatten().collect()
    }
}
