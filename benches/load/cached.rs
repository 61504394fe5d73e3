//! Values of OpenBao that are kept here, read again and again, beside `bao proxy` with its cache for the same secrets.

use super::{
    issues,
    openbao::{OpenBao, find_program},
    postgres::Postgres,
    stage::{self, Guard, post, reply},
    traffic::{Clients, Row, Target, measure},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub const CONNECTIONS: usize = 16;

/// Answers a second on [`CONNECTIONS`] connections.
pub struct Reads {
    /// A value of the KV store. `bao proxy` keeps none of these: it asks the server each time.
    pub kv: Beside,
    /// A login of a database, which `bao proxy` keeps.
    pub leased: Beside,
}

/// The same secret read in three ways.
pub struct Beside {
    /// Through Vault's API at the workload socket, as the same client would ask `bao proxy`.
    pub vault: Row,
    /// A live lease, by our own API.
    pub reread: Row,
    /// `bao proxy`, on a Unix socket.
    pub proxy: Row,
}

/// Takes turns, so many seconds each; `None` without one of the servers.
pub fn measure_all(seconds: f64) -> Option<Reads> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let (cluster, server) = (runtime.block_on(Postgres::start_for(100))?, runtime.block_on(OpenBao::start())?);
    let stage = issues::openbao_stage(&runtime, &cluster, &server);
    let token = runtime.block_on(server.put("auth/token/create", json!({"policies": ["app"], "ttl": "1h"})));
    let folder = stage::folder();
    let proxy = proxy(folder.path(), &server, token["auth"]["client_token"].as_str().expect("a token"));
    let daemon = format!("unix:{}", stage.workload().display());
    let theirs = format!("unix:{}", folder.path().join("proxy.sock").display());
    let mut stream = UnixStream::connect(stage.workload()).expect("the workload socket");
    let mut reads = |theirs_path: &str, ours_path: &str, secret: &str| {
        stream
            .write_all(post("/v1/leases", &format!(r#"{{"secret":"{secret}","purpose":"bench"}}"#)).as_bytes())
            .expect("the workload socket");
        let (code, body) = reply(&mut stream);
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        assert_eq!(code, 201, "{answer}");
        let lease = answer["lease"]["id"].as_str().expect("an id").to_owned();
        let get = |path: &str| [format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")];
        // A thread for each connection, as so many small programs would be.
        let target =
            |name: &str, at: &str, path: &str, pid| Target { clients: Clients::Blocking, ..super::target(name, at, &get(path), pid) };
        let targets: [Target; 3] = [
            target("ours, Vault's API", &daemon, ours_path, stage.pid()),
            target("ours, re-read", &daemon, &format!("/v1/leases/{lease}/secret"), stage.pid()),
            target("bao proxy", &theirs, theirs_path, proxy.0.id()),
        ];
        // The first of each fills what is kept.
        for each in &targets {
            let mut stream = UnixStream::connect(each.at.trim_start_matches("unix:")).expect("a Unix socket");
            stream.write_all(each.requests[0].as_bytes()).expect("a Unix socket");
            let (code, body) = reply(&mut stream);
            assert_eq!(code, 200, "{}: {}", each.name, String::from_utf8_lossy(&body));
        }
        let mut rows = measure(&targets, CONNECTIONS, seconds).into_iter();
        let mut next = || rows.next().expect("one for each");
        Beside { vault: next(), reread: next(), proxy: next() }
    };
    let kv = reads("/v1/secret/data/app/db", "/v1/secret/data/bench/kv", "bench/kv");
    let leased = reads("/v1/database/creds/long", "/v1/creds/bench/login", "bench/login");
    Some(Reads { kv, leased })
}

/// OpenBao's proxy in front of the same server, with a token of its own and its cache.
fn proxy(dir: &Path, server: &OpenBao, token: &str) -> Guard {
    let at = dir.display();
    let config = format!(
        "vault {{\n  address = \"https://localhost:{}\"\n  ca_cert = \"{at}/ca.pem\"\n}}\n\
         auto_auth {{\n  method \"token_file\" {{\n    config = {{ token_file_path = \"{at}/token\" }}\n  }}\n}}\n\
         api_proxy {{\n  use_auto_auth_token = true\n}}\ncache {{\n}}\n\
         listener \"unix\" {{\n  address = \"{at}/proxy.sock\"\n  tls_disable = true\n}}\n",
        server.port
    );
    for (name, text) in [("proxy.hcl", config.as_str()), ("ca.pem", &server.ca_pem), ("token", token)] {
        fs::write(dir.join(name), text).expect("own folder");
    }
    let log = fs::File::create(dir.join("proxy.log")).expect("own folder");
    let mut command = Command::new(find_program().expect("the server runs"));
    command.arg("proxy").arg(format!("-config={at}/proxy.hcl")).env_clear().env("HOME", dir).env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a file")).stderr(log);
    let child = Guard(command.spawn().expect("bao proxy starts"));
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(dir.join("proxy.sock")).is_err() {
        assert!(Instant::now() < until, "bao proxy does not answer: {}", fs::read_to_string(dir.join("proxy.log")).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

/// One line for each.
pub fn print(reads: &Reads) {
    for (what, Beside { vault, reread, proxy }) in
        [("a value of OpenBao's KV store", &reads.kv), ("a database login by OpenBao", &reads.leased)]
    {
        println!("{what}, read again on {CONNECTIONS} connections, answers a second (and the server's CPU time for each):");
        for (who, row) in [("claviger, by Vault's API", vault), ("claviger, by its own", reread), ("bao proxy", proxy)] {
            println!("    {who:<28}{:>9.0}{:>9.1} us{:>9.1} times bao proxy", row.rate, row.cpu, row.rate / proxy.rate);
        }
    }
}

/// Members of the JSON.
pub fn members(reads: &Reads) -> impl Iterator<Item = (String, Value)> + '_ {
    [("cached_kv", &reads.kv), ("cached_leased", &reads.leased)].into_iter().flat_map(|(key, Beside { vault, reread, proxy })| {
        [
            (format!("{key}_per_s"), json!(vault.rate)),
            (format!("{key}_reread_per_s"), json!(reread.rate)),
            (format!("{key}_bao_proxy_per_s"), json!(proxy.rate)),
            (format!("{key}_ratio"), json!(vault.rate / proxy.rate)),
            (format!("{key}_reread_ratio"), json!(reread.rate / proxy.rate)),
            (format!("{key}_cpu_us"), json!(vault.cpu)),
            (format!("{key}_bao_proxy_cpu_us"), json!(proxy.cpu)),
        ]
    })
}
