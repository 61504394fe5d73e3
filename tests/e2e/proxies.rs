//! Proxies that somebody's environment names: sources are called directly all the same, so that no such line sends credentials elsewhere.

use super::{host::*, openbao::logging_in, openbao_server::OpenBao, outage::authorization_server, stand_in::counted_port};
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Starts the daemon with every name that programs look for a proxy under.
fn launch(host: &mut Host, proxy: u16) {
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        for name in [name.to_owned(), name.to_lowercase()] {
            host.environment.push((name, format!("http://127.0.0.1:{proxy}")));
        }
    }
    host.launch();
    let environment = std::fs::read(format!("/proc/{}/environ", host.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("https_proxy="), "the daemon has it");
}

/// Nobody came, and whoever comes is counted.
async fn was_not_asked(proxy: u16, reached: &AtomicUsize) {
    assert_eq!(reached.load(Ordering::SeqCst), 0, "somebody asked the proxy");
    std::net::TcpStream::connect(("127.0.0.1", proxy)).unwrap();
    while reached.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_the_environment_is_told_nothing() {
    if !is_root() {
        return;
    }
    let (proxy, reached) = counted_port().await;
    let (_server, mut host, alive) = authorization_server().await;
    launch(&mut host, proxy);
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"api/orders"}"#]);
    assert_eq!((holder.first["status"].as_u64(), alive.lock().unwrap().len()), (Some(201), 1), "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    holder.kill();
    assert_eq!(host.end_of(&lease)["ended"]["result"], "revoked");
    assert!(alive.lock().unwrap().is_empty());
    was_not_asked(proxy, &reached).await;
}

/// The same of a source behind TLS, by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_is_it_asked_to_reach_a_source_behind_tls() {
    if !is_root() {
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"password": "first"}})).await;
    let settings = "settings = { kv = \"secret/app/db\", field = \"password\" }";
    let setup = Setup {
        identities: identity("orders", VICTIM, &declared("app/db")),
        secrets: secret("app/db", "internal", settings).replace("engine = \"local\"", "engine = \"bao\""),
        policy: grant("orders", "app/db"),
        ..Setup::default()
    };
    let (proxy, reached) = counted_port().await;
    let mut host = logging_in(&server, setup).await;
    launch(&mut host, proxy);
    let holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/db"}"#]);
    assert_eq!(holder.first["body"]["secret"]["value"], "first", "{}\n{}", holder.first, host.log());
    was_not_asked(proxy, &reached).await;
}
