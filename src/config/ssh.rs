//! `[[engine]]` with `kind = "ssh"`.

use crate::model::{EngineName, Ttl};
use serde::Deserialize;
use std::path::PathBuf;

/// An `ssh` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct SshConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// The longest any certificate lives.
    pub max_ttl: Ttl,
    /// Where the authority's public key is written; nowhere without.
    #[serde(default)]
    pub ca_public_file: Option<PathBuf>,
    /// Where the list of ended leases is written; none without.
    #[serde(default)]
    pub revoked_file: Option<PathBuf>,
}
