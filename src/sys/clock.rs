//! Clocks as parameters: `CLOCK_BOOTTIME` for deadlines, `CLOCK_REALTIME` for people.

use crate::model::{BootTime, WallTime};
use nix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the time comes from.
pub trait Clock: Send + Sync {
    /// Microseconds since boot, suspend included.
    fn boot(&self) -> BootTime;
    /// Microseconds since 1970.
    fn wall(&self) -> WallTime;
}

/// The kernel's clocks.
#[derive(Clone, Copy, Default)]
pub struct SystemClock;

fn micros(id: ClockId) -> u64 {
    // clock_gettime(2) fails only for unknown clocks; both exist since Linux 2.6.39.
    let t = clock_gettime(id).expect("the kernel has this clock");
    t.tv_sec() as u64 * 1_000_000 + t.tv_nsec() as u64 / 1_000
}

impl Clock for SystemClock {
    fn boot(&self) -> BootTime {
        BootTime(micros(ClockId::CLOCK_BOOTTIME))
    }
    fn wall(&self) -> WallTime {
        WallTime(micros(ClockId::CLOCK_REALTIME))
    }
}

/// A clock that stands still until it is moved, for tests.
pub struct ManualClock {
    boot: AtomicU64,
    wall: AtomicU64,
}

impl ManualClock {
    /// Starts at these microseconds.
    pub fn new(boot: u64, wall: u64) -> Self {
        Self { boot: AtomicU64::new(boot), wall: AtomicU64::new(wall) }
    }

    /// Both clocks go on by this many microseconds.
    pub fn advance(&self, micros: u64) {
        self.boot.fetch_add(micros, Ordering::SeqCst);
        self.wall.fetch_add(micros, Ordering::SeqCst);
    }

    /// Somebody sets the wall clock.
    pub fn step_wall(&self, to: u64) {
        self.wall.store(to, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn boot(&self) -> BootTime {
        BootTime(self.boot.load(Ordering::SeqCst))
    }
    fn wall(&self) -> WallTime {
        WallTime(self.wall.load(Ordering::SeqCst))
    }
}
