//! The words between the daemon and a program: one object of JSON each way (`docs/engines/command.md`).

use super::super::{EngineError, Members};
use crate::{
    model::{LeaseId, Operation, Target},
    sys::printable,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The protocol that both speak.
pub(super) const VERSION: u32 = 1;

/// What a program is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Call {
    Create,
    Renew,
    Revoke,
    Probe,
    List,
    Rotate,
}

impl Call {
    /// As it stands in messages.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Call::Create => "create",
            Call::Renew => "renew",
            Call::Revoke => "revoke",
            Call::Probe => "probe",
            Call::List => "list",
            Call::Rotate => "rotate",
        }
    }

    /// The longest answer, in bytes.
    pub(super) fn most(self) -> usize {
        if self == Call::List { 1 << 20 } else { 64 << 10 }
    }
}

/// What a call is about.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum About<'a> {
    Lease(LeaseId),
    /// One version of a value that lasts, by its name.
    Version(&'a str),
    All,
}

/// One call.
#[derive(Serialize)]
pub(super) struct Request<'a> {
    pub(super) version: u32,
    pub(super) call: Call,
    /// Seconds since 1970: nobody waits for an answer after that, so nothing may be begun.
    pub(super) deadline: u64,
    pub(super) mark: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<LeaseId>,
    /// What everything that is made for the lease, or for the version of a value that lasts, is called, or found by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(flatten)]
    pub(super) wanted: Option<Wanted<'a>>,
    #[serde(flatten)]
    pub(super) lasting: Option<Lasting<'a>>,
    /// The program's own, from its answer to `create` or `rotate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reference: Option<&'a Value>,
}

/// What an order says.
#[derive(Serialize)]
pub(super) struct Wanted<'a> {
    pub(super) secret: &'a str,
    pub(super) request: String,
    /// Seconds from now.
    pub(super) ttl: u64,
    /// Seconds since 1970, when the credential must be dead.
    pub(super) expires: u64,
    pub(super) intent: Wish<'a>,
    pub(super) parameters: Map<String, Value>,
}

/// Whom it is for and what it will do: what is made may allow no more.
#[derive(Serialize)]
pub(super) struct Wish<'a> {
    pub(super) identity: &'a str,
    pub(super) purpose: &'a str,
    pub(super) operation: Operation,
    pub(super) targets: &'a [Target],
    pub(super) digest: String,
}

/// A version of a value that lasts.
#[derive(Serialize)]
pub(super) struct Lasting<'a> {
    /// Missing where its definition is gone and nothing of it is kept here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<&'a str>,
    pub(super) number: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allow: Option<Allowed<'a>>,
    pub(super) parameters: &'a Map<String, Value>,
    /// With `rotate` one to set, if the source takes what it is given; with `probe` the one to try.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) value_base64: Option<&'a str>,
}

/// The worst that a definition allows: what is set may allow no more.
#[derive(Serialize)]
pub(super) struct Allowed<'a> {
    pub(super) operation: Operation,
    pub(super) targets: &'a [Target],
}

/// Any answer; which members it may and must have depends on the call. There is deliberately no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    version: u32,
    lease: Option<LeaseId>,
    name: Option<String>,
    error: Option<Told>,
    value: Option<String>,
    value_base64: Option<String>,
    attributes: Option<Members>,
    reference: Option<Members>,
    expires: Option<u64>,
    found: Option<bool>,
    alive: Option<bool>,
    names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Setup,
    Refused,
    Unreachable,
    NoValue,
}

/// What a program answered that did what it was asked for.
pub(super) enum Done {
    Created(Created),
    /// When the credential dies by itself now, if it does.
    Renewed(Option<u64>),
    /// Whether there was anything to revoke.
    Revoked(bool),
    /// Whether the credential works.
    Probed(bool),
    Listed(Vec<String>),
    /// What was set, if it is another value than the one proposed.
    Rotated(Created<Option<Given>>),
}

/// What was made. There is deliberately no `Debug`.
pub(super) struct Created<V = Given> {
    pub(super) value: V,
    pub(super) attributes: Members,
    pub(super) reference: Members,
    pub(super) expires: Option<u64>,
}

/// The value as it was written.
pub(super) enum Given {
    Text(String),
    Base64(String),
}

/// Reads the answer to a call. What it says is not repeated: it may hold a value. The program's own words for an error are, one line of
/// them, for the operator, unless `is_secret` says that they give the value away.
pub(super) fn answered(call: Call, about: About<'_>, bytes: &[u8], is_secret: &dyn Fn(&[u8]) -> bool) -> Result<Done, EngineError> {
    let doing = call.as_str();
    let wrong = |what: &str| EngineError::Setup(format!("{doing}: the program's answer {what}"));
    let answer: Answer = serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        serde_json::error::Category::Eof => wrong("is cut off"),
        serde_json::error::Category::Data => wrong(&format!("has a member that is unknown, missing or wrong, at byte {}", error.column())),
        _ => wrong(&format!("is not one object of JSON, at byte {}", error.column())),
    })?;
    if answer.version != VERSION {
        return Err(wrong(&format!("is of version {}, not {VERSION}", answer.version)));
    }
    let Answer { version: _, lease, name, error, value, value_base64, attributes, reference, expires, found, alive, names } = answer;
    let made = value.is_some() || value_base64.is_some() || attributes.is_some() || reference.is_some();
    if let Some(Told { kind, message }) = error {
        let more = made || expires.is_some() || found.is_some() || alive.is_some() || names.is_some();
        return Err(if more { wrong("is an error and more") } else { told(call, kind, &message, is_secret) });
    }
    let said = match (lease, &name) {
        (Some(lease), None) => Some(About::Lease(lease)),
        (None, Some(name)) => Some(About::Version(name)),
        (None, None) => Some(About::All),
        (Some(_), Some(_)) => None,
    };
    if said != Some(about) && !crate::mutation!("command-echo") {
        return Err(wrong(if matches!(about, About::Version(_)) { "is about another name" } else { "is about another lease" }));
    }
    let others = |allowed: &str| {
        let there = [("created", made), ("expires", expires.is_some()), ("found", found.is_some()), ("alive", alive.is_some())];
        there.iter().chain(&[("names", names.is_some())]).any(|(name, there)| *there && !allowed.split(' ').any(|known| known == *name))
    };
    let given = match (value, value_base64) {
        (Some(text), None) => Some(Given::Text(text)),
        (None, Some(text)) => Some(Given::Base64(text)),
        (None, None) => None,
        (Some(_), Some(_)) => return Err(wrong("needs exactly one of value and value_base64")),
    };
    let done = match call {
        Call::Create if !others("created expires") => {
            let value = given.ok_or_else(|| wrong("needs exactly one of value and value_base64"))?;
            Some(Done::Created(Created {
                value,
                attributes: attributes.unwrap_or_default(),
                reference: reference.unwrap_or_default(),
                expires,
            }))
        }
        Call::Rotate if !others("created") => Some(Done::Rotated(Created {
            value: given,
            attributes: attributes.unwrap_or_default(),
            reference: reference.unwrap_or_default(),
            expires: None,
        })),
        Call::Renew if !others("expires") => Some(Done::Renewed(expires)),
        Call::Revoke if !others("found") => found.map(Done::Revoked),
        Call::Probe if !others("alive") => alive.map(Done::Probed),
        Call::List if !others("names") => names.map(Done::Listed),
        _ => return Err(wrong("has members that belong to another call")),
    };
    done.ok_or_else(|| {
        wrong(match call {
            Call::Revoke => "lacks found",
            Call::Probe => "lacks alive",
            _ => "lacks names",
        })
    })
}

/// The longest message of a program that is passed on, in bytes.
const MESSAGE_MAX: usize = 200;

fn told(call: Call, kind: Kind, message: &str, is_secret: &dyn Fn(&[u8]) -> bool) -> EngineError {
    let cut = &message.as_bytes()[..message.len().min(MESSAGE_MAX)];
    let text = match is_secret(cut) {
        true => format!("{}: the program says something that may hold the value", call.as_str()),
        false => format!("{}: the program says: {}", call.as_str(), printable(cut)),
    };
    match kind {
        Kind::Setup => EngineError::Setup(text),
        Kind::Refused => EngineError::Refused(text),
        Kind::Unreachable => EngineError::Unreachable(text),
        Kind::NoValue => EngineError::NoValue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> LeaseId {
        LeaseId::from_parts(1_700_000_000_000, 7)
    }

    fn said(call: Call, text: &str) -> String {
        let text = text.replace("LEASE", &lease().to_string());
        let about = match call {
            Call::List => About::All,
            Call::Rotate => About::Version("n"),
            _ => About::Lease(lease()),
        };
        match answered(call, about, text.as_bytes(), &|_| false) {
            Ok(_) => "done".into(),
            Err(error) => format!("{error:?}"),
        }
    }

    #[test]
    fn an_answer_has_what_belongs_to_its_call_and_nothing_else() {
        for (call, good) in [
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"v"}"#),
            (
                Call::Create,
                r#" {"version":1,"lease":"LEASE","value_base64":"dg==","attributes":{"user":"u"},"reference":{"id":7},"expires":9} "#,
            ),
            (Call::Renew, r#"{"version":1,"lease":"LEASE"}"#),
            (Call::Renew, r#"{"version":1,"lease":"LEASE","expires":7}"#),
            (Call::Revoke, "{\"version\":1,\"lease\":\"LEASE\",\"found\":true}\n"),
            (Call::Probe, r#"{"version":1,"lease":"LEASE","alive":false}"#),
            (Call::List, r#"{"version":1,"names":["a"]}"#),
            (Call::Rotate, r#"{"version":1,"name":"n"}"#),
            (Call::Rotate, r#"{"version":1,"name":"n","value":"v","attributes":{"user":"u"},"reference":{"id":7}}"#),
        ] {
            assert_eq!(said(call, good), "done", "{good}");
        }
        for (call, bad, wanted) in [
            (Call::Create, "", "is cut off"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret"#, "is cut off"),
            (Call::Create, "s3cret", "not one object"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret"}{}"#, "not one object"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret","s3cret":1}"#, "unknown, missing or wrong"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret","value":"s3cret"}"#, "unknown, missing or wrong"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":["s3cret"]}"#, "unknown, missing or wrong"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret","attributes":{"a":1,"a":2}}"#, "unknown, missing or wrong"),
            (Call::Create, r#"{"version":1,"lease":"s3cret","value":"s3cret"}"#, "unknown, missing or wrong"),
            (Call::Create, r#"{"version":2,"lease":"LEASE","value":"s3cret"}"#, "version 2"),
            (Call::Create, r#"{"version":1,"value":"s3cret"}"#, "another lease"),
            (Call::Create, r#"{"version":1,"lease":"lease-00000000000000000000000000","value":"s3cret"}"#, "another lease"),
            (Call::Create, r#"{"version":1,"lease":"LEASE"}"#, "exactly one of value"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret","value_base64":""}"#, "exactly one of value"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","value":"s3cret","found":true}"#, "another call"),
            (Call::Revoke, r#"{"version":1,"lease":"LEASE"}"#, "lacks found"),
            (Call::Revoke, r#"{"version":1,"lease":"LEASE","found":true,"alive":false}"#, "another call"),
            (Call::Probe, r#"{"version":1,"lease":"LEASE","found":false}"#, "another call"),
            (Call::Renew, r#"{"version":1,"lease":"LEASE","value":"s3cret"}"#, "another call"),
            (Call::List, r#"{"version":1,"lease":"LEASE","names":[]}"#, "another lease"),
            (Call::List, r#"{"version":1}"#, "lacks names"),
            (Call::Rotate, r#"{"version":1,"value":"s3cret"}"#, "another name"),
            (Call::Rotate, r#"{"version":1,"name":"m","value":"s3cret"}"#, "another name"),
            (Call::Rotate, r#"{"version":1,"name":"n","lease":"LEASE","value":"s3cret"}"#, "another name"),
            (Call::Rotate, r#"{"version":1,"name":"n","value":"s3cret","value_base64":""}"#, "exactly one of value"),
            (Call::Rotate, r#"{"version":1,"name":"n","value":"s3cret","expires":7}"#, "another call"),
            (Call::Create, r#"{"version":1,"lease":"LEASE","name":"n","value":"s3cret"}"#, "another lease"),
            (Call::Revoke, r#"{"version":1,"name":"LEASE","found":true}"#, "another lease"),
            (Call::Revoke, r#"{"version":1,"found":true,"error":{"kind":"refused","message":"s3cret"}}"#, "is an error and more"),
            (Call::Revoke, r#"{"version":1,"error":{"kind":"s3cret","message":""}}"#, "unknown, missing or wrong"),
        ] {
            let said = said(call, bad);
            assert!(said.starts_with("Setup") && said.contains(wanted) && !said.contains("s3cret"), "{bad}: {said}");
        }
    }

    #[test]
    fn a_programs_error_is_one_bounded_line() {
        let error = |kind: &str, message: &str| {
            let text = serde_json::json!({"version": 1, "error": {"kind": kind, "message": message}}).to_string();
            said(Call::Revoke, &text)
        };
        assert_eq!(error("refused", "not any more"), r#"Refused("revoke: the program says: not any more")"#);
        assert!(error("setup", "a").starts_with("Setup") && error("unreachable", "a").starts_with("Unreachable"));
        assert_eq!(error("no-value", "a"), "NoValue");
        let Err(EngineError::Refused(text)) = answered(
            Call::Revoke,
            About::Lease(lease()),
            br#"{"version":1,"error":{"kind":"refused","message":"a\nlevel=error \u001b[31m\u202e"}}"#,
            &|_| false,
        ) else {
            panic!()
        };
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.contains(r"a\x0alevel=error \x1b[31m\xe2\x80\xae"), "{text}");
        assert!(error("refused", &"ä\n".repeat(10_000)).len() < 1200);
    }
}
