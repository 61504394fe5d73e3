//! The policies whose scope admits one identity, one secret and one action: all that a decision about the three has to evaluate.
//!
//! A scope looks at nothing but names and ancestors, which stay the same for the life of a bundle. So it is settled once per
//! triple, and each request evaluates the few policies that are left. A test holds slices and the full set against each other.

use super::{
    context::Limits,
    entities::{EntitiesFault, entities},
    recent::Recent,
    rule::{Cap, Grant, GrantNote, Rule, RuleClass, RuleNote},
    words::{Kind, principal, uid},
};
use crate::{
    intent::Effective,
    model::{Channel, Identity, Operation, SecretDefinition, WallTime},
};
use cedar_policy::{
    ActionConstraint, Entities, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet, PolicySetError, PrincipalConstraint,
    ResourceConstraint,
};
use std::sync::Arc;

/// What the scope of a policy admits.
pub(super) struct Reach {
    principal: PrincipalConstraint,
    action: ActionConstraint,
    resource: ResourceConstraint,
}

/// Which parts of a scope admit a triple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    pub identity: bool,
    pub action: bool,
    pub secret: bool,
}

/// An identity, a secret and a channel, in Cedar's terms.
pub(super) struct Triple {
    pub principal: EntityUid,
    pub action: EntityUid,
    pub resource: EntityUid,
    /// The two and all that lies above them.
    pub entities: Entities,
}

/// One triple with its policies.
pub(super) struct Slice {
    pub triple: Triple,
    /// The grants, best first, each with whether it has a condition.
    pub grants: Vec<(Arc<GrantNote>, bool)>,
    /// Those that have one.
    pub conditional: PolicySet,
    /// The rules in force, and a permit for whatever they leave.
    pub rules: PolicySet,
    /// The rules that are only recorded, and the same permit.
    pub shadows: PolicySet,
    /// The caps among the rules in force.
    pub caps: Vec<(Cap, Arc<RuleNote>)>,
    /// What the rules in force lately said.
    pub recent: Recent,
}

/// Why a slice could not be made. Each of these denies.
#[derive(Debug, thiserror::Error)]
pub(super) enum SliceFault {
    #[error(transparent)]
    Entities(#[from] EntitiesFault),
    #[error("{0}")]
    Policies(#[from] Box<PolicySetError>),
}

impl Reach {
    /// The scope of a policy.
    pub fn of(policy: &Policy) -> Self {
        Self { principal: policy.principal_constraint(), action: policy.action_constraint(), resource: policy.resource_constraint() }
    }

    /// The one identity and the one secret that the scope names, where it names one.
    pub fn names(&self) -> (Option<&EntityUid>, Option<&EntityUid>) {
        let identity = if let PrincipalConstraint::Eq(one) = &self.principal { Some(one) } else { None };
        let secret = if let ResourceConstraint::Eq(one) = &self.resource { Some(one) } else { None };
        (identity, secret)
    }

    /// The scope admits every triple there can be.
    pub fn is_everything(&self) -> bool {
        let every_action = match &self.action {
            ActionConstraint::Any => true,
            ActionConstraint::Eq(_) => false,
            ActionConstraint::In(several) => several.contains(&uid(Kind::Action, "use")),
        };
        every_action && self.principal == PrincipalConstraint::Any && self.resource == ResourceConstraint::Any
    }

    /// Holds the scope against a triple.
    pub fn fit(&self, triple: &Triple) -> Fit {
        let within = |entity: &EntityUid, above: &EntityUid| entity == above || triple.entities.is_ancestor_of(above, entity);
        let is = |entity: &EntityUid, kind: &EntityTypeName| entity.type_name() == kind;
        let Triple { principal, action, resource, entities: _ } = triple;
        Fit {
            identity: match &self.principal {
                PrincipalConstraint::Any => true,
                PrincipalConstraint::Eq(one) => principal == one,
                PrincipalConstraint::In(above) => within(principal, above),
                PrincipalConstraint::Is(kind) => is(principal, kind),
                PrincipalConstraint::IsIn(kind, above) => is(principal, kind) && within(principal, above),
            },
            action: match &self.action {
                ActionConstraint::Any => true,
                ActionConstraint::Eq(one) => action == one,
                ActionConstraint::In(several) => several.iter().any(|above| within(action, above)),
            },
            secret: match &self.resource {
                ResourceConstraint::Any => true,
                ResourceConstraint::Eq(one) => resource == one,
                ResourceConstraint::In(above) => within(resource, above),
                ResourceConstraint::Is(kind) => is(resource, kind),
                ResourceConstraint::IsIn(kind, above) => is(resource, kind) && within(resource, above),
            },
        }
    }
}

impl Fit {
    /// The scope admits the triple.
    pub fn all(self) -> bool {
        self.identity && self.action && self.secret
    }
}

impl Slice {
    /// Picks the policies for a triple. Grants that had expired when the bundle was loaded are not among them.
    pub fn new(
        identity: &Identity,
        secret: &SecretDefinition,
        (channel, operation): (Channel, Operation),
        (grants, rules): (&[Grant], &[Rule]),
        loaded: WallTime,
    ) -> Result<Slice, SliceFault> {
        let triple = Triple {
            principal: uid(principal(identity.kind), identity.name.as_str()),
            action: uid(Kind::Action, channel.as_str()),
            resource: uid(Kind::Secret, secret.name.as_str()),
            entities: entities(identity, secret, operation)?,
        };
        let live = |grant: &&Grant| grant.note.expires > loaded && grant.reach.fit(&triple).all();
        let grants: Vec<&Grant> = grants.iter().filter(live).collect();
        let rules: Vec<&Rule> = rules.iter().filter(|rule| rule.reach.fit(&triple).all()).collect();
        let enforced = || rules.iter().filter(|rule| !rule.shadow);
        let cap = |rule: &&Rule| if let RuleClass::Cap(cap) = rule.note.class { Some((cap, rule.note.clone())) } else { None };
        Ok(Slice {
            grants: grants.iter().map(|grant| (grant.note.clone(), grant.conditional)).collect(),
            conditional: set(grants.iter().filter(|grant| grant.conditional).map(|grant| &grant.policy))?,
            rules: set_with_rest(enforced().map(|rule| &rule.policy))?,
            shadows: set_with_rest(rules.iter().filter(|rule| rule.shadow).map(|rule| &rule.policy))?,
            caps: enforced().filter_map(cap).collect(),
            recent: Recent::default(),
            triple,
        })
    }

    /// What would be issued within the caps, and which of them took something away. A cap's condition says its limit and nothing
    /// else (the lint sees to that), so keeping to it beforehand is exact: no evaluation is lost on finding it out.
    pub fn within_caps(&self, effective: &Effective) -> (Limits, Vec<Arc<RuleNote>>) {
        let mut limits = Limits::of(effective);
        let mut kept: Vec<&(Cap, Arc<RuleNote>)> = self.caps.iter().collect();
        kept.sort_by_key(|(cap, _)| match cap {
            Cap::Ttl(most) => u64::from(most.as_secs()),
            Cap::Uses(most) => *most,
            Cap::Once => 0,
        });
        // The tightest comes first, so only the one that decides is named.
        let kept = kept.into_iter().filter(|(cap, _)| limits.keep_to(*cap)).map(|(_, note)| note.clone()).collect();
        (limits, kept)
    }
}

fn set<'a>(policies: impl Iterator<Item = &'a Policy>) -> Result<PolicySet, Box<PolicySetError>> {
    Ok(PolicySet::from_policies(policies.cloned())?)
}

/// Rules only refuse; whether anything is granted was settled before. So all the rest is permitted, unless there is no rule at all.
fn set_with_rest<'a>(rules: impl Iterator<Item = &'a Policy>) -> Result<PolicySet, Box<PolicySetError>> {
    let mut set = set(rules)?;
    if !set.is_empty() {
        // No rule can bear this id, because it holds spaces; and the text is Cedar's shortest policy, which every slice parses.
        let rest = Policy::parse(Some(PolicyId::new("all the rest")), "permit (principal, action, resource);");
        set.add(rest.expect("a well-formed policy"))?;
    }
    Ok(set)
}
