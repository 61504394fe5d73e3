//! Ids that sort by the time they were made.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use ulid::{ULID_LEN, Ulid};

/// Not an id of this kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an id of this kind")]
pub struct IdError;

/// The one spelling that we write: lower case.
fn written(id: Ulid, buffer: &mut [u8; ULID_LEN]) -> &str {
    let text = id.array_to_str(buffer);
    text.make_ascii_lowercase();
    text
}

macro_rules! ids {
    ($($(#[$doc:meta])* $type:ident, $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $type(Ulid);

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl $type {
            /// Made from the wall clock in milliseconds and 80 random bits: ascending, not guessable.
            pub fn from_parts(unix_ms: u64, random: u128) -> Self {
                Self(Ulid::from_parts(unix_ms, random))
            }

            /// Parses the one canonical spelling.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let body = text.strip_prefix($prefix).ok_or(IdError)?;
                let id = Ulid::from_string(body).map_err(|_| IdError)?;
                // The alphabet accepts several spellings of one number; only the one we write is an id.
                if written(id, &mut [0; ULID_LEN]) == body { Ok(Self(id)) } else { Err(IdError) }
            }

            /// When it was made: wall clock, milliseconds since 1970.
            pub fn unix_ms(&self) -> u64 {
                self.0.timestamp_ms()
            }

            /// The 16 bytes, big-endian, sorting like the id.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }

            /// The id without its prefix: 26 characters of `0-9a-z`, fit for an upstream object's name.
            pub fn bare(&self) -> String {
                written(self.0, &mut [0; ULID_LEN]).to_owned()
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                f.write_str(written(self.0, &mut [0; ULID_LEN]))
            }
        }

        impl TryFrom<String> for $type {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl std::str::FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

    )*};
}

ids! {
    /// One lease.
    LeaseId, "lease-";
    /// One request; every answer and every record carries it, and `clav why` takes it.
    RequestId, "req-";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_only_and_ascending() {
        let id = LeaseId::from_parts(1_700_000_000_000, 7);
        let text = id.to_string();
        assert_eq!(LeaseId::parse(&text), Ok(id));
        assert!(LeaseId::parse(&text.to_uppercase()).is_err());
        assert!(LeaseId::parse(&text.replace('0', "o")).is_err());
        assert!(RequestId::parse(&text).is_err());
        assert!(LeaseId::from_parts(1_700_000_000_001, 0).to_string() > text);
    }
}
