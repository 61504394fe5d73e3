//! `/proc/PID` through a directory descriptor: once validated against a pidfd, every later read is of that process.

use super::pidfd::Pidfd;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat, readlinkat},
    sys::stat::Mode,
};
use std::{
    ffi::OsString,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// The directory of one process.
pub struct ProcDir {
    dir: OwnedFd,
    pid: u32,
}

/// The ids, tracer and thread-group facts of `/proc/PID/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Real, effective, saved, file-system user ids.
    pub uids: [u32; 4],
    /// The same for groups.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Parent.
    pub ppid: u32,
    /// The process that traces it, 0 for none.
    pub tracer: u32,
    /// `no_new_privs` is set.
    pub no_new_privs: bool,
    /// The effective capabilities, as a set of bits.
    pub capabilities: u64,
}

/// `/proc/PID/stat`, fields 4 and 22.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Parent.
    pub ppid: u32,
    /// Session.
    pub session: u32,
    /// Start in clock ticks since boot.
    pub start: u64,
}

/// Fixes the memory map that a process has now: after any exec the old map is gone, and reading says so.
///
/// A helper that shares the map (`CLONE_VM`) keeps it alive, so the executable is compared as well.
pub struct MapPin(OwnedFd);

impl ProcDir {
    /// The directory of whatever process has this number now. Poll a pidfd of it afterwards to know that it was the pinned one.
    pub fn open(pid: u32) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = nix::fcntl::open(format!("/proc/{pid}").as_str(), flags, Mode::empty())?;
        Ok(Self { dir, pid })
    }

    /// The directory of a pinned process: opened by number, then proved by the pidfd being alive still.
    pub fn of(pidfd: &Pidfd, pid: u32) -> io::Result<Self> {
        let dir = Self::open(pid)?;
        if pidfd.is_alive() { Ok(dir) } else { Err(Errno::ESRCH.into()) }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.dir
    }

    /// A whole small file below it, at most `max` bytes; longer is an error, never a shorter truth.
    pub fn read(&self, name: &str, max: usize) -> io::Result<Vec<u8>> {
        whole(&self.file(name)?, max)
    }

    fn file(&self, name: &str) -> io::Result<OwnedFd> {
        openat(&self.dir, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).map_err(io::Error::from)
    }

    /// What its ids and control group are read from, opened.
    pub fn ids(&self) -> io::Result<IdFiles> {
        Ok(IdFiles { status: self.file("status")?, cgroup: self.file("cgroup")? })
    }

    /// Where a link below it points, as raw bytes.
    pub fn link(&self, name: &str) -> io::Result<OsString> {
        readlinkat(&self.dir, name).map_err(io::Error::from)
    }

    /// The number of a namespace of its: what its link says (namespaces(7)), for asking the file that it leads to takes twice as long.
    pub fn namespace(&self, name: &str) -> io::Result<u64> {
        let link = self.link(&format!("ns/{name}"))?;
        let number = link.to_str().and_then(|link| link.strip_prefix(name)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok());
        number.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Device and inode of its root directory, without asking the file system.
    pub fn root(&self) -> io::Result<(u64, u64)> {
        let root = openat(&self.dir, "root", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        super::file_id(&root).map(|id| (id.dev, id.ino))
    }

    /// Ids and tracer.
    pub fn status(&self) -> io::Result<Status> {
        parse_status(&self.read("status", STATUS_MAX)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Parent and start.
    pub fn stat(&self) -> io::Result<Stat> {
        parse_stat(&self.read("stat", 4096)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Path in the unified hierarchy; `None` when the process is in none.
    pub fn cgroup(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(parse_cgroup(&self.read("cgroup", CGROUP_MAX)?))
    }

    /// The audit login uid; `None` when it is unset or the kernel keeps none.
    pub fn login_uid(&self) -> Option<u32> {
        let text = self.read("loginuid", 32).ok()?;
        std::str::from_utf8(&text).ok()?.trim().parse().ok().filter(|uid| *uid != u32::MAX)
    }

    /// Fixes the present memory map.
    pub fn pin(&self) -> io::Result<MapPin> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        // pagemap costs half of maps to ask. Kernels built without it have maps, which also takes no CAP_DAC_READ_SEARCH to open.
        let fd = match openat(&self.dir, "pagemap", flags, Mode::empty()) {
            Err(Errno::ENOENT | Errno::EACCES | Errno::EPERM) => openat(&self.dir, "maps", flags, Mode::empty()),
            other => other,
        }?;
        let pin = MapPin(fd);
        if pin.holds() { Ok(pin) } else { Err(Errno::ESRCH.into()) }
    }
}

/// The files that ids and control group of one process are read from, opened by whoever may look at it. They tell in whoever's hands they
/// are, anew each time: a directory would not, for Landlock asks again at every file that is opened below it.
pub struct IdFiles {
    status: OwnedFd,
    cgroup: OwnedFd,
}

impl IdFiles {
    /// Files that somebody who may look at the process has opened.
    pub fn received(status: OwnedFd, cgroup: OwnedFd) -> Self {
        Self { status, cgroup }
    }

    /// Both, in the order in which they are passed on.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.status.as_fd(), self.cgroup.as_fd()]
    }

    /// Ids and tracer, now.
    pub fn status(&self) -> io::Result<Status> {
        parse_status(&whole(&self.status, STATUS_MAX)?).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Path in the unified hierarchy, now; `None` when the process is in none.
    pub fn cgroup(&self) -> io::Result<Option<Vec<u8>>> {
        Ok(parse_cgroup(&whole(&self.cgroup, CGROUP_MAX)?))
    }
}

const STATUS_MAX: usize = 64 << 10;
const CGROUP_MAX: usize = 64 << 10;

/// All that a file of `/proc` says now, from its beginning.
fn whole(file: &OwnedFd, max: usize) -> io::Result<Vec<u8>> {
    // Most are far smaller than they may be.
    let mut bytes = vec![0; (max + 1).min(2048)];
    let mut len = 0;
    loop {
        if len == bytes.len() {
            bytes.resize((2 * len).min(max + 1), 0);
        }
        match nix::sys::uio::pread(file, &mut bytes[len..], len as i64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if len > max {
            return Err(Errno::EFBIG.into());
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

impl From<OwnedFd> for MapPin {
    /// A pin that somebody who may look at the process has made; it tells in whoever's hands it is.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<MapPin> for OwnedFd {
    fn from(pin: MapPin) -> Self {
        pin.0
    }
}

impl AsFd for MapPin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl MapPin {
    /// The same pin once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Whether the process still has the memory map of when it was pinned. Any error counts as no.
    pub fn holds(&self) -> bool {
        // Half an entry: the kernel looks for the map first and only then at the size, which it refuses (`pagemap_read` in
        // fs/proc/task_mmu.c). Reading a whole entry would walk page tables to tell the same.
        let mut half = [0u8; 4];
        loop {
            match nix::sys::uio::pread(self.0.as_fd(), &mut half, 0) {
                // A signal is no answer.
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL) => return true,
                read => return read.is_ok_and(|n| n > 0),
            }
        }
    }
}

/// Reads `/proc/PID/status` (proc_pid_status(5)); `None` where something that is needed is missing or no number.
pub fn parse_status(text: &[u8]) -> Option<Status> {
    // `Name:` comes first and is escaped by the kernel, so a line can only be what it says.
    let text = std::str::from_utf8(text).ok().map(str::to_owned).unwrap_or_else(|| String::from_utf8_lossy(text).into_owned());
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let four = |name: &str| -> Option<[u32; 4]> {
        let ids: Vec<u32> = field(name)?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        ids.try_into().ok()
    };
    Some(Status {
        uids: four("Uid")?,
        gids: four("Gid")?,
        groups: field("Groups")?.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?,
        ppid: field("PPid")?.parse().ok()?,
        tracer: field("TracerPid")?.parse().ok()?,
        no_new_privs: field("NoNewPrivs").is_some_and(|v| v == "1"),
        capabilities: u64::from_str_radix(field("CapEff")?, 16).ok()?,
    })
}

/// Reads the text of `/proc/PID/cgroup`: the path in the unified hierarchy, as it stands there.
pub fn parse_cgroup(text: &[u8]) -> Option<Vec<u8>> {
    text.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::")).map(<[u8]>::to_vec)
}

/// Reads `/proc/PID/stat` (proc_pid_stat(5)).
pub fn parse_stat(text: &[u8]) -> Option<Stat> {
    // The name may hold spaces and parentheses; the last ')' ends it.
    let end = text.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(&text[end + 1..]).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    Some(Stat { ppid: fields.get(1)?.parse().ok()?, session: fields.get(3)?.parse().ok()?, start: fields.get(19)?.parse().ok()? })
}

/// The id of this boot (`/proc/sys/kernel/random/boot_id`).
pub fn boot_id() -> io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned())
}

/// Where this machine's id is.
pub const MACHINE_ID: &str = "/etc/machine-id";

/// This machine's id (machine-id(5)), if it has one. That the file cannot be read says nothing about that.
pub fn machine_id() -> io::Result<Option<String>> {
    let text = match std::fs::read_to_string(MACHINE_ID) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text?,
    };
    let id = text.trim();
    Ok((id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_opened_tell_of_the_same_process_for_as_long_as_it_lives() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let dir = ProcDir::open(child.id()).unwrap();
        let ids = dir.ids().unwrap();
        for _ in 0..2 {
            assert_eq!(ids.status().unwrap().uids, dir.status().unwrap().uids);
            assert_eq!(ids.cgroup().unwrap(), dir.cgroup().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ids.status().is_err() && ids.cgroup().is_err());
    }

    #[test]
    fn reads_itself() {
        let dir = ProcDir::open(std::process::id()).unwrap();
        let status = dir.status().unwrap();
        assert_eq!(status.uids[1], nix::unistd::geteuid().as_raw());
        assert_eq!(status.ppid, dir.stat().unwrap().ppid);
        assert!(dir.pin().unwrap().holds());
        assert!(dir.namespace("user").is_ok());
        assert!(dir.cgroup().is_ok());
    }

    #[test]
    fn long_files_are_read_whole_or_not_at_all() {
        let dir = ProcDir::open(std::process::id()).unwrap();
        let maps = dir.read("maps", 4 << 20).unwrap();
        assert!(maps.len() > 2048 && maps.ends_with(b"\n"), "{}", maps.len());
        assert_eq!(dir.read("cmdline", 4 << 20).unwrap(), std::fs::read("/proc/self/cmdline").unwrap());
        let short = dir.read("maps", 3000).unwrap_err();
        assert_eq!(short.raw_os_error(), Some(Errno::EFBIG as i32));
    }

    #[test]
    fn odd_names_change_nothing() {
        let stat = b"7 (a) S 1 (x)) S 42 7 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0\n";
        assert_eq!(parse_stat(stat), Some(Stat { ppid: 42, session: 9, start: 12345 }));
        assert_eq!(parse_stat(b"7 (a S 1"), None);
    }

    #[test]
    fn the_pin_breaks_on_exec() {
        use std::io::{BufRead, BufReader};
        let mut child = std::process::Command::new("sh")
            .args(["-c", "echo ready; read x; exec sleep 60"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pin = ProcDir::open(child.id()).unwrap().pin().unwrap();
        let held_before = pin.holds();
        drop(child.stdin.take());
        let broke = (0..10_000_000).any(|_| {
            std::thread::yield_now();
            !pin.holds()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(held_before && broke);
    }
}
