//! `[[engine]]` with `kind = "command"`.

use crate::model::EngineName;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the sockets of programs are, each called by its engine.
const SOCKETS: &str = "/run/claviger/command";

/// A `command` engine.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct CommandConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// The socket at which the program is asked, if it is not `/run/claviger/command/NAME.sock`.
    #[serde(default)]
    pub socket: Option<PathBuf>,
    /// Seconds for each call, all waits included. The program must have ended soon after.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u32,
    /// Whether the program can look if a credential is dead. It is then asked at every end.
    #[serde(default)]
    pub probes: bool,
}

fn default_timeout() -> u32 {
    10
}

impl CommandConfig {
    /// Where the program is asked.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Path::new(SOCKETS).join(format!("{}.sock", self.name)))
    }
}
