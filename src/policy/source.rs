//! Policy text: its files, the statements in them, and what can be wrong with each, by file, line and column.

use std::{fmt, sync::Arc};

/// One policy file. Whoever loads a bundle has read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The file's name, as problems and explanations repeat it.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Where something stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file.
    pub file: Arc<str>,
    /// The line, from 1; 0 when it is about the bundle as a whole.
    pub line: u32,
    /// The column in characters, from 1.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.file) } else { write!(f, "{}:{}:{}", self.file, self.line, self.column) }
    }
}

/// Why a bundle does not load. The operator mends the file and loads again; until then the old bundle stays in force.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{0}")]
    Syntax(String),
    #[error("{0}")]
    Validation(String),
    #[error("a statement is not closed with ';'")]
    Unclosed,
    #[error("@{0} is missing")]
    Missing(&'static str),
    #[error("@{0} does not belong here: {1}")]
    Misplaced(String, &'static str),
    #[error("@{key}(\"{value}\"): {why}")]
    Value { key: &'static str, value: String, why: String },
    #[error("@id(\"{id}\") is taken by {by}")]
    Duplicate { id: String, by: Place },
    #[error("{0} may not look at {1}")]
    Reads(&'static str, String),
    #[error("the condition does not look at {0}, so nothing could meet this requirement")]
    NeverMet(&'static str),
    #[error("the condition must read exactly: when {{ {0} }}")]
    Cap(String),
    #[error("{0} does not exist; there is {1}")]
    NoSuchMember(String, String),
    #[error(
        "no rule in force reads @class(\"invariant\") @code(\"frozen\") forbid (principal, action in Claviger::Action::\"use\", resource) \
         when {{ context.frozen }}: freezing this host would not stop everything"
    )]
    NoFreeze,
}

/// What an operator should look at; the bundle is in force all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {notice}")]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What.
    pub notice: Notice,
}

/// What is odd about a bundle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    #[error("grant {id} expired on {on} and is left out")]
    Expired { id: String, on: String },
    #[error("grant {id} expires on {on}")]
    ExpiresSoon { id: String, on: String },
    #[error("{0} is not in the registry or the catalogue")]
    Unknown(String),
    #[error("grant {id}: purpose {purpose} is none of {whose}, which lists {listed}: for it the grant covers nothing")]
    Purpose { id: String, purpose: String, whose: String, listed: String },
    #[error("grant {id}: identity {identity} belongs to {of_identity} and secret {secret} to {of_secret}: it covers nothing")]
    Environments { id: String, identity: String, of_identity: String, secret: String, of_secret: String },
    #[error("rule {0} of the baseline is not in the bundle")]
    BaselineRule(String),
}

/// One statement of a source: its text and where it begins.
pub(super) struct Statement<'a> {
    pub text: &'a str,
    at: usize,
    whole: &'a str,
    file: Arc<str>,
}

impl Statement<'_> {
    /// Where a byte of the statement's text stands in its file.
    pub fn place(&self, offset: usize) -> Place {
        let before = self.whole.get(..self.at + offset).unwrap_or(self.whole);
        let line_at = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() as u32 + 1;
        Place { file: self.file.clone(), line, column: before[line_at..].chars().count() as u32 + 1 }
    }
}

/// Cuts a source into its statements, each ending with its `;`. Cedar parses each by itself, so that one bad statement
/// hides no other and every fault has a place.
pub(super) fn statements(source: &Source) -> Result<Vec<Statement<'_>>, Problem> {
    let file: Arc<str> = source.name.as_str().into();
    let whole = source.text.as_str();
    let cut = |from: usize, to: usize| {
        let at = from + leading_blank(&whole[from..to]);
        Statement { text: &whole[at..to], at, whole, file: file.clone() }
    };
    let mut found = Vec::new();
    let (mut from, mut at, bytes) = (0, 0, whole.as_bytes());
    while at < bytes.len() {
        match bytes[at] {
            b'/' if bytes.get(at + 1) == Some(&b'/') => at += line_length(&whole[at..]),
            b'"' => at += string_length(&bytes[at..]),
            b';' => {
                at += 1;
                found.push(cut(from, at));
                from = at;
            }
            _ => at += 1,
        }
    }
    let rest = cut(from, whole.len());
    if rest.text.is_empty() { Ok(found) } else { Err(Problem { place: rest.place(0), fault: Fault::Unclosed }) }
}

/// The statements of a file that permit something, without the comments in front of each; none of a file whose last is not closed.
pub fn permits(source: &Source) -> Vec<&str> {
    let all = statements(source).unwrap_or_default().into_iter().map(|statement| statement.text);
    all.filter(|text| text.contains("permit")).collect()
}

/// Bytes of white space and comments in front.
fn leading_blank(text: &str) -> usize {
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let blank = rest.len() - rest.trim_start().len();
        at += blank;
        match text[at..].starts_with("//") {
            true => at += line_length(&text[at..]),
            false => return at,
        }
    }
}

fn line_length(text: &str) -> usize {
    text.find(['\n', '\r']).unwrap_or(text.len())
}

/// Bytes of a string literal with both quotes; an unclosed one runs to the end, and the parser says so.
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_their_own_semicolon() {
        let text = "// one; two\n@a(\"x;\\\";\") permit(principal, action, resource);\n\n  // c\n forbid(principal,\n action, resource); // tail ;\n";
        let source = Source { name: "a.cedar".into(), text: text.into() };
        let found = statements(&source).unwrap();
        assert_eq!(found.len(), 2);
        assert!(found[0].text.starts_with("@a(") && found[1].text.starts_with("forbid") && found[1].text.ends_with(';'));
        assert_eq!(found[0].place(0).to_string(), "a.cedar:2:1");
        assert_eq!(found[1].place(found[1].text.find("action").unwrap()).to_string(), "a.cedar:6:2");
    }

    #[test]
    fn what_is_left_open_is_a_problem() {
        for text in ["permit(principal, action, resource)", "permit(principal, action, resource); \"", "\\\"", "é"] {
            let source = Source { name: "a".into(), text: text.into() };
            assert_eq!(statements(&source).map(|_| ()).unwrap_err().fault, Fault::Unclosed, "{text}");
        }
    }
}
