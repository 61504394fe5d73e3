//! Processes held by pidfd: a number is reused, a descriptor is not.

use nix::errno::Errno;
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::OnceLock,
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process, pinned. Dead or alive, it is always the same one.
pub struct Pidfd {
    fd: OwnedFd,
    inode: OnceLock<Option<u64>>,
}

/// What `PIDFD_GET_INFO` tells about a process that is alive now (`include/uapi/linux/pidfd.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PidInfo {
    /// Thread group id in the reader's pid namespace.
    pub pid: u32,
    /// Parent's thread group id, 0 if it lies outside the reader's pid namespace.
    pub ppid: u32,
    /// Real user id.
    pub ruid: u32,
    /// Real group id.
    pub rgid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Id of the control group in the unified hierarchy: the inode of its directory.
    pub cgroup: u64,
    /// Its first thread has a memory map, so it has not begun to exit. `false` says nothing: before Linux 6.16 it is not told.
    pub mapped: bool,
}

/// The kernel's `struct pidfd_info`, as of Linux 6.16; older kernels fill in what they know.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    mask: u64,
    cgroupid: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ruid: u32,
    rgid: u32,
    euid: u32,
    egid: u32,
    suid: u32,
    sgid: u32,
    fsuid: u32,
    fsgid: u32,
    exit_code: i32,
    coredump_mask: u32,
    coredump_signal: u32,
}

const INFO_PID: u64 = 1;
const INFO_CREDS: u64 = 2;
const INFO_CGROUP: u64 = 4;
const INFO_COREDUMP: u64 = 16;
/// What would become of a core file, of which the kernel says one for a process with a memory map: none, the user's, root's. A dump that
/// was begun is told by another bit, with or without a map.
const DUMP_OF_MAPPED: [u32; 3] = [1 << 1, 1 << 2, 1 << 3];
nix::ioctl_readwrite!(pidfd_get_info, 0xFF, 11, RawInfo);

/// `PIDFS` in the kernel's list of file system magics.
const PIDFS_MAGIC: i64 = 0x5049_4446;
/// How often a process is asked whether it lives that cannot be watched.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Stands for the root of pidfs in `open_by_handle_at` (Linux 6.18).
const FD_PIDFS_ROOT: RawFd = -10002;

/// The 8 bytes by which pidfs names a process for one boot: a later process never has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PidHandle(pub u64);

/// What became of a process that was remembered by its handle.
pub enum Found {
    /// Still there.
    Alive(Pidfd),
    /// Gone, or a zombie.
    Gone,
    /// This kernel cannot open handles.
    Unsupported,
}

#[repr(C)]
struct RawHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    data: [u8; 8],
}

impl Pidfd {
    /// Takes a descriptor that the kernel gave as a pidfd.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, inode: OnceLock::new() }
    }

    /// A descriptor that another process passed: it must be a pidfd, by the file system it lies on, or before pidfs (Linux 6.9) by what the
    /// kernel says about it.
    pub fn received(fd: OwnedFd) -> io::Result<Self> {
        let pidfd = Self::from_fd(fd);
        let is_one = pidfd.inode().is_some() || pidfd.pid_from_fdinfo().is_some();
        if is_one { Ok(pidfd) } else { Err(Errno::EBADF.into()) }
    }

    /// Pins the process that has this number now. Whether that is the one that was meant must be proved by other means.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: plain system call without pointers; a non-negative result is a new descriptor that nobody else owns.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        // SAFETY: as above.
        Errno::result(fd).map(|fd| Self::from_fd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })).map_err(io::Error::from)
    }

    /// Another descriptor of the same process.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.fd.try_clone().map(Self::from_fd)
    }

    /// Whether the thread group lives. `kill(0)` would succeed on zombies; only the poll tells.
    pub fn is_alive(&self) -> bool {
        let mut fds = [nix::poll::PollFd::new(self.fd.as_fd(), nix::poll::PollFlags::POLLIN)];
        loop {
            match nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO) {
                // A signal is no answer.
                Err(Errno::EINTR) => {}
                // Anything but "nothing happened" counts as dead: an error must never keep a right alive.
                answer => return answer == Ok(0),
            }
        }
    }

    /// Ids, parent and control group now. `ESRCH` when it is gone, `ENOTTY` on kernels before 6.13.
    pub fn info(&self) -> io::Result<PidInfo> {
        let mut raw = RawInfo { mask: INFO_PID | INFO_CREDS | INFO_CGROUP | INFO_COREDUMP, ..Default::default() };
        // SAFETY: the kernel writes at most the size encoded in the request number, which is that of `RawInfo`.
        unsafe { pidfd_get_info(self.fd.as_raw_fd(), &mut raw) }.map_err(io::Error::from)?;
        if raw.mask & (INFO_PID | INFO_CREDS) != INFO_PID | INFO_CREDS {
            return Err(io::Error::from(io::ErrorKind::Unsupported));
        }
        let cgroup = if raw.mask & INFO_CGROUP != 0 { raw.cgroupid } else { 0 };
        let mapped = raw.mask & INFO_COREDUMP != 0 && DUMP_OF_MAPPED.contains(&raw.coredump_mask);
        Ok(PidInfo { pid: raw.tgid, ppid: raw.ppid, ruid: raw.ruid, rgid: raw.rgid, euid: raw.euid, egid: raw.egid, cgroup, mapped })
    }

    /// Its number, from `/proc/self/fdinfo`: for kernels without `PIDFD_GET_INFO`. `None` when it is gone or lies in a foreign pid namespace.
    pub fn pid_from_fdinfo(&self) -> Option<u32> {
        let mut text = String::new();
        File::open(format!("/proc/self/fdinfo/{}", self.fd.as_raw_fd())).ok()?.take(4096).read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok().filter(|pid| *pid > 0)
    }

    /// Unique per process and boot where pidfds live in pidfs (Linux 6.9 and later); `None` before.
    pub fn inode(&self) -> Option<u64> {
        *self.inode.get_or_init(|| {
            let fs = nix::sys::statfs::fstatfs(&self.fd).ok()?;
            (fs.filesystem_type().0 as i64 == PIDFS_MAGIC).then_some(())?;
            nix::sys::stat::fstat(&self.fd).ok().map(|stat| stat.st_ino)
        })
    }

    /// The handle by which `find` finds it again within this boot.
    pub fn handle(&self) -> Option<PidHandle> {
        let mut raw = RawHandle { bytes: 8, kind: 0, data: [0; 8] };
        let mut mount: libc::c_int = 0;
        // SAFETY: the path is a C string; the kernel writes at most `bytes` bytes behind the header.
        let done = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                self.fd.as_raw_fd(),
                c"".as_ptr(),
                (&raw mut raw).cast::<libc::c_void>(),
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        (done == 0 && raw.bytes == 8 && raw.kind == PIDFS_HANDLE).then(|| PidHandle(u64::from_ne_bytes(raw.data)))
    }

    /// Looks for a remembered process of this boot. A zombie or a dead one is `Gone`; a reused number is never taken for it.
    pub fn find(handle: PidHandle) -> Found {
        let raw = RawHandle { bytes: 8, kind: PIDFS_HANDLE, data: handle.0.to_ne_bytes() };
        // SAFETY: the kernel reads `bytes` bytes behind the header; a non-negative result is a new descriptor.
        let fd =
            unsafe { libc::syscall(libc::SYS_open_by_handle_at, FD_PIDFS_ROOT, (&raw const raw).cast::<libc::c_void>(), libc::O_CLOEXEC) };
        match Errno::result(fd) {
            Ok(fd) => {
                // SAFETY: as above.
                let found = Self::from_fd(unsafe { OwnedFd::from_raw_fd(fd as RawFd) });
                if found.is_alive() { Found::Alive(found) } else { Found::Gone }
            }
            Err(Errno::ESTALE | Errno::ESRCH) => Found::Gone,
            Err(_) => Found::Unsupported,
        }
    }

    /// Waits until the whole thread group has exited. Where that cannot be waited for, for want of a descriptor say, it is asked now and
    /// then; an error from the wait counts as exited.
    pub async fn exited(&self) {
        loop {
            // SAFETY: an OwnedFd names the same open descriptor for as long as it lives.
            let watch = self.fd.try_clone().and_then(|copy| unsafe { Ok(AsyncFd::register_with_interest(copy, Interest::READABLE)?) });
            if let Ok(fd) = watch {
                let _ = fd.readable().await;
                return;
            }
            if !self.is_alive() {
                return;
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// Sends a signal to exactly this process.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // SAFETY: plain system call; the null pointer asks for the default signal information.
        let done =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.fd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0) };
        Errno::result(done).map(drop).map_err(io::Error::from)
    }
}

/// `FILEID_KERNFS`: the handle type that pidfs uses.
const PIDFS_HANDLE: libc::c_int = 254;

impl AsFd for Pidfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_child_is_found_by_handle_until_it_dies() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pidfd = Pidfd::open(child.id()).unwrap();
        assert!(pidfd.is_alive());
        let info = pidfd.info().unwrap();
        assert_eq!((info.pid, info.ppid), (child.id(), std::process::id()));
        let told = Pidfd::open(std::process::id()).unwrap().info().unwrap().mapped;
        assert_eq!(info.mapped, told, "what lives has a map, where the kernel tells");
        assert_eq!(pidfd.pid_from_fdinfo(), Some(child.id()));
        let handle = pidfd.handle().unwrap();
        assert!(matches!(Pidfd::find(handle), Found::Alive(_)));
        child.kill().unwrap();
        let mut fds = [nix::poll::PollFd::new(pidfd.as_fd(), nix::poll::PollFlags::POLLIN)];
        nix::poll::poll(&mut fds, nix::poll::PollTimeout::NONE).unwrap();
        // A zombie now: nobody has waited for it.
        assert!(!pidfd.is_alive());
        assert!(!pidfd.info().unwrap().mapped);
        assert!(pidfd.signal(0).is_ok(), "a zombie still takes signal 0, which is why it proves nothing");
        assert!(matches!(Pidfd::find(handle), Found::Gone));
        child.wait().unwrap();
        assert!(matches!(Pidfd::find(handle), Found::Gone));
    }
}
