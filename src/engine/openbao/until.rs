//! Until when something works that nobody can revoke, where the answer says so: the record calls it dead when its lease is over.

use serde_json::{Map, Value};

/// How far apart its end and that of its lease may be, in seconds: the server's clock is another than ours.
const APART: u64 = 60;

/// Whether what was given dies with a lease that ends then. What says nothing of its end is taken at the operator's word.
pub(super) fn check(data: &Map<String, Value>, end: u64) -> Result<(), String> {
    match dies(data)? {
        Some(at) if at.saturating_add(APART) < end => Err(format!("what it gives dies {} s before its lease (max_ttl there)", end - at)),
        Some(at) if at > end.saturating_add(APART) && !crate::mutation!("openbao-until") => {
            let longer = match at {
                u64::MAX => "for ever".to_owned(),
                at => format!("{} s longer than its lease", at - end),
            };
            Err(format!("what it gives lives {longer}, and nobody can revoke it: write needs ttl = \"{{{{ttl}}}}\""))
        }
        _ => Ok(()),
    }
}

/// In seconds since 1970: `pki` says it beside a certificate, `ssh` in it.
fn dies(data: &Map<String, Value>) -> Result<Option<u64>, String> {
    if let Some(text) = data.get("signed_key").and_then(Value::as_str) {
        let until = super::super::ssh::valid_until(text).ok_or("signed_key is no certificate of OpenSSH")?;
        return Ok(Some(until));
    }
    Ok(data.get("expiration").and_then(Value::as_u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn it_dies_with_its_lease_as_far_as_two_clocks_can_tell() {
        let of = |data: serde_json::Value| check(data.as_object().unwrap(), 1000);
        for good in [json!({"expiration": 1000}), json!({"expiration": 945}), json!({"expiration": 1055}), json!({"code": "1"})] {
            assert_eq!(of(good.clone()), Ok(()), "{good}");
        }
        assert!(of(json!({"expiration": 900})).unwrap_err().contains("dies 100 s before"));
        assert!(of(json!({"expiration": 1100})).unwrap_err().contains("lives 100 s longer"));
        assert!(of(json!({"signed_key": "ssh-ed25519-cert-v01@openssh.com AAAA"})).is_err());
    }
}
