//! `[[engine]]` in `clavigerd.toml`: which engines there are, and those whose rows are short. Longer rows have files of their own.

use super::{CommandConfig, GitHubConfig, OAuth2Config, OpenBaoConfig, SshConfig, X509Config};
use crate::model::{EngineName, Ttl};
use serde::Deserialize;
use std::path::PathBuf;

/// `[[engine]]`, by its `kind`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum EngineConfig {
    /// Signed tokens.
    Jwt(JwtConfig),
    /// Roles of a PostgreSQL server.
    Postgres(PostgresConfig),
    /// Secrets of an OpenBao or Vault server.
    OpenBao(OpenBaoConfig),
    /// Tokens of a GitHub App's installation.
    #[serde(rename = "github-app")]
    GitHub(GitHubConfig),
    /// Tokens of an OAuth 2.0 authorization server.
    OAuth2(OAuth2Config),
    /// Certificates signed here.
    X509(X509Config),
    /// Certificates of OpenSSH signed here.
    Ssh(SshConfig),
    /// What a program makes.
    Command(CommandConfig),
}

impl EngineConfig {
    /// What can be told of it without its source, and would keep it from starting.
    pub(super) fn fault(&self) -> Option<&'static str> {
        match self {
            EngineConfig::Jwt(jwt) => match jwt.issuer.strip_prefix("https://") {
                None | Some("") => Some("issuer must be an https URL"),
                Some(rest) => rest.ends_with('/').then_some("issuer must not end with a slash"),
            },
            EngineConfig::Postgres(server) if !server.host.starts_with('/') && server.ca_file.is_none() => {
                Some("a host name needs ca_file: there is no connection without TLS")
            }
            EngineConfig::Command(program) if !program.socket().is_absolute() => Some("socket must be an absolute path"),
            _ => None,
        }
    }

    /// What secrets call it.
    pub fn name(&self) -> &EngineName {
        match self {
            EngineConfig::Jwt(jwt) => &jwt.name,
            EngineConfig::Postgres(postgres) => &postgres.name,
            EngineConfig::OpenBao(openbao) => &openbao.name,
            EngineConfig::GitHub(github) => &github.name,
            EngineConfig::OAuth2(oauth2) => &oauth2.name,
            EngineConfig::X509(x509) => &x509.name,
            EngineConfig::Ssh(ssh) => &ssh.name,
            EngineConfig::Command(command) => &command.name,
        }
    }
}

/// A `jwt` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// The `iss` claim: an https URL under which verifiers find the keys.
    pub issuer: String,
    /// The longest any token lives; a new key is published this long before its first use and kept this long after its last.
    pub max_ttl: Ttl,
}

/// A `postgres` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// A host name, or a folder with the server's Unix socket.
    pub host: String,
    /// Port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Database to connect to.
    pub database: String,
    /// The role that may create roles.
    pub user: String,
    /// A 0400 file with its password; peer authentication without.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The systemd credential with its password.
    #[serde(default)]
    pub password_credential: Option<String>,
    /// PEM file of the authorities that may sign the server's certificate. With a host name TLS is always used.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The name in the server's certificate, if it is not `host`.
    #[serde(default)]
    pub server_name: Option<String>,
    /// Seconds for connecting and for each call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
}

fn default_port() -> u16 {
    5432
}
pub(super) fn default_timeout() -> u32 {
    5
}
