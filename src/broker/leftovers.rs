//! Versions of values that last, when they are taken back: on the record, by their names at the source. Those that no definition names any more
//! are told at each start and by every look at a source, and end when an operator says so.

use super::{Broker, reconcile::Found};
use crate::{
    audit::{Event, Facts, Kind, Outcome, Recordable, Word},
    engine::{Engine, TakenBack},
    model::{Code, EngineName, Refusal, RequestId, SecretName},
};
use serde::Serialize;

/// So many are named in one line of the log.
const MANY: usize = 20;

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
    pub(super) async fn look_for_leftovers(&self, name: &EngineName, engine: &dyn Engine, end: Option<RequestId>, found: &mut Found) {
        found.values = match engine.leftovers(&self.governance().of_engine(name)).await {
            Ok(left) => left,
            Err(error) => {
                found.failed.push(format!("values that no definition names cannot be looked for: {error}"));
                return;
            }
        };
        let Some(request) = end else {
            if !found.values.is_empty() {
                let left: Vec<&str> = found.values.iter().take(MANY).map(|left| left.name.as_str()).collect();
                tracing::warn!(engine = %name, count = found.values.len(), ?left,
                    "no definition names these versions of values that last: 'clav engine reconcile {name} --end-values' takes them back");
            }
            return;
        };
        for left in &found.values {
            // Nobody has a lease of it any more: those end with the definition.
            let taken = engine.end_leftover(left, &self.governance().of_engine(name)).await;
            match &taken.found {
                Ok(_) => {
                    tracing::warn!(engine = %name, version = left.name, "took back a version of a value that no definition names");
                    found.values_ended.push(left.name.clone());
                }
                Err(why) => found.failed.push(format!("{}: {why}", left.name)),
            }
            self.note_rotation(self.retired(name, taken, request)).await;
        }
    }
}
