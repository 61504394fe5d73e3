//! Values that are changed when they are due, by a broker whose clocks a test moves: what is due, what fails, who is told.

use super::host::secret as row;
use async_trait::async_trait;
use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Roll, Source},
    audit::{Audit, Options, Word},
    broker::{Broker, Governance, KeyPlaces, Parts, Settings},
    config,
    digest::{Ed25519Key, SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Engines, Issued, Order, Over, UpstreamRef, Version,
        local::{LocalEngine, LocalStore},
    },
    lease::Leases,
    model::{Catalogue, EndsBy, EngineName, LeaseId, OfEngine, Registry, SecretDefinition, SecretName},
    policy::{BASELINE, Bundle, Source as Policy},
    sys::{Clock, DiskVolume, Host as Machine, Kernel, ManualClock, SystemClock, append::Reserve},
};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const HOUR: u64 = 3_600_000_000;
const DAY: u64 = 24 * HOUR;
const START: u64 = 20_500 * DAY;

/// A source of values that last.
struct Lasting {
    clock: Arc<ManualClock>,
    versions: Mutex<BTreeMap<SecretName, Version>>,
    fails: AtomicBool,
    under_way: Mutex<(usize, usize)>,
}

impl Lasting {
    fn number(&self, secret: &str) -> u64 {
        self.versions.lock().unwrap().get(&SecretName::parse(secret).unwrap()).map_or(0, |version| version.number)
    }
}

#[async_trait]
impl Engine for Lasting {
    fn kind(&self) -> &'static str {
        "rotating"
    }
    fn ends_by(&self, _: &SecretDefinition) -> EndsBy {
        EndsBy::None
    }
    fn check(&self, _: &SecretDefinition) -> Result<(), String> {
        Ok(())
    }
    fn can_rotate(&self, _: &SecretDefinition) -> bool {
        true
    }
    async fn newest(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        Ok(self.versions.lock().unwrap().get(&secret.name).copied())
    }
    async fn rotate(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        {
            let mut under_way = self.under_way.lock().unwrap();
            under_way.0 += 1;
            under_way.1 = under_way.1.max(under_way.0);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.under_way.lock().unwrap().0 -= 1;
        if self.fails.load(Ordering::SeqCst) {
            return Err(EngineError::Unreachable("the source is away".into()));
        }
        let mut versions = self.versions.lock().unwrap();
        let number = versions.get(&secret.name).map_or(0, |version| version.number) + 1;
        let version = Version { number, made: self.clock.wall() };
        versions.insert(secret.name.clone(), version);
        Ok(version)
    }
    async fn issue(&self, _: &Order<'_>) -> Result<Issued, EngineError> {
        Err(EngineError::NoValue)
    }
    async fn read(&self, _: &Order<'_>, _: &UpstreamRef) -> Result<Issued, EngineError> {
        Err(EngineError::NoValue)
    }
    async fn renew(&self, _: &Order<'_>, _: &UpstreamRef) -> Result<(), EngineError> {
        Err(EngineError::NoValue)
    }
    async fn end(&self, _: LeaseId, _: &UpstreamRef) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }
    async fn settle(&self, _: LeaseId, _: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }
}

/// A broker without its sockets, of five secrets at the source and one of the local store, each used for ten days at most.
async fn broker(folder: &Path, clock: &Arc<ManualClock>, source: &Arc<Lasting>, read_only: Option<String>) -> Arc<Broker> {
    let kernel = Kernel::probe().unwrap();
    let hashes = ExeHashes::new(1 << 28, 1 << 26, Arc::new(SystemClock));
    let gatherer = Gatherer::new(kernel, Machine::probe().unwrap(), hashes, Arc::new(SystemClock));
    let random = Arc::new(SystemRandom::default());
    let attestor = Arc::new(Attestor::new(Source::Here(Box::new(gatherer)), kernel, Vec::new(), random.clone()));
    let clock: Arc<dyn Clock> = clock.clone();
    let key = || SealKey::from_bytes(&[7; 32]).unwrap();
    let local = Arc::new(LocalStore::open(&folder.join("store"), key(), None, random.clone(), clock.clone()).unwrap());
    local.put(&SecretName::parse("app/local").unwrap(), &claviger::model::SecretBytes::new(b"v".to_vec())).unwrap();
    let name = |text: &str| EngineName::parse(text).unwrap();
    let rows: Vec<(EngineName, Arc<dyn Engine>)> =
        vec![(name("local"), Arc::new(LocalEngine::new(local.clone()))), (name("source"), source.clone())];
    let engines = Engines::new(rows).unwrap();
    let reserve = Reserve { bytes: 0, ..Reserve::default() };
    let volume = |name: &str| {
        let at = folder.join(name);
        std::fs::create_dir_all(&at).unwrap();
        Box::new(DiskVolume::new(at, 0))
    };
    let (leases, recovered) = Leases::open(volume("leases"), "test", reserve, 64).unwrap();
    let word = |text: &str| Word::parse(text).unwrap();
    let options = Options { reserve, ..Options::new(word("test"), word("boot")) };
    let signer = Ed25519Key::from_pkcs8(Ed25519Key::generate().unwrap().expose()).unwrap();
    let audit = Audit::open(options, volume("audit"), signer, clock.clone(), Vec::new()).unwrap();
    let every = "rotate = { every = \"10d\" }";
    let of_source = (0..5).map(|n| row(&format!("app/{n}"), "internal", every).replace("\"local\"", "\"source\""));
    let text = of_source.chain([row("app/local", "internal", every)]).collect();
    let drafts = config::secrets(&[config::File { path: "test".into(), text }]).unwrap_or_else(|errors| panic!("{errors:?}"));
    let catalogue = Catalogue::new(drafts.into_iter().map(|draft| draft.with(OfEngine::ends_by(EndsBy::None))).collect());
    let registry = Registry::default();
    let policy = vec![Policy { name: "00.cedar".into(), text: BASELINE.into() }];
    let (bundle, _) = Bundle::load(policy, &catalogue, &registry, clock.wall()).unwrap_or_else(|problems| panic!("{problems:?}"));
    let roll = Roll::new(registry, Names::default());
    let broker = Broker::new(Parts {
        attestor,
        engines,
        local,
        tokens: Vec::new(),
        leases,
        audit,
        governance: Governance { roll, catalogue, bundle, generation: 1, since: clock.wall(), warnings: Vec::new() },
        loader: Box::new(|_, _| unreachable!("nothing reloads")),
        clock,
        random,
        settings: Settings {
            end_tries: 3,
            overdue_micros: 60_000_000,
            sweep_micros: 60_000_000,
            strays_micros: 300_000_000,
            per_identity: 100,
            freeze_file: folder.join("frozen"),
            boot: "boot".into(),
            lacking: Vec::new(),
            launcher: "/usr/lib/claviger/clav-launch".into(),
        },
        read_only,
        keys: KeyPlaces {
            log: folder.join("audit"),
            local_file: None,
            previous_file: None,
            credential: String::new(),
            read_local: Box::new(move || Ok(key())),
        },
    });
    broker.start(recovered, &claviger::audit::Books::default()).await;
    broker
}

/// Waits until something is so; a busy machine may take its time.
async fn until(what: &str, so: impl Fn() -> bool) {
    for _ in 0..1200 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("waited in vain until {what}");
}

/// Records of changes so far: secret, outcome, detail.
fn records(folder: &Path) -> Vec<(String, String, String)> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join("audit")).unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let rows = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).filter(|row| row["kind"] == "rotate");
    let word = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    rows.map(|row| (word(&row["secret"]["name"]), word(&row["outcome"]), word(&row["detail"]))).collect()
}

fn source(clock: &Arc<ManualClock>) -> Arc<Lasting> {
    let version = Version { number: 1, made: clock.wall() };
    let versions = (0..5).map(|n| (SecretName::parse(&format!("app/{n}")).unwrap(), version)).collect();
    Arc::new(Lasting { clock: clock.clone(), versions: Mutex::new(versions), fails: AtomicBool::new(false), under_way: Mutex::default() })
}

fn folder() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap();
    (folder, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_are_changed_when_they_are_due_one_at_a_time_and_a_failure_is_told_everywhere() {
    let clock = Arc::new(ManualClock::new(100 * HOUR, START));
    let (source, (_kept, folder)) = (source(&clock), folder());
    let broker = broker(&folder, &clock, &source, None).await;
    let looked = || broker.list_rotations().iter().all(|row| row.version == Some(1) && !row.overdue && row.trouble.is_none());
    until("every value was looked at", looked).await;
    assert!(broker.list_rotations().iter().all(|row| row.due.is_some() && row.changed_here == (row.name.as_str() != "app/local")));
    source.fails.store(true, Ordering::SeqCst);
    clock.advance(9 * DAY + 12 * HOUR + HOUR);
    let failing = || broker.list_rotations().iter().filter(|row| row.trouble.as_deref() == Some("the source is away")).count();
    until("all five were tried", || failing() == 5).await;
    let figures = broker.metrics_text();
    assert!(figures.contains("claviger_rotations_failing 5") && figures.contains("claviger_rotations_overdue 0"), "{figures}");
    until("that is on the record", || {
        let told = records(&folder);
        (0..5).all(|n| {
            let of = |outcome: &str| told.iter().filter(|row| row.0 == format!("app/{n}") && row.1 == outcome).count();
            of("begun") >= 1 && of("failed") >= 1 && of("done") == 0
        })
    })
    .await;
    let told = records(&folder);
    assert!(told.iter().any(|row| row.2 == "the source is away"), "{told:?}");
    source.fails.store(false, Ordering::SeqCst);
    // No sooner than a minute after the failure.
    assert_eq!((0..5).map(|n| source.number(&format!("app/{n}"))).max(), Some(1));
    clock.advance(90_000_000);
    until("all five are changed", || (0..5).all(|n| source.number(&format!("app/{n}")) == 2)).await;
    until("that is known", || broker.list_rotations().iter().filter(|row| row.version == Some(2)).count() == 5).await;
    assert_eq!((failing(), source.under_way.lock().unwrap().1), (0, 1), "one at a time");
    until("that is on the record", || records(&folder).iter().filter(|row| row.1 == "done").count() == 5).await;
    assert!(broker.metrics_text().contains("claviger_rotations_total{result=\"done\"} 5"));
    // A value of the local store is changed by a person, who is told when it is too late.
    clock.advance(DAY);
    until("the local value is overdue", || broker.list_rotations().iter().any(|row| row.name.as_str() == "app/local" && row.overdue)).await;
    until("that is on the record", || {
        records(&folder).iter().any(|row| row.0 == "app/local" && row.1 == "failed" && row.2.contains("should have been changed by"))
    })
    .await;
    assert!(broker.metrics_text().contains("claviger_rotations_overdue 1"));
    let value = claviger::model::SecretBytes::new(b"w".to_vec());
    broker.put_local(SecretName::parse("app/local").unwrap(), value).await.unwrap();
    assert!(broker.list_rotations().iter().all(|row| !row.overdue), "the new one is known at once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_changed_unasked_while_frozen_or_read_only() {
    let clock = Arc::new(ManualClock::new(100 * HOUR, START));
    let (source, (_kept, folder)) = (source(&clock), folder());
    let frozen = broker(&folder, &clock, &source, None).await;
    until("every value was looked at", || frozen.list_rotations().iter().all(|row| row.version == Some(1))).await;
    frozen.freeze(true).await.unwrap();
    clock.advance(11 * DAY);
    // Said all the same: nobody else would.
    until("it is said that they are too old", || {
        records(&folder).iter().filter(|row| row.2.contains("should have been changed")).count() == 6
    })
    .await;
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((0..5).map(|n| source.number(&format!("app/{n}"))).max(), Some(1));
    frozen.freeze(false).await.unwrap();
    until("all are changed", || (0..5).all(|n| source.number(&format!("app/{n}")) == 2)).await;
    let (other, (_also_kept, place)) = (self::source(&clock), self::folder());
    let read_only = broker(&place, &clock, &other, Some("for a test".into())).await;
    clock.advance(11 * DAY);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((0..5).map(|n| other.number(&format!("app/{n}"))).max(), Some(1));
    assert!(read_only.list_rotations().iter().all(|row| row.version.is_none()), "it does not even look");
}
