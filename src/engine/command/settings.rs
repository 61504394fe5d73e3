//! What an operator sets for each secret: how it ends, and what its program is told beside the order.

use super::{
    super::narrows::said,
    change::{PARAMETERS_MAX as KEPT_MAX, may_be_kept},
};
use crate::model::{EndsBy, OfEngine, Operation, SecretDefinition};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The settings of one secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default)]
    ends: Ends,
    overlap: Option<bool>,
    /// Operations for which the program makes what allows no more.
    #[serde(default)]
    pub(super) narrows: Vec<Operation>,
    /// Passed to the program as they are.
    #[serde(default)]
    pub(super) parameters: Map<String, Value>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ends {
    #[default]
    Upstream,
    ShortLife,
    None,
}

/// The longest `parameters`, in bytes of JSON: a request always fits into the socket, whether or not it is read.
const PARAMETERS_MAX: usize = 16 << 10;

/// What follows from a definition's settings, or what is wrong with them, where the program probes or does not. Needs no program.
pub fn of_definition(secret: &SecretDefinition, probes: bool) -> Result<OfEngine, String> {
    let settings = Settings::parse(secret)?;
    let ends_by = settings.ends_by();
    if ends_by == EndsBy::None && !probes {
        return Err(format!("{}: ends = \"none\" needs probes = true of the engine: no value is given that was not tried", secret.name));
    }
    Ok(OfEngine { ends_by, narrows: settings.narrows })
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let mut settings: Self =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        if Value::Object(settings.parameters.clone()).to_string().len() > PARAMETERS_MAX {
            return Err(format!("{}: parameters: {PARAMETERS_MAX} bytes are the most", secret.name));
        }
        if settings.overlap.is_some() && settings.ends_by() != EndsBy::None {
            return Err(format!("{}: overlap goes with ends = \"none\"", secret.name));
        }
        if settings.ends_by() == EndsBy::None && !may_be_kept(&settings.parameters) {
            return Err(format!("{}: parameters: {KEPT_MAX} bytes are the most where ends = \"none\"", secret.name));
        }
        if !settings.narrows.is_empty() && settings.ends_by() == EndsBy::None {
            return Err(format!("{}: narrows goes with what is made for each lease, not with ends = \"none\"", secret.name));
        }
        settings.narrows = said(settings.narrows, secret)?;
        Ok(settings)
    }

    /// How the credentials end.
    pub(super) fn ends_by(&self) -> EndsBy {
        match self.ends {
            Ends::Upstream => EndsBy::Upstream,
            Ends::ShortLife => EndsBy::ShortLife,
            Ends::None => EndsBy::None,
        }
    }

    /// Whether a value that lasts goes on working when the next one is set, until it is taken back.
    pub(super) fn overlaps(&self) -> bool {
        self.overlap.unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn narrows(settings: Value) -> Result<Vec<Operation>, String> {
        let text = "[[secret]]\nname = \"a/b\"\nengine = \"c\"\nowner = \"team\"\nsensitivity = \"internal\"\nenvironment = \"prod\"\n\
                    purposes = [\"serve\"]\noperation = \"admin\"\nttl = { max = \"1h\" }\ndescription = \"d\"\n";
        let row = crate::config::one_with(text, &settings);
        of_definition(&row, true).map(|follows| follows.narrows)
    }

    #[test]
    fn a_program_is_believed_to_make_less_only_where_the_row_says_so() {
        assert_eq!(narrows(json!({})), Ok(vec![]));
        assert_eq!(narrows(json!({"narrows": ["write", "read", "write"]})), Ok(vec![Operation::Read, Operation::Write]));
        for (bad, wanted) in [
            (json!({"narrows": ["admin"]}), "admin is not below admin"),
            (json!({"narrows": ["look"]}), "settings"),
            (json!({"narrows": ["read"], "ends": "none"}), "goes with what is made for each lease"),
        ] {
            let said = narrows(bad.clone()).unwrap_err();
            assert!(said.contains(wanted), "{bad}: {said}");
        }
    }
}
