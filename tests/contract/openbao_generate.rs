//! Bad weather while a value of OpenBao's KV store is made anew. The stand-in is that of `openbao_weather`, with a store in which things
//! change.

use crate::{
    openbao_weather::{Shared, answer, engine_at, stand_in},
    stand_in::{CANARY, Request, StandIn, Weather, counted_port, until_settled},
    suite::{Asked, secret},
};
use claviger::{
    engine::{Engine, openbao::OpenBaoEngine},
    model::SecretDefinition,
};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

const LIMIT: Duration = Duration::from_millis(1500);
const READ: &str = "GET /v1/secret/data/app/db";
const WRITE: &str = "PUT /v1/secret/data/app/db";

/// One path of a KV store.
#[derive(Default)]
struct Path {
    /// Each version's members, from the first on.
    versions: Vec<Value>,
    /// From this number of versions on it is not read.
    unread_from: Option<usize>,
}

type Kept = Arc<Mutex<Path>>;

fn store(sky: &Shared, kept: &Kept, request: &Request) -> (u16, String) {
    if request.path != "/v1/secret/data/app/db" || answer(sky, request).0 == 403 {
        return answer(sky, request);
    }
    let mut kept = kept.lock().unwrap();
    let about = |version: usize| json!({"version": version, "created_time": format!("2026-01-01T00:00:{version:02}Z")});
    if request.method == "GET" {
        let version = kept.versions.len();
        return match kept.unread_from.is_some_and(|from| version >= from) {
            true => (500, json!({"errors": ["it rains"]}).to_string()),
            false => (200, json!({"data": {"data": kept.versions[version - 1], "metadata": about(version)}}).to_string()),
        };
    }
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    if body["options"]["cas"] != json!(kept.versions.len()) {
        return (400, json!({"errors": ["check-and-set parameter did not match the current version"]}).to_string());
    }
    kept.versions.push(body["data"].clone());
    (200, json!({"data": about(kept.versions.len())}).to_string())
}

struct Site {
    server: StandIn,
    kept: Kept,
    engine: OpenBaoEngine,
    row: SecretDefinition,
}

impl Site {
    /// With a first version that somebody wrote by hand.
    async fn new() -> Self {
        let (_, sky) = stand_in().await;
        let kept = Kept::default();
        kept.lock().unwrap().versions.push(json!({"user": "u", "password": CANARY, "port": 5432}));
        let shared = kept.clone();
        let server = StandIn::start(move |request| store(&sky, &shared, request)).await;
        let (engine, _) = engine_at(server.port, LIMIT);
        let row = json!({"kv": "secret/app/db", "field": "password", "attributes": ["user"], "generate": {"length": 32}});
        let row = secret("app/db", &engine, row);
        Self { server, kept, engine, row }
    }

    fn versions(&self) -> Vec<Value> {
        self.kept.lock().unwrap().versions.clone()
    }

    /// What whoever asks now is given is what the server has, and all but the password is as it was.
    async fn gives_what_is_there(&self, what: &str) {
        let issue = async || self.engine.issue(&Asked::new().order(&self.row)).await;
        let issued = until_settled(issue, |error| error.is_passing()).await;
        let last = self.versions().pop().unwrap();
        assert_eq!(issued.value.expose(), last["password"].as_str().unwrap().as_bytes(), "{what}");
        assert_eq!((&last["user"], &last["port"]), (&json!("u"), &json!(5432)), "{what}: {last}");
    }

    /// It failed, told with the cause and without a byte of any value.
    async fn fails(&self, what: &str, wanted: &[&str]) {
        let error = self.engine.rotate(&self.row).await.err().unwrap_or_else(|| panic!("{what}: it is called done"));
        let text = format!("{error} {error:?}");
        assert!(text.contains("under-test: ") && wanted.iter().all(|wanted| text.contains(wanted)), "{what}: {text}");
        for version in self.versions() {
            assert!(!text.contains(version["password"].as_str().unwrap()), "{what}: {text}");
        }
        assert!(!text.contains("own-"), "{what}: {text}");
    }

    /// Another change, under a clear sky.
    async fn changes(&self, what: &str) {
        let before = self.versions();
        let done = until_settled(async || self.engine.rotate(&self.row).await, |error| error.is_passing()).await;
        let after = self.versions();
        assert_eq!((done.number as usize, after.len()), (before.len() + 1, before.len() + 1), "{what}");
        assert_ne!(before.last().unwrap()["password"], after.last().unwrap()["password"], "{what}");
        assert!(after.starts_with(&before), "{what}");
        self.gives_what_is_there(what).await;
    }
}

/// The write that did not happen: the value stays, and so do its neighbours.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_not_written_is_an_error_and_comes_through_later() {
    let (aside, reached) = counted_port().await;
    for (weather, wanted) in [
        (Weather::Status(400, ""), "it rains (400)"),
        (Weather::Status(403, ""), "it rains (403)"),
        (Weather::Status(429, "retry-after: 1\r\n"), "asks to wait 1 s"),
        (Weather::Status(500, ""), "it rains (500)"),
        (Weather::Status(503, ""), "it rains (503)"),
        // It says that it did, and did not.
        (Weather::Status(200, ""), "somebody else wrote"),
        (Weather::Body("not JSON"), "not what OpenBao answers"),
        (Weather::Body("[]"), "not what OpenBao answers"),
        (Weather::Giant, "more than 1048576 bytes"),
        (Weather::Truncated, "broke off"),
        (Weather::Redirect(aside), "redirect (status 307)"),
        (Weather::Stall, "ms"),
        (Weather::Close, "the connection"),
    ] {
        let (site, what) = (Site::new().await, format!("{weather:?}"));
        site.server.set(Some((WRITE, weather)));
        site.fails(&what, &["writing secret/app/db", wanted]).await;
        site.server.set(None);
        assert_eq!(site.versions().len(), 1, "{what}");
        site.gives_what_is_there(&what).await;
        site.changes(&what).await;
    }
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
}

/// Before anything is written the newest version is read: what is not known is not written over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_over_what_could_not_be_read() {
    for (weather, wanted) in [
        (Weather::Status(500, ""), "it rains (500)"),
        (Weather::Body("not JSON"), "not what OpenBao answers"),
        (Weather::Body("{}"), "not what a KV store of version 2 answers"),
        (Weather::Close, "the connection"),
    ] {
        let (site, what) = (Site::new().await, format!("{weather:?}"));
        site.server.set(Some((READ, weather)));
        site.fails(&what, &["reading secret/app/db", wanted]).await;
        site.server.set(None);
        assert_eq!(site.versions().len(), 1, "{what}");
        site.changes(&what).await;
    }
}

/// It was written and the answer was lost: that is found by reading it back, and is no reason to write again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_is_lost_is_read_back() {
    let site = Site::new().await;
    site.server.set(Some((WRITE, Weather::DoneAndClosed)));
    let done = site.engine.rotate(&site.row).await.unwrap();
    site.server.set(None);
    assert_eq!((done.number, site.versions().len()), (2, 2));
    site.gives_what_is_there("read back").await;
    site.changes("read back").await;
}

/// It was written, and what is there cannot be looked at: not called done, and the new value is what everybody gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_cannot_be_read_back_is_not_called_done_and_loses_nothing() {
    for (weather, wanted) in [(None, "reading secret/app/db: it rains (500)"), (Some(Weather::DoneAndClosed), "writing secret/app/db")] {
        let (site, what) = (Site::new().await, format!("{weather:?}"));
        site.kept.lock().unwrap().unread_from = Some(2);
        site.server.set(weather.map(|weather| (WRITE, weather)));
        site.fails(&what, &[wanted]).await;
        let kept = site.versions();
        assert!(kept.len() == 2 && kept[1]["password"] != CANARY, "{what}");
        site.server.set(None);
        site.kept.lock().unwrap().unread_from = None;
        site.gives_what_is_there(&what).await;
        site.changes(&what).await;
    }
}
