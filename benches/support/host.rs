//! A host with many grants, for benchmarks of decisions: an identity, a secret and a grant for each of so many services.

use claviger::{
    intent::Claimed,
    model::{
        Catalogue, EndsBy, EngineName, Environment, ExecRule, Identity, IdentityKind, IdentityName, Operation, Owner, Purpose, Registry,
        SecretDefinition, SecretName, Selector, Sensitivity, Target, Ttl, TtlLimits, WallTime,
    },
    policy::{BASELINE, Bundle, Source},
};
use std::fmt::Write;

/// The baseline with so many grants; `selectors` are those of each identity.
pub fn host(grants: usize, selectors: impl Fn(usize) -> Vec<Selector>) -> (Bundle, Registry, Catalogue) {
    let (mut identities, mut secrets, mut text) = (Vec::new(), Vec::new(), String::new());
    for at in 0..grants {
        identities.push(identity(&format!("service-{at:04}"), selectors(at)));
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
    let (bundle, _) = Bundle::load(sources, &catalogue, &registry, WallTime::parse("2026-11-22").expect("a date"))
        .unwrap_or_else(|problems| panic!("{}", problems[0]));
    (bundle, registry, catalogue)
}

/// What a service says that it wants.
pub fn claimed() -> Claimed {
    Claimed {
        purpose: Purpose::parse("serve").expect("a name"),
        operation: None,
        targets: Vec::new(),
        ttl: None,
        uses: None,
        reason: None,
        tickets: Vec::new(),
    }
}

fn identity(name: &str, selectors: Vec<Selector>) -> Identity {
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
        selectors,
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
        pinned: false,
        share: Default::default(),
        rotate: None,
        description: String::new(),
        ends_by: EndsBy::Upstream,
        narrows: Vec::new(),
        recipe: "1".into(),
        settings: serde_json::Map::new(),
        generation: "".into(),
    }
}
