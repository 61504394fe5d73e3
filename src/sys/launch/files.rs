//! Files that only root can have written. The launcher runs under its caller's uid, so what that one may write counts for nothing here.

use crate::sys::exe::{FileId, file_id};
use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

/// Entries of one tree that are looked at; a larger one is not launched.
const MOST_ENTRIES: usize = 200_000;
/// How deep a tree may be.
const MOST_LEVELS: usize = 64;

/// Why a file is not root's alone.
#[derive(Debug, thiserror::Error)]
pub enum NotRoots {
    /// Somebody else can have written it, or may make another file of it.
    #[error("{0}: {1}")]
    Unsafe(PathBuf, &'static str),
    /// The kernel.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

fn failed(path: &Path) -> impl Fn(Errno) -> NotRoots {
    move |errno| match errno {
        Errno::ELOOP => NotRoots::Unsafe(path.to_owned(), "is a link"),
        errno => NotRoots::Io(path.to_owned(), errno.into()),
    }
}

/// Root owns it, and nobody else may write it. `folder` may have the sticky bit instead: there nobody moves what is not theirs.
fn only_roots(path: &Path, id: &FileId, folder: bool) -> Result<(), NotRoots> {
    if id.uid != 0 {
        return Err(NotRoots::Unsafe(path.to_owned(), "does not belong to root"));
    }
    if id.mode & 0o022 != 0 && !(folder && id.mode & 0o1000 != 0) {
        return Err(NotRoots::Unsafe(path.to_owned(), "is writable by others than root; chmod go-w it"));
    }
    Ok(())
}

fn kind(id: &FileId) -> u32 {
    u32::from(id.mode) & libc::S_IFMT
}

/// Opens what an absolute path without links names, through folders that only root may change; it itself included.
fn open_roots(path: &Path) -> Result<(OwnedFd, FileId), NotRoots> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut walked = PathBuf::from("/");
    let mut at = nix::fcntl::open("/", flags, Mode::empty()).map_err(failed(&walked))?;
    let look = |walked: &Path, at: &OwnedFd| file_id(at).map_err(|error| NotRoots::Io(walked.to_owned(), error));
    let mut id = look(&walked, &at)?;
    for part in path.components() {
        let name = match part {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            _ => return Err(NotRoots::Unsafe(path.to_owned(), "must be an absolute path without '.' or '..'")),
        };
        // What lies in a folder can be exchanged by whoever may write the folder.
        only_roots(&walked, &id, true)?;
        walked.push(name);
        at = openat(&at, name, flags, Mode::empty()).map_err(failed(&walked))?;
        id = look(&walked, &at)?;
        if kind(&id) == libc::S_IFLNK {
            return Err(NotRoots::Unsafe(walked, "is a link"));
        }
    }
    only_roots(&walked, &id, kind(&id) == libc::S_IFDIR)?;
    Ok((at, id))
}

/// The text of a regular file of at most `max` bytes.
pub fn read_roots_file(path: &Path, max: usize) -> Result<String, NotRoots> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(NotRoots::Unsafe(path.to_owned(), "is not a path to a file"));
    };
    let (folder, _) = open_roots(parent)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = openat(&folder, name, flags, Mode::empty()).map_err(failed(path))?;
    let io = |error| NotRoots::Io(path.to_owned(), error);
    let id = file_id(&file).map_err(io)?;
    if kind(&id) != libc::S_IFREG {
        return Err(NotRoots::Unsafe(path.to_owned(), "is not a regular file"));
    }
    only_roots(path, &id, false)?;
    let mut text = String::new();
    File::from(file).take(max as u64 + 1).read_to_string(&mut text).map_err(io)?;
    if text.len() > max { Err(NotRoots::Unsafe(path.to_owned(), "is too large")) } else { Ok(text) }
}

/// Where a path leads, which must be a regular file of root's below folders of root's; so must be every link on the way.
pub fn check_roots_file(path: &Path) -> Result<PathBuf, NotRoots> {
    let io = |error| NotRoots::Io(path.to_owned(), error);
    // Who may exchange the name may exchange where it leads.
    open_roots(&path.parent().unwrap_or(path).canonicalize().map_err(io)?)?;
    let real = path.canonicalize().map_err(io)?;
    let (_, id) = open_roots(&real)?;
    if kind(&id) == libc::S_IFREG { Ok(real) } else { Err(NotRoots::Unsafe(real, "is not a regular file")) }
}

/// What an argument names: a file must be root's alone, and so must a whole folder. Of anything else (a socket, a device) and of what is
/// not there yet, the folder must be: nobody else may put a file in its place.
pub fn check_roots_named(path: &Path) -> Result<(), NotRoots> {
    let io = |error| NotRoots::Io(path.to_owned(), error);
    let Ok(real) = path.canonicalize() else {
        let there = path.ancestors().skip(1).find_map(|above| above.canonicalize().ok()).unwrap_or_else(|| "/".into());
        let (_, id) = open_roots(&there)?;
        return only_roots(&there, &id, false);
    };
    open_roots(&path.parent().unwrap_or(path).canonicalize().map_err(io)?)?;
    let kind = std::fs::symlink_metadata(&real).map_err(io)?.file_type();
    if kind.is_dir() {
        check_roots_tree(&real)
    } else if kind.is_file() {
        open_roots(&real).map(drop)
    } else {
        open_roots(real.parent().unwrap_or(&real)).map(drop)
    }
}

/// Every file and folder of a tree is root's alone, and every link in it leads to what is.
pub fn check_roots_tree(path: &Path) -> Result<(), NotRoots> {
    let real = path.canonicalize().map_err(|error| NotRoots::Io(path.to_owned(), error))?;
    let (top, id) = open_roots(&real)?;
    if kind(&id) != libc::S_IFDIR {
        return Err(NotRoots::Unsafe(real, "is not a folder"));
    }
    // Here not even the sticky bit lets others add files.
    only_roots(&real, &id, false)?;
    let mut left = MOST_ENTRIES;
    walk(&top, &real, MOST_LEVELS, &mut left)
}

fn walk(folder: &OwnedFd, path: &Path, levels: usize, left: &mut usize) -> Result<(), NotRoots> {
    let refused = |path: &Path, why| Err(NotRoots::Unsafe(path.to_owned(), why));
    if levels == 0 {
        return refused(path, "lies deeper than a launched tree may be");
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut list = Dir::openat(folder.as_fd(), ".", flags, Mode::empty()).map_err(failed(path))?;
    let names: Vec<Vec<u8>> = list
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_bytes().to_vec()))
        .collect::<Result<_, _>>()
        .map_err(failed(path))?;
    for name in names.iter().filter(|name| !matches!(name.as_slice(), b"." | b"..")) {
        let (name, at) = (OsStr::from_bytes(name), path.join(OsStr::from_bytes(name)));
        *left = match left.checked_sub(1) {
            Some(left) => left,
            None => return refused(path, "has more files than a launched tree may have"),
        };
        let held = openat(folder, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed(&at))?;
        let id = file_id(&held).map_err(|error| NotRoots::Io(at.clone(), error))?;
        match kind(&id) {
            libc::S_IFLNK => {
                if id.uid != 0 {
                    return refused(&at, "does not belong to root");
                }
                open_roots(&at.canonicalize().map_err(|error| NotRoots::Io(at.clone(), error))?)?;
            }
            libc::S_IFDIR => {
                only_roots(&at, &id, false)?;
                walk(&held, &at, levels - 1, left)?;
            }
            _ => only_roots(&at, &id, false)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn only_roots_files_below_roots_folders_count() {
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o755);
        let top = dir.path().canonicalize().unwrap();
        let file = top.join("f");
        std::fs::write(&file, "text").unwrap();
        mode(&file, 0o644);
        if !nix::unistd::geteuid().is_root() {
            assert!(read_roots_file(&file, 10).is_err(), "it is ours, and that is not enough");
            return;
        }
        assert_eq!(read_roots_file(&file, 4).unwrap(), "text");
        assert!(read_roots_file(&file, 3).is_err());
        let link = top.join("l");
        symlink(&file, &link).unwrap();
        assert!(read_roots_file(&link, 10).is_err());
        assert_eq!(check_roots_file(&link).unwrap(), file);
        check_roots_tree(&top).unwrap();
        for (bad, owner) in [(0o666, 0), (0o664, 0), (0o644, 1000)] {
            mode(&file, bad);
            chown(&file, Some(owner), None).unwrap();
            assert!(
                read_roots_file(&file, 10).is_err() && check_roots_file(&link).is_err() && check_roots_tree(&top).is_err(),
                "{bad:o} {owner}"
            );
        }
        mode(&file, 0o644);
        chown(&file, Some(0), None).unwrap();
        let below = top.join("d");
        std::fs::create_dir(&below).unwrap();
        for bad in [0o777, 0o1777] {
            mode(&below, bad);
            assert!(check_roots_tree(&top).is_err(), "{bad:o}");
        }
        mode(&below, 0o755);
        check_roots_tree(&top).unwrap();
        check_roots_named(&file).unwrap();
        check_roots_named(&top.join("later")).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(top.join("s")).unwrap();
        mode(&top.join("s"), 0o666);
        check_roots_named(&top.join("s")).unwrap();
        drop(socket);
        std::fs::remove_file(top.join("s")).unwrap();
        assert!(check_roots_named(Path::new("/tmp/claviger-nobody-made-this")).is_err(), "anybody could");
        // A link that leads to what another may write.
        let other = tempfile::tempdir().unwrap();
        mode(other.path(), 0o777);
        std::fs::write(other.path().join("x"), "").unwrap();
        symlink(other.path().join("x"), below.join("x")).unwrap();
        assert!(check_roots_tree(&top).is_err());
        std::fs::remove_file(below.join("x")).unwrap();
        symlink(below.join("gone"), below.join("x")).unwrap();
        assert!(check_roots_tree(&top).is_err(), "whoever makes it may make anything");
    }
}
