//! Sources that go away while the daemon runs, and that take its rights away: workloads are told so by a code, operators by engine and cause,
//! and when they are there again what is owed to them ends by itself. PostgreSQL is a real one; of GitHub and of an authorization server there
//! are stand-ins, which are said to be that. OpenBao's outages are in `openbao` and `stale`.

use super::{
    between::{Between, Mischief, STARTUP, message},
    database, github,
    host::*,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
    stand_in::{Request, StandIn, Weather},
    told::{comes_to_its_end, is_refused, is_served, is_told, is_tried},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_said_to_be_and_is_owed_nothing_afterwards() {
    if !is_root() {
        return;
    }
    let Some(mut cluster) = Postgres::start().await else { return };
    let mut host = Host::start(database::setup(&cluster));
    let mut holder = host.hold(VICTIM, "orders", &["hold", database::ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    for crash in [true, false] {
        cluster.stop(crash);
        for _ in 0..5 {
            is_refused(&host, "orders", database::ASK, &["pg: ", "connect"]);
        }
        // Of what was never sent nothing is owed, so an outage leaves no list of debts.
        host.wait_until(Duration::from_secs(10), "they end", |host| host.live().len() == 1);
        // Before that there is no time to be gained, and nobody is asked.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        // What was given is given again; it is not prolonged, and nobody says so.
        holder.say(&format!("call GET /v1/leases/{lease}/secret"));
        assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
        holder.say(&format!("call POST /v1/leases/{lease}/renew"));
        let renewed = holder.line();
        is_told(&host, &renewed, "engine_unavailable", &["pg: "]);
        let listed = host.call("operator", "POST", "/v1/engines/pg/reconcile", "");
        assert!(listed.0 == 503 && listed.1.to_string().contains("pg: "), "what cannot be listed is not gone: {listed:?}");
        assert!(host.live().iter().any(|known| known["id"] == lease.as_str()), "{}", host.log());
        if !crash {
            break;
        }
        cluster.start_again();
        cluster.serves().await;
        let mut other = is_served(&mut host, "orders", database::ASK);
        let end = other.lease();
        other.kill();
        assert_eq!(host.end_of(&end)["ended"]["result"], "revoked");
    }
    holder.kill();
    is_tried(&mut host, &lease, &["pg", "connect"]);
    cluster.start_again();
    cluster.serves().await;
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert!(database::roles(&cluster).await.is_empty());
    drop(is_served(&mut host, "orders", database::ASK));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_the_database_takes_away_is_named_and_endings_wait_for_it() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let setup = database::setup(&cluster);
    let config = setup.config.replace("user = \"postgres\"", &format!("user = \"{BROKER}\"\npassword_file = \"$DIR/broker\""));
    let mut host = Host::prepare(Setup { config, ..setup });
    host.write("broker", BROKER_PASSWORD);
    std::fs::set_permissions(host.path("broker"), std::fs::Permissions::from_mode(0o400)).unwrap();
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["hold", database::ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    let administrator = cluster.superuser("app").await;
    administrator.batch_execute(&format!("ALTER ROLE {BROKER} NOCREATEROLE")).await.unwrap();
    // Asking again does not help before somebody gives it back.
    let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", database::ASK]).remove(0);
    is_told(&host, &answer, "engine_refused", &["pg: making the role", "(42501)"]);
    holder.kill();
    is_tried(&mut host, &lease, &["pg", "forbidding logins", "(42501)"]);
    assert_eq!(database::roles(&cluster).await.len(), 1, "of the second there is nothing");
    administrator.batch_execute(&format!("ALTER ROLE {BROKER} CREATEROLE")).await.unwrap();
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert!(database::roles(&cluster).await.is_empty());
    drop(is_served(&mut host, "orders", database::ASK));
    assert!(!host.log().contains(BROKER_PASSWORD));
}

/// The most memory that the daemon has had, in bytes.
fn most_memory(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// A database server that was taken over: a hand before a real one sends what it should not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_taken_over_does_not_fill_the_memory() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let between = Between::start(cluster.socket_folder(), cluster.port).await;
    let setup = database::setup(&cluster);
    let server = |folder: &std::path::Path, port: u16| format!("host = \"{}\"\nport = {port}\n", folder.display());
    let config = setup.config.replace(&server(cluster.socket_folder(), cluster.port), &server(&between.socket_folder(), between.port));
    assert_ne!(config, setup.config);
    let mut host = Host::start(Setup { config, ..setup });
    let holder = is_served(&mut host, "orders", database::ASK);
    let before = most_memory(&host);
    // One column, and sixty thousand of them.
    let columns = |count: u16| {
        let column = [&b"n\0"[..], &[0; 6], &25u32.to_be_bytes(), &[255; 6], &[0; 2]].concat();
        message(b'T', &[&count.to_be_bytes()[..], &column.repeat(count.into())].concat())
    };
    let row = |count: u16| message(b'D', &[&count.to_be_bytes()[..], &[255; 4].repeat(count.into())].concat());
    let notice = message(b'N', b"SNOTICE\0VNOTICE\0C00000\0Mit rains\0\0");
    for (at, mischief, cause) in [
        ("CREATE ROLE", Mischief::Floods(b"D\x7f\xff\xff\xff".to_vec(), b"x".to_vec()), "a message of 2147483647 bytes"),
        ("CREATE ROLE", Mischief::Floods(columns(1), row(1)), "more than 16777216 bytes"),
        ("CREATE ROLE", Mischief::Floods(columns(52_000), row(52_000)), "more than 16777216 bytes"),
        ("CREATE ROLE", Mischief::Floods(Vec::new(), notice.clone()), "more than 16777216 bytes"),
        (STARTUP, Mischief::Floods(message(b'R', &[0; 4]), notice.clone()), "more than 16777216 bytes"),
    ] {
        // Where a login is to be flooded there has to be one.
        if at == STARTUP {
            let close = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE starts_with(application_name, 'clavigerd-')";
            cluster.superuser("app").await.simple_query(close).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        between.set(Some((at, mischief)));
        is_refused(&host, "orders", database::ASK, &["pg: ", cause]);
        between.set(None);
        drop(is_served(&mut host, "orders", database::ASK));
        host.wait_until(Duration::from_secs(30), "all but one end", |host| host.live().len() == 1);
        let grown = most_memory(&host).saturating_sub(before);
        assert!(grown < 100 << 20, "{cause}: {grown} bytes more");
    }
    drop(holder);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert!(database::roles(&cluster).await.is_empty());
}

/// What is the same of both stand-ins: tokens that need nobody to be read or prolonged, and are revoked.
async fn tokens(server: StandIn, mut host: Host, (engine, program, ask): (&str, &str, &str), alive: impl Fn() -> usize) {
    let named = format!("{engine}: ");
    let notes = std::fs::read_dir(host.dir.join("state")).unwrap().flatten().map(|entry| entry.path());
    let notes = notes.into_iter().find(|path| path.to_string_lossy().ends_with(&format!("-{engine}"))).expect("a folder for notes");
    let noted = || std::fs::read_dir(&notes).unwrap().count();
    let mut holder = host.hold(VICTIM, program, &["hold", ask]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    server.stop().await;
    is_refused(&host, program, ask, &[&named, "connect"]);
    assert_eq!(noted(), 1, "what was never sent is not owed");
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    holder.say(&format!("call POST /v1/leases/{lease}/renew"));
    assert_eq!(holder.line()["status"], 200, "{}", host.log());
    holder.kill();
    is_tried(&mut host, &lease, &[engine, "connect"]);
    assert_eq!((alive(), noted()), (1, 1));
    server.start_again().await;
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert_eq!((alive(), noted()), (0, 0));
    // It is there, and busy: of that nothing is owed either.
    let mut holder = is_served(&mut host, program, ask);
    let (lease, later) = (holder.lease(), Weather::Reply(429, "retry-after: 1\r\n", r#"{"error":"slow_down","message":"slow down"}"#));
    server.set(Some(("", later)));
    is_refused(&host, program, ask, &[&named, "(429, asks to wait 1 s)"]);
    holder.kill();
    is_tried(&mut host, &lease, &[engine, "429"]);
    server.set(None);
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert_eq!((alive(), noted()), (0, 0));
}

/// Against a stand-in for GitHub.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn github_that_goes_away_is_said_to_be_and_is_owed_nothing_afterwards() {
    if !is_root() {
        return;
    }
    let (server, alive) = github::stand_in().await;
    let (mut host, _, _) = github::host(&server);
    host.launch();
    tokens(server, host, ("github", "ci", r#"{"secret":"ci/source"}"#), || alive.lock().unwrap().len()).await;
}

static MADE: AtomicU64 = AtomicU64::new(1);

fn answer(alive: &Mutex<BTreeSet<String>>, request: &Request) -> (u16, String) {
    let (mut alive, body) = (alive.lock().unwrap(), String::from_utf8_lossy(&request.body).into_owned());
    let token = body.split('&').find_map(|field| field.strip_prefix("token=")).unwrap_or_default();
    match request.path.as_str() {
        "/token" => {
            let token = format!("a-token-of-a-stand-in-{}", MADE.fetch_add(1, Ordering::SeqCst));
            alive.insert(token.clone());
            (200, json!({"access_token": token, "token_type": "bearer", "expires_in": 3600}).to_string())
        }
        "/token/revocation" => {
            alive.remove(token);
            (200, String::new())
        }
        "/token/introspection" => (200, json!({"active": alive.contains(token)}).to_string()),
        _ => (404, String::new()),
    }
}

/// A daemon with a stand-in for an authorization server, and the tokens that live there.
pub(super) async fn authorization_server() -> (StandIn, Host, Arc<Mutex<BTreeSet<String>>>) {
    let alive = Arc::<Mutex<BTreeSet<String>>>::default();
    let shared = alive.clone();
    let server = StandIn::start(move |request| answer(&shared, request)).await;
    let at = format!("http://127.0.0.1:{}", server.port);
    let host = Host::prepare(Setup {
        config: format!(
            "[[engine]]\nkind = \"oauth2\"\nname = \"login\"\nclient_id = \"basic\"\nmax_ttl = \"1h\"\nplain_loopback = true\n\
             token_endpoint = \"{at}/token\"\nrevocation_endpoint = \"{at}/token/revocation\"\nintrospection_endpoint = \"{at}/token/introspection\"\n\
             authenticate = {{ method = \"client_secret_basic\", secret_file = \"$DIR/client-secret\" }}\n"
        ),
        identities: identity("orders", VICTIM, &declared("api/orders")),
        secrets: secret("api/orders", "internal", "settings = { scope = [\"orders.read\"] }")
            .replace("engine = \"local\"", "engine = \"login\""),
        policy: grant("orders", "api/orders"),
        ..Setup::default()
    });
    host.write("client-secret", "a client's secret");
    std::fs::set_permissions(host.path("client-secret"), std::fs::Permissions::from_mode(0o400)).unwrap();
    (server, host, alive)
}

/// Against a stand-in for an authorization server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_authorization_server_that_goes_away_is_said_to_be_and_is_owed_nothing_afterwards() {
    if !is_root() {
        return;
    }
    let (server, mut host, alive) = authorization_server().await;
    host.launch();
    tokens(server, host, ("login", "orders", r#"{"secret":"api/orders"}"#), || alive.lock().unwrap().len()).await;
}

/// A source that takes our rights away: asking again does not help before somebody gives them back, and until then endings wait.
async fn rights(server: StandIn, mut host: Host, (engine, program, ask): (&str, &str, &str), no: Weather, alive: impl Fn() -> usize) {
    let named = format!("{engine}: ");
    let Weather::Reply(status, ..) = no else { panic!("no answer: {no:?}") };
    let status = format!("({status})");
    let mut holder = host.hold(VICTIM, program, &["hold", ask]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    let lease = holder.lease();
    server.set(Some(("", no)));
    let answer = host.act(VICTIM, program, &["call", "POST", "/v1/leases", ask]).remove(0);
    is_told(&host, &answer, "engine_refused", &[&named, &status]);
    // What was given is given again, and goes on to work.
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    holder.kill();
    is_tried(&mut host, &lease, &[engine, &status]);
    assert_eq!(alive(), 1, "of the second there is nothing");
    server.set(None);
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert_eq!(alive(), 0);
    drop(is_served(&mut host, program, ask));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_an_authorization_server_takes_away_is_named_and_endings_wait_for_it() {
    if !is_root() {
        return;
    }
    let (server, mut host, alive) = authorization_server().await;
    host.launch();
    let no = Weather::Reply(401, "", r#"{"error":"invalid_client"}"#);
    rights(server, host, ("login", "orders", r#"{"secret":"api/orders"}"#), no, || alive.lock().unwrap().len()).await;
}

/// Its 401 at the end of a token is another word: that there is no such token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_github_takes_away_is_named_and_endings_wait_for_it() {
    if !is_root() {
        return;
    }
    let (server, alive) = github::stand_in().await;
    let (mut host, _, _) = github::host(&server);
    host.launch();
    let no = Weather::Reply(403, "", r#"{"message":"This installation has been suspended"}"#);
    rights(server, host, ("github", "ci", r#"{"secret":"ci/source"}"#), no, || alive.lock().unwrap().len()).await;
}
