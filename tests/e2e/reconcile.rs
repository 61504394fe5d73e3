//! What bears our mark at a source and is in no journal.

use crate::{
    database::{ASK, roles, setup},
    host::*,
    postgres::Postgres,
};
use serde_json::Value;
use std::time::Duration;

/// Roles as a daemon of this mark would have made them, of leases that nobody knows.
async fn strays(cluster: &Postgres, like: &str, count: usize, from: usize) {
    let client = cluster.superuser("app").await;
    for n in from..from + count {
        client.batch_execute(&format!("CREATE ROLE {} LOGIN", stray(like, n))).await.unwrap();
    }
}

fn stray(like: &str, n: usize) -> String {
    let mark = like.rsplit_once('_').expect("a role of ours").0;
    format!("{mark}_01kb0000000000000000000{n:03}")
}

fn engine(host: &Host) -> Value {
    let engines = host.operator("GET", "/v1/engines", "");
    engines["engines"].as_array().unwrap().iter().find(|engine| engine["name"] == "pg").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_few_strays_end_by_themselves_and_many_wait_for_a_person() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(setup(&cluster));
    let holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}", holder.first);
    let own = roles(&cluster).await.remove(0);
    // Another daemon's are none of our business, now and below.
    cluster.superuser("app").await.batch_execute("CREATE ROLE clv_0123456789abcdef_01kb0000000000000000000000 LOGIN").await.unwrap();
    let others: Vec<_> = (0..8).map(|_| host.hold(VICTIM, "orders", &["hold", ASK])).collect();
    let looked_at = |host: &mut Host, waiting: u64| {
        host.stop(false);
        host.launch();
        host.wait_until(Duration::from_secs(20), "the source is looked at", |host| {
            engine(host)["looked"].is_string() && engine(host)["waiting"] == waiting
        });
    };
    // 3 of 12 are more than a fifth, 2 of 11 are not.
    strays(&cluster, &own, 3, 0).await;
    looked_at(&mut host, 3);
    assert_eq!(roles(&cluster).await.len(), 13, "nothing was ended unasked: {}", host.log());
    cluster.superuser("app").await.batch_execute(&format!("DROP ROLE {}", stray(&own, 2))).await.unwrap();
    looked_at(&mut host, 0);
    assert_eq!(roles(&cluster).await.len(), 10, "its own, and another daemon's: {}", host.log());
    strays(&cluster, &own, 12, 10).await;
    looked_at(&mut host, 12);
    assert_eq!((engine(&host)["there"].as_u64(), roles(&cluster).await.len()), (Some(21), 22), "nothing was ended unasked");
    assert!(host.records_of("irrevocable").iter().any(|record| record["detail"].as_str().unwrap().contains("in no journal")));
    let looked = host.operator("POST", "/v1/engines/pg/reconcile", "");
    assert_eq!((looked["orphans"].as_array().unwrap().len(), looked["ended"].as_array().unwrap().len()), (12, 0));
    let ended = host.operator("POST", "/v1/engines/pg/reconcile", r#"{"end":true}"#);
    assert_eq!((ended["ended"].as_array().unwrap().len(), ended["failed"].as_array().unwrap().len()), (12, 0), "{ended}");
    assert_eq!(engine(&host)["waiting"], 0);
    assert_eq!(roles(&cluster).await.len(), 10);
    assert_eq!(host.live().len(), 9, "the holders have their leases");
    let request = ended["request"].as_str().unwrap();
    let of_request = |kind: &str| host.records_of(kind).iter().filter(|record| record["request"] == request).count();
    assert_eq!((of_request("operator"), of_request("end")), (2, 12), "asked, done, and each ending");
    let receipt = host.receipt(ended["ended"][0].as_str().unwrap());
    assert_eq!((receipt["state"].as_str(), receipt["issue"].is_null()), (Some("looked"), true), "{receipt}");
    assert_eq!(receipt["end"]["ended"]["reason"], "operator");
    assert_eq!(host.call("operator", "POST", "/v1/engines/nothing/reconcile", "").0, 404);
    assert_eq!(host.call("operator", "POST", "/v1/engines/pg/reconcile", r#"{"all":true}"#).0, 400);
    drop((holder, others));
}
