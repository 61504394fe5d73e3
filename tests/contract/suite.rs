//! The laws of the engine contract, for any engine.

use async_trait::async_trait;
use claviger::{
    engine::{Engine, EngineError, Issued, Order, Over, UpstreamRef},
    model::*,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// Looks at the source whether a credential works.
#[async_trait]
pub trait Probe: Send + Sync {
    async fn works(&self, issued: &Issued) -> bool;
}

/// An engine with everything the laws need.
pub struct Harness {
    pub engine: Arc<dyn Engine>,
    pub secret: SecretDefinition,
    pub probe: Box<dyn Probe>,
}

/// What an order borrows.
pub struct Asked {
    pub lease: LeaseId,
    pub request: RequestId,
    pub identity: IdentityName,
    pub purpose: Purpose,
    pub issued: WallTime,
    pub expires: WallTime,
    /// Where the engine's clock stands, if a test moves that.
    pub at: Option<WallTime>,
}

impl Asked {
    /// A lease that differs from every other of this run, for five minutes from now.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let n = u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 64 | u128::from(std::process::id());
        let now = now();
        Self {
            lease: LeaseId::from_parts(now.unix_ms(), n),
            request: RequestId::from_parts(now.unix_ms(), n),
            identity: IdentityName::parse("orders-service").unwrap(),
            purpose: Purpose::parse("serve-orders").unwrap(),
            issued: now,
            expires: WallTime(now.0 + 300_000_000),
            at: None,
        }
    }

    pub fn order<'a>(&'a self, secret: &'a SecretDefinition) -> Order<'a> {
        Order {
            lease: self.lease,
            request: self.request,
            secret,
            identity: &self.identity,
            purpose: &self.purpose,
            operation: Operation::Read,
            hosts: &[],
            issued: self.issued,
            expires: self.expires,
            left: Duration::from_micros(self.expires.0.saturating_sub(self.at.unwrap_or_else(now).0)),
        }
    }
}

pub fn now() -> WallTime {
    WallTime(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64)
}

/// A definition with these settings.
pub fn secret(name: &str, engine: &dyn Engine, settings: serde_json::Value) -> SecretDefinition {
    let mut secret = SecretDefinition {
        name: SecretName::parse(name).unwrap(),
        engine: EngineName::parse("under-test").unwrap(),
        owner: Owner::parse("team").unwrap(),
        sensitivity: Sensitivity::Internal,
        environment: Environment::parse("prod").unwrap(),
        purposes: vec![Purpose::parse("serve-orders").unwrap()],
        operation: Operation::Write,
        hosts: vec![],
        ttl: TtlLimits { default: Ttl::parse("5m").unwrap(), max: Ttl::parse("1h").unwrap() },
        reads_max: 10,
        quarantined: false,
        share: Default::default(),
        pinned: false,
        rotate: None,
        description: "for the contract suite".into(),
        ends_by: EndsBy::None,
        narrows: Vec::new(),
        recipe: "1".into(),
        settings: settings.as_object().unwrap().clone(),
        generation: "".into(),
    };
    secret.ends_by = engine.ends_by(&secret);
    secret.narrows = engine.narrows(&secret);
    secret
}

/// Makes a module's tests: one for each law, each with a harness of its own. A harness that is `None` has said why.
#[macro_export]
macro_rules! contract {
    ($harness:path: $($law:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $law() {
            if let Some(harness) = $harness().await {
                $crate::suite::$law(&harness).await;
            }
        }
    )*};
    ($harness:path) => {
        $crate::contract!($harness:
            the_definition_is_accepted_and_an_unknown_setting_is_not
            what_is_issued_works_and_can_be_read_again
            a_renewed_credential_goes_on_working
            ending_says_what_became_of_it_and_can_be_repeated
            an_end_says_how_it_is_known
            ending_what_never_was_is_no_error
            settling_without_an_issue_finds_nothing
            an_issue_that_was_never_committed_is_settled
            nothing_but_the_value_holds_the_value
            what_exists_upstream_is_listed
            many_leases_at_once_do_not_disturb_each_other
        );
    };
}

pub async fn the_definition_is_accepted_and_an_unknown_setting_is_not(h: &Harness) {
    h.engine.check(&h.secret).unwrap();
    let mut other = h.secret.clone();
    other.settings.insert("no_such_setting".into(), true.into());
    if h.engine.kind() != "recording" {
        let why = h.engine.check(&other).unwrap_err();
        assert!(why.contains("no_such_setting") && why.contains(other.name.as_str()), "{why}");
    }
}

pub async fn what_is_issued_works_and_can_be_read_again(h: &Harness) {
    let asked = Asked::new();
    let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    assert!(!issued.value.is_empty() && h.probe.works(&issued).await);
    let read = h.engine.read(&asked.order(&h.secret), &issued.reference).await.unwrap();
    assert!(h.probe.works(&read).await);
    assert_eq!(read.reference, issued.reference);
    // A signed token need only be equally valid; everything else is the same bytes.
    if h.secret.ends_by != EndsBy::ShortLife {
        assert!(read.value.expose() == issued.value.expose() && read.attributes == issued.attributes);
    }
    end(h, &asked, &issued.reference).await;
}

pub async fn a_renewed_credential_goes_on_working(h: &Harness) {
    let mut asked = Asked::new();
    let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    asked.expires = WallTime(asked.expires.0 + 300_000_000);
    h.engine.renew(&asked.order(&h.secret), &issued.reference).await.unwrap();
    assert!(h.probe.works(&h.engine.read(&asked.order(&h.secret), &issued.reference).await.unwrap()).await);
    end(h, &asked, &issued.reference).await;
    if h.engine.has_upstream(&h.secret) {
        let gone = h.engine.renew(&asked.order(&h.secret), &issued.reference).await;
        assert!(matches!(gone, Err(EngineError::Refused(_))), "what has ended cannot be renewed");
    }
}

pub async fn ending_says_what_became_of_it_and_can_be_repeated(h: &Harness) {
    let asked = Asked::new();
    let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    for _ in 0..3 {
        end(h, &asked, &issued.reference).await;
        let works = h.probe.works(&issued).await;
        assert_eq!(works, h.secret.ends_by != EndsBy::Upstream, "revoked is dead, lapsed says that a copy lives on");
    }
    assert_eq!(h.engine.settle(asked.lease, Some(&h.secret)).await.unwrap(), EndResult::Lapsed);
}

/// An engine that says that it looks gives what it saw, of an end, of a repeated one and of a lost issue; one that does not claims nothing.
pub async fn an_end_says_how_it_is_known(h: &Harness) {
    let proves = h.engine.proves(&h.secret);
    if h.engine.has_upstream(&h.secret) {
        assert!(matches!(proves, Some(ProofBy::Looked | ProofBy::Told)), "what a source ends is at least its word: {proves:?}");
    }
    let (committed, lost) = (Asked::new(), Asked::new());
    let issued = h.engine.issue(&committed.order(&h.secret)).await.unwrap();
    let never_committed = h.engine.issue(&lost.order(&h.secret)).await.unwrap();
    let settled = h.engine.settle(lost.lease, Some(&h.secret)).await.unwrap();
    let overs = [
        h.engine.end(committed.lease, &issued.reference).await.unwrap(),
        h.engine.end(committed.lease, &issued.reference).await.unwrap(),
        settled,
    ];
    for (which, over) in overs.iter().enumerate() {
        // Without a row to go by more may be looked for than there can be.
        assert!(over.proof.map(|proof| proof.by) == proves || (proves.is_none() && which == 2), "{which}: {over:?}");
        assert!(over.proof.is_none_or(|proof| !proof.seen.is_empty()), "{which}");
    }
    if proves == Some(ProofBy::Looked) {
        assert!(!h.probe.works(&issued).await && !h.probe.works(&never_committed).await, "what was seen is so");
    }
}

pub async fn ending_what_never_was_is_no_error(h: &Harness) {
    end(h, &Asked::new(), &UpstreamRef::default()).await;
}

pub async fn settling_without_an_issue_finds_nothing(h: &Harness) {
    assert_eq!(h.engine.settle(Asked::new().lease, Some(&h.secret)).await.unwrap(), EndResult::Lapsed);
}

pub async fn an_issue_that_was_never_committed_is_settled(h: &Harness) {
    let asked = Asked::new();
    // The reference is lost with the process that had it.
    let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    let settled = h.engine.settle(asked.lease, Some(&h.secret)).await.unwrap();
    if h.engine.has_upstream(&h.secret) {
        assert_eq!(settled, EndResult::Revoked);
        assert!(!h.probe.works(&issued).await);
    } else {
        assert_eq!(settled, EndResult::Lapsed);
    }
    assert_eq!(h.engine.settle(asked.lease, Some(&h.secret)).await.unwrap(), EndResult::Lapsed);
}

pub async fn nothing_but_the_value_holds_the_value(h: &Harness) {
    let asked = Asked::new();
    let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    let again = h.engine.issue(&asked.order(&h.secret)).await.err().map(|error| format!("{error} {error:?}"));
    let unknown = h.engine.renew(&Asked::new().order(&h.secret), &UpstreamRef::default()).await.err();
    let seen = format!(
        "{} {:?} {:?} {again:?} {unknown:?}",
        serde_json::to_string(&issued.reference).unwrap(),
        issued.reference,
        issued.attributes
    );
    let value = issued.value.expose();
    let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!seen.as_bytes().windows(value.len()).any(|window| window == value) && !seen.contains(&hex));
    end(h, &asked, &issued.reference).await;
}

pub async fn what_exists_upstream_is_listed(h: &Harness) {
    let asked = Asked::new();
    h.engine.issue(&asked.order(&h.secret)).await.unwrap();
    assert_eq!(h.engine.inventory().await.unwrap().contains(&asked.lease), h.engine.has_upstream(&h.secret));
    // What nobody knows any more is ended without a reference.
    end(h, &asked, &UpstreamRef::default()).await;
    assert!(!h.engine.inventory().await.unwrap().contains(&asked.lease));
}

pub async fn many_leases_at_once_do_not_disturb_each_other(h: &Harness) {
    let asked: Vec<Asked> = (0..8).map(|_| Asked::new()).collect();
    let all = asked.iter().map(|asked| async move {
        let issued = h.engine.issue(&asked.order(&h.secret)).await.unwrap();
        assert!(h.probe.works(&issued).await);
        issued
    });
    let issued = futures_util::future::join_all(all).await;
    let (ended, kept) = issued.split_at(4);
    futures_util::future::join_all(asked.iter().zip(ended).map(|(asked, issued)| end(h, asked, &issued.reference))).await;
    for issued in kept {
        assert!(h.probe.works(issued).await);
    }
    futures_util::future::join_all(asked[4..].iter().zip(kept).map(|(asked, issued)| end(h, asked, &issued.reference))).await;
}

/// Every call comes back within the limit, and says that the source did not answer.
pub async fn every_wait_has_a_deadline(engine: &dyn Engine, secret: &SecretDefinition, limit: Duration) {
    let asked = Asked::new();
    let (order, none) = (asked.order(secret), UpstreamRef::default());
    let began = Instant::now();
    let mut errors = vec![engine.issue(&order).await.err(), engine.renew(&order, &none).await.err(), engine.inventory().await.err()];
    errors.extend([engine.end(asked.lease, &none).await.err(), engine.settle(Asked::new().lease, Some(secret)).await.err()]);
    assert!(began.elapsed() < limit * 5, "{:?}", began.elapsed());
    for error in errors {
        assert!(matches!(error, Some(EngineError::Unreachable(_))), "{error:?}");
    }
}

/// Ends it and holds the answer to the engine's word.
async fn end(h: &Harness, asked: &Asked, reference: &UpstreamRef) {
    let wanted = if h.secret.ends_by == EndsBy::Upstream { EndResult::Revoked } else { EndResult::Lapsed };
    let over: Over = h.engine.end(asked.lease, reference).await.unwrap();
    // An engine of several kinds does not know which one a lease without a reference was.
    let unknown = *reference == UpstreamRef::default() && !h.engine.has_upstream(&h.secret) && over == EndResult::Revoked;
    assert!(over == wanted || unknown, "{over:?}");
}
