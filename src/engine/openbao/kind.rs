//! What a lease's reference, as the journal keeps it, stands for.

use super::{
    super::{Attribute, UpstreamRef},
    reading::Reading,
    settings::{KvPath, Pick},
};
use serde_json::Value;

/// What a lease's reference stands for.
pub(super) enum Kind {
    Kv(Reading),
    Leased {
        id: String,
        sealed: String,
        attributes: Vec<Attribute>,
        accessor: Option<String>,
    },
    ShortLife {
        sealed: String,
        attributes: Vec<Attribute>,
    },
    /// Sealed, and with an accessor, where its id is not ours.
    Token {
        sealed: Option<String>,
        accessor: Option<String>,
    },
}

impl Kind {
    pub(super) fn of(reference: &UpstreamRef) -> Option<Self> {
        let text = |name: &str| reference.0.get(name).and_then(Value::as_str).map(str::to_owned);
        if let Some(version) = reference.0.get("version").and_then(Value::as_u64) {
            let beside = reference.0.get("beside").and_then(Value::as_array);
            let attributes = beside.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect();
            let path = KvPath { mount: text("mount")?, path: text("path")? };
            let made = reference.0.get("made").and_then(Value::as_u64);
            return Some(Kind::Kv(Reading { path, version, made, pick: Pick { field: text("field"), attributes } }));
        }
        if reference.0.get("token") == Some(&Value::Bool(true)) {
            return Some(Kind::Token { sealed: reference.sealed().map(str::to_owned), accessor: text("accessor") });
        }
        let sealed = reference.sealed()?.to_owned();
        let beside = reference.0.get("attributes").and_then(Value::as_object);
        let row = |(name, value): (&String, &Value)| Some((name.clone().into(), value.as_str()?.to_owned()));
        let attributes = beside.into_iter().flatten().filter_map(row).collect();
        Some(match text("lease") {
            Some(id) => Kind::Leased { id, sealed, attributes, accessor: text("accessor") },
            None => Kind::ShortLife { sealed, attributes },
        })
    }
}
