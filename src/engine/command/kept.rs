//! What is kept of a secret whose value lasts: the version that is given, the one before, the one that is being set, and those that are still to
//! be taken back.

use super::super::{EngineError, Members, lasting};
use crate::{
    digest::Random,
    model::{SecretBytes, WallTime},
};
use base64::{Engine as _, display::Base64Display, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value as Json};
use zeroize::Zeroizing;

/// The highest number of a version: names have room for thirteen digits.
pub(super) const NUMBER_MAX: u64 = 9_999_999_999_999;

/// A version.
pub(super) struct Value {
    pub(super) version: u64,
    /// When it was seen to work for the first time; until then, when it was begun.
    pub(super) made: WallTime,
    pub(super) value: SecretBytes,
    pub(super) attributes: Members,
    pub(super) reference: Members,
    /// Whether the program's answer about it was heard: what stands beside it is known.
    pub(super) heard: bool,
    /// Whether it was set beside the one before, under a name of its own, or in its place.
    pub(super) overlap: bool,
    /// What the definition allowed and said when it was begun, as a digest.
    pub(super) terms: String,
    /// The definition's parameters of then.
    pub(super) parameters: Map<String, Json>,
}

/// What a program answered when it set a version: its value, and what stands beside it.
pub(super) type Heard = (SecretBytes, Members, Members);

/// The versions of one secret.
pub(super) type Kept = lasting::Kept<Value>;

/// The versions of all secrets of one engine.
pub(super) type Values = lasting::Shelf<Value>;

/// What a definition says about a version that is begun now.
pub(super) struct Terms<'a> {
    pub(super) digest: String,
    pub(super) overlap: bool,
    pub(super) parameters: &'a Map<String, Json>,
}

impl Kept {
    pub(super) fn all(&self) -> impl Iterator<Item = &Value> {
        [&self.current, &self.previous, &self.pending].into_iter().flatten().chain(&self.retired)
    }

    /// The highest number there is.
    pub(super) fn last(&self) -> u64 {
        self.all().map(|value| value.version).max().unwrap_or(0).max(self.past)
    }

    /// Makes the next version, to be set: 256 random bits.
    pub(super) fn begin(&mut self, above: u64, terms: &Terms<'_>, made: WallTime, random: &dyn Random) -> Result<(), EngineError> {
        let last = self.last().max(above);
        let version = Some(last).filter(|last| *last < NUMBER_MAX).map(|last| last + 1);
        let version = version.ok_or_else(|| EngineError::Setup(format!("there is no number after {last}")))?;
        let (attributes, reference) = Default::default();
        let (overlap, terms, parameters) = (terms.overlap, terms.digest.clone(), terms.parameters.clone());
        let value = lasting::random_value(random);
        self.pending = Some(Value { version, made, value, attributes, reference, heard: false, overlap, terms, parameters });
        Ok(())
    }

    /// The version that was tried is given from now on. The one before is kept if it works beside it, and is to be taken back if it does and
    /// should not.
    pub(super) fn promote(&mut self, made: WallTime, before_works: bool) {
        let Some(mut pending) = self.pending.take() else { return };
        pending.made = made;
        let overlap = pending.overlap;
        match self.current.replace(pending) {
            Some(before) if overlap && before_works => self.previous = Some(before),
            // In its place nothing is left of it, unless it had a name of its own.
            Some(before) if before.overlap && before_works => self.retired.push(before),
            _ => {}
        }
    }

    /// Nothing is given any more: all of it is to be taken back. Whether there was anything that was not.
    pub(super) fn retire_all(&mut self) -> bool {
        let given = [self.current.take(), self.previous.take(), self.pending.take()];
        let before = self.retired.len();
        self.retired.extend(given.into_iter().flatten());
        self.retired.len() > before
    }

    /// A version was taken back. Its number is never another's: a program that still ends it would end that.
    pub(super) fn part_from(&mut self, version: u64) {
        self.past = self.last();
        self.retired.retain(|value| value.version != version);
    }

    /// What the program answered about the one that is being set.
    pub(super) fn hear(&mut self, (value, attributes, reference): Heard) {
        self.pending = self.pending.take().map(|pending| Value { value, attributes, reference, heard: true, ..pending });
    }

    /// A version that can still be given. After an older state was put back a number may stand for another value, with another moment.
    pub(super) fn find(&self, version: u64, made: WallTime) -> Option<&Value> {
        [&self.current, &self.previous].into_iter().flatten().find(|value| value.version == version && value.made == made)
    }

    /// Whether a message about one of them may give a piece of any away, also as it is told; of one whose value is not known, any message may.
    pub(super) fn is_told_by(&self, number: u64, message: &[u8]) -> bool {
        let is_unknown = |value: &Value| value.value.is_empty();
        self.all().any(is_unknown)
            || !self.all().any(|value| value.version == number)
            || self.all().any(|value| {
                let told = Zeroizing::new(STANDARD.encode(value.value.expose()));
                super::given::holds_some(message, value.value.expose()) || super::given::holds_some(message, told.as_bytes())
            })
    }
}

/// As it is written into the store.
#[derive(Serialize)]
pub(super) struct Row<'a> {
    version: u64,
    made: WallTime,
    #[serde(serialize_with = "base64")]
    value: Option<&'a SecretBytes>,
    attributes: Option<&'a Members>,
    reference: &'a Members,
    heard: bool,
    overlap: bool,
    terms: &'a str,
    parameters: &'a Map<String, Json>,
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
    attributes: Option<Members>,
    reference: Members,
    heard: bool,
    overlap: bool,
    terms: String,
    parameters: Map<String, Json>,
}

fn base64<S: Serializer>(value: &Option<&SecretBytes>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Base64Display::new(value.map_or(&[], |value| value.expose()), &STANDARD))
}

impl lasting::Lasts for Value {
    type Row<'a> = Row<'a>;
    type Read<'a> = Read<'a>;

    fn row(&self) -> Row<'_> {
        let Self { version, made, value, attributes, reference, heard, overlap, terms, parameters } = self;
        let (value, attributes) = (Some(value), Some(attributes));
        Row { version: *version, made: *made, value, attributes, reference, heard: *heard, overlap: *overlap, terms, parameters }
    }

    fn retired(&self) -> Row<'_> {
        // Whether one that stood in a place of others was replaced there is found out by trying it.
        let value = Some(&self.value).filter(|_| !self.overlap);
        Row { value, attributes: None, ..self.row() }
    }

    fn of(row: Read<'_>) -> Option<Self> {
        let Read { version, made, value, attributes, reference, heard, overlap, terms, parameters } = row;
        let value = SecretBytes::new(STANDARD.decode(value).ok()?);
        Some(Self { version, made, value, attributes: attributes.unwrap_or_default(), reference, heard, overlap, terms, parameters })
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

    fn begun(kept: &mut Kept, above: u64, overlap: bool) -> Result<(), EngineError> {
        let parameters = Map::new();
        kept.begin(above, &Terms { digest: "t".into(), overlap, parameters: &parameters }, WallTime(1), &SeededRandom::new(1))
    }

    /// Numbers of current, previous and what is to be taken back.
    fn numbers(kept: &Kept) -> (Option<u64>, Option<u64>, Vec<u64>) {
        let of = |value: &Option<Value>| value.as_ref().map(|value| value.version);
        (of(&kept.current), of(&kept.previous), kept.retired.iter().map(|value| value.version).collect())
    }

    #[test]
    fn the_one_before_is_kept_where_both_are_good_and_taken_back_where_it_should_not_be() {
        for (overlaps, before_works, wanted) in [
            ([true, true], true, (Some(2), Some(1), vec![])),
            ([true, true], false, (Some(2), None, vec![])),
            ([false, false], false, (Some(2), None, vec![])),
            ([true, false], true, (Some(2), None, vec![1])),
            ([true, false], false, (Some(2), None, vec![])),
            ([false, true], true, (Some(2), Some(1), vec![])),
        ] {
            let mut kept = Kept::default();
            for (n, overlap) in overlaps.into_iter().enumerate() {
                begun(&mut kept, 0, overlap).unwrap();
                assert!(kept.find(n as u64 + 1, WallTime(1)).is_none(), "what was not tried is not given");
                kept.promote(WallTime(10 + n as u64), before_works);
            }
            assert_eq!(numbers(&kept), wanted, "{overlaps:?} {before_works}");
            assert!(kept.find(2, WallTime(11)).is_some() && kept.find(2, WallTime(10)).is_none());
            for retired in &kept.retired {
                let text = serde_json::to_string(&retired.retired()).unwrap();
                assert!(
                    Value::of(serde_json::from_str(&text).unwrap()).unwrap().value.is_empty(),
                    "a value that is given no more is not kept"
                );
            }
        }
    }

    #[test]
    fn numbers_are_above_what_the_source_has_and_come_to_an_end() {
        let mut kept = Kept::default();
        begun(&mut kept, 9, true).unwrap();
        assert_eq!(kept.pending.as_ref().unwrap().version, 10);
        kept.pending = None;
        assert!(begun(&mut kept, NUMBER_MAX - 1, true).is_ok() && begun(&mut kept, 0, true).is_err());
    }

    #[test]
    fn any_bytes_are_kept_and_told() {
        for (bytes, is_text) in [(&b"plain \"text\""[..], true), (b"two\nlines", false), (b"\xff\x00", false)] {
            assert_eq!(matches!(Told::of(&SecretBytes::new(bytes.to_vec())), Told::Text(_)), is_text);
            let mut kept = Kept::default();
            begun(&mut kept, 0, true).unwrap();
            let mut value = kept.pending.take().unwrap();
            value.value = SecretBytes::new(bytes.to_vec());
            let text = serde_json::to_string(&value.row()).unwrap();
            assert_eq!(Value::of(serde_json::from_str(&text).unwrap()).unwrap().value.expose(), bytes);
        }
    }

    #[test]
    fn a_value_is_known_in_a_message_as_it_is_and_as_it_was_told() {
        let mut kept = Kept::default();
        begun(&mut kept, 0, true).unwrap();
        kept.pending.as_mut().unwrap().value = SecretBytes::new(b"-----BEGIN\nsomething".to_vec());
        for (message, is_told) in [("cannot try -----BEGIN", true), ("cannot try LS0tLS1CRUdJTg", true), ("cannot try it", false)] {
            assert_eq!(kept.is_told_by(1, message.as_bytes()), is_told, "{message}");
        }
    }
}
