//! Errors that say nothing about what is on the host: the kernel was short of something, was interrupted, or a disk failed once.

use std::{error::Error, io};

/// Whether such an error stands behind this one: to try again is right, and nothing has to be mended first. `errno(3)` has the names.
pub fn is_passing(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return is_passing_io(error);
        }
        next = error.source();
    }
    false
}

/// The same for what the kernel answered.
pub fn is_passing_io(error: &io::Error) -> bool {
    const DISKS: [i32; 3] = [libc::EIO, libc::ENOSPC, libc::EDQUOT];
    is_shortage(error)
        || error.raw_os_error().is_some_and(|errno| DISKS.contains(&errno))
        || error.get_ref().is_some_and(|inner| is_passing(inner))
}

/// Whether this process, another one of ours or this host was short of descriptors or memory, which says nothing about what was looked at.
pub fn is_shortage(error: &io::Error) -> bool {
    const SHORT: [i32; 6] = [libc::EINTR, libc::EAGAIN, libc::ENOMEM, libc::ENFILE, libc::EMFILE, libc::ENOBUFS];
    error.raw_os_error().is_some_and(|errno| SHORT.contains(&errno)) || error.get_ref().is_some_and(|inner| inner.is::<Shortage>())
}

/// Another process of ours was short, in its words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Shortage(pub String);

impl From<Shortage> for io::Error {
    fn from(shortage: Shortage) -> Self {
        io::Error::other(shortage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_found_behind_other_errors() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] io::Error);
        let of = io::Error::from_raw_os_error;
        assert!(is_passing(&Outer(of(libc::EMFILE))));
        assert!(is_passing(&Outer(io::Error::other(Outer(of(libc::ENOSPC))))));
        assert!(!is_passing(&Outer(of(libc::EACCES))));
        assert!(!is_passing(&Outer(io::Error::other("no number"))));
        assert!(is_shortage(&of(libc::ENFILE)) && !is_shortage(&of(libc::EIO)));
        let elsewhere = io::Error::from(Shortage("too many open files".into()));
        assert!(is_shortage(&elsewhere) && is_passing(&Outer(elsewhere)));
    }
}
