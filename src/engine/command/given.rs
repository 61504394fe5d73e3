//! What a program gave, looked at before it is handed on: it is a stranger's.

use super::{
    super::{AGE, Attribute, EngineError, Members, Order, STALE},
    protocol::{Call, Given},
};
use crate::model::{EndsBy, SecretBytes};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

/// The longest reference of a program's own, in bytes of JSON: every live lease keeps one.
const REFERENCE_MAX: usize = 2 << 10;
/// The most attributes, and the longest of their texts in bytes.
const ATTRIBUTES_MAX: usize = 16;
const ATTRIBUTE_MAX: usize = 2 << 10;
/// How many seconds before its lease a credential may die: programs count in whole seconds, and calls take some.
const EARLY: u64 = 10;
/// And how many after it: whole seconds again.
const LATE: u64 = 1;

/// A value and what stands beside it, both within their limits, neither saying the other.
pub(super) struct Handed {
    pub(super) value: SecretBytes,
    pub(super) attributes: Vec<Attribute>,
    /// The program's own, an object.
    pub(super) reference: Value,
}

impl Given {
    /// The bytes that are meant.
    pub(super) fn bytes(self, call: Call) -> Result<SecretBytes, EngineError> {
        Ok(match self {
            Given::Text(text) => SecretBytes::new(text.into_bytes()),
            Given::Base64(text) => SecretBytes::new(STANDARD.decode(text).map_err(|_| wrong(call, "value_base64 is not base64"))?),
        })
    }
}

fn wrong(call: Call, what: &str) -> EngineError {
    EngineError::Setup(format!("{}: {what}", call.as_str()))
}

/// Looks at what a program answered; values may have so many bytes.
pub(super) fn handed(
    call: Call,
    most: usize,
    value: SecretBytes,
    (attributes, reference): (&Members, &Members),
) -> Result<Handed, EngineError> {
    if value.is_empty() || value.len() > most {
        return Err(wrong(call, &format!("a value of {} bytes; 1 to {most} may be given", value.len())));
    }
    let attributes = texts(attributes).map_err(|what| wrong(call, what))?;
    let reference = serde_json::to_value(reference).map_err(|error| wrong(call, &error.to_string()))?;
    if reference.to_string().len() > REFERENCE_MAX {
        return Err(wrong(call, &format!("a reference of more than {REFERENCE_MAX} bytes")));
    }
    // Both stand on the record.
    let told = attributes.iter().any(|(_, text)| holds(text, &value)) || any_text(&reference, &|text| holds(text, &value));
    if told && !crate::mutation!("command-beside") {
        return Err(wrong(call, "the value stands in an attribute or in the reference, which are on the record"));
    }
    Ok(Handed { value, attributes, reference })
}

/// What is shorter stands in texts by chance.
const TELLING: usize = 8;

/// Whether a text gives a value away.
fn holds(text: &str, value: &SecretBytes) -> bool {
    let value = value.expose();
    value.len() >= TELLING && memchr::memmem::find(text.as_bytes(), value).is_some()
}

/// Whether a text gives a piece of a value away.
pub(super) fn holds_some(text: &[u8], value: &[u8]) -> bool {
    text.windows(TELLING).any(|piece| memchr::memmem::find(value, piece).is_some())
}

/// Whether that is so of any text or name in it.
fn any_text(value: &Value, is_so: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_so(text),
        Value::Array(all) => all.iter().any(|value| any_text(value, is_so)),
        Value::Object(members) => members.iter().any(|(name, value)| is_so(name) || any_text(value, is_so)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn texts(members: &Members) -> Result<Vec<Attribute>, &'static str> {
    if members.get(STALE).is_some() || members.get(AGE).is_some() {
        return Err("stale and age are attributes that say something else");
    }
    let members = serde_json::to_value(members).ok().and_then(|value| if let Value::Object(map) = value { Some(map) } else { None });
    let is_name = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let members = members.unwrap_or_default();
    if members.len() > ATTRIBUTES_MAX {
        return Err("more than 16 attributes");
    }
    let row = |(name, value): (String, Value)| match value {
        Value::String(text) if is_name(&name) && text.len() <= ATTRIBUTE_MAX => Ok((name.into(), text)),
        _ => Err("attributes: names of 1 to 64 letters, digits and _, with texts of at most 2048 bytes"),
    };
    members.into_iter().map(row).collect()
}

/// A credential that dies before its lease would be a lie; one that lives longer and cannot be revoked as well.
pub(super) fn lasts(order: &Order<'_>, ends: EndsBy, expires: Option<u64>) -> Result<(), String> {
    let end = order.expires.unix_secs();
    match expires {
        Some(at) if at.saturating_add(EARLY) < end => Err(format!("what is given dies {} s before its lease", end - at)),
        Some(at) if ends == EndsBy::ShortLife && at > end.saturating_add(LATE) && !crate::mutation!("command-expiry") => {
            Err(format!("what is given lives {} s longer than its lease, and nobody can revoke it", at - end))
        }
        None if ends == EndsBy::ShortLife => Err("what nobody can revoke needs expires".into()),
        _ => Ok(()),
    }
}
