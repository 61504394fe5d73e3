//! Many who read the same at once.

use super::{host::*, openbao::giving_a_value, openbao_server::OpenBao};
use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

const READERS: usize = 1_000;

/// Each of them is attested, decided and recorded by itself, and has a lease; their source is asked once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_who_ask_at_once_are_one_call_to_the_source() {
    if !is_root() {
        return;
    }
    let Some(mut server) = OpenBao::start().await else { return };
    let mut host = giving_a_value(&server, "holders").await;
    // They take a while to come, and the source waits for all of them.
    let config = fs::read_to_string(host.path("clavigerd.toml")).unwrap();
    let limits = "[limits]\nconnections = 2000\nconnections_per_second = 100000\nrequests_per_second = 100000\n";
    let patient = config.replace("kind = \"openbao\"\n", "kind = \"openbao\"\ntimeout_seconds = 60\n");
    assert_ne!(config, patient);
    host.write("clavigerd.toml", &format!("{limits}{patient}"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/holders.c");
    assert!(Command::new("cc").args(["-O1", "-o", &host.path("bin/holders"), source]).status().unwrap().success());
    host.launch();
    let holders = |count: usize, how: &[&str]| {
        let request = "POST /v1/leases HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 20\r\n\r\n{\"secret\":\"app/one\"}";
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &host.path("bin/holders")]);
        command.args([&host.path("workload.sock"), &count.to_string(), request]).args(how);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // The daemon has logged in.
    Actor::of(holders(1, &[])).close();
    let is_call = |line: &&str| line.contains("\"type\":\"request\"") && line.contains("\"path\":\"secret/data/app/one\"");
    let calls = |server: &OpenBao| server.audit().lines().filter(is_call).count();
    let before = calls(&server);
    let crowd = holders(READERS, &["together"]);
    server.hang(true);
    let coming = std::thread::spawn(move || Actor::of(crowd));
    host.wait_until(Duration::from_secs(50), "all of them wait", |host| reserved(host) >= READERS);
    server.hang(false);
    let mut crowd = coming.join().unwrap();
    assert_eq!(crowd.first["leases"].as_array().unwrap().len(), READERS, "{}\n{}", crowd.first, host.log());
    assert!(host.records_of("issue").len() > READERS);
    assert_eq!(calls(&server) - before, 1);
    crowd.close();
}

/// Leases that are written down and wait for their source.
fn reserved(host: &Host) -> usize {
    let leases = host.operator("GET", "/v1/leases", "");
    leases["leases"].as_array().unwrap().iter().filter(|lease| lease["state"] == "reserved").count()
}
