//! Rows for the tests of those who take them.

use super::{File, secrets};
use crate::model::{EndsBy, OfEngine, SecretDefinition};

/// The one row of this text with other settings, as its engine sees it.
pub(crate) fn one_with(text: &str, settings: &serde_json::Value) -> SecretDefinition {
    let rows = secrets(&[File { path: "s.toml".into(), text: text.into() }]);
    let mut row = rows.map_err(drop).unwrap().pop().unwrap().with(OfEngine::ends_by(EndsBy::Upstream));
    row.settings = settings.as_object().unwrap().clone();
    row
}
