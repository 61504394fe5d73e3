//! How fast a role with an open session dies: `cargo test --features testing --test contract -- --ignored --nocapture revoke`.

use crate::{
    postgres::{Door, build, cluster, config, log_in, reader},
    suite::Asked,
};
use claviger::engine::Engine;
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

fn figures(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    format!("p50 {:.1?} p99 {:.1?} max {:.1?}", at(50), at(99), times[times.len() - 1])
}
