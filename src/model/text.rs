//! Free text that a caller sent: one line, bounded, nothing that could change how a terminal or a log shows it.

use serde::Deserialize;
use std::sync::Arc;

/// Why a text was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    #[error("is longer than 500 characters")]
    TooLong,
    #[error("holds a control, line-breaking, bidirectional or invisible character")]
    Character,
}

/// For types whose `as_str` is what they look like everywhere: written down without a copy.
macro_rules! as_text {
    ($type:ident) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
    };
}
pub(super) use as_text;

/// At most 500 characters without control, line-breaking, bidirectional-override or invisible ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Line(Arc<str>);
as_text!(Line);

impl Line {
    /// Takes the text as it is, or refuses it.
    pub fn parse(text: &str) -> Result<Self, LineError> {
        if text.chars().count() > 500 {
            return Err(LineError::TooLong);
        }
        if text.chars().any(|c| c.is_control() || is_invisible(c)) {
            return Err(LineError::Character);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Bidirectional marks (Unicode TR 9), line and paragraph separators, zero-width, tag and other format characters.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{061C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}'
        | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFF}' | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}'
        | '\u{E0000}'..='\u{E0FFF}')
}

impl TryFrom<String> for Line {
    type Error = LineError;
    fn try_from(text: String) -> Result<Self, LineError> {
        Self::parse(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_would_lie_on_a_screen() {
        assert!(Line::parse("migrate the orders table, größer").is_ok());
        for bad in ["a\nb", "a\x1b[31m", "a\u{202E}b", "a\u{200B}b", "a\u{2028}b", "\u{E0041}", "\0", "\u{7f}", "\u{85}"] {
            assert_eq!(Line::parse(bad), Err(LineError::Character), "{bad:?}");
        }
        assert_eq!(Line::parse(&"ä".repeat(501)), Err(LineError::TooLong));
        assert!(Line::parse(&"ä".repeat(500)).is_ok());
    }
}
