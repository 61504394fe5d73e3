//! The other end of a Unix socket as the kernel recorded it when it connected.

use super::pidfd::Pidfd;
use nix::{errno::Errno, sys::socket};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd},
};

/// `SO_PEERCRED`: effective ids at `connect()`, and the number the process had then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process id; 0 when it lies outside our pid namespace. Never proof by itself.
    pub pid: u32,
    /// Effective user id at connect.
    pub uid: u32,
    /// Effective group id at connect.
    pub gid: u32,
}

/// Ids that this namespace cannot express are shown as this one (`/proc/sys/kernel/overflowuid`, default).
pub const OVERFLOW_ID: u32 = 65_534;

/// Linux 6.16: refuse descriptors that a peer passes.
const SO_PASSRIGHTS: libc::c_int = 83;

/// Connect-time ids.
pub fn peer_cred(socket: &impl AsFd) -> io::Result<PeerCred> {
    let cred = socket::getsockopt(&socket.as_fd(), socket::sockopt::PeerCredentials)?;
    Ok(PeerCred { pid: cred.pid() as u32, uid: cred.uid(), gid: cred.gid() })
}

/// The abstract name that the other end is bound to, without its leading zero byte; `None` where it has none. Anybody may bind any.
pub fn peer_name(socket: &impl AsFd) -> Option<Vec<u8>> {
    let name: socket::UnixAddr = socket::getpeername(socket.as_fd().as_raw_fd()).ok()?;
    name.as_abstract().map(<[u8]>::to_vec)
}

/// Supplementary groups at connect (`SO_PEERGROUPS`).
pub fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups = vec![0u32; 64];
    loop {
        let mut len = (groups.len() * 4) as libc::socklen_t;
        // SAFETY: `len` bytes are writable behind the pointer; the kernel updates `len`.
        let done = unsafe {
            libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut len)
        };
        match Errno::result(done) {
            Ok(_) => {
                groups.truncate(len as usize / 4);
                return Ok(groups);
            }
            Err(Errno::ERANGE) if groups.len() < 65_536 => groups.resize(len as usize / 4 + 16, 0),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The process that connected, pinned by the kernel at `connect()` (`SO_PEERPIDFD`, Linux 6.5).
///
/// An error says nothing about the kernel: a dead peer gives one too. Whether the option exists is probed once at start.
pub fn peer_pidfd(socket: &impl AsFd) -> io::Result<Pidfd> {
    let mut fd: RawFd = -1;
    let mut len = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: one int is writable behind the pointer; on success it is a new descriptor that nobody else owns.
    let done =
        unsafe { libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut len) };
    Errno::result(done)?;
    // SAFETY: as above.
    Ok(Pidfd::from_fd(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Linux 6.17: every read tells how many bytes lie in the socket.
pub(super) const SO_INQ: libc::c_int = 84;

/// Asks for that; says whether this kernel knows it.
pub(super) fn tell_waiting(socket: &impl AsFd) -> bool {
    set(socket, SO_INQ, 1)
}

/// Every look (`MSG_PEEK`) is behind what was looked at before, until that is taken out (`SO_PEEK_OFF`, socket(7)).
pub(super) fn look_behind(socket: &impl AsFd) -> bool {
    set(socket, libc::SO_PEEK_OFF, 0)
}

/// Sets an option that is one int; says whether the kernel took it.
fn set(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> bool {
    // SAFETY: one int is readable behind the pointer.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    done == 0
}

/// Asks for the sender's ids with every read. Set on a listener it holds for all its connections, from their first byte.
pub fn pass_credentials(socket: &impl AsFd) -> io::Result<()> {
    socket::setsockopt(&socket.as_fd(), socket::sockopt::PassCred, &true).map_err(io::Error::from)
}

/// Refuses descriptors sent by peers where the kernel can (Linux 6.16); elsewhere the stream drops a connection that sends one.
pub fn refuse_descriptors(socket: &impl AsFd) -> bool {
    set(socket, SO_PASSRIGHTS, i32::from(crate::mutation!("passed-descriptors")))
}
