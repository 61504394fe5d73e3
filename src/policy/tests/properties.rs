//! Properties: claims only narrow, and slices decide as the full set does.

use super::{World, claim, days_later, identity, secret};
use crate::{
    intent::Claimed,
    model::{Assurance, Channel, EndsBy, GroupName, IdentityKind, Operation, SecretDefinition, Sensitivity, Target, Ttl},
    policy::{
        Bundle, Decision, Evidence, Need,
        context::{Facts, Limits, context},
        rule::GrantFacts,
    },
};
use cedar_policy::{Authorizer, PolicyId, PolicySet, Request};
use proptest::{prelude::*, sample::select};
use std::{collections::BTreeSet, sync::LazyLock};

/// One secret for each sensitivity and worst operation, and one grant for everything.
struct Plain {
    world: World,
    bundle: Bundle,
}

static PLAIN: LazyLock<Plain> = LazyLock::new(|| {
    let kinds = [IdentityKind::Workload, IdentityKind::Agent, IdentityKind::Shared];
    let of = |sensitivity: Sensitivity| {
        Operation::ALL.map(|operation| secret(&format!("{sensitivity}/{operation}"), sensitivity, operation, EndsBy::Upstream))
    };
    let policies =
        "@id(\"g\") @owner(\"o\") @purpose(\"serve-orders, migrate\") @expires(\"2027-01-31\") permit (principal, action, resource);";
    let secrets = Sensitivity::ALL.into_iter().flat_map(of).collect();
    let world = World { identities: kinds.map(|kind| identity(kind.as_str(), kind)).to_vec(), secrets, policies: policies.to_owned() };
    let bundle = world.bundle();
    Plain { world, bundle }
});

fn claims() -> impl Strategy<Value = Claimed> {
    let targets = ["db.prod:5432", "db2.prod:5432"].map(|host| Target::parse(host).unwrap());
    (
        select(&["serve-orders", "migrate", "bare", "unheard-of"][..]),
        proptest::option::of(select(&Operation::ALL[..])),
        proptest::option::of((1..=Ttl::MAX.as_secs()).prop_map(|seconds| Ttl::from_secs(seconds).unwrap())),
        proptest::option::of(prop_oneof![1..20u64, any::<u64>()]),
        proptest::sample::subsequence(targets.to_vec(), 0..=2),
    )
        .prop_map(|(purpose, operation, ttl, uses, targets)| Claimed { operation, ttl, uses, targets, ..claim(purpose) })
}

/// What an answer asks for and what it would give.
#[derive(Debug, PartialEq)]
struct Weight {
    needs: BTreeSet<Need>,
    ttl: Ttl,
    uses: u64,
    operation: Operation,
    hosts: BTreeSet<Target>,
}

/// `None` for a refusal.
fn weight(decision: &Decision) -> Option<Weight> {
    let (needs, effective) = match decision {
        Decision::Permit(permit) => (BTreeSet::new(), permit.effective()),
        Decision::Needs(unmet) => (unmet.requirements().map(|(requirement, _)| requirement.need).collect(), unmet.effective()),
        Decision::Forbid(_) => return None,
    };
    let hosts = effective.hosts.iter().cloned().collect();
    Some(Weight { needs, ttl: effective.ttl, uses: effective.uses, operation: effective.operation, hosts })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_claim_makes_a_request_lighter(
        claimed in claims(),
        kind in select(&["workload", "agent", "shared"][..]),
        at in 0..20usize,
        channel in select(&Channel::ALL[..]),
        assurance in select(&Assurance::ALL[..]),
    ) {
        let Plain { world, bundle } = &*PLAIN;
        let name = world.secrets[at].name.as_str();
        let decide = |claimed| {
            let (workload, intent) = (world.workload(kind, assurance), world.intent(name, channel, claimed));
            weight(&bundle.decide(&workload, &intent, &Evidence::none(), days_later(1), false))
        };
        // The least that can be claimed is a purpose; the honest one here.
        match (decide(claim("serve-orders")), decide(claimed)) {
            (None, lied) => prop_assert_eq!(lied, None),
            (Some(_), None) => {}
            (Some(honest), Some(lied)) => {
                prop_assert!(lied.needs.is_superset(&honest.needs), "{lied:?} against {honest:?}");
                prop_assert!(lied.ttl <= honest.ttl && lied.uses <= honest.uses, "{lied:?} against {honest:?}");
                prop_assert_eq!(lied.operation, honest.operation);
                prop_assert!(lied.hosts.is_subset(&honest.hosts), "{lied:?} against {honest:?}");
            }
        }
    }
}

/// Secrets of the same kinds that their engine can keep to less, each beside one of its own for every operation below.
static NARROWED: LazyLock<World> = LazyLock::new(|| {
    let Plain { world, .. } = &*PLAIN;
    let row = |sensitivity: Sensitivity, worst: Operation, to: &[Operation]| {
        let row = secret(&format!("less/{sensitivity}/{worst}"), sensitivity, worst, EndsBy::Upstream);
        SecretDefinition { narrows: to.to_vec(), ..row }
    };
    let less = Sensitivity::ALL.into_iter().flat_map(|sensitivity| {
        let [read, write, admin, destroy] = Operation::ALL;
        [row(sensitivity, write, &[read]), row(sensitivity, admin, &[read, write]), row(sensitivity, destroy, &[read, admin])]
    });
    World {
        identities: world.identities.clone(),
        secrets: world.secrets.iter().cloned().chain(less).collect(),
        policies: world.policies.clone(),
    }
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Who is given less is weighed as by a secret that allows no more; who asks for what cannot be made apart, as for the next that can.
    #[test]
    fn less_weighs_as_a_secret_that_allows_no_more(
        claimed in claims(),
        kind in select(&["workload", "agent", "shared"][..]),
        sensitivity in select(&Sensitivity::ALL[..]),
        worst in select(&[Operation::Write, Operation::Admin, Operation::Destroy][..]),
        channel in select(&Channel::ALL[..]),
        assurance in select(&Assurance::ALL[..]),
    ) {
        static BUNDLE: LazyLock<Bundle> = LazyLock::new(|| NARROWED.bundle());
        let given = match (worst, claimed.operation) {
            (_, None) => worst,
            (_, Some(Operation::Read)) => Operation::Read,
            (Operation::Destroy, Some(Operation::Write)) => Operation::Admin,
            (_, Some(asked)) => asked.min(worst),
        };
        let decide = |name: &str| {
            let (workload, intent) = (NARROWED.workload(kind, assurance), NARROWED.intent(name, channel, claimed.clone()));
            weight(&BUNDLE.decide(&workload, &intent, &Evidence::none(), days_later(1), false))
        };
        let less = decide(&format!("less/{sensitivity}/{worst}"));
        prop_assert!(less.as_ref().is_none_or(|less| less.operation == given), "{less:?}");
        prop_assert_eq!(less, decide(&format!("{sensitivity}/{given}")));
    }
}

const PRINCIPALS: [&str; 7] = [
    "principal",
    "principal == Claviger::Workload::\"w0\"",
    "principal == Claviger::Agent::\"w0\"",
    "principal in Claviger::Group::\"g1\"",
    "principal is Claviger::Agent",
    "principal is Claviger::Workload in Claviger::Group::\"g0\"",
    "principal in Claviger::Workload::\"w1\"",
];
const ACTIONS: [&str; 5] = [
    "action",
    "action == Claviger::Action::\"deliver\"",
    "action in Claviger::Action::\"use\"",
    "action in [Claviger::Action::\"inject\", Claviger::Action::\"sign\"]",
    "action in Claviger::Action::\"sign\"",
];
const RESOURCES: [&str; 9] = [
    "resource",
    "resource == Claviger::Secret::\"a/b/c\"",
    "resource in Claviger::Folder::\"a\"",
    "resource in Claviger::Folder::\"a/b\"",
    "resource in Claviger::Sensitivity::\"internal\"",
    "resource in Claviger::Stakes::\"confidential\"",
    "resource is Claviger::Secret",
    "resource is Claviger::Secret in Claviger::Folder::\"d\"",
    "resource in Claviger::Secret::\"d/e\"",
];
const CONDITIONS: [&str; 5] = [
    "",
    "when { context.attested.viaClient }",
    "unless { context.attested.traced }",
    "when { principal in Claviger::Group::\"g0\" || resource in Claviger::Folder::\"d\" }",
    "when { context.claimed.source == Claviger::Source::\"caller\" }",
];

/// A policy that Cedar's validator would call impossible is no test: an agent is never in a workload, say.
fn scopes() -> impl Strategy<Value = (String, String)> {
    let pick = |texts: &'static [&'static str]| select(texts);
    (pick(&PRINCIPALS), pick(&ACTIONS), pick(&RESOURCES), pick(&CONDITIONS), any::<bool>()).prop_map(|(p, a, r, c, grant)| {
        let notes =
            if grant { "@owner(\"o\") @purpose(\"serve-orders\") @expires(\"2027-01-31\")" } else { "@class(\"invariant\") @code(\"x\")" };
        (notes.to_owned(), format!("{} ({p}, {a}, {r}) {c};\n", if grant { "permit" } else { "forbid" }))
    })
}

fn rows() -> World {
    let mut identities =
        [("w0", IdentityKind::Workload), ("w1", IdentityKind::Workload), ("a0", IdentityKind::Agent)].map(|(n, k)| identity(n, k));
    identities[0].groups = vec![GroupName::parse("g0").unwrap(), GroupName::parse("g1").unwrap()];
    identities[2].groups = vec![GroupName::parse("g1").unwrap()];
    let secrets = vec![
        secret("a/b/c", Sensitivity::Confidential, Operation::Read, EndsBy::Upstream),
        secret("a/f", Sensitivity::Internal, Operation::Admin, EndsBy::None),
        secret("d/e", Sensitivity::Public, Operation::Write, EndsBy::ShortLife),
    ];
    World { identities: identities.to_vec(), secrets, policies: String::new() }
}

fn ids<'a>(ids: impl Iterator<Item = &'a PolicyId>) -> BTreeSet<String> {
    ids.map(ToString::to_string).filter(|id| id != "all the rest" && id != "rest").collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn slices_decide_as_the_full_set_does(policies in proptest::collection::vec(scopes(), 1..12)) {
        let mut world = rows();
        for (at, (notes, policy)) in policies.iter().enumerate() {
            world.policies += &format!("@id(\"p{at}\") {notes} {policy}");
        }
        let bundle = world.bundle();
        let (mut grants, mut rules) = (PolicySet::new(), PolicySet::new());
        bundle.grants().iter().for_each(|grant| grants.add(grant.policy.clone()).unwrap());
        bundle.rules().iter().for_each(|rule| rules.add(rule.policy.clone()).unwrap());
        rules.add(cedar_policy::Policy::parse(Some(PolicyId::new("rest")), "permit (principal, action, resource);").unwrap()).unwrap();
        for identity in &world.identities {
            for secret in &world.secrets {
                for channel in Channel::ALL {
                    let workload = world.workload(identity.name.as_str(), Assurance::Program);
                    let intent = world.intent(secret.name.as_str(), channel, claim("serve-orders"));
                    let (who, what) = bundle.rows(identity, secret).unwrap();
                    let slice = bundle.slice(who, what, &intent).unwrap();
                    let facts = Facts {
                        workload: &workload, intent: &intent, limits: Limits::of(intent.effective()), assurance: Assurance::Program,
                        evidence: &Evidence::none(), grant: GrantFacts::default(), now: days_later(1), frozen: false,
                    };
                    let evaluate = |set: &PolicySet| {
                        let (p, a, r) = (slice.triple.principal.clone(), slice.triple.action.clone(), slice.triple.resource.clone());
                        let request = Request::new(p, a, r, context(&facts, &slice.triple.action).unwrap(), Some(&super::super::words::PARSED));
                        let response = Authorizer::new().is_authorized(&request.unwrap(), set, &slice.triple.entities);
                        assert_eq!(response.diagnostics().errors().count(), 0);
                        ids(response.diagnostics().reason())
                    };
                    // Without a condition, the scope alone decides.
                    let mut covered = evaluate(&slice.conditional);
                    covered.extend(slice.grants.iter().filter(|(_, conditional)| !conditional).map(|(note, _)| note.id.to_string()));
                    prop_assert_eq!(covered, evaluate(&grants));
                    prop_assert_eq!(evaluate(&slice.rules), evaluate(&rules));
                }
            }
        }
    }
}
