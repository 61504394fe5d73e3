//! Configuration files: what others may read, and nobody but root and us may write.

use super::{
    exe::file_id,
    socket::{BindError, open_trusted_dir},
};
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Why a file may not be believed.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A folder above it.
    #[error(transparent)]
    Folder(#[from] BindError),
    /// Others may have written it.
    #[error("{0}: {1}")]
    Unsafe(PathBuf, &'static str),
    /// The kernel.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// The text of a regular file of at most `max` bytes that only root or we can have written, reached through folders of which the same holds.
pub fn read_trusted(path: &Path, max: usize) -> Result<String, TrustError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(TrustError::Unsafe(path.to_owned(), "is not a path to a file"));
    };
    let folder = open_trusted_dir(parent)?;
    let io = |errno: Errno| TrustError::Io(path.to_owned(), errno.into());
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = openat(&folder, name, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ELOOP => TrustError::Unsafe(path.to_owned(), "is a link"),
        errno => io(errno),
    })?;
    let id = file_id(&file).map_err(|error| TrustError::Io(path.to_owned(), error))?;
    if u32::from(id.mode) & libc::S_IFMT != libc::S_IFREG {
        return Err(TrustError::Unsafe(path.to_owned(), "is not a regular file"));
    }
    if id.uid != 0 && id.uid != nix::unistd::geteuid().as_raw() {
        return Err(TrustError::Unsafe(path.to_owned(), "belongs to another user"));
    }
    if id.mode & 0o022 != 0 {
        return Err(TrustError::Unsafe(path.to_owned(), "is writable by others; chmod go-w it"));
    }
    let mut text = String::new();
    File::from(file).take(max as u64 + 1).read_to_string(&mut text).map_err(|error| TrustError::Io(path.to_owned(), error))?;
    if text.len() > max { Err(TrustError::Unsafe(path.to_owned(), "is too large")) } else { Ok(text) }
}

/// The files of a folder whose names end so, by name, with their text. A folder that is not there is an error: taken for an empty one it
/// would end every lease.
pub fn read_trusted_folder(folder: &Path, ending: &str, max: usize) -> Result<Vec<(PathBuf, String)>, TrustError> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) => return Err(TrustError::Io(folder.to_owned(), error)),
        Ok(entries) => entries,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| TrustError::Io(folder.to_owned(), error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(ending) && !name.starts_with('.') {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(|path| read_trusted(&path, max).map(|text| (path, text))).collect()
}

/// Files in such a folder that nothing reads, whichever of our files it is for; what is hidden, and what is called README, is meant to be so.
pub fn unread_in_folder(folder: &Path) -> Vec<PathBuf> {
    let is_unread = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        !name.ends_with(".toml") && !name.ends_with(".cedar") && !name.starts_with('.') && !name.starts_with("README") && !path.is_dir()
    };
    let mut unread: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(is_unread).collect();
    unread.sort();
    unread
}
