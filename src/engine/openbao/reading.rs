//! What a lease has of a KV store: which version of which path it was given, and what it picks from it.

use super::{
    super::{Again, EngineError, Issued, UpstreamRef},
    kv::Version,
    offline::Which,
    pick::picked,
    settings::{Kv, KvPath, Pick},
};

/// What a lease of a KV store is given again.
pub(super) struct Reading {
    pub(super) path: KvPath,
    pub(super) version: u64,
    /// When that version was made, in microseconds since 1970. Metadata that is deleted takes the count of versions along: another value
    /// has the same number then.
    pub(super) made: Option<u64>,
    pub(super) pick: Pick,
}

impl Reading {
    /// That it is the version that the lease was made for; otherwise that one is gone.
    pub(super) fn check(&self, version: &Version) -> Result<(), EngineError> {
        match self.made {
            Some(made) if made != version.which.made.0 && !crate::mutation!("kv-made") => Err(EngineError::NoValue),
            _ => Ok(()),
        }
    }

    /// Whether nothing newer is known. Numbers may have begun anew.
    pub(super) fn is_as_new_as(&self, latest: Which) -> bool {
        match self.made {
            Some(made) => (latest.made.0, latest.number) <= (made, self.version),
            None => latest.number <= self.version,
        }
    }

    pub(super) fn of(&self, version: &Version) -> Result<Again, EngineError> {
        self.check(version)?;
        of_version(version, &self.path, &self.pick)
    }
}

/// A lease's value of a KV store, and how it is found again.
pub(super) fn of_kv(row: &Kv, version: &Version) -> Result<Issued, EngineError> {
    let mut reference = UpstreamRef::default();
    reference.0.insert("mount", row.path.mount.as_str());
    reference.0.insert("path", row.path.path.as_str());
    reference.0.insert("version", version.which.number);
    reference.0.insert("made", version.which.made.0);
    if let Some(field) = &row.pick.field {
        reference.0.insert("field", field.as_str());
    }
    if !row.pick.attributes.is_empty() {
        reference.0.insert("beside", row.pick.attributes.clone());
    }
    let Again { value, attributes } = of_version(version, &row.path, &row.pick)?;
    Ok(Issued { value, attributes, reference })
}

pub(super) fn of_version(version: &Version, path: &KvPath, pick: &Pick) -> Result<Again, EngineError> {
    let (value, mut attributes) = picked(&version.members(), pick)
        .map_err(|what| EngineError::Setup(format!("{}/{} version {}: {what}", path.mount, path.path, version.which.number)))?;
    attributes.push(("version".into(), version.which.number.to_string()));
    Ok(Again { value, attributes })
}
