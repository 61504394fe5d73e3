//! The one way a lease ends, whatever the reason.
//!
//! The first who asks gets the right to end it. The source is told, and told again with growing pauses until it confirms; the count of
//! tries survives a restart. After too many it is irrevocable: told, so that an operator looks, and tried on more seldom (`overdue`). It is
//! never forgotten.

use super::{Broker, overdue::Why, record};
use crate::{
    audit::{Ended, Event, Kind, Outcome},
    engine::{EngineError, Over},
    lease::{Cause, Ending, Postponed, State},
    model::{EndResult, LeaseId},
};
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::task::JoinHandle;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// How long whoever gives a lease back, or is refused one, waits to hear of its end. It goes on all the same.
const HEARD: Duration = Duration::from_secs(10);
/// And an operator: less than a request may take.
pub(super) const HEARD_BY_OPERATORS: Duration = Duration::from_secs(60);

impl Broker {
    /// Ends a lease and says what became of its credential; `None` when it is over already or somebody else is ending it. Runs in a task
    /// of its own, so whoever waits may go, and does so after ten seconds: many may be ending at that source.
    pub async fn end(self: &Arc<Self>, id: LeaseId, cause: impl Into<Cause>) -> Option<EndResult> {
        heard(HEARD, self.begin_end(id, cause)?).await
    }

    /// The same without waiting for the source: when this returns, nothing is given from the lease any more.
    pub(super) fn begin_end(self: &Arc<Self>, id: LeaseId, cause: impl Into<Cause>) -> Option<JoinHandle<EndResult>> {
        if !self.may_end() {
            return None;
        }
        let ending = self.leases.begin_end(id, cause, self.clock.wall())?;
        self.watchers.tell(&ending.lease().identity);
        let broker = self.clone();
        Some(tokio::spawn(async move { broker.carry_through(ending, 0, false).await }))
    }

    /// The same of several that are to end together, as those who have one credential are: each is in the journal as ending before the source
    /// is told of any, so that a crash in between leaves none of them. Whoever calls this may not go: it is for a task of its own.
    pub(super) async fn begin_ends(self: Arc<Self>, ids: Vec<LeaseId>, cause: Cause) -> HashMap<LeaseId, JoinHandle<EndResult>> {
        let under_way = self.ending.read().await;
        if !self.may_end() {
            return HashMap::new();
        }
        let now = self.clock.wall();
        let endings: Vec<Ending> = ids.into_iter().filter_map(|id| self.leases.begin_end(id, cause, now)).collect();
        for ending in &endings {
            self.watchers.tell(&ending.lease().identity);
        }
        let noted = !crate::mutation!("share-noted");
        if noted && let Err(error) = self.leases.note_endings(&endings).await {
            tracing::error!(%error, "an ending is not in the journal");
        }
        crate::failpoint!("operator-noted");
        drop(under_way);
        let carry = |ending: Ending| (ending.lease().id, tokio::spawn(self.clone().carry_through(ending, 0, noted)));
        endings.into_iter().map(carry).collect()
    }

    /// Takes up an end that did not come through before the daemon stopped, or that an operator asks to be tried again.
    pub(super) async fn resume(self: &Arc<Self>, id: LeaseId, tries: u32) -> Option<EndResult> {
        if !self.may_end() {
            return None;
        }
        let ending = self.leases.resume_end(id)?;
        let broker = self.clone();
        tokio::spawn(async move { broker.carry_through(ending, tries, tries > 0).await }).await.ok()
    }

    /// Not in a state that may be another machine's, with its credentials in use there; nor once the books are closed: what comes then is
    /// found at the next start.
    pub(super) fn may_end(&self) -> bool {
        self.read_only.is_none() && !self.closed.load(Ordering::Acquire)
    }

    async fn carry_through(self: Arc<Self>, ending: Ending, tries: u32, is_noted: bool) -> EndResult {
        let _under_way = self.ending.read().await;
        if !self.may_end() {
            return EndResult::Retrying;
        }
        let lease = ending.lease().clone();
        crate::failpoint!("before-end");
        // A reservation is settled after a crash whatever its line says. An ending that cannot be written down goes on all the same.
        if !is_noted
            && !ending.was_reserved()
            && let Err(error) = self.leases.note_ending(&ending).await
        {
            tracing::error!(lease = %lease.id, %error, "an ending is not in the journal");
        }
        crate::failpoint!("ending-noted");
        match self.tell_source(&ending).await {
            Ok(Over { result, proof }) => {
                crate::failpoint!("after-source-told");
                let ended = self.clock.wall();
                self.reaper.release(&lease);
                let told = Ended {
                    reason: ending.reason(),
                    result,
                    asked: ending.since(),
                    ended,
                    dead: match result {
                        EndResult::Revoked => Some(ended),
                        // It dies by its own expiry, if it has one.
                        _ => (lease.ends_by == crate::model::EndsBy::ShortLife).then_some(lease.expires),
                    },
                    attempts: tries + 1,
                    proof,
                };
                self.metrics.ended(ending.reason().as_str(), result.as_str(), ended.0.saturating_sub(ending.since().0));
                self.on_record(self.about(Kind::End, &ending).ended(told).outcome(Outcome::Done)).await;
                crate::failpoint!("end-recorded");
                let (_, written) = self.leases.end(ending, result, ended).await;
                crate::failpoint!("ended");
                if let Err(error) = written {
                    tracing::error!(lease = %lease.id, %error, "an ended lease is not in the journal; it will be ended again after a restart");
                }
                result
            }
            Err(error) => self.put_off(&ending, tries + 1, &error).await,
        }
    }

    async fn tell_source(&self, ending: &Ending) -> Result<Over, EngineError> {
        let lease = ending.lease();
        let engine = self.engines.find(&lease.engine);
        if let Some(engine) = engine.filter(|_| !crate::mutation!("ended-told")) {
            // Of several who have a credential each was given something that lasts as long as its own lease.
            engine.may_last(lease.credential(), lease.expires);
        }
        if ending.others() > 0 && !crate::mutation!("share-counted") {
            return Ok(Over::SHARED);
        }
        let engine = engine.ok_or_else(|| EngineError::Setup(format!("engine {} is no longer configured", lease.engine)))?;
        match ending.was_reserved() {
            // The row that it was reserved under; what another says by now is about others.
            true => {
                let governance = self.governance();
                let row = governance.catalogue.find(&lease.secret).filter(|secret| secret.recipe == lease.recipe);
                engine.settle(lease.credential(), row.map(|secret| &**secret)).await
            }
            false => engine.end(lease.credential(), &lease.reference).await,
        }
    }

    async fn put_off(self: &Arc<Self>, ending: &Ending, tries: u32, error: &EngineError) -> EndResult {
        let lease = ending.lease();
        let irrevocable = tries >= self.settings.end_tries;
        self.metrics.retried();
        tracing::warn!(lease = %lease.id, engine = %lease.engine, tries, irrevocable, %error, "ending a lease did not come through");
        // What is on the record as given up is not given up again by each further try.
        let told = matches!(lease.state, State::Ending { irrevocable: true, .. });
        let kind = if irrevocable { Kind::Irrevocable } else { Kind::Retry };
        if !told {
            self.on_record(self.about(kind, ending).outcome(Outcome::Failed)).await;
        }
        if let Err(error) = self.leases.postpone(lease.id, Postponed { tries, irrevocable }).await {
            tracing::error!(lease = %lease.id, %error, "a failed try is not in the journal");
        }
        if irrevocable {
            if !told {
                self.metrics.irrevocable();
            }
            if !crate::mutation!("overdue") {
                self.overdue.add(&lease.engine, lease.id, if error.is_passing() { Why::Away } else { Why::Refused });
            }
            return EndResult::Irrevocable;
        }
        let (broker, id, pause) = (self.clone(), lease.id, pause(tries, error));
        tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            broker.resume_boxed(id, tries).await;
        });
        EndResult::Retrying
    }

    // A function of its own type: the task above must not contain itself.
    fn resume_boxed(self: Arc<Self>, id: LeaseId, tries: u32) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            self.resume(id, tries).await;
        })
    }

    pub(super) fn about(&self, kind: Kind, ending: &Ending) -> Event {
        let lease = ending.lease();
        let mut event = record::of_lease(kind, lease).request(lease.request);
        if let Some(operator) = ending.by() {
            event = event.cause(operator);
        }
        let governance = self.governance();
        let event = match governance.roll.registry().find(&lease.identity) {
            Some(identity) => event.identity(identity),
            None => event,
        };
        match governance.catalogue.find(&lease.secret).filter(|secret| secret.recipe == lease.recipe) {
            Some(secret) => event.secret(secret, None),
            None => event,
        }
    }
}

/// What became of an ending, as far as it is known by then.
pub(super) async fn heard(within: Duration, begun: JoinHandle<EndResult>) -> Option<EndResult> {
    tokio::time::timeout(within, begun).await.map_or(Some(EndResult::Retrying), Result::ok)
}

/// The pause before the next try: growing, and as long as the source asks for, within what a credential may live on for.
fn pause(tries: u32, error: &EngineError) -> Duration {
    let asked = if let EngineError::Busy(_, after) = error { *after } else { Duration::ZERO };
    FIRST_PAUSE.saturating_mul(1 << tries.min(12)).max(asked).min(LONGEST_PAUSE)
}
