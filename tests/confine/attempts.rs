//! What somebody tries who has taken the process over, with arguments that do no harm where they are let through.

use claviger::sys::Role::{self, *};
use libc::*;
use std::{
    fs::{File, OpenOptions},
    io,
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixStream},
    },
    path::PathBuf,
    ptr::null_mut,
};

/// What there is to attack.
#[derive(serde::Serialize, serde::Deserialize)]
pub struct World {
    pub folder: PathBuf,
    /// A process of another user.
    pub victim: i32,
    /// A port of a source, and another.
    pub near: u16,
    pub far: u16,
    /// Somebody's abstract socket.
    pub name: String,
}

type Act = fn(&World) -> Result<(), i32>;

pub struct Attempt {
    pub name: &'static str,
    /// Which roles are kept from it, or must be able to do it.
    pub roles: &'static [Role],
    pub act: Act,
}

/// Tried by a process whose personality it was when it was started.
pub const READ_IS_EXECUTE: &str = "memory that is executable by personality";

const ALL: &[Role] = &[Core, Attestor, Single];
/// Landlock is the core's.
const CORE: &[Role] = &[Core];
const NO_WRITER: &[Role] = &[Core, Attestor];

const fn all(name: &'static str, act: Act) -> Attempt {
    Attempt { name, roles: ALL, act }
}

const fn some(name: &'static str, roles: &'static [Role], act: Act) -> Attempt {
    Attempt { name, roles, act }
}

fn result(value: c_long) -> Result<(), i32> {
    if value < 0 { Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)) } else { Ok(()) }
}

fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// A call with up to six numbers.
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => {
        // SAFETY: pointers among the arguments are null or outlive the call; what would harm this process is what is tried here.
        result(unsafe { syscall($number $(, $argument)*) })
    };
}

const NONE: usize = 0;

fn read_file(path: impl AsRef<std::path::Path>) -> Result<(), i32> {
    let mut file = File::open(path).map_err(errno)?;
    let mut byte = [0];
    io::Read::read(&mut file, &mut byte).map(drop).map_err(errno)
}

fn socket_of(family: c_int, kind: c_int, protocol: c_int) -> Result<(), i32> {
    call!(SYS_socket, family, kind, protocol)
}

/// A page of anonymous memory with these rights.
fn page(rights: c_int) -> Result<*mut c_void, i32> {
    // SAFETY: a new mapping.
    let at = unsafe { mmap(null_mut(), 4096, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) };
    if at == MAP_FAILED { Err(errno(io::Error::last_os_error())) } else { Ok(at) }
}

/// A child that ends at once, where one can be made.
fn child(flags: c_int) -> Result<(), i32> {
    // SAFETY: the child does nothing but end.
    let pid = unsafe { syscall(SYS_clone, flags | SIGCHLD, NONE, NONE, NONE, NONE) };
    if pid == 0 {
        // SAFETY: ends the child.
        unsafe { _exit(0) };
    }
    result(pid)
}

fn pidfd(pid: i32) -> Result<c_long, i32> {
    // SAFETY: numbers only.
    let fd = unsafe { syscall(SYS_pidfd_open, pid, 0) };
    result(fd).map(|()| fd)
}

#[rustfmt::skip]
pub const ATTEMPTS: &[Attempt] = &[
    // Other processes' memory, registers, descriptors.
    all("ptrace: attach to another process", |w| call!(SYS_ptrace, PTRACE_SEIZE as c_long, w.victim, NONE, NONE)),
    all("ptrace: be traced", |_| call!(SYS_ptrace, PTRACE_TRACEME as c_long, NONE, NONE, NONE)),
    all("process_vm_readv", |w| call!(SYS_process_vm_readv, w.victim, NONE, 0, NONE, 0, 0)),
    all("process_vm_writev", |w| call!(SYS_process_vm_writev, w.victim, NONE, 0, NONE, 0, 0)),
    all("pidfd_getfd: standard input of another process", |w| call!(SYS_pidfd_getfd, pidfd(w.victim)?, 0, 0)),
    all("kcmp", |w| call!(SYS_kcmp, std::process::id(), w.victim, 1, 0, 0)),
    all("process_madvise", |w| call!(SYS_process_madvise, pidfd(w.victim)?, NONE, 0, 4, 0)),
    some("read /proc/1/mem", CORE, |_| read_file("/proc/1/mem")),
    some("write /proc/PID/mem of another process", NO_WRITER, |w| OpenOptions::new().write(true).open(format!("/proc/{}/mem", w.victim)).map(drop).map_err(errno)),
    some("read /proc/1/environ", CORE, |_| read_file("/proc/1/environ")),
    some("read /proc/PID/environ of another process", CORE, |w| read_file(format!("/proc/{}/environ", w.victim))),
    some("read /proc/PID/maps of another process", CORE, |w| read_file(format!("/proc/{}/maps", w.victim))),
    // Signals.
    all("kill another process", |w| call!(SYS_kill, w.victim, SIGCONT)),
    all("tgkill a thread of another process", |w| call!(SYS_tgkill, w.victim, w.victim, SIGCONT)),
    all("pidfd_send_signal", |w| call!(SYS_pidfd_send_signal, pidfd(w.victim)?, SIGCONT, NONE, 0)),
    all("rt_sigqueueinfo", |w| call!(SYS_rt_sigqueueinfo, w.victim, SIGCONT, NONE)),
    all("signals by a descriptor (F_SETOWN)", |w| call!(SYS_fcntl, 0, F_SETOWN, w.victim)),
    all("prlimit of another process", |w| call!(SYS_prlimit64, w.victim, RLIMIT_NOFILE, NONE, NONE)),
    // Programs, and memory that becomes one.
    all("execve", |_| call!(SYS_execve, c"/bin/nothing".as_ptr(), NONE, NONE)),
    all("execveat", |_| call!(SYS_execveat, AT_FDCWD, c"/bin/nothing".as_ptr(), NONE, NONE, 0)),
    all("fork", |_| child(0)),
    all("clone3", |_| call!(SYS_clone3, NONE, 0)),
    all("clone into a user namespace", |_| child(CLONE_NEWUSER)),
    all("memory that is writable and executable", |_| page(PROT_READ | PROT_WRITE | PROT_EXEC).map(drop)),
    all("memory that is executable", |_| page(PROT_READ | PROT_EXEC).map(drop)),
    all("memory that becomes executable (mprotect)", |_| call!(SYS_mprotect, page(PROT_READ | PROT_WRITE)?, 4096, PROT_READ | PROT_EXEC)),
    // Its request says nothing of that, so only the kernel's own rule (PR_SET_MDWE) can see it.
    all(READ_IS_EXECUTE, |_| page(PROT_READ | PROT_WRITE).map(drop)),
    all("the same by pkey_mprotect", |_| call!(SYS_pkey_mprotect, page(PROT_READ | PROT_WRITE)?, 4096, PROT_READ | PROT_EXEC, -1)),
    all("a file of its own mapped executable", |w| {
        let file = File::open(w.folder.join("own/file")).map_err(errno)?;
        // SAFETY: a new mapping.
        let at = unsafe { mmap(null_mut(), 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, file.as_raw_fd(), 0) };
        if at == MAP_FAILED { Err(errno(io::Error::last_os_error())) } else { Ok(()) }
    }),
    all("shared memory mapped executable (shmget)", |_| call!(SYS_shmget, 0, 4096, 0o600)),
    all("a file in memory that can be executed", |_| call!(SYS_memfd_create, c"x".as_ptr(), 0)),
    all("personality", |_| call!(SYS_personality, 0x0040_0000 as c_long)),
    all("a filter of its own (seccomp)", |_| call!(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, [SECCOMP_RET_KILL_PROCESS].as_ptr())),
    all("dumpable again", |_| call!(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0)),
    all("another executable link (PR_SET_MM)", |_| call!(SYS_prctl, PR_SET_MM, PR_SET_MM_EXE_FILE, 0, 0, 0)),
    all("core files again", |_| call!(SYS_prlimit64, 0, RLIMIT_CORE, [RLIM_INFINITY; 2].as_ptr(), NONE)),
    // Interfaces of the kernel with a history.
    all("bpf", |_| call!(SYS_bpf, 0, NONE, 0)),
    all("userfaultfd", |_| call!(SYS_userfaultfd, O_CLOEXEC | 1)),
    all("io_uring_setup", |_| call!(SYS_io_uring_setup, 1, [0u64; 15].as_ptr())),
    all("io_uring_enter", |_| call!(SYS_io_uring_enter, 0, 0, 0, 0, NONE, 0)),
    all("io_uring_register", |_| call!(SYS_io_uring_register, 0, 0, NONE, 0)),
    all("perf_event_open", |_| call!(SYS_perf_event_open, NONE, 0, -1, -1, 0)),
    all("add_key", |_| call!(SYS_add_key, c"user".as_ptr(), c"x".as_ptr(), c"x".as_ptr(), 1, -2)),
    all("request_key", |_| call!(SYS_request_key, c"user".as_ptr(), c"x".as_ptr(), NONE, 0)),
    all("keyctl", |_| call!(SYS_keyctl, 0, -2, 0)),
    all("fanotify_init", |_| call!(SYS_fanotify_init, 0x200, 0)),
    all("inotify_init1", |_| call!(SYS_inotify_init1, 0)),
    all("timer_create", |_| { let mut timer = 0u64; call!(SYS_timer_create, CLOCK_MONOTONIC, NONE, &raw mut timer) }),
    all("mq_open", |_| call!(SYS_mq_open, c"claviger-confine-none".as_ptr(), O_RDONLY, 0, NONE)),
    all("semget", |_| call!(SYS_semget, 0, 1, 0o600)),
    all("mbind", |_| call!(SYS_mbind, NONE, 0, 0, NONE, 0, 0)),
    all("vmsplice", |_| call!(SYS_vmsplice, 1, NONE, 0, 0)),
    // Another view of the file system, another user, another place.
    all("mount", |_| call!(SYS_mount, c"none".as_ptr(), c"/nothing".as_ptr(), c"tmpfs".as_ptr(), 0, NONE)),
    all("umount2", |_| call!(SYS_umount2, c"/nothing".as_ptr(), 0)),
    all("pivot_root", |_| call!(SYS_pivot_root, c"/nothing".as_ptr(), c"/nothing".as_ptr())),
    all("open_tree", |_| call!(SYS_open_tree, AT_FDCWD, c"/".as_ptr(), 0)),
    all("move_mount", |_| call!(SYS_move_mount, -1, c"".as_ptr(), -1, c"".as_ptr(), 0)),
    all("fsopen", |_| call!(SYS_fsopen, c"tmpfs".as_ptr(), 0)),
    all("mount_setattr", |_| call!(SYS_mount_setattr, -1, c"".as_ptr(), 0, NONE, 0)),
    all("chroot", |_| call!(SYS_chroot, c"/nothing".as_ptr())),
    all("chdir", |_| call!(SYS_chdir, c"/".as_ptr())),
    all("unshare: a user namespace", |_| call!(SYS_unshare, CLONE_NEWUSER)),
    all("setns: another process's namespaces", |w| call!(SYS_setns, pidfd(w.victim)?, CLONE_NEWNS)),
    all("setuid", |_| call!(SYS_setuid, 61_020)),
    all("setresgid", |_| call!(SYS_setresgid, 61_020, 61_020, 61_020)),
    all("setgroups", |_| call!(SYS_setgroups, 0, NONE)),
    all("capset", |_| call!(SYS_capset, [0x2008_0522u32, 0].as_ptr(), [0u32; 6].as_ptr())),
    all("a device node", |w| call!(SYS_mknodat, AT_FDCWD, path(w, "own/device").as_ptr(), S_IFIFO | 0o600, 0)),
    all("an extended attribute", |w| call!(SYS_setxattr, path(w, "own/file").as_ptr(), c"user.x".as_ptr(), c"x".as_ptr(), 1, 0)),
    all("a link by name", |w| call!(SYS_symlinkat, c"/etc/shadow".as_ptr(), AT_FDCWD, path(w, "own/link").as_ptr())),
    // The machine.
    all("init_module", |_| call!(SYS_init_module, NONE, 0, c"".as_ptr())),
    all("finit_module", |_| call!(SYS_finit_module, -1, c"".as_ptr(), 0)),
    all("delete_module", |_| call!(SYS_delete_module, c"nothing".as_ptr(), O_NONBLOCK)),
    all("kexec_load", |_| call!(SYS_kexec_load, NONE, 0, NONE, 0)),
    all("reboot", |_| call!(SYS_reboot, 1, 1, 0, NONE)),
    all("swapon", |_| call!(SYS_swapon, c"/nothing".as_ptr(), 0)),
    all("settimeofday", |_| call!(SYS_settimeofday, NONE, NONE)),
    all("clock_settime", |_| call!(SYS_clock_settime, CLOCK_REALTIME, NONE)),
    all("clock_adjtime", |_| call!(SYS_clock_adjtime, CLOCK_REALTIME, [0u64; 26].as_mut_ptr())),
    all("sethostname", |_| call!(SYS_sethostname, NONE, -1)),
    all("acct", |_| call!(SYS_acct, c"/nothing".as_ptr())),
    all("syslog: the kernel's messages", |_| call!(SYS_syslog, 10, NONE, 0)),
    all("quotactl", |_| call!(SYS_quotactl, 0, NONE, 0, NONE)),
    all("sched_setscheduler", |_| call!(SYS_sched_setscheduler, 0, SCHED_OTHER, [0i32; 1].as_ptr())),
    all("setpriority", |_| call!(SYS_setpriority, PRIO_PROCESS, 0, 19)),
    // Files that are not ours.
    some("read /etc/shadow", CORE, |_| read_file("/etc/shadow")),
    some("read a file of others", CORE, |w| read_file(w.folder.join("other/file"))),
    some("read a program", CORE, |_| read_file("/usr/bin/setpriv")),
    some("list a folder of others", CORE, |w| std::fs::read_dir(w.folder.join("other")).map(drop).map_err(errno)),
    some("write a file of others", NO_WRITER, |w| OpenOptions::new().append(true).open(w.folder.join("other/file")).map(drop).map_err(errno)),
    some("make a file in a folder of others", NO_WRITER, |w| File::create(w.folder.join(format!("other/{}", std::process::id()))).map(drop).map_err(errno)),
    some("make a file in /dev/shm", NO_WRITER, |_| { let at = format!("/dev/shm/claviger-confine-{}", std::process::id()); let made = File::create(&at).map(drop).map_err(errno); let _ = std::fs::remove_file(at); made }),
    some("remove a file of others", NO_WRITER, |w| { let at = w.folder.join("other/file"); std::fs::rename(&at, w.folder.join("other/gone")).and_then(|()| std::fs::rename(w.folder.join("other/gone"), &at)).map_err(errno) }),
    some("move a file of others to ours", NO_WRITER, |w| { let (theirs, ours) = (w.folder.join("other/file"), w.folder.join("own/theirs")); std::fs::rename(&theirs, &ours).and_then(|()| std::fs::rename(&ours, &theirs)).map_err(errno) }),
    some("write a file that is configured", NO_WRITER, |w| OpenOptions::new().append(true).open(w.folder.join("config/file")).map(drop).map_err(errno)),
    some("write a file of one's own", &[Attestor], |w| OpenOptions::new().append(true).open(w.folder.join("own/file")).map(drop).map_err(errno)),
    // Sockets.
    some("connect to a TCP port that is no source's", NO_WRITER, |w| TcpStream::connect(("127.0.0.1", w.far)).map(drop).map_err(errno)),
    some("connect to a source", &[Attestor], |w| TcpStream::connect(("127.0.0.1", w.near)).map(drop).map_err(errno)),
    some("listen on a TCP port", NO_WRITER, |_| TcpListener::bind(("127.0.0.1", 0)).map(drop).map_err(errno)),
    some("connect to an abstract socket of others", CORE, |w| SocketAddr::from_abstract_name(&w.name).and_then(|name| UnixStream::connect_addr(&name)).map(drop).map_err(errno)),
    all("netlink", |_| socket_of(AF_NETLINK, SOCK_RAW, 0)),
    all("raw packets", |_| socket_of(AF_PACKET, SOCK_RAW, 0)),
    all("the kernel's ciphers (AF_ALG)", |_| socket_of(AF_ALG, SOCK_SEQPACKET, 0)),
    all("sockets to the hypervisor", |_| socket_of(AF_VSOCK, SOCK_STREAM, 0)),
    all("input for a terminal (TIOCSTI)", |_| call!(SYS_ioctl, 0, TIOCSTI, c"x".as_ptr())),
];

/// What each role is there for must still be possible.
#[rustfmt::skip]
pub const NEEDS: &[Attempt] = &[
    all("a thread", |_| std::thread::spawn(|| ()).join().map_err(|_| 0)),
    some("write a file of one's own", &[Core, Single], |w| OpenOptions::new().append(true).open(w.folder.join("own/file")).map(drop).map_err(errno)),
    some("make, rename, remove a file of one's own", &[Core, Single], |w| { let (a, b) = (w.folder.join("own/a"), w.folder.join("own/b")); File::create(&a).and_then(|_| std::fs::rename(&a, &b)).and_then(|()| std::fs::remove_file(&b)).map_err(errno) }),
    all("read a file that is configured", |w| read_file(w.folder.join("config/file"))),
    all("a name of a user", |_| claviger::sys::uid_of("root").map(drop).ok_or(0)),
    some("a name of a host", &[Core, Single], |w| std::net::ToSocketAddrs::to_socket_addrs(&("localhost", w.near)).map(drop).map_err(errno)),
    all("which boot this is", |_| read_file("/proc/sys/kernel/random/boot_id")),
    some("connect to a source", &[Core, Single], |w| TcpStream::connect(("127.0.0.1", w.near)).map(drop).map_err(errno)),
    some("the program of another process", &[Attestor, Single], |w| read_file(format!("/proc/{}/exe", w.victim))),
    some("the namespaces of another process", &[Attestor, Single], |w| std::fs::read_link(format!("/proc/{}/ns/mnt", w.victim)).map(drop).map_err(errno)),
    all("pin another process", |w| pidfd(w.victim).map(drop)),
    some("memory that only this process can read", &[Core, Single], |_| call!(SYS_memfd_secret, O_CLOEXEC)),
];

fn path(world: &World, name: &str) -> std::ffi::CString {
    std::ffi::CString::new(world.folder.join(name).into_os_string().into_encoded_bytes()).unwrap()
}
