//! Control groups as holders: the moment the last process leaves one.

use super::exe::file_id;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use std::{io, os::fd::OwnedFd, path::PathBuf, time::Duration};
use tokio::io::{Interest, unix::AsyncFd};

/// How often an empty group is looked at while it may be filled again.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often a group is asked whether anybody is in it.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// One control group of the unified hierarchy, watched through its own `cgroup.events` (kernel: admin-guide/cgroup-v2, "Un-populated
/// Notification"): one descriptor, and nothing of which a user has few.
pub struct GroupWatch {
    events: OwnedFd,
}

/// Where the unified hierarchy is mounted.
fn mount_point() -> io::Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    text.lines()
        .find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from))?
        })
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn open(path: &str) -> io::Result<OwnedFd> {
    let relative = path.strip_prefix('/').filter(|rest| !rest.is_empty() && !rest.split('/').any(|part| part.is_empty() || part == ".."));
    let relative = relative.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let root = nix::fcntl::open(&mount_point()?, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(openat(&root, relative, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

impl GroupWatch {
    /// Watches the group at `path` (as in `/proc/PID/cgroup`). With `id`, only the group whose directory has that inode: one that was
    /// removed and made again is another.
    pub fn open(path: &str, id: u64) -> io::Result<Self> {
        let dir = open(path)?;
        if id != 0 && file_id(&dir)?.ino != id {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        }
        Ok(Self { events: openat(&dir, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())? })
    }

    /// The inode of a group's directory.
    pub fn id(path: &str) -> io::Result<u64> {
        Ok(file_id(&open(path)?)?.ino)
    }

    /// Whether any process is in it or below it. One that was removed has none.
    pub fn is_populated(&self) -> bool {
        let mut text = [0u8; 256];
        // A held descriptor of a removed group gives ENODEV, and needs no other that might be lacking.
        nix::sys::uio::pread(&self.events, &mut text, 0).is_ok_and(|n| text[..n].split(|b| *b == b'\n').any(|line| line == b"populated 1"))
    }

    /// Whether an empty group is filled again within that time. One that was removed never is.
    pub async fn refilled(&self, within: Duration) -> bool {
        let mut left = within;
        while !self.is_populated() {
            if left.is_zero() || self.is_removed() {
                return false;
            }
            tokio::time::sleep(LOOK_EVERY).await;
            left = left.saturating_sub(LOOK_EVERY);
        }
        true
    }

    fn is_removed(&self) -> bool {
        nix::sys::uio::pread(&self.events, &mut [0u8; 1], 0) == Err(Errno::ENODEV)
    }

    /// Waits until nobody is left in it. It is asked now and then as well: where it cannot be watched, for want of a descriptor say, and because
    /// of what changes within 10 ms of the last change the kernel tells afterwards, and never if the group is removed before that
    /// (`cgroup_file_notify` and `cgroup_rm_file` in kernel/cgroup/cgroup.c).
    pub async fn emptied(&self) {
        while self.is_populated() {
            // SAFETY: an OwnedFd names the same open descriptor for as long as it lives.
            let watch = self.events.try_clone().and_then(|copy| unsafe { Ok(AsyncFd::register_with_interest(copy, Interest::PRIORITY)?) });
            let Ok(changed) = watch else {
                tokio::time::sleep(ASK_AGAIN).await;
                continue;
            };
            // Reading it is what the next change is compared with, so nothing is missed in between.
            while self.is_populated() {
                match tokio::time::timeout(ASK_AGAIN, changed.ready(Interest::PRIORITY)).await {
                    Ok(Ok(mut guard)) => guard.clear_ready(),
                    Ok(Err(_)) => return,
                    Err(_) => {}
                }
            }
        }
    }
}
