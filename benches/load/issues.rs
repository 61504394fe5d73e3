//! Credentials of real sources each second, beside what the same source gives to a script by itself. The two take turns, so that what else
//! the machine does meanwhile falls on both.

use super::{
    openbao::OpenBao,
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
    stage::{self, Stage, post},
    traffic::{Target, rate},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use claviger::{
    digest::{hmac_sha256, pbkdf2_hmac_sha256, sha256},
    outbound::Method,
};
use serde_json::{Value, json};
use std::{
    fs,
    future::Future,
    num::NonZeroU32,
    os::unix::fs::PermissionsExt,
    pin::Pin,
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// So many that what else the machine does falls on all alike, and each too short for the daemon's idle connections to be closed meanwhile.
const TURNS: usize = 16;

/// What came out.
pub struct Rates {
    /// As the table says it.
    pub what: &'static str,
    /// As the JSON says it.
    pub key: &'static str,
    pub connections: usize,
    /// As `Load::apart`.
    pub apart: bool,
    /// The daemon's: on the record, each with its lease, both on the disk.
    pub ours: f64,
    /// The source's own.
    pub own: f64,
    /// The same by scripts that do something else than `own`: what, its name in the JSON, its rate.
    pub others: Vec<(&'static str, &'static str, f64)>,
}

/// How many ask at a time, of us as of the source, and for how long altogether.
#[derive(Clone, Copy)]
pub struct Load {
    pub connections: usize,
    pub seconds: f64,
    /// The source has the last processor for itself and everything else the others, as if it were on another host.
    pub apart: bool,
}

impl Load {
    /// Whatever is started from now on is the source's.
    fn source(self) {
        self.pin(true);
    }

    /// And from now on everything is ours or the script's.
    fn others(self) {
        self.pin(false);
    }

    fn pin(self, last: bool) {
        let count = processors();
        let list = match (self.apart, last) {
            (true, true) => (count - 1).to_string(),
            (true, false) => format!("0-{}", count - 2),
            (false, _) => format!("0-{}", count - 1),
        };
        let mut taskset = Command::new("taskset");
        taskset.args(["-a", "-c", "-p", &list, &std::process::id().to_string()]).stdout(Stdio::null());
        assert!(taskset.status().expect("taskset (Debian: util-linux)").success());
    }
}

/// How many processors there are, however many are set aside by now.
pub fn processors() -> usize {
    static COUNT: OnceLock<usize> = OnceLock::new();
    *COUNT.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Does one thing for one of the connections.
type Script = Arc<dyn Fn(usize) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

fn script<F: Future<Output = ()> + Send + 'static>(one: impl Fn(usize) -> F + Send + Sync + 'static) -> Script {
    Arc::new(move |connection| Box::pin(one(connection)))
}

/// Takes turns of the daemon at `daemon`, of `own`, and of others with what they do and their names, so many seconds each altogether.
fn turns(
    (what, key): (&'static str, &'static str),
    runtime: &Runtime,
    daemon: &Target,
    Load { connections, seconds, apart }: Load,
    own: Script,
    others: Vec<(&'static str, &'static str, Script)>,
    between: impl Fn(),
) -> Rates {
    let seconds = seconds / TURNS as f64;
    let alone = |script: &Script| {
        between();
        runtime.block_on(alone(script, connections, seconds)) / TURNS as f64
    };
    let mut rates = Rates { what, key, connections, apart, ours: 0.0, own: 0.0, others: Vec::new() };
    rates.others.extend(others.iter().map(|(what, name, _)| (*what, *name, 0.0)));
    for _ in 0..TURNS {
        between();
        rates.ours += rate(daemon, connections, seconds) / TURNS as f64;
        rates.own += alone(&own);
        for ((_, _, other), (_, _, sum)) in others.iter().zip(&mut rates.others) {
            *sum += alone(other);
        }
    }
    rates
}

/// How often a second the script is done with all connections busy; the first tenth of a second does not count, as it does not for us.
async fn alone(script: &Script, connections: usize, seconds: f64) -> f64 {
    let begin = Instant::now() + Duration::from_millis(100);
    let end = begin + Duration::from_secs_f64(seconds);
    let tasks: Vec<_> = (0..connections)
        .map(|connection| {
            let script = script.clone();
            tokio::spawn(async move {
                let mut done = 0u32;
                loop {
                    script(connection).await;
                    let now = Instant::now();
                    if now >= end {
                        return done;
                    }
                    done += u32::from(now >= begin);
                }
            })
        })
        .collect();
    let mut all = 0;
    for task in tasks {
        all += task.await.expect("a task");
    }
    f64::from(all) / seconds
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

fn target(stage: &Stage, secret: &str) -> Target {
    let ask = [post("/v1/leases", &format!(r#"{{"secret":"{secret}","purpose":"bench"}}"#))];
    super::target(secret, &format!("unix:{}", stage.workload().display()), &ask, stage.pid())
}

/// What a script gives the server of a login's password.
#[derive(Clone, Copy)]
enum Password {
    /// A verifier of one of its own, as `psql`'s `\password` makes it, with the rounds done as fast as ours are.
    Verifier,
    /// What looks like one and fits no password, made without the rounds: the least work, and nobody could log in.
    Nobodys,
    /// One of its own as it is: the server makes the verifier.
    Plain,
}

impl Password {
    fn of(self, n: u64) -> String {
        let (plain, salt) = (format!("a-password-of-its-own-of-{n:020}"), format!("{n:016}"));
        let key = match self {
            Password::Plain => return plain,
            Password::Verifier => pbkdf2_hmac_sha256(plain.as_bytes(), salt.as_bytes(), ROUNDS),
            Password::Nobodys => Default::default(),
        };
        let (stored, server) = (sha256(&[&hmac_sha256(&*key, b"Client Key")]), hmac_sha256(&*key, b"Server Key"));
        format!("SCRAM-SHA-256${ROUNDS}:{}${}:{}", STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server))
    }
}

const ROUNDS: NonZeroU32 = NonZeroU32::MIN.saturating_add(4095);

/// A table or schema keeps who may do what in its own row, which is copied each time and takes some hundred names in all.
fn forget_rights(runtime: &Runtime, superuser: &tokio_postgres::Client) {
    let all = "UPDATE pg_class SET relacl = NULL WHERE relname = 'orders'; UPDATE pg_namespace SET nspacl = NULL WHERE nspname = 'app'";
    runtime.block_on(superuser.batch_execute(all)).expect("a superuser");
}

/// Logins of PostgreSQL: with rights of a schema and a table, and as members of a role that has them. `None` without a server.
pub fn postgres(load: Load) -> Option<Vec<Rates>> {
    let runtime = runtime();
    load.source();
    let cluster = runtime.block_on(Postgres::start_for(100))?;
    load.others();
    let stage = super::database::stage(&cluster);
    // They log in as the daemon does: of a superuser the server asks less.
    let client = || cluster.connect(BROKER, BROKER_PASSWORD.as_bytes(), "app");
    let clients: Vec<_> = (0..load.connections).map(|_| Arc::new(runtime.block_on(client()).expect("it may log in"))).collect();
    let admin = runtime.block_on(cluster.superuser("app"));
    let made = Arc::new(AtomicU64::new(0));
    let with = |rights: fn(&str) -> String, password: Password| {
        let (clients, made) = (clients.clone(), made.clone());
        script(move |connection: usize| {
            let n = made.fetch_add(1, Ordering::Relaxed);
            let (client, role) = (clients[connection].clone(), format!("own_{n}"));
            async move {
                let password = password.of(n);
                let make =
                    format!("CREATE ROLE {role} LOGIN PASSWORD '{password}' VALID UNTIL '2030-01-01'; COMMENT ON ROLE {role} IS 'own'");
                client.batch_execute(&format!("BEGIN; {make}; {}; COMMIT", rights(&role))).await.expect("it may");
            }
        })
    };
    // Rights of one table are given by one at a time, or PostgreSQL fails ("tuple concurrently updated").
    let direct: fn(&str) -> String =
        |role| format!("SELECT pg_advisory_xact_lock(7); GRANT USAGE ON SCHEMA app TO {role}; GRANT SELECT ON app.orders TO {role}");
    let member: fn(&str) -> String = |role| format!("GRANT app_owner TO {role}");
    let mut all = Vec::new();
    for (what, key, secret, rights) in [
        ("logins of PostgreSQL, rights of a table", "issue_postgres", "bench/database", direct),
        ("logins of PostgreSQL, members of a role", "issue_postgres_member", "bench/member", member),
        ("the same with scram_iterations = 1", "issue_postgres_one_round", "bench/rounds", member),
    ] {
        let forget = || forget_rights(&runtime, &admin);
        let others = vec![
            ("gives verifiers that no password fits", "no_password_per_s", with(rights, Password::Nobodys)),
            ("lets the server make the verifier", "plain_password_per_s", with(rights, Password::Plain)),
        ];
        let own = with(rights, Password::Verifier);
        all.push(turns((what, key), &runtime, &target(&stage, secret), load, own, others, forget));
    }
    Some(all)
}

/// A daemon that logs in to this server, and what it has there: a login of a database and a token.
pub fn openbao_stage(runtime: &Runtime, cluster: &Postgres, server: &OpenBao) -> Stage {
    let (role, secret) = runtime.block_on(async {
        server.prepare().await;
        server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
        server.put("secret/data/app/db", json!({"data": {"user": "u", "password": "p".repeat(40)}})).await;
        server.approle(json!({"token_policies": "claviger", "token_ttl": "1h"})).await
    });
    let at = stage::folder().keep();
    for (name, text) in [("secret-id", &secret), ("bao-ca.pem", &server.ca_pem)] {
        fs::write(at.join(name), text).expect("own folder");
    }
    fs::set_permissions(at.join("secret-id"), fs::Permissions::from_mode(0o400)).expect("own file");
    let engine = format!(
        "[[engine]]\nkind = \"openbao\"\nname = \"bao\"\naddress = \"https://localhost:{}\"\nca_file = \"{at}/bao-ca.pem\"\ntimeout_seconds = 20\n\
         login = {{ method = \"approle\", role_id = \"{role}\", secret_id_file = \"{at}/secret-id\" }}\n",
        server.port,
        at = at.display()
    );
    let row = |name: &str, settings: &str| super::database::secret(name, "bao", settings);
    let secrets =
        row("bench/login", "read = \"database/creds/long\", policies = [\"app\"], field = \"password\", attributes = [\"username\"]")
            + &row("bench/token", "token = { policies = [\"app\"] }")
            + &row("bench/kv", "kv = \"secret/app/db\"");
    let stage = Stage::start_engine(&engine, &secrets, &["bench/login", "bench/token", "bench/kv"]).0;
    stage.keep(at);
    stage
}

const TOKENS: &str = "auth/token/create/claviger";

/// A token with as many words as ours has: they say what it is for in the server's own log, and by its id it is found and ended whatever
/// becomes of the answer.
fn of_token(n: u64, secret: &str) -> Value {
    let text = "abcdefghijklmnopqrstuvwxyz012345";
    let id = format!("{}-{n}-{text}", secret.replace('/', "-"));
    let meta =
        json!({"mark": text, "lease": text, "request": text, "secret": secret, "identity": "bench", "purpose": "bench", "intent": text});
    json!({"id": id, "policies": ["app"], "ttl": "3600s", "renewable": true, "no_default_policy": true, "display_name": id, "meta": meta})
}

/// Logins of a database that OpenBao makes, each by a token of its own, and its tokens. `None` without one of the servers.
pub fn openbao(load: Load) -> Option<Vec<Rates>> {
    let runtime = runtime();
    load.source();
    let (cluster, server) = (runtime.block_on(Postgres::start_for(200))?, Arc::new(runtime.block_on(OpenBao::start())?));
    load.others();
    let admin = runtime.block_on(cluster.superuser("app"));
    let stage = openbao_stage(&runtime, &cluster, &server);
    // It may what the daemon and its leases may and logs in as the daemon does: for root, and for a token without an entity, the server
    // does less.
    let own = runtime.block_on(async {
        let login = json!({"token_policies": "claviger,app", "token_ttl": "1h"});
        let (role_id, secret_id) = server.approle_at("auth/approle/role/script", login).await;
        server.put("auth/approle/login", json!({"role_id": role_id, "secret_id": secret_id})).await
    });
    let own: Arc<str> = own["auth"]["client_token"].as_str().expect("a token").into();
    let call = |method: Method, path: &'static str, body: fn(u64) -> Value| {
        let (server, own, made) = (server.clone(), own.clone(), AtomicU64::new(0));
        script(move |_: usize| {
            let (server, own, body) = (server.clone(), own.clone(), body(made.fetch_add(1, Ordering::Relaxed)));
            async move {
                let (status, answer) = server.call_as(&own, method, path, body).await;
                assert_eq!(status, 200, "{answer}");
            }
        })
    };
    let forget = || forget_rights(&runtime, &admin);
    let login = call(Method::Get, "database/creds/long", |_| Value::Null);
    let token = call(Method::Put, TOKENS, |n| of_token(n, "bench/token"));
    // What an issue is: a login by a token of its own.
    let with_token = {
        let (server, own, made) = (server.clone(), own.clone(), AtomicU64::new(0));
        script(move |_: usize| {
            let (server, own) = (server.clone(), own.clone());
            let body = of_token(made.fetch_add(1, Ordering::Relaxed), "bench/login");
            async move {
                let (status, token) = server.call_as(&own, Method::Put, TOKENS, body).await;
                assert_eq!(status, 200, "{token}");
                let token = token["auth"]["client_token"].as_str().expect("a token").to_owned();
                let (status, answer) = server.call_as(&token, Method::Get, "database/creds/long", Value::Null).await;
                assert_eq!(status, 200, "{answer}");
            }
        })
    };
    let logins = turns(
        ("logins of a database by OpenBao, each with a token of its own", "issue_openbao"),
        &runtime,
        &target(&stage, "bench/login"),
        load,
        with_token,
        vec![("makes them all with one token", "one_token_per_s", login)],
        forget,
    );
    let tokens = target(&stage, "bench/token");
    Some(vec![logins, turns(("tokens of OpenBao", "issue_openbao_token"), &runtime, &tokens, load, token, Vec::new(), || ())])
}

/// One line for each.
pub fn print(rates: &[Rates]) {
    for Rates { what, connections, apart, ours, own, others, .. } in rates {
        let place = if *apart { "the source on a processor of its own" } else { "all on the same processors" };
        let other: String =
            others.iter().map(|(what, _, rate)| format!("; by one that {what} {rate:.0}: {:.2} of it", ours / rate)).collect();
        println!(
            "{what}, {connections} at a time, {place}: {ours:.0} a second; by a script without claviger {own:.0}: {:.2} of it{other}",
            ours / own
        );
    }
}

/// Members of the JSON.
pub fn members(rates: &[Rates]) -> impl Iterator<Item = (String, Value)> + '_ {
    rates.iter().flat_map(|Rates { key, apart, ours, own, others, .. }| {
        let place = if *apart { "_apart" } else { "" };
        let row = [("per_s", *ours), ("own_per_s", *own), ("ratio", ours / own)];
        row.into_iter()
            .chain(others.iter().map(|(_, name, rate)| (*name, *rate)))
            .map(move |(name, value)| (format!("{key}{place}_{name}"), json!(value)))
    })
}
