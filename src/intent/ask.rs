//! The body of a declaration, parsed strictly: every refusal names the field.

use crate::model::{Channel, CredentialName, Line, NameError, Operation, Purpose, Refusal, SecretName, Target, TicketId, Ttl};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, MapAccess, Visitor},
};
use serde_json::Value;
use std::fmt;

/// What a caller may say when it asks for a secret. Everything but the secret may be left to a declared use or to policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Which secret.
    pub secret: Option<SecretName>,
    /// Why.
    pub purpose: Option<Purpose>,
    /// What for.
    pub operation: Option<Operation>,
    /// Where.
    pub targets: Vec<Target>,
    /// For how long.
    pub ttl: Option<Ttl>,
    /// How often.
    pub uses: Option<u64>,
    /// For people.
    pub reason: Option<Line>,
    /// Tickets.
    pub tickets: Vec<TicketId>,
    /// How it should arrive.
    pub channel: Option<Channel>,
    /// What the lease should be bound to.
    pub holder: Option<HolderChoice>,
    /// Makes a repetition of this request give the same lease.
    pub idempotency_key: Option<String>,
    /// What a unit calls the secret that it wants. No body can say so.
    pub credential: Option<CredentialName>,
    /// The door of another protocol that it came through. No body can say so.
    pub adapter: Option<Adapter>,
}

/// A door for programs that do not speak our protocol. They can declare nothing, so only a declared use speaks for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Adapter {
    /// The read API of Vault and OpenBao.
    Vault,
    /// systemd's `LoadCredential=`.
    Systemd,
}

/// What a caller may bind its lease to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HolderChoice {
    /// The subject: the peer, or the parent of our client.
    Process,
    /// The leader of the subject's session.
    Ancestor,
    /// The subject's systemd unit.
    Unit,
    /// The subject's container.
    Container,
    /// The client itself, when the peer is our client: what `clav exec` does.
    Client,
}

/// Bytes that a body may have.
pub const MAX_BODY: usize = 16 << 10;
const MAX_TARGETS: usize = 8;
const MAX_TICKETS: usize = 3;
const MAX_USES: u64 = 1_000_000;
const TTL: &str = "a number of seconds from 1 to 2592000, such as 900, or a text with a unit (s, m, h, d), such as \"15m\" or \"1h\"";
const REASON: std::ops::RangeInclusive<usize> = 3..=500;

/// What a body may have.
const FIELDS: &str = "secret, purpose, operation, channel, holder, targets, tickets, ttl, uses, reason and idempotency_key";

impl Ask {
    /// What a client of another protocol asks for: a secret, and nothing about why.
    pub fn through(adapter: Adapter, secret: SecretName) -> Ask {
        Ask { secret: Some(secret), adapter: Some(adapter), ..Ask::default() }
    }

    /// Parses the body. Unknown and repeated fields, wrong types, values out of range and names that are not canonical are refused.
    pub fn parse(body: &[u8]) -> Result<Ask, Refusal> {
        if body.len() > MAX_BODY {
            return Err(Refusal::new(crate::model::Code::TOO_LARGE));
        }
        let Fields(fields) = serde_json::from_slice(body).map_err(|error| {
            Refusal::field("body", format_args!("is not a JSON object (line {}, column {})", error.line(), error.column()))
        })?;
        let mut ask = Ask::default();
        let mut seen: Vec<&str> = Vec::new();
        for (name, value) in &fields {
            if seen.contains(&name.as_str()) {
                return Err(Refusal::field("body", "names a field twice"));
            }
            seen.push(name);
            match name.as_str() {
                "secret" => ask.secret = Some(named("secret", value)?),
                "purpose" => ask.purpose = Some(named("purpose", value)?),
                "operation" => ask.operation = Some(one_of("operation", value, "read, write, admin or destroy")?),
                "channel" => ask.channel = Some(one_of("channel", value, "deliver, inject or sign")?),
                "holder" => ask.holder = Some(one_of("holder", value, "process, ancestor, unit, container or client")?),
                "targets" => ask.targets = list("targets", value, MAX_TARGETS)?,
                "tickets" => ask.tickets = list("tickets", value, MAX_TICKETS)?,
                "ttl" => ask.ttl = Some(one_of("ttl", value, TTL)?),
                "uses" => ask.uses = Some(count("uses", value)?),
                "reason" => ask.reason = Some(reason(value)?),
                "idempotency_key" => ask.idempotency_key = Some(key(value)?),
                // The name is the caller's text: it is not repeated.
                _ => return Err(Refusal::field("body", format_args!("has a field that the API does not know; there is {FIELDS}"))),
            }
        }
        Ok(ask)
    }

    /// What of a refused body can be read all the same, for the record: the secret, the purpose, the operation and the time.
    pub fn salvage(body: &[u8]) -> Ask {
        let fields = if body.len() > MAX_BODY { None } else { serde_json::from_slice::<Fields>(body).ok() };
        let fields = fields.map(|Fields(fields)| fields).unwrap_or_default();
        let value = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
        Ask {
            secret: value("secret").and_then(|value| named("secret", value).ok()),
            purpose: value("purpose").and_then(|value| named("purpose", value).ok()),
            operation: value("operation").and_then(|value| one_of("operation", value, "").ok()),
            ttl: value("ttl").and_then(|value| one_of("ttl", value, "").ok()),
            ..Ask::default()
        }
    }
}

fn text<'a>(field: &'static str, value: &'a Value) -> Result<&'a str, Refusal> {
    value.as_str().ok_or_else(|| Refusal::field(field, "must be a string"))
}

fn named<T: std::str::FromStr<Err = NameError>>(field: &'static str, value: &Value) -> Result<T, Refusal> {
    text(field, value)?.parse().map_err(|error| Refusal::field(field, error))
}

fn one_of<T: DeserializeOwned>(field: &'static str, value: &Value, what: &str) -> Result<T, Refusal> {
    T::deserialize(value).map_err(|_| Refusal::field(field, format_args!("must be {what}")))
}

fn list<T>(field: &'static str, value: &Value, max: usize) -> Result<Vec<T>, Refusal>
where
    T::Error: fmt::Display,
    T: TryFrom<String> + Ord,
{
    let items = value.as_array().ok_or_else(|| Refusal::field(field, "must be a list of strings"))?;
    if items.len() > max {
        return Err(Refusal::field(field, format_args!("has more than {max} entries")));
    }
    let mut out = Vec::with_capacity(items.len());
    for (n, item) in items.iter().enumerate() {
        let text = item.as_str().ok_or_else(|| Refusal::field(field, "must be a list of strings"))?;
        out.push(T::try_from(text.to_owned()).map_err(|error| Refusal::field(format!("{field}[{n}]"), error))?);
    }
    out.sort();
    out.dedup();
    Ok(out)
}

fn count(field: &'static str, value: &Value) -> Result<u64, Refusal> {
    let in_range = value.as_u64().filter(|n| (1..=MAX_USES).contains(n));
    in_range.ok_or_else(|| Refusal::field(field, format_args!("must be a whole number from 1 to {MAX_USES}")))
}

fn reason(value: &Value) -> Result<Line, Refusal> {
    let line = Line::parse(text("reason", value)?).map_err(|error| Refusal::field("reason", error))?;
    if REASON.contains(&line.as_str().trim().chars().count()) {
        Ok(line)
    } else {
        Err(Refusal::field("reason", "is too short to tell anybody anything"))
    }
}

fn key(value: &Value) -> Result<String, Refusal> {
    let text = text("idempotency_key", value)?;
    let sound = (16..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if sound { Ok(text.to_owned()) } else { Err(Refusal::field("idempotency_key", "must be 16 to 64 letters, digits, '-', '_' or '.'")) }
}

/// The members of an object in order, repetitions kept.
struct Fields(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Fields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut out = Vec::new();
                while let Some(member) = map.next_entry()? {
                    out.push(member);
                }
                Ok(Fields(out))
            }
        }
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn field_of(body: &str) -> String {
        Ask::parse(body.as_bytes()).unwrap_err().field.unwrap_or_default().into_owned()
    }

    #[test]
    fn a_full_declaration() {
        let ask = Ask::parse(
            br#"{"secret":"db/ro","purpose":"serve","operation":"read","targets":["db:5432"],"ttl":"15m","uses":3,
                "reason":"nightly report","tickets":["jira:OPS-1"],"channel":"deliver","holder":"unit","idempotency_key":"0123456789abcdef"}"#,
        )
        .unwrap();
        assert_eq!(ask.ttl.unwrap().as_secs(), 900);
        assert_eq!(ask.targets.len(), 1);
    }

    #[test]
    fn every_refusal_names_its_field() {
        for (body, field) in [
            ("", "body"),
            ("[]", "body"),
            (r#"{"secret":"a","secret":"b"}"#, "body"),
            (r#"{"sceret":"a"}"#, "body"),
            (r#"{"secret":7}"#, "secret"),
            (r#"{"secret":"A"}"#, "secret"),
            (r#"{"secret":" a"}"#, "secret"),
            ("{\"secret\":\"a\u{200b}\"}", "secret"),
            (r#"{"purpose":"a/b"}"#, "purpose"),
            (r#"{"operation":"READ"}"#, "operation"),
            (r#"{"targets":"db"}"#, "targets"),
            (r#"{"targets":["db","10.0.0.1"]}"#, "targets[1]"),
            (r#"{"targets":["a","b","c","d","e","f","g","h","i"]}"#, "targets"),
            (r#"{"ttl":0}"#, "ttl"),
            (r#"{"ttl":-5}"#, "ttl"),
            (r#"{"ttl":1.5}"#, "ttl"),
            (r#"{"uses":0}"#, "uses"),
            (r#"{"uses":1e3}"#, "uses"),
            (r#"{"reason":"x"}"#, "reason"),
            (r#"{"reason":"line\nbreak here"}"#, "reason"),
            ("{\"reason\":\"rtl \u{202e} here\"}", "reason"),
            (r#"{"tickets":["OPS-1"]}"#, "tickets[0]"),
            (r#"{"holder":"me"}"#, "holder"),
            (r#"{"idempotency_key":"short"}"#, "idempotency_key"),
        ] {
            assert_eq!(field_of(body), field, "{body}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Ask::parse(&body);
        }

        #[test]
        fn a_refusal_repeats_nothing_the_caller_said(word in "[g-z]{12,20}") {
            let refusal = Ask::parse(format!(r#"{{"secret":"{word} X"}}"#).as_bytes()).unwrap_err();
            prop_assert!(!refusal.message.contains(&word));
            let refusal = Ask::parse(format!(r#"{{"{word}":1}}"#).as_bytes()).unwrap_err();
            prop_assert!(!refusal.message.contains(&word));
        }
    }
}
