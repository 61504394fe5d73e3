//! `local`: secrets that lie encrypted on this host. There is nothing upstream: a copy already taken stays valid until the secret is
//! changed where it is used, and every lease says so (`ends_by = none`).

mod envelope;
#[cfg(feature = "testing")]
pub mod heard;
mod record;
mod store;

#[cfg(test)]
mod tests;

pub use record::VERSIONS_KEPT;
pub use store::{LocalStore, StoredSecret, StoredVersion, VALUE_MAX};

use super::{Again, Engine, EngineError, Issued, Order, Over, UpstreamRef, Version};
use crate::{
    model::{EndsBy, LeaseId, SecretDefinition},
    sys::FileError,
};
use async_trait::async_trait;
use std::{path::PathBuf, sync::Arc};

/// Why the store could not do it. All are the operator's to mend; none holds a value.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file could not be read or written, or others can reach it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not what this program writes.
    #[error("{path}: is not a record of the store: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        why: String,
    },
    /// Written by another version of the program.
    #[error("{path}: has format {found}, this program reads format 1: use the program that wrote it")]
    Format {
        /// The file.
        path: PathBuf,
        /// The format it names.
        found: u32,
    },
    /// Sealed under a master key that was not given.
    #[error(
        "is sealed under the master key {0}, which is not the one given; if the key was exchanged, local.previous_key_file has to name a file with the one before"
    )]
    OtherKey(String),
    /// Changed, or moved from another store, name or version.
    #[error("{0}: was changed, or belongs elsewhere")]
    Damaged(String),
    /// No such secret or version.
    #[error("there is no such value")]
    NoValue,
    /// An empty value is a mistake, not a secret.
    #[error("the value is empty")]
    Empty,
    /// Over 64 KiB.
    #[error("the value is larger than 65536 bytes")]
    TooLarge,
}

/// The engine over the store.
pub struct LocalEngine {
    store: Arc<LocalStore>,
}

impl LocalEngine {
    /// An engine that gives what is in `store`.
    pub fn new(store: Arc<LocalStore>) -> Self {
        Self { store }
    }

    fn again(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let version = version_of(order, reference)?;
        let value = self.store.version(&order.secret.name, version).map_err(refuse)?;
        Ok(Again { value, attributes: vec![("version".into(), version.to_string())] })
    }
}

#[async_trait]
impl Engine for LocalEngine {
    fn kind(&self) -> &'static str {
        "local"
    }

    fn ends_by(&self, _secret: &SecretDefinition) -> EndsBy {
        EndsBy::None
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        check(secret)
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let (version, value) = self.store.newest(&order.secret.name).map_err(refuse)?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("name", order.secret.name.as_str());
        reference.0.insert("version", version);
        Ok(Issued { value, attributes: vec![("version".into(), version.to_string())], reference })
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let Again { value, attributes } = self.again(order, reference)?;
        Ok(Issued { value, attributes, reference: reference.clone() })
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(self.again(order, reference))
    }

    fn is_newest(&self, secret: &SecretDefinition, reference: &UpstreamRef) -> bool {
        let version = reference.0.get("version").and_then(serde_json::Value::as_u64);
        version.is_some() && version == self.store.newest_version(&secret.name).map(|(version, _)| version)
    }

    async fn newest(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        Ok(self.store.newest_version(&secret.name).map(|(number, made)| Version { number, made }))
    }

    async fn rotate(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        let name = &secret.name;
        Err(EngineError::Setup(format!("change the value where it is used, then put the new one here: 'clav secret put {name}'")))
    }

    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        // Nothing upstream knows of the lease; a value that is gone is worth saying now and not at the next read.
        self.again(order, reference).map(drop)
    }

    async fn end(&self, _lease: LeaseId, _reference: &UpstreamRef) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }

    async fn settle(&self, _lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }
}

/// Whether a definition's settings are none, as it has to be; the text says which is there.
pub fn check(secret: &SecretDefinition) -> Result<(), String> {
    match secret.settings.keys().next() {
        None => Ok(()),
        Some(key) => Err(format!("{}: the local engine has no setting {key:?}", secret.name)),
    }
}

/// The version a lease was issued with: of the secret that the lease is about, and of no other.
fn version_of(order: &Order<'_>, reference: &UpstreamRef) -> Result<u64, EngineError> {
    let name = reference.0.get("name").and_then(serde_json::Value::as_str);
    let version = reference.0.get("version").and_then(serde_json::Value::as_u64);
    match version {
        Some(version) if name == Some(order.secret.name.as_str()) => Ok(version),
        _ => Err(EngineError::Setup(format!("{} does not say which version of {} it has", order.lease, order.secret.name))),
    }
}

fn refuse(error: StoreError) -> EngineError {
    match error {
        StoreError::NoValue => EngineError::NoValue,
        other => EngineError::Setup(format!("local store: {other}")),
    }
}
