//! Where rows and their keys stand in their files: for advice that names lines.

use super::{File, line_of};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A row of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowPlace {
    /// The file.
    pub path: String,
    /// What the row is called.
    pub name: String,
    /// The line of its first key.
    pub line: usize,
    /// The line of the last key of its own: tables below it come later.
    pub last: usize,
    /// Its keys that hold texts, numbers or lists of them.
    pub keys: Vec<KeyPlace>,
}

/// A key of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlace {
    /// The key.
    pub key: String,
    /// Its first line.
    pub first: usize,
    /// Its last line.
    pub last: usize,
    /// What it holds, as text.
    pub values: Vec<String>,
}

impl RowPlace {
    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&KeyPlace> {
        self.keys.iter().find(|key| key.key == name)
    }

    /// What a key holds; nothing where the row does not say it.
    pub fn values(&self, name: &str) -> &[String] {
        self.key(name).map_or(&[], |key| &key.values)
    }

    /// `FILE:LINE` of a key, or of the row where it does not say it.
    pub fn place_of(&self, name: &str) -> String {
        format!("{}:{}", self.path, self.key(name).map_or(self.line, |key| key.first))
    }

    /// `FILE:LINE`.
    pub fn place(&self) -> String {
        format!("{}:{}", self.path, self.line)
    }
}

/// The rows of `[[TABLE]]` in these files. A file that is not TOML has none: loading it says why.
pub fn rows(files: &[File], table: &str) -> Vec<RowPlace> {
    files.iter().flat_map(|file| rows_of(file, table).unwrap_or_default()).collect()
}

fn rows_of(file: &File, table: &str) -> Option<Vec<RowPlace>> {
    let root = DeTable::parse(&file.text).ok()?;
    let (_, rows) = root.get_ref().iter().find(|(key, _)| key.get_ref() == table)?;
    let DeValue::Array(rows) = rows.get_ref() else { return None };
    Some(rows.iter().filter_map(|row| row_of(file, row.get_ref())).collect())
}

fn row_of(file: &File, row: &DeValue<'_>) -> Option<RowPlace> {
    let DeValue::Table(row) = row else { return None };
    let keys = row.iter().filter_map(|(key, value)| {
        let (first, last) = (line_of(&file.text, key.span().start), line_of(&file.text, value.span().end.saturating_sub(1)));
        Some(KeyPlace { key: key.get_ref().to_string(), first, last, values: values(value)? })
    });
    let keys: Vec<KeyPlace> = keys.collect();
    let name = keys.iter().find(|key| key.key == "name")?.values.first()?.clone();
    let line = keys.iter().map(|key| key.first).min()?;
    let last = keys.iter().map(|key| key.last).max()?;
    Some(RowPlace { path: file.path.clone(), name, line, last, keys })
}

/// Scalars and lists of them; tables have keys of their own.
fn values(value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        other => scalar(other).map(|one| vec![one]),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_keys_are_found_where_they_stand() {
        let text = "# who\n[[identity]]\nname = \"a\"\nselectors = [\n  \"unix:uid:1\",\n  \"unix:gid:1\",\n]\nsuspended = true\n[[identity.use]]\nsecret = \"s\"\n\n[[identity]]\nexpires = \"2026-01-01\" # soon\nname = \"b\"\n";
        let file = File { path: "i.toml".into(), text: text.into() };
        let found = rows(std::slice::from_ref(&file), "identity");
        assert_eq!(found.iter().map(|row| (row.name.as_str(), row.line, row.last)).collect::<Vec<_>>(), [("a", 3, 8), ("b", 13, 14)]);
        let selectors = found[0].key("selectors").unwrap();
        assert_eq!((selectors.first, selectors.last, selectors.values.len()), (4, 7, 2));
        assert_eq!(found[0].values("suspended"), ["true"]);
        assert_eq!(found[1].place(), "i.toml:13");
        assert!(rows(&[File { path: "x".into(), text: "[[identity".into() }], "identity").is_empty());
        assert!(rows(&[file], "secret").is_empty());
    }
}
