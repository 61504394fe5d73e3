//! What `clav exec` needs for its child: values in memory that only it inherits, and signals.

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        signal::{Signal, kill},
    },
    unistd::Pid,
};
use std::{
    fs::File,
    io::{self, Seek, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Linux 6.3: the file cannot be executed, and that cannot be changed.
const MFD_NOEXEC_SEAL: libc::c_uint = 8;

/// A file in memory with these bytes that can no longer be changed, and that a child inherits under the same number.
pub fn sealed_memory(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let mut file = memory(name)?;
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// A file in memory that a child inherits, and whose bytes are exchanged while the child runs.
pub struct SharedMemory(File);

impl SharedMemory {
    /// With these bytes.
    pub fn new(name: &str, bytes: &[u8]) -> io::Result<Self> {
        let mut file = memory(name)?;
        file.write_all(bytes)?;
        file.rewind()?;
        Ok(Self(file))
    }

    /// What the child inherits, under the same number.
    pub fn shown(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Puts other bytes in their place, and the descriptor back at its beginning. Who reads in this very moment may read nothing, or not
    /// all: tell it when this has returned.
    pub fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        self.0.write_all(bytes)?;
        self.0.rewind()
    }
}

/// An empty file in memory.
fn memory(name: &str) -> io::Result<File> {
    // No MFD_CLOEXEC: the child is to have it. Hosts may insist on memory that nobody can execute (vm.memfd_noexec, Linux 6.3).
    let flags = MFdFlags::MFD_ALLOW_SEALING;
    let memory = match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_NOEXEC_SEAL)) {
        Err(Errno::EINVAL) => memfd_create(name, flags),
        other => other,
    };
    Ok(File::from(memory?))
}

/// The number of a signal by its name, `HUP` or `SIGHUP`.
pub fn signal_number(name: &str) -> Option<i32> {
    let name = name.to_ascii_uppercase();
    let whole = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    whole.parse::<Signal>().ok().map(|signal| signal as i32)
}

/// Passes a signal on to a child that has not been waited for. One that has ended already is no error.
pub fn forward_signal(child: u32, signal: i32) -> io::Result<()> {
    let signal = Signal::try_from(signal)?;
    match kill(Pid::from_raw(child as i32), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Read, os::fd::AsRawFd};

    #[test]
    fn sealed_memory_is_read_and_not_changed() {
        let fd = sealed_memory("value", b"abc").unwrap();
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        let mut file = File::from(fd);
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc", "the descriptor itself stands at the beginning");
        assert!(file.write_all(b"x").is_err());
    }
}
