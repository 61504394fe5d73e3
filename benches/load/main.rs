//! The load benchmark: a bare hyper server and the daemon in one run, so that every figure has its floor beside it.
//!
//!     cargo bench --bench load               about three minutes
//!     cargo bench --bench load -- --quick    under a minute
//!     cargo bench --bench load -- --json     one JSON object instead of the table
//!
//! Needs no other program. Both servers run in processes of their own; the clients are threads of this one, and the daemon attests
//! this program by uid and path as any workload, under the policy that is shipped.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

mod traffic;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};
use traffic::{Clients, Target, measure};

const CONNECTIONS: [usize; 3] = [1, 16, 64];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--floor") {
        return floor(Path::new(&arguments[at + 1]));
    }
    if let Some(at) = arguments.iter().position(|a| a == "--hold") {
        return hold(Path::new(&arguments[at + 1]));
    }
    let quick = arguments.iter().any(|a| a == "--quick");
    let json = arguments.iter().any(|a| a == "--json");
    let seconds = if quick { 1.5 } else { 5.0 };
    let dir = tempfile::Builder::new().prefix("claviger-bench").tempdir().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
    let floor = start(Command::new(&arguments[0]).arg("--floor").arg(dir.path()), &dir.path().join("floor.sock"));
    let daemon = daemon(dir.path());
    let tcp = fs::read_to_string(dir.path().join("floor.port")).expect("the floor server wrote its port");
    let socket = dir.path().join("workload.sock");
    let (lease, body) = lease(&socket);
    let read = format!("GET /v1/leases/{lease}/secret HTTP/1.1\r\nhost: x\r\n\r\n");
    let issue = post("/v1/leases", r#"{"secret":"bench/confidential"}"#);
    let floor_at = format!("unix:{}", dir.path().join("floor.sock").display());
    let daemon_at = format!("unix:{}", socket.display());
    let idle = memory(daemon.0.id());
    let mut rows = Vec::new();
    let only: Option<String> = option(&arguments, "--only");
    let connections = option(&arguments, "--connections").map_or(CONNECTIONS.to_vec(), |n: usize| vec![n]);
    let seconds = option(&arguments, "--seconds").unwrap_or(seconds);
    for connections in connections {
        // The floor answers as many bytes as a re-read does.
        let plain = format!("GET /{body} HTTP/1.1\r\nhost: x\r\n\r\n");
        let targets = [
            target("floor, unix", &floor_at, &plain, floor.0.id()),
            target("floor, tcp", &format!("tcp:{tcp}"), &plain, floor.0.id()),
            target("re-read", &daemon_at, &read, daemon.0.id()),
            target("issue (local)", &daemon_at, &issue, daemon.0.id()),
            Target { clients: Clients::Blocking, ..target("floor, blocking", &floor_at, &plain, floor.0.id()) },
            Target { clients: Clients::Blocking, ..target("re-read, blocking", &daemon_at, &read, daemon.0.id()) },
        ];
        let wanted =
            |target: &Target| only.as_ref().is_none_or(|only| target.name.contains(only.as_str()) || target.name.starts_with("floor"));
        let targets: Vec<Target> = targets.into_iter().filter(wanted).collect();
        rows.extend(measure(&targets, connections, seconds));
    }
    let deaths = deaths(&arguments[0], dir.path(), if quick { 20 } else { 100 });
    let rate = |name: &str, connections| rows.iter().find(|r| r.name == name && r.connections == connections).map_or(0.0, |r| r.rate);
    let bundle = status(dir.path());
    if json {
        let p50 = |name: &str| rows.iter().find(|r| r.name == name && r.connections == 1).map_or(0.0, |r| r.p50);
        println!(
            "{}",
            serde_json::json!({
                "reread_ratio_16": rate("re-read", 16) / rate("floor, unix", 16),
                "reread_p50_over_floor_us": p50("re-read") - p50("floor, unix"),
                "issue_per_s_64": rate("issue (local)", 64),
                "exit_to_end_p50_ms": percentile(&deaths, 0.5), "exit_to_end_p99_ms": percentile(&deaths, 0.99),
                "rss_idle_mib": idle as f64 / 1024.0, "bundle": bundle,
            })
        );
        return;
    }
    println!("secret: bench/confidential (confidential, local)   bundle {bundle}");
    println!("limits of this run: 1000 connections and 1000000 requests a second for one uid, audit budget 64 GiB an hour\n");
    println!(
        "{:<16}{:>12}{:>12}{:>10}{:>10}{:>14}{:>10}",
        "what", "connections", "requests/s", "p50 us", "p99 us", "CPU us/req", "of floor"
    );
    for row in &rows {
        let ratio = row.rate / rate("floor, unix", row.connections);
        println!(
            "{:<16}{:>12}{:>12.0}{:>10.0}{:>10.0}{:>14.1}{:>10.2}",
            row.name, row.connections, row.rate, row.p50, row.p99, row.cpu, ratio
        );
    }
    println!(
        "\nholder killed to lease ended: p50 {:.2} ms, p99 {:.2} ms of {}",
        percentile(&deaths, 0.5),
        percentile(&deaths, 0.99),
        deaths.len()
    );
    println!("memory idle: {:.1} MiB, after the run: {:.1} MiB", idle as f64 / 1024.0, memory(daemon.0.id()) as f64 / 1024.0);
}

fn target(name: &str, at: &str, request: &str, server: u32) -> Target {
    Target { name: name.to_owned(), at: at.to_owned(), requests: vec![request.to_owned()], server, fresh: false, clients: Clients::Events }
}

/// What stands behind an option.
fn option<T: std::str::FromStr>(arguments: &[String], name: &str) -> Option<T> {
    arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)?.parse().ok())
}

/// A child that ends with this program.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, socket: &Path) -> Guard {
    let child = Guard(command.spawn().expect("a server starts"));
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(socket).is_err() {
        assert!(Instant::now() < until, "{} does not answer", socket.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// A bare hyper server on a Unix socket and on loopback TCP; `GET /N` answers N bytes.
fn floor(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        fs::write(dir.join("floor.port"), tcp.local_addr().expect("its address").to_string()).expect("own folder");
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(answer(TokioIo::new(stream)));
            }
        });
        let unix = tokio::net::UnixListener::bind(dir.join("floor.sock")).expect("own folder");
        while let Ok((stream, _)) = unix.accept().await {
            tokio::spawn(answer(TokioIo::new(stream)));
        }
    });
}

async fn answer<S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(stream: S) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        let bytes = request.uri().path()[1..].parse().unwrap_or(0);
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; bytes]))))
    });
    let _ = http1::Builder::new().serve_connection(stream, service).await;
}

fn daemon(dir: &Path) -> Guard {
    for folder in ["policy.d", "secrets.d", "identities.d", "audit"] {
        fs::create_dir(dir.join(folder)).expect("own folder");
    }
    let me = std::env::current_exe().expect("own path").canonicalize().expect("own path");
    let uid = std::os::unix::fs::MetadataExt::uid(&fs::metadata(dir).expect("own folder"));
    let d = dir.display();
    let config = format!(
        "[sockets]\nworkload = \"{d}/workload.sock\"\noperator = \"{d}/operator.sock\"\n[paths]\nstate = \"{d}/state\"\naudit = \"{d}/audit\"\n\
         policy = \"{d}/policy.d\"\nsecrets = \"{d}/secrets.d\"\nidentities = \"{d}/identities.d\"\n[local]\nkey_file = \"{d}/key\"\n\
         [limits]\nconnections = 1000\nconnections_per_second = 1000\nrequests_per_second = 1000000\n\
         [leases]\nper_identity = 100000000\n[audit]\nanchors = []\nhourly_bytes_per_identity = 68719476736\n"
    );
    fs::write(dir.join("clavigerd.toml"), config).expect("own folder");
    fs::write(dir.join("key"), [7u8; 32]).expect("own folder");
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o400)).expect("own file");
    fs::write(dir.join("policy.d/00-baseline.cedar"), claviger::policy::BASELINE).expect("own folder");
    let expires = claviger::model::WallTime(now_micros() + 30 * 86_400_000_000).rfc3339();
    let expires = &expires[..10];
    let grant = format!(
        "@id(\"grant.bench\") @owner(\"bench\") @purpose(\"bench\") @expires(\"{expires}\") @ticket(\"bench:1\") @lasting(\"yes\")\n\
         permit (principal == Claviger::Workload::\"bench\", action == Claviger::Action::\"deliver\", resource in Claviger::Folder::\"bench\");\n"
    );
    fs::write(dir.join("policy.d/10-bench.cedar"), grant).expect("own folder");
    let secret = "[[secret]]\nname = \"bench/confidential\"\nengine = \"local\"\nowner = \"bench\"\nsensitivity = \"confidential\"\n\
                  environment = \"bench\"\npurposes = [\"bench\"]\noperation = \"read\"\nttl = { max = \"1h\" }\nreads_max = 1000000000\ndescription = \"for measuring\"\n";
    fs::write(dir.join("secrets.d/bench.toml"), secret).expect("own folder");
    let identity = format!(
        "[[identity]]\nname = \"bench\"\nkind = \"workload\"\nowner = \"bench\"\nenvironment = \"bench\"\npurposes = [\"bench\"]\n\
         max_sensitivity = \"confidential\"\nexpires = \"{expires}\"\nselectors = [\"unix:uid:{uid}\", \"unix:path:{}\"]\n\
         [[identity.use]]\nsecret = \"bench/confidential\"\npurpose = \"bench\"\n",
        me.display()
    );
    fs::write(dir.join("identities.d/bench.toml"), identity).expect("own folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
    command.arg("--config").arg(dir.join("clavigerd.toml")).env("CLAVIGER_LOG", "warn").stdin(Stdio::null());
    let daemon = start(&mut command, &dir.join("operator.sock"));
    let value = "p".repeat(40);
    let mut put = UnixStream::connect(dir.join("operator.sock")).expect("the operator socket");
    let request = format!("PUT /v1/secrets/local/bench/confidential HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{value}", value.len());
    put.write_all(request.as_bytes()).expect("the operator socket");
    let (code, _) = reply(&mut put);
    assert_eq!(code, 201, "putting the value");
    daemon
}

fn now_micros() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A lease to read again, and the bytes of such an answer.
fn lease(socket: &Path) -> (String, usize) {
    let mut stream = UnixStream::connect(socket).expect("the workload socket");
    stream.write_all(post("/v1/leases", r#"{"secret":"bench/confidential"}"#).as_bytes()).expect("the workload socket");
    let (code, body) = reply(&mut stream);
    let text = String::from_utf8_lossy(&body);
    assert_eq!(code, 201, "{text}");
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    (answer["lease"]["id"].as_str().expect("an id").to_owned(), body.len())
}

fn reply(stream: &mut impl Read) -> (u16, Vec<u8>) {
    let mut reader = BufReader::with_capacity(16 << 10, stream);
    let (mut code, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).expect("an answer");
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            code = rest[..3].parse().expect("a status");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (code, body)
}

/// Resident KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Takes a lease, says so, and waits to be killed.
fn hold(socket: &Path) {
    let mut stream = UnixStream::connect(socket).expect("the workload socket");
    stream.write_all(post("/v1/leases", r#"{"secret":"bench/confidential"}"#).as_bytes()).expect("the workload socket");
    let (_, body) = reply(&mut stream);
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    println!("{}", answer["lease"]["id"].as_str().expect("an id"));
    std::thread::sleep(Duration::from_secs(600));
}

/// Milliseconds from the kill of a holder to the end of its lease in the daemon's books, as the record says it.
fn deaths(me: &str, dir: &Path, rounds: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for _ in 0..rounds {
        let mut command = Command::new(me);
        command.arg("--hold").arg(dir.join("workload.sock")).stdout(Stdio::piped()).process_group(0);
        let mut child = Guard(command.spawn().expect("a holder starts"));
        let mut lease = String::new();
        BufReader::new(child.0.stdout.take().expect("its output")).read_line(&mut lease).expect("its lease");
        let killed = now_micros();
        child.0.kill().expect("own child");
        out.push((ended(dir, lease.trim()) - killed as f64) / 1000.0);
    }
    out.sort_by(f64::total_cmp);
    out
}

fn ended(dir: &Path, lease: &str) -> f64 {
    loop {
        for entry in fs::read_dir(dir.join("audit")).expect("own folder").flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let found = text.lines().rev().take(200).find(|line| line.contains(lease) && line.contains("\"kind\":\"end\""));
            if let Some(record) = found.and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
                let time = record["ended"]["ended"].as_str().and_then(claviger::model::WallTime::parse).expect("a time");
                return time.0 as f64;
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn percentile(sorted: &[f64], q: f64) -> f64 {
    sorted.get(((sorted.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(f64::NAN)
}

fn status(dir: &Path) -> String {
    let mut stream = UnixStream::connect(dir.join("operator.sock")).expect("the operator socket");
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n").expect("the operator socket");
    let answer: serde_json::Value = serde_json::from_slice(&reply(&mut stream).1).expect("JSON");
    answer["bundle"].as_str().unwrap_or_default().to_owned()
}
