//! The kernel: peers, processes, files, clocks, systemd. The only home of `nix`, `libc` and `unsafe`.

mod clock;

pub use clock::{Clock, ManualClock, SystemClock};
