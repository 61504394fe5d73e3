//! The capabilities of this process: capget(2), capset(2), the ambient set (capabilities(7)).

use nix::errno::Errno;

/// `linux/capability.h`.
const VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// 32 capabilities; version 3 has two of these, the lower ones first.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sets {
    /// What counts now.
    pub effective: u32,
    /// What may be made to count.
    pub permitted: u32,
    /// What an executed program may be given.
    pub inheritable: u32,
}

const OWN: Header = Header { version: VERSION_3, pid: 0 };

/// What this process has.
pub fn capabilities() -> Result<[Sets; 2], Errno> {
    let (header, mut sets) = (OWN, [Sets::default(); 2]);
    // SAFETY: version 3 writes two sets behind a header; both outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) })?;
    Ok(sets)
}

/// From now on it has these.
pub fn set_capabilities(sets: &[Sets; 2]) -> Result<(), Errno> {
    let header = OWN;
    // SAFETY: version 3 reads two sets behind a header; both outlive the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) }).map(drop)
}

/// Nothing is handed to an executed program by itself.
pub fn clear_ambient() -> Result<(), Errno> {
    // SAFETY: numbers only.
    Errno::result(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0, 0, 0) }).map(drop)
}
