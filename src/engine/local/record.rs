//! What one file of the store holds: every kept version of one value.

use super::{StoreError, envelope::Envelope};
use crate::model::WallTime;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The format this program writes; it reads this one only, as there was none before.
pub(super) const FORMAT: u32 = 1;

/// Versions of one value that are kept; older ones go when a new one comes.
pub const VERSIONS_KEPT: usize = 10;

/// One file. A removed value leaves a record without versions, so that its numbers are never given again: a lease that refers to
/// version 3 must not find another value under that number.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    pub(super) format: u32,
    pub(super) store: String,
    pub(super) name: String,
    pub(super) next: u64,
    pub(super) versions: Vec<Version>,
}

/// One version at rest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Version {
    pub(super) version: u64,
    pub(super) bytes: usize,
    pub(super) created: WallTime,
    pub(super) envelope: Envelope,
}

impl Record {
    pub(super) fn new(store: &str, name: &str) -> Self {
        Self { format: FORMAT, store: store.into(), name: name.into(), next: 1, versions: Vec::new() }
    }

    /// Parses a file and holds it to its name and store; the seals are looked at when a value is opened.
    pub(super) fn parse(path: &Path, bytes: &[u8], store: &str) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let unreadable = |why: serde_json::Error| StoreError::Unreadable { path: path.into(), why: why.to_string() };
        let head: Head = serde_json::from_slice(bytes).map_err(unreadable)?;
        if head.format != FORMAT {
            return Err(StoreError::Format { path: path.into(), found: head.format });
        }
        let record: Record = serde_json::from_slice(bytes).map_err(unreadable)?;
        let ascending = record.versions.windows(2).all(|pair| pair[0].version < pair[1].version);
        let below_next = record.versions.last().is_none_or(|last| last.version < record.next);
        let at_home = path.file_name().is_some_and(|name| name.to_str() == Some(&file_name(&record.name)));
        if record.store != store || !at_home || !ascending || !below_next {
            return Err(StoreError::Damaged(path.display().to_string()));
        }
        Ok(record)
    }

    /// Where a version's seals hold: this format, this store, this name, this version, this time.
    pub(super) fn place(&self, version: u64, created: WallTime) -> String {
        format!("claviger store {}\0{}\0{}\0version {version}\0{}", self.format, self.store, self.name, created.0)
    }

    pub(super) fn find(&self, version: u64) -> Option<&Version> {
        self.versions.binary_search_by_key(&version, |v| v.version).ok().map(|at| &self.versions[at])
    }
}

/// The file of that name. Names hold no `%`, so no two share a file.
pub(super) fn file_name(name: &str) -> String {
    format!("{}.json", name.replace('/', "%"))
}
