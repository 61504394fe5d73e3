//! What this kernel offers, probed once at start with a live connection to ourselves: never guessed from its version, and never
//! from an error on somebody's connection, where a dead peer looks like an old kernel.

use super::{is_passing_io, peer, pidfd::Found, pidfd::Pidfd};
use serde::{Deserialize, Serialize};
use std::{io, os::unix::net::UnixStream};

/// One thing that a kernel may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// `SO_PEERPIDFD` (Linux 6.5): the process that connected, pinned at connect.
    PeerPidfd,
    /// `PIDFD_GET_INFO` (6.13): ids of a pinned process without `/proc`.
    PidfdInfo,
    /// Handles of pidfds that can be opened again (6.18): holders are found after a restart of the daemon.
    PidfdHandle,
}

/// What is there. Only `probe` makes one, and features can only be taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// See [`Feature::PeerPidfd`].
    pub peer_pidfd: bool,
    /// See [`Feature::PidfdInfo`].
    pub pidfd_info: bool,
    /// See [`Feature::PidfdHandle`].
    pub pidfd_handle: bool,
}

impl Kernel {
    /// Connects to itself and asks. An error means that nothing can be attested on this kernel at all.
    pub fn probe() -> io::Result<Kernel> {
        let (one, _other) = UnixStream::pair()?;
        let me = std::process::id();
        if peer::peer_cred(&one)?.pid != me {
            return Err(io::Error::other("the kernel does not tell our own process id as a peer's"));
        }
        let own = Pidfd::open(me)?;
        if !own.is_alive() {
            return Err(io::Error::other("a pidfd of this living process reads as dead"));
        }
        let peer_pidfd = there(peer::peer_pidfd(&one))?.is_some_and(|pidfd| pidfd.is_alive());
        let pidfd_info = there(own.info())?.is_some_and(|info| info.pid == me);
        let pidfd_handle = own.handle().is_some_and(|handle| matches!(Pidfd::find(handle), Found::Alive(_)));
        Ok(Kernel { peer_pidfd, pidfd_info, pidfd_handle })
    }

    /// The same kernel with a feature taken away, as an older one would be.
    pub fn without(mut self, features: &[Feature]) -> Kernel {
        for feature in features {
            match feature {
                Feature::PeerPidfd => self.peer_pidfd = false,
                Feature::PidfdInfo => self.pidfd_info = false,
                Feature::PidfdHandle => self.pidfd_handle = false,
            }
        }
        self
    }

    /// The same kernel, where another process opens handles for this one, or cannot.
    pub fn handles_found_elsewhere(mut self, found: bool) -> Kernel {
        let own = Pidfd::open(std::process::id()).ok().and_then(|own| own.handle());
        self.pidfd_handle = found && own.is_some();
        self
    }

    /// One line for people: the tier and what it loses.
    pub fn tier(&self) -> &'static str {
        match (self.peer_pidfd, self.pidfd_info, self.pidfd_handle) {
            (true, true, true) => "full: processes pinned at connect, found again after a restart",
            (true, true, false) => "pinned: processes pinned at connect; holders are not found again after a restart",
            (true, false, _) => "pinned, ids from /proc: processes pinned at connect; holders are not found again after a restart",
            (false, ..) => "nonce: a request must be repeated with a nonce on its connection; plain HTTP clients reach uid only",
        }
    }
}

/// Nothing where the kernel does not know the call. That it is short of something says nothing about what it knows.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if is_passing_io(&error) => Err(error),
        found => Ok(found.ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_and_narrows() {
        let kernel = Kernel::probe().unwrap();
        let old = kernel.without(&[Feature::PeerPidfd, Feature::PidfdInfo, Feature::PidfdHandle]);
        assert!(!old.peer_pidfd && !old.pidfd_info && !old.pidfd_handle);
        assert!(old.tier().starts_with("nonce"));
    }
}
