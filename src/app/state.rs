//! The state folder: which installation it belongs to, and the key that opens it.

use super::build::BuildError;
use crate::{
    config::{Config, File},
    digest::{Random, SealKey},
    engine::Mark,
    sys,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The layout that this version writes. It reads this one and the one before.
pub const FORMAT: u32 = 1;

/// `state.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    state: String,
    machine: Option<String>,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What the state folder says.
pub struct State {
    /// The random id that was made at first start.
    pub id: String,
    /// What everything upstream bears.
    pub mark: Mark,
    /// Why nothing may be issued: the state does not fit this machine.
    pub read_only: Option<String>,
}

/// Why the state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file.
    #[error(transparent)]
    File(#[from] sys::FileError),
    /// Written by another version, mostly a later one.
    #[error("{0}: the state has format {1}, this version reads up to {FORMAT}; nothing was changed. Start the version that wrote it")]
    Newer(PathBuf, u32),
    /// Damaged.
    #[error("{0}: {1}")]
    Damaged(PathBuf, serde_json::Error),
    /// There is no key.
    #[error(
        "there is no key that can be used: {0}. It must be a private file of the daemon's user (chmod 0400, chown claviger); 'clav init' makes one where there is none, or pass the systemd credential {1}"
    )]
    NoKey(#[source] sys::FileError, String),
    /// The key is not one.
    #[error("{0}: must hold 32 bytes, or 64 hexadecimal digits")]
    BadKey(PathBuf),
}

/// Reads the head of the state folder, or makes it at first start.
pub fn open(folder: &Path, random: &dyn Random) -> Result<State, StateError> {
    sys::private_folder(folder)?;
    let path = folder.join("state.json");
    let file = |path: &Path, source| StateError::File(sys::FileError::Io { path: path.to_owned(), source });
    let machine = sys::machine_id().map_err(|error| file(Path::new(sys::MACHINE_ID), error))?;
    // A state that cannot be looked at is no first start.
    let head = if path.try_exists().map_err(|error| file(&path, error))? {
        let text = sys::read_private(&path, 4096)?;
        let damaged = |error| StateError::Damaged(path.clone(), error);
        // The format alone first: another one may have members that this version does not know.
        let Format { format } = serde_json::from_slice(text.expose()).map_err(damaged)?;
        if !(1..=FORMAT).contains(&format) {
            return Err(StateError::Newer(path, format));
        }
        serde_json::from_slice(text.expose()).map_err(damaged)?
    } else {
        let head = Head { format: FORMAT, state: format!("{:032x}", random.u128()), machine: machine.clone() };
        // A struct of strings and a number always has a JSON form.
        let text = serde_json::to_vec(&head).map_err(|error| StateError::Damaged(path.clone(), error))?;
        sys::write_atomic(&path, &text, 0o600)?;
        head
    };
    let read_only = (head.machine != machine).then(|| {
        format!(
            "this state was made on machine {}, this is {}: a cloned image or a copied folder. Nothing is issued and nothing is ended. Move {} away to begin anew; on the one machine that goes on with this state, put its id into state.json",
            head.machine.as_deref().unwrap_or("without id"),
            machine.as_deref().unwrap_or("without id"),
            folder.display()
        )
    });
    let mark = Mark::new(head.machine.as_deref().unwrap_or_default().as_bytes(), head.state.as_bytes());
    Ok(State { id: head.state, mark, read_only })
}

/// Where the key of the local store comes from.
pub struct KeyPlace {
    /// What is read.
    pub path: PathBuf,
    /// It is a file that an operator may replace while the daemon runs; a credential is fixed when the unit starts.
    pub is_file: bool,
}

/// A systemd credential if the unit passes one, else a private file.
pub fn key_place(config: &Config) -> KeyPlace {
    // One that cannot be looked at for want of something is there: reading it says so. Whoever checks the files beside the daemon may not
    // look into the unit's folder, and has no credential.
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(&config.local.key_credential));
    match credential.filter(|path| path.try_exists().unwrap_or_else(|error| sys::is_passing_io(&error))) {
        Some(path) => KeyPlace { path, is_file: false },
        None => KeyPlace { path: config.local.key_file.clone(), is_file: true },
    }
}

/// The key of the local store.
pub fn key(config: &Config) -> Result<SealKey, StateError> {
    read_key(key_place(config).path, config)
}

/// The key before it, while keys are being changed.
pub fn previous_key(config: &Config) -> Result<Option<SealKey>, StateError> {
    config.local.previous_key_file.clone().map(|path| read_key(path, config)).transpose()
}

fn read_key(path: PathBuf, config: &Config) -> Result<SealKey, StateError> {
    let bytes = sys::read_private(&path, 128).map_err(|error| StateError::NoKey(error, config.local.key_credential.clone()))?;
    let raw = bytes.expose();
    let text = std::str::from_utf8(raw).map(str::trim_end).ok().filter(|text| text.len() == 64);
    let key = match text.map(hex::decode) {
        Some(Ok(decoded)) => SealKey::from_bytes(zeroize::Zeroizing::new(decoded).as_slice()),
        _ => SealKey::from_bytes(raw),
    };
    key.ok_or(StateError::BadKey(path))
}

/// Reads the configuration file; a missing one is the default configuration only when it was not asked for by name.
pub fn config(path: &Path) -> Result<Config, BuildError> {
    let text = sys::read_trusted(path, 1 << 20)?;
    Config::parse(&File { path: path.display().to_string(), text }).map_err(|error| BuildError::Config(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    #[test]
    fn another_format_is_refused_whatever_else_stands_there_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, random) = (folder.path().join("state"), SeededRandom::new(1));
        let first = open(&folder, &random).unwrap();
        assert_eq!(open(&folder, &random).unwrap().id, first.id);
        for (text, newer) in [
            (r#"{"format":2,"state":"x","machine":null}"#, true),
            (r#"{"format":2,"state":{"of":"another kind"},"more":1}"#, true),
            (r#"{"format":0,"state":"x","machine":null}"#, true),
            (r#"{"format":1,"state":"x","machine":null,"more":1}"#, false),
            ("{", false),
        ] {
            let path = folder.join("state.json");
            sys::write_atomic(&path, text.as_bytes(), 0o600).unwrap();
            let error = open(&folder, &random).err().unwrap();
            assert_eq!(matches!(error, StateError::Newer(..)), newer, "{text}: {error}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
