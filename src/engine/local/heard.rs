//! What the store makes of any file, for fuzzing: a record is read and all of its versions are opened.

use super::{
    StoreError,
    envelope::{Envelope, Master},
    record::{FORMAT, Record, Version, file_name},
};
use crate::{
    digest::{SealKey, SeededRandom},
    model::{SecretBytes, WallTime},
};
use std::path::PathBuf;

const STORE: &str = "a-store-for-tests";
const NAME: &str = "db/orders";

fn masters() -> Vec<Master> {
    [7u8, 8].iter().filter_map(|byte| SealKey::from_bytes(&[*byte; 32])).map(Master::new).collect()
}

fn value(version: u64) -> Vec<u8> {
    format!("value {version} of the fuzzed record").into_bytes()
}

/// A record as the store writes it, with versions 1 to 3, the first sealed under an older key than the others.
pub fn sample() -> Vec<u8> {
    let random = SeededRandom::new(5);
    let mut record = Record { format: FORMAT, store: STORE.into(), name: NAME.into(), next: 4, versions: Vec::new() };
    for (version, master) in [1, 2, 3].into_iter().zip(masters().iter().cycle()) {
        let (created, sealed) = (WallTime(1_795_600_000_000_000 + version), SecretBytes::new(value(version)));
        let envelope = Envelope::seal(master, &record.place(version, created), &sealed, &random);
        record.versions.push(Version { version, bytes: sealed.len(), created, envelope });
    }
    serde_json::to_vec(&record).unwrap_or_default()
}

/// Reads a file of that content and opens everything in it: how many versions. Panics where a value opens that was not sealed there.
pub fn hear(bytes: &[u8]) -> Result<usize, StoreError> {
    let path = PathBuf::from("/store").join(file_name(NAME));
    let record = Record::parse(&path, bytes, STORE)?;
    for version in &record.versions {
        let opened = version.envelope.open(&masters(), &record.place(version.version, version.created))?;
        assert!(opened.expose() == value(version.version), "another value opened as version {}", version.version);
        assert!(record.find(version.version).is_some(), "a version is not found again");
    }
    Ok(record.versions.len())
}
