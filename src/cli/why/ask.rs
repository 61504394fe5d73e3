//! The request of a record as a command line that makes it again, or another.

use super::{at, found, plan::quoted};
use crate::{audit::Record, model::UNLIMITED};
use serde_json::Value;

/// What was asked for, as far as the record knows it.
#[derive(Clone, Debug, Default)]
pub(super) struct Ask {
    pub(super) secret: Option<String>,
    pub(super) purpose: Option<String>,
    pub(super) operation: Option<String>,
    pub(super) targets: Vec<String>,
    pub(super) ttl: Option<String>,
    pub(super) uses: Option<u64>,
    pub(super) reason: Option<String>,
    pub(super) tickets: Vec<String>,
}

impl Ask {
    pub(super) fn of(record: &Record) -> Ask {
        let get = |path: &str| Some(found(record, path)).filter(|text| !text.is_empty());
        let list = |path: &str| match at(record, path) {
            Some(Value::Array(items)) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        Ask {
            secret: record.secret.as_ref().map(|secret| secret.name.clone()).or_else(|| get("/claimed/secret")),
            purpose: get("/claimed/purpose"),
            operation: get("/claimed/operation"),
            targets: list("/claimed/targets"),
            ttl: get("/claimed/ttl").map(|seconds| format!("{seconds}s")),
            uses: at(record, "/claimed/uses").and_then(|uses| uses.as_u64()).filter(|uses| *uses != UNLIMITED),
            reason: get("/claimed/reason"),
            tickets: list("/claimed/tickets"),
        }
    }

    /// The same for another purpose.
    pub(super) fn with_purpose(&self, purpose: &str) -> Ask {
        Ask { purpose: Some(purpose.to_owned()), ..self.clone() }
    }

    /// The same about another secret.
    pub(super) fn about(&self, secret: &str) -> Ask {
        Ask { secret: Some(secret.to_owned()), ..self.clone() }
    }

    /// A command line that can be typed; none while no secret is known.
    pub(super) fn command(&self) -> Option<String> {
        let mut words = vec!["clav".to_owned(), "get".to_owned(), quoted(self.secret.as_ref()?)];
        let mut option = |name: &str, value: &str| words.extend([name.to_owned(), quoted(value)]);
        let single = [("--purpose", &self.purpose), ("--operation", &self.operation), ("--ttl", &self.ttl), ("--reason", &self.reason)];
        single.into_iter().for_each(|(name, value)| value.iter().for_each(|value| option(name, value)));
        self.targets.iter().for_each(|target| option("--target", target));
        self.tickets.iter().for_each(|ticket| option("--ticket", ticket));
        self.uses.iter().for_each(|uses| option("--uses", &uses.to_string()));
        Some(words.join(" "))
    }
}
