//! A service whose database login comes from a real OpenBao: it works, it dies with its holder, and neither `kill -9` of the daemon nor an
//! outage of OpenBao leaves anything behind.

use super::{
    host::*,
    leaks::Needles,
    openbao_server::OpenBao,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
    residue::look,
};
use claviger::outbound::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, path::Path, time::Duration};

const ASK: &str = r#"{"secret":"db/orders"}"#;
const ASK_KV: &str = r#"{"secret":"app/db"}"#;

fn row(name: &str, settings: &str) -> String {
    secret(name, "internal", &format!("settings = {{ {settings} }}")).replace("engine = \"local\"", "engine = \"bao\"")
}

/// A daemon that logs in to this server by AppRole.
async fn host(server: &OpenBao, cluster: &Postgres, two: bool) -> Host {
    host_in(server, "", cluster, two).await
}

/// The same in a namespace (`NAME/`).
async fn host_in(server: &OpenBao, space: &str, cluster: &Postgres, two: bool) -> Host {
    server.prepare_in(space).await;
    server.with_database_in(space, cluster.port, (BROKER, BROKER_PASSWORD)).await;
    server.put(&format!("{space}secret/data/app/db"), json!({"data": {"user": "u", "password": "first value"}})).await;
    let setup = Setup {
        identities: identity("orders", VICTIM, &(declared("db/orders") + &declared("app/db"))),
        secrets: row("db/orders", "read = \"database/creds/ro\", field = \"password\", attributes = [\"username\"]")
            + &row("app/db", "kv = \"secret/app/db\", field = \"password\", attributes = [\"user\"]"),
        policy: grant("orders", "db/orders") + &grant("orders", "app/db"),
        two,
        ..Setup::default()
    };
    logging_in_at(server, space, setup).await
}

/// A daemon that gives one program a value of a server that is prepared here.
pub async fn giving_a_value(server: &OpenBao, program: &str) -> Host {
    server.prepare().await;
    server.put("secret/data/app/one", json!({"data": {"value": "one"}})).await;
    let setup = Setup {
        identities: identity(program, VICTIM, &declared("app/one")),
        secrets: row("app/one", "kv = \"secret/app/one\", field = \"value\""),
        policy: grant(program, "app/one"),
        ..Setup::default()
    };
    logging_in(server, setup).await
}

/// The same with an engine `bao` that logs in there; the server is prepared.
pub async fn logging_in(server: &OpenBao, setup: Setup) -> Host {
    logging_in_at(server, "", setup).await
}

async fn logging_in_at(server: &OpenBao, space: &str, setup: Setup) -> Host {
    let namespace = if space.is_empty() { String::new() } else { format!("namespace = \"{space}\"\n") };
    let (role_id, secret_id) = server.approle_in(space, json!({"token_policies": "claviger", "token_ttl": "20m"})).await;
    let host = Host::prepare(Setup {
        config: format!(
            "[[engine]]\nkind = \"openbao\"\nname = \"bao\"\naddress = \"https://localhost:{}\"\nca_file = \"$DIR/bao-ca.pem\"\n\
             login = {{ method = \"approle\", role_id = \"{role_id}\", secret_id_file = \"$DIR/secret-id\" }}\n{namespace}",
            server.port
        ),
        ..setup
    });
    host.write("bao-ca.pem", &server.ca_pem);
    host.write("secret-id", &secret_id);
    std::fs::set_permissions(host.path("secret-id"), std::fs::Permissions::from_mode(0o400)).unwrap();
    host
}

async fn logs_in(cluster: &Postgres, answer: &Value) -> bool {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (user, password) = (text(&answer["body"]["attributes"]["username"]), text(&answer["body"]["secret"]["value"]));
    match cluster.connect(&user, password.as_bytes(), "app").await {
        Ok(client) => client.query_one("SELECT count(*) FROM app.orders", &[]).await.is_ok(),
        Err(_) => false,
    }
}

/// Logins that OpenBao made in the database and that let anybody in. One that it was making for a caller who went away it may leave there without
/// a lease of its own: it is over when its first minute is.
async fn roles(cluster: &Postgres) -> usize {
    let sql = "SELECT 1 FROM pg_roles WHERE starts_with(rolname::text, 'v-') AND rolvaliduntil > now()";
    cluster.superuser("app").await.query(sql, &[]).await.unwrap().len()
}

fn live(host: &Host) -> BTreeSet<String> {
    host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

/// All text below a folder.
pub(super) fn contents(folder: &Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path().is_dir() {
            true => out += &contents(&entry.path()),
            false => out += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()),
        }
    }
    out
}

/// At the root, or in a namespace (`NAME/`).
async fn lives_and_dies(two: bool, space: &str) {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    if !space.is_empty() {
        server.put(&format!("sys/namespaces/{}", space.trim_end_matches('/')), json!({})).await;
    }
    let mut host = host_in(&server, space, &cluster, two).await;
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "upstream");
    assert!(logs_in(&cluster, &holder.first).await);
    let lease = holder.lease();
    assert_eq!(server.tokens_in(space).await, std::slice::from_ref(&lease));
    // The logs of both sides meet, and neither has the value.
    let issue = host.records_of("issue").pop().unwrap();
    let digest = issue["credential"]["intent"].as_str().unwrap().to_owned();
    assert!(issue["credential"]["lease"].as_str().unwrap().starts_with("database/creds/ro/") && issue["credential"]["sealed"].is_null());
    assert!(server.audit().contains(&digest) && server.audit().contains(&lease));
    let value = holder.first["body"]["secret"]["value"].as_str().unwrap().to_owned();
    for folder in ["state", "audit"] {
        assert!(!contents(&host.dir.join(folder)).contains(&value), "{folder}");
    }
    assert!(!host.log().contains(&value) && !server.audit().contains(&value));
    // The value outlives a daemon and needs no server to be read again.
    host.stop(true);
    host.launch();
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"].as_str(), Some(value.as_str()));
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("revoked")));
    assert!(end["ended"]["dead"].is_string(), "the source proved it");
    assert_eq!(end["ended"]["proof"], json!({"by": "looked", "seen": ["lease_unknown", "token_unknown"]}));
    let receipt = host.receipt(&lease);
    assert_eq!((receipt["state"].as_str(), receipt["end"]["seq"].as_u64()), (Some("looked"), end["seq"].as_u64()));
    assert_eq!((&receipt["issue"]["seq"], receipt["intent"].as_str()), (&issue["seq"], Some(&*digest)));
    assert!(!logs_in(&cluster, &holder.first).await && roles(&cluster).await == 0 && server.tokens_in(space).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_from_openbao_works_until_its_holder_dies() {
    lives_and_dies(false, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_from_openbao_works_until_its_holder_dies_in_two_processes() {
    lives_and_dies(true, "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_from_a_namespace_works_until_its_holder_dies() {
    lives_and_dies(false, "team/").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_the_version_of_a_value_it_was_issued_with() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    host.launch();
    let mut old = host.hold(VICTIM, "orders", &["hold", ASK_KV]);
    assert_eq!(old.first["body"]["secret"]["value"], "first value", "{}\n{}", old.first, host.log());
    assert_eq!((&old.first["body"]["attributes"]["user"], &old.first["body"]["attributes"]["version"]), (&json!("u"), &json!("1")));
    assert_eq!(old.first["body"]["lease"]["ends_by"], "none");
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "second value"}})).await;
    let new = host.hold(VICTIM, "orders", &["hold", ASK_KV]);
    assert_eq!(new.first["body"]["secret"]["value"], "second value");
    // After a restart the version is fetched again.
    for restart in [false, true] {
        if restart {
            host.stop(true);
            host.launch();
        }
        old.say(&format!("call-anew GET /v1/leases/{}/secret", old.lease()));
        assert_eq!(old.line()["body"]["secret"]["value"], "first value");
    }
    let versions: Vec<u64> = host.records_of("issue").iter().map(|record| record["secret"]["version"].as_u64().unwrap()).collect();
    assert_eq!(versions, [1, 2]);
}

/// What is at OpenBao and in the database is what lives, exactly. OpenBao may keep a login for its first minute whose caller went away.
async fn agree(host: &Host, cluster: &Postgres, server: &OpenBao, what: &str) {
    let mut last = (BTreeSet::new(), BTreeSet::new(), 0);
    for _ in 0..900 {
        last = (server.tokens().await.into_iter().collect::<BTreeSet<_>>(), live(host), roles(cluster).await);
        if last.0 == last.1 && last.2 == last.1.len() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what}: tokens, leases, roles {last:?}\n{}", host.log());
}

/// Kills the daemon eight times while it issues, and lets somebody look at what is left while holders live, and when they are dead.
async fn killed_while_it_issues(host: &mut Host, mut alive: impl AsyncFnMut(&Host, u64), mut dead: impl FnMut(&mut Host)) {
    for round in 0..8 {
        let commands: Vec<_> = (0..3).map(|_| host.actor(VICTIM, "orders", &["hold", ASK])).collect();
        let killer = std::thread::spawn({
            let pid = host.pid().to_string();
            move || {
                std::thread::sleep(Duration::from_millis(60 + round * 17 % 120));
                std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
            }
        });
        let holders: Vec<Actor> = commands.into_iter().map(Actor::of).collect();
        killer.join().unwrap();
        host.stop(true);
        host.launch();
        alive(host, round).await;
        drop(holders);
        dead(host);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_issues_it_leaves_nothing_at_openbao() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    host.launch();
    let alive = async |host: &Host, round| agree(host, &cluster, &server, &format!("round {round}")).await;
    killed_while_it_issues(&mut host, alive, |host| {
        host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    })
    .await;
    agree(&host, &cluster, &server, "at the end").await;
}

/// There what was lost is looked for after minutes.
#[ignore = "takes five minutes: tests/run --long"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_issues_it_leaves_nothing_in_a_namespace() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    server.put("sys/namespaces/team", json!({})).await;
    let mut host = host_in(&server, "team/", &cluster, false).await;
    host.launch();
    let mut lost = 0;
    let alive = async |host: &Host, _| {
        let states = host.live();
        let ending = |lease: &String| states.iter().any(|row| row["id"] == lease.as_str() && row["state"] != "live");
        lost += server.tokens_in("team/").await.iter().filter(|lease| ending(lease)).count();
    };
    killed_while_it_issues(&mut host, alive, |_| {}).await;
    assert!(lost > 0, "nothing was lost, so nothing was tried");
    let began = std::time::Instant::now();
    loop {
        let left = (server.tokens_in("team/").await, roles(&cluster).await);
        if left.0.is_empty() && left.1 == 0 && host.live().is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(420), "{left:?}\n{}", host.log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let unfinished: Vec<Value> = host.records_of("end").into_iter().filter(|record| record["ended"]["reason"] == "unfinished").collect();
    assert!(unfinished.iter().any(|record| record["ended"]["result"] == "revoked"), "{unfinished:?}");
    eprintln!("{lost} lost, all over after {:?}", began.elapsed());
}

/// Needs the build with failpoints: `tests/mutations` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_call_and_its_commit_it_leaves_nothing() {
    if !is_root() || std::env::var_os("CLAVIGER_TEST_FAILPOINTS").is_none() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    for point in ["before-issue", "openbao-token-made", "after-issue", "after-record", "ending-noted", "after-source-told"] {
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("{point}:1"))];
        host.launch();
        let mut holder = Actor::of(host.actor(VICTIM, "orders", &["hold", ASK]));
        holder.kill();
        host.wait_until(Duration::from_secs(10), point, |host| !host.is_running());
        host.stop(true);
        host.environment.clear();
        // A row that is another by then spares no look at what the one before made.
        let file = host.dir.join("secrets.d/test.toml");
        let rows = std::fs::read_to_string(&file).unwrap();
        if point == "openbao-token-made" {
            let value =
                rows.replace("read = \"database/creds/ro\", field = \"password\", attributes = [\"username\"]", "kv = \"secret/app/db\"");
            assert_ne!(rows, value);
            std::fs::write(&file, value).unwrap();
        }
        host.launch();
        host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
        agree(&host, &cluster, &server, point).await;
        host.stop(false);
        std::fs::write(&file, rows).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_said_and_endings_wait_for_its_end() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(mut server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    server.stop(true);
    let refused = host.hold(VICTIM, "orders", &["hold", ASK]);
    let error = &refused.first["body"]["error"];
    assert_eq!((error["code"].as_str(), refused.first["status"].as_u64()), (Some("engine_unavailable"), Some(503)), "{}", refused.first);
    let detail = host.records().into_iter().rev().find(|record| record["code"] == "engine_unavailable").map(|record| record.to_string());
    assert!(detail.as_ref().is_some_and(|text| text.contains("bao: ") && text.contains("connecting")), "{detail:?}");
    // A value that is out is read again all the same.
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    holder.kill();
    host.wait_until(Duration::from_secs(20), "the end is tried", |host| !host.records_of("retry").is_empty());
    server.start_again().await;
    let end = host.end_of(&lease);
    assert_eq!(end["ended"]["result"], "revoked");
    assert!(end["ended"]["attempts"].as_u64().unwrap() > 1);
    agree(&host, &cluster, &server, "after the outage").await;
    // Sealed by its operators, it is up and does nothing.
    server.seal().await;
    let refused = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(refused.first["body"]["error"]["code"], "engine_unavailable", "{}", refused.first);
    server.unseal().await;
    host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    agree(&host, &cluster, &server, "after it was unsealed").await;
    // Our permission is taken away while we run, and given back.
    let empty = json!({"policy": "path \"auth/token/lookup-self\" { capabilities = [\"read\"] }"});
    server.put("sys/policies/acl/claviger", empty).await;
    let refused = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(refused.first["body"]["error"]["code"], "engine_refused", "{}", refused.first);
    let detail = host.records().into_iter().rev().find(|record| record["code"] == "engine_refused").unwrap().to_string();
    assert!(detail.contains("permission denied") && detail.contains("policy"), "{detail}");
    server.put("sys/policies/acl/claviger", json!({"policy": super::openbao_server::policy()})).await;
    let (status, _) = server.call(Method::Get, "sys/health", Value::Null).await;
    assert_eq!(status, 200);
    let again = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(again.first["status"], 201, "{}\n{}", again.first, host.log());
}

/// The secret id, values of the KV store, of leases and of tokens pass through the daemon many times, and rest where not even root looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_openbao_is_left_in_memory() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    let stored = "rsd-bao-Kx7Tq3vN-a-value-that-openbao-keeps-M2hW9cRf5";
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": stored}})).await;
    host.write("secrets.d/token.toml", &row("bao/app", "token = { policies = [\"app\"] }"));
    host.write("policy.d/60-token.cedar", &grant("orders", "bao/app"));
    host.launch();
    let mut needles = Needles::default();
    needles.add("the stored value", stored.as_bytes());
    needles.add("the secret id", &std::fs::read(host.path("secret-id")).unwrap());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK_KV]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let kept = holder.lease();
    let mut call = |line: String| {
        holder.say(&format!("call {line}"));
        let answer = holder.line();
        assert!(answer["status"].as_u64().is_some_and(|status| status < 300), "{line}: {answer}");
        answer["body"].clone()
    };
    for name in ["db/orders", "bao/app", "app/db"] {
        for _ in 0..10 {
            let issued = call(format!("POST /v1/leases {{\"secret\":\"{name}\",\"purpose\":\"testing\"}}"));
            needles.add(name, issued["secret"]["value"].as_str().unwrap().as_bytes());
            let id = issued["lease"]["id"].as_str().unwrap();
            assert_eq!(call(format!("GET /v1/leases/{id}/secret"))["secret"], issued["secret"]);
            call(format!("POST /v1/leases/{id}/renew"));
            call(format!("DELETE /v1/leases/{id}"));
        }
    }
    assert_eq!(call(format!("GET /v1/leases/{kept}/secret"))["secret"]["value"], stored);
    // A connection's buffers hold what passed last; it is closed when nobody has called for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut control = Needles::default();
    control.add("the control", b"grant.orders.db.orders");
    let memory = look(host.pid(), &needles);
    assert!(!look(host.pid(), &control).found.is_empty() && memory.read > 10 << 20, "whoever looks sees what is there");
    assert!(memory.found.is_empty(), "{:#?}", memory.found);
    drop(holder);
    host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    agree(&host, &cluster, &server, "at the end").await;
}

/// What was made before would be looked for where nobody knows of it, and be called dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_stays_in_its_namespace() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let mut host = host(&server, &cluster, false).await;
    host.launch();
    host.stop(false);
    let file = host.dir.join("clavigerd.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    for (namespace, starts) in [("team/web", false), ("rooted", false), ("root", true), ("/", true), ("", true)] {
        let line = format!("kind = \"openbao\"\nnamespace = \"{namespace}\"\n");
        std::fs::write(&file, config.replace("kind = \"openbao\"\n", &line)).unwrap();
        if starts {
            host.launch();
            host.stop(false);
            continue;
        }
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_clavigerd")).args(["--config", file.to_str().unwrap()]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("what it made is in the root namespace"), "{said}");
    }
}
