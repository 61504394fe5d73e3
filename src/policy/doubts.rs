//! Grants that can cover nothing, because the rows that they name do not agree with them. They load all the same: a row may come later.

use super::{
    rule::Grant,
    source::{Notice, Warning},
};
use crate::model::{Catalogue, IdentityName, Purpose, Registry, SecretName, WallTime};

/// What is odd about a grant beside the identity and the secret that it names.
pub(super) fn doubts(grant: &Grant, catalogue: &Catalogue, registry: &Registry, today: WallTime) -> Vec<Warning> {
    let note = &grant.note;
    if note.expires <= today {
        return Vec::new();
    }
    let (identity, secret) = grant.reach.names();
    // A name that no row bears is a warning of its own.
    let identity = identity.and_then(|uid| registry.find(&IdentityName::parse(uid.id().unescaped()).ok()?));
    let secret = secret.and_then(|uid| catalogue.find(&SecretName::parse(uid.id().unescaped()).ok()?));
    let rows = [
        identity.map(|row| (format!("identity {}", row.name), &row.purposes)),
        secret.map(|row| (format!("secret {}", row.name), &row.purposes)),
    ];
    let mut found = Vec::new();
    for (whose, purposes) in rows.into_iter().flatten() {
        let listed = || purposes.iter().map(Purpose::as_str).collect::<Vec<_>>().join(", ");
        found.extend(note.purposes.iter().filter(|purpose| !purposes.contains(purpose)).map(|purpose| Notice::Purpose {
            id: note.id.to_string(),
            purpose: purpose.to_string(),
            whose: whose.clone(),
            listed: listed(),
        }));
    }
    if let (Some(identity), Some(secret)) = (identity, secret)
        && identity.environment != secret.environment
    {
        found.push(Notice::Environments {
            id: note.id.to_string(),
            identity: identity.name.to_string(),
            of_identity: identity.environment.to_string(),
            secret: secret.name.to_string(),
            of_secret: secret.environment.to_string(),
        });
    }
    found.into_iter().map(|notice| Warning { place: note.place.clone(), notice }).collect()
}
