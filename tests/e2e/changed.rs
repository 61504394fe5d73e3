//! Values that last are changed by a date, and where OpenBao keeps them; through the whole daemon.

use super::{
    database,
    host::*,
    openbao::logging_in,
    openbao_server::{OpenBao, policy},
    postgres::Postgres,
    rotation::{make_roles, works},
    wall::{Wall, library},
};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;

/// The day that is so many days from today.
fn day(ahead: i64) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    claviger::model::WallTime((now + (ahead * DAY) as u64) * 1_000_000).rfc3339()[..10].to_owned()
}

fn row(host: &Host, name: &str) -> Value {
    let rows = host.operator("GET", "/v1/rotations", "");
    rows["rotations"].as_array().unwrap().iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("{rows}")).clone()
}

/// What claviger can change is changed in the week before the day, once; what a person has to change is said when the day is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_changed_before_the_day_that_its_row_names() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["legacy"]).await;
    let by = day(12);
    let rotate = format!("rotate = {{ by = \"{by}\" }}\n");
    let ours =
        secret("db/legacy", "internal", &format!("{rotate}settings = {{ static_role = \"legacy\" }}")).replace("\"local\"", "\"pg\"");
    let mut host = Host::prepare(Setup {
        identities: identity("orders", VICTIM, &declared("db/legacy")),
        secrets: ours + &secret("app/by-hand", "internal", &rotate),
        policy: grant("orders", "db/legacy"),
        ..database::setup(&cluster)
    });
    let clock = tempfile::tempdir().unwrap();
    let wall = Wall::new(&library(clock.path()), &clock.path().join("wall"));
    host.environment = wall.environment();
    host.launch();
    host.put("app/by-hand", "typed by somebody");
    assert_eq!(host.call("operator", "POST", "/v1/rotations/db/legacy", "").0, 200);
    let first = row(&host, "db/legacy");
    assert_eq!((&first["version"], &first["overdue"]), (&json!(1), &json!(false)), "{first}");
    assert!(first["late"].as_str().unwrap().starts_with(&by), "{first}");
    // A day before, a value of before that week is due.
    host.stop(false);
    wall.set(11 * DAY);
    host.launch();
    host.wait_until(Duration::from_secs(60), "it is changed", |host| row(host, "db/legacy")["version"] == 2);
    let holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"db/legacy"}"#]);
    assert!(works(&cluster, &holder.first["body"]).await && holder.first["body"]["attributes"]["version"] == "2", "{}", holder.first);
    let hand = row(&host, "app/by-hand");
    assert_eq!((&hand["version"], &hand["overdue"]), (&json!(1), &json!(false)), "nobody but a person can: {hand}");
    drop(holder);
    // The day is there. What was changed in the week before counts; the other is overdue.
    host.stop(false);
    wall.set(13 * DAY);
    host.launch();
    host.wait_until(Duration::from_secs(60), "somebody is told", |host| {
        host.records_of("rotate").iter().any(|record| record["secret"]["name"] == "app/by-hand" && record["outcome"] == "failed")
    });
    assert_eq!(row(&host, "app/by-hand")["overdue"], true);
    let ours = row(&host, "db/legacy");
    assert_eq!((&ours["version"], &ours["overdue"], &ours["due"]), (&json!(2), &json!(false), &Value::Null), "once: {ours}");
    assert!(host.operator("GET", "/v1/metrics", "").as_str().unwrap().contains("claviger_rotations_overdue 1"));
    let status = host.operator("GET", "/v1/status", "");
    assert_eq!(status["rotations"][0]["name"], "app/by-hand", "{status}");
    // Somebody changes it.
    host.put("app/by-hand", "another");
    host.wait_until(Duration::from_secs(30), "it is in order", |host| row(host, "app/by-hand")["overdue"] == false);
}

/// A member of a KV store that claviger makes: others stay, live leases keep theirs, whoever asks anew has the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_of_openbao_is_made_by_whoever_has_the_right_to() {
    if !is_root() {
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "by hand"}})).await;
    let settings = "settings = { kv = \"secret/app/db\", field = \"password\", attributes = [\"user\"], generate = { length = 48 } }";
    let mut host = logging_in(
        &server,
        Setup {
            identities: identity("orders", VICTIM, &declared("app/db")),
            secrets: secret("app/db", "internal", settings).replace("engine = \"local\"", "engine = \"bao\""),
            policy: grant("orders", "app/db"),
            ..Setup::default()
        },
    )
    .await;
    host.launch();
    let ask = ["hold", r#"{"secret":"app/db"}"#];
    let mut old = host.hold(VICTIM, "orders", &ask);
    assert_eq!(old.first["body"]["secret"]["value"], "by hand", "{}\n{}", old.first, host.log());
    // The page's policy lets values be read only: said as it is, and nothing is changed.
    let (status, answer) = host.call("operator", "POST", "/v1/rotations/app/db", "");
    assert!(status >= 400 && answer["error"]["message"].as_str().is_some_and(|why| why.contains("writing secret/app/db")), "{answer}");
    assert!(row(&host, "app/db")["trouble"].as_str().unwrap().contains("writing secret/app/db"));
    let more = "path \"secret/data/app/+\" { capabilities = [\"read\", \"create\", \"update\"] }";
    let policy = format!("{}\n{more}\n", policy().replace("secret/data/app/*", "secret/data/app/x"));
    server.put("sys/policies/acl/claviger", json!({"policy": policy})).await;
    let (status, answer) = host.call("operator", "POST", "/v1/rotations/app/db", "");
    assert_eq!((status, &answer["version"]), (200, &json!(2)), "{answer}\n{}", host.log());
    assert!(row(&host, "app/db")["trouble"].is_null());
    let new = host.hold(VICTIM, "orders", &ask);
    let value = new.first["body"]["secret"]["value"].as_str().unwrap();
    assert!(value.len() == 48 && new.first["body"]["attributes"] != old.first["body"]["attributes"], "{}", new.first);
    old.say(&format!("call GET /v1/leases/{}/secret", old.lease()));
    assert_eq!(old.line()["body"]["secret"]["value"], "by hand");
    let (_, kept) = server.call(claviger::outbound::Method::Get, "secret/data/app/db", Value::Null).await;
    assert_eq!(kept["data"]["data"], json!({"user": "u", "password": value}));
    let done = host.records_of("rotate").into_iter().find(|record| record["outcome"] == "done").unwrap();
    assert_eq!((&done["secret"]["name"], &done["secret"]["version"]), (&json!("app/db"), &json!(2)), "{done}");
    assert!(!host.log().contains(value) && !server.audit().contains(value));
}
