//! `secrets.d/*.toml`: the catalogue. A row without owner, purpose or sensitivity does not load.

use super::{ConfigError, File, line_of, parse, rows_as_json, short_digest};
use crate::model::{
    EndsBy, EngineName, Environment, OfEngine, Operation, Owner, Period, Purpose, Rotation, SecretDefinition, SecretName, Sensitivity,
    Share, Target, Ttl, TtlLimits, WallTime,
};
use serde::{Deserialize, Deserializer, de::Error as _};
use std::collections::HashMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    #[serde(default)]
    secret: Vec<toml::Spanned<Row>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: SecretName,
    engine: EngineName,
    owner: Owner,
    sensitivity: Sensitivity,
    environment: Environment,
    purposes: Vec<Purpose>,
    operation: Operation,
    #[serde(default)]
    hosts: Vec<Target>,
    #[serde(deserialize_with = "limits")]
    ttl: Limits,
    #[serde(default = "default_reads")]
    reads_max: u64,
    #[serde(default)]
    quarantined: bool,
    #[serde(default)]
    pinned: bool,
    #[serde(default)]
    share: Share,
    rotate: Option<RotateRow>,
    description: String,
    #[serde(default)]
    settings: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    #[serde(default)]
    default: Option<Ttl>,
    max: Ttl,
}

/// A bare time is the mistake that everybody makes once.
fn limits<'de, D: Deserializer<'de>>(from: D) -> Result<Limits, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Said {
        Limits(Limits),
        Other(serde::de::IgnoredAny),
    }
    match Said::deserialize(from)? {
        Said::Limits(limits) => Ok(limits),
        Said::Other(_) => Err(D::Error::custom(
            "ttl must be a table with max, and default if it is another: ttl = { default = \"15m\", max = \"1h\" }; \
             times are seconds from 1 to 2592000, or texts with a unit (s, m, h, d)",
        )),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRow {
    every: Option<Period>,
    by: Option<String>,
}

impl RotateRow {
    fn parsed(&self) -> Result<Rotation, String> {
        let by = match &self.by {
            Some(text) => Some(WallTime::parse(text).ok_or_else(|| format!("rotate.by = {text:?} is not a date such as 2027-01-31"))?),
            None => None,
        };
        if self.every.is_none() && by.is_none() {
            return Err("rotate needs every, by, or both: rotate = { every = \"90d\" }".into());
        }
        Ok(Rotation { every: self.every, by })
    }
}

fn default_reads() -> u64 {
    10_000_000
}

/// A row whose engine has not been asked yet how its credentials end.
pub struct RowDraft {
    /// Where it stands.
    pub file: String,
    /// In which line.
    pub line: usize,
    definition: SecretDefinition,
}

impl RowDraft {
    /// The row as written; `ends_by` and `narrows` are not yet true.
    pub fn row(&self) -> &SecretDefinition {
        &self.definition
    }

    /// Completes the row with what follows from its engine.
    pub fn with(self, OfEngine { ends_by, narrows }: OfEngine) -> SecretDefinition {
        SecretDefinition { ends_by, narrows, ..self.definition }
    }

    /// A problem with this row.
    pub fn problem(&self, message: impl std::fmt::Display) -> ConfigError {
        ConfigError { path: self.file.clone(), line: self.line, message: format!("secret {}: {message}", self.definition.name) }
    }
}

/// Parses all files. Every problem is named; with any, nothing is loaded.
pub fn secrets(files: &[File]) -> Result<Vec<RowDraft>, Vec<ConfigError>> {
    let (mut rows, mut problems) = (Vec::new(), Vec::new());
    let mut names: HashMap<SecretName, String> = HashMap::new();
    for file in files {
        match parse::<Rows>(file).and_then(|found| Ok((found, rows_as_json(file, "secret")?))) {
            Err(error) => problems.push(error),
            Ok((found, written)) => {
                for (row, written) in found.secret.into_iter().zip(written) {
                    let line = line_of(&file.text, row.span().start);
                    let row = row.into_inner();
                    let mut problem = |text: &str| problems.push(ConfigError::at(file, line, format!("secret {}: {text}", row.name)));
                    if row.purposes.is_empty() {
                        problem("purposes must name at least one");
                    }
                    if row.description.trim().is_empty() || row.description.chars().any(char::is_control) {
                        problem("description must be one line that says what it is");
                    }
                    let default = row.ttl.default.unwrap_or(row.ttl.max);
                    if default > row.ttl.max {
                        problem("ttl.default is longer than ttl.max");
                    }
                    let rotate = match row.rotate.as_ref().map(RotateRow::parsed).transpose() {
                        Ok(rotate) => rotate,
                        Err(why) => {
                            problem(&why);
                            None
                        }
                    };
                    if let Some(other) = names.insert(row.name.clone(), format!("{}:{line}", file.path)) {
                        problem(&format!("is already defined at {other}"));
                    }
                    let made_of = ["engine", "operation", "hosts", "settings"].map(|key| written[key].clone());
                    let definition = SecretDefinition {
                        name: row.name,
                        engine: row.engine,
                        owner: row.owner,
                        sensitivity: row.sensitivity,
                        environment: row.environment,
                        purposes: row.purposes,
                        operation: row.operation,
                        hosts: row.hosts,
                        ttl: TtlLimits { default, max: row.ttl.max },
                        reads_max: row.reads_max,
                        quarantined: row.quarantined,
                        pinned: row.pinned,
                        share: row.share,
                        rotate,
                        description: row.description,
                        ends_by: EndsBy::None,
                        narrows: Vec::new(),
                        recipe: short_digest(&made_of.into_iter().collect()).into(),
                        settings: row.settings,
                        generation: short_digest(&written).into(),
                    };
                    rows.push(RowDraft { file: file.path.clone(), line, definition });
                }
            }
        }
    }
    if problems.is_empty() { Ok(rows) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[[secret]]
name = "db/ro"
engine = "local"
owner = "team-orders"
sensitivity = "internal"
environment = "prod"
purposes = ["serve-orders"]
operation = "read"
ttl = { max = "1h" }
description = "Read-only access to orders"
"#;

    #[test]
    fn a_row_without_owner_purpose_or_sensitivity_does_not_load() {
        let load = |text: &str| secrets(&[File { path: "s.toml".into(), text: text.into() }]);
        assert_eq!(load(GOOD).unwrap().len(), 1);
        for line in GOOD.lines().filter(|line| line.contains('=')) {
            assert!(load(&GOOD.replace(line, "")).is_err(), "without {line}");
        }
        assert!(load(&GOOD.replace("\"1h\"", "\"1h\", default = \"2h\"")).is_err());
        assert!(load(&GOOD.repeat(2)).is_err());
        assert!(load(&GOOD.replace("description", "descripton")).is_err());
        let told = |text: &str| {
            let row = load(text).unwrap()[0].row().clone();
            (row.generation, row.recipe)
        };
        let (generation, recipe) = told(GOOD);
        assert_eq!(told(&GOOD.replace("engine = \"local\"\n", "# why\n").replace("name =", "engine = 'local'\nname =")), told(GOOD));
        let described = told(&GOOD.replace("Read-only", "Another"));
        assert!(described.0 != generation && described.1 == recipe, "another generation, which makes the same");
        for other in
            [GOOD.replace("\"read\"", "\"write\""), format!("{GOOD}settings = {{ a = 1 }}\n"), format!("{GOOD}hosts = [\"a:1\"]\n")]
        {
            let other = told(&other);
            assert!(other.0 != generation && other.1 != recipe);
        }
        let settings = |text: &str| told(&format!("{GOOD}settings = {{ {text} }}\n"));
        assert_eq!(settings("a = { b = 1, c = [1, 2] }, d = 2"), settings("d = 2, a = { c = [1, 2], b = 1 }"));
        assert_ne!(settings("a = [1, 2]"), settings("a = [2, 1]"));
        // More than TOML's numbers are worth.
        let error = load(&format!("{GOOD}reads_max = 18446744073709551615\n")).err().unwrap().remove(0);
        assert!(error.line > 0, "{error}");
        let two = GOOD.to_owned() + &GOOD.replace("db/ro", "db/rw").replace("\"read\"", "\"write\"");
        let rows = load(&two).unwrap();
        assert_eq!(rows[0].row().generation, generation);
        assert_ne!(rows[1].row().generation, generation);
        let rotated = |how: &str| load(&format!("{GOOD}rotate = {how}\n"));
        assert!(rotated("{ every = \"90d\", by = \"2027-01-31\" }").unwrap()[0].row().rotate.is_some_and(|rotate| rotate.by.is_some()));
        for wrong in
            ["{}", "{ every = \"soon\" }", "{ every = \"30s\" }", "{ by = \"soon\" }", "{ every = \"1d\", who = \"me\" }", "\"90d\""]
        {
            assert!(rotated(wrong).is_err(), "{wrong}");
        }
        for wrong in ["\"1h\"", "3600", "{ most = \"1h\" }", "{ max = \"soon\" }"] {
            let Err(problems) = load(&GOOD.replace("{ max = \"1h\" }", wrong)) else { panic!("{wrong}") };
            assert!(problems[0].message.contains("ttl = { default = \"15m\", max = \"1h\" }"), "{wrong}: {}", problems[0]);
        }
    }
}
