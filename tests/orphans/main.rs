//! Never an orphan: two hosts with one database, under load, while daemons, holders, the database's connections and the database itself die
//! at random. After each round what exists at the source under a host's mark is exactly what that host's leases say, one by one.
//!
//! `CLAVIGER_TEST_ORPHANS` is how many rounds; 30 without it. `CLAVIGER_TEST_ORPHANS_REPORT` names a file for the counts as JSON. Runs as
//! root. `tests/run --orphans N --json` does both.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../soak/chance.rs"]
#[allow(dead_code, reason = "the soak uses all of it")]
mod chance;
#[path = "../support/host.rs"]
mod host;
#[path = "../support/postgres.rs"]
mod postgres;

use chance::Chance;
use host::*;
use postgres::Postgres;
use std::{
    collections::BTreeSet,
    process::Command,
    thread,
    time::{Duration, Instant},
};

const SEED: u64 = 0x6f72_7068;
const HOLDER: u32 = 61_001;
/// Requests of each host that are under way at once.
const AT_ONCE: usize = 4;
/// Holders that live on into the next round, at most.
const KEPT: usize = 12;
const ASK: &str = r#"{"secret":"db/orders"}"#;

fn setup(cluster: &Postgres) -> Setup {
    let grants = "settings = { grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\", \"GRANT SELECT ON app.orders TO {{role}}\"] }";
    Setup {
        config: format!(
            "[limits]\nconnections_per_second = 100000\n[audit]\nhourly_bytes_per_identity = 1073741824\n\
             [[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"postgres\"\n",
            cluster.socket_folder().display(),
            cluster.port
        ),
        identities: identity("orders", HOLDER, &declared("db/orders")),
        secrets: secret("db/orders", "confidential", grants).replace("\"local\"", "\"pg\""),
        policy: grant("orders", "db/orders"),
        ..Setup::default()
    }
}

/// One host with those who hold leases on it.
struct Side {
    host: Host,
    holders: Vec<Actor>,
    mark: Option<String>,
}

/// What happens in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// `kill -9` of a daemon.
    Daemon,
    /// Of half of the holders.
    Holders,
    /// The database closes every session of the engines.
    Sessions,
    /// The database dies and comes back.
    Crash,
    /// The database is away for a while, and a daemon dies meanwhile.
    Away,
}

const FAULTS: [Fault; 5] = [Fault::Daemon, Fault::Holders, Fault::Sessions, Fault::Crash, Fault::Away];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_at_the_source_is_what_is_leased() {
    if !is_root() {
        return;
    }
    let Some(mut cluster) = Postgres::start_for(200).await else { return };
    let rounds: u32 = std::env::var("CLAVIGER_TEST_ORPHANS").ok().map_or(30, |n| n.parse().expect("a number of rounds"));
    let mut chance = Chance(SEED);
    let mut sides = [0, 1].map(|_| Side { host: Host::start(setup(&cluster)), holders: Vec::new(), mark: None });
    let mut told = BTreeSet::new();
    let began = Instant::now();
    for round in 1..=rounds {
        let fault = *chance.of(&FAULTS);
        told.insert(fault);
        let under_way: Vec<_> = sides
            .iter()
            .flat_map(|side| (0..AT_ONCE).map(|_| side.host.actor(HOLDER, "orders", &["hold", ASK])).collect::<Vec<_>>())
            .map(|command| thread::spawn(|| Actor::of(command)))
            .collect();
        thread::sleep(Duration::from_millis(40 + chance.below(140) as u64));
        happen(fault, &mut sides, &mut cluster, &mut chance).await;
        let mut came = under_way.into_iter().map(|actor| actor.join().expect("an actor says something"));
        for side in &mut sides {
            side.holders.extend(came.by_ref().take(AT_ONCE).filter(|actor| actor.first["status"] == 201));
        }
        for side in &mut sides {
            while side.holders.len() > KEPT {
                side.holders.swap_remove(chance.below(side.holders.len())).kill();
            }
            agree(side, &cluster, round, fault).await;
        }
        if round % 10 == 0 {
            eprintln!("round {round} of {rounds}, {} s", began.elapsed().as_secs());
        }
    }
    assert!(rounds < 30 || told.len() == FAULTS.len(), "every fault happened: {told:?}");
    let mut report = Counts { rounds, ..Counts::default() };
    for side in &mut sides {
        report.add(side, &cluster).await;
    }
    let text = serde_json::to_string(&report).expect("numbers");
    eprintln!("{text}");
    if let Some(path) = std::env::var_os("CLAVIGER_TEST_ORPHANS_REPORT") {
        std::fs::write(path, text).expect("the report's file");
    }
    assert_eq!((report.orphans, report.live, report.issued), (0, report.upstream, report.ended + report.live));
    assert!(report.issued > u64::from(rounds), "there was load");
}

async fn happen(fault: Fault, sides: &mut [Side; 2], cluster: &mut Postgres, chance: &mut Chance) {
    let side = &mut sides[chance.below(2)];
    match fault {
        Fault::Daemon => {
            side.host.stop(true);
            side.host.launch();
        }
        Fault::Holders => {
            let half = side.holders.len() / 2;
            side.holders.drain(..half).for_each(|mut holder| holder.kill());
        }
        Fault::Sessions => {
            let ended =
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND usename = 'postgres'";
            cluster.superuser("app").await.query_one(ended, &[]).await.expect("a superuser may");
        }
        Fault::Crash | Fault::Away => {
            cluster.stop(true);
            if fault == Fault::Away {
                side.host.stop(true);
                side.host.launch();
                thread::sleep(Duration::from_millis(chance.below(400) as u64));
            }
            cluster.start_again();
            cluster.serves().await;
        }
    }
}

/// Names of roles that bear a host's mark, as lease ids.
async fn upstream(cluster: &Postgres, mark: &str) -> BTreeSet<String> {
    let client = cluster.superuser("app").await;
    let rows = client.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, $1)", &[&mark]).await;
    let rows = rows.expect("the superuser may list roles");
    rows.iter().map(|row| format!("lease-{}", row.get::<_, String>(0).rsplit('_').next().unwrap_or_default())).collect()
}

fn live(host: &Host) -> BTreeSet<String> {
    host.live().iter().map(|lease| lease["id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits until both are the same, one by one, and says what differs if they do not become so.
async fn agree(side: &mut Side, cluster: &Postgres, round: u32, fault: Fault) {
    if side.mark.is_none() {
        let lease = side.holders.first().map(Actor::lease);
        side.mark = match lease {
            Some(lease) => mark_of(cluster, lease.trim_start_matches("lease-")).await,
            None => None,
        };
    }
    let Some(mark) = side.mark.clone() else { return };
    let begin = Instant::now();
    loop {
        let (there, ours) = (upstream(cluster, &mark).await, live(&side.host));
        let held: BTreeSet<String> = side.holders.iter().map(Actor::lease).collect();
        if there == ours && ours.is_subset(&held) && held.is_subset(&ours) {
            return;
        }
        let differ = || format!("at the source only: {:?}; leased only: {:?}", &there - &ours, &ours - &there);
        let holders = || format!("held only: {:?}; not held: {:?}", &held - &ours, &ours - &held);
        assert!(begin.elapsed() < Duration::from_secs(60), "round {round}, {fault:?}: {}; {}\n{}", differ(), holders(), side.host.log());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

async fn mark_of(cluster: &Postgres, lease: &str) -> Option<String> {
    let client = cluster.superuser("app").await;
    let rows = client.query("SELECT rolname::text FROM pg_roles WHERE rolname::text LIKE '%' || $1", &[&lease]).await;
    let rows = rows.expect("the superuser may list roles");
    rows.first().map(|row| row.get::<_, String>(0).trim_end_matches(lease).to_owned())
}

/// What was seen in all.
#[derive(Default, serde::Serialize)]
struct Counts {
    rounds: u32,
    issued: u64,
    ended: u64,
    live: u64,
    upstream: u64,
    orphans: u64,
}

impl Counts {
    async fn add(&mut self, side: &mut Side, cluster: &Postgres) {
        let ids = |kind: &str| -> BTreeSet<String> {
            side.host.records_of(kind).iter().filter_map(|record| record["lease"].as_str().map(str::to_owned)).collect()
        };
        let (issued, ours) = (ids("issue"), live(&side.host));
        let there = upstream(cluster, side.mark.as_deref().unwrap_or("nothing was ever leased")).await;
        self.ended += ids("end").intersection(&issued).count() as u64;
        self.issued += issued.len() as u64;
        self.live += ours.len() as u64;
        self.upstream += there.len() as u64;
        self.orphans += there.difference(&ours).count() as u64;
        let verified = Command::new(env!("CARGO_BIN_EXE_clav")).args(["audit", "verify", &side.host.path("audit")]).output();
        let verified = verified.expect("clav starts");
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}
