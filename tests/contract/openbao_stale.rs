//! Values of a real OpenBao while it cannot be asked: how long, on whose word, from where, and what ends it.

use crate::{
    openbao::{LIMIT, approle},
    openbao_server::{OpenBao, policy},
    suite::{Asked, now, secret},
};
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued, Kept, Mark,
        openbao::{Copies, Login, OpenBaoConfig, OpenBaoEngine},
        stale_age,
    },
    model::{EngineName, SecretDefinition, WallTime},
    outbound::{Limits, Method},
    sys::ManualClock,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};
use tempfile::TempDir;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// Nothing else here looks like it.
const VALUE: &str = "kept-canary-4c1fd1a9";

/// A server with a value, and what daemons of one host share.
struct Scene {
    server: OpenBao,
    login: (String, String),
    state: TempDir,
    clock: Arc<ManualClock>,
}

/// What differs from one start of the daemon to the next.
struct Start<'a> {
    boot: &'a str,
    server: &'a str,
    not_before: u64,
}

const SAME: Start = Start { boot: "this boot", server: "the server", not_before: 0 };

impl Scene {
    async fn new() -> Option<Self> {
        let server = OpenBao::start().await?;
        server.prepare().await;
        server.put("secret/data/app/db", json!({"data": {"user": "u", "password": VALUE}})).await;
        // It lives longer than any test of these pretends to last.
        let login = server.approle(json!({"token_policies": "claviger", "token_ttl": "700h"})).await;
        let clock = Arc::new(ManualClock::new(HOUR, now().0));
        Some(Self { server, login, state: tempfile::tempdir().unwrap(), clock })
    }

    fn folder(&self) -> PathBuf {
        self.state.path().canonicalize().unwrap().join("openbao-bao")
    }

    fn login(&self) -> Login {
        approle(self.login.0.clone(), self.login.1.clone())
    }

    fn engine(&self) -> OpenBaoEngine {
        self.started(SAME)
    }

    fn started(&self, Start { boot, server, not_before }: Start) -> OpenBaoEngine {
        let config = OpenBaoConfig {
            name: EngineName::parse("under-test").unwrap(),
            client: self.server.client(Limits { call: LIMIT, ..Limits::default() }),
            namespace: None,
            login: self.login(),
            token_role: "claviger".into(),
            timeout: LIMIT,
            copies: Copies { folder: self.folder(), server: server.into(), boot: boot.into(), not_before: WallTime(not_before) },
        };
        let (_folder, store) = crate::local::store();
        let root = SealKey::from_bytes(&[9; 32]).unwrap();
        let (clock, random) = (self.clock.clone(), Arc::new(SystemRandom::default()));
        OpenBaoEngine::new(config, Mark::new(b"machine", b"state"), &root, store, clock, random).unwrap()
    }

    /// Stops the server, as a crash does.
    fn away(&mut self) {
        self.server.stop(true);
    }

    /// The only copy on the disk, when it is there.
    async fn copy(&self) -> PathBuf {
        for _ in 0..400 {
            if let [one] = &self.copies()[..] {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{:?}", self.copies());
    }

    fn copies(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.folder()).into_iter().flatten().flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|ending| ending == "sealed")).collect()
    }
}

fn row(engine: &dyn Engine, more: Value) -> SecretDefinition {
    let mut settings = json!({"kv": "secret/app/db", "field": "password", "attributes": ["user"]});
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    secret("app/db", engine, settings)
}

async fn issue(engine: &OpenBaoEngine, row: &SecretDefinition) -> Result<Issued, EngineError> {
    engine.issue(&Asked::new().order(row)).await
}

/// The value, and for how many seconds the server has not confirmed it, as it was issued just now.
async fn given(engine: &OpenBaoEngine, row: &SecretDefinition) -> Option<(String, Option<u64>)> {
    match issue(engine, row).await {
        Ok(issued) => Some((String::from_utf8(issued.value.expose().to_vec()).unwrap(), stale_age(&issued.attributes))),
        Err(EngineError::Unreachable(_)) => None,
        Err(error) => panic!("{error:?}"),
    }
}

fn known(age: u64) -> Option<(String, Option<u64>)> {
    Some((VALUE.to_owned(), Some(age)))
}

/// What is answered by the server itself, which is tried again a little after it failed.
async fn answered(engine: &OpenBaoEngine, row: &SecretDefinition) -> Result<Issued, EngineError> {
    for _ in 0..200 {
        match issue(engine, row).await {
            Ok(issued) if stale_age(&issued.attributes).is_none() => return Ok(issued),
            Ok(_) | Err(EngineError::Unreachable(_)) => tokio::time::sleep(Duration::from_millis(100)).await,
            Err(error) => return Err(error),
        }
    }
    panic!("the server does not answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_given_while_its_server_is_away_until_it_is_too_old() {
    let Some(mut scene) = Scene::new().await else { return };
    let engine = scene.engine();
    let (patient, strict) = (row(&engine, json!({"max_stale": "1h"})), row(&engine, json!({})));
    let asked = Asked::new();
    let held = engine.issue(&asked.order(&patient)).await.unwrap();
    assert_eq!(stale_age(&held.attributes), None);
    let read = async || engine.read(&asked.order(&patient), &held.reference).await;
    scene.away();
    scene.clock.advance(4 * MINUTE);
    assert_eq!(stale_age(&read().await.unwrap().attributes), None, "a lease reads its value again for a while without asking");
    scene.clock.advance(6 * MINUTE);
    assert_eq!(given(&engine, &patient).await, known(600));
    assert_eq!(given(&engine, &strict).await, None);
    let again = read().await.unwrap();
    assert_eq!((again.value.expose(), stale_age(&again.attributes)), (VALUE.as_bytes(), Some(600)));
    assert!(again.attributes.contains(&("user".into(), "u".into())) && engine.read_now(&asked.order(&patient), &held.reference).is_none());
    assert!(engine.read(&asked.order(&strict), &held.reference).await.is_err());
    // No failure makes it younger, nor does a clock that somebody sets.
    scene.clock.step_wall(scene.clock_wall() - 24 * HOUR);
    scene.clock.advance(49 * MINUTE + 59 * SECOND);
    assert_eq!(given(&engine, &patient).await, known(3599));
    engine.renew(&asked.order(&patient), &held.reference).await.unwrap();
    scene.clock.advance(SECOND);
    assert_eq!(given(&engine, &patient).await, None);
    assert!(matches!(read().await, Err(EngineError::Unreachable(_))));
    assert!(matches!(engine.renew(&asked.order(&patient), &held.reference).await, Err(EngineError::Unreachable(_))));
    // One that answers with a failure cannot be asked either.
    scene.server.start_sealed();
    assert_eq!(given(&engine, &patient).await, None);
    scene.server.unseal().await;
    assert_eq!(answered(&engine, &patient).await.unwrap().value.expose(), VALUE.as_bytes());
    scene.server.seal().await;
    scene.clock.advance(6 * MINUTE);
    assert_eq!(given(&engine, &patient).await, known(360));
    assert_eq!(stale_age(&read().await.unwrap().attributes), Some(360), "asked about the newest, the server spoke of this version too");
    // A wall clock that is ahead may be right: a machine that was a snapshot has not counted the time.
    scene.clock.step_wall(scene.clock_wall() + HOUR);
    assert_eq!(given(&engine, &patient).await, None);
    assert!(scene.copies().is_empty(), "nothing is on the disk where the secret does not say so");
}

impl Scene {
    fn clock_wall(&self) -> u64 {
        use claviger::sys::Clock;
        self.clock.wall().0
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_says_no_is_believed() {
    for refusal in ["policy", "deleted", "login"] {
        let Some(mut scene) = Scene::new().await else { return };
        let engine = scene.engine();
        let patient = row(&engine, json!({"max_stale": "10h", "offline": true}));
        issue(&engine, &patient).await.unwrap();
        scene.copy().await;
        // So that our token is no longer young, and a new one is tried.
        scene.clock.advance(MINUTE);
        match refusal {
            "policy" => {
                let policy = policy().replace("secret/data/app/*", "secret/data/other/*");
                scene.server.put("sys/policies/acl/claviger", json!({ "policy": policy })).await;
            }
            "deleted" => drop(scene.server.call(Method::Put, "secret/delete/app/db", json!({"versions": [1]})).await),
            _ => {
                assert_eq!(scene.server.call(Method::Delete, "auth/approle/role/claviger", Value::Null).await.0, 204);
                // A role that is gone leaves its tokens; whoever takes it away takes these too.
                scene.server.put("sys/leases/revoke-prefix/auth/approle", json!({})).await;
            }
        }
        let said = answered(&engine, &patient).await.err().unwrap();
        assert!(matches!(said, EngineError::Setup(_) | EngineError::NoValue), "{refusal}: {said}");
        assert!(scene.copies().is_empty() && engine.kept(&patient).is_empty(), "{refusal}");
        scene.away();
        assert!(issue(&engine, &patient).await.is_err(), "{refusal}");
        assert!(issue(&scene.engine(), &patient).await.is_err(), "{refusal}: nor after a restart");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_without_the_server_takes_the_sealed_copy_where_the_secret_says_so() {
    let Some(mut scene) = Scene::new().await else { return };
    let before = scene.engine();
    let (offline, memory) = (row(&before, json!({"max_stale": "10h", "offline": true})), row(&before, json!({"max_stale": "10h"})));
    let asked = Asked::new();
    let held = before.issue(&asked.order(&offline)).await.unwrap();
    let copy = scene.copy().await;
    let text = fs::read(&copy).unwrap();
    assert_eq!(
        (copy.metadata().unwrap().permissions().mode() & 0o777, scene.folder().metadata().unwrap().permissions().mode() & 0o777),
        (0o600, 0o700)
    );
    for secret in [VALUE, "password", "app/db"] {
        assert!(!text.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} is on the disk");
    }
    scene.away();
    scene.clock.advance(HOUR);
    // The daemon starts anew.
    assert_eq!(given(&scene.engine(), &memory).await, None);
    let after = scene.engine();
    assert_eq!(given(&after, &offline).await, known(3600));
    let read = after.read(&asked.order(&offline), &held.reference).await.unwrap();
    assert_eq!((read.value.expose(), stale_age(&read.attributes)), (VALUE.as_bytes(), Some(3600)));
    // The wall clock may be set back or forward; the other one tells, and the older of both counts.
    scene.clock.step_wall(scene.clock_wall() - 3 * HOUR);
    assert_eq!(given(&scene.engine(), &offline).await, known(3600));
    scene.clock.step_wall(scene.clock_wall() + 5 * HOUR);
    assert_eq!(given(&scene.engine(), &offline).await, known(3 * 3600));
    scene.clock.advance(7 * HOUR);
    assert_eq!(given(&scene.engine(), &offline).await, None, "too old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_another_boot_a_clock_that_went_back_tells_no_age() {
    let Some(mut scene) = Scene::new().await else { return };
    let before = scene.engine();
    let offline = row(&before, json!({"max_stale": "10h", "offline": true}));
    issue(&before, &offline).await.unwrap();
    scene.copy().await;
    scene.away();
    let said = scene.clock_wall();
    let booted = |wall: u64, not_before: u64| {
        // The other clock begins anew.
        scene.clock.step_wall(wall);
        scene.started(Start { boot: "another boot", not_before, ..SAME })
    };
    assert_eq!(given(&booted(said + 2 * HOUR, said + HOUR), &offline).await, known(7200));
    assert_eq!(given(&booted(said + 10 * HOUR, said + HOUR), &offline).await, None);
    assert_eq!(given(&booted(said - HOUR, 0), &offline).await, None, "before the copy was made");
    // Ten hours went by, and the clock says that it was one.
    assert_eq!(given(&booted(said + HOUR, said + 9 * HOUR), &offline).await, None, "before something else was written");
    // When the clock is right again it tells.
    let patient = booted(said + HOUR, said + 9 * HOUR);
    assert_eq!(given(&patient, &offline).await, None);
    scene.clock.step_wall(said + 9 * HOUR + HOUR / 2);
    assert_eq!(given(&patient, &offline).await, known(9 * 3600 + 1800));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_opens_in_its_own_place_and_unchanged() {
    let Some(mut scene) = Scene::new().await else { return };
    scene.server.put("secret/data/app/other", json!({"data": {"user": "x", "password": "of another secret"}})).await;
    let before = scene.engine();
    let stale = json!({"max_stale": "10h", "offline": true});
    let offline = row(&before, stale.clone());
    let other = secret("app/other", &before, json!({"kv": "secret/app/other", "field": "password", "max_stale": "10h", "offline": true}));
    issue(&before, &offline).await.unwrap();
    let copy = scene.copy().await;
    let own = fs::read(&copy).unwrap();
    issue(&before, &other).await.unwrap();
    let others = loop {
        if let Some(found) = scene.copies().into_iter().find(|path| *path != copy) {
            break fs::read(found).unwrap();
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    };
    scene.away();
    for (what, bytes) in [
        ("another's", others.clone()),
        ("cut", own[..own.len() - 1].to_vec()),
        ("empty", Vec::new()),
        ("changed", own.iter().enumerate().map(|(n, byte)| if n == own.len() / 2 { byte ^ 1 } else { *byte }).collect()),
    ] {
        fs::write(&copy, bytes).unwrap();
        assert_eq!(given(&scene.engine(), &offline).await, None, "{what}");
    }
    fs::write(&copy, &own).unwrap();
    assert_eq!(given(&scene.started(Start { server: "another server", ..SAME }), &offline).await, None);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(given(&scene.engine(), &offline).await, None, "others could have read it");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(given(&scene.engine(), &offline).await, known(0));
    // What does not open is removed when somebody looks at all of them.
    fs::write(&copy, others).unwrap();
    scene.engine().tidy(&[Arc::new(offline), Arc::new(other)]).await;
    assert!(!copy.exists() && scene.copies().len() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_version_ends_the_copy_of_the_one_before() {
    let Some(mut scene) = Scene::new().await else { return };
    let engine = scene.engine();
    let offline = row(&engine, json!({"max_stale": "10h", "offline": true}));
    let (first, memory) =
        (row(&engine, json!({"max_stale": "10h", "offline": true, "version": 1})), row(&engine, json!({"max_stale": "10h"})));
    issue(&engine, &offline).await.unwrap();
    scene.copy().await;
    scene.server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "second"}})).await;
    // Somebody sees it for whom no copy is made.
    issue(&engine, &memory).await.unwrap();
    assert!(scene.copies().is_empty());
    // A secret that names a version has a copy of its own, which nobody takes for the newest.
    issue(&engine, &first).await.unwrap();
    scene.copy().await;
    scene.away();
    assert_eq!(given(&engine, &offline).await, Some(("second".to_owned(), Some(0))));
    assert_eq!(given(&scene.engine(), &offline).await, None);
    assert_eq!(given(&scene.engine(), &first).await, known(0));
}

/// Metadata that is deleted takes the count of versions along: another value has the number of the one before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_deleted_and_made_anew_is_not_taken_for_the_one_before() {
    let Some(mut scene) = Scene::new().await else { return };
    let engine = scene.engine();
    let offline = row(&engine, json!({"max_stale": "10h", "offline": true}));
    let first = issue(&engine, &offline).await.unwrap();
    let before = fs::read(scene.copy().await).unwrap();
    assert_eq!(scene.server.call(Method::Delete, "secret/metadata/app/db", Value::Null).await.0, 204);
    scene.server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "anew"}})).await;
    let issued = issue(&engine, &offline).await.unwrap();
    assert!(issued.value.expose() == b"anew" && issued.attributes.contains(&("version".into(), "1".into())));
    // Nor is it given to whoever has a lease of the one before, which is gone.
    let again = engine.read(&Asked::new().order(&offline), &first.reference).await;
    assert!(matches!(again, Err(EngineError::NoValue)), "{:?}", again.map(|again| again.attributes));
    assert!(engine.renew(&Asked::new().order(&offline), &first.reference).await.is_err());
    assert!(engine.read(&Asked::new().order(&offline), &issued.reference).await.is_ok());
    assert!(
        !engine.is_newest(&offline, &first.reference) && engine.is_newest(&offline, &issued.reference),
        "whoever asks by name gets another"
    );
    // The copy of before is gone when the answer is here; the other one comes a moment later.
    for _ in 0..400 {
        if scene.copies().first().is_some_and(|copy| fs::read(copy).is_ok_and(|bytes| bytes != before)) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    scene.away();
    assert_eq!(given(&engine, &offline).await, Some(("anew".to_owned(), Some(0))));
    assert_eq!(given(&scene.engine(), &offline).await, Some(("anew".to_owned(), Some(0))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_secret_lets_be_given_any_more_is_not_kept() {
    let Some(scene) = Scene::new().await else { return };
    let engine = scene.engine();
    let offline = Arc::new(row(&engine, json!({"max_stale": "10h", "offline": true})));
    let elsewhere = Arc::new(row(&engine, json!({"kv": "secret/app/moved", "max_stale": "10h", "offline": true})));
    let memory = Arc::new(row(&engine, json!({"max_stale": "1h"})));
    let plain = Arc::new(row(&engine, json!({})));
    let kept = |age, on_disk, stale| Kept { version: 1, on_disk, age: Some(age), left: 10 * HOUR - age, stale };
    let fill = async || {
        engine.evict(&offline).await;
        issue(&engine, &offline).await.unwrap();
        scene.copy().await;
        assert_eq!(engine.kept(&offline), [kept(0, false, false), kept(0, true, true)]);
    };
    fill().await;
    // Rows that let it be kept.
    engine.tidy(std::slice::from_ref(&offline)).await;
    scene.clock.advance(6 * MINUTE);
    engine.tidy(&[offline.clone(), plain.clone()]).await;
    assert_eq!(engine.kept(&offline), [kept(6 * MINUTE, false, true), kept(6 * MINUTE, true, true)]);
    // Too old for all of them.
    scene.clock.advance(10 * HOUR - 6 * MINUTE);
    engine.tidy(&[offline.clone(), plain.clone()]).await;
    assert!(engine.kept(&offline).is_empty() && scene.copies().is_empty());
    for (rows, left) in [(vec![], 0), (vec![elsewhere.clone()], 0), (vec![plain.clone()], 1), (vec![memory.clone()], 1)] {
        fill().await;
        engine.tidy(&rows).await;
        assert!(scene.copies().is_empty());
        assert_eq!(engine.kept(&offline).len(), left);
        scene.clock.advance(6 * MINUTE);
        engine.tidy(&rows).await;
        assert_eq!(engine.kept(&offline).len(), usize::from(rows.contains(&memory)));
    }
    // A daemon that starts knows what lies there.
    fill().await;
    let after = scene.engine();
    after.tidy(std::slice::from_ref(&offline)).await;
    assert_eq!(after.kept(&offline), [kept(0, true, true)]);
    assert_eq!((after.evict(&offline).await, scene.copies().len(), after.kept(&offline).len()), (1, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_evicts_is_given_to_nobody_and_does_not_come_back() {
    let Some(mut scene) = Scene::new().await else { return };
    let engine = scene.engine();
    let offline = row(&engine, json!({"max_stale": "10h", "offline": true}));
    issue(&engine, &offline).await.unwrap();
    scene.copy().await;
    // Asked before and answered after: it is given to whoever asked, and not kept.
    scene.server.hang(true);
    let (late, ()) = tokio::join!(issue(&engine, &offline), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(engine.evict(&offline).await, 2);
        scene.server.hang(false);
    });
    assert_eq!(late.unwrap().value.expose(), VALUE.as_bytes());
    assert!(engine.kept(&offline).is_empty());
    scene.away();
    assert_eq!(given(&engine, &offline).await, None);
    assert_eq!(given(&scene.engine(), &offline).await, None);
    assert!(scene.copies().is_empty());
}
