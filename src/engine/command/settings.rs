//! What an operator sets for each secret: how it ends, and what its program is told beside the order.

use super::change::{PARAMETERS_MAX as KEPT_MAX, may_be_kept};
use crate::model::{EndsBy, SecretDefinition};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The settings of one secret.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default)]
    ends: Ends,
    overlap: Option<bool>,
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

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Self =
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
