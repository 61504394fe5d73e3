//! A Unix stream that looks at who sent every chunk it reads.
//!
//! A descriptor can be inherited or passed, so the process that connected need not be the one that writes. The kernel attaches the
//! sender's pid and real ids to each chunk (`SCM_CREDENTIALS`) and never merges chunks of different senders in one `recvmsg(2)`;
//! plain `read(2)` would.

use super::peer::PeerCred;
use nix::errno::Errno;
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::UnixStream,
};

/// Why a connection was cut while reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Cut {
    /// A chunk came from a process other than the one that connected, or one with other real ids.
    ForeignWriter = 1,
    /// A chunk carried descriptors or more ancillary data than ids.
    Descriptors = 2,
    /// A chunk carried no ids: it was queued before they were asked for.
    NoCredentials = 3,
}

/// Tells whoever serves the connection how its reading goes.
#[derive(Clone, Default)]
pub struct Reading(Arc<State>);

#[derive(Default)]
struct State {
    cut: AtomicU8,
    chunks: AtomicU64,
}

impl Reading {
    /// Chunks that arrived so far.
    pub fn chunks(&self) -> u64 {
        self.0.chunks.load(Ordering::Acquire)
    }

    /// Why it was cut, if it was.
    pub fn cut(&self) -> Option<Cut> {
        match self.0.cut.load(Ordering::Acquire) {
            1 => Some(Cut::ForeignWriter),
            2 => Some(Cut::Descriptors),
            3 => Some(Cut::NoCredentials),
            _ => None,
        }
    }
}

/// A stream whose every byte was written by one process: the expected pid with the expected real ids.
pub struct CheckedStream {
    inner: UnixStream,
    sender: PeerCred,
    reading: Reading,
    leave: Leave,
    seen: Seen,
    /// Every read says how much lies in the socket (`SO_INQ`); before Linux 6.17 it has to be asked.
    told: bool,
}

/// What becomes of bytes in the socket once they were handed on.
///
/// Taking them out tells the peer that there is room to write (`unix_write_space` in the kernel's `net/unix/af_unix.c`), and a peer that
/// waits for its answer in `recv(2)` is woken by that for nothing, on the very processor that is about to make the answer: two switches
/// of context for each request. So they may be left for a while and taken out many at once. What is left counts against the *peer's*
/// send buffer, and as long as that has room the peer notices nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Taken out at once: they may hold a secret.
    Nothing,
    /// Some chunks are left.
    Some,
}

/// What was handed on and lies in the socket still: all of it from the expected sender.
#[derive(Clone, Copy, Default)]
struct Seen {
    bytes: usize,
    chunks: usize,
}

/// At most so much is left: a small part of the default send buffer (each small chunk is charged with a kibibyte and more).
const SEEN_BYTES: usize = 4096;
const SEEN_CHUNKS: usize = 16;
/// With so many it is worth taking them out right after an answer was written: the peer has just been woken and waits for nothing.
const WORTH: usize = 8;

impl CheckedStream {
    /// `sender` holds the pid at connect and the *real* uid and gid, which is what the kernel attaches.
    pub fn new(inner: UnixStream, sender: PeerCred, leave: Leave) -> (Self, Reading) {
        let reading = Reading::default();
        let told = super::peer::tell_waiting(&inner);
        let leave = if leave == Leave::Some && super::peer::look_behind(&inner) { Leave::Some } else { Leave::Nothing };
        (Self { inner, sender, reading: reading.clone(), leave, seen: Seen::default(), told }, reading)
    }

    /// Takes out what was handed on.
    fn take(&mut self) -> io::Result<()> {
        let mut gone = [std::mem::MaybeUninit::<u8>::uninit(); SEEN_BYTES];
        while self.seen.bytes > 0 {
            let len = self.seen.bytes.min(gone.len());
            // SAFETY: `len` bytes are writable behind the pointer. They were looked at before and nobody else reads here, so they are there.
            let taken = unsafe { libc::recv(self.inner.as_raw_fd(), gone.as_mut_ptr().cast(), len, libc::MSG_DONTWAIT) };
            match Errno::result(taken) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(taken) => self.seen.bytes -= taken as usize,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.seen = Seen::default();
        Ok(())
    }

    fn cut(&self, cut: Cut) -> io::Error {
        self.reading.0.cut.store(cut as u8, Ordering::Release);
        io::Error::new(io::ErrorKind::PermissionDenied, "connection cut")
    }
}

/// Room for one `SCM_CREDENTIALS` and one refused `SCM_RIGHTS` of a few descriptors; anything more is truncated, which cuts too.
const CONTROL: usize = 128;

/// Closing a descriptor that a peer passed may wait for its file system for ever (before Linux 6.16 they cannot be refused). No thread
/// that serves others does it.
mod janitor {
    use std::{
        os::fd::OwnedFd,
        sync::{
            OnceLock,
            mpsc::{SyncSender, sync_channel},
        },
    };

    const WAITING: usize = 1024;

    pub(super) fn close(fd: OwnedFd) {
        static QUEUE: OnceLock<Option<SyncSender<OwnedFd>>> = OnceLock::new();
        let queue = QUEUE.get_or_init(|| {
            let (send, receive) = sync_channel::<OwnedFd>(WAITING);
            let started = std::thread::Builder::new().name("janitor".to_owned()).spawn(move || receive.into_iter().for_each(drop));
            started.ok().map(|_| send)
        });
        let left = match queue {
            Some(queue) => queue.try_send(fd).err().map(|error| match error {
                std::sync::mpsc::TrySendError::Full(fd) | std::sync::mpsc::TrySendError::Disconnected(fd) => fd,
            }),
            None => Some(fd),
        };
        // A janitor that hangs is the peer's doing; its descriptors stay open rather than hold up a worker.
        if let Some(fd) = left {
            std::mem::forget(fd);
        }
    }
}

struct Chunk {
    len: usize,
    sender: Option<PeerCred>,
    /// What lies in the socket now, if the kernel was asked to tell.
    waiting: Option<usize>,
    extra: bool,
}

/// The next chunk, which is all from one sender; with `MSG_PEEK` among the flags it stays in the socket, and the next look is behind it
/// (`SO_PEEK_OFF`).
fn receive(fd: BorrowedFd<'_>, flags: libc::c_int, buffer: &mut ReadBuf<'_>) -> io::Result<Chunk> {
    #[repr(align(8))]
    struct Control([u8; CONTROL]);
    let mut control = Control([0; CONTROL]);
    // SAFETY: only the kernel writes into the unfilled part, and exactly `len` bytes of it are marked initialised below.
    let room = unsafe { buffer.unfilled_mut() };
    let mut piece = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: an all-zero msghdr is a valid empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: all pointers in `message` are valid for the lengths beside them during the call.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, flags) };
    let len = Errno::result(len)? as usize;
    // SAFETY: the kernel filled `len` bytes.
    unsafe { buffer.assume_init(len) };
    buffer.advance(len);
    let mut chunk = Chunk { len, sender: None, waiting: None, extra: message.msg_flags & libc::MSG_CTRUNC != 0 };
    // SAFETY: the control buffer holds what the kernel wrote; the CMSG macros stay within msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                    let cred = std::ptr::read_unaligned(data.cast::<libc::ucred>());
                    chunk.sender = Some(PeerCred { pid: cred.pid as u32, uid: cred.uid, gid: cred.gid });
                }
                (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                    chunk.extra = true;
                    let bytes = (*header).cmsg_len as usize - (data as usize - header as usize);
                    for n in 0..bytes / size_of::<libc::c_int>() {
                        let fd = std::ptr::read_unaligned(data.cast::<libc::c_int>().add(n));
                        janitor::close(OwnedFd::from_raw_fd(fd));
                    }
                }
                (libc::SOL_SOCKET, super::peer::SO_INQ) => {
                    chunk.waiting = usize::try_from(std::ptr::read_unaligned(data.cast::<libc::c_int>())).ok();
                }
                _ => chunk.extra = true,
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(chunk)
}

nix::ioctl_read_bad!(unread, libc::FIONREAD, libc::c_int);

/// Bytes that lie in the socket (`SIOCINQ`, unix(7)); an error says more than there can be.
fn waiting(fd: BorrowedFd<'_>) -> usize {
    let mut bytes = 0;
    // SAFETY: one int is writable behind the pointer.
    if unsafe { unread(fd.as_raw_fd(), &raw mut bytes) }.is_ok() { bytes as usize } else { usize::MAX }
}

impl AsyncRead for CheckedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            ready!(this.inner.poll_read_ready(cx))?;
            if this.seen.bytes > SEEN_BYTES || this.seen.chunks >= SEEN_CHUNKS || (this.leave == Leave::Nothing && this.seen.chunks > 0) {
                this.take()?;
            }
            let (filled, seen) = (buffer.filled().len(), this.seen.bytes);
            let mut received = None;
            let done = this.inner.try_io(Interest::READABLE, || {
                let flags = if this.leave == Leave::Some { libc::MSG_PEEK } else { 0 };
                let chunk = received.insert(receive(this.inner.as_fd(), flags, buffer)?);
                // Whoever knows that nothing is left need not ask in vain. A short read does not tell: another sender's bytes may follow.
                let left = if this.leave == Leave::Some { seen + chunk.len } else { 0 };
                let waiting = || chunk.waiting.filter(|_| this.told).unwrap_or_else(|| waiting(this.inner.as_fd()));
                let drained = left + chunk.len > 0 && waiting() == left;
                if drained { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            let chunk = match (received, done) {
                (Some(chunk), _) => chunk,
                (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(Err(error)),
                (None, _) => continue,
            };
            if this.leave == Leave::Some && chunk.len > 0 {
                this.seen = Seen { bytes: seen + chunk.len, chunks: this.seen.chunks + 1 };
            }
            this.reading.0.chunks.fetch_add(1, Ordering::AcqRel);
            let verdict = match chunk.sender {
                _ if chunk.extra => Some(Cut::Descriptors),
                // The end of the stream carries no ids, and no bytes that could be believed.
                _ if chunk.len == 0 => None,
                None => Some(Cut::NoCredentials),
                Some(sender) if sender.pid == 0 => Some(Cut::NoCredentials),
                Some(sender) if sender != this.sender && !crate::mutation!("foreign-writer") => Some(Cut::ForeignWriter),
                Some(_) => None,
            };
            return Poll::Ready(match verdict {
                None => Ok(()),
                Some(cut) => {
                    buffer.set_filled(filled);
                    Err(this.cut(cut))
                }
            });
        }
    }
}

impl Drop for CheckedStream {
    /// A peer whose bytes were never taken out would be told that the connection was reset.
    fn drop(&mut self) {
        let _ = self.take();
    }
}

impl AsyncWrite for CheckedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buffer)
    }
    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, pieces: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.inner).poll_write_vectored(cx, pieces));
        if this.seen.chunks >= WORTH {
            this.take()?;
        }
        Poll::Ready(written)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}
