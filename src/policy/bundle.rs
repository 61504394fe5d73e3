//! A bundle: every policy, secret and identity of the host as one state with one hash. It loads whole or not at all.

use super::{
    doubts::doubts,
    evidence::{Evidence, Signs},
    lint::{Linted, lint},
    reads::Reads,
    rule::{Grant, Rule, RuleClass},
    slice::{Slice, SliceFault},
    source::{Fault, Notice, Place, Problem, Source, Statement, Warning, statements},
    words::{Kind, PARSED, SCHEMA, members, principal, type_name},
};
use crate::{
    digest::Hasher,
    intent::Intent,
    model::{Catalogue, Channel, Code, Identity, IdentityName, Operation, Registry, SecretDefinition, SecretName, WallTime},
};
use cedar_policy::{Authorizer, EntityUid, Policy, PolicyId, PolicySet, ValidationMode, Validator};
use miette::Diagnostic;
use moka::sync::Cache;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// The shipped baseline: what a fresh installation writes to `policy.d/00-baseline.cedar`.
pub const BASELINE: &str = include_str!("../../config/policy.d/00-baseline.cedar");

/// How many slices are kept, some 30 KB each. A host with more live triples than this builds some of them again.
const SLICES: u64 = 1_024;
/// Attributes are looked up at most this many steps from the request, so a slice's entities are all that is ever needed.
const LEVEL: u32 = 2;

/// One state of the host's policy. Immutable: a reload makes another.
pub struct Bundle {
    hash: Arc<str>,
    loaded: WallTime,
    grants: Vec<Grant>,
    rules: Vec<Rule>,
    by_id: HashMap<String, usize>,
    approvals: BTreeSet<String>,
    controls: BTreeSet<String>,
    identities: HashMap<IdentityName, (u32, Arc<Identity>)>,
    secrets: HashMap<SecretName, (u32, Arc<SecretDefinition>)>,
    slices: Cache<(u32, u32, Channel, Operation), Arc<Slice>>,
    authorizer: Authorizer,
}

/// An identity's row and a secret's, by number and in full.
pub(super) type Row<'a, T> = &'a (u32, Arc<T>);

impl Bundle {
    /// Loads all sources against the catalogue and the registry. Every problem of every file is reported, not just the first.
    pub fn load(
        mut sources: Vec<Source>,
        catalogue: &Catalogue,
        registry: &Registry,
        today: WallTime,
    ) -> Result<(Bundle, Vec<Warning>), Vec<Problem>> {
        // Whatever order the files were read in, the bundle is the same.
        sources.sort_by(|a, b| a.name.cmp(&b.name));
        let (mut problems, mut warnings) = (Vec::new(), Vec::new());
        let mut found: Vec<(Linted, Statement<'_>)> = Vec::new();
        for source in &sources {
            match statements(source) {
                Ok(all) => found.extend(all.into_iter().filter_map(|at| {
                    let policy = parse(&at, &mut problems)?;
                    lint(&policy, &at, today, &mut problems, &mut warnings).map(|linted| (linted, at))
                })),
                Err(problem) => problems.push(problem),
            }
        }
        let known = Known::new(catalogue, registry);
        for (linted, at) in &found {
            known.check(linted.policy(), at, &mut problems, &mut warnings);
            if let Linted::Grant(grant) = linted {
                warnings.extend(doubts(grant, catalogue, registry, today));
            }
        }
        validate(&found, &mut problems);
        // Where a file is unreadable, what the bundle lacks is not known.
        if problems.is_empty() {
            problems.extend(no_freeze(&found));
            warnings.extend(missing_baseline(&found));
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| a.place.cmp(&b.place));
            return Err(problems);
        }
        let hash = hash(&sources, catalogue, registry);
        let found = found.into_iter().map(|(linted, _)| linted).collect();
        Ok((Self::assemble(hash, found, catalogue, registry, today), warnings))
    }

    /// Hex SHA-256 over the schema, every source, and the generation of every secret and identity.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    fn assemble(hash: Arc<str>, found: Vec<Linted>, catalogue: &Catalogue, registry: &Registry, loaded: WallTime) -> Self {
        let (mut grants, mut rules) = (Vec::new(), Vec::new());
        for linted in found {
            match linted {
                Linted::Grant(grant) => grants.push(grant),
                Linted::Rule(rule) => rules.push(rule),
            }
        }
        // Best first: the facts that ask least of a request, then the longest life, then the name.
        grants.sort_by(|a, b| {
            let rank = |grant: &Grant| Reverse((grant.note.facts(), grant.note.expires));
            rank(a).cmp(&rank(b)).then_with(|| a.note.id.cmp(&b.note.id))
        });
        let requirements = || rules.iter().filter_map(|rule| if let RuleClass::Require(r) = &rule.note.class { Some(r) } else { None });
        let (approvals, controls) = (requirements().filter_map(|r| r.approval.clone()), requirements().filter_map(|r| r.control.clone()));
        let (approvals, controls) = (approvals.collect(), controls.collect());
        let by_id = rules.iter().enumerate().map(|(at, rule)| (rule.note.id.clone(), at)).collect();
        let identities = (0..).zip(registry.iter()).map(|(at, row)| (row.name.clone(), (at, row.clone()))).collect();
        let secrets = (0..).zip(catalogue.iter()).map(|(at, row)| (row.name.clone(), (at, row.clone()))).collect();
        let (slices, authorizer) = (Cache::new(SLICES), Authorizer::new());
        Self { hash, loaded, grants, rules, by_id, approvals, controls, identities, secrets, slices, authorizer }
    }

    /// This bundle's rows for the two, if they are still what was attested and declared.
    pub(super) fn rows(&self, identity: &Identity, secret: &SecretDefinition) -> Option<(Row<'_, Identity>, Row<'_, SecretDefinition>)> {
        let who = self.identities.get(&identity.name).filter(|(_, row)| row.generation == identity.generation)?;
        let what = self.secrets.get(&secret.name).filter(|(_, row)| row.generation == secret.generation)?;
        Some((who, what))
    }

    /// The slice for a triple, made at its first request.
    pub(super) fn slice(
        &self,
        identity: Row<'_, Identity>,
        secret: Row<'_, SecretDefinition>,
        intent: &Intent,
    ) -> Result<Arc<Slice>, String> {
        let (channel, operation) = (intent.channel(), intent.effective().operation);
        let make = || Slice::new(&identity.1, &secret.1, (channel, operation), (&self.grants, &self.rules), self.loaded).map(Arc::new);
        let made = self.slices.try_get_with((identity.0, secret.0, channel, operation), make);
        made.map_err(|fault: Arc<SliceFault>| fault.to_string())
    }

    /// Everything that could still be shown for a request with these signs.
    pub(super) fn hoped(&self, signs: Signs) -> Evidence {
        Evidence::hoped(self.approvals.clone(), self.controls.clone(), signs)
    }

    pub(super) fn grants(&self) -> &[Grant] {
        &self.grants
    }

    pub(super) fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub(super) fn rule_at(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub(super) fn authorizer(&self) -> &Authorizer {
        &self.authorizer
    }
}

fn parse(at: &Statement<'_>, problems: &mut Vec<Problem>) -> Option<Policy> {
    Policy::parse(None, at.text)
        .map_err(|errors| {
            problems.extend(errors.iter().map(|error| Problem { place: at.place(offset(error)), fault: Fault::Syntax(error.to_string()) }));
        })
        .ok()
}

/// Ids are unique, and every policy is sound against the schema: types, attributes, closed sets, and that it can ever apply.
fn validate(found: &[(Linted, Statement<'_>)], problems: &mut Vec<Problem>) {
    let (mut set, mut by_id) = (PolicySet::new(), HashMap::<PolicyId, &(Linted, Statement<'_>)>::new());
    for one @ (linted, at) in found {
        match by_id.insert(linted.policy().id().clone(), one) {
            Some((first, _)) => {
                let fault = Fault::Duplicate { id: linted.id().to_owned(), by: first.place().clone() };
                problems.push(Problem { place: at.place(0), fault });
            }
            None => problems.extend(set.add(linted.policy().clone()).err().map(|error| fault_at(at, 0, error.to_string()))),
        }
    }
    let result = Validator::new(PARSED.clone()).validate_with_level(&set, ValidationMode::Strict, LEVEL);
    let places = |id: &PolicyId, offset, text| by_id.get(id).map(|(_, at)| fault_at(at, offset, text));
    problems.extend(result.validation_errors().filter_map(|error| places(error.policy_id(), offset(error), error.to_string())));
    // A policy that can never apply is a mistake somebody relies on. Where there is an error, it is only the echo of that.
    let faulty: BTreeSet<&PolicyId> = result.validation_errors().map(|error| error.policy_id()).collect();
    let odd = result.validation_warnings().filter(|odd| !faulty.contains(odd.policy_id()));
    problems.extend(odd.filter_map(|odd| places(odd.policy_id(), offset(odd), odd.to_string())));
}

fn fault_at(at: &Statement<'_>, offset: usize, text: String) -> Problem {
    Problem { place: at.place(offset), fault: Fault::Validation(text) }
}

fn offset(of: &impl Diagnostic) -> usize {
    of.labels().and_then(|mut labels| labels.next()).map_or(0, |label| label.offset())
}

fn no_freeze(found: &[(Linted, Statement<'_>)]) -> Option<Problem> {
    let freezes = |linted: &Linted| match linted {
        Linted::Rule(rule) => {
            let tells = matches!(&rule.note.class, RuleClass::Invariant { code, .. } if *code == Code::FROZEN);
            tells && !rule.shadow && rule.reach.is_everything() && is_exactly_frozen(&rule.policy)
        }
        Linted::Grant(_) => false,
    };
    let none = !found.iter().any(|(linted, _)| freezes(linted));
    none.then(|| Problem { place: whole_bundle(), fault: Fault::NoFreeze })
}

fn is_exactly_frozen(policy: &Policy) -> bool {
    let frozen = serde_json::json!({ ".": { "left": { "Var": "context" }, "attr": "frozen" } });
    Reads::of(policy).is_ok_and(|reads| reads.is_exactly(frozen))
}

fn missing_baseline(found: &[(Linted, Statement<'_>)]) -> Vec<Warning> {
    let shipped = Source { name: "00-baseline.cedar".to_owned(), text: BASELINE.to_owned() };
    let here: BTreeSet<&str> = found.iter().map(|(linted, _)| linted.id()).collect();
    let ids =
        statements(&shipped).into_iter().flatten().filter_map(|at| Policy::parse(None, at.text).ok()?.annotation("id").map(str::to_owned));
    let missing = ids.filter(|id| !here.contains(id.as_str()));
    missing.map(|id| Warning { place: whole_bundle(), notice: Notice::BaselineRule(id) }).collect()
}

fn whole_bundle() -> Place {
    Place { file: "policy.d".into(), line: 0, column: 0 }
}

/// The names that a policy may mention.
struct Known(BTreeMap<&'static str, BTreeSet<String>>);

impl Known {
    fn new(catalogue: &Catalogue, registry: &Registry) -> Self {
        let mut names: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        let mut add = |kind: Kind, name: &str| _ = names.entry(kind.as_str()).or_default().insert(name.to_owned());
        for identity in registry.iter() {
            add(principal(identity.kind), identity.name.as_str());
            identity.groups.iter().for_each(|group| add(Kind::Group, group.as_str()));
        }
        for secret in catalogue.iter() {
            add(Kind::Secret, secret.name.as_str());
            secret.name.folders().for_each(|folder| add(Kind::Folder, folder));
        }
        Self(names)
    }

    /// A member that a closed set does not have is a problem: the rule would never apply. A name that no row bears is a warning:
    /// the row may come later.
    fn check(&self, policy: &Policy, at: &Statement<'_>, problems: &mut Vec<Problem>, warnings: &mut Vec<Warning>) {
        let literals: BTreeMap<String, EntityUid> = policy.entity_literals().into_iter().map(|uid| (uid.to_string(), uid)).collect();
        for (text, uid) in literals {
            // The validator knows every other type to be unknown.
            let Some(&kind) = Kind::ALL.iter().find(|kind| type_name(**kind) == uid.type_name()) else { continue };
            let name: &str = uid.id().unescaped();
            let place = at.place(at.text.find(&text).unwrap_or(0));
            match members(kind) {
                Some(members) if !members.contains(&name) => {
                    problems.push(Problem { place, fault: Fault::NoSuchMember(text, members.join(", ")) });
                }
                None if !self.0.get(kind.as_str()).is_some_and(|names| names.contains(name)) => {
                    warnings.push(Warning { place, notice: Notice::Unknown(text) });
                }
                _ => {}
            }
        }
    }
}

fn hash(sources: &[Source], catalogue: &Catalogue, registry: &Registry) -> Arc<str> {
    let mut hasher = Hasher::new();
    // Each part with its length, so that no two different bundles run together.
    let mut add = |part: &str| {
        hasher.update(&(part.len() as u64).to_be_bytes());
        hasher.update(part.as_bytes());
    };
    add(SCHEMA);
    for source in sources {
        [source.name.as_str(), source.text.as_str()].into_iter().for_each(&mut add);
    }
    for row in catalogue.iter() {
        ["secret", row.name.as_str(), &row.generation].into_iter().for_each(&mut add);
    }
    for row in registry.iter() {
        ["identity", row.name.as_str(), &row.generation].into_iter().for_each(&mut add);
    }
    hex::encode(hasher.finish()).into()
}
