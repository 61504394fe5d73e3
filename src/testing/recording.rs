//! An engine with a source of its own in memory, which keeps a record of every call and can fail, stall or lose an answer.

use crate::{
    digest::SealKey,
    engine::{Engine, EngineError, Issued, Order, Over, UpstreamRef},
    model::{EndsBy, Finding, LeaseId, Proof, ProofBy, SecretDefinition, WallTime},
};
use async_trait::async_trait;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// A call of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum Call {
    Issue,
    Read,
    Renew,
    End,
    Settle,
    Inventory,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The source cannot be reached; nothing happens there.
    Unreachable,
    /// The source refuses; nothing happens there.
    Refused,
    /// It happens at the source, but the answer is lost.
    AnswerLost,
    /// The source does not answer; the engine's own deadline ends the wait and nothing happens there.
    Stall,
}

/// It is a map: what is not in it is not there.
const LOOKED: Proof = Proof::looked(&[Finding::TokenUnknown]);

/// The engine. Everything about it may be looked at while it is in use.
pub struct RecordingEngine {
    deadline: Duration,
    key: SealKey,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    live: BTreeMap<LeaseId, WallTime>,
    may_last: BTreeMap<LeaseId, WallTime>,
    calls: Vec<(Call, Option<LeaseId>)>,
    mishaps: BTreeMap<Call, VecDeque<Mishap>>,
}

impl RecordingEngine {
    /// A source with nothing in it; a stalled call gives up after `deadline`.
    pub fn new(deadline: Duration) -> Self {
        Self { deadline, key: constant_key(), state: Mutex::default() }
    }

    /// Lets the next call of that kind go wrong; several wait in line.
    pub fn plan(&self, call: Call, mishap: Mishap) {
        self.lock().mishaps.entry(call).or_default().push_back(mishap);
    }

    /// Every call so far, in order, with the lease it was about.
    pub fn calls(&self) -> Vec<(Call, Option<LeaseId>)> {
        self.lock().calls.clone()
    }

    /// The credentials that are alive at the source and until when.
    pub fn live(&self) -> Vec<(LeaseId, WallTime)> {
        self.lock().live.iter().map(|(lease, until)| (*lease, *until)).collect()
    }

    /// Until when that credential may last, as the books said before its end.
    pub fn may_last_until(&self, lease: LeaseId) -> Option<WallTime> {
        self.lock().may_last.get(&lease).copied()
    }

    /// Runs one call: notes it, lets it go wrong if that is planned, and otherwise does it at the source.
    async fn call<T>(
        &self,
        call: Call,
        lease: impl Into<Option<LeaseId>>,
        act: impl FnOnce(&mut State) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let lease = lease.into();
        let mishap = {
            let mut state = self.lock();
            state.calls.push((call, lease));
            state.mishaps.get_mut(&call).and_then(VecDeque::pop_front)
        };
        match mishap {
            None => act(&mut self.lock()),
            Some(Mishap::Unreachable) => Err(EngineError::Unreachable("the source is away, as planned".into())),
            Some(Mishap::Refused) => Err(EngineError::Refused("the source says no, as planned".into())),
            Some(Mishap::AnswerLost) => {
                act(&mut self.lock())?;
                Err(EngineError::Unreachable("the answer was lost, as planned".into()))
            }
            Some(Mishap::Stall) => {
                tokio::time::sleep(self.deadline).await;
                Err(EngineError::Unreachable(format!("no answer within {} ms, as planned", self.deadline.as_millis())))
            }
        }
    }

    fn issued(&self, lease: LeaseId) -> Issued {
        let mut reference = UpstreamRef::default();
        reference.0.insert("lease", lease.to_string());
        Issued { value: self.key.mac(&lease.to_bytes()), attributes: vec![("id".into(), lease.to_string())], reference }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn constant_key() -> SealKey {
    // The array is made with that length.
    SealKey::from_bytes(&[42; SealKey::LEN]).expect("as many bytes as a key has")
}

#[async_trait]
impl Engine for RecordingEngine {
    fn kind(&self) -> &'static str {
        "recording"
    }

    fn ends_by(&self, _secret: &SecretDefinition) -> EndsBy {
        EndsBy::Upstream
    }

    fn proves(&self, _secret: &SecretDefinition) -> Option<ProofBy> {
        Some(LOOKED.by)
    }

    fn check(&self, _secret: &SecretDefinition) -> Result<(), String> {
        Ok(())
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.call(Call::Issue, order.lease, |state| {
            state.live.insert(order.lease, order.expires);
            Ok(self.issued(order.lease))
        })
        .await
    }

    async fn read(&self, order: &Order<'_>, _reference: &UpstreamRef) -> Result<Issued, EngineError> {
        self.call(Call::Read, order.lease, |_| Ok(self.issued(order.lease))).await
    }

    async fn renew(&self, order: &Order<'_>, _reference: &UpstreamRef) -> Result<(), EngineError> {
        self.call(Call::Renew, order.lease, |state| match state.live.get_mut(&order.lease) {
            Some(until) => {
                *until = order.expires;
                Ok(())
            }
            None => Err(EngineError::Refused("there is no such credential".into())),
        })
        .await
    }

    fn may_last(&self, lease: LeaseId, until: WallTime) {
        self.lock().may_last.insert(lease, until);
    }

    async fn end(&self, lease: LeaseId, _reference: &UpstreamRef) -> Result<Over, EngineError> {
        self.call(Call::End, lease, |state| {
            state.live.remove(&lease);
            Ok(Over::revoked(LOOKED))
        })
        .await
    }

    async fn settle(&self, lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        self.call(Call::Settle, lease, |state| {
            Ok(if state.live.remove(&lease).is_some() { Over::revoked(LOOKED) } else { Over::lapsed(LOOKED) })
        })
        .await
    }

    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        self.call(Call::Inventory, None, |state| Ok(state.live.keys().copied().collect())).await
    }
}
