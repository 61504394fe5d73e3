//! Private files: read only when nobody else can have written them, written so that a crash leaves the old or the new one.

use super::FileOwner;
use crate::model::{SecretBytes, WallTime};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, AtFlags, Flock, FlockArg, OFlag, openat, renameat},
    sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, mkdirat},
    unistd::{Gid, UnlinkatFlags, fchownat, fsync, getegid, geteuid, unlinkat},
};
use std::{
    ffi::{OsStr, OsString},
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{Read, Write},
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
};
use zeroize::Zeroizing;

/// Why a private file was not read or written. Each names the path an operator has to look at.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The kernel said no.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// A path that does not lead from `/` by plain names.
    #[error("{0}: must be an absolute path without '.' or '..'")]
    Path(PathBuf),
    /// A symbolic link, folder, device or pipe where a plain file must be.
    #[error("{0}: is not a regular file")]
    NotRegular(PathBuf),
    /// Somebody else's.
    #[error("{path}: belongs to uid {uid}, must be root's or the daemon's own")]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others may read or write it.
    #[error("{path}: has mode {mode:04o}, {wanted}")]
    Loose {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What it should be.
        wanted: &'static str,
    },
    /// Longer than such a file can be.
    #[error("{path}: is larger than {max} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most that is read.
        max: usize,
    },
    /// Another process holds the lock.
    #[error("{0}: is in use by another process")]
    Locked(PathBuf),
}

/// Reads a file of at most `max` bytes that only root or this process's user can have written and nobody else can read: a regular file,
/// reached without a symbolic link through folders that nobody else may change, mode 0600 or 0400.
pub fn read_private(path: &Path, max: usize) -> Result<SecretBytes, FileError> {
    let (folder, name) = open_parent(path)?;
    // O_NONBLOCK: opening a pipe must not wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = match openat(&folder, name.as_os_str(), flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ELOOP) => return Err(FileError::NotRegular(path.into())),
        Err(errno) => return Err(io(path, errno)),
    };
    let stat = fstat(&file).map_err(|errno| io(path, errno))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(FileError::NotRegular(path.into()));
    }
    check_owner(path, &stat)?;
    // systemd hands a credential to a unit's user by an access list; its mask then shows as the group bits of root's group.
    let mode = stat.st_mode & 0o7777;
    let allowed = if stat.st_uid == 0 && stat.st_gid == 0 { 0o640 } else { 0o600 };
    if mode & !allowed != 0 {
        return Err(FileError::Loose { path: path.into(), mode, wanted: "must be 0600 or 0400" });
    }
    // One allocation that never grows: a vector that moved would leave a copy behind. The size may be 0 on a file system that
    // does not tell it, so there is always room for `max`.
    let mut bytes = Zeroizing::new(Vec::with_capacity(max + 1));
    File::from(file).take(max as u64 + 1).read_to_end(&mut bytes).map_err(|source| FileError::Io { path: path.into(), source })?;
    if bytes.len() > max {
        return Err(FileError::TooLarge { path: path.into(), max });
    }
    Ok(SecretBytes::take_from(&mut bytes))
}

/// Whether a file could be written there, as far as its path tells.
pub fn check_place(path: &Path) -> Result<(), FileError> {
    open_parent(path).map(drop)
}

/// Replaces or makes the file in one step: whoever opens the path sees all old or all new bytes, also after a power cut. The folder's
/// path is held to the same rules as in [`read_private`]. One writer at a time per path.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    write_atomic_for(path, bytes, mode, None)
}

/// The same for another owner, who has it before it can be opened under its name.
pub fn write_atomic_for(path: &Path, bytes: &[u8], mode: u32, owner: Option<FileOwner>) -> Result<(), FileError> {
    let (parent, name) = open_parent(path)?;
    let folder = openat(&parent, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| io(path, e))?;
    let mut temporary = OsString::from(".");
    temporary.push(&name);
    if fstat(&folder).map_err(|errno| io(path, errno))?.st_mode & 0o022 != 0 {
        // Anybody may take a name that is known beforehand. One that is not is left where we are killed between making and renaming it.
        temporary.push(format!(".{:016x}", RandomState::new().build_hasher().finish()));
    }
    temporary.push(".tmp");
    // What a crash left; the name belongs to us alone.
    match unlinkat(&folder, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(io(path, errno)),
    }
    let written = write_new(path, &folder, &temporary, bytes, (mode, owner))
        .and_then(|()| renameat(&folder, temporary.as_os_str(), &folder, name.as_os_str()).map_err(|errno| io(path, errno)));
    if written.is_err() {
        // Best effort: the next write removes it as well.
        let _ = unlinkat(&folder, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
        return written;
    }
    fsync(&folder).map_err(|errno| io(path, errno))
}

fn write_new(path: &Path, folder: &OwnedFd, name: &OsStr, bytes: &[u8], (mode, owner): (u32, Option<FileOwner>)) -> Result<(), FileError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(folder, name, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| io(path, errno))?);
    file.write_all(bytes).map_err(|source| FileError::Io { path: path.into(), source })?;
    if let Some(owner) = owner {
        owner.give(&file).map_err(|errno| io(path, errno))?;
    }
    // The umask shaped the mode at creation; this does not.
    fchmod(&file, Mode::from_bits_truncate(mode)).map_err(|errno| io(path, errno))?;
    file.sync_all().map_err(|source| FileError::Io { path: path.into(), source })
}

/// Makes the folder with mode 0700 unless it is there; either way it must be ours or root's and closed to others.
pub fn private_folder(path: &Path) -> Result<(), FileError> {
    let (parent, name) = open_parent(path)?;
    match mkdirat(&parent, name.as_os_str(), Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(io(path, errno)),
    }
    let folder = open_folder(&parent, &name, path)?;
    let stat = fstat(&folder).map_err(|errno| io(path, errno))?;
    check_owner(path, &stat)?;
    let mode = stat.st_mode & 0o7777;
    if mode & 0o077 != 0 { Err(FileError::Loose { path: path.into(), mode, wanted: "must be 0700" }) } else { Ok(()) }
}

/// Closes a folder to all but its owner and, if given, one group, which may list and read it and gets the files that are made in it.
pub fn share_folder(path: &Path, group: Option<u32>) -> Result<(), FileError> {
    let (parent, name) = open_parent(path)?;
    let folder = open_folder(&parent, &name, path)?;
    let stat = fstat(&folder).map_err(|errno| io(path, errno))?;
    check_owner(path, &stat)?;
    let mine = stat.st_uid == geteuid().as_raw();
    let foreign = group.filter(|group| *group != stat.st_gid);
    if let Some(group) = foreign.filter(|_| mine) {
        fchownat(&folder, ".", None, Some(Gid::from_raw(group)), AtFlags::AT_SYMLINK_NOFOLLOW).map_err(|errno| io(path, errno))?;
    }
    // Files get the folder's group by its setgid bit; where it already is our own group they get it anyway.
    let own_group = group.is_some_and(|group| group == getegid().as_raw());
    let wanted = match group {
        None => 0o700,
        Some(_) if own_group => 0o750,
        Some(_) => 0o2750,
    };
    let loose = stat.st_mode & 0o7777 & !wanted != 0;
    if mine && (loose || foreign.is_some()) {
        fchmodat(&folder, ".", Mode::from_bits_truncate(wanted), FchmodatFlags::FollowSymlink).map_err(|errno| io(path, errno))?;
    }
    Ok(())
}

/// The names of the entries of a folder, in byte order; names that are not UTF-8 are left out.
pub fn file_names(path: &Path) -> Result<Vec<String>, FileError> {
    let fail = |source| FileError::Io { path: path.into(), source };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// When the file of a folder that was written to last was written to, by the wall clock of then; `None` where there is none.
pub fn last_written(folder: &Path) -> Option<WallTime> {
    let modified = std::fs::read_dir(folder).ok()?.flatten().filter_map(|entry| entry.metadata().ok()?.modified().ok());
    let micros = modified.max()?.duration_since(std::time::SystemTime::UNIX_EPOCH).ok()?.as_micros();
    u64::try_from(micros).ok().map(WallTime)
}

/// A lock on a file, held until dropped or until the process ends, however it ends.
pub struct FileLock(#[allow(dead_code, reason = "held, never read")] Flock<File>);

impl FileLock {
    /// Takes the lock or says at once who is in the way.
    pub fn take(path: &Path) -> Result<Self, FileError> {
        let (folder, name) = open_parent(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&folder, name.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| io(path, errno))?;
        match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Err(FileError::Locked(path.into())),
            Err((_, errno)) => Err(io(path, errno)),
        }
    }
}

/// Walks from `/` by descriptors, so that no folder can be exchanged between the look and the use.
fn open_parent(path: &Path) -> Result<(OwnedFd, OsString), FileError> {
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) {
        return Err(FileError::Path(path.into()));
    }
    let mut names = Vec::new();
    for component in components {
        match component {
            Component::Normal(name) => names.push(name),
            _ => return Err(FileError::Path(path.into())),
        }
    }
    let last = names.pop().ok_or_else(|| FileError::Path(path.into()))?;
    let mut here = PathBuf::from("/");
    let mut folder =
        openat(AT_FDCWD, "/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map_err(|e| io(&here, e))?;
    check_folder(&here, &folder)?;
    for name in names {
        here.push(name);
        folder = open_folder(&folder, name, &here)?;
        check_folder(&here, &folder)?;
    }
    Ok((folder, last.to_owned()))
}

fn open_folder(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, FileError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|errno| io(path, errno))
}

/// A folder that others may write is accepted only if it is root's and sticky (`/tmp`): an entry in it that is ours cannot be replaced.
fn check_folder(path: &Path, folder: &OwnedFd) -> Result<(), FileError> {
    let stat = fstat(folder).map_err(|errno| io(path, errno))?;
    check_owner(path, &stat)?;
    let mode = stat.st_mode & 0o7777;
    let sticky = stat.st_uid == 0 && mode & 0o1000 != 0;
    if mode & 0o022 != 0 && !sticky {
        return Err(FileError::Loose { path: path.into(), mode, wanted: "must not be writable by others" });
    }
    Ok(())
}

fn check_owner(path: &Path, stat: &FileStat) -> Result<(), FileError> {
    if stat.st_uid == 0 || stat.st_uid == geteuid().as_raw() {
        Ok(())
    } else {
        Err(FileError::Owner { path: path.into(), uid: stat.st_uid })
    }
}

fn io(path: &Path, errno: Errno) -> FileError {
    FileError::Io { path: path.into(), source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        folder
    }

    #[test]
    fn what_was_written_is_read_and_replaced_whole() {
        let folder = folder();
        let path = folder.path().join("key");
        write_atomic(&path, b"first", 0o600).unwrap();
        write_atomic(&path, b"second", 0o400).unwrap();
        assert_eq!(read_private(&path, 6).unwrap().expose(), b"second");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o400);
        assert!(matches!(read_private(&path, 5), Err(FileError::TooLarge { max: 5, .. })));
        assert_eq!(file_names(folder.path()).unwrap(), ["key"], "nothing temporary stays");
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        let folder = folder();
        let path = folder.path().join("key");
        write_atomic(&path, b"x", 0o600).unwrap();
        for mode in [0o604, 0o602, 0o620, 0o700, 0o660, 0o4600] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_private(&path, 9), Err(FileError::Loose { .. })), "{mode:o}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(read_private(&path, 9), Err(FileError::Loose { .. })), "anybody could exchange it");
        assert!(matches!(write_atomic(&path, b"y", 0o600), Err(FileError::Loose { .. })));
    }

    #[test]
    fn links_pipes_and_folders_are_no_files() {
        let folder = folder();
        let path = folder.path().join("key");
        write_atomic(&path, b"x", 0o600).unwrap();
        symlink(&path, folder.path().join("link")).unwrap();
        assert!(matches!(read_private(&folder.path().join("link"), 9), Err(FileError::NotRegular(_))));
        nix::unistd::mkfifo(&folder.path().join("pipe"), Mode::S_IRUSR).unwrap();
        assert!(matches!(read_private(&folder.path().join("pipe"), 9), Err(FileError::NotRegular(_))));
        assert!(matches!(read_private(folder.path(), 9), Err(FileError::NotRegular(_))));
        std::fs::create_dir(folder.path().join("real")).unwrap();
        symlink(folder.path().join("real"), folder.path().join("way")).unwrap();
        assert!(write_atomic(&folder.path().join("way/key"), b"x", 0o600).is_err(), "a folder reached by a link");
        for path in ["key", "/tmp/../key", "/"] {
            assert!(matches!(read_private(Path::new(path), 9), Err(FileError::Path(_))), "{path}");
        }
    }

    #[test]
    fn a_shared_folder_is_open_to_its_group_alone() {
        let folder = folder();
        let path = folder.path().join("log");
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let mode = || std::fs::metadata(&path).unwrap().mode() & 0o7777;
        share_folder(&path, Some(getegid().as_raw())).unwrap();
        assert_eq!(mode(), 0o750);
        share_folder(&path, None).unwrap();
        assert_eq!(mode(), 0o700);
        if geteuid().is_root() {
            share_folder(&path, Some(4711)).unwrap();
            assert_eq!((mode(), std::fs::metadata(&path).unwrap().gid()), (0o2750, 4711));
            std::fs::write(path.join("file"), "").unwrap();
            assert_eq!(std::fs::metadata(path.join("file")).unwrap().gid(), 4711);
        }
    }

    #[test]
    fn one_holder_of_a_lock() {
        let folder = folder();
        let path = folder.path().join("lock");
        let held = FileLock::take(&path).unwrap();
        assert!(matches!(FileLock::take(&path), Err(FileError::Locked(_))));
        drop(held);
        FileLock::take(&path).unwrap();
    }
}
