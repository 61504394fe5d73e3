//! One decision, by itself, for this very process as the attestor sees it.

use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Roll, Source, Workload},
    digest::SystemRandom,
    intent::{Claimed, Intent, Source as Said},
    model::{
        Catalogue, Channel, EndsBy, EngineName, Environment, ExecRule, Identity, IdentityKind, IdentityName, Operation, Owner, Purpose,
        Registry, SecretDefinition, SecretName, Selector, Sensitivity, Target, Ttl, TtlLimits, WallTime,
    },
    policy::{BASELINE, Bundle, Decision, Evidence, Source as PolicyFile},
    sys::{Host, Kernel, SystemClock},
};
use std::{
    fmt::Write,
    hint::black_box,
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    time::Instant,
};

/// Microseconds at the median: a decision that is new, and the same one again.
pub struct Decided {
    pub grants: usize,
    pub new: f64,
    pub repeated: f64,
}

/// The baseline with so many grants.
pub fn measure(grants: usize) -> Decided {
    const ROUNDS: u64 = 10_000;
    let (bundle, registry, catalogue) = host(grants);
    let secret = catalogue.iter().nth(7).expect("a row").clone();
    let workload = myself(registry);
    let claimed = Claimed {
        purpose: Purpose::parse("serve").expect("a name"),
        operation: None,
        targets: Vec::new(),
        ttl: None,
        uses: None,
        reason: None,
        tickets: Vec::new(),
    };
    let intent = Intent::new(secret, Channel::Deliver, Said::Caller, claimed);
    let now = WallTime::parse("2026-11-23").expect("a date");
    let decide = |at: WallTime| {
        let start = Instant::now();
        let decision = black_box(bundle.decide(&workload, &intent, &Evidence::none(), at, false));
        let took = start.elapsed();
        assert!(matches!(decision, Decision::Permit(_)), "{}", decision.explain());
        took.as_nanos() as f64 / 1000.0
    };
    // What is remembered dies with its second: in another second everything is asked anew.
    let mut new: Vec<f64> = (0..ROUNDS).map(|n| decide(WallTime(now.0 + n * 1_000_000))).collect();
    let mut repeated: Vec<f64> = (0..ROUNDS).map(|_| decide(now)).collect();
    new.sort_by(f64::total_cmp);
    repeated.sort_by(f64::total_cmp);
    Decided { grants, new: new[ROUNDS as usize / 2], repeated: repeated[ROUNDS as usize / 2] }
}

/// This process, attested over a connection of its own.
fn myself(registry: Registry) -> Workload {
    let dir = super::stage::folder();
    let listener = UnixListener::bind(dir.path().join("s.sock")).expect("own folder");
    let _caller = UnixStream::connect(dir.path().join("s.sock")).expect("own socket");
    let (stream, _) = listener.accept().expect("own socket");
    let kernel = Kernel::probe().expect("a kernel");
    let hashes = ExeHashes::new(1 << 28, 1 << 26, Arc::new(SystemClock));
    let source = Source::Here(Box::new(Gatherer::new(kernel, Host::probe().expect("a host"), hashes, Arc::new(SystemClock))));
    let attestor = Attestor::new(source, kernel, Vec::new(), Arc::new(SystemRandom::default()));
    let roll = Roll::new(registry, Names::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let peer = runtime.block_on(attestor.accept(&stream, &roll)).expect("a living peer");
    let attested = attestor.examine(&peer, &roll);
    attested.map_err(|refusal| refusal.message).expect("it is seen").workload.map_err(|refusal| refusal.message).expect("it is known")
}

fn host(grants: usize) -> (Bundle, Registry, Catalogue) {
    let (mut identities, mut secrets, mut text) = (Vec::new(), Vec::new(), String::new());
    for at in 0..grants {
        identities.push(identity(&format!("service-{at:04}"), at == 7));
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
    let source = |name: &str, text: &str| PolicyFile { name: name.into(), text: text.into() };
    let sources = vec![source("00-baseline.cedar", BASELINE), source("50-grants.cedar", &text)];
    let (bundle, _) = Bundle::load(sources, &catalogue, &registry, WallTime::parse("2026-11-22").expect("a date"))
        .unwrap_or_else(|problems| panic!("{}", problems[0]));
    (bundle, registry, catalogue)
}

fn identity(name: &str, me: bool) -> Identity {
    let exe = std::env::current_exe().and_then(|exe| exe.canonicalize()).expect("own path");
    let path = if me { exe.display().to_string() } else { format!("/usr/bin/{name}") };
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
        selectors: vec![Selector::parse(&format!("unix:path:{path}")).expect("a selector")],
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
