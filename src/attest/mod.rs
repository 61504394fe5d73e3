//! Peer to `Workload`: who is asking.

mod facts;
mod workload;

pub use facts::{Ancestor, Exe, Facts, Login, Unit};
pub use workload::{Basis, Workload};
