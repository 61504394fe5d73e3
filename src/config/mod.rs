//! The files, parsed once, fail closed: an unknown key, a wrong type or a missing owner is an error with path and line, never a default.
//!
//! Only `app` and `cli` see this module. It reads no file itself: whoever calls has opened them and checked who may write there.

mod command;
mod daemon;
mod engines;
mod github;
mod identities;
mod oauth2;
mod openbao;
mod places;
mod secrets;
mod ssh;
#[cfg(test)]
mod tests;
mod x509;

pub use command::CommandConfig;
pub use daemon::{
    AnchorKind, AttestConfig, AuditConfig, Config, LeaseConfig, LimitConfig, LocalConfig, MetricsConfig, PathConfig, ShutdownRule,
    SocketConfig,
};
pub use engines::{EngineConfig, JwtConfig, PostgresConfig};
pub use github::GitHubConfig;
pub use identities::{identities, is_interpreter};
pub use oauth2::{OAuth2Authentication, OAuth2Config, OAuth2Exchange};
pub use openbao::{OpenBaoConfig, OpenBaoLogin};
pub use places::{KeyPlace, RowPlace, rows};
pub use secrets::{RowDraft, secrets};
pub use ssh::SshConfig;
#[cfg(test)]
pub(crate) use tests::one_with;
pub use x509::X509Config;

use crate::digest::sha256;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;

/// A file with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// As messages name it.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}{}: {message}", at(.line))]
pub struct ConfigError {
    /// Which file.
    pub path: String,
    /// From 1; 0 when it is about the whole file.
    pub line: usize,
    /// What, and what to do.
    pub message: String,
}

fn at(line: &usize) -> String {
    if *line == 0 { String::new() } else { format!(":{line}") }
}

impl ConfigError {
    fn at(file: &File, line: usize, message: impl Into<String>) -> Self {
        Self { path: file.path.clone(), line, message: message.into() }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// Each row of `[[TABLE]]` as JSON with its keys sorted, in the order of the file: what its digests are made of. Layout and comments are no
/// part of it.
fn rows_as_json(file: &File, table: &str) -> Result<Vec<serde_json::Value>, ConfigError> {
    match parse::<toml::Table>(file)?.get(table) {
        Some(toml::Value::Array(rows)) => Ok(rows.iter().map(sorted).collect()),
        _ => Ok(Vec::new()),
    }
}

/// The order does not hang on how maps are made elsewhere in the program.
fn sorted(value: &toml::Value) -> serde_json::Value {
    match value {
        toml::Value::Table(members) => {
            let members: BTreeMap<_, _> = members.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
            serde_json::Value::Object(members.into_iter().collect())
        }
        toml::Value::Array(all) => all.iter().map(sorted).collect(),
        // JSON has no dates, and rows have none but as text.
        one => serde_json::to_value(one).unwrap_or_default(),
    }
}

/// The first eight bytes of SHA-256 over JSON, in hex.
fn short_digest(of: &serde_json::Value) -> String {
    hex::encode(&sha256(&[of.to_string().as_bytes()])[..8])
}

fn parse<T: DeserializeOwned>(file: &File) -> Result<T, ConfigError> {
    toml::from_str(&file.text).map_err(|error| {
        let line = error.span().map_or(0, |span| line_of(&file.text, span.start));
        ConfigError::at(file, line, error.message().to_owned())
    })
}
