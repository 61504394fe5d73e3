//! Which system calls each role may make, and what needs them. Found by following the daemon through its tests with strace(1) and by
//! reading the C library; calls that only one architecture has stand apart.

use super::Role;
use crate::sys::seccomp::{Condition, Rule, masked};
use libc::*;

fn is(argument: u8, equals: u32) -> Condition {
    masked(argument, u32::MAX, equals)
}

fn none_of(argument: u8, bits: u32) -> Condition {
    masked(argument, bits, 0)
}

/// Looking into other processes or making them do something, new programs, another view of the file system, and interfaces to the kernel
/// with a history: whoever calls these is no longer us, so the process ends (with SIGSYS, without a core).
pub(super) const fn fatal() -> &'static [c_long] {
    &[
        // Others' memory, registers, descriptors.
        SYS_ptrace,
        SYS_process_vm_readv,
        SYS_process_vm_writev,
        SYS_pidfd_getfd,
        SYS_kcmp,
        // Programs of any kind: for the processor, for the kernel, as another architecture.
        SYS_execve,
        SYS_execveat,
        SYS_bpf,
        SYS_personality,
        // Page faults answered by the process itself, calls that no filter sees.
        SYS_userfaultfd,
        SYS_io_uring_setup,
        SYS_io_uring_enter,
        SYS_io_uring_register,
        // The kernel's keyrings.
        SYS_add_key,
        SYS_request_key,
        SYS_keyctl,
        // Another view of the file system.
        SYS_mount,
        SYS_umount2,
        SYS_pivot_root,
        SYS_open_tree,
        SYS_move_mount,
        SYS_fsopen,
        SYS_fsconfig,
        SYS_fsmount,
        SYS_fspick,
        SYS_mount_setattr,
    ]
}

/// Threads, locks, memory, time: what the C library and the runtime do by themselves.
const RUNTIME: &[c_long] = &[
    // Locks and the end of threads.
    SYS_futex,
    SYS_set_robust_list,
    SYS_rseq,
    SYS_set_tid_address,
    SYS_exit,
    SYS_exit_group,
    // A child that was started before the filter is waited for.
    SYS_wait4,
    SYS_waitid,
    SYS_gettid,
    SYS_getpid,
    // Threads by clone(2) alone (a row of its own below); this one is answered "not there" by another filter.
    SYS_clone3,
    // How many workers; a spinning lock gives way.
    SYS_sched_getaffinity,
    SYS_sched_yield,
    // Memory. That none becomes executable is a row of its own below.
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_mlock,
    SYS_mlock2,
    SYS_munlock,
    SYS_memfd_secret,
    // Waiting, and being woken.
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_ppoll,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_clock_nanosleep,
    SYS_nanosleep,
    SYS_restart_syscall,
    SYS_gettimeofday,
    // Signals: handlers of the runtime, masks around the start of a thread, stacks of threads.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    // Nonces, keys, ids.
    SYS_getrandom,
    // Who we are. Nobody here becomes somebody else.
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getppid,
    SYS_capget,
    SYS_uname,
];

/// Files that are open, and looking at those that are not: state, log, configuration, `/proc`.
const FILES: &[c_long] = &[
    SYS_read,
    SYS_readv,
    SYS_pread64,
    SYS_write,
    SYS_writev,
    SYS_close,
    SYS_lseek,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_statfs,
    SYS_fstatfs,
    SYS_getdents64,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getcwd,
    SYS_dup,
    SYS_pipe2,
];

/// Files that are made, changed, synced and renamed: the journals, the store, the sockets, the file of metrics.
const WRITING: &[c_long] = &[
    SYS_pwrite64,
    SYS_pwritev,
    SYS_ftruncate,
    // The ballast that is given up when the disk is full.
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    // One daemon for each state folder.
    SYS_flock,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    // The log is its readers' group's, the sockets have modes of their own.
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_umask,
];

/// Sockets that are there already: peers, sources, the service manager, the journal.
const SOCKETS: &[c_long] = &[
    SYS_accept4,
    SYS_recvmsg,
    SYS_recvfrom,
    SYS_sendmsg,
    SYS_sendto,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_listen,
    SYS_bind,
];

/// Connecting to a source, the service manager or the journal.
const CONNECTING: &[c_long] = &[
    SYS_connect,
    // Questions to name servers go out two at a time.
    SYS_sendmmsg,
    SYS_recvmmsg,
];

/// Pinned processes: the peers, and holders that are found again after a restart.
const PROCESSES: &[c_long] = &[SYS_pidfd_open, SYS_name_to_handle_at, SYS_open_by_handle_at];

/// What kind of file system an executable lies on, before it is opened.
const MOUNTS: &[c_long] = &[457 /* statmount */, 458 /* listmount */];

/// What the generic numbers left out and x86 still has; the C library calls these there.
#[cfg(target_arch = "x86_64")]
const ELDERS: &[c_long] =
    &[SYS_poll, SYS_epoll_wait, SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_arch_prctl, SYS_time, SYS_getrlimit];
#[cfg(target_arch = "x86_64")]
const ELDERS_WRITING: &[c_long] = &[SYS_mkdir, SYS_rmdir, SYS_unlink, SYS_rename, SYS_renameat, SYS_chmod];
#[cfg(not(target_arch = "x86_64"))]
const ELDERS: &[c_long] = &[];
/// Of the generic numbers, the one that only some architectures have (`__ARCH_WANT_RENAMEAT`): rename(3) is this one there.
#[cfg(target_arch = "aarch64")]
const ELDERS_WRITING: &[c_long] = &[38 /* renameat */];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ELDERS_WRITING: &[c_long] = &[];

const PIDFD_GET_INFO_NUMBER: u32 = 0xFF << 8 | 11;
/// Type and number of an `_IOC`, without its size: the structure grows with the kernel.
const IOC_TYPE_AND_NUMBER: u32 = 0xFFFF;
/// `linux/memfd.h` since Linux 6.3: cannot be executed, for good.
const MFD_NOEXEC_SEAL: u32 = 8;

/// All that `role` may call; `internet` says whether a source is reached by TCP.
pub(super) fn allowed(role: Role, internet: bool) -> Vec<(c_long, Rule)> {
    let mut groups = vec![RUNTIME, FILES, SOCKETS, PROCESSES, CONNECTING, ELDERS];
    if role != Role::Core {
        groups.push(MOUNTS);
    }
    if role != Role::Attestor {
        groups.push(WRITING);
        groups.push(ELDERS_WRITING);
    }
    let mut rows: Vec<(c_long, Rule)> = groups.into_iter().flatten().map(|call| (*call, Rule::Any)).collect();
    rows.extend(conditional(role, internet));
    rows
}

fn conditional(role: Role, internet: bool) -> Vec<(c_long, Rule)> {
    let when = |call: c_long, conditions: Vec<Condition>| (call, Rule::Where(conditions));
    let threads = (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD) as u32;
    let apart = (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET) as u32
        | (CLONE_PTRACE | CLONE_PIDFD | CLONE_PARENT) as u32;
    // Process ids are positive.
    let own = std::process::id();
    let mut rows = vec![
        // Threads of this process in its own namespaces, and nothing else that is new.
        when(SYS_clone, vec![masked(0, threads | apart, threads)]),
        // abort(3), and the runtime's own word to its threads: nobody else gets a signal.
        when(SYS_tgkill, vec![is(0, own)]),
        // Libraries are loaded, so nothing needs to be executable any more.
        when(SYS_mmap, vec![none_of(2, PROT_EXEC as u32)]),
        when(SYS_mprotect, vec![none_of(2, PROT_EXEC as u32)]),
        // The names of threads.
        when(SYS_prctl, vec![is(0, PR_SET_NAME as u32)]),
        // Limits are read (the stacks of threads), our own and without setting any.
        when(SYS_prlimit64, vec![is(0, 0), is(2, 0)]),
        // Non-blocking, how much lies in a socket, is this a terminal, ids of a pinned process.
        when(SYS_ioctl, vec![is(1, FIONBIO as u32)]),
        when(SYS_ioctl, vec![is(1, FIONREAD as u32)]),
        when(SYS_ioctl, vec![is(1, TCGETS as u32)]),
        when(SYS_ioctl, vec![masked(1, IOC_TYPE_AND_NUMBER, PIDFD_GET_INFO_NUMBER)]),
        // Peers and sources on Unix sockets, the service manager, the journal.
        when(SYS_socket, vec![is(0, AF_UNIX as u32)]),
        when(SYS_socketpair, vec![is(0, AF_UNIX as u32)]),
        // A long line for the journal, if whoever writes it sees to it that it cannot be executed.
        when(SYS_memfd_create, vec![masked(1, MFD_NOEXEC_SEAL, MFD_NOEXEC_SEAL)]),
    ];
    // Flags of descriptors, copies, and locks: none that would send signals to others (F_SETOWN, F_SETSIG, F_NOTIFY, leases).
    for command in [F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC, F_OFD_SETLK, F_SETLK, F_GETLK] {
        rows.push(when(SYS_fcntl, vec![is(1, command as u32)]));
    }
    if role == Role::Attestor {
        // To read, or only to point at.
        rows.push(when(SYS_openat, vec![none_of(2, (O_ACCMODE | O_CREAT | O_TRUNC) as u32)]));
    } else {
        rows.push((SYS_openat, Rule::Any));
    }
    if internet && role != Role::Attestor {
        // Sources and name servers.
        for family in [AF_INET, AF_INET6] {
            rows.push(when(SYS_socket, vec![is(0, family as u32)]));
        }
    }
    // A test build ends itself as kill -9 would.
    if cfg!(mutations) {
        rows.push(when(SYS_kill, vec![is(0, own), is(1, SIGKILL as u32)]));
    }
    rows
}
