//! What becomes known along the path, gathered for the record.

use super::{Stop, caller::Known};
use crate::{
    attest::{Basis, Eyes, Facts as ProcessFacts, Peer},
    audit::{Decided, Event, Facts, Holder as HolderFacts, Kind, Recordable, Word},
    engine::Named,
    intent::{Adapter, Ask, Claimed, Effective, Intent, Source},
    lease::Lease,
    model::{CredentialName, LeaseId, Operation, Purpose, RequestId, SecretName, Ttl},
    policy::Because,
};
use serde::Serialize;
use std::sync::Arc;

/// Facts from the kernel, escaped.
impl Recordable for ProcessFacts {}
/// A closed list.
impl Recordable for Basis {}
/// A closed list.
impl Recordable for Eyes {}
/// A closed list.
impl Recordable for Source {}
/// A closed list.
impl Recordable for Adapter {}
/// Parsed names, numbers and one checked line.
impl Recordable for Claimed {}
/// Computed by us.
impl Recordable for Effective {}
/// Names only, by the engines' contract.
impl Recordable for Named {}

/// How a value was given, where that is not as usual: the `more` of its record.
#[derive(Default)]
pub(super) struct Given {
    /// Sealed to a key of the caller's.
    pub(super) pinned: bool,
    /// The lease whose credential it has.
    pub(super) shares: Option<LeaseId>,
    /// As it was known so many seconds ago: its source could not be asked.
    pub(super) age: Option<u64>,
}

/// The same in words.
#[derive(Serialize)]
struct Said {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<LeaseId>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    stale: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<u64>,
}

/// Flags, an id and a number.
impl Recordable for Said {}

impl Given {
    /// Puts it on the record, if there is anything to say.
    pub(super) fn on(self, event: Event) -> Event {
        let Self { pinned, shares, age } = self;
        let said = Said { pinned, shares, stale: age.is_some(), age };
        if pinned || shares.is_some() || age.is_some() { with(event, Event::more, &said) } else { event }
    }
}

/// What was asked for, as long as there is no intent: so that a secret that nobody knows is named on the record all the same.
#[derive(Serialize)]
pub(super) struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<SecretName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<CredentialName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<Purpose>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<Operation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<Ttl>,
}

/// Parsed names, words and numbers.
impl Recordable for Asked {}

impl Asked {
    pub(super) fn of(ask: &Ask) -> Self {
        Self {
            secret: ask.secret.clone(),
            credential: ask.credential.clone(),
            purpose: ask.purpose.clone(),
            operation: ask.operation,
            ttl: ask.ttl,
        }
    }
}

/// The trail of one request.
pub(super) struct Trail {
    pub(super) request: RequestId,
    uid: u32,
    pub(super) known: Option<Arc<Known>>,
    /// A process that is no registered identity.
    pub(super) nobody: Option<ProcessFacts>,
    pub(super) asked: Option<Asked>,
    pub(super) adapter: Option<Adapter>,
    pub(super) intent: Option<Intent>,
    pub(super) decided: Option<Decided>,
    /// The value is sealed to a key of the caller's.
    pub(super) pinned: bool,
}

impl Trail {
    pub(super) fn new(request: RequestId, peer: &Peer) -> Self {
        Self::of_uid(request, peer.uid())
    }

    /// The trail of a peer of which only the uid at connect is known.
    pub(super) fn of_uid(request: RequestId, uid: u32) -> Self {
        Self { request, uid, known: None, nobody: None, asked: None, adapter: None, intent: None, decided: None, pinned: false }
    }

    /// An event of this kind with all that is known so far.
    pub(super) fn event(&self, kind: Kind) -> Event {
        self.fill(Event::new(kind), None)
    }

    /// The same for an event that says something already; `version` is that of the secret's value.
    pub(super) fn fill(&self, event: Event, version: Option<u64>) -> Event {
        let mut event = event.request(self.request).uid(self.uid);
        if let Some(known) = &self.known {
            event = event.identity(known.workload.identity()).assurance(known.workload.assurance());
            event = add(event, Event::basis, &known.basis);
            event = add(event, Event::attestor, &known.attestor);
            event = add(event, Event::attested, &known.attested);
            event = add(event, Event::client, &known.client);
        }
        if let Some(facts) = &self.nobody {
            event = with(event, Event::attested, facts);
        }
        if let Some(adapter) = &self.adapter {
            event = with(event, Event::adapter, adapter);
        }
        if let Some(intent) = &self.intent {
            event = event.channel(intent.channel()).secret(intent.secret(), version);
            event = with(event, Event::source, &intent.source());
            event = with(event, Event::claimed, intent.claimed());
            event = with(event, Event::effective, intent.effective());
        } else if let Some(asked) = &self.asked {
            event = with(event, Event::claimed, asked);
        }
        match &self.decided {
            Some(decided) => event.policy(decided.clone()),
            None => event,
        }
    }

    /// The record of a request that led to nothing.
    pub(super) fn stopped(&self, stop: &Stop) -> Event {
        let mut refusal = stop.refusal();
        // A sentence of its own says more than the code.
        if refusal.detail.is_none() && refusal.message != refusal.code.sentence() {
            refusal.detail = Some(refusal.message.to_string());
        }
        let kind = if refusal.code == crate::model::Code::NEEDS { Kind::Needs } else { Kind::Refuse };
        self.event(kind).refusal(&refusal)
    }
}

/// The JSON of facts; none for a value without a JSON form, which no type above has.
pub(super) fn facts<T: Recordable>(value: &T) -> Option<Facts> {
    Facts::of(value).ok()
}

fn add(event: Event, setter: fn(Event, Facts) -> Event, facts: &Option<Facts>) -> Event {
    match facts {
        Some(facts) => setter(event, facts.clone()),
        None => event,
    }
}

/// Adds facts; a value without a JSON form is left out, which no type above has.
pub(super) fn with<T: Recordable>(event: Event, add: fn(Event, Facts) -> Event, value: &T) -> Event {
    match Facts::of(value) {
        Ok(facts) => add(event, facts),
        Err(_) => event,
    }
}

/// What a decision rests on, for the record.
pub(super) fn decided(because: &Because) -> Decided {
    let word = |text: &str| Word::parse(text).ok();
    Decided {
        bundle: word(&because.bundle),
        grant: because.grant.as_ref().and_then(|grant| word(&grant.id)),
        grant_owner: because.grant.as_ref().map(|grant| grant.owner.clone()),
        ticket: because.grant.as_ref().and_then(|grant| grant.ticket.clone()),
        determining: because.policies.iter().filter_map(|note| word(&note.id)).collect(),
        shadow: because
            .shadows
            .iter()
            .filter_map(|shadow| match shadow {
                crate::policy::Shadow::Would(note) => word(&note.id),
                crate::policy::Shadow::Fails(_) => word("fails"),
            })
            .collect(),
    }
}

/// A bundle alone.
pub(super) fn bundle(hash: &Arc<str>) -> Decided {
    Decided { bundle: Word::parse(hash).ok(), ..Decided::default() }
}

/// The holder of a lease.
pub(super) fn holder(lease: &Lease) -> HolderFacts {
    let holder = &lease.holder;
    HolderFacts {
        kind: holder.kind,
        pid: holder.pid,
        handle: holder.inode,
        name: holder.cgroup.as_ref().and_then(|group| Word::parse(&group.path).ok()),
    }
}

/// What is known about a lease, for records that are about it later.
pub(super) fn of_lease(kind: Kind, lease: &Lease) -> Event {
    let event = Event::new(kind).lease(lease.id).holder(holder(lease)).expires(lease.expires);
    let event = event.assurance(lease.assurance).channel(lease.channel);
    // As it was given: rows of today may be gone, or about something else.
    let event = event.former_identity(&lease.identity, lease.identity_kind);
    let event = event.former_secret((&lease.secret, &lease.engine), &lease.owner, (lease.sensitivity, lease.ends_by));
    let decided = Decided { bundle: Word::parse(&lease.bundle).ok(), grant: Word::parse(&lease.grant).ok(), ..Decided::default() };
    with(event.policy(decided), Event::credential, &lease.reference.named())
}
