//! How long ago a call was, for certain: a clock that is set wrong must call no token dead that lives.
//!
//! Within one boot both clocks have to say so: the wall clock is set by people and time servers, the other one counts a suspend as long as the
//! hardware's clock says. A wall clock that stands before the call was set back and says nothing. After another boot nobody counted what lies
//! between: certain is the time since this daemon began, and the wall clock is believed for what it says beyond a day.

use crate::{
    model::{BootTime, WallTime},
    sys::Clock,
};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};

/// After another boot the wall clock may be ahead by so much, in microseconds: a hardware clock that keeps local time is, by fourteen hours.
const AHEAD: u64 = 86_400_000_000;

/// Where `CLOCK_BOOTTIME` stood, and in which boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Booted {
    pub(super) id: Arc<str>,
    pub(super) at: BootTime,
}

/// A moment on both clocks; notes of the first format have the wall clock's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) wall: WallTime,
    pub(super) booted: Option<Booted>,
}

/// Both clocks of one daemon.
pub(super) struct Clocks {
    clock: Arc<dyn Clock>,
    boot_id: Arc<str>,
    began: BootTime,
}

impl Clocks {
    /// Of a daemon that begins now, in this boot.
    pub(super) fn new(clock: Arc<dyn Clock>, boot_id: Arc<str>) -> Self {
        let began = clock.boot();
        Self { clock, boot_id, began }
    }

    pub(super) fn now(&self) -> Moment {
        Moment { wall: self.clock.wall(), booted: Some(Booted { id: self.boot_id.clone(), at: self.clock.boot() }) }
    }

    /// How long ago that was at least, in whole microseconds.
    pub(super) fn since(&self, then: &Moment) -> Duration {
        let (boot, wall) = (self.clock.boot(), self.clock.wall().0.checked_sub(then.wall.0));
        if crate::mutation!("bearer-clocks") {
            return Duration::from_micros(wall.unwrap_or(0));
        }
        Duration::from_micros(match &then.booted {
            Some(booted) if booted.id == self.boot_id => {
                let counted = boot.since(booted.at);
                wall.map_or(counted, |wall| wall.min(counted))
            }
            // Whoever made the call was a daemon before this one.
            _ => boot.since(self.began).max(wall.unwrap_or(0).saturating_sub(AHEAD)),
        })
    }

    /// Whether the wall clock alone says for certain that a moment is so long over.
    pub(super) fn is_over(&self, at: WallTime, by: Duration) -> bool {
        self.clock.wall().0.checked_sub(at.0).is_some_and(|passed| u128::from(passed) > by.as_micros() + u128::from(AHEAD))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::ManualClock;

    const SECOND: u64 = 1_000_000;
    const HOUR: u64 = 3_600 * SECOND;
    const NOW: u64 = 1_800_000_000 * SECOND;

    fn clocks(clock: &Arc<ManualClock>, boot: &str) -> Clocks {
        Clocks::new(clock.clone(), boot.into())
    }

    fn hours(clocks: &Clocks, then: &Moment) -> f64 {
        clocks.since(then).as_secs_f64() / 3600.0
    }

    #[test]
    fn within_a_boot_both_clocks_say_so() {
        let clock = Arc::new(ManualClock::new(HOUR, NOW));
        let ours = clocks(&clock, "this");
        let then = ours.now();
        clock.step_wall(NOW + 20 * HOUR);
        assert_eq!(hours(&ours, &then), 0.0, "set ahead");
        clock.step_wall(NOW);
        clock.advance(2 * HOUR);
        assert_eq!(hours(&ours, &then), 2.0);
        clock.step_wall(NOW + HOUR);
        assert_eq!(hours(&ours, &then), 1.0, "set back");
        clock.step_wall(NOW - HOUR);
        assert_eq!(hours(&ours, &then), 2.0, "before the call: it says nothing");
        // A daemon that begins later in this boot knows as much.
        clock.step_wall(NOW + 2 * HOUR);
        assert_eq!(hours(&clocks(&clock, "this"), &then), 2.0);
        // One whose clock stands before (a time namespace) waits.
        let before = Arc::new(ManualClock::new(SECOND, NOW + 2 * HOUR));
        assert_eq!(hours(&clocks(&before, "this"), &then), 0.0);
    }

    #[test]
    fn after_another_boot_the_wall_clock_is_believed_beyond_a_day() {
        let clock = Arc::new(ManualClock::new(0, NOW + 20 * HOUR));
        let then = Moment { wall: WallTime(NOW), booted: Some(Booted { id: "before".into(), at: BootTime(7 * HOUR) }) };
        // Of a daemon that did not write down the other clock.
        let old = Moment { booted: None, ..then.clone() };
        for then in [then, old] {
            clock.step_wall(NOW + 20 * HOUR);
            let ours = clocks(&clock, "this");
            assert_eq!(hours(&ours, &then), 0.0);
            clock.advance(2 * HOUR);
            assert_eq!(hours(&ours, &then), 2.0, "so long it is at least");
            clock.step_wall(NOW - 2 * HOUR);
            assert_eq!(hours(&ours, &then), 2.0, "whatever the wall clock says");
            clock.step_wall(NOW + 30 * HOUR);
            assert_eq!(hours(&ours, &then), 6.0);
        }
        let ours = clocks(&clock, "this");
        let over = |hours: u64| ours.is_over(WallTime(NOW + 30 * HOUR - hours * HOUR), Duration::from_secs(300));
        assert_eq!((over(0), over(24), over(25)), (false, false, true));
        assert!(!ours.is_over(WallTime(NOW + 31 * HOUR), Duration::ZERO));
    }
}
