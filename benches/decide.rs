//! How long one decision takes: the baseline with 36 and with 1,000 grants, p50 and p99, on one thread.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use claviger::{
    attest::{Facts, Workload},
    intent::{Claimed, Intent, Source as Said},
    model::{
        Assurance, Catalogue, Channel, EndsBy, EngineName, Environment, ExecRule, Identity, IdentityKind, IdentityName, Operation, Owner,
        Purpose, Registry, SecretDefinition, SecretName, Sensitivity, Target, Ttl, TtlLimits, WallTime,
    },
    policy::{BASELINE, Bundle, Decision, Evidence, Source},
};
use std::{fmt::Write, hint::black_box, time::Instant};

const ROUNDS: usize = 50_000;

fn main() {
    println!("{:<46} {:>9} {:>9} {:>9}", "one decision", "p50 us", "p99 us", "max us");
    for grants in [36, 1_000] {
        let (bundle, registry, catalogue) = host(grants);
        let now = WallTime::parse("2026-11-23").expect("a date");
        let ask = |identity: usize, assurance, channel| {
            let row = registry.iter().nth(identity).expect("a row").clone();
            let secret = catalogue.iter().nth(identity).expect("a row").clone();
            let claimed = Claimed {
                purpose: Purpose::parse("serve").expect("a name"),
                operation: None,
                targets: Vec::new(),
                ttl: None,
                uses: None,
                reason: None,
                tickets: Vec::new(),
            };
            (Workload::for_test(row, assurance, Facts::default()), Intent::new(secret, channel, Said::Caller, claimed))
        };
        let decide = |(workload, intent): &(Workload, Intent)| bundle.decide(workload, intent, &Evidence::none(), now, false);
        let permit = ask(7, Assurance::Isolated, Channel::Deliver);
        assert!(matches!(decide(&permit), Decision::Permit(_)), "{}", decide(&permit).explain());
        measure(&format!("{grants} grants, permit at confidential"), || decide(&permit));
        let needs = ask(7, Assurance::Uid, Channel::Deliver);
        assert!(matches!(decide(&needs), Decision::Needs(_)));
        measure(&format!("{grants} grants, needs assurance"), || decide(&needs));
        let none = {
            let (workload, _) = ask(8, Assurance::Isolated, Channel::Deliver);
            (workload, permit.1.clone())
        };
        assert!(matches!(decide(&none), Decision::Forbid(_)));
        measure(&format!("{grants} grants, no grant, near misses"), || decide(&none));
    }
}

fn measure(what: &str, decide: impl Fn() -> Decision) {
    for _ in 0..ROUNDS / 10 {
        drop(black_box(decide()));
    }
    let mut nanos: Vec<u128> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            drop(black_box(decide()));
            start.elapsed().as_nanos()
        })
        .collect();
    nanos.sort_unstable();
    let at = |share: f64| nanos[((ROUNDS - 1) as f64 * share) as usize] as f64 / 1_000.0;
    println!("{what:<46} {:>9.1} {:>9.1} {:>9.1}", at(0.5), at(0.99), at(1.0));
}

fn host(grants: usize) -> (Bundle, Registry, Catalogue) {
    let (mut identities, mut secrets, mut text) = (Vec::new(), Vec::new(), String::new());
    for at in 0..grants {
        identities.push(identity(&format!("service-{at:04}")));
        secrets.push(secret(&format!("prod-db/service-{at:04}")));
        write!(
            text,
            "@id(\"grant.{at}\") @owner(\"team\") @purpose(\"serve\") @expires(\"2027-01-31\") @ticket(\"jira:OPS-{at}\")\n\
             permit (principal == Claviger::Workload::\"service-{at:04}\",\n  action == Claviger::Action::\"deliver\",\n  \
             resource == Claviger::Secret::\"prod-db/service-{at:04}\");\n"
        )
        .expect("a string takes it");
    }
    let (registry, catalogue) = (Registry::new(identities), Catalogue::new(secrets));
    let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
    let sources = vec![source("00-baseline.cedar", BASELINE), source("50-grants.cedar", &text)];
    let start = Instant::now();
    let (bundle, _) = Bundle::load(sources, &catalogue, &registry, WallTime::parse("2026-11-22").expect("a date"))
        .unwrap_or_else(|problems| panic!("{}", problems[0]));
    println!("{:<46} {:>9.1} ms", format!("load baseline and {grants} grants"), start.elapsed().as_secs_f64() * 1_000.0);
    (bundle, registry, catalogue)
}

fn identity(name: &str) -> Identity {
    Identity {
        name: IdentityName::parse(name).expect("a name"),
        kind: IdentityKind::Workload,
        owner: Owner::parse("team").expect("a name"),
        environment: Environment::parse("prod").expect("a name"),
        purposes: vec![Purpose::parse("serve").expect("a name")],
        max_sensitivity: Sensitivity::Critical,
        expires: WallTime::parse("2027-11-22").expect("a date"),
        suspended: false,
        groups: Vec::new(),
        selectors: Vec::new(),
        exclusive_uid: false,
        on_exec: ExecRule::Reattest,
        uses: Vec::new(),
        generation: String::new(),
    }
}

fn secret(name: &str) -> SecretDefinition {
    SecretDefinition {
        name: SecretName::parse(name).expect("a name"),
        engine: EngineName::parse("postgres").expect("a name"),
        owner: Owner::parse("team").expect("a name"),
        sensitivity: Sensitivity::Confidential,
        environment: Environment::parse("prod").expect("a name"),
        purposes: vec![Purpose::parse("serve").expect("a name")],
        operation: Operation::Read,
        hosts: vec![Target::parse("db.prod.example:5432").expect("a host")],
        ttl: TtlLimits { default: Ttl::from_secs(3_600).expect("an hour"), max: Ttl::from_secs(3_600).expect("an hour") },
        reads_max: 100,
        quarantined: false,
        description: String::new(),
        ends_by: EndsBy::Upstream,
        settings: serde_json::Map::new(),
        generation: "".into(),
    }
}
