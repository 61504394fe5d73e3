//! What file a process executes, learnt without opening anything that a hostile file system could stall.
//!
//! A FUSE server that never answers leaves its caller in an uninterruptible wait, even past SIGKILL. So a file is first held by
//! `O_PATH`, its file system is asked of the kernel (`statmount(2)`, or mountinfo), and only files on ordinary local file systems are
//! opened, walked to or hashed.

use super::{
    clock::{Clock, SystemClock},
    procfs::ProcDir,
};
use crate::model::BootTime;
use nix::{
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
};

/// Where a file is, without asking its file system's server: `statx(2)` with `AT_STATX_DONT_SYNC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct FileId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Links left; 0 for a deleted file.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Type and permission bits.
    pub mode: u16,
    /// Bytes.
    pub size: u64,
    /// Last change of content, nanoseconds.
    pub mtime: i128,
    /// Last change of content or attributes, nanoseconds: no caller can set it.
    pub ctime: i128,
    pub(super) mount: u64,
    unique_mount: bool,
}

impl FileId {
    /// Whether both stand for one file with one content, as far as its attributes tell.
    pub fn same_file(&self, other: &FileId) -> bool {
        (self.dev, self.ino, self.size, self.mtime, self.ctime) == (other.dev, other.ino, other.size, other.mtime, other.ctime)
    }

    fn of(raw: &libc::statx) -> Self {
        let nanos = |t: libc::statx_timestamp| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
        Self {
            dev: libc::makedev(raw.stx_dev_major, raw.stx_dev_minor),
            ino: raw.stx_ino,
            nlink: raw.stx_nlink,
            uid: raw.stx_uid,
            mode: raw.stx_mode,
            size: raw.stx_size,
            mtime: nanos(raw.stx_mtime),
            ctime: nanos(raw.stx_ctime),
            mount: raw.stx_mnt_id,
            unique_mount: raw.stx_mask & STATX_MNT_ID_UNIQUE != 0,
        }
    }

    /// A folder.
    pub fn is_dir(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFDIR
    }

    /// A socket.
    pub fn is_socket(&self) -> bool {
        u32::from(self.mode) & libc::S_IFMT == libc::S_IFSOCK
    }

    /// Owned by root and writable by root alone.
    pub fn root_only(&self) -> bool {
        self.uid == 0 && self.mode & 0o022 == 0
    }
}

/// File systems whose files may be opened and hashed: local, kernel-served, and not writable from outside the kernel's view.
pub const TRUSTED_FILE_SYSTEMS: &[&str] =
    &["ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "erofs", "squashfs", "overlay", "zfs", "bcachefs"];

/// An executable held by `O_PATH`.
pub struct Executable {
    held: OwnedFd,
    /// What it is.
    pub id: FileId,
    /// Its file system's type.
    pub fs: String,
    /// The path as the kernel shows it, raw.
    pub path: Vec<u8>,
}

/// Device, inode and the rest of an open descriptor (`O_PATH` will do).
pub fn file_id(fd: &impl AsFd) -> io::Result<FileId> {
    statx(fd.as_fd(), libc::STATX_BASIC_STATS | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE).map(|raw| FileId::of(&raw))
}

const STATX_MNT_ID_UNIQUE: u32 = 0x4000;

fn statx(fd: BorrowedFd<'_>, mask: u32) -> io::Result<libc::statx> {
    statx_at(fd, c"", libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW, mask)
}

fn statx_at(fd: BorrowedFd<'_>, path: &std::ffi::CStr, flags: libc::c_int, mask: u32) -> io::Result<libc::statx> {
    // SAFETY: an all-zero statx is valid; the kernel fills it.
    let mut raw: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `raw` is writable.
    let done =
        unsafe { libc::statx(fd.as_raw_fd(), path.as_ptr(), flags | libc::AT_STATX_DONT_SYNC | libc::AT_NO_AUTOMOUNT, mask, &raw mut raw) };
    Errno::result(done)?;
    Ok(raw)
}

#[repr(C)]
struct MountRequest {
    size: u32,
    spare: u32,
    mount: u64,
    param: u64,
}
const STATMOUNT_FS_TYPE: u64 = 0x20;
/// Bytes of the kernel's `struct statmount` before its strings, and where `mask` and `fs_type` lie in it (`include/uapi/linux/mount.h`).
const STATMOUNT_HEAD: usize = 512;
const STATMOUNT_MASK: std::ops::Range<usize> = 8..16;
const STATMOUNT_TYPE: std::ops::Range<usize> = 36..40;

/// The type of the file system a held file lies on, as the kernel knows it. `mountinfo` is read through `proc` where `statmount(2)` is
/// missing, is filtered, or the mount lies in another namespace than ours, as those of all peers do when our unit has its own.
///
/// A mount is found by its id, which cannot be reused while the file is held, or by its device, which belongs to one file system. The
/// device alone would not do: on btrfs and overlay a file's is another than its mount's.
pub(super) fn file_system(held: &impl AsFd, id: &FileId, proc: Option<&ProcDir>) -> io::Result<String> {
    if !id.unique_mount {
        return from_mountinfo(held, id, proc);
    }
    // A unique id is never given to another mount, and a mount keeps its type: what was found once need not be read again.
    static KNOWN: RwLock<BTreeMap<u64, String>> = RwLock::new(BTreeMap::new());
    let known = || KNOWN.read().unwrap_or_else(PoisonError::into_inner).get(&id.mount).cloned();
    if let Some(name) = known() {
        return Ok(name);
    }
    let name = statmount_type(id.mount).or_else(|_| {
        super::blocking(|| {
            let mut turn = Turn::take();
            known().map_or_else(|| turn.read(held, id, proc), Ok)
        })
    })?;
    let mut known = KNOWN.write().unwrap_or_else(PoisonError::into_inner);
    make_room(&mut known);
    known.insert(id.mount, name.clone());
    Ok(name)
}

/// Anybody can make mounts; nobody shall fill our memory with them.
fn make_room<K, V>(map: &mut BTreeMap<K, V>) {
    if map.len() >= 1024 {
        map.clear();
    }
}

/// Anybody can make a table of mounts that takes long to read. So tables are read one at a time, never on a thread that serves others,
/// and one that did not tell is not read again for the same mount for a while.
struct Turn(MutexGuard<'static, Unknown>);

/// By mount and the namespace whose table was read: until when, and what was said.
type Unknown = BTreeMap<(u64, u64), (BootTime, Errno)>;

/// Microseconds until a mount that was not found is looked for again.
const UNKNOWN_FOR: u64 = 5_000_000;

impl Turn {
    fn take() -> Self {
        static UNKNOWN: Mutex<Unknown> = Mutex::new(BTreeMap::new());
        Self(UNKNOWN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read(&mut self, held: &impl AsFd, id: &FileId, proc: Option<&ProcDir>) -> io::Result<String> {
        // Another namespace's table may know the mount all the same.
        let key = (id.mount, proc.map(|proc| proc.namespace("mnt")).transpose()?.unwrap_or(0));
        let now = SystemClock.boot();
        if let Some((_, errno)) = self.0.get(&key).filter(|(until, _)| now < *until) {
            return Err((*errno).into());
        }
        let name = from_mountinfo(held, id, proc);
        // A process that went meanwhile says nothing about its mounts.
        if let Some(errno) = name.as_ref().err().and_then(errno).filter(|errno| [Errno::ENODATA, Errno::EFBIG].contains(errno)) {
            make_room(&mut self.0);
            self.0.insert(key, (BootTime(now.0 + UNKNOWN_FOR), errno));
        }
        name
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

fn from_mountinfo(held: &impl AsFd, id: &FileId, proc: Option<&ProcDir>) -> io::Result<String> {
    let Some(proc) = proc else { return Err(Errno::ENOENT.into()) };
    // mountinfo shows the old ids: ask for that one.
    let old = statx(held.as_fd(), libc::STATX_MNT_ID)?;
    let mount = (old.stx_mask & libc::STATX_MNT_ID != 0).then(|| old.stx_mnt_id.to_string());
    let device = format!("{}:{}", libc::major(id.dev), libc::minor(id.dev));
    let text = proc.read("mountinfo", 4 << 20)?;
    type_in(&text, mount.as_deref(), &device).ok_or_else(|| Errno::ENODATA.into())
}

/// The type of the mount with that id, or on that device, in the text of a `mountinfo`.
fn type_in(mountinfo: &[u8], mount: Option<&str>, device: &str) -> Option<String> {
    let mut by_device = None;
    for line in mountinfo.split(|b| *b == b'\n').filter_map(|line| std::str::from_utf8(line).ok()) {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (mut fields, name) = (before.split(' '), after.split(' ').next()?);
        if fields.next() == mount && mount.is_some() {
            return Some(name.to_owned());
        }
        if fields.nth(1) == Some(device) {
            by_device.get_or_insert(name);
        }
    }
    by_device.map(str::to_owned)
}

fn statmount_type(mount: u64) -> io::Result<String> {
    const SYS_STATMOUNT: libc::c_long = 457;
    let request = MountRequest { size: size_of::<MountRequest>() as u32, spare: 0, mount, param: STATMOUNT_FS_TYPE };
    #[repr(align(8))]
    struct Buffer([u8; STATMOUNT_HEAD + 256]);
    let mut buffer = Buffer([0; STATMOUNT_HEAD + 256]);
    // SAFETY: the request is readable and the buffer writable for the sizes given.
    let done = unsafe { libc::syscall(SYS_STATMOUNT, &raw const request, buffer.0.as_mut_ptr(), buffer.0.len(), 0) };
    Errno::result(done)?;
    let field = |range: std::ops::Range<usize>| buffer.0[range].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    if field(STATMOUNT_MASK) & STATMOUNT_FS_TYPE == 0 {
        return Err(Errno::ENODATA.into());
    }
    let text = buffer.0.get(STATMOUNT_HEAD + field(STATMOUNT_TYPE) as usize..).unwrap_or_default();
    let name = text.split(|b| *b == 0).next().unwrap_or_default();
    String::from_utf8(name.to_vec()).map_err(|_| Errno::EILSEQ.into())
}

impl Executable {
    /// The executable that a process runs now.
    pub fn of(proc: &ProcDir) -> io::Result<Self> {
        let held = openat(proc.fd(), "exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let id = file_id(&held)?;
        let fs = match file_system(&held, &id, Some(proc)) {
            // On no mount that the process sees: a memory file, or a mount that was detached. It is what it is, but nothing to trust.
            Err(error) if errno(&error) == Some(Errno::ENODATA) => "unknown".to_owned(),
            known => known?,
        };
        let path = proc.link("exe")?.as_bytes().to_vec();
        Ok(Self { held, id, fs, path })
    }

    /// The file that a process runs now, without opening it.
    pub fn id_of(proc: &ProcDir) -> io::Result<FileId> {
        // The link is the kernel's own and leads to the file itself: nothing is looked up on its file system.
        statx_at(proc.fd().as_fd(), c"exe", 0, libc::STATX_BASIC_STATS).map(|now| FileId::of(&now))
    }

    /// Whether its file system may be asked for content.
    pub fn on_trusted_fs(&self) -> bool {
        TRUSTED_FILE_SYSTEMS.contains(&self.fs.as_str()) || crate::mutation!("file-system")
    }

    /// Still the same file, unchanged.
    pub fn unchanged(&self) -> bool {
        file_id(&self.held).is_ok_and(|now| now.same_file(&self.id))
    }

    /// Opens its content for reading through `/proc/self/fd`, which leads to the held file and nowhere else.
    pub fn open(&self) -> io::Result<std::fs::File> {
        if !self.on_trusted_fs() {
            return Err(Errno::EPERM.into());
        }
        let path = format!("/proc/self/fd/{}", self.held.as_raw_fd());
        std::fs::File::open(path)
    }

    /// The file handle (inode and generation), which a later file on a reused inode number does not have.
    pub fn handle(&self) -> Option<Vec<u8>> {
        handle_of(&self.held)
    }

    /// The same for the file at a path.
    pub fn handle_of(path: &std::path::Path) -> Option<Vec<u8>> {
        handle_of(&nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).ok()?)
    }
}

fn handle_of(fd: &OwnedFd) -> Option<Vec<u8>> {
    #[repr(C)]
    struct Raw {
        bytes: libc::c_uint,
        kind: libc::c_int,
        data: [u8; 128],
    }
    let mut raw = Raw { bytes: 128, kind: 0, data: [0; 128] };
    let mut mount: libc::c_int = 0;
    // SAFETY: the path is a C string; at most `bytes` bytes are written behind the header.
    let done = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast::<libc::c_void>(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    (done == 0).then(|| raw.data[..raw.bytes as usize].to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_id_first() {
        let text = b"31 1 0:26 / / rw - btrfs /dev/vda2 rw\n32 31 0:26 /home /home rw shared:1 - btrfs /dev/vda2 rw\n40 31 0:40 / /f rw - fuse.x x rw\nodd\n";
        assert_eq!(type_in(text, Some("40"), "0:26").as_deref(), Some("fuse.x"));
        assert_eq!(type_in(text, Some("32"), "0:99").as_deref(), Some("btrfs"), "a subvolume's files have a device of their own");
        assert_eq!(type_in(text, Some("99"), "0:40").as_deref(), Some("fuse.x"));
        assert_eq!(type_in(text, None, "0:26").as_deref(), Some("btrfs"));
        assert_eq!(type_in(text, Some("99"), "0:99"), None);
        let me = ProcDir::open(std::process::id()).unwrap();
        let exe = Executable::of(&me).unwrap();
        let old = statx(exe.held.as_fd(), libc::STATX_MNT_ID).unwrap().stx_mnt_id.to_string();
        assert_eq!(type_in(&me.read("mountinfo", 4 << 20).unwrap(), Some(&old), "none"), Some(exe.fs));
    }

    #[test]
    fn knows_its_own_program() {
        let me = ProcDir::open(std::process::id()).unwrap();
        let exe = Executable::of(&me).unwrap();
        assert_eq!(exe.path, std::env::current_exe().unwrap().as_os_str().as_bytes());
        assert!(!exe.fs.is_empty());
        assert!(exe.unchanged());
        let host = crate::sys::Host::probe().unwrap();
        if exe.on_trusted_fs() {
            assert!(host.file(&exe.path).unwrap().unwrap().id.same_file(&exe.id));
        }
        assert!(host.file(b"/no/such/file").unwrap().is_none());
        assert!(host.file(b"/proc/self/exe").unwrap().is_none(), "proc is not a file system whose files are opened");
    }
}
