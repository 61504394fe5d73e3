//! What an operator sets for each secret: one value of a KV store, a path that gives leases, or a token.

use super::{
    super::{AGE, Order, STALE, narrows::ByOperation},
    generate::Generate,
    kv::KEPT_FOR,
};
use crate::model::{Operation, SecretDefinition, Ttl};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// The settings of one secret.
pub(super) enum Settings {
    Kv(Kv),
    Read(Read),
    Token(TokenRow),
}

/// A value of a KV version 2 store.
pub(super) struct Kv {
    pub(super) path: KvPath,
    pub(super) version: Option<u64>,
    pub(super) pick: Pick,
    /// How another value is made when it is changed.
    pub(super) generate: Option<Generate>,
    /// How old the value may be that is given while the server cannot be asked; none is without.
    pub(super) max_stale: Option<Ttl>,
    /// A sealed copy on this host's disk outlives the daemon.
    pub(super) offline: bool,
}

/// Where a value is: the store's mount and the path in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct KvPath {
    pub(super) mount: String,
    pub(super) path: String,
}

/// A path that makes something when it is read or written.
pub(super) struct Read {
    paths: ByOperation<String>,
    pub(super) write: Option<Map<String, Value>>,
    pub(super) policies: Vec<String>,
    pub(super) pick: Pick,
    /// What it makes dies by its own expiry and cannot be revoked.
    pub(super) short_life: bool,
}

/// What of an answer is the value, and what stands beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pick {
    /// The whole of it, as JSON, without.
    pub(super) field: Option<String>,
    pub(super) attributes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRow {
    policies: ByOperation<BTreeSet<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ends {
    Upstream,
    ShortLife,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    kv: Option<String>,
    mount: Option<String>,
    version: Option<u64>,
    generate: Option<Generate>,
    max_stale: Option<Ttl>,
    #[serde(default)]
    offline: bool,
    read: Option<ByOperation<String>>,
    write: Option<Map<String, Value>>,
    token: Option<TokenRow>,
    field: Option<String>,
    #[serde(default)]
    attributes: Vec<String>,
    #[serde(default)]
    policies: Vec<String>,
    ends: Option<Ends>,
}

/// What stands in for a part of the order in a text of `write`.
const PLACEHOLDERS: [&str; 5] = ["{{identity}}", "{{lease}}", "{{purpose}}", "{{intent}}", "{{ttl}}"];

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let raw: Raw =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        Self::of(raw, secret.operation).map_err(|what| format!("{}: {what}", secret.name))
    }

    fn of(raw: Raw, worst: Operation) -> Result<Self, String> {
        let pick = Pick { field: raw.field, attributes: raw.attributes };
        if pick.attributes.iter().any(|name| !is_word(name)) {
            return Err("attributes: names of 1 to 64 letters, digits and _".into());
        }
        if raw
            .policies
            .iter()
            .chain(raw.token.iter().flat_map(|token| token.policies.all().flatten()))
            .any(|name| name.is_empty() || name == "root")
        {
            return Err("policies: names of policies that the token role allows, never root".into());
        }
        match (raw.kv, raw.read, raw.token) {
            (Some(path), None, None) => {
                if raw.write.is_some() || !raw.policies.is_empty() || raw.ends.is_some() {
                    return Err("write, policies and ends go with read, not with kv".into());
                }
                if raw.version == Some(0) {
                    return Err("version: numbers begin at 1; leave it out for the newest".into());
                }
                if let Some(generate) = &raw.generate {
                    generate.check()?;
                    if pick.field.is_none() || raw.version.is_some() {
                        return Err("generate: needs field, the member that is made, and no version".into());
                    }
                }
                check_stale(raw.max_stale, raw.offline, &pick)?;
                let Raw { version, generate, max_stale, offline, .. } = raw;
                Ok(Settings::Kv(Kv { path: kv_path(&path, raw.mount)?, version, pick, generate, max_stale, offline }))
            }
            (None, Some(paths), None) => {
                if raw.mount.is_some() || raw.version.is_some() || raw.generate.is_some() || raw.max_stale.is_some() || raw.offline {
                    return Err("mount, version, generate, max_stale and offline go with kv, not with read".into());
                }
                // In whatever form it comes: attributes stand on the record.
                if pick.attributes.iter().any(|name| name == "private_key") {
                    return Err("attributes: private_key is a secret, and attributes stand on the record: take it as field".into());
                }
                check_paths(&paths, worst)?;
                raw.write.iter().flat_map(|members| members.values()).try_for_each(check_template)?;
                let short_life = matches!(raw.ends, Some(Ends::ShortLife));
                Ok(Settings::Read(Read { paths, write: raw.write, policies: raw.policies, pick, short_life }))
            }
            (None, None, Some(token)) => {
                let others =
                    raw.mount.is_some() || raw.version.is_some() || raw.generate.is_some() || raw.write.is_some() || raw.ends.is_some();
                if others || raw.max_stale.is_some() || raw.offline || !raw.policies.is_empty() || pick != Pick::default() {
                    return Err("token: nothing stands beside it; its policies are in it".into());
                }
                if token.policies.all().any(BTreeSet::is_empty) {
                    return Err("token: policies names at least one, or the token may do nothing".into());
                }
                token
                    .policies
                    .check(worst)
                    .and_then(|()| token.policies.check_growth())
                    .map_err(|what| format!("token: policies: {what}"))?;
                Ok(Settings::Token(token))
            }
            _ => Err("needs exactly one of kv, read and token".into()),
        }
    }
}

impl TokenRow {
    /// The policies for what the holder will do.
    pub(super) fn policies(&self, operation: Operation) -> Option<Vec<String>> {
        self.policies.at(operation).map(|policies| policies.iter().cloned().collect())
    }

    /// The operations below the worst that have fewer policies.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation> {
        self.policies.narrows(worst)
    }
}

impl Read {
    /// The path for what the holder will do: that of the operation, or of the least harmful one above it.
    pub(super) fn path(&self, operation: Operation) -> Option<&str> {
        self.paths.at(operation).map(String::as_str)
    }

    /// Every path of the row.
    pub(super) fn all(&self) -> impl Iterator<Item = &str> {
        self.paths.all().map(String::as_str)
    }

    /// The operations below the worst that have a path of their own.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation> {
        self.paths.narrows(worst)
    }

    /// What is written to the path, with the order's words in their places.
    pub(super) fn body(&self, order: &Order<'_>, seconds: u64) -> Option<Map<String, Value>> {
        let mut body = self.write.clone()?;
        for value in body.values_mut() {
            if let Value::String(text) = value {
                let words = [
                    order.identity.to_string(),
                    order.lease.to_string(),
                    order.purpose.to_string(),
                    order.intent_digest(),
                    format!("{seconds}s"),
                ];
                for (placeholder, word) in PLACEHOLDERS.iter().zip(words) {
                    *text = text.replace(placeholder, &word);
                }
            }
        }
        Some(body)
    }
}

fn kv_path(text: &str, mount: Option<String>) -> Result<KvPath, String> {
    let (mount, path) = match mount {
        Some(mount) => (mount, text.to_owned()),
        None => {
            let (mount, path) = text.split_once('/').ok_or("kv: MOUNT/PATH, such as \"secret/app/db\"")?;
            (mount.to_owned(), path.to_owned())
        }
    };
    if !is_path(&mount) || !is_path(&path) {
        return Err("kv and mount: paths without a slash at their ends, empty parts or dots alone".into());
    }
    Ok(KvPath { mount, path })
}

fn check_stale(max: Option<Ttl>, offline: bool, pick: &Pick) -> Result<(), String> {
    match max {
        None if offline => Err("offline: goes with max_stale, which says how old a copy may be".into()),
        Some(max) if u64::from(max.as_secs()) * 1_000_000 < KEPT_FOR => {
            Err("max_stale: at least 5m, for so long a value is read again without asking anyway".into())
        }
        Some(_) if pick.attributes.iter().any(|name| name == STALE || name == AGE) => {
            Err(format!("attributes: {STALE} and {AGE} are said of a value whose server cannot be asked"))
        }
        _ => Ok(()),
    }
}

fn check_paths(paths: &ByOperation<String>, worst: Operation) -> Result<(), String> {
    paths.check(worst).map_err(|what| format!("read: {what}"))?;
    for path in paths.all() {
        if !is_path(path) {
            return Err(format!("read: {path:?} is no path: no slash at its ends, no empty parts, no dots alone"));
        }
        // What the server's own parts answer is nobody's credential.
        if ["sys", "auth", "identity", "cubbyhole"].contains(&path.split('/').next().unwrap_or_default()) {
            return Err(format!("read: {path:?} is a path of the server's own"));
        }
    }
    Ok(())
}

fn check_template(value: &Value) -> Result<(), String> {
    let Value::String(text) = value else { return Ok(()) };
    let rest = PLACEHOLDERS.iter().fold(text.clone(), |rest, placeholder| rest.replace(placeholder, ""));
    if rest.contains("{{") { Err(format!("write: {text:?} has a placeholder other than {}", PLACEHOLDERS.join(", "))) } else { Ok(()) }
}

fn is_path(text: &str) -> bool {
    text.len() <= 512 && !text.chars().any(char::is_control) && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(settings: serde_json::Value) -> Result<Settings, String> {
        Settings::of(serde_json::from_value(settings).map_err(|why: serde_json::Error| why.to_string())?, Operation::Write)
    }

    #[test]
    fn exactly_one_kind_with_what_belongs_to_it() {
        use serde_json::json;
        for good in [
            json!({"kv": "secret/app/db"}),
            json!({"kv": "app/db", "mount": "team/kv", "version": 3, "field": "password", "attributes": ["user"]}),
            json!({"read": "database/creds/ro", "field": "password", "attributes": ["username"], "policies": ["db-ro"]}),
            json!({"read": {"read": "database/creds/ro", "write": "database/creds/rw"}}),
            json!({"read": "pki/issue/web", "write": {"common_name": "{{identity}}.test", "ttl": "{{ttl}}", "ou": "{{intent}}"}, "ends": "short-life"}),
            json!({"token": {"policies": ["app"]}}),
            json!({"token": {"policies": {"read": ["app"], "write": ["app", "app-write"]}}}),
            json!({"kv": "secret/app/db", "field": "password", "generate": {"length": 32}}),
            json!({"kv": "secret/app/db", "attributes": ["age"]}),
            json!({"kv": "secret/app/db", "max_stale": "4h", "attributes": ["user"]}),
            json!({"kv": "secret/app/db", "max_stale": "5m", "offline": true, "version": 3}),
        ] {
            assert!(parse(good.clone()).is_ok(), "{good}");
        }
        for bad in [
            json!({}),
            json!({"kv": "secret/app", "read": "database/creds/ro"}),
            json!({"kv": "secret"}),
            json!({"kv": "secret/x", "generate": {}}),
            json!({"kv": "secret/x", "field": "y", "version": 1, "generate": {}}),
            json!({"kv": "secret/x", "field": "y", "generate": {"length": 8}}),
            json!({"read": "x/y", "field": "y", "generate": {}}),
            json!({"kv": "secret/../x"}),
            json!({"kv": "secret//x"}),
            json!({"kv": "secret/x", "version": 0}),
            json!({"kv": "secret/x", "policies": ["a"]}),
            json!({"read": "/database/creds/ro"}),
            json!({"read": "auth/token/create"}),
            json!({"read": "sys/mounts"}),
            json!({"read": {"read": "database/creds/ro"}}),
            json!({"read": {"read": "database/creds/ro", "admin": "database/creds/rw"}}),
            json!({"read": "x/y", "version": 1}),
            json!({"read": "x/y", "write": {"a": "{{secret}}"}}),
            json!({"read": "x/y", "attributes": ["a b"]}),
            json!({"token": {"policies": []}}),
            json!({"token": {"policies": ["root"]}}),
            json!({"token": {"policies": {}}}),
            json!({"token": {"policies": {"read": ["app"], "write": ["root"]}}}),
            json!({"token": {"policies": {"read": ["app"], "write": ["other"]}}}),
            json!({"kv": "secret/x", "offline": true}),
            json!({"kv": "secret/x", "max_stale": "4m"}),
            json!({"kv": "secret/x", "max_stale": "4h", "attributes": ["age"]}),
            json!({"read": "x/y", "max_stale": "4h"}),
            json!({"token": {"policies": ["a"]}, "max_stale": "4h"}),
            json!({"token": {"policies": ["a"]}, "field": "x"}),
            json!({"token": {"policies": ["a"], "ttl": "1h"}}),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_operation_chooses_the_path() {
        let row = parse(serde_json::json!({"read": {"read": "d/ro", "write": "d/rw"}})).unwrap();
        let Settings::Read(read) = row else { panic!() };
        assert_eq!((read.path(Operation::Read), read.path(Operation::Write)), (Some("d/ro"), Some("d/rw")));
        assert_eq!(read.narrows(Operation::Write), [Operation::Read]);
        let row = parse(serde_json::json!({"read": {"read": "d/ro", "write": "d/ro"}})).unwrap();
        let Settings::Read(read) = row else { panic!() };
        assert_eq!(read.narrows(Operation::Write), [], "the same is not less");
    }
}
