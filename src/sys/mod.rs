//! The kernel: peers, processes, files, clocks, systemd. The only home of `nix`, `libc` and `unsafe`.

pub mod append;
mod clock;
mod journal;
#[cfg(any(test, feature = "testing"))]
mod simulated;
mod storage;

pub use clock::{Clock, ManualClock, SystemClock};
pub use journal::{JOURNAL_SOCKET, SYSLOG_SOCKET, send_journal, send_syslog};
#[cfg(any(test, feature = "testing"))]
pub use simulated::{Fault, SimulatedVolume};
pub use storage::{DiskVolume, Keep, Space, Storage, Volume};
