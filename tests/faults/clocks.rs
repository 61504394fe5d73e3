//! Clocks that jump. Deadlines are on `CLOCK_BOOTTIME`, which nobody can set and which counts suspend; the wall clock is for people and for
//! sources. In this process with clocks that a test moves, and with the real daemon in a time namespace (time_namespaces(7)).

use super::{
    host::*,
    site::{ASK, Site, setup},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Roll, Source},
    audit::{Audit, Options, Word},
    broker::{Broker, Caller, Delivery, Governance, KeyPlaces, Parts, Revived, Settings},
    config,
    digest::{Ed25519Key, SealKey, SystemRandom},
    engine::{
        Engine, Engines, UpstreamRef,
        jwt::{Algorithm, JwtConfig, JwtEngine},
        local::{LocalEngine, LocalStore},
    },
    intent::Ask,
    lease::Leases,
    model::{Catalogue, EndResult, EngineName, LeaseId, Refusal, Ttl, WallTime},
    policy::{BASELINE, Bundle, Source as Policy},
    sys::{Clock, DiskVolume, Host as Machine, Kernel, ManualClock, SystemClock, append::Reserve},
    testing::{Call, Mishap, RecordingEngine},
};
use std::{
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3600 * SECOND;
const YEARS: u64 = 10 * 365 * 24 * HOUR;
/// Where the boot clock stands at first.
const BOOTED: u64 = 100 * HOUR;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// What outlives a daemon.
struct Lives<'a> {
    folder: &'a Path,
    clock: Arc<ManualClock>,
    /// A source that goes on, like a database.
    source: Arc<RecordingEngine>,
}

/// One daemon without its sockets, and this process as its caller.
struct Life {
    broker: Arc<Broker>,
    caller: Arc<Caller>,
    revived: Revived,
    _connection: (UnixStream, UnixStream),
}

impl Lives<'_> {
    async fn begin(&self) -> Life {
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
    let drafts = config::secrets(&[file(rows.concat())]).unwrap_or_else(|errors| panic!("{errors:?}"));
    let rows = drafts.into_iter().map(|draft| {
        let engine = engines.find(&draft.row().engine).unwrap();
        engine.check(draft.row()).unwrap();
        let completed = engine.completes(draft.row());
        draft.with(completed)
    });
    let catalogue = Catalogue::new(rows.collect());
    let grants: String = ["source", "tokens", "local"].map(|engine| grant("orders", &format!("app/{engine}"))).concat();
    let policy = |name: &str, text: &str| Policy { name: name.into(), text: text.into() };
    let sources = vec![policy("00.cedar", BASELINE), policy("50.cedar", &grants)];
    let (bundle, _) = Bundle::load(sources, &catalogue, &registry, today).unwrap_or_else(|problems| panic!("{problems:?}"));
    Governance { roll: Roll::new(registry, Names::default()), catalogue, bundle, generation: 1, since: today, warnings: Vec::new() }
}

impl Life {
    async fn issue(&self, engine: &str) -> Result<Delivery, Refusal> {
        let body = format!(r#"{{"secret":"app/{engine}","purpose":"testing","ttl":"1h"}}"#);
        let ask = Ask::parse(body.as_bytes())?;
        self.broker.issue(self.caller.clone(), ask, body.as_bytes(), self.broker.request_id(), None).await
    }

    async fn read(&self, lease: LeaseId) -> Result<Delivery, Refusal> {
        self.broker.read(self.caller.clone(), lease, self.broker.request_id(), None).await
    }

    /// What still lives after the loop that looks at deadlines, at least once a second, has looked.
    async fn living(&self) -> Vec<LeaseId> {
        tokio::time::sleep(Duration::from_millis(1300)).await;
        self.broker.all_leases().iter().map(|lease| lease.id).collect()
    }

    async fn none_lives(&self) {
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

/// A source that is away, or says no, for longer than an ending is tried: it is given up, told once, and ends all the same when the source is
/// back, or lets us again.
#[test]
fn what_was_given_up_while_its_source_was_away_ends_when_it_is_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(BOOTED, now()));
    let lives = Lives { folder: folder.path(), clock: clock.clone(), source: Arc::new(RecordingEngine::new(Duration::from_secs(1))) };
    let of_kind = |kind: &str| records(folder.path()).iter().filter(|record| record["kind"] == kind).count();
    live(&lives, async |life| {
        // Three tries are what there is; two turns of what is overdue fail as well.
        (0..5).for_each(|_| lives.source.plan(Call::End, Mishap::Unreachable));
        let away = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(away, claviger::model::EndReason::Asked).await, Some(EndResult::Retrying));
        life.none_lives().await;
        assert_eq!((of_kind("retry"), of_kind("irrevocable"), of_kind("end")), (2, 1, 1), "told once");
        assert!(lives.source.live().is_empty());
        (0..3).for_each(|_| lives.source.plan(Call::End, Mishap::Refused));
        let refused = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(refused, claviger::model::EndReason::Asked).await, Some(EndResult::Retrying));
        life.none_lives().await;
        assert_eq!((of_kind("irrevocable"), of_kind("end")), (2, 2), "told once");
    });
    assert!(lives.source.live().is_empty());
    sound(folder.path());
}

/// A journal is lost: what it knew waits for a person. It is told once, is not ended when it has become little beside what is issued by then,
/// and is seen to have gone when somebody has ended it at the source.
#[test]
fn what_waits_for_a_person_is_looked_at_again_and_not_ended() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(BOOTED, now()));
    let lives = Lives { folder: folder.path(), clock, source: Arc::new(RecordingEngine::new(Duration::from_secs(1))) };
    let strays =
        live(&lives, async |life| [life.issue("source").await.unwrap().lease().id, life.issue("source").await.unwrap().lease().id]);
    std::fs::remove_dir_all(folder.path().join("leases")).unwrap();
    let told = || records(folder.path()).iter().filter(|record| record["kind"] == "irrevocable").count();
    live(&lives, async |life| {
        let waiting = async |count: usize| {
            for _ in 0..400 {
                let seen = life.broker.list_engines().into_iter().find(|engine| engine.name == "source").unwrap();
                if seen.looked.is_some() && seen.waiting == count && told() == 1 {
                    return seen.there;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("{:?}", life.broker.list_engines());
        };
        assert_eq!(waiting(2).await, 2);
        for _ in 0..15 {
            drop(life.issue("source").await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!((waiting(2).await, told()), (17, 1), "nothing is ended unasked, and nothing is said twice");
        for stray in strays {
            lives.source.end(stray, &UpstreamRef::default()).await.unwrap();
        }
        assert_eq!(waiting(0).await, 15);
    });
    assert!(reasons(folder.path()).is_empty(), "what is leased lives");
}

/// Whoever gives a lease back is told after ten seconds that its end goes on, and it does.
#[test]
fn an_end_whose_source_hangs_is_not_waited_for_and_goes_on() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(BOOTED, now()));
    let lives = Lives { folder: folder.path(), clock, source: Arc::new(RecordingEngine::new(Duration::from_secs(16))) };
    live(&lives, async |life| {
        lives.source.plan(Call::End, Mishap::Stall);
        let id = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(id, claviger::model::EndReason::Asked).await, Some(EndResult::Retrying));
        let retried = records(folder.path()).iter().filter(|record| record["kind"] == "retry").count();
        assert_eq!((retried, lives.source.live().len()), (0, 1), "the first try goes on");
        while lives.source.live().len() == 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        life.none_lives().await;
    });
    sound(folder.path());
}

/// Until when a token says that it is good, in seconds.
fn expiry(token: &Delivery) -> u64 {
    let text = std::str::from_utf8(token.value().expose()).unwrap();
    let claims = URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_u64().unwrap()
}

/// Runs one life and ends it: tasks, files and locks are given back.
fn live<T>(lives: &Lives, run: impl AsyncFnOnce(&Life) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async {
        let life = lives.begin().await;
        let done = run(&life).await;
        let closing = life.broker.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
        done
    });
    runtime.shutdown_timeout(Duration::from_secs(5));
    done
}

fn records(folder: &Path) -> Vec<serde_json::Value> {
    let mut files: Vec<_> = std::fs::read_dir(folder.join("audit")).unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let text: String = files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn reasons(folder: &Path) -> Vec<String> {
    let records = records(folder).into_iter();
    records.filter(|record| record["kind"] == "end").map(|record| record["ended"]["reason"].as_str().unwrap().to_owned()).collect()
}

fn sound(folder: &Path) {
    let pinned = claviger::audit::Pinned { keys: Vec::new(), anchors: Vec::new(), max_unsigned: 0 };
    let report = claviger::audit::verify(&folder.join("audit"), &pinned).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn a_wall_clock_that_is_set_extends_nothing_and_strands_nothing() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (clock, true_wall) = (Arc::new(ManualClock::new(BOOTED, now())), now());
    let lives = Lives { folder: folder.path(), clock: clock.clone(), source: Arc::new(RecordingEngine::new(Duration::from_secs(1))) };
    let until = |lease: LeaseId| lives.source.live().into_iter().find(|(id, _)| *id == lease).unwrap().1;
    live(&lives, async |life| {
        let mut issued = Vec::new();
        for (hours, wall) in [(0, true_wall), (0, true_wall - YEARS), (0, true_wall + 60 * SECOND)] {
            assert_eq!(hours, 0);
            clock.step_wall(wall);
            for engine in ["source", "tokens"] {
                let given = life.issue(engine).await.unwrap();
                let lease = given.lease().clone();
                // What the source was told is what is promised, and that is an hour by the clock that people see now.
                assert_eq!(lease.expires, WallTime(wall + HOUR));
                assert_eq!(lease.deadline.0, BOOTED + HOUR, "an hour, whatever the wall clock says");
                match engine {
                    "tokens" => assert_eq!(expiry(&given), lease.expires.unix_secs()),
                    _ => assert_eq!(until(lease.id), lease.expires),
                }
                issued.push(lease);
            }
        }
        // Ten years on, and grants are over: nothing new, nothing renewed. What lives goes on.
        clock.step_wall(true_wall + YEARS);
        assert_eq!(life.living().await.len(), 6);
        assert_eq!(life.issue("source").await.err().unwrap().code.as_str(), "no_grant");
        let renewed = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await;
        assert_eq!(renewed.err().unwrap().code.as_str(), "no_grant");
        assert!(life.read(issued[0].id).await.is_ok());
        // Back, half an hour later.
        clock.step_wall(true_wall);
        clock.advance(HOUR / 2);
        assert_eq!(life.living().await.len(), 6);
        // A renewal gives an hour from now, and no longer.
        let renewed = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await.unwrap();
        assert_eq!((renewed.deadline.0, renewed.expires), (BOOTED + HOUR / 2 + HOUR, WallTime(true_wall + HOUR / 2 + HOUR)));
        assert_eq!(until(renewed.id), renewed.expires);
        // Back by ten years: a renewal never shortens what was promised and still gives nothing by the clock that counts.
        clock.step_wall(true_wall - YEARS);
        let again = life.broker.renew(life.caller.clone(), issued[0].id, life.broker.request_id()).await.unwrap();
        assert_eq!((again.deadline, again.expires), (renewed.deadline, renewed.expires));
        // An hour has passed by the boot clock: all but the renewed one end, at a wall clock that says anything.
        clock.advance(HOUR / 2 + 1);
        for _ in 0..100 {
            if life.living().await == [renewed.id] {
                break;
            }
        }
        assert_eq!(life.living().await, [renewed.id]);
        assert_eq!(lives.source.live().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [renewed.id], "none is left at the source");
        for lease in &issued[1..] {
            assert_eq!(life.read(lease.id).await.err().unwrap().code.as_str(), "lease_ended");
        }
        clock.advance(HOUR);
        life.none_lives().await;
        assert_eq!(lives.source.may_last_until(renewed.id), Some(renewed.expires), "told to the source, whatever the clock says now");
    });
    assert!(lives.source.live().is_empty());
    assert_eq!(reasons(folder.path()), vec!["expired"; 6]);
    sound(folder.path());
}

#[test]
fn a_suspend_counts_and_another_clock_extends_nothing() {
    if !is_root() {
        return;
    }
    // While it runs; before it starts again; and a clock that stands before the one by which the lease was made.
    for (slept_running, boot, expired) in
        [(true, BOOTED, 2), (false, BOOTED + 2 * HOUR, 2), (false, BOOTED - 2 * HOUR, 2), (false, BOOTED, 0)]
    {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(BOOTED, now()));
        let mut lives =
            Lives { folder: folder.path(), clock: clock.clone(), source: Arc::new(RecordingEngine::new(Duration::from_secs(1))) };
        live(&lives, async |life| {
            let _ = life.issue("source").await.unwrap();
            let _ = life.issue("tokens").await.unwrap();
            if slept_running {
                clock.advance(2 * HOUR);
                life.none_lives().await;
            } else {
                assert_eq!(life.living().await.len(), 2);
            }
        });
        lives.clock = Arc::new(ManualClock::new(boot, now()));
        let left = live(&lives, async |life| {
            if slept_running {
                assert_eq!(life.revived, Revived::default());
            }
            for _ in 0..50 {
                if life.living().await.len() + expired == 2 {
                    break;
                }
            }
            life.living().await.len()
        });
        assert_eq!(left + expired, 2, "boot clock at {boot}");
        assert_eq!(reasons(folder.path()), vec!["expired"; expired]);
        assert_eq!(lives.source.live().len(), left / 2);
        sound(folder.path());
    }
}

/// The real daemon, started again where `CLOCK_BOOTTIME` is so much further or behind.
fn in_another_time(seconds: i64, config: &str) {
    if !is_root() {
        return;
    }
    let setup = setup();
    let mut site = Site::start(Setup { config: setup.config + config, ..setup });
    let mut steady = site.steady.take().unwrap();
    let lease = steady.lease();
    site.host.stop(true);
    // The file says where the children's clocks stand; a program that is executed is in that time already.
    let namespace = ["unshare", "--time", "--boottime", &seconds.to_string(), "--"].map(str::to_owned);
    site.host.launch_below(&namespace);
    site.host.wait_until(Duration::from_secs(20), "it serves", |host| super::site::connects(host));
    let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", site.host.pid())).unwrap();
    let offset = offsets.lines().find_map(|line| line.strip_prefix("boottime")?.split_whitespace().next()?.parse::<i64>().ok());
    assert_eq!(offset, Some(seconds), "the daemon is in another time: {offsets}");
    let end = site.host.end_of(&lease);
    // Its holder lives; by that clock it began at another time, so it may also count as another process.
    let reason = end["ended"]["reason"].as_str().unwrap();
    assert!(["expired", "holder_changed"].contains(&reason), "{end}");
    steady.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    let read = steady.line();
    assert!(read["status"] == 410 || read["status"] == 404, "{read}");
    let issued = site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
    assert_eq!(issued["status"], 201, "{issued}");
    site.heard.push(serde_json::json!({"step": "issue", "lease": lease, "value": "v"}));
    drop(steady);
    site.books();
}

#[test]
fn the_daemon_wakes_two_hours_later() {
    in_another_time(7200, "");
}

#[test]
fn the_daemon_starts_by_a_clock_that_stands_before() {
    in_another_time(-600, "");
}

/// However many ask at once for more time for one lease, its source is asked once; and not again before there is time to be gained.
#[test]
fn a_lease_is_prolonged_once_at_a_time() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(BOOTED, now()));
    let lives = Lives { folder: folder.path(), clock: clock.clone(), source: Arc::new(RecordingEngine::new(Duration::from_secs(1))) };
    let asked = || lives.source.calls().iter().filter(|(call, _)| *call == Call::Renew).count();
    live(&lives, async |life| {
        let lease = life.issue("source").await.unwrap().lease().id;
        let renew = || life.broker.renew(life.caller.clone(), lease, life.broker.request_id());
        // It has its hour yet.
        assert_eq!((renew().await.unwrap().deadline.0, asked()), (BOOTED + HOUR, 0));
        for round in 1..=2 {
            clock.advance(HOUR / 4);
            let renewed = futures_util::future::join_all((0..20).map(|_| renew())).await;
            for one in renewed {
                let one = one.unwrap();
                assert_eq!((one.deadline.0, one.expires), (BOOTED + HOUR / 4 * round + HOUR, WallTime(clock.wall().0 + HOUR)));
            }
            assert_eq!(asked() as u64, round);
        }
        // What the source does not want to prolong is not asked about again and again by a program that is told to come again.
        clock.advance(HOUR / 4);
        lives.source.plan(Call::Renew, Mishap::Refused);
        assert_eq!(renew().await.err().unwrap().code.as_str(), "not_renewable");
        lives.source.plan(Call::Renew, Mishap::Unreachable);
        assert_eq!(renew().await.err().unwrap().code.as_str(), "engine_unavailable");
        assert_eq!(renew().await.unwrap().deadline.0, BOOTED + HOUR / 4 * 3 + HOUR, "it goes on all the same");
        assert_eq!(life.broker.end(lease, claviger::model::EndReason::Asked).await, Some(EndResult::Revoked));
    });
    sound(folder.path());
}
