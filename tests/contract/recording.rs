//! The recording engine under the contract: what other suites rely on must itself keep it.

use crate::suite::{Asked, Harness, Probe, every_wait_has_a_deadline, secret};
use async_trait::async_trait;
use claviger::{
    engine::{Engine, EngineError, Issued},
    model::{EndResult, LeaseId},
    testing::{Call, Mishap, RecordingEngine},
};
use std::{sync::Arc, time::Duration};

struct Source(Arc<RecordingEngine>);

#[async_trait]
impl Probe for Source {
    async fn works(&self, issued: &Issued) -> bool {
        let lease: LeaseId = issued.attributes[0].1.parse().unwrap();
        self.0.live().iter().any(|(live, _)| *live == lease)
    }
}

async fn harness() -> Option<Harness> {
    let engine = Arc::new(RecordingEngine::new(Duration::from_millis(50)));
    let secret = secret("fake/one", &*engine, serde_json::json!({}));
    Some(Harness { engine: engine.clone(), secret, probe: Box::new(Source(engine)) })
}

crate::contract!(harness);

#[tokio::test]
async fn it_fails_as_planned_and_only_then() {
    let engine = RecordingEngine::new(Duration::from_millis(50));
    let secret = secret("fake/one", &engine, serde_json::json!({}));
    let asked = Asked::new();
    engine.plan(Call::Issue, Mishap::Refused);
    engine.plan(Call::Issue, Mishap::AnswerLost);
    assert!(matches!(engine.issue(&asked.order(&secret)).await, Err(EngineError::Refused(_))));
    assert!(engine.live().is_empty());
    assert!(matches!(engine.issue(&asked.order(&secret)).await, Err(EngineError::Unreachable(_))));
    assert_eq!(engine.live().len(), 1, "made, though nobody heard of it");
    assert_eq!(engine.settle(asked.lease, &secret).await.unwrap(), EndResult::Revoked);
    assert_eq!(engine.calls().iter().map(|(call, _)| *call).collect::<Vec<_>>(), [Call::Issue, Call::Issue, Call::Settle]);
}

#[tokio::test]
async fn it_stalls_no_longer_than_its_deadline() {
    let engine = RecordingEngine::new(Duration::from_millis(50));
    let secret = secret("fake/one", &engine, serde_json::json!({}));
    for call in [Call::Issue, Call::Renew, Call::End, Call::Settle, Call::Inventory] {
        engine.plan(call, Mishap::Stall);
    }
    every_wait_has_a_deadline(&engine, &secret, Duration::from_secs(1)).await;
}
