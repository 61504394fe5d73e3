//! A secret in Vault's shapes: written once into a buffer that is wiped after it was sent.

use super::super::reply::{self, Body};
use crate::{
    broker::Delivery,
    engine::{AGE, Attribute, STALE, stale_age},
    model::{Code, Refusal},
};
use hyper::{Response, StatusCode};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::json;
use std::{
    fmt,
    io::{self, Write},
};
use zeroize::Zeroizing;

/// In which of its two shapes a secret is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// From `secret/data/`: without a lease, with a version.
    Kv,
    /// From `creds/`: with its lease.
    Leased,
}

/// The answer to a read; the lease has so many seconds left.
pub(super) fn secret(delivery: &Delivery, left: u64, read: Read) -> Response<Body> {
    let written = match delivery.pinned() {
        None => write(delivery, left, read),
        Some(_) => Err(io::Error::other("nothing is sealed here")),
    };
    match written {
        Ok((bytes, secret)) => reply::wiped(StatusCode::OK, delivery.request(), bytes, secret),
        Err(_) => super::refused(delivery.request(), &Refusal::new(Code::INTERNAL)),
    }
}

/// The answer, and where in it the secret has ended.
fn write(delivery: &Delivery, left: u64, read: Read) -> io::Result<(Zeroizing<Vec<u8>>, usize)> {
    let lease = delivery.lease();
    let mut out = Zeroizing::new(Vec::with_capacity(6 * delivery.value().len() + 2048));
    out.extend_from_slice(if read == Read::Kv { br#"{"data":{"data":{"# } else { br#"{"data":{"# });
    members(&mut out, delivery.value().expose(), delivery.attributes(), read)?;
    out.push(b'}');
    let secret = out.len();
    if read == Read::Kv {
        let version = delivery.attributes().iter().find(|(name, _)| *name == VERSION).and_then(|(_, text)| text.parse::<u64>().ok());
        let mut metadata = json!({
            "version": version, "created_time": lease.issued.rfc3339(), "deletion_time": "", "destroyed": false,
            "custom_metadata": { "lease_id": lease.id, "expires": lease.expires.rfc3339(), "ends_by": lease.ends_by },
        });
        if let Some(age) = stale_age(delivery.attributes()) {
            metadata["custom_metadata"][STALE] = json!("true");
            metadata["custom_metadata"][AGE] = json!(age.to_string());
        }
        write!(out, r#","metadata":{metadata}}}"#)?;
    }
    let (id, renewable, left) = match read {
        Read::Kv => (String::new(), false, 0),
        Read::Leased => (lease.id.to_string(), lease.renewable, left),
    };
    write!(
        out,
        r#","request_id":"{}","lease_id":"{id}","renewable":{renewable},"lease_duration":{left},"wrap_info":null,"warnings":"#,
        delivery.request()
    )?;
    match (delivery.clamped(), stale_age(delivery.attributes())) {
        ([], None) => out.extend_from_slice(b"null"),
        (clamped, stale) => {
            let stale = stale.map(|age| format!("stale: the source cannot be asked; it confirmed this value {age} s ago"));
            serde_json::to_writer(&mut *out, &clamped.iter().cloned().chain(stale).collect::<Vec<_>>())?;
        }
    }
    out.extend_from_slice(br#","auth":null}"#);
    Ok((out, secret))
}

/// The attribute that says which version of the value it is; it stands in the metadata.
const VERSION: &str = "version";

/// The members of `data`: a value that is an object of JSON gives its own, any other is one called `value`, or `password` where a leased user
/// name stands beside it. Attributes follow under their names, unless the value has one of that name.
fn members(out: &mut Vec<u8>, value: &[u8], attributes: &[Attribute], read: Read) -> io::Result<()> {
    let text = std::str::from_utf8(value).ok();
    let named = read == Read::Leased && attributes.iter().any(|(name, _)| *name == "username");
    let mut taken = Vec::new();
    let own = if named { "password" } else { "value" };
    if let Some((inside, names)) = text.and_then(object) {
        out.extend_from_slice(inside.as_bytes());
        taken = names;
    } else {
        write!(out, r#""{own}":"#)?;
        match text {
            Some(text) => serde_json::to_writer(&mut *out, text)?,
            None => {
                out.push(b'"');
                let mut encoder = base64::write::EncoderWriter::new(&mut *out, &base64::engine::general_purpose::STANDARD);
                encoder.write_all(value)?;
                encoder.finish()?;
                drop(encoder);
                out.extend_from_slice(br#"","encoding":"base64""#);
                taken.push(Zeroizing::new("encoding".to_owned()));
            }
        }
        taken.push(Zeroizing::new(own.to_owned()));
    }
    let mut first = taken.is_empty();
    let is_stale = stale_age(attributes).is_some();
    for (at, (name, value)) in attributes.iter().enumerate() {
        // What is said about the value is not taken for a part of it.
        let stands_elsewhere = (*name == VERSION && read == Read::Kv) || (is_stale && (*name == STALE || *name == AGE));
        let is_taken = taken.iter().any(|taken| taken.as_str() == *name) || attributes[..at].iter().any(|(before, _)| before == name);
        if stands_elsewhere || is_taken {
            continue;
        }
        out.extend_from_slice(if first { b"" } else { b"," });
        first = false;
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value)?;
    }
    Ok(())
}

/// What stands between the braces of an object of JSON, and its names; `None` for whatever else, and for an object that names a member twice:
/// readers would not agree about what it says.
fn object(text: &str) -> Option<(&str, Vec<Zeroizing<String>>)> {
    let inside = text.trim_matches([' ', '\t', '\n', '\r']).strip_prefix('{')?.strip_suffix('}')?;
    let Names(names) = serde_json::from_str(text).ok()?;
    Some((inside, names))
}

/// Any value that every reader takes: no number out of range, no half of a character, no depth without end. Nothing of it is kept.
struct Sound;

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Sound;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
                Ok(Sound)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sound, A::Error> {
                while list.next_element::<Sound>()?.is_some() {}
                Ok(Sound)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sound, A::Error> {
                while map.next_entry::<Sound, Sound>()?.is_some() {}
                Ok(Sound)
            }
        }
        from.deserialize_any(Anything)
    }
}

/// The names of an object's members. Their values are passed over.
struct Names(Vec<Zeroizing<String>>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Names;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names: Vec<Zeroizing<String>> = Vec::new();
                while let Some((name, Sound)) = map.next_entry::<String, Sound>()? {
                    let name = Zeroizing::new(name);
                    if names.contains(&name) {
                        return Err(serde::de::Error::custom("a name stands twice"));
                    }
                    names.push(name);
                }
                Ok(Names(names))
            }
        }
        from.deserialize_map(Members)
    }
}

/// What the answer would hold, for fuzzing: its `data`.
#[cfg(any(test, feature = "testing"))]
pub(in crate::server) fn data_of(value: &[u8], attributes: &[(&'static str, String)], leased: bool) -> Vec<u8> {
    let attributes: Vec<Attribute> = attributes.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    let mut out = b"{".to_vec();
    let written = members(&mut out, value, &attributes, if leased { Read::Leased } else { Read::Kv });
    assert!(written.is_ok(), "memory takes all");
    out.push(b'}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn data(value: &[u8], attributes: &[(&'static str, &str)], leased: bool) -> Value {
        let attributes: Vec<(&'static str, String)> = attributes.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        serde_json::from_slice(&data_of(value, &attributes, leased)).unwrap()
    }

    #[test]
    fn a_value_is_one_member_or_brings_its_own() {
        assert_eq!(data(b"pass\"word", &[("version", "3")], false), json!({"value": "pass\"word"}));
        assert_eq!(data(b"x", &[("version", "3")], true), json!({"value": "x", "version": "3"}));
        assert_eq!(data(b"p", &[("username", "u"), ("host", "h")], true), json!({"username": "u", "password": "p", "host": "h"}));
        assert_eq!(data(b"p", &[("username", "u")], false), json!({"username": "u", "value": "p"}));
        assert_eq!(data(b" {\"a\": 1, \"b\": {\"c\": []}}\n", &[("a", "x"), ("d", "y")], false), json!({"a": 1, "b": {"c": []}, "d": "y"}));
        assert_eq!(data(b"{}", &[("d", "y")], false), json!({"d": "y"}));
        assert_eq!(data(b"x", &[("d", "y"), ("stale", "true"), ("age", "7")], true), json!({"value": "x", "d": "y"}));
        assert_eq!(data(b"x", &[("age", "of the key")], false), json!({"value": "x", "age": "of the key"}));
        assert_eq!(data(&[0xff, 0], &[("encoding", "of the file")], false), json!({"value": "/wA=", "encoding": "base64"}));
        // No object, or one that says two things: as it is.
        for other in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":1}{"b":2}"#,
            r#"["a"]"#,
            r#"{"a":"#,
            "{a}",
            r#""}{""#,
            r#"{"a":1}}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e999}"#,
        ] {
            assert_eq!(data(other.as_bytes(), &[], false), json!({ "value": other }), "{other}");
        }
    }
}
