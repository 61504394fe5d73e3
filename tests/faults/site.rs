//! A daemon with a holder of before, clients that ask whatever happens, and books that must agree afterwards.

use super::{
    clients::{Client, all_well, delivered},
    host::*,
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{Read, Write},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

pub const ASK: &str = r#"{"secret":"app/one"}"#;

/// Two secrets, one identity; the sweep is short, so that it comes about.
pub fn setup() -> Setup {
    Setup {
        config: "[limits]\nconnections_per_second = 100000\n[leases]\nsweep = \"1s\"\n[audit]\nreserve_bytes = 1048576\nanchors = []\n"
            .into(),
        identities: identity("orders", VICTIM, &(declared("app/one") + &declared("app/two"))),
        secrets: secret("app/one", "internal", "") + &secret("app/two", "internal", ""),
        policy: grant("orders", "app/one") + &grant("orders", "app/two"),
        ..Setup::default()
    }
}

/// The daemon, a holder whose lease lives through everything, and all that clients were told.
pub struct Site {
    pub host: Host,
    pub steady: Option<Actor>,
    pub heard: Vec<Value>,
    /// A new value was stored while clients asked, and acknowledged.
    pub put: bool,
}

/// Whether both sockets are open.
pub fn connects(host: &Host) -> bool {
    ["operator.sock", "workload.sock"].iter().all(|name| UnixStream::connect(host.dir.join(name)).is_ok())
}

/// An operator's request that gives up after a while.
pub fn asked(host: &Host, method: &str, path: &str, body: &str) -> Option<u16> {
    let mut stream = UnixStream::connect(host.dir.join("operator.sock")).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes()).ok()?;
    let mut head = [0; 12];
    stream.read_exact(&mut head).ok()?;
    std::str::from_utf8(&head[9..]).ok()?.parse().ok()
}

impl Site {
    /// Writes the files.
    pub fn prepare(setup: Setup) -> Site {
        Site { host: Host::prepare(setup), steady: None, heard: Vec::new(), put: false }
    }

    /// Starts the daemon, and the holder takes its lease.
    pub fn start(setup: Setup) -> Site {
        let mut site = Site::prepare(setup);
        site.host.launch();
        site.begin();
        site
    }

    /// The holder takes its lease.
    pub fn begin(&mut self) {
        self.host.put("app/one", "v");
        self.host.put("app/two", "old");
        let steady = self.host.hold(VICTIM, "orders", &["hold", ASK]);
        self.heard.push(serde_json::json!({"step": "issue", "lease": steady.lease(), "value": "v"}));
        self.steady = Some(steady);
    }

    /// Clients ask for a while; how many values were handed over.
    pub fn ask(&mut self) -> usize {
        let clients: Vec<Client> = (0..2).map(|_| Client::start(&self.host, 4, 1.0)).collect();
        asked(&self.host, "GET", "/v1/status", "");
        let put = asked(&self.host, "PUT", "/v1/secrets/local/app/two", "new");
        self.put |= put.is_some_and(|code| code / 100 == 2);
        asked(&self.host, "POST", "/v1/reload", "");
        let until = Instant::now() + Duration::from_secs(8);
        for client in &clients {
            client.done_within(until.saturating_duration_since(Instant::now()));
        }
        let heard: Vec<Value> = clients.into_iter().flat_map(Client::end).collect();
        let count = delivered(&heard).len();
        self.heard.extend(heard);
        count
    }

    /// A client of now gets all that it asks for, and a holder of before still has what it had.
    pub fn recovers(&mut self, may_lose: bool) {
        let until = Instant::now() + Duration::from_secs(15);
        loop {
            let client = Client::start(&self.host, 2, 5.0);
            client.done_within(Duration::from_secs(12));
            let heard = client.end();
            let well = all_well(&heard);
            self.heard.extend(heard.clone());
            if well {
                break;
            }
            assert!(Instant::now() < until, "does not recover: {heard:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(asked(&self.host, "GET", "/v1/status", ""), Some(200));
        let two = self.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", r#"{"secret":"app/two"}"#]).remove(0);
        let value = two["body"]["secret"]["value"].as_str();
        assert!(value == Some("new") || (value == Some("old") && !self.put), "stored: {}, now: {two}", self.put);
        if let Some(steady) = &mut self.steady {
            steady.say(&format!("call-anew GET /v1/leases/{}/secret", steady.lease()));
            let again = steady.line();
            let ended = self.host.records_of("end").iter().any(|record| record["lease"] == steady.lease().as_str());
            if may_lose && again["body"]["error"]["code"] == "lease_ended" && ended {
                self.steady = None;
                return;
            }
            assert_eq!(again["status"], 200, "the holder of before: {again} {:?}", self.host.records_of("end"));
        }
    }

    /// Nothing was handed over without its record; what is issued and has not ended lives; the chain verifies.
    pub fn books(&mut self) {
        let kept: Vec<String> = self.steady.iter().map(Actor::lease).collect();
        self.host.wait_until(Duration::from_secs(10), "the leases of clients that are gone end", |host| host.live().len() == kept.len());
        let live: Vec<String> = self.host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(live, kept);
        let ids = |host: &Host, kind: &str| -> BTreeSet<String> {
            host.records_of(kind).iter().map(|record| record["lease"].as_str().unwrap().to_owned()).collect()
        };
        let issued = ids(&self.host, "issue");
        for lease in delivered(&self.heard) {
            assert!(issued.contains(&lease), "{lease} was handed over and is not on the record");
        }
        let status = self.host.stop(false).unwrap();
        assert_eq!(status.code(), Some(0), "told to stop");
        self.host.launch();
        let (issued, ended) = (ids(&self.host, "issue"), ids(&self.host, "end"));
        let unended: Vec<String> = issued.difference(&ended).cloned().collect();
        assert_eq!(unended, kept, "issued on the record and not ended on it");
        assert!(ended.is_subset(&issued) || ended.difference(&issued).all(|id| !delivered(&self.heard).contains(id)));
        self.host.stop(false);
        let verified =
            Command::new(env!("CARGO_BIN_EXE_clav")).args(["audit", "verify"]).arg(self.host.dir.join("audit")).output().unwrap();
        assert!(verified.status.success(), "{}{}", String::from_utf8_lossy(&verified.stdout), String::from_utf8_lossy(&verified.stderr));
    }
}
