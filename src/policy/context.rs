//! One request's facts as a Cedar context. Typed all the way: no JSON, and debug builds check each against the schema.

use super::{
    entities::{datetime, text, texts},
    evidence::Evidence,
    rule::{Cap, GrantFacts},
    words::{Kind, PARSED, entity},
};
use crate::{
    attest::Workload,
    intent::{Effective, Intent, Source},
    model::{Assurance, Ttl, UNLIMITED, WallTime},
};
use cedar_policy::{Context, ContextCreationError, EntityUid, RestrictedExpression};

/// What would be issued, as far as caps may narrow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub ttl: Ttl,
    pub uses: u64,
    pub renewable: bool,
}

impl Limits {
    /// All that the intent leaves room for.
    pub fn of(effective: &Effective) -> Self {
        Self { ttl: effective.ttl, uses: effective.uses.min(UNLIMITED), renewable: true }
    }

    /// Keeps to a cap; says whether that took something away.
    pub fn keep_to(&mut self, cap: Cap) -> bool {
        let before = *self;
        match cap {
            Cap::Ttl(most) => self.ttl = self.ttl.min(most),
            Cap::Uses(most) => self.uses = self.uses.min(most),
            Cap::Once => self.renewable = false,
        }
        *self != before
    }
}

/// What a context is made of, apart from what the slice holds already.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub workload: &'a Workload,
    pub intent: &'a Intent,
    pub limits: Limits,
    pub assurance: Assurance,
    pub evidence: &'a Evidence,
    pub grant: GrantFacts,
    pub now: WallTime,
    pub frozen: bool,
}

/// The context of a request.
pub(super) fn context(facts: &Facts<'_>, action: &EntityUid) -> Result<Context, Box<ContextCreationError>> {
    let pairs = [
        ("claimed", claimed(facts.intent)),
        (
            "effective",
            record([
                ("operation", entity(Kind::Operation, facts.intent.effective().operation.as_str())),
                ("hosts", texts(facts.intent.effective().hosts.iter().map(|host| host.as_str()))),
                ("ttl", RestrictedExpression::new_long(facts.limits.ttl.as_secs().into())),
                ("uses", long(facts.limits.uses)),
                ("renewable", yes(facts.limits.renewable)),
            ]),
        ),
        (
            "attested",
            record([
                ("assurance", entity(Kind::Assurance, facts.assurance.as_str())),
                ("traced", yes(facts.workload.facts().tracer.is_some())),
                ("viaClient", yes(facts.workload.client().is_some())),
            ]),
        ),
        ("session", record([("drift", yes(facts.evidence.signs.drift)), ("untrustedInput", yes(facts.evidence.signs.untrusted_input))])),
        ("evidence", evidence(facts.evidence)),
        (
            "grant",
            record([("ticket", yes(facts.grant.ticket)), ("signed", yes(facts.grant.signed)), ("lasting", yes(facts.grant.lasting))]),
        ),
        ("now", datetime(facts.now)),
        ("frozen", yes(facts.frozen)),
    ];
    let context = Context::from_pairs(pairs.map(|(name, value)| (name.to_owned(), value)))?;
    debug_assert_eq!(context.validate(&PARSED, action).map_err(|error| error.to_string()), Ok(()));
    Ok(context)
}

fn claimed(intent: &Intent) -> RestrictedExpression {
    let claimed = intent.claimed();
    let source = match intent.source() {
        Source::Registry => "registry",
        Source::Caller => "caller",
        Source::Adapter => "adapter",
    };
    let always = [
        ("purpose", text(claimed.purpose.as_str())),
        ("targets", texts(claimed.targets.iter().map(|target| target.as_str()))),
        ("source", entity(Kind::Source, source)),
    ];
    let said = [
        claimed.operation.map(|operation| ("intended", entity(Kind::Operation, operation.as_str()))),
        claimed.ttl.map(|ttl| ("seconds", RestrictedExpression::new_long(ttl.as_secs().into()))),
        claimed.uses.map(|uses| ("times", long(uses))),
    ];
    record(always.into_iter().chain(said.into_iter().flatten()))
}

fn evidence(evidence: &Evidence) -> RestrictedExpression {
    record([
        ("user", yes(evidence.user)),
        ("confirmed", yes(evidence.confirmed)),
        ("mission", yes(evidence.mission)),
        ("ticket", yes(evidence.ticket)),
        ("changeWindow", yes(evidence.change_window)),
        ("approvals", texts(evidence.approvals.iter().map(String::as_str))),
        ("controls", texts(evidence.controls.iter().map(String::as_str))),
    ])
}

fn record(fields: impl IntoIterator<Item = (&'static str, RestrictedExpression)>) -> RestrictedExpression {
    // Fails only for a repeated key, and every record above names its keys once.
    RestrictedExpression::new_record(fields.into_iter().map(|(name, value)| (name.to_owned(), value))).expect("keys named once")
}

fn yes(fact: bool) -> RestrictedExpression {
    RestrictedExpression::new_bool(fact)
}

fn long(number: u64) -> RestrictedExpression {
    RestrictedExpression::new_long(i64::try_from(number).unwrap_or(i64::MAX))
}
