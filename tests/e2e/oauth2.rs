//! A service whose token comes from a real authorization server: it works, it dies with its holder, and a daemon that is killed at any step
//! forgets none.

use super::{
    host::*,
    leaks::Needles,
    oauth_server::{AuthorizationServer, CLIENT_SECRET},
    residue::look,
};
use serde_json::json;
use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

const ASK: &str = r#"{"secret":"api/orders"}"#;

/// A daemon that is a client of this server.
fn host(server: &AuthorizationServer) -> Host {
    let at = server.issuer();
    let row = secret("api/orders", "internal", "settings = { scope = [\"orders.read\"], resource = [\"https://orders.example.com/\"] }");
    let host = Host::prepare(Setup {
        config: format!(
            "[[engine]]\nkind = \"oauth2\"\nname = \"login\"\nclient_id = \"basic\"\nmax_ttl = \"1h\"\nca_file = \"$DIR/login-ca.pem\"\n\
             token_endpoint = \"{at}/token\"\nrevocation_endpoint = \"{at}/token/revocation\"\nintrospection_endpoint = \"{at}/token/introspection\"\n\
             authenticate = {{ method = \"client_secret_basic\", secret_file = \"$DIR/client-secret\" }}\n"
        ),
        identities: identity("orders", VICTIM, &declared("api/orders")),
        secrets: row.replace("engine = \"local\"", "engine = \"login\""),
        policy: grant("orders", "api/orders"),
        ..Setup::default()
    });
    host.write("login-ca.pem", &server.ca_pem);
    host.write("client-secret", CLIENT_SECRET);
    std::fs::set_permissions(host.path("client-secret"), std::fs::Permissions::from_mode(0o400)).unwrap();
    host
}

async fn server() -> Option<AuthorizationServer> {
    if is_root() { AuthorizationServer::start("https://host.example.com", &json!({"keys": []})).await } else { None }
}

fn notes(host: &Host) -> usize {
    std::fs::read_dir(host.dir.join("state/oauth2-login")).unwrap().count()
}

/// All text below a folder.
fn contents(folder: &Path) -> String {
    let mut out = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path().is_dir() {
            true => out += &contents(&entry.path()),
            false => out += &String::from_utf8_lossy(&std::fs::read(entry.path()).unwrap_or_default()),
        }
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_works_until_its_holder_dies() {
    let Some(server) = server().await else { return };
    let mut host = host(&server);
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "upstream");
    let (value, lease) = (holder.first["body"]["secret"]["value"].as_str().unwrap().to_owned(), holder.lease());
    let known = server.introspect(&value).await;
    assert_eq!((&known["active"], &known["scope"], &known["client_id"]), (&json!(true), &json!("orders.read"), &json!("basic")));
    // The record can tell the token from others, and nobody can make it of what is written.
    let issue = host.records_of("issue").pop().unwrap();
    assert!(issue["credential"]["hashed_token"].is_string() && issue["credential"]["sealed"].is_null(), "{issue}");
    for folder in ["state", "audit"] {
        assert!(!contents(&host.dir.join(folder)).contains(&value), "{folder}");
    }
    assert!(!host.log().contains(&value) && notes(&host) == 1);
    // It outlives a daemon.
    host.stop(true);
    host.launch();
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"].as_str(), Some(value.as_str()));
    assert_eq!(server.alive().await, std::slice::from_ref(&value), "a start ends nothing that is held");
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("revoked")));
    assert!(server.introspect(&value).await["active"] == false && server.alive().await.is_empty() && notes(&host) == 0);
}

/// Needs the build with failpoints: `tests/mutations` runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_the_call_and_its_commit_it_forgets_nothing() {
    if std::env::var_os("CLAVIGER_TEST_FAILPOINTS").is_none() {
        return;
    }
    let Some(server) = server().await else { return };
    let mut host = host(&server);
    for point in ["before-issue", "bearer-made", "after-issue", "after-record", "ending-noted", "after-source-told", "bearer-noted"] {
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("{point}:1"))];
        host.launch();
        let mut holder = Actor::of(host.actor(VICTIM, "orders", &["hold", ASK]));
        holder.kill();
        host.wait_until(Duration::from_secs(10), point, |host| !host.is_running());
        host.stop(true);
        host.environment.clear();
        host.launch();
        match point {
            // It died before it called, which it cannot know: the lease is owed until a token would be over.
            "bearer-noted" => {
                host.wait_until(Duration::from_secs(20), "the end is tried", |host| host.log().contains("dead for certain at"));
                assert_eq!(notes(&host), 1);
            }
            _ => {
                host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty() && notes(host) == 0);
            }
        }
        assert!(server.alive().await.is_empty(), "{point}: {:?}\n{}", server.alive().await, host.log());
        host.stop(false);
    }
}

/// The client's secret and tokens pass through the daemon many times, and rest where not even root looks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_from_the_server_is_left_in_memory() {
    let Some(server) = server().await else { return };
    let mut host = host(&server);
    host.launch();
    let mut needles = Needles::default();
    needles.add("the client's secret", CLIENT_SECRET.as_bytes());
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let mut call = |line: String| {
        holder.say(&format!("call {line}"));
        let answer = holder.line();
        assert!(answer["status"].as_u64().is_some_and(|status| status < 300), "{line}: {answer}");
        answer["body"].clone()
    };
    for _ in 0..20 {
        let issued = call(r#"POST /v1/leases {"secret":"api/orders","purpose":"testing"}"#.to_owned());
        needles.add("a token", issued["secret"]["value"].as_str().unwrap().as_bytes());
        let id = issued["lease"]["id"].as_str().unwrap();
        assert_eq!(call(format!("GET /v1/leases/{id}/secret"))["secret"], issued["secret"]);
        call(format!("DELETE /v1/leases/{id}"));
    }
    // A connection's buffers hold what passed last; it is closed when nobody has called for a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut control = Needles::default();
    control.add("the control", b"grant.orders.api.orders");
    let memory = look(host.pid(), &needles);
    assert!(!look(host.pid(), &control).found.is_empty() && memory.read > 10 << 20, "whoever looks sees what is there");
    assert!(memory.found.is_empty(), "{:#?}", memory.found);
    drop(holder);
    host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    assert!(server.alive().await.is_empty() && notes(&host) == 0);
}
