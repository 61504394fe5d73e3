//! Measurements, not tests: `cargo test --release --features testing --test contract -- --ignored --nocapture figures`.

use crate::{
    local::store,
    postgres::{Door, build, cluster, config, log_in, reader},
    suite::{Asked, secret},
};
use claviger::{
    engine::{Engine, local::LocalEngine},
    model::SecretBytes,
};
use std::time::{Duration, Instant};

const ROUNDS: usize = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn revoke_latency_with_an_open_session() {
    let Some(cluster) = cluster().await else { return };
    for (door, name) in [(Door::Socket, "socket, superuser"), (Door::Tls, "TLS, CREATEROLE only")] {
        let engine = build(config(cluster, door));
        let secret = reader(&engine);
        let (mut dead, mut ended, mut made) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let asked = Asked::new();
            let began = Instant::now();
            let issued = engine.issue(&asked.order(&secret)).await.unwrap();
            made.push(began.elapsed());
            let session = log_in(cluster, &issued, "app").await.unwrap();
            let began = Instant::now();
            // A statement that waits for ever ends when the session does: the moment the credential is dead for its holder.
            let watch = tokio::spawn(async move {
                let _ = session.simple_query("SELECT pg_sleep(600)").await;
                Instant::now()
            });
            tokio::time::sleep(Duration::from_millis(2)).await;
            let waited = began.elapsed();
            engine.end(asked.lease, &issued.reference).await.unwrap();
            ended.push(began.elapsed() - waited);
            dead.push(watch.await.unwrap() - began - waited);
        }
        println!("{name}: issue {} | session dead {} | end confirmed {}", figures(made), figures(dead), figures(ended));
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn local_issue_and_read() {
    let (_folder, store) = store();
    let engine = LocalEngine::new(store.clone());
    let secret = secret("a/b", &engine, serde_json::json!({}));
    store.put(&secret.name, &SecretBytes::new(vec![7; 64])).unwrap();
    let asked = Asked::new();
    let (mut issues, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..10_000 {
        let began = Instant::now();
        let issued = engine.issue(&asked.order(&secret)).await.unwrap();
        issues.push(began.elapsed());
        let began = Instant::now();
        engine.read(&asked.order(&secret), &issued.reference).await.unwrap();
        reads.push(began.elapsed());
    }
    println!("local, 64 bytes: issue {} | read {}", figures(issues), figures(reads));
}

fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("p50 {:.1?} p99 {:.1?} max {:.1?}", at(50), at(99), times[times.len() - 1])
}

/// Database logins through OpenBao: what the server itself does with one token, and what the engine does with a token for each lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn openbao_logins_beside_the_servers_own() {
    use crate::openbao::{engine, row, stage};
    use claviger::outbound::Method;
    use futures_util::future::join_all;
    const AT_ONCE: usize = 8;
    const EACH: usize = 25;
    let Some((_cluster, server, _)) = stage().await else { return };
    let engine = engine(&server, b"figures").await;
    let row = row(&engine, "database/creds/long");
    for round in 0..5 {
        let began = Instant::now();
        let raw = join_all((0..AT_ONCE).map(async |_| {
            let mut leases = Vec::new();
            for _ in 0..EACH {
                let (status, answer) = server.call(Method::Get, "database/creds/long", serde_json::Value::Null).await;
                assert_eq!(status, 200);
                leases.push(answer["lease_id"].clone());
            }
            leases
        }));
        let raw = (raw.await, began.elapsed());
        let began = Instant::now();
        let ours = join_all((0..AT_ONCE).map(async |_| {
            let mut leases = Vec::new();
            for _ in 0..EACH {
                let asked = Asked::new();
                let issued = engine.issue(&asked.order(&row)).await.unwrap();
                leases.push((asked, issued));
            }
            leases
        }));
        let ours = (ours.await, began.elapsed());
        let began = Instant::now();
        for lease in raw.0.iter().flatten() {
            server.put("sys/leases/revoke", serde_json::json!({"lease_id": lease, "sync": true})).await;
        }
        let raw_end = began.elapsed();
        let began = Instant::now();
        for (asked, issued) in ours.0.iter().flatten() {
            engine.end(asked.lease, &issued.reference).await.unwrap();
        }
        let ours_end = began.elapsed();
        let rate = |time: Duration| (AT_ONCE * EACH) as f64 / time.as_secs_f64();
        println!(
            "round {round}: issue: OpenBao {:.0}/s, engine {:.0}/s, ratio {:.2} | end: OpenBao {:.0}/s, engine {:.0}/s",
            rate(raw.1),
            rate(ours.1),
            rate(ours.1) / rate(raw.1),
            rate(raw_end),
            rate(ours_end)
        );
    }
}
