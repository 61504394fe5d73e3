//! Control groups as holders: the moment the last process leaves one.

use super::exe::file_id;
use nix::{
    fcntl::{OFlag, openat},
    sys::{
        inotify::{AddWatchFlags, InitFlags, Inotify},
        stat::Mode,
    },
};
use std::{
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
    time::Duration,
};
use tokio::io::{Interest, unix::AsyncFd};

/// How often an empty group is looked at while it may be filled again.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One control group of the unified hierarchy, watched.
pub struct GroupWatch {
    dir: OwnedFd,
    inotify: Inotify,
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
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let events = PathBuf::from(format!("/proc/self/fd/{}/cgroup.events", dir.as_raw_fd()));
        inotify.add_watch(&events, AddWatchFlags::IN_MODIFY)?;
        Ok(Self { dir, inotify })
    }

    /// The inode of a group's directory.
    pub fn id(path: &str) -> io::Result<u64> {
        Ok(file_id(&open(path)?)?.ino)
    }

    /// Whether any process is in it or below it. Any error counts as no.
    pub fn is_populated(&self) -> bool {
        let Ok(file) = openat(&self.dir, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else { return false };
        let mut text = String::new();
        std::fs::File::from(file).take(4096).read_to_string(&mut text).is_ok() && text.lines().any(|line| line == "populated 1")
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
        openat(&self.dir, "cgroup.events", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).is_err()
    }

    /// Waits until nobody is left in it.
    pub async fn emptied(&self) {
        let Ok(copy) = self.inotify.as_fd().try_clone_to_owned() else { return };
        // SAFETY: an OwnedFd names the same open descriptor for as long as it lives.
        let Ok(ready) = (unsafe { AsyncFd::register_with_interest(copy, Interest::READABLE) }) else { return };
        while self.is_populated() {
            let Ok(mut guard) = ready.readable().await else { return };
            // What changed does not matter; it is asked again.
            let _ = self.inotify.read_events();
            guard.clear_ready();
        }
    }
}
