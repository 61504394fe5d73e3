//! A source that is too busy says for how long, and the workload hears it.

use super::{host::*, openbao::giving_a_value, openbao_server::OpenBao};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sources_wait_is_kept_to_and_told() {
    if !is_root() {
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    let mut host = giving_a_value(&server, "orders").await;
    host.launch();
    // OpenBao's own limit: one call in so many seconds.
    server.put("sys/quotas/config", json!({"enable_rate_limit_response_headers": true})).await;
    server.put("sys/quotas/rate-limit/app", json!({"rate": 1, "interval": "4s", "path": "secret/data/app/one"})).await;
    let ask = r#"{"secret":"app/one"}"#;
    let first = host.hold(VICTIM, "orders", &["hold", ask]);
    assert_eq!(first.first["status"], 201, "{}\n{}", first.first, host.log());
    let refused = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ask]).remove(0);
    assert_eq!((&refused["status"], &refused["body"]["error"]["code"]), (&json!(503), &json!("engine_unavailable")), "{refused}");
    let seconds = refused["body"]["error"]["retry_after"].as_u64().unwrap_or_else(|| panic!("{refused}\n{}", host.log()));
    assert!((1..=4).contains(&seconds), "{refused}");
    let told = host.records_of("refuse").pop().unwrap().to_string();
    assert!(told.contains("asks to wait") && told.contains("(429"), "{told}");
    // Nobody asks before.
    let again = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ask]).remove(0);
    assert!(again["body"]["error"]["retry_after"].as_u64().is_some_and(|left| left <= seconds), "{again}");
    let told = host.records_of("refuse").pop().unwrap().to_string();
    assert!(told.contains("asked us to wait"), "{told}");
    tokio::time::sleep(Duration::from_secs(seconds + 1)).await;
    let served = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ask]).remove(0);
    assert_eq!(served["status"], 201, "{served}\n{}", host.log());
}
