//! Values while their server cannot be asked: a workload is given what was known and told so, also by a daemon that starts meanwhile, and
//! operators see what is kept and let go of it.

use super::{
    host::*,
    openbao::{contents, logging_in},
    openbao_server::OpenBao,
};
use claviger::outbound::Method;
use serde_json::{Value, json};
use std::{fs, path::PathBuf, process::Command, time::Duration};

const ASK: &str = r#"{"secret":"app/db"}"#;
const ASK_STRICT: &str = r#"{"secret":"app/strict"}"#;
/// Nothing else here looks like it.
const VALUE: &str = "outage-canary-77c0b1";

fn row(name: &str, more: &str) -> String {
    let settings = format!("settings = {{ kv = \"secret/app/db\", field = \"password\", attributes = [\"user\"]{more} }}");
    secret(name, "internal", &settings).replace("engine = \"local\"", "engine = \"bao\"")
}

fn rows() -> String {
    row("app/db", ", max_stale = \"4h\", offline = true") + &row("app/strict", "")
}

async fn host(server: &OpenBao) -> Host {
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": VALUE}})).await;
    let setup = Setup {
        identities: identity("orders", VICTIM, &(declared("app/db") + &declared("app/strict"))),
        secrets: rows(),
        policy: grant("orders", "app/db") + &grant("orders", "app/strict"),
        ..Setup::default()
    };
    logging_in(server, setup).await
}

fn copies(host: &Host) -> Vec<PathBuf> {
    let files = fs::read_dir(host.dir.join("state/openbao-bao")).into_iter().flatten().flatten();
    files.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "sealed")).collect()
}

fn kept(host: &Host) -> Vec<Value> {
    host.operator("GET", "/v1/cache", "")["kept"].as_array().unwrap().clone()
}

fn clav(host: &Host, arguments: &[&str]) -> String {
    let done = Command::new(env!("CARGO_BIN_EXE_clav"))
        .args(arguments)
        .env("CLAVIGER_OPERATOR_SOCKET", host.path("operator.sock"))
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// For how many seconds at most the answer was not confirmed.
fn stale(answer: &Value) -> Option<u64> {
    let attributes = &answer["body"]["attributes"];
    (attributes["stale"] == "true").then(|| attributes["age"].as_str().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_outlives_an_outage_of_its_server_and_a_start_without_it() {
    if !is_root() {
        return;
    }
    let Some(mut server) = OpenBao::start().await else { return };
    let mut host = host(&server).await;
    host.launch();
    let mut first = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!((&first.first["body"]["secret"]["value"], stale(&first.first)), (&json!(VALUE), None), "{}\n{}", first.first, host.log());
    host.wait_until(Duration::from_secs(30), "a copy is there", |host| copies(host).len() == 1);
    server.stop(true);
    let mut during = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(during.first["body"]["secret"]["value"], VALUE, "{}\n{}", during.first, host.log());
    assert!(stale(&during.first).is_some());
    let issue = host.records_of("issue").pop().unwrap();
    assert!(issue["more"]["stale"] == true && issue["more"]["age"].is_u64() && issue["credential"]["stale"].is_null(), "{issue}");
    assert!(issue["secret"]["version"] == 1 && host.records_of("issue")[0]["more"].is_null());
    // In Vault's words: a warning, and nothing in the value's own members.
    during.say("call GET /v1/secret/data/app/db");
    let vault = during.line()["body"].clone();
    assert_eq!(vault["data"]["data"], json!({"value": VALUE, "user": "u"}), "{vault}");
    assert!(
        vault["warnings"][0].as_str().unwrap().starts_with("stale: ") && vault["data"]["metadata"]["custom_metadata"]["stale"] == "true"
    );
    // Whose definition does not say so is refused.
    let strict = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK_STRICT]).remove(0);
    assert_eq!((&strict["status"], &strict["body"]["error"]["code"]), (&json!(503), &json!("engine_unavailable")));
    // Operators see what is kept, and for whom; nobody sees a value.
    let rows = kept(&host);
    let of = |name: &str| rows.iter().filter(|row| row["name"] == name).map(|row| row["place"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("app/db"), of("app/strict")), (vec!["memory", "disk"], vec!["memory"]), "{rows:?}");
    assert!(rows[0]["leases"] == 3 && rows[0]["version"] == 1 && rows[0]["engine"] == "bao" && rows[0]["confirmed"].is_string());
    assert!(rows[1]["stale"] == true && rows[2]["leases"] == 0);
    assert_eq!(host.call("workload", "GET", "/v1/cache", "").0, 404, "operators only");
    // A daemon that starts while the server is away.
    host.stop(true);
    host.launch();
    for marked in [true, false] {
        first.say(&format!("call-anew GET /v1/leases/{}/secret", first.lease()));
        let again = first.line();
        assert_eq!((&again["body"]["secret"]["value"], stale(&again).is_some()), (&json!(VALUE), marked), "{again}");
    }
    let read = host.records_of("read").pop().unwrap();
    assert!(read["more"]["stale"] == true && read["more"]["age"].is_u64(), "{read}");
    let after = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(after.first["body"]["secret"]["value"], VALUE, "{}\n{}", after.first, host.log());
    assert!(stale(&after.first).is_some());
    let strict = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK_STRICT]).remove(0);
    assert_eq!(strict["body"]["error"]["code"], "engine_unavailable");
    assert!(host.operator("GET", "/v1/metrics", "").as_str().unwrap().contains("claviger_stale_values_total 2"));
    let listed = clav(&host, &["cache", "ls"]);
    assert!(listed.contains("app/db") && listed.contains("disk") && listed.contains("only while its source is away"), "{listed}");
    for folder in ["state", "audit"] {
        assert!(!contents(&host.dir.join(folder)).contains(VALUE), "{folder}");
    }
    assert!(!host.log().contains(VALUE) && !listed.contains(VALUE));
    // Let go of, it is given to nobody, also not by the next daemon.
    assert!(clav(&host, &["cache", "evict", "app/db"]).contains("app/db: 2 copies let go of"));
    assert!(copies(&host).is_empty() && kept(&host).is_empty());
    for restart in [false, true] {
        if restart {
            host.stop(false);
            host.launch();
        }
        let refused = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
        assert_eq!(refused["body"]["error"]["code"], "engine_unavailable", "{refused}");
    }
    let acts: Vec<Value> = host.records_of("operator").into_iter().filter(|record| record["by"]["action"] == "cache-evict").collect();
    let outcomes: Vec<&str> = acts.iter().map(|act| act["outcome"].as_str().unwrap()).collect();
    assert_eq!((outcomes, &acts[0]["secret"]["name"], &acts[0]["by"]["uid"]), (vec!["asked", "done"], &json!("app/db"), &json!(0)));
    assert_eq!(host.call("operator", "DELETE", "/v1/cache/no/such", "").0, 404);
    // The server is there again: it says no to one whose value is gone, and that is believed.
    server.start_again().await;
    let fresh = || host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
    let begun = std::time::Instant::now();
    while fresh()["status"] != 201 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", host.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(server.call(Method::Put, "secret/delete/app/db", json!({"versions": [1]})).await.0, 204);
    assert_eq!(fresh()["body"]["error"]["code"], "no_value");
    assert!(copies(&host).is_empty() && kept(&host).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_ends_with_its_definition() {
    if !is_root() {
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    let mut host = host(&server).await;
    host.launch();
    for (change, left) in [(row("app/strict", ""), 0), (row("app/db", ", max_stale = \"4h\"") + &row("app/strict", ""), 0), (rows(), 1)] {
        let fresh = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
        assert_eq!(fresh["status"], 201, "{fresh}\n{}", host.log());
        host.wait_until(Duration::from_secs(30), "a copy is there", |host| copies(host).len() == 1);
        host.write("secrets.d/test.toml", &change);
        assert_eq!(host.operator("POST", "/v1/reload", "")["ok"], true);
        host.wait_until(Duration::from_secs(30), "it is as the definition says", |host| copies(host).len() == left);
        host.write("secrets.d/test.toml", &rows());
        host.operator("POST", "/v1/reload", "");
    }
    // Also while nobody was there to look.
    host.stop(false);
    host.write("secrets.d/test.toml", &row("app/strict", ""));
    host.launch();
    host.wait_until(Duration::from_secs(30), "it is gone", |host| copies(host).is_empty());
    // And with its engine.
    let folder = host.dir.join("state/openbao-bao");
    fs::write(folder.join("0123.sealed"), "x").unwrap();
    host.stop(false);
    let config = fs::read_to_string(host.path("clavigerd.toml")).unwrap();
    host.write("clavigerd.toml", &config.replace("name = \"bao\"", "name = \"other\""));
    host.write("secrets.d/test.toml", &rows().replace("engine = \"bao\"", "engine = \"other\""));
    host.launch();
    assert!(!folder.exists(), "{}", host.log());
}
