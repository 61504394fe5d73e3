//! A broker in this process, with this process as its caller, a source of its own and clocks that a test moves; it can end and begin again.

use super::host::{grant, identity, secret};
use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Roll, Source},
    audit::{Audit, Options, Word},
    broker::{Broker, Caller, Delivery, Governance, KeyPlaces, Parts, Revived, Settings},
    config,
    digest::{Ed25519Key, SealKey, SystemRandom},
    engine::{
        Engine, Engines,
        jwt::{Algorithm, JwtConfig, JwtEngine},
        local::{LocalEngine, LocalStore},
    },
    intent::Ask,
    lease::Leases,
    model::{Catalogue, EngineName, LeaseId, Refusal, Ttl, WallTime},
    policy::{BASELINE, Bundle, Source as Policy},
    sys::{Clock, DiskVolume, Host as Machine, Kernel, ManualClock, SystemClock, append::Reserve},
    testing::RecordingEngine,
};
use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub(super) const SECOND: u64 = 1_000_000;
pub(super) const HOUR: u64 = 3600 * SECOND;
/// Where the boot clock stands at first.
pub(super) const BOOTED: u64 = 100 * HOUR;

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// What outlives a daemon.
pub(super) struct Lives<'a> {
    pub(super) folder: &'a Path,
    pub(super) clock: Arc<ManualClock>,
    /// A source that goes on, like a database.
    pub(super) source: Arc<RecordingEngine>,
}

/// One daemon without its sockets, and this process as its caller.
pub(super) struct Life {
    pub(super) broker: Arc<Broker>,
    pub(super) caller: Arc<Caller>,
    pub(super) revived: Revived,
    _connection: (UnixStream, UnixStream),
}

impl<'a> Lives<'a> {
    /// Nothing has lived yet; a call that stalls at the source is given up after so long.
    pub(super) fn new(folder: &'a Path, source_waits: Duration) -> Self {
        let (clock, source) = (ManualClock::new(BOOTED, now()), RecordingEngine::new(source_waits));
        Self { folder, clock: Arc::new(clock), source: Arc::new(source) }
    }

    pub(super) async fn begin(&self) -> Life {
        let kernel = Kernel::probe().unwrap();
        let hashes = ExeHashes::new(1 << 28, 1 << 26, Arc::new(SystemClock));
        let gatherer = Gatherer::new(kernel, Machine::probe().unwrap(), hashes, Arc::new(SystemClock));
        let random = Arc::new(SystemRandom::default());
        let attestor = Arc::new(Attestor::new(Source::Here(Box::new(gatherer)), kernel, Vec::new(), random.clone()));
        let clock: Arc<dyn Clock> = self.clock.clone();
        let key = || SealKey::from_bytes(&[7; 32]).unwrap();
        let local = Arc::new(LocalStore::open(&self.folder.join("store"), key(), None, random.clone(), clock.clone()).unwrap());
        let signing = local.load_own("test").unwrap().unwrap_or_else(|| {
            let key = Ed25519Key::generate().unwrap();
            local.save_own("test", &key).unwrap();
            key
        });
        let name = |text: &str| EngineName::parse(text).unwrap();
        let tokens = JwtConfig {
            name: name("tokens"),
            issuer: "https://host.example".into(),
            algorithms: vec![Algorithm::EdDsa],
            max_ttl: Ttl::parse("1h").unwrap(),
        };
        let tokens = Arc::new(JwtEngine::open(tokens, local.clone(), clock.clone()).unwrap());
        let rows: Vec<(EngineName, Arc<dyn Engine>)> = vec![
            (name("local"), Arc::new(LocalEngine::new(local.clone()))),
            (name("tokens"), tokens.clone()),
            (name("source"), self.source.clone()),
        ];
        let engines = Engines::new(rows).unwrap();
        let reserve = Reserve { bytes: 0, ..Reserve::default() };
        let volume = |name: &str| {
            let at = self.folder.join(name);
            std::fs::create_dir_all(&at).unwrap();
            Box::new(DiskVolume::new(at, 0))
        };
        let (leases, recovered) = Leases::open(volume("leases"), "test", reserve, 64).unwrap();
        let word = |text: &str| Word::parse(text).unwrap();
        let options = Options { reserve, ..Options::new(word("test"), word("boot")) };
        let signer = Ed25519Key::from_pkcs8(signing.expose()).unwrap();
        let audit = Audit::open(options, volume("audit"), signer, clock.clone(), Vec::new()).unwrap();
        let governance = governance(&engines, WallTime(now()));
        let broker = Broker::new(Parts {
            attestor,
            engines,
            local,
            tokens: vec![(name("tokens"), tokens)],
            leases,
            audit,
            governance,
            loader: Box::new(|_, _| unreachable!("nothing reloads")),
            clock,
            random,
            settings: Settings {
                end_tries: 3,
                overdue_micros: SECOND,
                sweep_micros: SECOND,
                strays_micros: SECOND / 20,
                per_identity: 100,
                freeze_file: self.folder.join("frozen"),
                boot: "boot".into(),

                lacking: Vec::new(),
                launcher: "/usr/lib/claviger/clav-launch".into(),
            },
            read_only: None,
            keys: KeyPlaces {
                log: self.folder.join("audit"),
                local_file: None,
                previous_file: None,
                credential: String::new(),
                read_local: Box::new(move || Ok(key())),
            },
        });
        let revived = broker.start(recovered, &claviger::audit::Books::default()).await;
        let at = self.folder.join("socket");
        let _ = std::fs::remove_file(&at);
        let listener = UnixListener::bind(&at).unwrap();
        let ours = UnixStream::connect(&at).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let caller = Arc::new(broker.accept(&theirs).await.unwrap());
        Life { broker, caller, revived, _connection: (ours, theirs) }
    }
}

/// The shipped baseline, this process as an identity, and one secret of each engine, granted.
fn governance(engines: &Engines, today: WallTime) -> Governance {
    let exe = std::env::current_exe().unwrap().canonicalize().unwrap();
    let uid = claviger::sys::euid();
    let row = identity("orders", uid, "").replace("$DIR/bin/orders", &exe.display().to_string());
    let file = |text: String| config::File { path: "test".into(), text };
    let registry = config::identities(&[file(row)]).unwrap();
    let rows = ["source", "tokens", "local"].map(|engine| {
        let more = if engine == "tokens" { "settings = { audience = \"orders-api\", algorithm = \"EdDSA\" }" } else { "" };
        secret(&format!("app/{engine}"), "internal", more).replace("engine = \"local\"", &format!("engine = \"{engine}\""))
    });
    // The same source's, for all of an identity together.
    let shared = secret("app/shared", "internal", "share = \"identity\"").replace("engine = \"local\"", "engine = \"source\"");
    let rows = [rows.concat(), shared];
    let drafts = config::secrets(&[file(rows.concat())]).unwrap_or_else(|errors| panic!("{errors:?}"));
    let rows = drafts.into_iter().map(|draft| {
        let engine = engines.find(&draft.row().engine).unwrap();
        engine.check(draft.row()).unwrap();
        let completed = engine.completes(draft.row());
        draft.with(completed)
    });
    let catalogue = Catalogue::new(rows.collect());
    let grants: String = ["source", "tokens", "local", "shared"].map(|engine| grant("orders", &format!("app/{engine}"))).concat();
    let policy = |name: &str, text: &str| Policy { name: name.into(), text: text.into() };
    let sources = vec![policy("00.cedar", BASELINE), policy("50.cedar", &grants)];
    let (bundle, _) = Bundle::load(sources, &catalogue, &registry, today).unwrap_or_else(|problems| panic!("{problems:?}"));
    Governance { roll: Roll::new(registry, Names::default()), catalogue, bundle, generation: 1, since: today, warnings: Vec::new() }
}

impl Life {
    pub(super) async fn issue(&self, engine: &str) -> Result<Delivery, Refusal> {
        let body = format!(r#"{{"secret":"app/{engine}","purpose":"testing","ttl":"1h"}}"#);
        let ask = Ask::parse(body.as_bytes())?;
        self.broker.issue(self.caller.clone(), ask, body.as_bytes(), self.broker.request_id(), None).await
    }

    pub(super) async fn read(&self, lease: LeaseId) -> Result<Delivery, Refusal> {
        self.broker.read(self.caller.clone(), lease, self.broker.request_id(), None).await
    }

    /// What still lives after the loop that looks at deadlines, at least once a second, has looked.
    pub(super) async fn living(&self) -> Vec<LeaseId> {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        self.broker.all_leases().iter().map(|lease| lease.id).collect()
    }

    pub(super) async fn none_lives(&self) {
        // Endings go through tasks of their own.
        for _ in 0..200 {
            if self.broker.all_leases().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("these do not end: {:?}", self.broker.all_leases());
    }
}

/// Runs one life and ends it: tasks, files and locks are given back.
pub(super) fn live<T>(lives: &Lives, run: impl AsyncFnOnce(&Life) -> T) -> T {
    live_until(lives, true, run)
}

/// Runs one life that is killed in the middle of whatever it is at.
pub(super) fn die<T>(lives: &Lives, run: impl AsyncFnOnce(&Life) -> T) -> T {
    live_until(lives, false, run)
}

fn live_until<T>(lives: &Lives, orderly: bool, run: impl AsyncFnOnce(&Life) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let life = lives.begin().await;
        let done = run(&life).await;
        if orderly {
            let closing = life.broker.clone();
            tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
        }
        done
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

pub(super) fn records(folder: &Path) -> Vec<serde_json::Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join("audit")).unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn reasons(folder: &Path) -> Vec<String> {
    let records = records(folder).into_iter();
    records.filter(|record| record["kind"] == "end").map(|record| record["ended"]["reason"].as_str().unwrap().to_owned()).collect()
}

pub(super) fn sound(folder: &Path) {
    let pinned = claviger::audit::Pinned { keys: Vec::new(), anchors: Vec::new(), max_unsigned: 0 };
    let report = claviger::audit::verify(&folder.join("audit"), &pinned).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}
