//! Tests of the whole decision, and the small world that they share.

mod cells;
mod loading;
mod properties;
mod refusals;

use super::{BASELINE, Bundle, Decision, Evidence, Problem, Source, Warning};
use crate::{
    attest::{Facts, Workload},
    intent::{Claimed, Intent, Source as Said},
    model::{
        Assurance, Catalogue, Channel, EndsBy, EngineName, Environment, ExecRule, GroupName, Identity, IdentityKind, IdentityName,
        Operation, Owner, Purpose, Registry, SecretDefinition, SecretName, Sensitivity, Target, Ttl, TtlLimits, WallTime,
    },
};
use std::sync::Arc;

fn today() -> WallTime {
    WallTime::parse("2026-11-22").unwrap()
}

fn days_later(days: u64) -> WallTime {
    WallTime(today().0 + days * 86_400_000_000)
}

fn identity(name: &str, kind: IdentityKind) -> Identity {
    Identity {
        name: IdentityName::parse(name).unwrap(),
        kind,
        owner: Owner::parse("team-orders").unwrap(),
        environment: Environment::parse("prod").unwrap(),
        purposes: ["serve-orders", "migrate", "bare", "ticket", "lasting", "both"].map(|p| Purpose::parse(p).unwrap()).to_vec(),
        max_sensitivity: Sensitivity::Critical,
        expires: days_later(365),
        suspended: false,
        groups: vec![GroupName::parse("everybody").unwrap()],
        selectors: Vec::new(),
        exclusive_uid: false,
        on_exec: ExecRule::Reattest,
        uses: Vec::new(),
        generation: "1".into(),
    }
}

fn secret(name: &str, sensitivity: Sensitivity, operation: Operation, ends_by: EndsBy) -> SecretDefinition {
    SecretDefinition {
        name: SecretName::parse(name).unwrap(),
        engine: EngineName::parse("local").unwrap(),
        owner: Owner::parse("team-orders").unwrap(),
        sensitivity,
        environment: Environment::parse("prod").unwrap(),
        purposes: identity("x", IdentityKind::Workload).purposes,
        operation,
        hosts: vec![Target::parse("db.prod:5432").unwrap(), Target::parse("db2.prod:5432").unwrap()],
        ttl: TtlLimits { default: Ttl::MAX, max: Ttl::MAX },
        reads_max: 100,
        quarantined: false,
        share: Default::default(),
        pinned: false,
        rotate: None,
        description: String::new(),
        ends_by,
        narrows: Vec::new(),
        recipe: "1".into(),
        settings: serde_json::Map::new(),
        generation: "1".into(),
    }
}

fn claim(purpose: &str) -> Claimed {
    let purpose = Purpose::parse(purpose).unwrap();
    Claimed { purpose, operation: None, targets: Vec::new(), ttl: None, uses: None, reason: None, tickets: Vec::new() }
}

/// A host: its rows and its policy text beside the baseline.
struct World {
    identities: Vec<Identity>,
    secrets: Vec<SecretDefinition>,
    policies: String,
}

impl World {
    /// One workload, one agent, one shared identity; one confidential secret; one grant for each identity.
    fn small() -> Self {
        let identities = vec![
            identity("orders-api", IdentityKind::Workload),
            identity("helper", IdentityKind::Agent),
            identity("batch", IdentityKind::Shared),
        ];
        let secrets = vec![secret("prod-db/orders-ro", Sensitivity::Confidential, Operation::Read, EndsBy::Upstream)];
        let policies =
            GRANT.to_owned() + &GRANT.replace("Workload::\"orders-api", "Agent::\"helper").replace("@id(\"grant.", "@id(\"agent-grant.");
        Self { identities, secrets, policies }
    }

    fn load(&self) -> Result<(Bundle, Vec<Warning>), Vec<Problem>> {
        let baseline = Source { name: "00-baseline.cedar".into(), text: BASELINE.into() };
        let sources = vec![Source { name: "50-test.cedar".into(), text: self.policies.clone() }, baseline];
        Bundle::load(sources, &Catalogue::new(self.secrets.clone()), &Registry::new(self.identities.clone()), today())
    }

    fn bundle(&self) -> Bundle {
        self.load().map_err(|problems| problems.iter().map(|p| format!("{p}\n")).collect::<String>()).unwrap_or_else(|p| panic!("{p}")).0
    }

    fn workload(&self, name: &str, assurance: Assurance) -> Workload {
        let identity = self.identities.iter().find(|row| row.name.as_str() == name).unwrap();
        Workload::for_test(Arc::new(identity.clone()), assurance, Facts::default())
    }

    fn intent(&self, secret: &str, channel: Channel, claimed: Claimed) -> Intent {
        let secret = self.secrets.iter().find(|row| row.name.as_str() == secret).unwrap();
        Intent::new(Arc::new(secret.clone()), channel, Said::Caller, claimed)
    }

    /// What becomes of the small world's request for the one secret.
    fn ask(&self, name: &str, channel: Channel) -> Decision {
        let (workload, intent) =
            (self.workload(name, Assurance::Isolated), self.intent("prod-db/orders-ro", channel, claim("serve-orders")));
        self.bundle().decide(&workload, &intent, &Evidence::none(), days_later(1), false)
    }
}

const GRANT: &str = r#"
@id("grant.orders-api.orders-db") @owner("team-orders") @purpose("serve-orders") @expires("2027-01-31") @ticket("jira:OPS-412")
permit (principal == Claviger::Workload::"orders-api",
        action in Claviger::Action::"use",
        resource == Claviger::Secret::"prod-db/orders-ro");
"#;

/// `permit`, the needs in their order, or the code of a refusal.
fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Permit(_) => "permit".to_owned(),
        Decision::Needs(unmet) => {
            let needs: std::collections::BTreeSet<_> = unmet.requirements().map(|(requirement, _)| requirement.need).collect();
            let needs: Vec<_> = needs.into_iter().map(|need| need.as_str()).collect();
            format!("needs {}", needs.join(" "))
        }
        Decision::Forbid(refused) => refused.code().to_string(),
    }
}
