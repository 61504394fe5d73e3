//! Listening Unix sockets that nobody can slip under us: made in a private directory, given their mode there, then renamed into place.

use super::{exe::file_id, peer};
use nix::{
    errno::Errno,
    fcntl::{AT_FDCWD, OFlag, openat, renameat},
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket},
        stat::Mode,
    },
    unistd::{Gid, UnlinkatFlags, fchownat, unlinkat},
};
use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    os::unix::net::UnixListener,
    path::{Component, Path, PathBuf},
};

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A folder above the socket is a link, or others may change it.
    #[error("{0}: {1}")]
    Unsafe(PathBuf, &'static str),
    /// Something else is there: it is not removed.
    #[error("{0}: there is already something here that is not a socket of ours; move it away")]
    Occupied(PathBuf),
    /// Another daemon serves it.
    #[error("{0}: another daemon listens here")]
    InUse(PathBuf),
    /// The kernel said no.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// Opens a folder part by part; every part must be a real folder that only root or we may change.
pub fn open_trusted_dir(path: &Path) -> Result<OwnedFd, BindError> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let io = |at: &Path, errno: Errno| BindError::Io(at.to_owned(), errno.into());
    let mut walked = PathBuf::from("/");
    let mut at = nix::fcntl::open("/", flags, Mode::empty()).map_err(|e| io(&walked, e))?;
    for part in path.components() {
        let name = match part {
            Component::RootDir => continue,
            Component::Normal(name) => name,
            _ => return Err(BindError::Unsafe(path.to_owned(), "must be an absolute path without '.' or '..'")),
        };
        walked.push(name);
        at = openat(&at, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ELOOP | Errno::ENOTDIR => BindError::Unsafe(walked.clone(), "is a link or not a folder"),
            errno => io(&walked, errno),
        })?;
        let id = file_id(&at).map_err(|e| BindError::Io(walked.clone(), e))?;
        let me = nix::unistd::geteuid().as_raw();
        if id.uid != 0 && id.uid != me {
            return Err(BindError::Unsafe(walked, "belongs to another user"));
        }
        // A sticky folder (/tmp) lets nobody rename what is not theirs.
        if id.mode & 0o022 != 0 && id.mode & 0o1000 == 0 {
            return Err(BindError::Unsafe(walked, "is writable by others"));
        }
    }
    Ok(at)
}

/// Whose folder a socket lies in, for clients: it and every folder above it may be changed by root, by us, or, where root alone decides what
/// the folder is called, by its owner (systemd's `RuntimeDirectory=` belongs to the service's user).
pub fn socket_folder_owner(path: &Path) -> Result<u32, BindError> {
    let refused = match open_trusted_dir(path) {
        Ok(dir) => return Ok(file_id(&dir).map_err(|e| BindError::Io(path.to_owned(), e))?.uid),
        Err(refused) => refused,
    };
    let (BindError::Unsafe(at, _), Some(parent), Some(name)) = (&refused, path.parent(), path.file_name()) else { return Err(refused) };
    let above = open_trusted_dir(parent)?;
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(dir) = openat(&above, name, flags, Mode::empty()) else { return Err(refused) };
    let (outer, inner) = (file_id(&above), file_id(&dir));
    match (outer, inner) {
        (Ok(outer), Ok(inner)) if at == path && outer.root_only() && inner.mode & 0o022 == 0 => Ok(inner.uid),
        _ => Err(refused),
    }
}

/// Whether root put this socket where it is and nobody else could have: then whoever listens there was chosen by root, such as the daemon
/// that systemd passed it to. (What a listener's uid is follows from who last called `listen`.)
pub fn is_roots_socket(path: &Path) -> bool {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return false };
    let Ok(dir) = open_trusted_dir(parent) else { return false };
    let Ok(held) = openat(&dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) else { return false };
    file_id(&dir).is_ok_and(|id| id.root_only()) && file_id(&held).is_ok_and(|id| id.is_socket() && id.uid == 0)
}

/// Whether whoever listens at `path` was chosen by root or by us, and nobody else may ask there: the folders above are not others' to
/// change, the socket is root's or ours, and connecting, which takes the right to write (unix(7)), is its owner's alone. That it *is* whoever
/// was chosen is a matter of [`peer_cred`](super::peer_cred) once connected.
pub fn check_closed_socket(path: &Path) -> Result<(), BindError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(BindError::Unsafe(path.to_owned(), "is not a path to a socket"));
    };
    let dir = open_trusted_dir(parent)?;
    let held = openat(&dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty());
    let held = held.map_err(|errno| BindError::Io(path.to_owned(), errno.into()))?;
    let id = file_id(&held).map_err(|error| BindError::Io(path.to_owned(), error))?;
    if !id.is_socket() {
        return Err(BindError::Unsafe(path.to_owned(), "is not a socket"));
    }
    if id.uid != 0 && id.uid != nix::unistd::geteuid().as_raw() && !crate::mutation!("command-owner") {
        return Err(BindError::Unsafe(path.to_owned(), "belongs to another user"));
    }
    if id.mode & 0o022 != 0 && !crate::mutation!("command-closed") {
        return Err(BindError::Unsafe(path.to_owned(), "may be asked by others"));
    }
    Ok(())
}

/// Binds, arms and listens at `path` with exactly `mode` and, if given, `group`. The umask does not matter, and at no moment is the
/// socket reachable with another mode. An old socket of ours that nobody serves is replaced; anything else in the way is refused.
pub fn listen_at(path: &Path, mode: u32, group: Option<u32>) -> Result<UnixListener, BindError> {
    let listener = make(path, mode, group, SockType::Stream)?;
    peer::refuse_descriptors(&listener);
    Ok(UnixListener::from(listener))
}

/// The same for whole messages with descriptors (`SOCK_SEQPACKET`): see [`Packets`](super::Packets). Accepting waits.
pub fn listen_packets_at(path: &Path, mode: u32, group: Option<u32>) -> Result<OwnedFd, BindError> {
    make(path, mode, group, SockType::SeqPacket)
}

fn make(path: &Path, mode: u32, group: Option<u32>, kind: SockType) -> Result<OwnedFd, BindError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(BindError::Unsafe(path.to_owned(), "is not a path to a file"));
    };
    let dir = open_trusted_dir(parent)?;
    let io = |error: io::Error| BindError::Io(path.to_owned(), error);
    clear_way(&dir, name, path, kind)?;
    // A name of our own that nobody guesses matters not: the folder is private, and everybody else may only look.
    let private = format!(".claviger.{}", std::process::id());
    let _ = unlinkat(&dir, format!("{private}/s").as_str(), UnlinkatFlags::NoRemoveDir);
    let _ = unlinkat(&dir, private.as_str(), UnlinkatFlags::RemoveDir);
    nix::sys::stat::mkdirat(&dir, private.as_str(), Mode::S_IRWXU).map_err(|e| io(e.into()))?;
    let made = bind_in(&dir, &private, mode, group, kind)
        .and_then(|listener| renameat(&dir, format!("{private}/s").as_str(), &dir, name).map(|()| listener).map_err(io::Error::from));
    let _ = unlinkat(&dir, format!("{private}/s").as_str(), UnlinkatFlags::NoRemoveDir);
    let _ = unlinkat(&dir, private.as_str(), UnlinkatFlags::RemoveDir);
    made.map_err(io)
}

fn bind_in(dir: &OwnedFd, private: &str, mode: u32, group: Option<u32>, kind: SockType) -> io::Result<OwnedFd> {
    let waits = if kind == SockType::Stream { SockFlag::SOCK_NONBLOCK } else { SockFlag::empty() };
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | waits, None)?;
    // sun_path is short; through the descriptor the path length does not matter.
    let address = UnixAddr::new(format!("/proc/self/fd/{}/{private}/s", dir.as_raw_fd()).as_str())?;
    bind(fd.as_raw_fd(), &address)?;
    let place = format!("{private}/s");
    if let Some(group) = group {
        fchownat(dir, place.as_str(), None, Some(Gid::from_raw(group)), nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    nix::sys::stat::fchmodat(dir, place.as_str(), Mode::from_bits_truncate(mode), nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    peer::pass_credentials(&fd)?;
    listen(&fd, Backlog::new(1024).unwrap_or(Backlog::MAXCONN))?;
    Ok(fd)
}

/// Prepares a listener, ours or one that systemd passed: senders' ids with every chunk, no descriptors.
pub fn arm(listener: &impl AsFd) -> io::Result<()> {
    peer::pass_credentials(listener)?;
    peer::refuse_descriptors(listener);
    Ok(())
}

/// Takes over a listener that systemd passed: armed, non-blocking, and listening again so that clients see *us* as the peer.
pub fn adopt(listener: UnixListener) -> io::Result<UnixListener> {
    arm(&listener)?;
    listener.set_nonblocking(true)?;
    listen(&listener, Backlog::new(1024).unwrap_or(Backlog::MAXCONN))?;
    Ok(listener)
}

/// Takes over a socket for messages that systemd passed: it waits, and we are who listens.
pub fn adopt_packets(listener: UnixListener) -> io::Result<OwnedFd> {
    peer::pass_credentials(&listener)?;
    listener.set_nonblocking(false)?;
    listen(&listener, Backlog::new(64).unwrap_or(Backlog::MAXCONN))?;
    let fd = OwnedFd::from(listener);
    // Anything else would merge what was sent apart.
    match nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::SockType)? {
        SockType::SeqPacket => Ok(fd),
        _ => Err(Errno::EPROTOTYPE.into()),
    }
}

fn clear_way(dir: &OwnedFd, name: &OsStr, path: &Path, kind: SockType) -> Result<(), BindError> {
    let held = match openat(dir, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(BindError::Io(path.to_owned(), errno.into())),
        Ok(held) => held,
    };
    let id = file_id(&held).map_err(|e| BindError::Io(path.to_owned(), e))?;
    if !id.is_socket() || id.uid != nix::unistd::geteuid().as_raw() {
        return Err(BindError::Occupied(path.to_owned()));
    }
    let probe = || -> Result<(), Errno> {
        let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(format!("/proc/self/fd/{}", held.as_raw_fd()).as_str())?)
    };
    match probe() {
        Err(Errno::ECONNREFUSED) => unlinkat(dir, name, UnlinkatFlags::NoRemoveDir).map_err(|e| BindError::Io(path.to_owned(), e.into())),
        _ => Err(BindError::InUse(path.to_owned())),
    }
}

/// Removes a socket that we made, on the way out; only if it is still one of ours.
pub fn remove(path: &Path) {
    if let Ok(held) = openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
        && let Ok(id) = file_id(&held)
        && id.is_socket()
        && id.uid == nix::unistd::geteuid().as_raw()
    {
        let _ = nix::unistd::unlink(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn a_socket_is_roots_only_where_nobody_else_could_have_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("w.sock");
        let listener = listen_at(&path, 0o666, None).unwrap();
        let root = nix::unistd::geteuid().is_root();
        assert_eq!(is_roots_socket(&path), root);
        for mode in [0o1777, 0o775, 0o700] {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_roots_socket(&path), root && mode == 0o700, "{mode:o}");
        }
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        assert!(!is_roots_socket(&path), "there is none");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(!is_roots_socket(&path), "a link");
        if root {
            std::fs::remove_file(&path).unwrap();
            let _listener = listen_at(&path, 0o666, None).unwrap();
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(!is_roots_socket(&path), "another user's");
        }
    }

    #[test]
    fn a_socket_is_closed_where_nobody_else_may_ask_or_could_have_put_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("p.sock");
        let said = || check_closed_socket(&path).map_err(|error| error.to_string()).err().unwrap_or_default();
        let listener = listen_at(&path, 0o600, None).unwrap();
        assert_eq!(said(), "");
        for (mode, wanted) in [(0o644, ""), (0o660, "may be asked by others"), (0o602, "may be asked by others")] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(said().ends_with(wanted) && said().is_empty() == wanted.is_empty(), "{mode:o}: {}", said());
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(said().ends_with("is writable by others"));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(1), None).unwrap();
            assert!(said().ends_with("belongs to another user"));
        }
        drop(listener);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(said().ends_with("is not a socket"));
    }

    #[test]
    fn exact_mode_whatever_stands_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("w.sock");
        let listener = listen_at(&path, 0o666, None).unwrap();
        assert_eq!(std::fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o666);
        assert!(matches!(listen_at(&path, 0o666, None), Err(BindError::InUse(_))));
        drop(listener);
        drop(listen_at(&path, 0o600, None).unwrap());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "mine").unwrap();
        assert!(matches!(listen_at(&path, 0o666, None), Err(BindError::Occupied(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(listen_at(&path, 0o666, None), Err(BindError::Unsafe(..))));
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(listen_at(&link.join("x"), 0o666, None), Err(BindError::Unsafe(..))));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing of ours is left behind");
    }
}
