//! Versions of values that last, when they are taken back: on the record, by their names at the source. Those that no definition names any more
//! are told at each start and when there are more or fewer of them, shown by every look at a source, and end when an operator says so.

use super::{Broker, reconcile::Found};
use crate::{
    audit::{Event, Facts, Kind, Outcome, Recordable, Word},
    engine::{Engine, EngineError, Leftover, TakenBack},
    model::{Code, EngineName, LeaseId, Refusal, RequestId, SecretName},
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// So many are named in one line of the log.
const MANY: usize = 20;

/// So many are taken back at an operator's word.
const MOST: usize = 1_000;

/// A version, for the record.
#[derive(Serialize)]
struct Retired {
    engine: EngineName,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<SecretName>,
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Word>,
    /// Whether anything was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<bool>,
}

// Names and numbers alone.
impl Recordable for Retired {}

/// The secret, or where that is not known the version itself.
fn whose(left: &Leftover) -> (Option<SecretName>, Option<String>) {
    (left.secret.clone(), left.secret.is_none().then(|| left.name.clone()))
}

impl Broker {
    /// What became of a version that is given no more.
    pub(super) fn retired(&self, engine: &EngineName, taken: TakenBack, request: RequestId) -> Event {
        let TakenBack { secret, version, name, found } = taken;
        let mut event = Event::new(Kind::Retire).request(request);
        if let Some(row) =
            secret.as_ref().and_then(|secret| self.governance().catalogue.find(secret).cloned()).filter(|row| row.engine == *engine)
        {
            event = event.secret(&row, Some(version));
        }
        let name = Word::parse(&name).ok();
        if let Ok(facts) = Facts::of(&Retired { engine: engine.clone(), secret, version, name, found: found.as_ref().ok().copied() }) {
            event = event.credential(facts);
        }
        match found {
            Ok(_) => event.outcome(Outcome::Done),
            Err(why) => event.outcome(Outcome::Failed).refusal(&Refusal::new(Code::ENGINE_UNAVAILABLE).detail(why)),
        }
    }

    /// Looks for versions that no definition names, and takes them back where an operator's request says so.
    pub(super) async fn look_for_leftovers(
        &self,
        name: &EngineName,
        engine: &dyn Engine,
        end: Option<RequestId>,
        found: &mut Found,
    ) -> Result<(), EngineError> {
        // Whatever their engine: two may have one source. And also while it is under way: definitions come back.
        let defined = || self.governance().lasting();
        found.values = engine.leftovers(&defined).await?;
        let Some(request) = end else {
            if !found.values.is_empty() && found.values.len() != self.standings.left(name) {
                let left: Vec<&str> = found.values.iter().take(MANY).map(|left| left.name.as_str()).collect();
                tracing::warn!(engine = %name, count = found.values.len(), ?left,
                    "no definition names these versions of values that last: 'clav engine reconcile {name} --end-values' takes them back");
            }
            return Ok(());
        };
        // A definition may say something else now, or have another engine, and leases have what they were given. To take one version back, none of
        // its secret's is given any more, so all of them wait.
        let leases = self.leases.all();
        let holds = |left: &Leftover| leases.iter().find(|lease| lease.reference.is_named(&left.name)).map(|lease| lease.id);
        let held: BTreeMap<(Option<SecretName>, Option<String>), LeaseId> =
            found.values.iter().filter_map(|left| Some((whose(left), holds(left)?))).collect();
        for left in found.values.iter().take(MOST) {
            if !self.may_end() {
                found.failed.push("the rest is left: the daemon stops, or ends nothing any more".to_owned());
                break;
            }
            if let Some(lease) = held.get(&whose(left)).filter(|_| !crate::mutation!("leftover-held")) {
                found.failed.push(format!("{}: {lease} has a version of its secret; end that first", left.name));
                continue;
            }
            let taken = engine.end_leftover(left, &defined).await;
            match &taken.found {
                Ok(_) => {
                    tracing::warn!(engine = %name, version = left.name, "took back a version of a value that no definition names");
                    found.values_ended.push(left.name.clone());
                }
                Err(why) => found.failed.push(format!("{}: {why}", left.name)),
            }
            self.note_rotation(self.retired(name, taken, request)).await;
        }
        if found.values.len() > MOST {
            found.failed.push(format!("{} more are left: ask once more", found.values.len() - MOST));
        }
        // A change that was under way may have set another.
        let more = engine.leftovers(&defined).await?;
        let known: BTreeSet<String> = found.values.iter().map(|left| left.name.clone()).collect();
        found.values.extend(more.into_iter().filter(|left| !known.contains(&left.name)));
        Ok(())
    }
}
