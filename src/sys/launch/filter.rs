//! The filter of a launched program and all that it starts: nothing by which its group could be handed on.
//!
//! A file with the set-group-id bit would give the group to whoever executes it. In a user namespace that a process of this uid makes, every
//! other process of this uid has all capabilities (user_namespaces(7)), so it could be traced there.

use crate::sys::seccomp::{Rule, compile, masked};
use libc::*;
use nix::errno::Errno;
use seccompiler::{BpfProgram, SeccompAction, apply_filter, sock_filter};
use std::io;

/// Installs it for good. An error if this kernel takes none: then nothing is launched.
pub(super) fn install() -> io::Result<()> {
    let errno = |code: i32| SeccompAction::Errno(code as u32);
    if cfg!(target_arch = "x86_64") {
        apply_filter(&without_x32()).map_err(io::Error::other)?;
    }
    // The flags of clone3(2) and the mode of openat2(2) lie in memory, and io_uring makes calls that no filter sees: "not there" makes
    // programs use what can be looked at.
    let unseen = [SYS_clone3, SYS_openat2, SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register];
    let unseen = compile(unseen.map(|call| (call, Rule::Any)).into(), errno(ENOSYS), SeccompAction::Allow)?;
    apply_filter(&unseen).map_err(io::Error::other)?;
    apply_filter(&compile(refused(), errno(EPERM), SeccompAction::Allow)?).map_err(io::Error::other)
}

/// `S_ISUID`, `S_ISGID`, or both.
const SET_ID: [u32; 3] = [0o4000, 0o2000, 0o6000];

fn refused() -> Vec<(c_long, Rule)> {
    let mut rows = Vec::new();
    let mut modes = |call: c_long, mode: u8| {
        rows.extend(SET_ID.map(|bits| (call, Rule::Where(vec![masked(mode, 0o6000, bits)]))));
    };
    modes(SYS_fchmod, 1);
    modes(SYS_fchmodat, 2);
    modes(452 /* fchmodat2 */, 2);
    modes(SYS_mkdirat, 2);
    modes(SYS_mknodat, 2);
    #[cfg(target_arch = "x86_64")]
    {
        modes(SYS_chmod, 1);
        modes(SYS_creat, 1);
        modes(SYS_mkdir, 1);
        modes(SYS_mknod, 1);
    }
    // The mode counts only where a file is made; otherwise it is whatever lay in the register.
    let mut opening = |call: c_long, flags: u8| {
        for making in [O_CREAT as u32, (O_TMPFILE & !O_DIRECTORY) as u32] {
            rows.extend(SET_ID.map(|bits| (call, Rule::Where(vec![masked(flags, making, making), masked(flags + 1, 0o6000, bits)]))));
        }
    };
    opening(SYS_openat, 2);
    #[cfg(target_arch = "x86_64")]
    opening(SYS_open, 1);
    let users = CLONE_NEWUSER as u32;
    rows.push((SYS_unshare, Rule::Where(vec![masked(0, users, users)])));
    rows.push((SYS_clone, Rule::Where(vec![masked(0, users, users)])));
    rows.push((SYS_setns, Rule::Any));
    rows
}

/// The numbers of the x32 interface have a bit of their own and would pass every list: "not there".
fn without_x32() -> BpfProgram {
    const X32: u32 = 0x4000_0000;
    let step = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    vec![
        // The number of the call is the first member of `struct seccomp_data`.
        step(BPF_LD | BPF_W | BPF_ABS, 0, 0, 0),
        step(BPF_JMP | BPF_JGE | BPF_K, 0, 1, X32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | Errno::ENOSYS as u32),
        step(BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW),
    ]
}
