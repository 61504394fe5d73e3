//! Static roles while the database is away: their password is known here, so that leases go on; a change fails and says why.

use super::{
    database::log_in_as,
    host::*,
    postgres::Postgres,
    rotation::{ASK, make_roles, rotate, row, setup, works},
};
use serde_json::Value;

fn value(answer: &Value) -> &str {
    answer["body"]["secret"]["value"].as_str().unwrap_or_else(|| panic!("no value: {answer}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn static_roles_go_on_while_the_server_is_away_and_a_change_waits_for_it() {
    if !is_root() {
        return;
    }
    let Some(mut cluster) = Postgres::start().await else { return };
    make_roles(&cluster, &["legacy"]).await;
    let mut host = Host::start(setup(&cluster, "static_role = \"legacy\""));
    assert_eq!(rotate(&host).1["version"], 1, "{}", host.log());
    let mut first = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert!(works(&cluster, &first.first["body"]).await, "{}", first.first);
    let known = value(&first.first).to_owned();
    cluster.stop(true);
    let lease = first.lease();
    first.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(value(&first.line()), known, "what was given is given again");
    first.say(&format!("call POST /v1/leases/{lease}/renew"));
    let renewed = first.line();
    assert_eq!(renewed["status"], 200, "{renewed}");
    let second = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!((second.first["status"].as_u64(), value(&second.first)), (Some(201), known.as_str()), "{}", second.first);
    // A change needs the server, and is not called done without it.
    let (status, answer) = rotate(&host);
    assert_eq!((status, answer["error"]["code"].as_str()), (409, Some("not_rotated")), "{answer}");
    let is_why = |why: &str| why.contains("pg: ") && why.contains("connect");
    assert!(is_why(answer["error"]["message"].as_str().unwrap()), "{answer}");
    let standing = row(&host);
    assert!(is_why(standing["trouble"].as_str().unwrap()) && standing["version"] == 1, "{standing}");
    let failed = host.records_of("rotate").into_iter().rev().find(|record| record["outcome"] == "failed").expect("on the record");
    assert!(is_why(failed["detail"].as_str().unwrap()) && failed["secret"]["name"] == "db/legacy", "{failed}");
    assert!(host.operator("GET", "/v1/metrics", "").as_str().unwrap().contains("claviger_rotations_failing 1"));
    // And leases have what they had, also from a daemon that starts meanwhile.
    drop(first);
    drop(second);
    host.stop(false);
    host.launch();
    let mut third = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!((third.first["status"].as_u64(), value(&third.first)), (Some(201), known.as_str()), "{}", third.first);
    let lease = third.lease();
    // An ending owes the server nothing.
    third.kill();
    assert_eq!(host.end_of(&lease)["ended"]["result"], "lapsed");
    cluster.start_again();
    cluster.serves().await;
    assert!(log_in_as(&cluster, "legacy", &known).await.is_ok(), "the change that failed changed nothing");
    let (status, answer) = rotate(&host);
    assert_eq!((status, answer["version"].as_u64()), (200, Some(2)), "{answer}\n{}", host.log());
    assert!(row(&host)["trouble"].is_null() && host.operator("GET", "/v1/status", "")["rotations"].is_null());
    let last = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert!(works(&cluster, &last.first["body"]).await && value(&last.first) != known, "{}", last.first);
    assert!(log_in_as(&cluster, "legacy", &known).await.is_err());
    assert!(!host.log().contains(&known) && !host.log().contains(value(&last.first)), "a clear password in the log");
}
