//! What a token endpoint answers, and whether that is what was asked for.

use super::{
    super::{
        EngineError,
        bearer::{Given, NotGiven, is_object},
    },
    settings::{ACCESS_TOKEN, Wanted, is_scope},
};
use crate::{model::SecretBytes, outbound::Answer};
use serde::Deserialize;
use serde_json::Value;
use std::{borrow::Cow, collections::BTreeSet};

/// RFC 6749, 5.1; RFC 8693, 2.2.1. Only the token must be there as it should: whatever else is wrong, it can be taken back.
#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    access_token: Cow<'a, str>,
    #[serde(default)]
    token_type: Option<Value>,
    #[serde(default)]
    expires_in: Option<Value>,
    #[serde(default)]
    scope: Option<Value>,
    #[serde(default)]
    refresh_token: Option<Value>,
    #[serde(default)]
    issued_token_type: Option<Value>,
}

/// What was asked for, beside the scope.
pub(super) struct Asked<'a> {
    pub(super) wanted: &'a Wanted<'a>,
    /// The token type of an exchange.
    pub(super) exchange_for: Option<&'a str>,
}

/// Reads an answer of status 200.
pub(super) fn read(doing: &str, answer: &Answer, asked: &Asked<'_>) -> Result<Given, NotGiven> {
    let unreadable = |what: &str| NotGiven { error: EngineError::Unreachable(format!("{doing}: {what}")), may_exist: true };
    if !is_object(answer) {
        return Err(unreadable("the answer is not what a token endpoint answers"));
    }
    let reply: Reply<'_> =
        serde_json::from_slice(&answer.body).map_err(|_| unreadable("the answer is not what a token endpoint answers"))?;
    if reply.access_token.is_empty() {
        return Err(unreadable("the answer has no token"));
    }
    let given = match &reply.scope {
        // RFC 6749, 5.1: left out when it is what was asked for.
        None | Some(Value::Null) => Some(asked.wanted.scope.iter().copied().collect::<Vec<_>>()),
        Some(Value::String(text)) => Some(text.split_ascii_whitespace().collect()),
        Some(_) => None,
    };
    let wrong = unfit(&reply, given.as_deref(), asked).map(|error| match error {
        EngineError::Refused(text) => EngineError::Refused(format!("{doing}: {text}")),
        error => EngineError::Setup(format!("{doing}: {error}")),
    });
    let mut attributes = vec![("scope".into(), given.unwrap_or_default().join(" "))];
    if let Some(kind) = asked.exchange_for.filter(|kind| *kind != ACCESS_TOKEN) {
        attributes.push(("token_type".into(), kind.to_owned()));
    }
    Ok(Given {
        value: SecretBytes::new(reply.access_token.as_bytes().to_vec()),
        companion: match reply.refresh_token {
            Some(Value::String(token)) if !token.is_empty() => Some(SecretBytes::new(token.into_bytes())),
            _ => None,
        },
        seconds: reply.expires_in.as_ref().and_then(Value::as_u64),
        attributes,
        wrong,
    })
}

/// What is more or other than what was asked for.
fn unfit(reply: &Reply<'_>, given: Option<&[&str]>, asked: &Asked<'_>) -> Option<EngineError> {
    let setup = |text: String| Some(EngineError::Setup(text));
    // What stands in a header must not end it.
    if !reply.access_token.bytes().all(|byte| (0x21..=0x7e).contains(&byte)) {
        return setup("the token has characters that no header takes".into());
    }
    // One that is no text cannot be taken back by itself; most servers end it with the token that it came with (RFC 7009, 2.1).
    if !matches!(&reply.refresh_token, None | Some(Value::Null)) && reply.refresh_token.as_ref().and_then(Value::as_str) != Some("") {
        return setup("a refresh token came along, which would outlive the lease: turn that off for this client".into());
    }
    let Some(given) = given.filter(|given| given.iter().all(|scope| is_scope(scope))) else {
        return setup("the scope that it says is none".into());
    };
    let more: BTreeSet<&str> = given.iter().copied().filter(|scope| !asked.wanted.scope.contains(scope)).collect();
    if !more.is_empty() && !crate::mutation!("oauth2-scope") {
        // How many and not which: they are another's words.
        return Some(EngineError::Refused(format!("gave {} scopes beyond those that were asked for", more.len())));
    }
    let is =
        |value: &Option<Value>, wanted: &str| value.as_ref().and_then(Value::as_str).is_some_and(|text| text.eq_ignore_ascii_case(wanted));
    let mut token_types = vec!["Bearer"];
    if let Some(kind) = asked.exchange_for {
        if !is(&reply.issued_token_type, kind) {
            return setup(format!("gave another type of token than {kind} (issued_token_type)"));
        }
        if kind != ACCESS_TOKEN {
            token_types.push("N_A");
        }
    }
    if !token_types.iter().any(|wanted| is(&reply.token_type, wanted)) {
        return setup(format!("gave a token that is not used as {} (token_type)", token_types.join(" or ")));
    }
    None
}
