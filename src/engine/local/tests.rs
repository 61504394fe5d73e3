//! What the store promises to someone who has its files but not its key, and to someone whose machine loses power.

use super::{LocalStore, StoreError, VALUE_MAX, VERSIONS_KEPT};
use crate::{
    digest::{SealKey, SeededRandom},
    model::{SecretBytes, SecretName},
    sys::{FileError, ManualClock},
};
use std::{fs, path::Path, sync::Arc};

fn key(byte: u8) -> SealKey {
    SealKey::from_bytes(&[byte; 32]).unwrap()
}

fn open_with(folder: &Path, master: u8, previous: Option<u8>) -> Result<LocalStore, StoreError> {
    let clock = Arc::new(ManualClock::new(0, 1_700_000_000_000_000));
    LocalStore::open(folder, key(master), previous.map(key), Arc::new(crate::digest::SystemRandom::default()), clock)
}

fn open(folder: &Path) -> LocalStore {
    open_with(folder, 1, None).unwrap()
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

fn value(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

#[test]
fn versions_are_kept_listed_and_survive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    assert_eq!(store.put(&name("a/b"), &value("one")).unwrap(), 1);
    assert_eq!(store.put(&name("a/b"), &value("three")).unwrap(), 2);
    drop(store);
    let store = open(&path);
    let (newest, bytes) = store.newest(&name("a/b")).unwrap();
    assert_eq!((newest, bytes.expose()), (2, &b"three"[..]));
    assert_eq!(store.version(&name("a/b"), 1).unwrap().expose(), b"one");
    let list = store.list();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].versions.iter().map(|v| (v.version, v.bytes)).collect::<Vec<_>>(), [(1, 3), (2, 5)]);
    for _ in 0..VERSIONS_KEPT {
        store.put(&name("a/b"), &value("x")).unwrap();
    }
    assert!(matches!(store.version(&name("a/b"), 2), Err(StoreError::NoValue)));
    assert_eq!(store.list()[0].versions.len(), VERSIONS_KEPT);
}

#[test]
fn a_removed_secret_never_gives_its_numbers_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    store.put(&name("a"), &value("old")).unwrap();
    assert!(store.remove(&name("a")).unwrap());
    assert!(!store.remove(&name("a")).unwrap());
    assert!(store.list().is_empty());
    assert!(matches!(store.newest(&name("a")), Err(StoreError::NoValue)));
    assert_eq!(store.put(&name("a"), &value("new")).unwrap(), 2);
    assert!(matches!(store.version(&name("a"), 1), Err(StoreError::NoValue)), "an old lease must not find the new value");
}

#[test]
fn values_have_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("store"));
    assert!(matches!(store.put(&name("a"), &value("")), Err(StoreError::Empty)));
    assert!(matches!(store.put(&name("a"), &SecretBytes::new(vec![7; VALUE_MAX + 1])), Err(StoreError::TooLarge)));
    for _ in 0..=VERSIONS_KEPT {
        store.put(&name("a"), &SecretBytes::new(vec![7; VALUE_MAX])).unwrap();
    }
    drop(store);
    assert_eq!(open(&folder.path().join("store")).newest(&name("a")).unwrap().1.len(), VALUE_MAX, "the largest file is read again");
}

#[test]
fn files_hold_no_value_and_open_only_with_their_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.put(&name("a"), &value("hunter2-hunter2")).unwrap();
    drop(store);
    for file in fs::read_dir(&path).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|w| w == b"hunter2"));
    }
    assert!(matches!(open_with(&path, 2, None), Err(StoreError::OtherKey(_))));
}

#[test]
fn records_versions_and_files_cannot_be_exchanged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.put(&name("a"), &value("one")).unwrap();
    store.put(&name("a"), &value("two")).unwrap();
    store.put(&name("b"), &value("one")).unwrap();
    drop(store);
    let (a, b) = (path.join("a.json"), path.join("b.json"));
    let (was_a, was_b) = (fs::read_to_string(&a).unwrap(), fs::read_to_string(&b).unwrap());

    fs::write(&a, &was_b).unwrap();
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::Damaged(_))), "another file under this name");
    fs::write(&a, was_b.replace("\"name\":\"b\"", "\"name\":\"a\"")).unwrap();
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::Damaged(_))), "another record under this name");
    let mut record: serde_json::Value = serde_json::from_str(&was_a).unwrap();
    let first = record["versions"][0]["envelope"].take();
    record["versions"][0]["envelope"] = record["versions"][1]["envelope"].take();
    record["versions"][1]["envelope"] = first;
    fs::write(&a, record.to_string()).unwrap();
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::Damaged(_))), "another version under this number");
    fs::write(&a, was_a.replace("\"format\":1", "\"format\":2")).unwrap();
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::Format { found: 2, .. })), "a later program's file is left alone");
    fs::write(&a, &was_a).unwrap();
    drop(open(&path));

    let other = folder.path().join("other");
    drop(open(&other));
    fs::copy(&a, other.join("a.json")).unwrap();
    assert!(matches!(open_with(&other, 1, None), Err(StoreError::Damaged(_))), "another store with the same key");
    fs::remove_file(path.join(".store")).unwrap();
    assert!(open_with(&path, 1, None).is_err(), "a store that lost its id is not given a new one");
}

#[test]
fn a_new_master_key_leaves_values_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.put(&name("a"), &value("one")).unwrap();
    let own = store.own_key("postgres").unwrap();
    let sealed = |path: &Path| {
        let record: serde_json::Value = serde_json::from_slice(&fs::read(path.join("a.json")).unwrap()).unwrap();
        record["versions"][0]["envelope"]["value"].clone()
    };
    let before = sealed(&path);
    store.rewrap(key(2)).unwrap();
    assert_eq!(store.newest(&name("a")).unwrap().1.expose(), b"one");
    assert_eq!(sealed(&path), before);
    drop(store);
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::OtherKey(_))));
    let store = open_with(&path, 2, None).unwrap();
    assert_eq!(store.own_key("postgres").unwrap().expose(), own.expose(), "what is derived from it goes on");
}

#[test]
fn a_rewrap_cut_short_is_finished_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.put(&name("a"), &value("one")).unwrap();
    store.put(&name("b"), &value("two")).unwrap();
    let old_b = fs::read(path.join("b.json")).unwrap();
    store.rewrap(key(2)).unwrap();
    drop(store);
    fs::write(path.join("b.json"), old_b).unwrap();
    assert!(open_with(&path, 2, None).is_err());
    let store = open_with(&path, 2, Some(1)).unwrap();
    assert_eq!(store.newest(&name("b")).unwrap().1.expose(), b"two");
    drop(store);
    drop(open_with(&path, 2, None).unwrap());
}

#[test]
fn what_a_crash_leaves_beside_a_file_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.put(&name("a"), &value("one")).unwrap();
    drop(store);
    fs::write(path.join(".a.json.tmp"), "{\"half").unwrap();
    let store = open(&path);
    store.put(&name("a"), &value("two")).unwrap();
    assert!(!path.join(".a.json.tmp").exists());
}

#[test]
fn our_own_values_are_not_listed_and_two_daemons_do_not_share_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = open(&path);
    store.save_own("jwt/main", &value("k")).unwrap();
    assert!(store.list().is_empty());
    assert_eq!(store.load_own("jwt/main").unwrap().unwrap().expose(), b"k");
    assert!(store.load_own("jwt/other").unwrap().is_none());
    assert!(matches!(open_with(&path, 1, None), Err(StoreError::File(FileError::Locked(_)))));
    let clock = Arc::new(ManualClock::new(0, 0));
    let random = Arc::new(SeededRandom::new(1));
    assert!(LocalStore::open(Path::new("relative"), key(1), None, random, clock).is_err());
}
