//! `[[engine]]` with `kind = "github-app"`.

use super::engines::default_timeout;
use crate::model::EngineName;
use serde::Deserialize;
use std::path::PathBuf;

/// A `github-app` engine: one installation of one app.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GitHubConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// The app's id or client id.
    pub app: String,
    /// The installation's id.
    pub installation: u64,
    /// The app's private key: a 0400 file in PEM, as GitHub gives it.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// The systemd credential with it.
    #[serde(default)]
    pub key_credential: Option<String>,
    /// Where the API is: `https://HOST[:PORT]`, with `/api/v3` for a GitHub Enterprise Server; with `plain_loopback` `http://` to this host.
    #[serde(default = "default_api")]
    pub api: String,
    /// Whether `http://` to this host is meant.
    #[serde(default)]
    pub plain_loopback: bool,
    /// PEM file of the authorities that may sign the server's certificate; the system's without.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not the host's.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Seconds for each call, all waits included.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

fn default_api() -> String {
    "https://api.github.com".into()
}

impl GitHubConfig {
    /// Every file that is read at start.
    pub fn files(&self) -> Vec<&PathBuf> {
        [&self.ca_file, &self.key_file].into_iter().flatten().collect()
    }
}
