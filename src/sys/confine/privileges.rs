//! Limits and capabilities of this process: prctl(2), capabilities(7).

use super::Role;
use crate::sys::capability::{capabilities, clear_ambient, set_capabilities};
use nix::{
    errno::Errno,
    sys::resource::{Resource, setrlimit},
    unistd::geteuid,
};
use std::io;

/// `linux/capability.h`.
const CAP_CHOWN: u32 = 0;
const CAP_DAC_READ_SEARCH: u32 = 2;
const CAP_SYS_PTRACE: u32 = 19;
const LAST_CAPABILITY: u32 = 63;

/// `linux/securebits.h`: uid 0 gives nothing by itself, changing uids gives nothing back, nothing is raised into the ambient set, and all of
/// that for good. `SECBIT_KEEP_CAPS` itself stays off, locked.
const SECUREBITS: libc::c_ulong = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7;

/// `linux/prctl.h` since Linux 6.3.
const PR_SET_MDWE: libc::c_int = 65;
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<(), Errno> {
    // SAFETY: the options used in this file take numbers and touch no memory.
    Errno::result(unsafe { libc::prctl(option, argument, 0 as libc::c_ulong, 0 as libc::c_ulong, 0 as libc::c_ulong) }).map(drop)
}

/// Before any secret is read: no core file, no tracing by others of the same uid, no privilege from an exec.
pub fn harden() -> io::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(crate::mutation!("dumpable")))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    Ok(())
}

/// The capabilities of a role, as a set of bits.
fn wanted(role: Role, root: bool) -> u64 {
    let looking = 1 << CAP_SYS_PTRACE | 1 << CAP_DAC_READ_SEARCH;
    match role {
        Role::Core => 0,
        Role::Attestor => looking,
        // As root it gives its socket and its log to the groups that may use them; root's own files are root's with or without it.
        Role::Single if root => looking | 1 << CAP_CHOWN,
        Role::Single => looking,
    }
}

/// Keeps what the role needs and has, in every set. What is not there is not missed here: `may_look_at_all` asks.
pub(super) fn drop_capabilities(role: Role) -> io::Result<()> {
    let wanted = wanted(role, geteuid().is_root());
    // These two need CAP_SETPCAP, so they come first; without it neither an exec nor a change of uid could give anything either:
    // no_new_privs is set, and the filter lets no program be executed.
    let may = prctl(libc::PR_SET_SECUREBITS, SECUREBITS);
    if !matches!(may, Ok(()) | Err(Errno::EPERM)) {
        may?;
    }
    for capability in (0..=LAST_CAPABILITY).filter(|capability| wanted >> capability & 1 == 0) {
        match prctl(libc::PR_CAPBSET_DROP, capability.into()) {
            Ok(()) | Err(Errno::EPERM) => {}
            // Past the last one that this kernel knows.
            Err(Errno::EINVAL) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    clear_ambient()?;
    let mut sets = capabilities()?;
    let mut spare = 0;
    for (set, wanted) in sets.iter_mut().zip([wanted as u32, (wanted >> 32) as u32]) {
        spare |= (set.permitted | set.effective) & !wanted;
        set.permitted &= wanted;
        set.effective = set.permitted;
        set.inheritable = 0;
    }
    match set_capabilities(&sets) {
        // The unit's own filter forbids it, having given no more than is wanted: what could be inherited by a program never is.
        Err(Errno::EPERM) if spare == 0 => Ok(()),
        done => done.map_err(io::Error::from),
    }
}

/// No memory is both writable and executable, and none becomes executable later. The sentence if this kernel cannot.
pub(super) fn deny_write_execute() -> io::Result<Option<String>> {
    match prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN) {
        Ok(()) => Ok(None),
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            Ok(Some("this kernel has no PR_SET_MDWE (Linux 6.3): only the filter keeps memory from becoming executable".to_owned()))
        }
        Err(errno) => Err(errno.into()),
    }
}
