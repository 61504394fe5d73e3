//! The key that signs the audit log: kept in the local store, made at first start, changed by `clav key rotate audit`.

use super::build::BuildError;
use crate::{
    audit,
    broker::{AUDIT_KEY, NEXT_AUDIT_KEY, publish_audit_key},
    digest::Ed25519Key,
    engine::local::LocalStore,
};
use std::path::Path;

/// The key that signs from now on. A rotation that was cut short is brought to its end: the log says whether the new key was introduced.
pub(super) fn audit_key(store: &LocalStore, folder: &Path) -> Result<Ed25519Key, BuildError> {
    let io = |error| BuildError::Io(folder.display().to_string(), error);
    if let Some(next) = store.load_own(NEXT_AUDIT_KEY)? {
        let key = Ed25519Key::from_pkcs8(next.expose())?;
        if audit::last_introduced(folder).map_err(io)?.is_some_and(|public| public == key.public()) {
            store.save_own(AUDIT_KEY, &next)?;
        }
        store.remove_own(NEXT_AUDIT_KEY)?;
    }
    let kept = match store.load_own(AUDIT_KEY)? {
        Some(key) => key,
        None => {
            let key = Ed25519Key::generate()?;
            store.save_own(AUDIT_KEY, &key)?;
            key
        }
    };
    let key = Ed25519Key::from_pkcs8(kept.expose())?;
    publish_audit_key(store, folder, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        audit::{Audit, Options, Word},
        digest::{SealKey, SystemRandom},
        sys::{DiskVolume, SystemClock},
    };
    use std::sync::Arc;

    #[tokio::test]
    async fn a_rotation_that_was_cut_short_is_finished_by_what_the_log_says() {
        let folder = tempfile::tempdir().unwrap();
        let (log, random) = (folder.path().join("log"), Arc::new(SystemRandom::default()));
        std::fs::create_dir(&log).unwrap();
        let master = SealKey::from_bytes(&[7; 32]).unwrap();
        let store = LocalStore::open(&folder.path().join("store"), master, None, random, Arc::new(SystemClock)).unwrap();
        let first = audit_key(&store, &log).unwrap();
        let old = first.public().to_vec();
        let next = Ed25519Key::generate().unwrap();
        let next_key = Ed25519Key::from_pkcs8(next.expose()).unwrap();
        let new = next_key.public().to_vec();
        // It died before the log spoke of the new key: the old one goes on.
        store.save_own(NEXT_AUDIT_KEY, &next).unwrap();
        assert_eq!(audit_key(&store, &log).unwrap().public(), old);
        assert!(store.load_own(NEXT_AUDIT_KEY).unwrap().is_none());
        // It died after that: the new one signs.
        store.save_own(NEXT_AUDIT_KEY, &next).unwrap();
        let options = Options::new(Word::parse("host").unwrap(), Word::parse("boot").unwrap());
        let audit = Audit::open(options, Box::new(DiskVolume::new(&log, 0)), first, Arc::new(SystemClock), Vec::new()).unwrap();
        let _ = audit.rotate_key(next_key).await.unwrap();
        tokio::task::spawn_blocking(move || audit.stop()).await.unwrap();
        // Had the power gone while it was written of, its line would lack the end and be cut at the next start: that says nothing.
        let torn = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&log).unwrap().map(Result::unwrap) {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let end = text.find("\"kind\":\"key\"").and_then(|at| Some(at + text[at..].find('\n')?)).unwrap_or(text.len());
            std::fs::write(torn.path().join(entry.file_name()), &text[..end]).unwrap();
        }
        assert_eq!(audit::last_introduced(torn.path()).unwrap(), None);
        assert_eq!(audit_key(&store, &log).unwrap().public(), new);
        assert_eq!(audit_key(&store, &log).unwrap().public(), new, "and stays");
        let public = std::fs::read_to_string(log.join("audit.pub")).unwrap();
        assert_eq!(public, format!("{}\n{}\n", hex::encode(&old), hex::encode(&new)));
    }
}
