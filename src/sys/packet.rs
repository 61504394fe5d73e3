//! Messages with descriptors between two processes of ours: `SOCK_SEQPACKET` on a Unix socket (unix(7)).
//!
//! A message arrives whole or not at all, with the ids of who sent it (`SCM_CREDENTIALS`) and the descriptors beside it. Whatever is cut
//! short, or brings more than it may, is an error, and every descriptor that came with it is closed.

use super::peer::{self, PeerCred};
use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, accept4, connect, setsockopt, socket, sockopt},
        time::TimeVal,
    },
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Descriptors that one message may bring, at most (the kernel's `SCM_MAX_FD` is 253).
pub const MAX_DESCRIPTORS: usize = 64;

/// One end of a connection that carries messages.
pub struct Packets(OwnedFd);

/// One message.
pub struct Packet {
    /// Its bytes, at the beginning of the buffer that was given.
    pub len: usize,
    /// What came with it.
    pub descriptors: Vec<OwnedFd>,
    /// Who sent it: process and real ids.
    pub sender: PeerCred,
}

impl Packets {
    /// Connects without ever waiting: where nobody listens or the queue is full, that is an error.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        // Before the first message can arrive.
        peer::pass_credentials(&fd)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(fd))
    }

    /// Connects, and waits no longer than `within` for that, for every answer, and until a message is taken.
    pub fn connect_within(path: &Path, within: Duration) -> io::Result<Self> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        peer::pass_credentials(&fd)?;
        let packets = Self(fd);
        packets.wait_within(within)?;
        connect(packets.0.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(packets)
    }

    fn wait_within(&self, within: Duration) -> io::Result<()> {
        let within = TimeVal::new(within.as_secs() as i64, within.subsec_micros().into());
        setsockopt(&self.0, sockopt::ReceiveTimeout, &within)?;
        setsockopt(&self.0, sockopt::SendTimeout, &within).map_err(io::Error::from)
    }

    /// Waits for somebody who connects. Reading waits; writing waits no longer than `within`, so that nobody who does not read holds a
    /// thread for ever.
    pub fn accept(listener: &impl AsFd, within: Duration) -> io::Result<Self> {
        let fd = accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
        // SAFETY: accept4 has just made this descriptor, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        peer::pass_credentials(&fd)?;
        setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(within.as_secs() as i64, within.subsec_micros().into()))?;
        Ok(Self(fd))
    }

    /// For tasks, which wait without holding a thread. Call within a runtime.
    pub fn for_tasks(self) -> io::Result<AsyncPackets> {
        nix::fcntl::fcntl(&self.0, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        AsyncPackets::of(self)
    }

    /// Two ends that know each other, for tests of either.
    #[cfg(any(test, feature = "testing"))]
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = nix::sys::socket::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        peer::pass_credentials(&one)?;
        peer::pass_credentials(&other)?;
        Ok((Self(one), Self(other)))
    }

    /// Who connected, or who listens, as the kernel recorded it.
    pub fn peer(&self) -> io::Result<PeerCred> {
        peer::peer_cred(&self.0)
    }

    /// Ends the conversation for both sides, also for whoever waits in it.
    pub fn shut(&self) {
        let _ = nix::sys::socket::shutdown(self.0.as_raw_fd(), nix::sys::socket::Shutdown::Both);
    }

    /// Sends one message with these descriptors, which stay ours as well.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [nix::sys::socket::ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        let piece = [io::IoSlice::new(bytes)];
        let flags = nix::sys::socket::MsgFlags::MSG_NOSIGNAL;
        let sent = nix::sys::socket::sendmsg::<()>(self.0.as_raw_fd(), &piece, control, flags, None)?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::EMSGSIZE.into()) }
    }

    /// Takes the next message; `None` when the other end has closed. One that does not fit the buffer, brings more descriptors than may
    /// come or anything else, or does not say who sent it, is `InvalidData`.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        const ROOM: usize = 64 + MAX_DESCRIPTORS * size_of::<RawFd>();
        #[repr(align(8))]
        struct Control([u8; ROOM]);
        let mut control = Control([0; ROOM]);
        let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: an all-zero msghdr is a valid empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = ROOM as _;
        // SAFETY: all pointers in `message` are valid for the lengths beside them during the call.
        let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let len = Errno::result(len)? as usize;
        let (mut descriptors, mut sender, mut odd) = (Vec::new(), None, false);
        // SAFETY: the control buffer holds what the kernel wrote; the CMSG macros stay within msg_controllen. Every descriptor in it is
        // new and ours.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                        let cred = std::ptr::read_unaligned(data.cast::<libc::ucred>());
                        sender = Some(PeerCred { pid: cred.pid as u32, uid: cred.uid, gid: cred.gid });
                    }
                    (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                        let bytes = (*header).cmsg_len as usize - (data as usize - header as usize);
                        for n in 0..bytes / size_of::<RawFd>() {
                            let fd = std::ptr::read_unaligned(data.cast::<RawFd>().add(n));
                            descriptors.push(OwnedFd::from_raw_fd(fd));
                        }
                    }
                    _ => odd = true,
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        if len == 0 {
            return Ok(None);
        }
        let cut = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
        match sender {
            Some(sender) if !cut && !odd => Ok(Some(Packet { len, descriptors, sender })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// One end for tasks: waits without holding a thread.
pub struct AsyncPackets(AsyncFd<Packets>);

impl AsyncPackets {
    /// Connects without ever waiting. Call within a runtime.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::of(Packets::connect(path)?)
    }

    fn of(packets: Packets) -> io::Result<Self> {
        // SAFETY: `Packets` owns one descriptor, gives out no other, and keeps it for as long as it lives.
        unsafe { AsyncFd::register(packets) }.map(Self).map_err(io::Error::from)
    }

    /// See [`Packets::send`].
    pub async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.0.async_io(Interest::WRITABLE, |packets| packets.send(bytes, descriptors)).await
    }

    /// See [`Packets::receive`].
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Packet>> {
        self.0.async_io(Interest::READABLE, |packets| packets.receive(buffer)).await
    }

    /// See [`Packets::shut`].
    pub fn shut(&self) {
        self.0.get_ref().shut();
    }
}

impl AsFd for AsyncPackets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Packets {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn a_message_comes_whole_with_its_descriptors_and_its_sender() {
        let (one, other) = Packets::pair().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        one.send(b"question", &[file.as_fd(), file.as_fd()]).unwrap();
        one.send(b"more", &[]).unwrap();
        let mut buffer = [0; 64];
        let got = other.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..got.len], got.descriptors.len()), (&b"question"[..], 2));
        assert_eq!((got.sender.pid, got.sender.uid), (std::process::id(), nix::unistd::getuid().as_raw()));
        let got = other.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((&buffer[..got.len], got.descriptors.len()), (&b"more"[..], 0));
        drop(one);
        assert!(other.receive(&mut buffer).unwrap().is_none());
    }

    #[test]
    fn what_is_cut_short_or_brings_too_much_leaves_nothing_open() {
        let (one, other) = Packets::pair().unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let many = vec![file.as_fd(); MAX_DESCRIPTORS + 20];
        let mut buffer = [0; 8];
        // Other tests of this process open and close files meanwhile; a leak of hundreds shows all the same.
        let before = open();
        for _ in 0..20 {
            one.send(b"much", &many).unwrap();
            assert_eq!(other.receive(&mut buffer).err().unwrap().kind(), io::ErrorKind::InvalidData);
            one.send(b"too long for it", &many[..10]).unwrap();
            assert_eq!(other.receive(&mut buffer).err().unwrap().kind(), io::ErrorKind::InvalidData);
        }
        assert!(open() < before + 200, "{before} descriptors became {}", open());
    }
}
