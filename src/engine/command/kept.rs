//! What is kept of a secret whose value lasts: the version that is given, the one before, and the one that is being set.

use super::super::{Members, lasting};
use crate::{
    digest::Random,
    model::{SecretBytes, WallTime},
};
use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, Serializer};
use zeroize::Zeroizing;

/// A version.
pub(super) struct Value {
    pub(super) version: u64,
    pub(super) made: WallTime,
    pub(super) value: SecretBytes,
    pub(super) attributes: Members,
    pub(super) reference: Members,
}

/// The versions of one secret.
pub(super) type Kept = lasting::Kept<Value>;

/// The versions of all secrets of one engine.
pub(super) type Values = lasting::Shelf<Value>;

impl Kept {
    fn all(&self) -> impl Iterator<Item = &Value> {
        [&self.current, &self.previous, &self.pending].into_iter().flatten()
    }

    /// Makes the next version, to be set: 256 random bits.
    pub(super) fn begin(&mut self, above: u64, made: WallTime, random: &dyn Random) {
        let version = self.all().map(|value| value.version).max().unwrap_or(0).max(above) + 1;
        let (attributes, reference) = Default::default();
        self.pending = Some(Value { version, made, value: lasting::random_value(random), attributes, reference });
    }

    /// The version that was tried is given from now on.
    pub(super) fn promote(&mut self, overlaps: bool) {
        let Some(pending) = self.pending.take() else { return };
        self.previous = self.current.replace(pending).filter(|_| overlaps);
    }

    /// A version that can still be given.
    pub(super) fn find(&self, version: u64) -> Option<&Value> {
        [&self.current, &self.previous].into_iter().flatten().find(|value| value.version == version)
    }
}

/// As it is written into the store.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    version: u64,
    made: WallTime,
    #[serde(serialize_with = "base64")]
    value: &'a SecretBytes,
    attributes: &'a Members,
    reference: &'a Members,
}

/// As it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Read<'a> {
    version: u64,
    made: WallTime,
    /// Base64 is never escaped, so it is never copied on its way.
    #[serde(borrow)]
    value: &'a str,
    attributes: Members,
    reference: Members,
}

fn base64<S: Serializer>(value: &SecretBytes, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Base64Display::new(value.expose(), &STANDARD))
}

impl lasting::Lasts for Value {
    type Row<'a> = Row<'a>;
    type Read<'a> = Read<'a>;

    fn row(&self) -> Row<'_> {
        let Self { version, made, value, attributes, reference } = self;
        Row { version: *version, made: *made, value, attributes, reference }
    }

    fn of(row: Read<'_>) -> Option<Self> {
        let Read { version, made, value, attributes, reference } = row;
        Some(Self { version, made, value: SecretBytes::new(STANDARD.decode(value).ok()?), attributes, reference })
    }
}

/// How a program is told a value: as text, or in base64 what is none.
pub(super) enum Told<'a> {
    Nothing,
    Text(&'a str),
    Base64(Zeroizing<String>),
}

impl<'a> Told<'a> {
    pub(super) fn of(value: &'a SecretBytes) -> Self {
        match std::str::from_utf8(value.expose()) {
            Ok(text) if !text.contains(char::is_control) => Told::Text(text),
            _ => Told::Base64(Zeroizing::new(STANDARD.encode(value.expose()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{digest::SeededRandom, engine::lasting::Lasts};

    #[test]
    fn the_one_before_is_kept_where_it_goes_on_working() {
        let random = SeededRandom::new(1);
        for (overlaps, before) in [(true, Some(1)), (false, None)] {
            let mut kept = Kept::default();
            kept.begin(0, WallTime(1), &random);
            assert!(kept.find(1).is_none(), "what was not tried is not given");
            kept.promote(overlaps);
            kept.begin(0, WallTime(2), &random);
            assert!(kept.find(1).is_some() && kept.find(2).is_none());
            kept.promote(overlaps);
            assert_eq!((kept.find(1).map(|value| value.version), kept.find(2).is_some()), (before, true));
            kept.begin(9, WallTime(3), &random);
            assert_eq!(kept.pending.as_ref().unwrap().version, 10, "above what the source has");
        }
    }

    #[test]
    fn any_bytes_are_kept_and_told() {
        for (bytes, is_text) in [(&b"plain \"text\""[..], true), (b"two\nlines", false), (b"\xff\x00", false)] {
            let value = SecretBytes::new(bytes.to_vec());
            assert_eq!(matches!(Told::of(&value), Told::Text(_)), is_text);
            let value = Value { version: 1, made: WallTime(1), value, attributes: Members::default(), reference: Members::default() };
            let text = serde_json::to_string(&value.row()).unwrap();
            assert_eq!(Value::of(serde_json::from_str(&text).unwrap()).unwrap().value.expose(), bytes);
        }
    }
}
