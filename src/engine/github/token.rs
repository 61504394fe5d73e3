//! What GitHub answers to whoever asks for an installation token, and whether that is what was asked for.

use super::{
    super::{
        EngineError,
        bearer::{Given, NotGiven, is_object},
    },
    LONGEST,
    settings::{Level, Wanted},
};
use crate::{
    model::{SecretBytes, WallTime},
    outbound::Answer,
};
use serde::Deserialize;
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeMap};

/// How far GitHub's clock and ours may be apart, in seconds: it says when a token dies, not how long it lives.
const SKEW: u64 = 300;

/// "Create an installation access token for an app" (GitHub REST API, version 2022-11-28). Only the token must be there as it should: whatever
/// else is wrong, it can be taken back.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    token: Cow<'a, str>,
    #[serde(default)]
    expires_at: Option<Value>,
    #[serde(default)]
    permissions: Option<Value>,
    #[serde(default)]
    repository_selection: Option<Value>,
    #[serde(default)]
    repositories: Option<Value>,
}

/// Reads an answer of status 201.
pub(super) fn read(doing: &str, answer: &Answer, wanted: &Wanted<'_>, now: WallTime) -> Result<Given, NotGiven> {
    let unreadable =
        || NotGiven { error: EngineError::Unreachable(format!("{doing}: the answer is not what GitHub answers")), may_exist: true };
    if !is_object(answer) {
        return Err(unreadable());
    }
    let reply: Reply<'_> = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
    if reply.token.is_empty() {
        return Err(unreadable());
    }
    let wrong = unfit(&reply, wanted).map(|what| EngineError::Refused(format!("{doing}: {what}")));
    let dies = reply.expires_at.as_ref().and_then(Value::as_str).and_then(WallTime::parse);
    // Clocks that differ a little make it no longer than it is.
    let longest = u64::from(LONGEST.as_secs());
    let seconds = dies.map(|dies| dies.0.saturating_sub(now.0) / 1_000_000).map(|life| match life {
        life if life <= longest + SKEW => life.min(longest),
        life => life,
    });
    let permissions = wanted.permissions.iter().map(|(name, level)| format!("{name}={}", level.as_str())).collect::<Vec<_>>();
    let attributes = vec![
        ("repositories".into(), wanted.repositories.iter().copied().collect::<Vec<_>>().join(" ")),
        ("permissions".into(), permissions.join(" ")),
    ];
    Ok(Given { value: SecretBytes::new(reply.token.as_bytes().to_vec()), companion: None, seconds, attributes, wrong })
}

/// What is more or other than what was asked for.
fn unfit(reply: &Reply<'_>, wanted: &Wanted<'_>) -> Option<String> {
    // What stands in a header must not end it.
    if !reply.token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return Some("the token has characters that no header takes".into());
    }
    let selected = reply.repository_selection.as_ref().and_then(Value::as_str) == Some("selected");
    let rows = reply.repositories.as_ref().and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let asked_for = |row: &Value| {
        let name = row.get("name").and_then(Value::as_str);
        name.is_some_and(|name| wanted.repositories.iter().any(|asked| asked.eq_ignore_ascii_case(name)))
    };
    let within = selected && !rows.is_empty() && rows.iter().all(asked_for);
    if !within && !crate::mutation!("github-repositories") {
        return Some("it is not for the repositories that were asked for".into());
    }
    let permissions = reply.permissions.clone().and_then(|given| serde_json::from_value::<BTreeMap<String, Level>>(given).ok());
    // Whatever an app may do, it may see that a repository is there.
    let may = |name: &str, level: Level| {
        wanted.permissions.get(name).is_some_and(|asked| level <= *asked) || (name, level) == ("metadata", Level::Read)
    };
    let within = permissions.is_some_and(|given| !given.is_empty() && given.iter().all(|(name, level)| may(name, *level)));
    if !within && !crate::mutation!("github-permissions") {
        return Some("it has other permissions than those that were asked for".into());
    }
    None
}
