//! What a policy's conditions look at, found in its syntax tree.

use cedar_policy::{Policy, PolicyToJsonError};
use serde_json::Value;
use std::collections::BTreeSet;

/// The paths below `context` that a policy looks at, the strings it compares with, and its conditions as they stand.
pub(super) struct Reads {
    paths: BTreeSet<String>,
    literals: BTreeSet<String>,
    conditions: Value,
}

impl Reads {
    /// Walks the conditions of a policy.
    pub fn of(policy: &Policy) -> Result<Self, Box<PolicyToJsonError>> {
        let conditions = policy.to_json().map_err(Box::new)?.get_mut("conditions").map(Value::take).unwrap_or_default();
        let mut reads = Self { paths: BTreeSet::new(), literals: BTreeSet::new(), conditions: Value::Null };
        reads.walk(&conditions);
        reads.conditions = conditions;
        Ok(reads)
    }

    /// Whether any of `path` decides: the path itself, a part of it, or a whole that holds it.
    pub fn any_of(&self, path: &str) -> bool {
        let below = |outer: &str, inner: &str| outer.is_empty() || inner.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.'));
        self.paths.iter().any(|read| read == path || below(read, path) || below(path, read))
    }

    /// Whether this text stands in a condition as a string.
    pub fn compares_with(&self, text: &str) -> bool {
        self.literals.contains(text)
    }

    /// Whether the only condition is `when { BODY }`.
    pub fn is_exactly(&self, body: Value) -> bool {
        self.conditions == serde_json::json!([{ "kind": "when", "body": body }])
    }

    fn walk(&mut self, expression: &Value) {
        if let Some(path) = context_path(expression) {
            self.paths.insert(path.join("."));
            return;
        }
        match expression {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.walk(field)),
            Value::String(text) => drop(self.literals.insert(text.clone())),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// The path of `context.a.b` or `context.a has b`; empty for `context` by itself.
fn context_path(expression: &Value) -> Option<Vec<&str>> {
    let fields = expression.as_object().filter(|fields| fields.len() == 1)?;
    if fields.get("Var").and_then(Value::as_str) == Some("context") {
        return Some(Vec::new());
    }
    let access = fields.get(".").or_else(|| fields.get("has"))?;
    let mut path = context_path(access.get("left")?)?;
    path.push(access.get("attr")?.as_str()?);
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(condition: &str) -> Reads {
        Reads::of(&Policy::parse(None, format!("forbid(principal, action, resource) when {{ {condition} }};")).unwrap()).unwrap()
    }

    #[test]
    fn every_way_to_look_is_seen() {
        for condition in [
            "context.evidence.ticket",
            "context.evidence has ticket",
            "context has evidence.ticket",
            "context.evidence == context.evidence",
            "(if context.frozen then context else context).evidence.ticket",
            "[context].contains(context)",
            "!(1 > 2 || context[\"evidence\"][\"ticket\"])",
        ] {
            assert!(reads(condition).any_of("evidence.ticket"), "{condition}");
            assert!(reads(condition).any_of("evidence"), "{condition}");
        }
        assert!(!reads("context.evidence.user && context.now == context.now").any_of("evidence.ticket"));
        assert!(!reads("context.evidences.ticket").any_of("evidence"));
        assert!(!reads("principal.evidence.ticket").any_of("evidence"));
    }
}
