//! Answers without a secret, in the members that clients of Vault look for.

use super::path::Mount;
use crate::{
    model::{Refusal, RequestId},
    wire::{LeaseView, SecretView, WhoAmI},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// What clients print: the code with its sentence, what would help, and how an operator finds it.
pub(super) fn errors(id: RequestId, refusal: &Refusal) -> Vec<String> {
    let mut out = vec![format!("{}: {}", refusal.code, refusal.message)];
    out.extend(refusal.remedies.iter().map(|remedy| remedy.sentence.clone()));
    if refusal.recorded {
        out.push(format!("on the record as {id}: an operator asks \"clav why {id}\""));
    }
    out
}

/// The frame of every answer.
pub(super) fn framed(id: RequestId, data: Value) -> Value {
    json!({
        "request_id": id, "lease_id": "", "renewable": false, "lease_duration": 0,
        "data": data, "wrap_info": null, "warnings": null, "auth": null,
    })
}

/// What `kv` asks first: which mount a path lies in.
pub(super) fn mount(mount: &Mount) -> Value {
    json!({
        "path": mount.path, "type": mount.kind, "options": mount.version.map(|version| json!({ "version": version })),
        "description": "claviger", "local": false, "seal_wrap": false, "external_entropy_access": false, "config": {},
    })
}

/// The entries directly below a folder, folders with a slash at their end.
pub(super) fn listed(secrets: &[SecretView], folder: Option<&str>) -> BTreeSet<String> {
    let begin = folder.map(|folder| format!("{folder}/")).unwrap_or_default();
    let below = secrets.iter().filter_map(|row| row.name.as_str().strip_prefix(begin.as_str()));
    below.map(|rest| rest.split_once('/').map_or_else(|| rest.to_owned(), |(folder, _)| format!("{folder}/"))).collect()
}

/// What `kv metadata get` shows of a secret; `newest` is its newest version and when that was stored.
pub(super) fn metadata(secret: &SecretView, newest: Option<(u64, String)>) -> Value {
    let (version, stored) = newest.unwrap_or_default();
    let mut versions = Map::new();
    if version > 0 {
        versions.insert(version.to_string(), json!({ "created_time": stored, "deletion_time": "", "destroyed": false }));
    }
    let purposes: Vec<&str> = secret.purposes.iter().map(|purpose| purpose.as_str()).collect();
    json!({
        "current_version": version, "oldest_version": version, "max_versions": 0, "created_time": stored, "updated_time": stored,
        "cas_required": false, "delete_version_after": "0s", "versions": versions,
        "custom_metadata": {
            "description": secret.description, "sensitivity": secret.sensitivity, "ends_by": secret.ends_by,
            "purposes": purposes.join(", "), "outcome": secret.outcome,
        },
    })
}

/// `sys/leases/lookup`.
pub(super) fn looked_up(lease: &LeaseView) -> Value {
    json!({
        "id": lease.id, "issue_time": lease.issued, "expire_time": lease.expires, "last_renewal": null,
        "renewable": lease.renewable, "ttl": lease.remaining,
        "secret": lease.secret, "purpose": lease.purpose, "holder": lease.holder, "ends_by": lease.ends_by,
    })
}

/// `sys/leases/renew`.
pub(super) fn renewed(id: RequestId, lease: &LeaseView, warning: Option<&str>) -> Value {
    let mut out = framed(id, Value::Null);
    out["lease_id"] = json!(lease.id);
    out["renewable"] = json!(lease.renewable);
    out["lease_duration"] = json!(lease.remaining);
    if let Some(warning) = warning {
        out["warnings"] = json!([warning]);
    }
    out
}

/// The attested process in the place of a token.
pub(super) fn token(caller: &WhoAmI) -> Option<Value> {
    let row = caller.identity.as_ref()?;
    Some(json!({
        "accessor": "", "id": "", "display_name": row.name, "policies": [row.name], "path": "claviger/attested", "type": "service",
        "creation_time": 0, "creation_ttl": 0, "explicit_max_ttl": 0, "expire_time": null, "ttl": 0, "num_uses": 0,
        "renewable": false, "orphan": true, "entity_id": "",
        "meta": {
            "kind": row.kind.as_str(), "owner": row.owner, "environment": row.environment,
            "assurance": caller.assurance, "max_sensitivity": row.max_sensitivity,
        },
    }))
}

/// `auth/token/renew-self`: there is nothing that would run out.
pub(super) fn login(id: RequestId, caller: &WhoAmI) -> Value {
    let mut out = framed(id, Value::Null);
    let name = caller.identity.as_ref().map(|row| row.name.as_str());
    out["auth"] = json!({
        "client_token": "", "accessor": "", "policies": [name], "token_policies": [name], "metadata": null,
        "lease_duration": 0, "renewable": false, "entity_id": "", "token_type": "service", "orphan": true, "num_uses": 0,
    });
    out
}

/// `sys/seal-status`.
pub(super) fn seal_status() -> Value {
    json!({
        "type": "claviger", "initialized": true, "sealed": false, "t": 0, "n": 0, "progress": 0, "nonce": "",
        "version": env!("CARGO_PKG_VERSION"), "build_date": "", "migration": false, "recovery_seal": false, "storage_type": "claviger",
    })
}

/// `sys/leader`.
pub(super) fn leader() -> Value {
    json!({ "ha_enabled": false, "is_self": true, "leader_address": "", "leader_cluster_address": "", "performance_standby": false })
}
