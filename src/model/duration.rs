//! Durations and instants. `BootTime` decides expiry; `WallTime` is for people, and only ever shortens.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A time to live in whole seconds, 1 s to 30 days. Reads `90`, `90s`, `15m`, `12h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Ttl(u32);

impl Ttl {
    /// The longest that is ever given.
    pub const MAX: Ttl = Ttl(30 * 86_400);

    /// `seconds` between 1 and 30 days.
    pub const fn from_secs(seconds: u32) -> Option<Ttl> {
        if seconds == 0 || seconds > Ttl::MAX.0 { None } else { Some(Ttl(seconds)) }
    }

    /// Whole seconds.
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// Parses a number of seconds, or a number with one of the units s, m, h, d.
    pub fn parse(text: &str) -> Option<Ttl> {
        let (digits, unit) = match text.as_bytes().last()? {
            b's' => (&text[..text.len() - 1], 1),
            b'm' => (&text[..text.len() - 1], 60),
            b'h' => (&text[..text.len() - 1], 3_600),
            b'd' => (&text[..text.len() - 1], 86_400),
            _ => (text, 1),
        };
        if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        Ttl::from_secs(digits.parse::<u32>().ok()?.checked_mul(unit)?)
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = self.0;
        let text = match s {
            _ if s.is_multiple_of(86_400) => format!("{}d", s / 86_400),
            _ if s.is_multiple_of(3_600) => format!("{}h", s / 3_600),
            _ if s.is_multiple_of(60) => format!("{}m", s / 60),
            _ => format!("{s}s"),
        };
        f.pad(&text)
    }
}

impl<'de> Deserialize<'de> for Ttl {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Ttl;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("seconds between 1 and 2592000, or such as \"15m\", \"12h\"")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Ttl, E> {
                u32::try_from(v).ok().and_then(Ttl::from_secs).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(v), &self))
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Ttl, E> {
                u64::try_from(v).map_err(|_| E::invalid_value(serde::de::Unexpected::Signed(v), &self)).and_then(|v| self.visit_u64(v))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Ttl, E> {
                Ttl::parse(v).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Other("such text"), &self))
            }
        }
        from.deserialize_any(Visitor)
    }
}

/// An instant of `CLOCK_BOOTTIME` in microseconds: it counts through suspend and nobody can set it. Valid within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This instant plus a time to live.
    pub const fn plus(self, ttl: Ttl) -> BootTime {
        BootTime(self.0.saturating_add(ttl.as_secs() as u64 * 1_000_000))
    }

    /// Microseconds from `earlier` to here, 0 if it is later.
    pub const fn since(self, earlier: BootTime) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// An instant of the wall clock in microseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WallTime(pub u64);

impl WallTime {
    /// This instant plus a time to live.
    pub const fn plus(self, ttl: Ttl) -> WallTime {
        WallTime(self.0.saturating_add(ttl.as_secs() as u64 * 1_000_000))
    }

    /// Milliseconds since 1970.
    pub const fn unix_ms(self) -> u64 {
        self.0 / 1_000
    }

    /// Seconds since 1970.
    pub const fn unix_secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// RFC 3339 in UTC with microseconds.
    pub fn rfc3339(self) -> String {
        chrono::DateTime::from_timestamp_micros(self.0 as i64).unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
    }

    /// Parses RFC 3339, or a date alone (its midnight, UTC).
    pub fn parse(text: &str) -> Option<WallTime> {
        // The library takes years with a sign and more digits, which RFC 3339 does not have.
        if !(text.as_bytes().first().is_some_and(u8::is_ascii_digit) && text.find('-') == Some(4)) {
            return None;
        }
        let micros = match chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d") {
            Ok(date) => date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_micros(),
            Err(_) => chrono::DateTime::parse_from_rfc3339(text).ok()?.timestamp_micros(),
        };
        u64::try_from(micros).ok().map(WallTime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_durations() {
        assert_eq!(Ttl::parse("15m").unwrap().as_secs(), 900);
        assert_eq!(Ttl::parse("90").unwrap().to_string(), "90s");
        assert_eq!(Ttl::parse("12h").unwrap().to_string(), "12h");
        for bad in ["", "0", "-1", "m", "1w", "1 h", "31d", "99999999d", "１"] {
            assert_eq!(Ttl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn reads_dates() {
        assert_eq!(WallTime::parse("1970-01-02"), Some(WallTime(86_400_000_000)));
        assert_eq!(WallTime(86_400_000_000).rfc3339(), "1970-01-02T00:00:00.000000Z");
        assert_eq!(WallTime::parse("1969-01-01"), None);
        assert_eq!(WallTime::parse("tomorrow"), None);
        assert_eq!(WallTime::parse("+026026-11-25"), None);
        assert_eq!(WallTime::parse("26026-11-25T00:00:00Z"), None);
    }
}
