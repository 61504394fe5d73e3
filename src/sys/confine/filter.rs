//! The filter of system calls (seccomp(2)): what is listed is allowed, a few end the process, everything else answers EPERM.

use super::{
    Role,
    syscalls::{allowed, fatal},
};
use crate::sys::seccomp::{Rule, compile};
use nix::errno::Errno;
use seccompiler::{SeccompAction, apply_filter};
use std::io;

/// Installs it for this thread and all that it starts. The sentence if this kernel or the container around does not take filters.
pub(super) fn install(role: Role, internet: bool) -> io::Result<Option<String>> {
    // The kernel asks all of them, and the harshest word counts.
    let allow = compile(allowed(role, internet), SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    let kill = compile(fatal().iter().map(|call| (*call, Rule::Any)).collect(), SeccompAction::KillProcess, SeccompAction::Allow)?;
    // The flags of clone3(2) lie in memory that a filter cannot read. The C library takes "not there" for an old kernel and uses
    // clone(2), whose flags are looked at.
    let threads = compile(vec![(libc::SYS_clone3, Rule::Any)], SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?;
    // The one that allows so little comes last: installing another would need more than it lets through.
    let (first, others) = (&kill, [&threads, &allow]);
    if let Err(error) = apply_filter(first) {
        return match errno_of(&error) {
            Some(Errno::EINVAL | Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => Ok(Some(format!(
                "system calls are not filtered: {error}; whoever takes this process over may call whatever the host allows"
            ))),
            _ => Err(io::Error::other(error)),
        };
    }
    // Where one is taken, another that is not is our fault and not the host's.
    others
        .into_iter()
        .skip(usize::from(crate::mutation!("clone3-answer")))
        .try_for_each(|program| apply_filter(program).map_err(io::Error::other))?;
    Ok(None)
}

fn errno_of(error: &seccompiler::Error) -> Option<Errno> {
    match error {
        seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
