//! Proxies that somebody's environment names: sources are called directly all the same, so that no such line sends credentials elsewhere.

use super::{host::*, outage::authorization_server, stand_in::counted_port};
use std::sync::atomic::Ordering;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_in_the_environment_is_told_nothing() {
    if !is_root() {
        return;
    }
    let (proxy, reached) = counted_port().await;
    let (_server, mut host, alive) = authorization_server().await;
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        for name in [name.to_owned(), name.to_lowercase()] {
            host.environment.push((name, format!("http://127.0.0.1:{proxy}")));
        }
    }
    host.launch();
    let environment = std::fs::read(format!("/proc/{}/environ", host.pid())).unwrap();
    assert!(String::from_utf8_lossy(&environment).contains("https_proxy="), "the daemon has it");
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"api/orders"}"#]);
    assert_eq!((holder.first["status"].as_u64(), alive.lock().unwrap().len()), (Some(201), 1), "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    holder.kill();
    assert_eq!(host.end_of(&lease)["ended"]["result"], "revoked");
    assert!(alive.lock().unwrap().is_empty());
    assert_eq!(reached.load(Ordering::SeqCst), 0, "somebody asked the proxy");
    // Whoever comes there is counted.
    std::net::TcpStream::connect(("127.0.0.1", proxy)).unwrap();
    while reached.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
