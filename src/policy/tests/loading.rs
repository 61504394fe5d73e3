//! What loads, what does not, and where the fault is said to be.

use super::{BASELINE, Bundle, GRANT, Source, World, today};
use crate::{
    model::{Catalogue, Channel, Registry},
    policy::{Decision, Notice},
};

const RULE: &str = r#"@id("r") @class("invariant") @code("r")
forbid (principal, action in Claviger::Action::"use", resource)
when { context.frozen };"#;
const CAP: &str = r#"@id("c") @class("cap") @cap_ttl("1m")
forbid (principal, action, resource)
when { context.effective.ttl > 60 };"#;
const NEED: &str = r#"@id("n") @class("require") @require("approval") @approval("one") @sentence("Ask.")
forbid (principal, action, resource)
unless { context.evidence.approvals.contains("one") };"#;

fn problems(policies: &str) -> Vec<String> {
    let world = World { policies: policies.to_owned(), ..World::small() };
    world.load().err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from}");
    let found = problems(&text.replace(from, to));
    assert_eq!(found.len(), 1, "{from} -> {to}: {found:#?}");
    found[0].clone()
}

#[test]
fn sound_policies_load() {
    for text in [GRANT, RULE, CAP, NEED] {
        assert_eq!(problems(text), Vec::<String>::new());
    }
}

#[test]
fn the_grant_in_the_baseline_s_introduction_is_one() {
    let shown = BASELINE.lines().skip_while(|line| !line.starts_with("//     @id(")).map_while(|line| line.strip_prefix("//     "));
    let example: String = shown.map(|line| format!("{line}\n")).collect();
    assert_eq!(example.lines().count(), 4);
    let mut world = World::small();
    world.policies = example;
    let (_, warnings) = world.load().map_err(|problems| problems[0].to_string()).unwrap();
    assert!(warnings.is_empty());
    assert!(matches!(world.ask("orders-api", Channel::Deliver), Decision::Permit(_)));
}

#[test]
fn every_fault_has_its_place() {
    let cases = [
        (GRANT, "@owner(\"team-orders\") ", "", "50-test.cedar:2:1: @owner is missing"),
        (GRANT, "@id(\"grant.orders-api.orders-db\") ", "", "50-test.cedar:2:1: @id is missing"),
        (GRANT, "grant.orders-api", "Grant", "50-test.cedar:2:1: @id(\"Grant.orders-db\"): must be"),
        (GRANT, "@ticket(", "@tikcet(", "50-test.cedar:2:105: @tikcet does not belong here"),
        (GRANT, "jira:OPS-412", "412", "50-test.cedar:2:105: @ticket(\"412\")"),
        (GRANT, "2027-01-31", "2027-02-21", "50-test.cedar:2:82: @expires(\"2027-02-21\"): is more than 90 days ahead"),
        (GRANT, "2027-01-31", "2027-01-32", "50-test.cedar:2:82: @expires(\"2027-01-32\"): must be a date"),
        (GRANT, "@purpose(\"serve-orders\")", "@purpose(\"\")", "@purpose(\"\"): is empty"),
        (GRANT, "@ticket", "@lasting(\"no\") @ticket", "@lasting(\"no\"): must be yes"),
        (GRANT, "ro\");", "ro\") when { context.evidence.ticket };", "a grant may not look at context.evidence"),
        (GRANT, "ro\");", "ro\") when { context.effective.ttl < 5 };", "a grant may not look at context.effective.ttl"),
        (GRANT, "ro\");", "ro\"", "50-test.cedar:2:1: a statement is not closed"),
        (GRANT, "resource ==", "resource =", "50-test.cedar:5:9: '=' is not a valid operator"),
        (GRANT, "ro\");", "ro\") when { resource.colour == 1 };", "50-test.cedar:5:67: for policy `grant.orders-api.orders-db`, attribute"),
        (RULE, "@class(\"invariant\") ", "", "@class is missing"),
        (RULE, "invariant", "invariants", "@class(\"invariants\"): must be invariant, require, cap"),
        (RULE, "@code(\"r\")", "", "@code is missing"),
        (RULE, "@code(\"r\")", "@code(\"R\")", "@code(\"R\"): must be of a-z"),
        (RULE, "context.frozen", "context.evidence.ticket", "an invariant may not look at context.evidence"),
        (RULE, "context.frozen", "context.grant == context.grant", "an invariant may not look at context.grant"),
        (RULE, "@code", "@mode(\"off\") @code", "@mode(\"off\"): must be shadow"),
        (RULE, "@code", "@expires(\"2026-12-01\") @code", "@expires does not belong here"),
        (CAP, "\"1m\"", "\"2m\"", "50-test.cedar:1:24: the condition must read exactly: when { context.effective.ttl > 120 }"),
        (CAP, "> 60", "> 60 && context.frozen", "the condition must read exactly"),
        (CAP, "@cap_ttl(\"1m\")", "", "exactly one of them, is missing"),
        (CAP, "@cap_ttl(\"1m\")", "@cap_ttl(\"1m\") @cap_uses(\"1\")", "exactly one of them, is missing"),
        (NEED, "@approval(\"one\")", "", "@approval is missing"),
        (NEED, "@approval(\"one\")", "@approval(\"two\")", "@approval(\"two\"): must be a word that the condition compares with"),
        (NEED, "@sentence(\"Ask.\")", "", "@sentence is missing"),
        (NEED, "(\"approval\")", "(\"ticket\")", "the condition does not look at evidence.ticket"),
        (NEED, "(\"approval\")", "(\"luck\")", "@require(\"luck\"): must be one of assurance, control"),
    ];
    let missed: Vec<_> = cases.iter().map(|(text, from, to, expected)| (changed(text, from, to), *expected)).collect();
    let missed: Vec<_> = missed.iter().filter(|(found, expected)| !found.contains(expected)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn members_of_closed_sets_exist() {
    for (good, bad) in [
        ("context.attested.assurance in Claviger::Assurance::\"isolated\"", "Assurance::\"isolatd\""),
        ("resource in Claviger::Stakes::\"critical\"", "Stakes::\"secret\""),
        ("resource.sensitivity == Claviger::Sensitivity::\"public\"", "Sensitivity::\"none\""),
        ("context.effective.operation == Claviger::Operation::\"read\"", "Operation::\"reed\""),
        ("resource.endsBy == Claviger::EndsBy::\"none\"", "EndsBy::\"never\""),
    ] {
        assert_eq!(problems(&RULE.replace("context.frozen", good)), Vec::<String>::new());
        let at = good.find(bad.split('"').next().unwrap()).unwrap();
        let found = problems(&RULE.replace("context.frozen", &(good[..at].to_owned() + bad)));
        assert!(
            found.iter().any(|problem| problem.contains("50-test.cedar:3:") && problem.contains("does not exist")),
            "{bad}: {found:#?}"
        );
    }
}

#[test]
fn all_faults_are_told_at_once_and_ids_are_unique() {
    let found = problems(&(GRANT.to_owned() + GRANT + "permit (;\n" + RULE));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("50-test.cedar:7:1: @id(\"grant.orders-api.orders-db\") is taken by 50-test.cedar:2:1"), "{found:#?}");
    assert!(found[1].starts_with("50-test.cedar:11:9: "), "{found:#?}");
}

#[test]
fn a_bundle_that_could_not_be_frozen_does_not_load() {
    let load = |baseline: String| {
        let sources = vec![Source { name: "00-baseline.cedar".into(), text: baseline }];
        Bundle::load(sources, &Catalogue::default(), &Registry::default(), today()).map(|(_, warnings)| warnings)
    };
    assert!(load(BASELINE.to_owned()).is_ok_and(|warnings| warnings.is_empty()));
    let shadow = load(BASELINE.replacen("@class(\"invariant\")", "@mode(\"shadow\") @class(\"invariant\")", 1)).unwrap_err();
    assert!(shadow[0].to_string().starts_with("policy.d: no rule in force"), "{}", shadow[0]);
    let narrow = load(BASELINE.replacen("forbid (principal, action", "forbid (principal is Claviger::Agent, action", 1)).unwrap_err();
    assert_eq!(narrow.len(), 1);
    let renamed = load(BASELINE.replace("\"base.traced\"", "\"base.tracked\"")).unwrap();
    assert_eq!(renamed.iter().map(|w| w.notice.clone()).collect::<Vec<_>>(), [Notice::BaselineRule("base.traced".into())]);
}

#[test]
fn what_is_odd_is_told_with_its_place() {
    let world = World {
        policies: GRANT.replace("2027-01-31", "2026-11-22")
            + &GRANT.replace("grant.", "g2.").replace("2027-01-31", "2026-12-01")
            + &GRANT.replace("grant.", "g3.").replace("orders-ro", "orders-rw"),
        ..World::small()
    };
    let (_, warnings) = world.load().map_err(|problems| problems[0].to_string()).unwrap();
    let told: Vec<_> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "50-test.cedar:2:1: grant grant.orders-api.orders-db expired on 2026-11-22 and is left out",
            "50-test.cedar:7:1: grant g2.orders-api.orders-db expires on 2026-12-01",
            "50-test.cedar:15:21: Claviger::Secret::\"prod-db/orders-rw\" is not in the registry or the catalogue",
        ]
    );
}

#[test]
fn the_hash_covers_all_that_decides_and_no_order() {
    let hash = |change: fn(&mut World)| {
        let mut world = World::small();
        change(&mut world);
        world.bundle().hash().to_string()
    };
    let base = hash(|_| {});
    assert!(base.len() == 64 && base == hash(|_| {}) && base == hash(|w| w.identities.reverse()));
    assert_ne!(base, hash(|w| w.policies.push('\n')));
    assert_ne!(base, hash(|w| w.identities[0].generation.push('x')));
    assert_ne!(base, hash(|w| w.secrets[0].generation = "x".into()));
}
