//! The local store under the contract.

use crate::suite::{Asked, Harness, Probe, secret};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued, UpstreamRef,
        local::{LocalEngine, LocalStore},
    },
    model::{SecretBytes, SecretName},
    sys::SystemClock,
};
use std::sync::Arc;
use tempfile::TempDir;

pub fn store() -> (TempDir, Arc<LocalStore>) {
    let folder = tempfile::tempdir().unwrap();
    let key = SealKey::from_bytes(&[7; 32]).unwrap();
    let store = LocalStore::open(&folder.path().join("store"), key, None, Arc::new(SystemRandom::default()), Arc::new(SystemClock));
    (folder, Arc::new(store.unwrap()))
}

struct Fixed(#[allow(dead_code, reason = "keeps the folder")] TempDir);

#[async_trait]
impl Probe for Fixed {
    async fn works(&self, issued: &Issued) -> bool {
        issued.value.expose() == b"the stored value"
    }
}

async fn harness() -> Option<Harness> {
    let (folder, store) = store();
    store.put(&SecretName::parse("mail/smtp").unwrap(), &SecretBytes::new(b"the stored value".to_vec())).unwrap();
    let engine = LocalEngine::new(store);
    let secret = secret("mail/smtp", &engine, serde_json::json!({}));
    Some(Harness { engine: Arc::new(engine), secret, probe: Box::new(Fixed(folder)) })
}

crate::contract!(harness);

#[tokio::test]
async fn a_lease_keeps_the_version_it_was_issued_with() {
    let (_folder, store) = store();
    let name = SecretName::parse("mail/smtp").unwrap();
    let engine = LocalEngine::new(store.clone());
    let secret = secret("mail/smtp", &engine, serde_json::json!({}));
    let (first, second) = (Asked::new(), Asked::new());
    assert!(matches!(engine.issue(&first.order(&secret)).await, Err(EngineError::NoValue)));
    store.put(&name, &SecretBytes::new(b"old".to_vec())).unwrap();
    let old = engine.issue(&first.order(&secret)).await.unwrap();
    store.put(&name, &SecretBytes::new(b"new".to_vec())).unwrap();
    let new = engine.issue(&second.order(&secret)).await.unwrap();
    assert_eq!(engine.read(&first.order(&secret), &old.reference).await.unwrap().value.expose(), b"old");
    assert_eq!(engine.read(&second.order(&secret), &new.reference).await.unwrap().value.expose(), b"new");
    store.remove(&name).unwrap();
    assert!(matches!(engine.read(&first.order(&secret), &old.reference).await, Err(EngineError::NoValue)));
    assert!(matches!(engine.read(&first.order(&secret), &UpstreamRef::default()).await, Err(EngineError::Setup(_))));
}
