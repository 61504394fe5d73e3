//! What may stand in a record beside the words of the model: short checked words, lines, and objects of types that were admitted by name.

use crate::model::{Line, Refusal};
use serde::{Serialize, Serializer};
use std::io;

/// Types whose JSON may stand in a record. Implementing it says: no value of this type can hold a secret byte.
pub trait Recordable: Serialize {}

/// A JSON value made from a [`Recordable`]: there is no way to make one from loose text.
#[derive(Clone, Debug)]
pub struct Facts(std::sync::Arc<serde_json::value::RawValue>);

/// The value has no JSON form (a map with keys that are not text).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value for the audit record has no JSON form")]
pub struct NoJson;

impl Facts {
    /// Writes the value down now, as printable ASCII.
    pub fn of<T: Recordable>(value: &T) -> Result<Facts, NoJson> {
        let text = String::from_utf8(to_ascii_json(value)?).map_err(|_| NoJson)?;
        serde_json::value::RawValue::from_string(text).map(|raw| Facts(raw.into())).map_err(|_| NoJson)
    }
}

impl Serialize for Facts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

/// A name that is not one of the model's: a policy's id, a grant's, a person's, a boot id. Letters, digits and `._:/@#+-` only.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Word(Box<str>);

/// Not a word for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 128 letters, digits or ._:/@#+-")]
pub struct WordError;

impl Word {
    /// Takes the text as it is, or refuses it.
    pub fn parse(text: &str) -> Result<Word, WordError> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@#+-".contains(&b));
        if fits { Ok(Word(text.into())) } else { Err(WordError) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One sentence for operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sentence(Box<str>);

/// The most characters of a refusal's detail that a record keeps.
pub const MAX_DETAIL: usize = 4000;

impl Sentence {
    /// The detail of a refusal, cut to `MAX_DETAIL` characters. Refusals hold no secret by their own contract.
    pub fn of_refusal(refusal: &Refusal) -> Option<Sentence> {
        refusal.detail.as_ref().map(|text| Sentence(text.chars().take(MAX_DETAIL).collect::<String>().into_boxed_str()))
    }
}

impl From<&'static str> for Sentence {
    fn from(text: &'static str) -> Self {
        Sentence(text.into())
    }
}

impl From<&Line> for Sentence {
    fn from(line: &Line) -> Self {
        Sentence(line.as_str().into())
    }
}

impl From<crate::sys::append::AppendError> for Sentence {
    fn from(error: crate::sys::append::AppendError) -> Self {
        Sentence(error.to_string().into_boxed_str())
    }
}

/// JSON in which every character outside printable ASCII is escaped: a line stays a line on any screen.
pub(super) fn to_ascii_json<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, NoJson> {
    let mut out = Vec::with_capacity(512);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Ascii)).map_err(|_| NoJson)?;
    Ok(out)
}

struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(|c: char| !matches!(c, ' '..='~')) {
            writer.write_all(&rest.as_bytes()[..at])?;
            // `at` was found, so a character stands there.
            let Some(c) = rest[at..].chars().next() else { break };
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = &rest[at + c.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_raw_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // Only `Facts` is written so, and it was made by this very formatter.
        writer.write_all(fragment.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Serialize)]
    struct Anything(String);
    impl Recordable for Anything {}

    proptest! {
        #[test]
        fn any_text_becomes_printable_and_comes_back(text in any::<String>()) {
            let json = to_ascii_json(&Facts::of(&Anything(text.clone())).unwrap()).unwrap();
            prop_assert!(json.iter().all(|b| matches!(b, 0x20..=0x7e)));
            prop_assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
        }
    }

    #[test]
    fn words_are_plain() {
        assert!(Word::parse("policy.d/orders.cedar#3").is_ok());
        for bad in ["", "a b", "a\"b", "a\nb", "ä"] {
            assert_eq!(Word::parse(bad), Err(WordError), "{bad:?}");
        }
    }
}
