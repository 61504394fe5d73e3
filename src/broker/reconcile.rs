//! What bears our mark at a source and is in no journal: found once after each start or when an operator asks, and ended. Where something waits,
//! it is looked at again until it has gone.
//!
//! What a crash leaves is in the journal and ends from there, however much it is. What is in no journal ends by itself where it is little
//! of what is there. Much of it means that something is wrong with the journal, not with the source, and waits for a person: it is on the
//! record, in `clav status`, and `clav engine reconcile NAME --end` ends it.

use super::{Act, Broker, Operator, turns::Turns};
use crate::{
    audit::{Ended, Event, Kind, Need, Outcome},
    engine::{Engine, EngineError, Leftover, Over, UpstreamRef},
    model::{Code, EndReason, EndResult, EngineName, LeaseId, Refusal, RequestId, WallTime},
    wire::{EngineView, ReconcileAnswer, ReconcileRequest},
};
use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// More orphans than this are listed, not ended ...
const FEW: usize = 10;
/// ... and so are more than one in this many of all that is there.
const A_PART: usize = 5;
const PAUSE: Duration = Duration::from_secs(60);

/// The longest time between two looks at a source where something waits: each asks about all that is there.
const SELDOM: Duration = Duration::from_secs(3600);

/// How the sources stood when they were looked at last.
#[derive(Default)]
pub(super) struct Standings {
    seen: Mutex<BTreeMap<EngineName, Standing>>,
    /// One looks at a source at a time: what was seen before others were ended is not what there is after it.
    turns: Mutex<BTreeMap<EngineName, Arc<tokio::sync::Mutex<()>>>>,
    /// Sources that are looked at again.
    again: Turns<EngineName>,
}

impl Standings {
    fn seen(&self) -> MutexGuard<'_, BTreeMap<EngineName, Standing>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, name: &EngineName) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    /// Whether something was seen that waits for a person.
    fn waits(&self, name: &EngineName) -> bool {
        self.seen().get(name).is_some_and(|standing| standing.waiting > 0)
    }

    /// How many versions that no definition names were seen.
    pub(super) fn left(&self, name: &EngineName) -> usize {
        self.seen().get(name).map_or(0, |standing| standing.left)
    }
}

#[derive(Clone, Default)]
struct Standing {
    looked: Option<WallTime>,
    there: usize,
    waiting: usize,
    left: usize,
    error: Option<String>,
    /// What was told of.
    told: HashSet<LeaseId>,
}

/// What may be ended of what is found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum May {
    /// Nothing.
    Look,
    /// A few.
    EndFew,
    /// All: an operator said so.
    EndAll(RequestId),
}

/// What was found, and what became of it.
#[derive(Default)]
pub(super) struct Found {
    there: usize,
    orphans: Vec<LeaseId>,
    ended: Vec<LeaseId>,
    /// Versions of values that no definition names, and what became of them.
    pub(super) values: Vec<Leftover>,
    pub(super) values_ended: Vec<String>,
    pub(super) failed: Vec<String>,
}

impl Found {
    fn waits(&self) -> bool {
        self.orphans.len() > self.ended.len()
    }
}

/// The record, which is all that is left of such a lease: with what the engine saw, like any other's.
fn stray_ended(id: LeaseId, may: May, Over { result, proof }: Over, asked: WallTime, ended: WallTime) -> Event {
    let event = Event::new(Kind::End).lease(id).outcome(Outcome::Done).detail("found at the source, in no journal");
    let (event, reason) = match may {
        May::EndAll(request) => (event.request(request), EndReason::Operator),
        May::EndFew | May::Look => (event, EndReason::Unfinished),
    };
    let dead = (result == EndResult::Revoked).then_some(ended);
    event.ended(Ended { reason, result, asked, ended, dead, attempts: 1, proof })
}

fn too_many(orphans: usize, there: usize) -> bool {
    orphans > FEW || orphans * A_PART > there
}

impl Broker {
    pub(super) async fn reconcile(self: Arc<Self>) {
        let engines: Vec<(EngineName, Arc<dyn Engine>)> =
            self.engines.iter().map(|(name, engine)| (name.clone(), engine.clone())).collect();
        // An engine with nothing upstream has an empty list.
        for (name, engine) in engines {
            let broker = self.clone();
            tokio::spawn(async move {
                while broker.may_end() {
                    match broker.reconcile_one(&name, &*engine, May::EndFew, None).await {
                        Ok(found) => return broker.look_on(&name, &engine, &found).await,
                        Err(error) => tracing::warn!(engine = %name, %error, "what is at the source cannot be listed yet"),
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    /// Tells of what waits, and looks again until it has gone: somebody may end it at the source, or it dies by itself. It waits for a person,
    /// also when it has become little beside what is issued by then.
    async fn look_on(self: &Arc<Self>, name: &EngineName, engine: &Arc<dyn Engine>, found: &Found) {
        if !found.waits() {
            return;
        }
        self.tell_of_strays(name, found).await;
        let Some(turn) = self.standings.again.take(name.clone()) else { return };
        let (broker, name, engine) = (self.clone(), name.clone(), engine.clone());
        let may = if crate::mutation!("strays-wait") { May::EndFew } else { May::Look };
        tokio::spawn(async move {
            let (mut turn, mut pause) = (Some(turn), Duration::from_micros(broker.settings.strays_micros));
            loop {
                tokio::time::sleep(pause).await;
                if !broker.may_end() {
                    return;
                }
                match broker.reconcile_one(&name, &*engine, may, None).await {
                    Ok(found) if found.waits() => broker.tell_of_strays(&name, &found).await,
                    Ok(found) if found.failed.is_empty() => {
                        drop(turn.take());
                        // Whoever saw some at this moment found the turn taken.
                        turn = broker.standings.waits(&name).then(|| broker.standings.again.take(name.clone())).flatten();
                        if turn.is_none() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::warn!(engine = %name, %error, "what is at the source cannot be listed again");
                        continue;
                    }
                }
                pause = (pause * 2).min(SELDOM);
            }
        });
    }

    /// An operator's look at a source. With `end` whatever is in no journal ends, however much it is; with `end_values` versions of values
    /// that no definition names.
    pub async fn reconcile_now(
        self: &Arc<Self>,
        operator: &Operator,
        name: &EngineName,
        ReconcileRequest { end, end_values }: ReconcileRequest,
        request: RequestId,
    ) -> Result<ReconcileAnswer, Refusal> {
        let engine = self.engines.find(name).ok_or_else(|| {
            let known: Vec<String> = self.engine_kinds().into_iter().map(|(name, _)| name).collect();
            Refusal::new(Code::NOT_FOUND).message(format!("There is no engine {name}; there is {}.", known.join(", ")))
        })?;
        let act = Act::new("engine-reconcile", request).with_engine(name);
        if end || end_values {
            if !self.may_end() {
                let why = self.read_only().unwrap_or("it is stopping");
                return Err(Refusal::new(Code::READ_ONLY).message(format!("Nothing is ended: {why}.")));
            }
            self.asked(operator, &act).await?;
        }
        let found = self
            .reconcile_one(name, &**engine, if end { May::EndAll(request) } else { May::Look }, end_values.then_some(request))
            .await
            .map_err(|error| Refusal::new(Code::ENGINE_UNAVAILABLE).message(format!("What is at the source cannot be listed: {error}")));
        if end || end_values {
            self.acted(operator, &act, found.as_ref().err()).await;
        }
        let found = found?;
        if self.may_end() {
            self.look_on(name, engine, &found).await;
        }
        let Found { there, orphans, ended, values, values_ended, failed } = found;
        let values = values.into_iter().map(|left| left.name).collect();
        Ok(ReconcileAnswer { request, engine: name.clone(), there, orphans, ended, values, values_ended, failed })
    }

    /// Every engine with how its source stood when it was looked at last.
    pub fn list_engines(&self) -> Vec<EngineView> {
        let standings = self.standings.seen();
        let view = |(name, kind): (&EngineName, &'static str)| {
            let standing = standings.get(name).cloned().unwrap_or_default();
            EngineView {
                name: name.to_string(),
                kind: kind.to_owned(),
                looked: standing.looked.map(WallTime::rfc3339),
                there: standing.there,
                waiting: standing.waiting,
                left: standing.left,
                error: standing.error,
            }
        };
        self.engines.kinds().map(view).collect()
    }

    async fn reconcile_one(
        &self,
        name: &EngineName,
        engine: &dyn Engine,
        may: May,
        values: Option<RequestId>,
    ) -> Result<Found, EngineError> {
        let turn = self.standings.turn(name);
        let _turn = turn.lock().await;
        let mut found = self.compare(name, engine, may).await;
        if let Ok(all) = &mut found
            && let Err(error) = self.look_for_leftovers(name, engine, values, all).await
        {
            match may {
                // The next look sees both.
                May::EndFew if !all.waits() => found = Err(error),
                _ => all.failed.push(format!("values that no definition names cannot be looked for: {error}")),
            }
        }
        let mut standings = self.standings.seen();
        let before = standings.get(name).cloned().unwrap_or_default();
        let standing = match &found {
            Ok(found) => Standing {
                told: before.told,
                looked: Some(self.clock.wall()),
                there: found.there,
                waiting: found.orphans.len() - found.ended.len(),
                left: found.values.len() - found.values_ended.len(),
                error: found.failed.first().cloned(),
            },
            // What was seen before stands until somebody sees again.
            Err(error) => Standing { error: Some(error.to_string()), ..before },
        };
        standings.insert(name.clone(), standing);
        drop(standings);
        found
    }

    async fn compare(&self, name: &EngineName, engine: &dyn Engine, may: May) -> Result<Found, EngineError> {
        // Looked at before and after: a lease that is made meanwhile is in the table before it is at the source, and one that ends meanwhile
        // may be listed all the same. What ended before and is there is an orphan like any other.
        let (began, mut known) = (self.clock.wall(), self.known_leases());
        let there = engine.inventory().await?;
        known.extend(self.known_leases());
        let ended_meanwhile = |id: LeaseId| self.leases.find_ended(id).is_some_and(|ended| ended.at >= began);
        let orphan = |id: &LeaseId| !known.contains(id) && !ended_meanwhile(*id);
        let mut found = Found { there: there.len(), ..Found::default() };
        found.orphans = there.into_iter().filter(orphan).collect();
        found.orphans.sort_unstable();
        let held_back = too_many(found.orphans.len(), found.there) && !crate::mutation!("reconcile-brake");
        match may {
            May::EndFew if held_back => {}
            May::Look => {}
            May::EndFew | May::EndAll(_) => {
                for id in found.orphans.clone() {
                    if !self.may_end() {
                        found.failed.push("the rest is left: the daemon stops, or ends nothing any more".to_owned());
                        break;
                    }
                    let asked = self.clock.wall();
                    let over = match engine.end(id, &UpstreamRef::default()).await {
                        Ok(over) => over,
                        // Listed again next time; the others have a right to end now.
                        Err(error) if matches!(may, May::EndAll(_)) => {
                            found.failed.push(format!("{id}: {error}"));
                            continue;
                        }
                        Err(error) => return Err(error),
                    };
                    found.ended.push(id);
                    tracing::warn!(engine = %name, lease = %id, "ended a credential that was in no journal");
                    self.note(stray_ended(id, may, over, asked, self.clock.wall())).await;
                }
            }
        }
        Ok(found)
    }

    /// Each is told of once.
    async fn tell_of_strays(&self, name: &EngineName, found: &Found) {
        let news: Vec<String> = {
            let mut standings = self.standings.seen();
            let told = &mut standings.entry(name.clone()).or_default().told;
            let ended: HashSet<&LeaseId> = found.ended.iter().collect();
            found.orphans.iter().filter(|id| !ended.contains(id) && told.insert(**id)).map(ToString::to_string).collect()
        };
        if news.is_empty() {
            return;
        }
        tracing::error!(engine = %name, count = news.len(), ids = news.join(" "),
            "credentials of ours at the source are in no journal and wait for an operator: 'clav engine reconcile {name}' shows them");
        let event = Event::new(Kind::Irrevocable).detail("credentials of ours at a source are in no journal and wait for an operator");
        self.note(event).await;
    }

    fn known_leases(&self) -> HashSet<LeaseId> {
        self.leases.all().iter().flat_map(|lease| [lease.id, lease.credential()]).collect()
    }

    async fn note(&self, event: Event) {
        if let Err(error) = self.audit.append(event, Need::Soon).await {
            tracing::error!(%error, "what was found at a source is not on the record");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_of_what_is_there_ends_and_much_of_it_waits() {
        for (orphans, there) in [(0, 0), (0, 7), (1, 5), (3, 1000), (4, 20), (10, 50)] {
            assert!(!too_many(orphans, there), "{orphans} of {there}");
        }
        for (orphans, there) in [(1, 1), (1, 4), (3, 14), (4, 19), (10, 49), (11, 1_000_000)] {
            assert!(too_many(orphans, there), "{orphans} of {there}");
        }
    }
}
