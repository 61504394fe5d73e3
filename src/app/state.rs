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
    /// The mark is not one.
    #[error("{0}: is no mark; restore it, for what was made upstream bears it and is found by it")]
    BadMark(PathBuf),
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
    let machine = sys::machine_id().map_err(|error| file(Path::new(sys::MACHINE_ID), error))?;
    open_on(machine, folder, random)
}

fn file(path: &Path, source: std::io::Error) -> StateError {
    StateError::File(sys::FileError::Io { path: path.to_owned(), source })
}

fn open_on(machine: Option<String>, folder: &Path, random: &dyn Random) -> Result<State, StateError> {
    sys::private_folder(folder)?;
    let path = folder.join("state.json");
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
            "this state was made on machine {}, this is {}: a cloned image or a copied folder. Nothing is issued and nothing is ended. Move {} away to begin anew; on the one machine that goes on with this state, put its id into state.json (if two go on with it, each ends what the other makes)",
            head.machine.as_deref().unwrap_or("without id"),
            machine.as_deref().unwrap_or("without id"),
            folder.display()
        )
    });
    let mark = mark(&head, folder)?;
    Ok(State { id: head.state, mark, read_only })
}

/// The mark that this state began with. It stays when the state goes on elsewhere: by another nothing of what is owed would be found, and
/// what is not found is taken for dead.
fn mark(head: &Head, folder: &Path) -> Result<Mark, StateError> {
    let path = folder.join("mark");
    if path.try_exists().map_err(|error| file(&path, error))? {
        let text = sys::read_private(&path, 64)?;
        let mark = std::str::from_utf8(text.expose()).ok().and_then(|text| Mark::parse(text.trim_end()));
        return mark.ok_or(StateError::BadMark(path));
    }
    let mark = Mark::new(head.machine.as_deref().unwrap_or_default().as_bytes(), head.state.as_bytes());
    sys::write_atomic(&path, format!("{mark}\n").as_bytes(), 0o600)?;
    Ok(mark)
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
    fn a_state_that_goes_on_elsewhere_keeps_the_mark_that_it_began_with() {
        let folder = tempfile::tempdir().unwrap();
        let (folder, random) = (folder.path().join("state"), SeededRandom::new(1));
        let on = |machine: &str| open_on(Some(machine.to_owned()), &folder, &random).unwrap();
        let first = on("a");
        assert_eq!((&first.mark, first.read_only), (&Mark::new(b"a", first.id.as_bytes()), None));
        // A version that kept none wrote the same.
        std::fs::remove_file(folder.join("mark")).unwrap();
        assert_eq!(on("a").mark, first.mark);
        let copied = on("b");
        assert!(copied.read_only.is_some() && copied.mark == first.mark);
        let path = folder.join("state.json");
        let text = std::fs::read_to_string(&path).unwrap();
        sys::write_atomic(&path, text.replace(r#""machine":"a""#, r#""machine":"b""#).as_bytes(), 0o600).unwrap();
        let goes_on = on("b");
        assert!(goes_on.read_only.is_none() && goes_on.mark == first.mark && goes_on.id == first.id);
        sys::write_atomic(&folder.join("mark"), b"0123456789abcdeF\n", 0o600).unwrap();
        assert!(matches!(open_on(Some("b".into()), &folder, &random), Err(StateError::BadMark(_))));
    }

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
