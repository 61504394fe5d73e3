//! Values of a KV store that are made here: a new version in which one member has another value and all others are as they were.

use super::{
    super::EngineError,
    kv::{KvStore, Version},
    session::Token,
    settings::{Kv, Pick},
};
use crate::{digest::Random, model::SecretBytes};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use zeroize::Zeroizing;

/// How a value is made.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Generate {
    #[serde(default = "usual_length")]
    length: usize,
    #[serde(default)]
    alphabet: Alphabet,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Alphabet {
    #[default]
    Alphanumeric,
    Hex,
    /// Letters, digits, and what shells, URLs and connection strings take as it is.
    Symbols,
}

fn usual_length() -> usize {
    40
}

impl Generate {
    /// The text names what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        // The fewest are 64 bits, in the smallest alphabet.
        if (16..=512).contains(&self.length) { Ok(()) } else { Err("generate.length must be 16 to 512".into()) }
    }

    fn value(&self, random: &dyn Random) -> SecretBytes {
        let letters: &[u8] = match self.alphabet {
            Alphabet::Alphanumeric => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            Alphabet::Hex => b"0123456789abcdef",
            Alphabet::Symbols => b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~",
        };
        // Numbers from there on would make the first letters likelier.
        let fair = 256 / letters.len() * letters.len();
        let mut out = Zeroizing::new(Vec::with_capacity(self.length));
        let mut bytes = Zeroizing::new([0; 64]);
        while out.len() < self.length {
            random.fill(&mut *bytes);
            let even = bytes.iter().map(|byte| usize::from(*byte)).filter(|number| *number < fair);
            let left = self.length - out.len();
            out.extend(even.map(|number| letters[number % letters.len()]).take(left));
        }
        SecretBytes::take_from(&mut out)
    }
}

impl KvStore {
    /// Gives one member another value, in a new version: only if the newest is still the one that was read.
    pub(super) async fn replace(&self, row: &Kv, random: &dyn Random) -> Result<Arc<Version>, EngineError> {
        let Kv { path, pick: Pick { field: Some(field), .. }, generate: Some(how), .. } = row else {
            return Err(EngineError::Setup("generate: needs field, the member that is made".into()));
        };
        let (before, mut members) = match self.fetch(path, None).await {
            Ok(version) => (version.which.number, version.members()),
            Err(EngineError::NoValue) => (0, Map::new()),
            Err(error) => return Err(error),
        };
        let value = how.value(random);
        // Letters, digits and signs of ASCII.
        let text = std::str::from_utf8(value.expose()).unwrap_or_default();
        members.insert(field.to_owned(), text.into());
        let body = match crate::mutation!("kv-check-and-set") {
            true => json!({ "data": members }),
            false => json!({ "options": { "cas": before }, "data": members }),
        };
        let (url, doing) = (self.url(path), format!("writing {}/{}", path.mount, path.path));
        let (session, body, url) = (&self.session, &body, &url);
        let write = session.with_token(&doing, async move |us: Arc<Token>| session.api.put(Some(us.expose()), url, body, false).await);
        let written = write.await?;
        // Read back: also what an answer that was lost said.
        let read = self.fetch(path, None).await;
        match (written, read) {
            (_, Ok(version)) if version.members().get(field).and_then(Value::as_str) == Some(text) => Ok(version),
            (Err(fault), _) => Err(fault.during(&doing)),
            (Ok(_), Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Err(EngineError::Refused(format!("{doing}: somebody else wrote there at the same moment"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    #[test]
    fn values_are_as_long_as_they_should_be_and_of_their_letters() {
        let random = SeededRandom::new(3);
        for (row, length, letters) in [
            (json!({}), 40, "A-Za-z0-9"),
            (json!({ "length": 64, "alphabet": "hex" }), 64, "0-9a-f"),
            (json!({ "length": 200, "alphabet": "symbols" }), 200, "A-Za-z0-9-._~"),
        ] {
            let how: Generate = serde_json::from_value(row).unwrap();
            let (one, other) = (how.value(&random), how.value(&random));
            assert!(how.check().is_ok() && one.len() == length && one.expose() != other.expose());
            let fits = |byte: &u8| match letters {
                "0-9a-f" => byte.is_ascii_digit() || (b'a'..=b'f').contains(byte),
                "A-Za-z0-9" => byte.is_ascii_alphanumeric(),
                _ => byte.is_ascii_alphanumeric() || b"-._~".contains(byte),
            };
            assert!(one.expose().iter().all(fits));
        }
        for bad in [json!({ "length": 15 }), json!({ "length": 513 })] {
            assert!(serde_json::from_value::<Generate>(bad).unwrap().check().is_err());
        }
    }

    #[test]
    fn no_letter_is_likelier_than_another() {
        let how: Generate = serde_json::from_value(json!({ "length": 500 })).unwrap();
        let random = SeededRandom::new(3);
        let mut counts = [0u32; 256];
        for _ in 0..200 {
            how.value(&random).expose().iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
        // 100,000 letters over 62: 1613 of each, give or take five deviations. Without the limit the first eight had 1953.
        assert!(counts.iter().filter(|count| **count > 0).all(|count| (1400..1830).contains(count)), "{counts:?}");
    }
}
