//! The daemon with the `github-app` engine, against a stand-in: there is no GitHub that could be run here.

use super::{host::*, leaks::Needles, residue::look, stand_in::StandIn};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use claviger::digest::sha256;
use serde_json::json;
use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

/// A key as GitHub gives it, with one of its primes.
pub(super) fn app_key() -> (String, Vec<u8>) {
    let openssl = |arguments: &[&str], input: &str| {
        let command = format!("printf %s \"$0\" | openssl {}", arguments.join(" "));
        let output = Command::new("sh").args(["-c", &command, input]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let key = openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "");
    let pem = openssl(&["rsa", "-traditional"], &key);
    let text = openssl(&["rsa", "-noout", "-text"], &key);
    let prime = text.split("prime1:").nth(1).and_then(|rest| rest.split("prime2:").next()).unwrap();
    let digits: String = prime.chars().filter(char::is_ascii_hexdigit).collect();
    // A leading zero byte keeps the number positive.
    (pem, hex::decode(&digits[2..]).unwrap())
}

/// The tokens that live at a stand-in.
pub(super) type Alive = Arc<Mutex<BTreeSet<String>>>;

/// One that gives what it is asked for, says so, and knows its tokens until they are ended.
pub(super) async fn stand_in() -> (StandIn, Alive) {
    let alive = Alive::default();
    let (shared, count) = (alive.clone(), AtomicU64::new(0));
    let server = StandIn::start(move |request| {
        let mut alive = shared.lock().unwrap();
        let bearer = request.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
        if request.method == "DELETE" {
            return if alive.remove(&bearer) { (204, String::new()) } else { (401, r#"{"message":"Bad credentials"}"#.to_owned()) };
        }
        let asked: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let names = asked["repositories"].as_array().unwrap().iter().map(|name| json!({"name": name}));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let made = count.fetch_add(1, Ordering::SeqCst).to_be_bytes();
        let token = format!("ghs_{}", hex::encode(sha256(&[b"token of a stand-in", &made])));
        alive.insert(token.clone());
        let dies = claviger::model::WallTime((now + 3600) * 1_000_000).rfc3339();
        let mut permissions = asked["permissions"].clone();
        permissions["metadata"] = json!("read");
        let reply = json!({"token": token, "expires_at": dies, "permissions": permissions, "repository_selection": "selected",
                           "repositories": names.collect::<Vec<_>>()});
        (201, reply.to_string())
    })
    .await;
    (server, alive)
}

/// A daemon that is an app there, and not started; and a prime of the app's key.
pub fn host(server: &StandIn) -> (Host, String, Vec<u8>) {
    let row = secret("ci/source", "internal", "settings = { repositories = [\"shop\"], permissions = { contents = \"write\" } }");
    let host = Host::prepare(Setup {
        config: format!(
            "[[engine]]\nkind = \"github-app\"\nname = \"github\"\napp = \"1\"\ninstallation = 4711\nkey_file = \"$DIR/app.pem\"\n\
             api = \"http://127.0.0.1:{}\"\nplain_loopback = true\n",
            server.port
        ),
        identities: identity("ci", VICTIM, &declared("ci/source")),
        secrets: row.replace("engine = \"local\"", "engine = \"github\""),
        policy: grant("ci", "ci/source"),
        ..Setup::default()
    });
    let (pem, prime) = app_key();
    host.write("app.pem", &pem);
    std::fs::set_permissions(host.path("app.pem"), std::fs::Permissions::from_mode(0o400)).unwrap();
    (host, pem, prime)
}

/// Tokens live, the key signs and goes: neither is found in the daemon's memory afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_tokens_nor_the_key_are_left_in_memory() {
    if !is_root() {
        return;
    }
    let (server, alive) = stand_in().await;
    let (mut host, pem, prime) = host(&server);
    host.launch();
    let mut needles = Needles::default();
    needles.add("a prime of the key", &prime);
    needles.add("a prime of the key, as numbers lie in memory", &prime.iter().rev().copied().collect::<Vec<u8>>());
    let der = STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap();
    needles.add("the key", &der);
    let mut holder = host.hold(VICTIM, "ci", &["hold", r#"{"secret":"ci/source"}"#]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "upstream");
    let mut call = |line: String| {
        holder.say(&format!("call {line}"));
        let answer = holder.line();
        assert!(answer["status"].as_u64().is_some_and(|status| status < 300), "{line}: {answer}");
        answer["body"].clone()
    };
    for _ in 0..20 {
        let issued = call(r#"POST /v1/leases {"secret":"ci/source","purpose":"testing"}"#.to_owned());
        needles.add("a token", issued["secret"]["value"].as_str().unwrap().as_bytes());
        let id = issued["lease"]["id"].as_str().unwrap();
        assert_eq!(call(format!("GET /v1/leases/{id}/secret"))["secret"], issued["secret"]);
        call(format!("DELETE /v1/leases/{id}"));
    }
    assert_eq!(alive.lock().unwrap().len(), 1, "the holder's");
    // A connection's buffers hold what passed last; it is closed when nobody has called for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut control = Needles::default();
    control.add("the control", b"grant.ci.ci.source");
    let memory = look(host.pid(), &needles);
    assert!(!look(host.pid(), &control).found.is_empty() && memory.read > 10 << 20, "whoever looks sees what is there");
    assert!(memory.found.is_empty(), "{:#?}", memory.found);
    holder.kill();
    host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    assert!(alive.lock().unwrap().is_empty());
}
