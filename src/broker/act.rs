//! What a person does on the operator socket, on the record: asked for before it is done, and how it went afterwards.

use super::{Broker, Operator, Selection, Stop, record};
use crate::{
    audit::{Decided, Event, Kind, Need, Outcome, Recordable, Word},
    model::{EndResult, EngineName, Line, Refusal, RequestId, SecretName},
    wire::EndRow,
};
use serde::Serialize;

/// One act.
pub struct Act<'a> {
    action: &'static str,
    request: RequestId,
    secret: Option<&'a SecretName>,
    why: Option<&'a Line>,
    selection: Option<&'a Selection>,
    force: bool,
    engine: Option<&'a EngineName>,
}

impl<'a> Act<'a> {
    /// An act about nothing in particular. `action` is a word of ours, as it stands in records.
    pub fn new(action: &'static str, request: RequestId) -> Self {
        Act { action, request, secret: None, why: None, selection: None, force: false, engine: None }
    }

    /// About a secret.
    pub fn of(self, secret: &'a SecretName) -> Self {
        Act { secret: Some(secret), ..self }
    }

    /// About an engine.
    pub fn with_engine(self, engine: &'a EngineName) -> Self {
        Act { engine: Some(engine), ..self }
    }

    /// With what the person said about it.
    pub fn because(self, why: Option<&'a Line>) -> Self {
        Act { why, ..self }
    }

    /// About these leases. With `force`, endings that were given up are tried once more.
    pub fn selecting(self, selection: &'a Selection, force: bool) -> Self {
        Act { selection: Some(selection), force, ..self }
    }
}

/// What an act was about and what it led to: `more` of its records.
#[derive(Serialize)]
struct More<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a SecretName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    engine: Option<&'a EngineName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selection: Option<&'a Selection>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Counts>,
}

/// How many endings came to which result.
#[derive(Clone, Copy, Default, Serialize)]
struct Counts {
    revoked: usize,
    lapsed: usize,
    retrying: usize,
    irrevocable: usize,
    #[serde(skip_serializing_if = "is_none")]
    shared: usize,
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

/// Parsed names, ids, numbers and counts.
impl Recordable for More<'_> {}

impl Broker {
    /// Says what is about to be done. What is not on the record is not done, except that ending and freezing go on: their callers
    /// decide.
    pub async fn asked(&self, operator: &Operator, act: &Act<'_>) -> Result<(), Refusal> {
        self.put_act(operator, act, Outcome::Asked, None).await
    }

    /// Says how it went. The act is done by now, whatever becomes of the record.
    pub async fn acted(&self, operator: &Operator, act: &Act<'_>, refused: Option<&Refusal>) {
        let outcome = if refused.is_some() { Outcome::Failed } else { Outcome::Done };
        self.put_result(operator, act, outcome, None).await;
    }

    /// The same for endings.
    pub async fn acted_ending(&self, operator: &Operator, act: &Act<'_>, rows: &[EndRow]) {
        let count = |result| rows.iter().filter(|row| row.result == result).count();
        let counts = Counts {
            revoked: count(EndResult::Revoked),
            lapsed: count(EndResult::Lapsed),
            retrying: count(EndResult::Retrying),
            irrevocable: count(EndResult::Irrevocable),
            shared: count(EndResult::Shared),
        };
        let failed = counts.retrying + counts.irrevocable > 0;
        self.put_result(operator, act, if failed { Outcome::Failed } else { Outcome::Done }, Some(counts)).await;
    }

    async fn put_result(&self, operator: &Operator, act: &Act<'_>, outcome: Outcome, ended: Option<Counts>) {
        if let Err(refusal) = self.put_act(operator, act, outcome, ended).await {
            tracing::error!(request = %act.request, action = act.action, code = %refusal.code, "how an operator's act went is not on the record");
        }
    }

    async fn put_act(&self, operator: &Operator, act: &Act<'_>, outcome: Outcome, ended: Option<Counts>) -> Result<(), Refusal> {
        let kind = if act.action == "freeze" || act.action == "unfreeze" { Kind::Freeze } else { Kind::Operator };
        let governance = self.governance();
        let row = act.secret.and_then(|name| governance.catalogue.find(name));
        let mut event = Event::new(kind).request(act.request).uid(operator.uid()).outcome(outcome);
        event = event.policy(Decided { bundle: Word::parse(governance.bundle.hash()).ok(), ..Decided::default() });
        if let Some(person) = operator.did(act.action) {
            event = event.by(person);
        }
        if let Some(row) = row {
            event = event.secret(row, None);
        }
        if let Some(why) = act.why {
            event = event.detail(why);
        }
        // A value may be put before its row is written: then the name stands alone.
        let more =
            More { secret: act.secret.filter(|_| row.is_none()), engine: act.engine, selection: act.selection, force: act.force, ended };
        if more.secret.is_some() || more.engine.is_some() || more.selection.is_some() || more.ended.is_some() {
            event = record::with(event, Event::more, &more);
        }
        self.audit.append(event, Need::Durable).await.map(drop).map_err(|error| Stop::from(error).refusal())
    }
}
