//! One credential for all processes of an identity: made once, joined by the others, dead when the last of their leases ends.

use super::{
    database::{ASK, log_in_as, roles, setup},
    host::*,
    postgres::Postgres,
};
use serde_json::Value;
use std::{collections::BTreeSet, io::Write, os::unix::net::UnixStream, time::Duration};

fn shared(cluster: &Postgres) -> Setup {
    let mut setup = setup(cluster);
    setup.secrets = setup.secrets.replace("ttl = {", "share = \"identity\"\nttl = {");
    let public = setup.secrets.replace("db/orders", "db/public").replace("confidential", "public");
    setup.secrets += &public;
    setup.identities += &identity("robot", AGENT, "").replace("\"workload\"", "\"agent\"");
    setup.policy += &grant("robot", "db/public").replace("Workload", "Agent");
    setup
}

fn user(answer: &Value) -> &str {
    answer["body"]["attributes"]["username"].as_str().unwrap_or_else(|| panic!("not issued: {answer}"))
}

async fn works(cluster: &Postgres, answer: &Value) -> bool {
    log_in_as(cluster, user(answer), answer["body"]["secret"]["value"].as_str().unwrap()).await.is_ok()
}

fn lease(record: &Value) -> &str {
    record["lease"].as_str().unwrap()
}

/// Under whose lease the credential of an issue was made.
fn credential(record: &Value) -> &str {
    record["more"]["shares"].as_str().unwrap_or_else(|| lease(record))
}

fn result(host: &mut Host, lease: &str) -> String {
    host.end_of(lease)["ended"]["result"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_lives_as_long_as_somebody_has_it() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(shared(&cluster));
    let mut first = host.hold(VICTIM, "orders", &["hold", ASK]);
    let mut second = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(user(&first.first), user(&second.first));
    assert_eq!(first.first["body"]["secret"], second.first["body"]["secret"]);
    assert_eq!(second.first["body"]["lease"]["shares"], first.lease().as_str(), "{}", second.first);
    assert!(first.first["body"]["lease"]["shares"].is_null());
    let issues = host.records_of("issue");
    assert_eq!(issues[1]["more"]["shares"], first.lease().as_str(), "{}", issues[1]);
    assert_eq!(issues[0]["credential"], issues[1]["credential"]);
    // Whoever had it made is the first to go.
    let (one, two) = (first.lease(), second.lease());
    first.kill();
    assert_eq!(result(&mut host, &one), "shared");
    assert!(works(&cluster, &second.first).await, "it is still in use");
    second.say(&format!("call GET /v1/leases/{two}/secret"));
    assert_eq!(second.line()["body"]["secret"], second.first["body"]["secret"]);
    // Others join those who joined; a daemon that was killed knows them all.
    let third = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(user(&third.first), user(&second.first));
    host.stop(true);
    host.launch();
    second.kill();
    assert_eq!(result(&mut host, &two), "shared");
    assert!(works(&cluster, &third.first).await, "it is still in use");
    // Looked at from the source's side it is nobody's orphan.
    let seen = host.operator("POST", "/v1/engines/pg/reconcile", "");
    assert_eq!((&seen["there"], seen["orphans"].as_array().map(Vec::len)), (&1.into(), Some(0)), "{seen}");
    let (three, answer) = (third.lease(), third.first.clone());
    drop(third);
    assert_eq!(result(&mut host, &three), "revoked");
    assert!(!works(&cluster, &answer).await);
    assert!(roles(&cluster).await.is_empty());
    // The next one gets another.
    let fourth = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_ne!(user(&fourth.first), user(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_make_one_and_an_operator_ends_it_for_all() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(shared(&cluster));
    // All start before any is read from.
    let mut actors: Vec<_> =
        (0..24).map(|_| host.actor(VICTIM, "orders", &["hold", ASK])).map(|mut command| command.spawn().unwrap()).collect();
    host.wait_until(Duration::from_secs(60), "all have it", |host| host.live().len() == 24);
    assert_eq!(roles(&cluster).await.len(), 1);
    let live = host.live();
    assert_eq!(live.iter().filter(|lease| lease["shares"].is_null()).count(), 1, "one was made");
    let some = live[7]["id"].as_str().unwrap();
    let ended = host.operator("POST", "/v1/leases/end", &format!(r#"{{"id":"{some}"}}"#));
    let rows = ended["ended"].as_array().unwrap();
    let of = |result: &str| rows.iter().filter(|row| row["result"] == result).count();
    assert_eq!((rows.len(), of("shared"), of("revoked")), (24, 23, 1), "{ended}");
    assert!(roles(&cluster).await.is_empty());
    for actor in &mut actors {
        let _ = actor.kill();
        let _ = actor.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_leases_have_one_credential() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(shared(&cluster));
    let commands: Vec<_> = (0..8).map(|_| host.actor(VICTIM, "orders", &["many", "125", ASK])).collect();
    // All of them ask at the same time.
    let starting: Vec<_> = commands.into_iter().map(|command| std::thread::spawn(|| Actor::of(command))).collect();
    let mut actors: Vec<Actor> = starting.into_iter().map(|actor| actor.join().unwrap()).collect();
    let live = host.live();
    assert_eq!((live.len(), live.iter().filter(|lease| lease["shares"].is_null()).count()), (1_000, 1));
    assert_eq!(roles(&cluster).await.len(), 1);
    let last = actors.pop().unwrap();
    drop(actors);
    host.wait_until(Duration::from_secs(60), "the others' leases end", |host| host.live().len() == 125);
    assert!(works(&cluster, &last.first).await, "it is still in use");
    let answer = last.first.clone();
    drop(last);
    host.wait_until(Duration::from_secs(60), "all leases end", |host| host.live().is_empty());
    assert!(!works(&cluster, &answer).await && roles(&cluster).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_wants_dead_is_kept_by_nobody_who_comes_meanwhile() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(shared(&cluster));
    let commands: Vec<_> = (0..8).map(|_| host.actor(VICTIM, "orders", &["many", "100", ASK])).collect();
    let starting: Vec<_> = commands.into_iter().map(|command| std::thread::spawn(|| Actor::of(command))).collect();
    for _ in 0..5 {
        // Some have it, and others are about to.
        host.wait_until(Duration::from_secs(60), "there is something to end", |host| host.live().len() > 12);
        host.operator("POST", "/v1/leases/end", r#"{"secret":"db/orders"}"#);
        host.wait_until(Duration::from_secs(20), "whoever was about to have it has it no more", |host| {
            let ended = host.records_of("end").into_iter().filter(|record| record["ended"]["reason"] == "operator");
            let ended: BTreeSet<String> = ended.map(|record| record["lease"].as_str().unwrap().to_owned()).collect();
            let issued = host.records_of("issue");
            let dead: BTreeSet<&str> = issued.iter().filter(|record| ended.contains(lease(record))).map(credential).collect();
            let live = host.live();
            !dead.is_empty() && live.iter().all(|view| !dead.contains(view["shares"].as_str().unwrap_or(view["id"].as_str().unwrap())))
        });
    }
    let actors: Vec<Actor> = starting.into_iter().map(|actor| actor.join().unwrap()).collect();
    let live = host.live();
    let credentials: BTreeSet<&str> = live.iter().map(|view| view["shares"].as_str().unwrap_or(view["id"].as_str().unwrap())).collect();
    assert_eq!(roles(&cluster).await.len(), credentials.len());
    drop(actors);
    host.wait_until(Duration::from_secs(60), "all leases end", |host| host.live().is_empty());
    assert!(roles(&cluster).await.is_empty());
}

/// A credential that is being made when an operator ends the leases of its secret is nobody's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_being_made_while_an_operator_ends_it_is_given_to_nobody() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut setup = shared(&cluster);
    // Of a busy machine nobody waits in vain.
    setup.config = setup.config.replace("user = \"postgres\"\n", "user = \"postgres\"\ntimeout_seconds = 60\n");
    let mut host = Host::start(setup);
    // Whoever changes the rights of this table next waits for this.
    let busy = cluster.superuser("app").await;
    busy.batch_execute("BEGIN; GRANT SELECT ON app.orders TO pg_monitor").await.unwrap();
    let commands: Vec<_> = (0..3).map(|_| host.actor(VICTIM, "orders", &["hold", ASK])).collect();
    let starting: Vec<_> = commands.into_iter().map(|command| std::thread::spawn(|| Actor::of(command))).collect();
    host.wait_until(Duration::from_secs(20), "one is being made", |host| host.live().len() == 1);
    let made = host.live()[0]["id"].as_str().unwrap().to_owned();
    let ended = host.operator("POST", "/v1/leases/end", r#"{"secret":"db/orders"}"#);
    assert_eq!((&ended["ended"][0]["id"], &ended["ended"][0]["result"]), (&made.as_str().into(), &"retrying".into()), "{ended}");
    busy.batch_execute("ROLLBACK").await.unwrap();
    let actors: Vec<Actor> = starting.into_iter().map(|actor| actor.join().unwrap()).collect();
    let refused: Vec<&Actor> = actors.iter().filter(|actor| actor.first["status"] != 201).collect();
    let [refused] = &refused[..] else { panic!("{:?}", actors.iter().map(|actor| &actor.first).collect::<Vec<_>>()) };
    assert_eq!(refused.first["body"]["error"]["code"], "lease_ended", "{}", refused.first);
    assert_eq!(host.end_of(&made)["ended"]["result"], "revoked");
    // The others came to it afterwards, and have another.
    assert_eq!((host.live().len(), roles(&cluster).await.len()), (2, 1));
    assert!(host.live().iter().all(|view| view["id"] != made.as_str() && view["shares"] != made.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_renews_is_no_shorter_for_another() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let host = Host::start(shared(&cluster));
    let ask = |ttl: &str| ASK.replace('}', &format!(r#","ttl":"{ttl}"}}"#));
    let mut long = host.hold(VICTIM, "orders", &["hold", &ask("50m")]);
    let mut short = host.hold(VICTIM, "orders", &["hold", &ask("10m")]);
    assert_eq!(user(&long.first), user(&short.first));
    let renew = |actor: &mut Actor| {
        let lease = actor.lease();
        actor.say(&format!("call POST /v1/leases/{lease}/renew"));
        actor.line()
    };
    let until = async || {
        let config = format!("host={} port={} dbname=app user=postgres", cluster.socket_folder().display(), cluster.port);
        let (client, connection) = tokio_postgres::connect(&config, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let left = "SELECT extract(epoch FROM rolvaliduntil - now())::int8 FROM pg_roles WHERE starts_with(rolname::text, 'clv')";
        client.query_one(left, &[]).await.unwrap().get::<_, i64>(0)
    };
    let renewed = renew(&mut short);
    assert_eq!(renewed["status"], 200, "{renewed}");
    assert!(until().await > 2_000, "the other one's fifty minutes");
    // Who has too little of it left gets one of its own.
    let other = host.hold(VICTIM, "orders", &["hold", &ask("59m")]);
    assert_eq!(user(&other.first), user(&long.first), "fifty of fifty-nine minutes will do");
    assert!(other.first["body"]["clamped"][0].as_str().unwrap().contains("is shared"), "{}", other.first);
    let renewed = renew(&mut long);
    assert_eq!(renewed["status"], 200, "{renewed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_have_their_own() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let host = Host::start(shared(&cluster));
    let ask = r#"{"secret":"db/public","purpose":"testing"}"#;
    let (one, other) = (host.hold(AGENT, "robot", &["hold", ask]), host.hold(AGENT, "robot", &["hold", ask]));
    assert_ne!(user(&one.first), user(&other.first));
    assert!(other.first["body"]["lease"]["shares"].is_null());
}

/// An operator who ends what one process has ends the credential, and with it what others have of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_what_a_process_has_for_all_who_have_it() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(shared(&cluster));
    let (one, other) = (host.hold(VICTIM, "orders", &["hold", ASK]), host.hold(VICTIM, "orders", &["hold", ASK]));
    assert_eq!(user(&one.first), user(&other.first));
    let pid = &host.live()[1]["holder"]["pid"];
    let ended = host.operator("POST", "/v1/leases/end", &format!(r#"{{"pid":{pid}}}"#));
    assert_eq!(ended["ended"].as_array().map(Vec::len), Some(2), "{ended}");
    assert!(!works(&cluster, &one.first).await && roles(&cluster).await.is_empty());
    assert_eq!(host.end_of(&one.lease())["ended"]["reason"], "operator");
}

/// An operator's end of what several have comes to its end for all of them, wherever the daemon is killed meanwhile. Needs the build with
/// failpoints, which `tests/mutations` lets stand in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_end_that_is_cut_short_is_carried_on_for_all_who_have_it() {
    if std::env::var_os("CLAVIGER_TEST_DAEMON").is_none() || !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::prepare(shared(&cluster));
    let points = ["operator-noted", "before-end", "after-source-told", "end-recorded", "ended", "ended:2", "ended:3", "ended:5"];
    for point in points {
        let point = if point.contains(':') { point.to_owned() } else { format!("{point}:1") };
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), point.clone())];
        host.launch();
        let holders: Vec<Actor> = (0..6).map(|_| host.hold(VICTIM, "orders", &["hold", ASK])).collect();
        assert!(holders.iter().all(|holder| user(&holder.first) == user(&holders[0].first)), "{point}");
        let body = format!(r#"{{"id":"{}"}}"#, holders[3].lease());
        let mut operator = UnixStream::connect(host.dir.join("operator.sock")).unwrap();
        let head = format!("POST /v1/leases/end HTTP/1.1\r\nhost: claviger\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        operator.write_all(head.as_bytes()).unwrap();
        host.wait_until(Duration::from_secs(20), &format!("{point} is reached"), |host| !host.is_running());
        host.stop(true);
        host.environment.clear();
        host.launch();
        // All who have it live on, and nobody who asks gets it.
        host.wait_until(Duration::from_secs(20), &format!("{point}: all leases end"), |host| host.live().is_empty());
        assert!(!works(&cluster, &holders[0].first).await && roles(&cluster).await.is_empty(), "{point}");
        for holder in &holders {
            assert_eq!(host.end_of(&holder.lease())["ended"]["reason"], "operator", "{point}");
        }
        host.stop(false);
    }
    super::crash::verify(&host);
}
