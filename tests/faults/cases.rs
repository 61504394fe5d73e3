//! Which system calls fail, how, and when.

use std::collections::HashMap;

/// When a fault begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The daemon starts with it for the first time.
    First,
    /// The daemon starts with it on a state that holds a live lease.
    Again,
    /// The daemon serves when it begins.
    Serving,
    /// The attestor of a daemon that serves has it.
    Attestor,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Case {
    /// The system call; several are separated by commas.
    pub call: String,
    /// What it returns.
    pub error: &'static str,
    /// As strace's `when=` has it: counted in each thread.
    pub when: String,
    /// When it begins.
    pub phase: Phase,
}

/// Calls and the errors that their manual pages name or that a broken disk, driver or filter brings. Not `futex`: a wake never returns EINTR,
/// which strace cannot tell from a wait, and the C library ends a process that is told so; nor `brk`, which answers with an
/// address, nor `close`, which does what it is told whatever it returns.
const FAULTS: &[(&str, &[&str])] = &[
    ("openat", &["EIO", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EPERM", "EINTR"]),
    ("read", &["EIO", "EINTR", "EAGAIN", "ENOMEM"]),
    ("pread64", &["EINTR"]),
    ("readlinkat", &["ENOMEM"]),
    ("readlink", &["ENOMEM"]),
    ("getdents64", &["EIO", "ENOMEM"]),
    ("write", &["EIO", "ENOSPC", "EINTR"]),
    ("pwrite64", &["EIO", "ENOSPC"]),
    ("writev", &["EIO", "ENOMEM", "EINTR", "EPIPE"]),
    ("fsync", &["EIO", "ENOSPC", "EINTR"]),
    ("fdatasync", &["EIO", "ENOSPC", "EINTR"]),
    ("ftruncate", &["EIO", "EINTR"]),
    ("fallocate", &["ENOSPC", "EIO", "EINTR"]),
    ("rename", &["EIO", "ENOSPC", "EPERM"]),
    ("renameat", &["EIO", "ENOSPC", "EPERM"]),
    ("renameat2", &["EIO", "ENOSPC"]),
    ("mkdir", &["EIO", "ENOSPC", "EPERM"]),
    ("mkdirat", &["EIO", "ENOSPC", "EPERM"]),
    ("unlink", &["EIO", "EPERM"]),
    ("unlinkat", &["EIO", "EPERM"]),
    ("fchmod", &["EIO", "EPERM"]),
    ("chmod", &["EIO", "EPERM"]),
    ("fchown", &["EIO", "EPERM"]),
    ("statx", &["EIO", "ENOMEM", "EINTR"]),
    ("newfstatat", &["EIO", "ENOMEM"]),
    ("fstat", &["EIO", "ENOMEM"]),
    ("statfs", &["EIO", "EINTR"]),
    ("fstatfs", &["EIO", "EINTR"]),
    ("flock", &["EINTR", "ENOMEM"]),
    ("fcntl", &["EMFILE", "ENOMEM", "EPERM"]),
    ("lseek", &["EIO"]),
    ("accept4", &["EMFILE", "ENFILE", "ENOMEM", "EINTR", "EAGAIN", "EPERM"]),
    ("recvmsg", &["EIO", "ENOMEM", "EINTR", "EAGAIN"]),
    ("recvfrom", &["ENOMEM", "EINTR"]),
    ("sendmsg", &["EIO", "ENOMEM", "EINTR", "EAGAIN"]),
    ("sendto", &["EIO", "ENOMEM", "EINTR", "EPIPE"]),
    ("epoll_ctl", &["ENOMEM", "ENOSPC", "EPERM"]),
    ("epoll_wait", &["EINTR"]),
    ("epoll_pwait", &["EINTR"]),
    ("epoll_create1", &["EMFILE", "ENOMEM"]),
    ("eventfd2", &["EMFILE", "ENOMEM"]),
    ("poll", &["EINTR"]),
    ("socket", &["EMFILE", "ENFILE", "ENOMEM", "EPERM"]),
    ("socketpair", &["EMFILE", "ENOMEM"]),
    ("bind", &["EIO", "ENOSPC", "ENOMEM", "EPERM"]),
    ("listen", &["EIO"]),
    ("connect", &["EAGAIN", "EPERM", "EINTR"]),
    ("getsockopt", &["EIO", "ENOMEM", "EPERM", "EMFILE"]),
    ("setsockopt", &["EIO", "ENOMEM"]),
    ("shutdown", &["EIO"]),
    ("pidfd_open", &["EMFILE", "ENOMEM", "EPERM"]),
    ("ioctl", &["ENOMEM", "EPERM"]),
    ("name_to_handle_at", &["EIO", "ENOMEM"]),
    ("open_by_handle_at", &["EMFILE", "ENOMEM", "EPERM"]),
    ("clone", &["EAGAIN", "ENOMEM"]),
    ("clone3", &["EAGAIN", "ENOMEM"]),
    ("mmap", &["ENOMEM", "EAGAIN"]),
    ("munmap", &["ENOMEM"]),
    ("mprotect", &["ENOMEM"]),
    ("madvise", &["EAGAIN", "EIO"]),
    ("mlock", &["ENOMEM", "EPERM"]),
    ("memfd_secret", &["ENOMEM", "EPERM", "EMFILE"]),
    ("prctl", &["EPERM"]),
    ("capset", &["EPERM"]),
    ("seccomp", &["EPERM", "ENOMEM"]),
    ("landlock_create_ruleset", &["EMFILE", "ENOMEM"]),
    ("landlock_add_rule", &["ENOMEM"]),
    ("landlock_restrict_self", &["EPERM"]),
    ("getrandom", &["EINTR"]),
    ("rt_sigaction", &["EIO"]),
    ("sched_yield", &["EIO"]),
];

/// Whether a call that always fails so would be asked again for ever by any program: then only every other one does.
fn asked_again(error: &str) -> bool {
    matches!(error, "EINTR" | "EAGAIN")
}

/// How often each call is made without faults.
pub struct Counted {
    /// By the first thread, before the program's own first line: what the loader and the language do.
    pub before: HashMap<String, usize>,
    /// By the first thread until it serves.
    pub starting: HashMap<String, usize>,
    /// By the busiest thread of the daemon, and of the attestor, while clients ask.
    pub serving: HashMap<String, usize>,
    pub attesting: HashMap<String, usize>,
}

/// Two that fail together: what is done about a failure fails as well.
const TOGETHER: &[(&str, &str)] = &[
    ("fdatasync,ftruncate", "EIO"),
    ("fdatasync,openat", "EIO"),
    ("fdatasync,unlink", "EIO"),
    ("write,ftruncate", "EIO"),
    ("write,fdatasync", "EIO"),
    ("write,openat", "ENOSPC"),
    ("statfs,fallocate", "EIO"),
    ("fsync,unlink", "EIO"),
    ("rename,unlink", "EIO"),
];

/// Every case.
pub fn all(counted: &Counted) -> Vec<Case> {
    let mut out = Vec::new();
    let step = |error| if asked_again(error) { "2" } else { "" };
    for (call, errors) in FAULTS {
        for error in *errors {
            let mut add = |when: String, phase| out.push(Case { call: (*call).to_owned(), error, when, phase });
            for (phase, counts) in [(Phase::Serving, &counted.serving), (Phase::Attestor, &counted.attesting)] {
                let often = counts.get(*call).copied().unwrap_or_default();
                for when in [1, 2, 3, 5, 9, 17, 40].into_iter().filter(|when| *when <= often) {
                    add(when.to_string(), phase);
                }
                if often > 0 {
                    add(format!("1+{}", step(error)), phase);
                }
            }
            let (before, until) = (counted.before.get(*call).unwrap_or(&0), counted.starting.get(*call).unwrap_or(&0));
            let own = until.saturating_sub(*before);
            // Whoever starts a program waits for ever if its word from the child fails (the standard library): not ours to mend. And a kernel
            // that forbids an option is one that does not have it, for as long as the daemon runs.
            if own == 0 || *call == "recvfrom" || (*call, *error) == ("getsockopt", "EPERM") {
                continue;
            }
            // The first, the last, and some between them.
            let mut at: Vec<usize> = (0..=10).map(|n| before + 1 + (own - 1) * n / 10).collect();
            at.dedup();
            for (n, at) in at.into_iter().enumerate() {
                add(at.to_string(), if n % 3 == 0 { Phase::First } else { Phase::Again });
            }
            add(format!("{}+{}", before + 1, step(error)), Phase::Again);
        }
    }
    for (call, error) in TOGETHER {
        for when in ["1", "3", "1+", "2+"] {
            out.push(Case { call: (*call).to_owned(), error, when: when.into(), phase: Phase::Serving });
        }
    }
    out
}

/// Those that are tried every day: each found something once.
fn found_something(case: &Case) -> bool {
    match (case.call.as_str(), case.phase) {
        ("fdatasync", Phase::Serving) => case.when == "1+",
        // One door, half a runtime, another machine's state.
        ("epoll_ctl", Phase::First | Phase::Again) => case.error == "ENOSPC",
        ("clone", Phase::First | Phase::Again) => case.error == "EAGAIN",
        ("socketpair", Phase::First | Phase::Again) => case.error == "EMFILE",
        _ => false,
    }
}

/// So many of them, the same ones each time as far as calls are made as often, and those that found something.
pub fn some(cases: Vec<Case>, count: usize) -> Vec<Case> {
    let (mut out, mut cases): (Vec<Case>, Vec<Case>) = cases.into_iter().partition(found_something);
    // By the FNV-1a hash of what they are, so that one case more or less changes nothing about the others.
    cases.sort_by_key(|case| {
        let text = format!("{}:{}:{}:{:?}", case.call, case.error, case.when, case.phase);
        text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    });
    out.extend(cases.into_iter().take(count));
    out
}
