//! Operations for which less is made than for a secret's own: they have rows of their own in its settings, or a row says so where the engine
//! cannot see that by itself, as a program makes it, or a verifier keeps to it.

use crate::model::{Operation, SecretDefinition};
use std::collections::BTreeMap;

/// The row for what the holder will do: that of the operation, or of the least harmful one above it.
pub(super) fn least<T>(rows: &BTreeMap<Operation, T>, operation: Operation) -> Option<&T> {
    rows.range(operation..).next().map(|(_, row)| row)
}

/// The operations below the worst that have a row of their own: one that is not the worst's as well.
pub(super) fn less_than<T: PartialEq>(rows: &BTreeMap<Operation, T>, worst: Operation) -> Vec<Operation> {
    let all = least(rows, worst);
    rows.iter().filter(|(operation, row)| **operation < worst && Some(*row) != all).map(|(operation, _)| *operation).collect()
}

/// They are below the secret's own; the text names what is wrong. Sorted, each once.
pub(super) fn said(mut narrows: Vec<Operation>, secret: &SecretDefinition) -> Result<Vec<Operation>, String> {
    if let Some(wrong) = narrows.iter().find(|operation| **operation >= secret.operation) {
        return Err(format!("{}: narrows: {wrong} is not below {}, the secret's own operation", secret.name, secret.operation));
    }
    narrows.sort_unstable();
    narrows.dedup();
    Ok(narrows)
}
