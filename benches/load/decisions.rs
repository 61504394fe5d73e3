//! One decision, by itself, for this very process as the attestor sees it.

#[path = "../support/host.rs"]
mod support;

use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Roll, Source, Workload},
    digest::SystemRandom,
    intent::{Intent, Source as Said},
    model::{Channel, Registry, Selector, WallTime},
    policy::{Decision, Evidence},
    sys::{Host, Kernel, SystemClock},
};
use std::{
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
    let (bundle, registry, catalogue) = support::host(grants, |at| {
        let exe = std::env::current_exe().and_then(|exe| exe.canonicalize()).expect("own path");
        let path = if at == 7 { exe.display().to_string() } else { format!("/usr/bin/service-{at:04}") };
        vec![Selector::parse(&format!("unix:path:{path}")).expect("a selector")]
    });
    let secret = catalogue.iter().nth(7).expect("a row").clone();
    let workload = myself(registry);
    let intent = Intent::new(secret, Channel::Deliver, Said::Caller, support::claimed());
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
