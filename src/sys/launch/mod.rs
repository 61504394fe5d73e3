//! What the launcher does to itself before it becomes another program: a group of its own, no privilege, nothing of its caller's.
//!
//! It is the one program of ours that runs with a privilege (`CAP_SETGID`) which its caller lacks, so everything here takes plain values,
//! starts no thread and fails closed.

mod files;
mod filter;

use super::capability::{Sets, capabilities, clear_ambient, set_capabilities};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl, open},
    sys::{
        resource::{Resource, setrlimit},
        signal::{SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, sigaction, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{Gid, getgroups, getresgid, setresgid},
};
use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    io,
    ops::RangeInclusive,
    os::{
        fd::{BorrowedFd, IntoRawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

pub use files::{NotRoots, check_roots_file, check_roots_named, check_roots_tree, read_roots_file};

/// The groups that launches get, one each, never given twice. They are nobody else's: above what directories hand out, in the range that
/// systemd leaves unused (<https://systemd.io/UIDS-GIDS>: 1879048192 to 2147483647). Compiled in, so that no daemon, taken over or not,
/// can talk the launcher into the group of anything real.
pub const LAUNCH_GIDS: RangeInclusive<u32> = 2_010_000_000..=2_139_999_999;

/// May take any group.
pub const CAP_SETGID: u32 = 6;

/// Whether this process may take a group that is not its own.
pub fn may_set_groups() -> io::Result<bool> {
    let sets = capabilities()?;
    Ok(sets[0].effective >> CAP_SETGID & 1 == 1)
}

/// Why the program at `path` cannot work as the launcher; `None` when it can: root's alone, and with its capability on the file
/// (`security.capability`, capabilities(7)).
pub fn launcher_fault(path: &Path) -> Option<String> {
    let real = match check_roots_file(path) {
        Ok(real) => real,
        Err(error) => return Some(error.to_string()),
    };
    let Ok(name) = CString::new(real.as_os_str().as_bytes()) else { return Some("it has an impossible name".to_owned()) };
    let mut value = [0_u8; 64];
    // SAFETY: both names are C strings, and the kernel writes at most as many bytes as the buffer has.
    let len = unsafe { libc::getxattr(name.as_ptr(), c"security.capability".as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    // `struct vfs_cap_data`: a word with version and the effective bit, then the lower 32 permitted capabilities.
    let word = |at: usize| u32::from_le_bytes([value[at], value[at + 1], value[at + 2], value[at + 3]]);
    let holds = len >= 12 && word(0) & 1 == 1 && word(4) == 1 << CAP_SETGID;
    (!holds).then(|| format!("{} has not the one capability that it needs", real.display()))
}

/// Closes every descriptor but the first three, and puts the null device where one of those is missing: what is opened later must not be
/// taken for a standard stream.
pub fn keep_standard_streams_only() -> io::Result<()> {
    // SAFETY: numbers only. Nothing of ours is open yet.
    Errno::result(unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0 as libc::c_uint) })?;
    for stream in 0..3 {
        // SAFETY: asks whether the number is a descriptor; where it is none, nothing is done with it.
        let held = unsafe { BorrowedFd::borrow_raw(stream) };
        if fcntl(held, FcntlArg::F_GETFD) == Err(Errno::EBADF) {
            // The lowest free number is this one. It stays open for good.
            let null = open(c"/dev/null", OFlag::O_RDWR, Mode::empty())?.into_raw_fd();
            if null != stream {
                return Err(Errno::EBADF.into());
            }
        }
    }
    Ok(())
}

/// Takes `group` as its only primary group and gives up every privilege for good: no capability, none from a later exec, no set-id file
/// made, no user namespace, no core file, no signal ignored or blocked by whoever called, `directory` to work in.
///
/// On an error the process must end: what was given up is not taken back.
pub fn settle(group: u32, directory: &Path) -> io::Result<()> {
    let wrong = |what: &'static str| io::Error::other(what);
    // Whatever the daemon says: a group that is not a launch's is never taken.
    if !LAUNCH_GIDS.contains(&group) || getgroups()?.iter().any(|held| LAUNCH_GIDS.contains(&held.as_raw())) {
        return Err(wrong("the group is not one that launches get"));
    }
    let gid = Gid::from_raw(group);
    setresgid(gid, gid, gid)?;
    let held = getresgid()?;
    if [held.real, held.effective, held.saved] != [gid; 3] {
        return Err(wrong("the group was not taken"));
    }
    clear_ambient()?;
    set_capabilities(&[Sets::default(); 2])?;
    // SAFETY: numbers only.
    Errno::result(unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong)
    })?;
    // A core file would be the caller's to read. 1 is below every core file, and the one limit that core_pattern's programs respect (core(5)).
    setrlimit(Resource::RLIMIT_CORE, 1, 1)?;
    quiet_signals()?;
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir(directory)?;
    if crate::mutation!("launch-filter") { Ok(()) } else { filter::install() }
}

/// Every signal does what it does by default, and none is held back.
fn quiet_signals() -> io::Result<()> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator().filter(|signal| !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP)) {
        // SAFETY: the default action runs no code of ours.
        unsafe { sigaction(signal, &default) }?;
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).map_err(io::Error::from)
}

/// Becomes the program. Comes back only if that failed.
pub fn become_program(program: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let done: Result<Infallible, Errno> = nix::unistd::execve(program, arguments, environment);
    match done {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}
