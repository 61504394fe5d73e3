//! The recording engine under the contract: what other suites rely on must itself keep it.

use crate::suite::{Asked, Harness, Probe, every_wait_has_a_deadline, secret};
use async_trait::async_trait;
use claviger::{
    engine::{Engine, EngineError, Engines, Issued},
    model::{EndResult, EndsBy, EngineName, LeaseId},
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
    assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Revoked);
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

#[test]
fn a_name_means_one_engine_and_a_definition_names_one() {
    let name = |text: &str| EngineName::parse(text).unwrap();
    let engine = || -> Arc<dyn Engine> { Arc::new(RecordingEngine::new(Duration::ZERO)) };
    assert_eq!(Engines::new(vec![(name("a"), engine()), (name("a"), engine())]).err(), Some(name("a")));
    let engines = Engines::new(vec![(name("under-test"), engine()), (name("b"), engine())]).unwrap();
    assert_eq!(
        engines.kinds().map(|(name, kind)| (name.as_str(), kind)).collect::<Vec<_>>(),
        [("b", "recording"), ("under-test", "recording")]
    );
    let mut row = secret("fake/one", &*engine(), serde_json::json!({}));
    engines.check(&row).unwrap();
    row.ends_by = EndsBy::None;
    assert!(engines.check(&row).unwrap_err().contains("ends_by"));
    row.engine = name("c");
    assert!(engines.check(&row).unwrap_err().contains("no engine c"));
}
