//! How often a value that lasts is changed at its source, and by when: pure arithmetic on the wall clock.

use super::WallTime;
use serde::Deserialize;
use std::fmt;

/// A time between two changes of a value, in whole seconds: one minute to ten years. Reads such as `"12h"` or `"90d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(u32);

impl Period {
    const MIN: u32 = 60;
    const MAX: u32 = 3_650 * 86_400;

    /// `seconds` between one minute and 3650 days.
    pub const fn from_secs(seconds: u32) -> Option<Period> {
        if seconds < Period::MIN || seconds > Period::MAX { None } else { Some(Period(seconds)) }
    }

    /// Parses a number with one of the units m, h, d.
    pub fn parse(text: &str) -> Option<Period> {
        let (digits, unit) = match text.as_bytes().last()? {
            b'm' => (&text[..text.len() - 1], 60),
            b'h' => (&text[..text.len() - 1], 3_600),
            b'd' => (&text[..text.len() - 1], 86_400),
            _ => return None,
        };
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Period::from_secs(digits.parse::<u32>().ok()?.checked_mul(unit)?)
    }

    const fn micros(self) -> u64 {
        self.0 as u64 * 1_000_000
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        f.pad(&match s {
            _ if s.is_multiple_of(86_400) => format!("{}d", s / 86_400),
            _ if s.is_multiple_of(3_600) => format!("{}h", s / 3_600),
            _ => format!("{}m", s / 60),
        })
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Period::parse(&text).ok_or_else(|| serde::de::Error::custom("must be such as \"12h\" or \"90d\", from \"1m\" to \"3650d\""))
    }
}

/// When the value of a secret is to be changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// No value is in use for longer.
    pub every: Option<Period>,
    /// Changed once more before this instant; a change in the week before it counts.
    pub by: Option<WallTime>,
}

/// When a value is changed, and from when it is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// From then on it is changed.
    pub from: WallTime,
    /// From then on it should have been.
    pub late: WallTime,
}

/// How long before `by` a change begins to count.
const NOTICE: u64 = 7 * 86_400 * 1_000_000;
/// Over how much of that time those that are due the same day are spread.
const NOTICE_SPREAD: u64 = 86_400 * 1_000_000;

impl Rotation {
    /// When a value that was made at `made` is due; `None` if never again. `spread`, from 0 to 65535, puts several that fall together apart:
    /// within the twentieth of `every` that begins a tenth before its end, or a day that begins a week before `by`. What is left until
    /// `late` is for trying again.
    pub fn due(&self, made: WallTime, spread: u16) -> Option<Due> {
        let part = |of: u64| of / 65_536 * u64::from(spread);
        let every = self.every.map(|every| {
            let micros = every.micros();
            Due {
                from: WallTime(made.0.saturating_add(micros / 10 * 9 + part(micros / 20))),
                late: WallTime(made.0.saturating_add(micros)),
            }
        });
        let by = self.by.and_then(|by| {
            let from = by.0.saturating_sub(NOTICE);
            (made.0 < from).then(|| Due { from: WallTime(from + part(NOTICE_SPREAD)), late: by })
        });
        match (every, by) {
            (Some(one), Some(other)) => Some(Due { from: one.from.min(other.from), late: one.late.min(other.late) }),
            (one, other) => one.or(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000_000;

    #[test]
    fn reads_periods_longer_than_any_lease() {
        assert_eq!(Period::parse("90d").unwrap().to_string(), "90d");
        assert_eq!(Period::parse("36h").unwrap().to_string(), "36h");
        assert_eq!(Period::parse("90m").unwrap().to_string(), "90m");
        for bad in ["", "90", "d", "0d", "59", "1s", "3651d", "-1d", "1 d", "99999999d"] {
            assert_eq!(Period::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_period_leaves_a_twentieth_of_itself_for_trying_again() {
        let rule = Rotation { every: Period::parse("100d"), by: None };
        for spread in [0, 1, 30_000, u16::MAX] {
            let due = rule.due(WallTime(DAY), spread).unwrap();
            assert_eq!(due.late, WallTime(101 * DAY));
            assert!(due.from >= WallTime(91 * DAY) && due.from <= WallTime(96 * DAY), "{due:?}");
        }
        assert!(rule.due(WallTime(DAY), 0).unwrap().from < rule.due(WallTime(DAY), u16::MAX).unwrap().from);
    }

    #[test]
    fn a_date_asks_for_one_change_in_the_week_before_it() {
        let rule = Rotation { every: None, by: Some(WallTime(100 * DAY)) };
        let due = rule.due(WallTime(50 * DAY), 0).unwrap();
        assert_eq!(due, Due { from: WallTime(93 * DAY), late: WallTime(100 * DAY) });
        assert!(rule.due(WallTime(50 * DAY), u16::MAX).unwrap().from <= WallTime(94 * DAY));
        assert_eq!(rule.due(WallTime(93 * DAY), 0), None, "that change counted");
        assert!(rule.due(WallTime(92 * DAY), 0).is_some());
    }

    #[test]
    fn of_both_the_earlier_counts() {
        let rule = Rotation { every: Period::parse("10d"), by: Some(WallTime(100 * DAY)) };
        assert_eq!(rule.due(WallTime(0), 0).unwrap().late, WallTime(10 * DAY));
        assert_eq!(rule.due(WallTime(92 * DAY), 0).unwrap().late, WallTime(100 * DAY));
        assert_eq!(Rotation::default().due(WallTime(0), 0), None);
    }
}
