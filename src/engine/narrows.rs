//! Operations for which a row says that less is made, where the engine cannot see that by itself: a program makes it, or a verifier keeps to it.

use crate::model::{Operation, SecretDefinition};

/// They are below the secret's own; the text names what is wrong. Sorted, each once.
pub(super) fn said(mut narrows: Vec<Operation>, secret: &SecretDefinition) -> Result<Vec<Operation>, String> {
    if let Some(wrong) = narrows.iter().find(|operation| **operation >= secret.operation) {
        return Err(format!("{}: narrows: {wrong} is not below {}, the secret's own operation", secret.name, secret.operation));
    }
    narrows.sort_unstable();
    narrows.dedup();
    Ok(narrows)
}
