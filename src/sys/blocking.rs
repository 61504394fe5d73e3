//! Work that may take long, kept from holding up others.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs what may block. On a thread of the daemon's runtime, the other tasks of that thread go on elsewhere meanwhile.
pub fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
