//! The load benchmark: a bare hyper server and the daemon in one run, so that every figure has its floor beside it.
//!
//!     cargo bench --bench load                 about six minutes
//!     cargo bench --bench load -- --quick      a minute; of real sources PostgreSQL alone
//!     cargo bench --bench load -- --json       one JSON object instead of the table
//!     ... -- --only re-read --connections 16 --seconds 10        one thing, with its floor; such things are also `ready`, `restart`,
//!                                              `postgres`, `openbao` and `cached` (real servers), `database` (deaths of its holders)
//!     ... -- --only postgres --apart           (or openbao) with the source on a processor of its own alone, as if it were on another host;
//!                                              `--shared`: with all on the same processors alone. Without either both are measured
//!     ... -- --processes 2                     the attestor as a process of its own, as the units run it; as root
//!     ... -- --at unix:/run/x.sock --get /path [--pid N]         any HTTP server on a Unix or TCP socket
//!
//! The servers run in processes of their own, and the daemon attests this program by uid and path as any workload, under the policy that
//! is shipped. As root it also plays 300 identities that ask at once.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

mod cached;
mod database;
mod decisions;
mod holders;
mod issues;
#[path = "../../tests/support/openbao.rs"]
mod openbao;
#[path = "../../tests/support/postgres.rs"]
mod postgres;
mod stage;
mod traffic;

use serde_json::{Value, json};
use stage::{Stage, post};
use std::{
    fs,
    os::unix::net::UnixStream,
    process::{Command, Stdio},
    time::Instant,
};
use traffic::{Clients, Row, Target, measure};

const CONNECTIONS: [usize; 3] = [1, 16, 64];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let me = arguments[0].clone();
    match arguments.get(1).map(String::as_str) {
        Some("--floor") => return stage::serve_floor(arguments[2].as_ref()),
        Some("--holders") => return holders::hold(&arguments[2..]),
        Some("--storm") => return holders::storm(&arguments[2]),
        Some("--stamp") => return println!("{}", stage::now_micros()),
        _ => {}
    }
    let run = Run { me, quick: flag(&arguments, "--quick"), json: flag(&arguments, "--json"), arguments };
    match option::<usize>(&run.arguments, "--processes").unwrap_or(1) {
        1 => {}
        2 if nix::unistd::Uid::effective().is_root() => {
            stage::TWO.store(true, std::sync::atomic::Ordering::Relaxed);
            let (stage, _) = Stage::start(0);
            eprintln!("... two processes; {}", stage.processes());
        }
        2 => return eprintln!("--processes 2 needs root: the attestor has a user of its own"),
        _ => return eprintln!("--processes is 1 or 2"),
    }
    if let Some(at) = option::<String>(&run.arguments, "--at") {
        return run.elsewhere(&at);
    }
    match option::<String>(&run.arguments, "--only").as_deref() {
        None => run.everything(),
        Some("ready") => {
            let (per_lease, ready) = run.many();
            println!("{per_lease:.0} bytes for each of {} leases; ready with them after {ready:.0} ms", run.many_leases());
        }
        Some("restart") => {
            let (lost, gap) = run.restart(4_000);
            println!("restart with 4000 holders: {lost} leases lost, longest wait {gap:.0} ms");
        }
        Some("database") => match run.database() {
            Some(deaths) => print_deaths(&deaths),
            None => println!("no PostgreSQL here"),
        },
        Some(name @ ("postgres" | "openbao" | "cached")) => match run.sources(name) {
            Some(sources) if run.json => println!("{}", Value::Object(sources.members().collect())),
            Some(sources) => sources.print(),
            None => println!("no {name} here"),
        },
        Some(_) => {
            let (stage, _) = Stage::start(0);
            print_rows(&run.traffic(&stage));
        }
    }
}

/// What was measured with real sources; what is not there was not asked for or has no server here.
#[derive(Default)]
struct Sources {
    issues: Vec<issues::Rates>,
    cached: Option<cached::Reads>,
}

impl Sources {
    fn print(&self) {
        issues::print(&self.issues);
        self.cached.iter().for_each(cached::print);
    }

    fn members(&self) -> impl Iterator<Item = (String, Value)> + '_ {
        issues::members(&self.issues).chain(self.cached.iter().flat_map(cached::members))
    }
}

struct Run {
    me: String,
    quick: bool,
    json: bool,
    arguments: Vec<String>,
}

impl Run {
    fn say(&self, what: &str) {
        eprintln!("... {what}");
    }

    fn seconds(&self) -> f64 {
        option(&self.arguments, "--seconds").unwrap_or(if self.quick { 1.0 } else { 5.0 })
    }

    fn connections(&self) -> Vec<usize> {
        option(&self.arguments, "--connections").map_or(CONNECTIONS.to_vec(), |n| vec![n])
    }

    /// Any server.
    fn elsewhere(&self, at: &str) {
        let path = option(&self.arguments, "--get").unwrap_or_else(|| "/".to_owned());
        let server = option(&self.arguments, "--pid").unwrap_or(0);
        let request = [format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")];
        let rows = self.connections().into_iter().flat_map(|n| measure(&[target(at, at, &request, server)], n, self.seconds()));
        print_rows(&rows.collect::<Vec<_>>());
    }

    /// Requests of every sort at 1, 16 and 64 connections, taking turns with the floor.
    fn traffic(&self, stage: &Stage) -> Vec<Row> {
        let dir = stage::folder();
        let floor = stage::floor(&self.me, dir.path());
        let tcp = format!("tcp:{}", fs::read_to_string(dir.path().join("floor.port")).expect("the floor server wrote its port"));
        let mut stream = UnixStream::connect(stage.workload()).expect("the workload socket");
        let (lease, body) = stage::lease(&mut stream);
        let read = [format!("GET /v1/leases/{lease}/secret HTTP/1.1\r\nhost: x\r\n\r\n")];
        // The floor answers as many bytes as a re-read does.
        let plain = [format!("GET /{body} HTTP/1.1\r\nhost: x\r\n\r\n")];
        let same = [post("/v1/leases", r#"{"secret":"bench/confidential"}"#)];
        let each: Vec<String> = (0..3000)
            .map(|n| {
                post("/v1/leases", &format!(r#"{{"secret":"bench/confidential","purpose":"bench","ttl":{},"reason":"run {n}"}}"#, 600 + n))
            })
            .collect();
        let unix = format!("unix:{}", dir.path().join("floor.sock").display());
        let daemon = format!("unix:{}", stage.workload().display());
        let (f, d) = (floor.0.id(), stage.pid());
        let all = [
            Target { clients: Clients::Blocking, ..target("floor", &unix, &plain, f) },
            Target { clients: Clients::Blocking, ..target("re-read", &daemon, &read, d) },
            target("floor, one client thread", &unix, &plain, f),
            target("floor, tcp, one client thread", &tcp, &plain, f),
            target("re-read, one client thread", &daemon, &read, d),
            target("issue, each another", &daemon, &each, d),
            target("issue, repeated", &daemon, &same, d),
            Target { fresh: true, ..target("connect and issue", &daemon, &same, d) },
        ];
        let only: Option<String> = option(&self.arguments, "--only");
        let mut rows = Vec::new();
        for connections in self.connections() {
            self.say(&format!("traffic on {connections} connections"));
            let wanted = |t: &&Target| match &only {
                Some(only) => t.name.contains(only.as_str()) || t.name.starts_with("floor"),
                // Quick: what the figures need.
                None if self.quick => match connections {
                    1 | 16 => matches!(t.name.as_str(), "floor" | "re-read") || (connections == 16 && t.fresh),
                    _ => t.name.starts_with("issue"),
                },
                None => true,
            };
            let targets: Vec<Target> = all.iter().filter(wanted).cloned().collect();
            rows.extend(measure(&targets, connections, self.seconds()));
        }
        rows
    }

    fn everything(&self) {
        self.say("decisions");
        let decided: Vec<_> = [36, 1_000].map(decisions::measure).into();
        let (mut stage, ready) = Stage::start(0);
        let idle = stage.memory();
        let rows = self.traffic(&stage);
        self.say("identities that ask all at once");
        let storm = holders::storm_times(&self.me, &Stage::start(stage::STORM).0.workload());
        self.say("clav exec");
        let exec = self.exec(&stage);
        self.say("clav audit verify");
        let (records, verify) = verify(&stage);
        // A state of its own: what the rows above left would blur the next figures.
        drop(stage);
        (stage, _) = Stage::start(0);
        let count = if self.quick { 1_000 } else { 4_000 };
        self.say(&format!("{count} holders"));
        let holders = holders::Holders::start(&self.me, &stage.workload(), count, 1);
        let before = stage.live();
        self.say("deaths");
        let died = if self.quick { 50 } else { 300 };
        let deaths = holders::deaths(&stage, &holders, died);
        self.say("restart");
        let gap = Gap::begin(&stage);
        stage.restart();
        let gap = gap.end();
        let lost = before - died as u64 - stage.live();
        self.say("all die at once");
        let mass = holders::mass_death(&stage, &holders, 0);
        drop((holders, stage));
        let (per_lease, ready_many) = self.many();
        let database = self.database();
        let mut sources = Sources::default();
        let names: &[&str] = if self.quick { &["postgres"] } else { &["postgres", "openbao", "cached"] };
        for found in names.iter().filter_map(|name| self.sources(name)) {
            sources.issues.extend(found.issues);
            sources.cached = sources.cached.or(found.cached);
        }
        let figures = Figures {
            database,
            sources,
            ready,
            idle,
            storm,
            exec,
            records,
            verify,
            count,
            deaths,
            gap,
            lost,
            mass,
            leases: self.many_leases(),
            per_lease,
            ready_many,
        };
        if self.json {
            println!("{}", figures.json(&rows, &decided));
        } else {
            print_rows(&rows);
            figures.print(&decided);
        }
    }

    /// Leases lost and the longest wait in milliseconds when a daemon with so many holders is restarted.
    fn restart(&self, count: usize) -> (u64, f64) {
        let (mut stage, _) = Stage::start(0);
        let holders = holders::Holders::start(&self.me, &stage.workload(), count, 1);
        let before = stage.live();
        let gap = Gap::begin(&stage);
        let ready = stage.restart();
        let gap = gap.end();
        self.say(&format!("ready after {ready:.0} ms"));
        let lost = before - stage.live();
        drop(holders);
        (lost, gap)
    }

    fn database(&self) -> Option<database::Deaths> {
        let (holders, died) = if self.quick { (100, 20) } else { (1_100, 100) };
        self.say(&format!("{holders} holders of database credentials"));
        database::deaths(&self.me, holders, died)
    }

    /// One of the names that `--only` takes; `None` without its server.
    fn sources(&self, name: &str) -> Option<Sources> {
        self.say(&format!("real sources: {name}"));
        let seconds = self.seconds();
        if name == "cached" {
            return Some(Sources { cached: Some(cached::measure_all(seconds)?), ..Sources::default() });
        }
        let measure = if name == "postgres" { issues::postgres } else { issues::openbao };
        // Twice as many as the daemon has connections to a source: at least as many are there as it can use, whatever it writes down.
        let connections = option(&self.arguments, "--connections").unwrap_or(16);
        let (apart, shared) = (flag(&self.arguments, "--apart"), flag(&self.arguments, "--shared"));
        let mut sources = Sources::default();
        for place in [true, false] {
            let wanted = if place { !shared } else { !apart };
            if wanted && (!place || issues::processors() > 1) {
                sources.issues.extend(measure(issues::Load { connections, seconds, apart: place })?);
            }
        }
        Some(sources)
    }

    fn many_leases(&self) -> usize {
        if self.quick { 20_000 } else { 100_000 }
    }

    /// Bytes of memory for each of many leases, a thousand to a holder, and milliseconds until a daemon is ready that has them.
    fn many(&self) -> (f64, f64) {
        let leases = self.many_leases();
        self.say(&format!("{leases} leases"));
        let (mut stage, _) = Stage::start(0);
        // The code that issuing needs is in memory then.
        let _ = stage::lease(&mut UnixStream::connect(stage.workload()).expect("the workload socket"));
        let begin = stage.memory();
        let _holders = holders::Holders::start(&self.me, &stage.workload(), leases / 1_000, 1_000);
        let per_lease = (stage.memory() - begin) * 1024.0 / leases as f64;
        let ready = stage.restart();
        assert_eq!(stage.live(), leases as u64 + 1, "leases outlive a restart");
        (per_lease, ready)
    }

    /// Milliseconds from starting `clav exec` to the first instruction of its child, at the median.
    fn exec(&self, stage: &Stage) -> f64 {
        let mut times: Vec<f64> = (0..if self.quick { 15 } else { 50 })
            .map(|_| {
                let begin = stage::now_micros();
                let out = Command::new(env!("CARGO_BIN_EXE_clav"))
                    .args(["exec", "--quiet", "--secret", "bench/confidential:value", "--", &self.me, "--stamp"])
                    .env("CLAVIGER_SOCKET", stage.workload())
                    .stdin(Stdio::null())
                    .output()
                    .expect("clav starts");
                let text = String::from_utf8_lossy(&out.stdout);
                let at: u64 = text.trim().parse().unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&out.stderr)));
                (at - begin) as f64 / 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        percentile(&times, 0.5)
    }
}

/// Records in the log, and how many `clav audit verify` reads a second.
fn verify(stage: &Stage) -> (u64, f64) {
    let begin = Instant::now();
    let out = Command::new(env!("CARGO_BIN_EXE_clav"))
        .args(["--json", "--config"])
        .arg(stage.dir().join("clavigerd.toml"))
        .args(["audit", "verify"])
        .output()
        .expect("clav starts");
    let seconds = begin.elapsed().as_secs_f64();
    let report: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr)));
    let records = report["records"].as_u64().expect("a count");
    (records, records as f64 / seconds)
}

/// Asks on connections of its own, one after the other, while the daemon is restarted: the longest wait is the gap.
struct Gap {
    stop: std::sync::mpsc::Sender<()>,
    longest: std::thread::JoinHandle<f64>,
}

impl Gap {
    fn begin(stage: &Stage) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let path = stage.workload();
        let longest = std::thread::spawn(move || {
            let mut longest = 0.0f64;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let begin = Instant::now();
                // A connection that the old daemon was about to close is made again.
                while !health(&path) {}
                longest = longest.max(begin.elapsed().as_secs_f64() * 1000.0);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            longest
        });
        Self { stop, longest }
    }

    fn end(self) -> f64 {
        let _ = self.stop.send(());
        self.longest.join().expect("the asking thread")
    }
}

fn health(path: &std::path::Path) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = UnixStream::connect(path) else { return false };
    let _ = stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n");
    let mut buffer = [0; 512];
    stream.read(&mut buffer).is_ok_and(|n| buffer[..n].starts_with(b"HTTP/1.1 200"))
}

struct Figures {
    database: Option<database::Deaths>,
    sources: Sources,
    ready: f64,
    idle: f64,
    storm: Option<Vec<f64>>,
    exec: f64,
    records: u64,
    verify: f64,
    count: usize,
    deaths: Vec<f64>,
    gap: f64,
    lost: u64,
    mass: f64,
    leases: usize,
    per_lease: f64,
    ready_many: f64,
}

impl Figures {
    fn json(&self, rows: &[Row], decided: &[decisions::Decided]) -> Value {
        let find = |name: &str, connections| rows.iter().find(|r| r.name == name && r.connections == connections);
        let rate = |name: &str, connections| find(name, connections).map_or(f64::NAN, |row| row.rate);
        let p50 = |name: &str| find(name, 1).map_or(f64::NAN, |row| row.p50);
        let by_grants = |of: fn(&decisions::Decided) -> f64| decided.iter().map(|d| (d.grants.to_string(), json!(of(d)))).collect();
        let mut figures = json!({
            "processes": if stage::TWO.load(std::sync::atomic::Ordering::Relaxed) { 2 } else { 1 },
            "reread_ratio_16": rate("re-read", 16) / rate("floor", 16),
            "reread_p50_over_floor_us": p50("re-read") - p50("floor"),
            "issue_per_s_64": rate("issue, each another", 64),
            "issue_repeated_per_s_64": rate("issue, repeated", 64),
            "cold_issue_per_s": rate("connect and issue", 16),
            "boot_storm_p99_ms": self.storm.as_ref().map(|times| percentile(times, 0.99)),
            "restart_lost": self.lost,
            "restart_gap_ms": self.gap,
            "exit_to_end_p50_ms": percentile(&self.deaths, 0.5),
            "exit_to_end_p99_ms": percentile(&self.deaths, 0.99),
            "mass_exit_ms": self.mass,
            "dead_p99_ms": self.database.as_ref().map(|deaths| percentile(&deaths.one, 0.99)),
            "dead_all_ms": self.database.as_ref().map(|deaths| deaths.all),
            "holders": self.count,
            "decide_p50_us": Value::Object(by_grants(|d| d.new)),
            "decide_repeated_p50_us": Value::Object(by_grants(|d| d.repeated)),
            "rss_idle_mib": self.idle / 1024.0,
            "bytes_per_lease": self.per_lease,
            "leases": self.leases,
            "ready_ms": self.ready,
            "ready_100k_ms": self.ready_many,
            "verify_per_s": self.verify,
            "exec_ms": self.exec,
        });
        figures.as_object_mut().expect("an object").extend(self.sources.members());
        figures
    }

    fn print(&self, decided: &[decisions::Decided]) {
        println!();
        for d in decided {
            println!("decision under the baseline and {:>5} grants: p50 {:.1} us new, {:.2} us repeated", d.grants, d.new, d.repeated);
        }
        if let Some(times) = &self.storm {
            let (p50, p99) = (percentile(times, 0.5), percentile(times, 0.99));
            println!("{} identities ask for their first secret at once: p50 {p50:.0} ms, p99 {p99:.0} ms", times.len());
        }
        let (p50, p99) = (percentile(&self.deaths, 0.5), percentile(&self.deaths, 0.99));
        println!("holder killed to lease ended, {} watched: p50 {p50:.2} ms, p99 {p99:.2} ms of {}", self.count, self.deaths.len());
        println!("restart with {} holders: {} leases lost, longest wait {:.0} ms", self.count - self.deaths.len(), self.lost, self.gap);
        println!("all of them killed at once: every lease ended after {:.0} ms", self.mass);
        if let Some(deaths) = &self.database {
            print_deaths(deaths);
        }
        self.sources.print();
        println!("memory idle {:.1} MiB; {:.0} bytes for each of {} leases", self.idle / 1024.0, self.per_lease, self.leases);
        println!("ready after {:.0} ms, with {} leases after {:.0} ms", self.ready, self.leases, self.ready_many);
        println!("clav audit verify: {:.0} records a second of {}", self.verify, self.records);
        println!("clav exec to its child's first instruction: {:.1} ms", self.exec);
    }
}

fn target(name: &str, at: &str, requests: &[String], server: u32) -> Target {
    Target { name: name.to_owned(), at: at.to_owned(), requests: requests.to_vec(), server, fresh: false, clients: Clients::Events }
}

fn print_rows(rows: &[Row]) {
    println!(
        "{:<32}{:>12}{:>12}{:>10}{:>10}{:>12}{:>10}",
        "what", "connections", "answers/s", "p50 us", "p99 us", "CPU us each", "of floor"
    );
    for row in rows {
        let floor = if row.name.ends_with("one client thread") { "floor, one client thread" } else { "floor" };
        let floor = rows.iter().find(|r| r.name == floor && r.connections == row.connections).map_or(f64::NAN, |r| r.rate);
        println!(
            "{:<32}{:>12}{:>12.0}{:>10.0}{:>10.0}{:>12.1}{:>10.2}",
            row.name,
            row.connections,
            row.rate,
            row.p50,
            row.p99,
            row.cpu,
            row.rate / floor
        );
    }
}

fn print_deaths(deaths: &database::Deaths) {
    let (p50, p99, alone) = (percentile(&deaths.one, 0.5), percentile(&deaths.one, 0.99), deaths.one.len());
    println!(
        "holder killed to credential dead in PostgreSQL, session closed and login refused, {} holders: p50 {p50:.1} ms, p99 {p99:.1} ms of {alone}",
        deaths.holders
    );
    let (left, all, own) = (deaths.holders - alone, deaths.all, deaths.own);
    println!(
        "the other {left} killed at once: every session closed and every role gone after {all:.0} ms; PostgreSQL's own time for as many {own:.0} ms"
    );
}

/// The value at that share of a sorted list.
fn percentile(sorted: &[f64], q: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(f64::NAN)
}

fn flag(arguments: &[String], name: &str) -> bool {
    arguments.iter().any(|a| a == name)
}

/// What stands behind an option.
fn option<T: std::str::FromStr>(arguments: &[String], name: &str) -> Option<T> {
    arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)?.parse().ok())
}
