//! The decision itself. See the module's own documentation for the scheme.

use super::{
    bundle::Bundle,
    context::{Facts, context},
    decision::{Because, Decision, Permit, Refused, Shadow, Unmet},
    evidence::Evidence,
    near::near_misses,
    recent::Looked,
    rule::{GrantFacts, GrantNote, Rule, RuleClass},
    slice::{Slice, Triple},
};
use crate::{
    attest::Workload,
    intent::{Effective, Intent},
    model::{Assurance, Code, WallTime},
};
use cedar_policy::{PolicySet, Request, Response};
use std::{borrow::Cow, collections::HashSet, sync::Arc};

impl Bundle {
    /// Decides one request with the evidence at hand. Issuing, renewing and explaining all come through here.
    pub fn decide(&self, workload: &Workload, intent: &Intent, evidence: &Evidence, now: WallTime, frozen: bool) -> Decision {
        let mut because = Because::new(workload, intent, self.hash());
        // The rows are those of this bundle or the answer would mix two states of the host.
        let Some((identity, secret)) = self.rows(workload.identity(), intent.secret()) else {
            because.errors.push("the identity or the secret is not of this bundle's generation; attest and ask again".to_owned());
            return refuse(Code::POLICY_ERROR, because);
        };
        let slice = match self.slice(identity, secret, intent) {
            Ok(slice) => slice,
            Err(fault) => return because.broken(Broken(vec![fault])),
        };
        let (limits, caps) = slice.within_caps(intent.effective());
        let facts =
            Facts { workload, intent, limits, assurance: workload.assurance(), evidence, grant: GrantFacts::default(), now, frozen };
        let verdict = match self.weigh(&slice, &facts) {
            Ok(verdict) => verdict,
            Err(broken) => return because.broken(broken),
        };
        if let Some(grant) = verdict.grant() {
            because.grant = Some(grant.clone());
            because.shadows = self.shadows(&slice, &Facts { grant: grant.facts(), ..facts });
        }
        let effective = || Effective { ttl: limits.ttl, uses: limits.uses, ..intent.effective().clone() };
        match verdict {
            Verdict::Passes(_) => {
                because.policies = caps;
                Decision::Permit(Permit::new(because, effective(), limits.renewable))
            }
            Verdict::Unmet(_, rules) => {
                because.policies = rules.iter().map(|rule| rule.note.clone()).chain(caps).collect();
                Decision::Needs(Unmet::new(because, effective(), limits.renewable))
            }
            Verdict::Refused(_, rules) => because.refused_by(&rules),
            Verdict::NoGrant => {
                because.near = near_misses(self.grants(), &slice.triple, intent, now);
                // What even the best grant would not lift, so that an operator learns of everything at once.
                because.further = match self.refusing(&slice, &Facts { grant: GrantFacts::BEST, ..facts }) {
                    Ok(rules) => rules.into_iter().map(|rule| rule.note.clone()).collect(),
                    Err(broken) => return because.broken(broken),
                };
                refuse(Code::NO_GRANT, because)
            }
        }
    }

    /// Holds the rules against the request, with each grant that covers it until one passes.
    fn weigh<'a>(&'a self, slice: &'a Slice, facts: &Facts<'_>) -> Result<Verdict<'a>, Broken> {
        let mut denied = None;
        for grant in self.covering(slice, facts)? {
            let rules = self.refusing(slice, &Facts { grant: grant.facts(), ..*facts })?;
            if rules.is_empty() {
                return Ok(Verdict::Passes(grant));
            }
            // An invariant does not look at the grant, so no other grant would fare better.
            if rules.iter().any(|rule| is_invariant(rule)) {
                return Ok(Verdict::Refused(grant, rules));
            }
            denied.get_or_insert((grant, rules));
        }
        let Some((grant, rules)) = denied else { return Ok(Verdict::NoGrant) };
        // What is missing is worth asking for only if the request would pass with everything in hand.
        let hoped = self.hoped(facts.evidence.signs);
        let best = Facts { assurance: Assurance::Measured, evidence: &hoped, grant: GrantFacts::BEST, ..*facts };
        let still = self.refusing(slice, &best)?;
        Ok(if still.is_empty() { Verdict::Unmet(grant, rules) } else { Verdict::Refused(grant, still) })
    }

    /// The grants that cover the request, best first, one for each set of facts that rules could ask of them.
    fn covering<'s>(&self, slice: &'s Slice, facts: &Facts<'_>) -> Result<Vec<&'s Arc<GrantNote>>, Broken> {
        let purpose = &facts.intent.claimed().purpose;
        let mut covering: Vec<_> = slice.grants.iter().filter(|(note, _)| note.covers(purpose, facts.now)).collect();
        if covering.iter().any(|(_, conditional)| *conditional) {
            let response = self.evaluate(slice, facts, &slice.conditional)?;
            let holds: HashSet<&str> = response.diagnostics().reason().map(AsRef::as_ref).collect();
            covering.retain(|(note, conditional)| !conditional || holds.contains(&*note.id));
        }
        // Sorted best first, so equal facts are neighbours.
        covering.dedup_by_key(|(note, _)| note.facts());
        Ok(covering.into_iter().map(|(note, _)| note).collect())
    }

    /// The rules in force that refuse, in the order of their files.
    fn refusing(&self, slice: &Slice, facts: &Facts<'_>) -> Result<Vec<&Rule>, Broken> {
        let looked = Looked::at(facts);
        if let Some(rules) = slice.recent.find(&looked) {
            return Ok(rules.into_iter().map(|at| &self.rules()[at]).collect());
        }
        let rules = self.acting(slice, facts, &slice.rules)?;
        slice.recent.keep(looked, rules.clone());
        Ok(rules.into_iter().map(|at| &self.rules()[at]).collect())
    }

    /// What the rules under trial would do.
    fn shadows(&self, slice: &Slice, facts: &Facts<'_>) -> Vec<Shadow> {
        match self.acting(slice, facts, &slice.shadows) {
            Ok(rules) => rules.into_iter().map(|at| Shadow::Would(self.rules()[at].note.clone())).collect(),
            Err(Broken(errors)) => errors.into_iter().map(Shadow::Fails).collect(),
        }
    }

    /// The numbers of the rules of a set that act, in the order of their files.
    fn acting(&self, slice: &Slice, facts: &Facts<'_>, set: &PolicySet) -> Result<Vec<usize>, Broken> {
        if set.is_empty() {
            return Ok(Vec::new());
        }
        let response = self.evaluate(slice, facts, set)?;
        if response.decision() == cedar_policy::Decision::Allow {
            return Ok(Vec::new());
        }
        let mut at = Vec::new();
        for id in response.diagnostics().reason() {
            at.push(self.rule_at(id.as_ref()).ok_or_else(|| Broken(vec![format!("{id} is no rule of this bundle")]))?);
        }
        at.sort_unstable();
        // Nothing refused and nothing allowed cannot be: the set holds a permit without conditions.
        if at.is_empty() { Err(Broken(vec!["denied without a reason".to_owned()])) } else { Ok(at) }
    }

    /// Cedar leaves out a policy that it cannot evaluate, so a forbid could fall silent: any error denies.
    fn evaluate(&self, slice: &Slice, facts: &Facts<'_>, set: &PolicySet) -> Result<Response, Broken> {
        let Triple { principal, action, resource, entities } = &slice.triple;
        let context = context(facts, action).map_err(|error| Broken(vec![error.to_string()]))?;
        let request = Request::new(principal.clone(), action.clone(), resource.clone(), context, None);
        let request = request.map_err(|error| Broken(vec![error.to_string()]))?;
        let response = self.authorizer().is_authorized(&request, set, entities);
        let errors: Vec<String> = response.diagnostics().errors().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(response) } else { Err(Broken(errors)) }
    }
}

/// What grants and rules together say.
enum Verdict<'a> {
    /// Nothing covers the request.
    NoGrant,
    /// No rule refuses.
    Passes(&'a Arc<GrantNote>),
    /// These refuse, and evidence would lift them all.
    Unmet(&'a Arc<GrantNote>, Vec<&'a Rule>),
    /// These refuse for good.
    Refused(&'a Arc<GrantNote>, Vec<&'a Rule>),
}

impl<'a> Verdict<'a> {
    fn grant(&self) -> Option<&'a Arc<GrantNote>> {
        match self {
            Verdict::NoGrant => None,
            Verdict::Passes(grant) | Verdict::Unmet(grant, _) | Verdict::Refused(grant, _) => Some(grant),
        }
    }
}

/// What could not be evaluated.
struct Broken(Vec<String>);

impl Because {
    fn broken(mut self, Broken(errors): Broken) -> Decision {
        self.errors = errors;
        refuse(Code::POLICY_ERROR, self)
    }

    /// Invariants are told alone: evidence that would not help is not asked for.
    fn refused_by(mut self, rules: &[&Rule]) -> Decision {
        let only_invariants = rules.iter().any(|rule| is_invariant(rule));
        let told = || rules.iter().filter(|rule| !only_invariants || is_invariant(rule));
        self.policies = told().map(|rule| rule.note.clone()).collect();
        self.further = rules.iter().filter(|rule| only_invariants && !is_invariant(rule)).map(|rule| rule.note.clone()).collect();
        let first = told().next().map(|rule| &rule.note.class);
        let (code, sentence) = match first {
            Some(RuleClass::Invariant { code, sentence }) => (code.clone(), sentence.clone()),
            // No evidence lifts it, though it is written as if some did.
            Some(RuleClass::Require(requirement)) => (Code::from_policy("cannot_be_met"), Cow::Owned(requirement.sentence.clone())),
            // A cap still refuses after it was kept to, so its condition is not what it was taken for.
            Some(RuleClass::Cap(_)) | None => (Code::POLICY_ERROR, Cow::Borrowed(Code::POLICY_ERROR.sentence())),
        };
        Decision::Forbid(Refused::new(code, sentence, self))
    }
}

fn is_invariant(rule: &Rule) -> bool {
    matches!(rule.note.class, RuleClass::Invariant { .. })
}

fn refuse(code: Code, because: Because) -> Decision {
    let sentence = Cow::Borrowed(code.sentence());
    Decision::Forbid(Refused::new(code, sentence, because))
}
