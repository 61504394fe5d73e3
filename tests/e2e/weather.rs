//! Sources that are not who they should be, and answers that no source should give, through the whole daemon: what workloads are told, what
//! operators read, and that nothing is left. OpenBao and PostgreSQL are real; of GitHub and of an authorization server there are stand-ins,
//! which are said to be that. Each engine's own tests have every call in every weather.

use super::{
    database, github,
    host::*,
    openbao,
    openbao_server::OpenBao,
    outage::authorization_server,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
    stand_in::{CANARY, Request, StandIn, Weather, counted_port},
    tls_front::{TlsFront, stranger},
    told::{comes_to_its_end, is_refused, is_served, is_told, is_tried},
};
use claviger::outbound::{Call, Client, Limits, Method};
use std::{collections::BTreeSet, os::unix::fs::PermissionsExt, sync::atomic::Ordering, time::Duration};

/// What an operator reads of a certificate of somebody else's.
const FOREIGN: &str = "signed by no authority that is trusted here (ca_file)";

/// An engine, a program and what it asks for.
type Case = (&'static str, &'static str, &'static str);

const OAUTH: Case = ("login", "orders", r#"{"secret":"api/orders"}"#);
const GITHUB: Case = ("github", "ci", r#"{"secret":"ci/source"}"#);
const BAO: Case = ("bao", "tokens", r#"{"secret":"bao/app"}"#);
const PG: Case = ("pg", "orders", database::ASK);

/// Changes the configuration of a daemon that is not running.
fn reconfigure(host: &Host, changes: &[(&str, &str)]) {
    let mut config = std::fs::read_to_string(host.path("clavigerd.toml")).unwrap();
    for (from, to) in changes {
        assert!(config.contains(from), "{from}: {config}");
        config = config.replace(from, to);
    }
    host.write("clavigerd.toml", &config);
}

/// Lets a stand-in's daemon call it by TLS.
async fn behind_tls(server: &StandIn, host: &Host) {
    let front = TlsFront::start(server.port).await;
    let (plain, secure) = (format!("http://127.0.0.1:{}", server.port), format!("https://localhost:{}", front.port));
    reconfigure(host, &[(&plain, &secure), ("plain_loopback = true", "ca_file = \"$DIR/ca.pem\"")]);
    reconfigure(host, &[("$DIR", &host.dir.display().to_string())]);
    host.write("ca.pem", &front.ca_pem);
}

/// Somebody else's certificate: nobody is told anything, nothing comes of it, what is live waits for its end, and all is well as soon as the
/// authority is the right one again.
async fn a_stranger(mut host: Host, ca_file: &str, (engine, program, ask): Case, alive: impl AsyncFn() -> usize) {
    host.launch();
    let mut holder = is_served(&mut host, program, ask);
    let (lease, good) = (holder.lease(), std::fs::read_to_string(host.path(ca_file)).unwrap());
    host.stop(false);
    host.write(ca_file, &stranger());
    host.launch();
    let named = format!("{engine}: ");
    // Not only the first who asks is told, and none is told that another try may help.
    for _ in 0..3 {
        let answer = host.act(VICTIM, program, &["call", "POST", "/v1/leases", ask]).remove(0);
        is_told(&host, &answer, "engine_refused", &[&named, FOREIGN]);
    }
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    holder.kill();
    is_tried(&mut host, &lease, &[engine, FOREIGN]);
    // Of the others nothing ever went out.
    host.wait_until(Duration::from_secs(30), "the others end", |host| host.live().len() == 1);
    assert_eq!(alive().await, 1);
    host.stop(false);
    host.write(ca_file, &good);
    host.launch();
    comes_to_its_end(&mut host, &lease);
    host.wait_until(Duration::from_secs(30), "all leases end", |host| host.live().is_empty());
    assert_eq!(alive().await, 0);
    drop(is_served(&mut host, program, ask));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_place_of_postgres() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let setup = database::setup(&cluster);
    let socket = format!("host = \"{}\"", cluster.socket_folder().display());
    let config = setup.config.replace(&socket, "host = \"localhost\"\nca_file = \"$DIR/pg-ca.pem\"");
    let config = config.replace("user = \"postgres\"", &format!("user = \"{BROKER}\"\npassword_file = \"$DIR/broker\""));
    let host = Host::prepare(Setup { config, ..setup });
    host.write("broker", BROKER_PASSWORD);
    std::fs::set_permissions(host.path("broker"), std::fs::Permissions::from_mode(0o400)).unwrap();
    host.write("pg-ca.pem", &cluster.ca_pem);
    a_stranger(host, "pg-ca.pem", PG, async || database::roles(&cluster).await.len()).await;
}

/// A daemon that gives tokens of this server.
async fn giving_tokens(server: &OpenBao) -> Host {
    server.prepare().await;
    let row = secret("bao/app", "internal", "settings = { token = { policies = [\"app\"] } }");
    let setup = Setup {
        identities: identity("tokens", VICTIM, &declared("bao/app")),
        secrets: row.replace("engine = \"local\"", "engine = \"bao\""),
        policy: grant("tokens", "bao/app"),
        ..Setup::default()
    };
    openbao::logging_in(server, setup).await
}

async fn bao() -> Option<OpenBao> {
    if is_root() { OpenBao::start().await } else { None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_place_of_openbao() {
    let Some(server) = bao().await else { return };
    let host = giving_tokens(&server).await;
    a_stranger(host, "bao-ca.pem", BAO, async || server.tokens().await.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_place_of_an_authorization_server() {
    if !is_root() {
        return;
    }
    let (server, host, alive) = authorization_server().await;
    behind_tls(&server, &host).await;
    a_stranger(host, "ca.pem", OAUTH, async || alive.lock().unwrap().len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_in_the_place_of_github() {
    if !is_root() {
        return;
    }
    let (server, alive) = github::stand_in().await;
    let (host, _, _) = github::host(&server);
    behind_tls(&server, &host).await;
    a_stranger(host, "ca.pem", GITHUB, async || alive.lock().unwrap().len()).await;
}

/// Answers of somebody who sends us elsewhere, floods us, or breaks off in the middle of a secret. `owes`: what nobody heard the end of cannot
/// be found again, and stays listed until it is dead for certain.
async fn odd_answers(server: StandIn, mut host: Host, (engine, program, ask): Case, owes: bool, alive: impl AsyncFn() -> usize) {
    let (aside, reached) = counted_port().await;
    let named = format!("{engine}: ");
    let mut owed = 0;
    host.launch();
    is_served(&mut host, program, ask).kill();
    for (weather, code, cause) in [
        (Weather::Redirect(aside), "engine_refused", "redirect (status 307)"),
        (Weather::Giant, "engine_unavailable", " bytes"),
        (Weather::Truncated, "engine_unavailable", "broke off"),
    ] {
        server.set(Some(("", weather.clone())));
        match code {
            "engine_unavailable" => is_refused(&host, program, ask, &[&named, cause]),
            _ => {
                let answer = host.act(VICTIM, program, &["call", "POST", "/v1/leases", ask]).remove(0);
                is_told(&host, &answer, code, &[&named, cause]);
            }
        }
        server.set(None);
        owed += usize::from(owes && code == "engine_unavailable");
        let mut holder = is_served(&mut host, program, ask);
        let lease = holder.lease();
        holder.kill();
        assert_eq!(host.end_of(&lease)["ended"]["result"], "revoked", "{weather:?}");
        host.wait_until(Duration::from_secs(30), "the rest ends", |host| host.live().len() == owed);
        assert_eq!(alive().await, 0, "{weather:?}");
    }
    let left: BTreeSet<String> = host.live().iter().map(|lease| lease["state"].to_string()).collect();
    assert!(left.iter().all(|state| state != "\"live\""), "{left:?}");
    assert_eq!(reached.load(Ordering::SeqCst), 0, "nobody is followed");
    let records: String = host.records().iter().map(ToString::to_string).collect();
    assert!(!host.log().contains(CANARY) && !records.contains(CANARY), "half a secret is one, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_answers_of_an_authorization_server() {
    if !is_root() {
        return;
    }
    let (server, host, alive) = authorization_server().await;
    odd_answers(server, host, OAUTH, true, async || alive.lock().unwrap().len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_answers_of_github() {
    if !is_root() {
        return;
    }
    let (server, alive) = github::stand_in().await;
    let (host, _, _) = github::host(&server);
    odd_answers(server, host, GITHUB, true, async || alive.lock().unwrap().len()).await;
}

/// Hands a call on to a real server.
async fn hand_on(client: &Client, request: &Request) -> (u16, String) {
    let method = match request.method.as_str() {
        "GET" => Method::Get,
        "PUT" => Method::Put,
        "POST" => Method::Post,
        "DELETE" => Method::Delete,
        other => panic!("{other}"),
    };
    let token = request.header("x-vault-token").map(|token| ("x-vault-token", token.as_bytes()));
    let headers: Vec<(&'static str, &[u8])> = token.into_iter().collect();
    let body = (!request.body.is_empty()).then(|| request.body.clone().into());
    let answer = client.call(Call { method, path: &request.target, headers: &headers, body, repeatable: true }).await.unwrap();
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_answers_in_the_way_from_openbao() {
    let Some(server) = bao().await else { return };
    let host = giving_tokens(&server).await;
    let client = server.client(Limits { call: Duration::from_secs(20), ..Limits::default() });
    let runtime = tokio::runtime::Handle::current();
    let between = StandIn::start(move |request| tokio::task::block_in_place(|| runtime.block_on(hand_on(&client, request)))).await;
    let (there, here) = (format!("https://localhost:{}", server.port), format!("http://127.0.0.1:{}", between.port));
    let ca_file = format!("ca_file = \"{}\"", host.path("bao-ca.pem"));
    reconfigure(&host, &[(&there, &here), (&ca_file, "plain_loopback = true")]);
    odd_answers(between, host, BAO, false, async || server.tokens().await.len()).await;
}

/// Without a `ca_file` the system's own list counts. The daemon sees one of its own, in which the test's authority stands beside the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_systems_authorities_count_where_none_is_named() {
    let Some(server) = bao().await else { return };
    let mut host = giving_tokens(&server).await;
    let ca_file = format!("ca_file = \"{}\"\n", host.path("bao-ca.pem"));
    reconfigure(&host, &[(&ca_file, "")]);
    host.launch();
    let (engine, program, ask) = BAO;
    let answer = host.act(VICTIM, program, &["call", "POST", "/v1/leases", ask]).remove(0);
    is_told(&host, &answer, "engine_refused", &[&format!("{engine}: "), FOREIGN]);
    host.stop(false);
    let list = claviger::outbound::SYSTEM_AUTHORITIES.iter().find(|path| exists(path)).expect("this system has a list of authorities");
    host.write("with-ours.pem", &(std::fs::read_to_string(list).unwrap() + "\n" + &server.ca_pem));
    let bind = format!("mount --bind {} {list} && exec \"$@\"", host.path("with-ours.pem"));
    host.launch_below(&["unshare", "--mount", "sh", "-c", &bind, "sh"].map(str::to_owned));
    host.wait_until(Duration::from_secs(30), "it serves", |host| {
        std::os::unix::net::UnixStream::connect(host.path("workload.sock")).is_ok()
    });
    let mut holder = is_served(&mut host, program, ask);
    let lease = holder.lease();
    holder.kill();
    assert_eq!(host.end_of(&lease)["ended"]["result"], "revoked");
    assert!(server.tokens().await.is_empty());
}
