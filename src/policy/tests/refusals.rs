//! What refuses, one reason at a time, and what the workload and the operator are told of it.

use super::{World, claim, days_later, outcome};
use crate::{
    attest::{Facts, Workload},
    intent::{Intent, Source as Said},
    model::{Assurance, Channel, Class, EndsBy, Environment, Sensitivity, Target, WallTime},
    policy::{Decision, Evidence, Misfit, Shadow, Told},
};
use std::sync::Arc;

const SECRET: &str = "prod-db/orders-ro";

fn after(change: impl FnOnce(&mut World)) -> Decision {
    let mut world = World::small();
    change(&mut world);
    world.ask("orders-api", Channel::Deliver)
}

fn code_after(change: impl FnOnce(&mut World)) -> String {
    outcome(&after(change))
}

fn with_policy(text: &str) -> Decision {
    after(|world| world.policies += text)
}

#[test]
fn each_invariant_refuses_by_itself() {
    assert_eq!(code_after(|_| {}), "permit");
    assert_eq!(code_after(|w| w.secrets[0].quarantined = true), "secret_quarantined");
    assert_eq!(code_after(|w| w.identities[0].suspended = true), "identity_inactive");
    assert_eq!(code_after(|w| w.identities[0].expires = days_later(1)), "identity_inactive");
    assert_eq!(code_after(|w| w.identities[0].expires = WallTime(days_later(1).0 + 1_000_000)), "permit");
    assert_eq!(code_after(|w| w.secrets[0].environment = Environment::parse("staging").unwrap()), "environment");
    assert_eq!(code_after(|w| w.secrets[0].purposes.clear()), "purpose_not_allowed");
    assert_eq!(code_after(|w| w.identities[0].purposes.clear()), "purpose_not_allowed");
    assert_eq!(code_after(|w| w.identities[0].max_sensitivity = Sensitivity::Internal), "above_identity");
    assert_eq!(code_after(|w| w.identities[0].max_sensitivity = Sensitivity::Confidential), "permit");
}

#[test]
fn what_the_kernel_saw_refuses() {
    let world = World::small();
    let bundle = world.bundle();
    let intent = world.intent(SECRET, Channel::Deliver, claim("serve-orders"));
    let traced = Facts { tracer: Some(7), ..Facts::default() };
    let workload = Workload::for_test(Arc::new(world.identities[0].clone()), Assurance::Measured, traced);
    assert_eq!(outcome(&bundle.decide(&workload, &intent, &Evidence::none(), days_later(1), false)), "traced");

    let workload = world.workload("orders-api", Assurance::Measured);
    let frozen = bundle.decide(&workload, &intent, &Evidence::none(), days_later(1), true);
    assert_eq!(outcome(&frozen), "frozen");
    let Decision::Forbid(refused) = frozen else { unreachable!() };
    assert_eq!(refused.refusal().code.class(), Class::Unavailable);
}

#[test]
fn targets_are_among_the_hosts_or_refused() {
    let world = World::small();
    let ask = |target: &str| {
        let claimed = crate::intent::Claimed { targets: vec![Target::parse(target).unwrap()], ..claim("serve-orders") };
        let intent = world.intent(SECRET, Channel::Inject, claimed);
        world.bundle().decide(&world.workload("orders-api", Assurance::Isolated), &intent, &Evidence::none(), days_later(1), false)
    };
    assert_eq!(outcome(&ask("db.prod:5432")), "permit");
    assert_eq!(outcome(&ask("db.prod")), "target_not_allowed");
    assert_eq!(outcome(&ask("elsewhere:5432")), "target_not_allowed");
}

#[test]
fn an_agent_must_say_what_it_wants() {
    let world = World::small();
    let ask = |source, sensitivity| {
        let mut world = World { identities: world.identities.clone(), secrets: world.secrets.clone(), policies: world.policies.clone() };
        world.secrets[0].sensitivity = sensitivity;
        let intent = Intent::new(Arc::new(world.secrets[0].clone()), Channel::Inject, source, claim("serve-orders"));
        outcome(&world.bundle().decide(&world.workload("helper", Assurance::Isolated), &intent, &Evidence::none(), days_later(1), false))
    };
    assert_eq!(ask(Said::Caller, Sensitivity::Internal), "permit");
    assert_eq!(ask(Said::Registry, Sensitivity::Public), "permit");
    assert_eq!(ask(Said::Registry, Sensitivity::Internal), "agent_must_declare");
    assert_eq!(ask(Said::Adapter, Sensitivity::Internal), "agent_must_declare");
}

#[test]
fn invariants_are_told_alone() {
    let decision = after(|world| {
        world.secrets[0].sensitivity = Sensitivity::Restricted;
        world.secrets[0].ends_by = EndsBy::None;
        world.secrets[0].quarantined = true;
    });
    let ids: Vec<_> = decision.because().policies.iter().map(|note| note.id.as_str()).collect();
    assert_eq!((outcome(&decision).as_str(), ids), ("secret_quarantined", vec!["base.quarantined", "workload.lasting.restricted"]));
}

#[test]
fn nothing_covers_and_the_nearest_grants_are_named() {
    let near = |change: fn(&mut World)| {
        let decision = after(change);
        assert_eq!(outcome(&decision), "no_grant");
        let near = &decision.because().near;
        (near[0].grant.id.to_string(), near[0].misfits.clone(), decision.explain())
    };
    let name = "grant.orders-api.orders-db".to_owned();
    let (id, misfits, text) = near(|w| w.policies = w.policies.replace("2027-01-31", "2026-11-20"));
    assert_eq!((id, misfits), (name.clone(), vec![Misfit::Expired]));
    assert!(text.contains("near: grant grant.orders-api.orders-db (50-test.cedar:2:1)") && text.contains("has expired"), "{text}");
    let (id, misfits, _) = near(|w| w.policies = w.policies.replace("serve-orders", "migrate"));
    assert_eq!((id, misfits), (name.clone(), vec![Misfit::Purpose]));
    let (id, misfits, _) = near(|w| w.policies = w.policies.replace("action in", "action ==").replace("use\"", "sign\""));
    assert_eq!((id, misfits), (name.clone(), vec![Misfit::Channel]));
    let (id, misfits, _) = near(|w| w.policies = w.policies.replace("Workload::\"orders-api", "Workload::\"other"));
    assert_eq!((id, misfits), ("agent-grant.orders-api.orders-db".to_owned(), vec![Misfit::Identity]));
    let (id, misfits, _) = near(|w| w.policies = w.policies.replace("ro\");", "ro\") when { context.attested.viaClient };"));
    assert_eq!((id, misfits), (name, vec![Misfit::Condition]));
    let nobody = after(|w| w.policies.clear());
    assert!(nobody.explain().contains("no grant speaks of this identity"), "{}", nobody.explain());
}

#[test]
fn a_grant_ends_while_the_daemon_runs() {
    let world = World::small();
    let (workload, intent) =
        (world.workload("orders-api", Assurance::Isolated), world.intent(SECRET, Channel::Deliver, claim("serve-orders")));
    let at = |text: &str| outcome(&world.bundle().decide(&workload, &intent, &Evidence::none(), WallTime::parse(text).unwrap(), false));
    assert_eq!(at("2027-01-30T23:59:59Z"), "permit");
    assert_eq!(at("2027-01-31"), "no_grant");
}

#[test]
fn the_best_grant_is_weighed_first() {
    let more = super::GRANT.replace("@id(\"grant.", "@id(\"a-grant.").replace(" @ticket(\"jira:OPS-412\")", "");
    let Decision::Permit(permit) = with_policy(&more) else { panic!() };
    assert_eq!(&*permit.grant().id, "grant.orders-api.orders-db");
    let only = after(|world| world.policies = more.clone());
    assert_eq!(outcome(&only), "needs grant_ticket");
    // What operators are told is read back from the record.
    let told = Told::read(&only.explain());
    assert_eq!(told.blockers.iter().map(|one| (one.word.as_str(), one.requires)).collect::<Vec<_>>(), [("grant_ticket", true)]);
    let grant = told.covering.unwrap();
    assert_eq!((grant.id.as_str(), grant.file.as_str(), grant.line, grant.column), ("a-grant.orders-api.orders-db", "50-test.cedar", 2, 1));
}

const OVERFLOW: &str = "context.effective.uses + 1 > 0";

#[test]
fn what_cannot_be_evaluated_denies() {
    let rule = format!("@id(\"odd\") @class(\"invariant\") @code(\"odd\") forbid (principal, action, resource) when {{ !({OVERFLOW}) }};");
    let decision = with_policy(&rule);
    assert_eq!(outcome(&decision), "policy_error");
    assert!(decision.explain().contains("odd"), "{}", decision.explain());
    let Decision::Forbid(refused) = &decision else { unreachable!() };
    assert!(!format!("{:?}", refused.refusal().message).contains("odd"));
    // A rule under trial refuses nothing, not even so.
    let shadow = with_policy(&rule.replace("@class", "@mode(\"shadow\") @class"));
    assert_eq!(outcome(&shadow), "permit");
    assert!(matches!(shadow.because().shadows[..], [Shadow::Fails(_)]));
}

#[test]
fn a_grant_that_cannot_be_evaluated_denies_although_another_covers() {
    let mut world = World::small();
    let odd = "ro\") when { context.claimed has times && context.claimed.times + 9223372036854775807 > 0 };";
    world.policies += &super::GRANT.replace("@id(\"grant.", "@id(\"odd.").replace("ro\");", odd);
    let ask = |uses| {
        let intent = world.intent(SECRET, Channel::Deliver, crate::intent::Claimed { uses, ..claim("serve-orders") });
        let workload = world.workload("orders-api", Assurance::Isolated);
        outcome(&world.bundle().decide(&workload, &intent, &Evidence::none(), days_later(1), false))
    };
    assert_eq!((ask(None).as_str(), ask(Some(1)).as_str()), ("permit", "policy_error"));
}

#[test]
fn a_shadow_is_recorded_and_refuses_nothing() {
    let decision = with_policy(
        r#"@id("try.client") @class("invariant") @code("only_client") @mode("shadow")
           forbid (principal, action, resource) unless { context.attested.viaClient };
           @id("try.ttl") @class("cap") @cap_ttl("1m") @mode("shadow")
           forbid (principal, action, resource) when { context.effective.ttl > 60 };"#,
    );
    let Decision::Permit(permit) = &decision else { panic!("{}", decision.explain()) };
    assert_eq!(permit.effective().ttl.as_secs(), 3_600);
    let ids: Vec<_> =
        permit.because().shadows.iter().map(|shadow| if let Shadow::Would(note) = shadow { note.id.as_str() } else { "" }).collect();
    assert_eq!(ids, ["try.client", "try.ttl"]);
}

#[test]
fn nobody_is_asked_for_evidence_that_would_not_help() {
    let decision = with_policy(
        r#"@id("odd") @class("require") @require("ticket") @sentence("Bring a ticket.")
           forbid (principal, action, resource) unless { context.evidence.ticket && principal.suspended };"#,
    );
    assert_eq!(outcome(&decision), "cannot_be_met");
}

#[test]
fn another_generation_is_not_decided() {
    let (world, bundle) = (World::small(), World::small().bundle());
    let intent = world.intent(SECRET, Channel::Deliver, claim("serve-orders"));
    let mut changed = world.identities[0].clone();
    changed.generation = "2".into();
    let workload = Workload::for_test(Arc::new(changed), Assurance::Isolated, Facts::default());
    assert_eq!(outcome(&bundle.decide(&workload, &intent, &Evidence::none(), days_later(1), false)), "policy_error");
}

#[test]
fn the_workload_learns_no_policy_and_the_operator_learns_all() {
    let decision = after(|world| world.secrets[0].sensitivity = Sensitivity::Critical);
    let Decision::Needs(unmet) = &decision else { panic!("{}", decision.explain()) };
    let refusal = unmet.refusal();
    assert_eq!(refusal.code.as_str(), "needs");
    assert!(refusal.remedies.iter().all(|remedy| remedy.policy.is_none()) && refusal.remedies.len() == 5, "{refusal:?}");
    let told = format!("{} {:?}", refusal.message, refusal.remedies);
    assert!(!told.contains("cedar") && !told.contains("workload."), "{told}");
    let detail = refusal.detail.unwrap();
    assert!(detail.contains("workload.approval (00-baseline.cedar:") && detail.contains("orders-api at isolated"), "{detail}");
}

#[test]
fn a_grant_lends_nobody_a_purpose() {
    assert_eq!(code_after(|w| w.policies = w.policies.replace("serve-orders", "serve-orders, other")), "permit");
    let mut world = World::small();
    world.policies = world.policies.replace("serve-orders", "other");
    let intent = world.intent(SECRET, Channel::Deliver, claim("other"));
    let workload = world.workload("orders-api", Assurance::Isolated);
    let decision = world.bundle().decide(&workload, &intent, &Evidence::none(), days_later(1), false);
    assert_eq!(outcome(&decision), "purpose_not_allowed");
}
