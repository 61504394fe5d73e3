//! Where the values go: into descriptors or into variables of the command.

use super::Failure;
use crate::model::SecretBytes;
use std::{ffi::OsString, os::unix::ffi::OsStringExt};

/// Where a secret goes.
pub(super) enum Place {
    /// A descriptor; this variable names it.
    Descriptor(String),
    /// This variable.
    Variable(String),
}

/// What was asked for, in order, with where it goes.
pub(super) fn wanted(secrets: &[String], variables: &[String]) -> Result<Vec<(String, Place)>, Failure> {
    let is_variable = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    let mut out: Vec<(String, Place)> = Vec::new();
    for text in secrets {
        let (name, known_as) = text.split_once(':').unwrap_or((text, text));
        let known_as: String = known_as.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
        out.push((name.to_owned(), Place::Descriptor(format!("{known_as}_FD"))));
    }
    for text in variables {
        let (variable, name) = text.split_once('=').ok_or_else(|| Failure::Usage(format!("--env {text:?} must be VAR=NAME")))?;
        out.push((name.to_owned(), Place::Variable(variable.to_owned())));
    }
    let mut seen = Vec::new();
    for (_, Place::Descriptor(variable) | Place::Variable(variable)) in &out {
        if !is_variable(variable) || seen.contains(&variable) {
            return Err(Failure::Usage(format!("{variable:?} cannot name one variable")));
        }
        seen.push(variable);
    }
    if out.is_empty() {
        return Err(Failure::Usage("say which secrets: --secret NAME or --env VAR=NAME".into()));
    }
    Ok(out)
}

/// The one way in which a value is copied unwiped: the environment of a child cannot be wiped, and that is what was asked for.
pub(super) fn for_environment(value: &SecretBytes, name: &str) -> Result<OsString, Failure> {
    if value.expose().contains(&0) {
        return Err(Failure::Usage(format!("{name} holds a zero byte, which no environment variable can; use --secret")));
    }
    Ok(OsString::from_vec(value.expose().to_vec()))
}
