//! From an answer to a value and what stands beside it.

use super::{super::Attribute, settings::Pick};
use crate::model::SecretBytes;
use serde_json::{Map, Value};

/// How private keys in PEM begin, after their kind: a member like that is a likely slip, as it lies beside its certificate.
const PRIVATE: &str = "PRIVATE KEY-----";

/// The value that the settings choose, and the attributes. The text says what is missing; names of members are no secret.
pub(super) fn picked(data: &Map<String, Value>, pick: &Pick) -> Result<(SecretBytes, Vec<Attribute>), String> {
    let find = |name: &String| {
        data.get(name).ok_or_else(|| {
            let mut known: Vec<&str> = data.keys().map(String::as_str).collect();
            known.sort_unstable();
            format!("has no field {name:?}; there is {}", known.join(", "))
        })
    };
    let value = match &pick.field {
        Some(name) => bytes(find(name)?),
        // Never fails: the members are JSON already.
        None => serde_json::to_vec(data).unwrap_or_default(),
    };
    if value.is_empty() {
        return Err("the value is empty".into());
    }
    let mut beside = Vec::new();
    for name in &pick.attributes {
        let text = String::from_utf8_lossy(&bytes(find(name)?)).into_owned();
        if text.contains(PRIVATE) {
            return Err(format!("{name} is a private key: attributes stand on the record"));
        }
        beside.push((name.clone().into(), text));
    }
    Ok((SecretBytes::new(value), beside))
}

/// A text as it is, anything else as JSON.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        Value::Null => Vec::new(),
        other => other.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_or_all_of_it() {
        let data = json!({"user": "u", "password": "p", "port": 5432, "none": null});
        let data = data.as_object().unwrap();
        let pick = |field: Option<&str>, attributes: &[&str]| {
            let pick = Pick { field: field.map(str::to_owned), attributes: attributes.iter().map(|name| (*name).to_owned()).collect() };
            picked(data, &pick).map(|(value, beside)| (String::from_utf8(value.expose().to_vec()).unwrap(), beside))
        };
        assert_eq!(
            pick(Some("password"), &["user", "port"]).unwrap(),
            ("p".into(), vec![("user".into(), "u".into()), ("port".into(), "5432".into())])
        );
        assert_eq!(serde_json::from_str::<Map<String, Value>>(&pick(None, &[]).unwrap().0).unwrap(), *data);
        assert_eq!(pick(Some("pasword"), &[]).unwrap_err(), "has no field \"pasword\"; there is none, password, port, user");
        assert!(pick(Some("none"), &[]).is_err());
        let made = json!({"certificate": "c", "private_key": "-----BEGIN EC PRIVATE KEY-----\nk"});
        let slip = Pick { field: Some("certificate".into()), attributes: vec!["private_key".into()] };
        assert!(picked(made.as_object().unwrap(), &slip).is_err_and(|why| why.starts_with("private_key is a private key")));
    }
}
