//! The kernel: peers, processes, files, clocks, systemd. The only home of `nix`, `libc` and `unsafe`.

mod clock;
mod file;

pub use clock::{Clock, ManualClock, SystemClock};
pub use file::{FileError, FileLock, file_names, private_folder, read_private, write_atomic};
