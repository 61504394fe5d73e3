//! Credentials of a real PostgreSQL: how long one works after its holder has died, open session and all.

use super::{
    holders::Holders,
    postgres::Postgres,
    stage::{Stage, post, reply},
};
use std::{
    io::Write,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};
use tokio_postgres::{Client, NoTls};

/// Takes one: the lease, the name and the password.
pub fn credential(stream: &mut UnixStream) -> String {
    stream.write_all(post("/v1/leases", r#"{"secret":"bench/database","purpose":"bench"}"#).as_bytes()).expect("the workload socket");
    let (code, body) = reply(stream);
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let text = |at: &str| answer.pointer(at).and_then(|value| value.as_str()).expect("a text").to_owned();
    format!("{} {} {}", text("/lease/id"), text("/attributes/username"), text("/secret/value"))
}

/// What was seen, in milliseconds.
pub struct Deaths {
    /// Holders with an open session each.
    pub holders: usize,
    /// From the kill of one to the end of its session and to the refusal of its login; one at a time, sorted.
    pub one: Vec<f64>,
    /// Until the last session is closed and the last role is gone, all killed at once.
    pub all: f64,
    /// PostgreSQL's own time for ending and dropping as many roles, one client, one statement for each.
    pub own: f64,
}

/// `None` without a server. `died` of `holders` die one at a time, the others at once.
pub fn deaths(me: &str, holders: usize, died: usize) -> Option<Deaths> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let cluster = runtime.block_on(Postgres::start_for(holders as u32 + 60))?;
    let stage = stage(&cluster);
    let (holders, credentials) = Holders::of_database(me, &stage.workload(), holders);
    let mut sessions = runtime.block_on(async {
        let mut sessions = Vec::new();
        for (name, password) in &credentials {
            let session = cluster.connect(name, password.as_bytes(), "app").await.expect("a credential works");
            session.simple_query("SELECT * FROM app.orders").await.expect("as granted");
            sessions.push(session);
        }
        sessions
    });
    let mut one = Vec::new();
    for (((pid, _), (name, password)), session) in holders.each.iter().zip(&credentials).zip(&sessions).take(died) {
        let begin = Instant::now();
        holders.kill(*pid);
        closed(session, begin);
        while runtime.block_on(cluster.connect(name, password.as_bytes(), "app")).is_ok() {}
        one.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    one.sort_by(f64::total_cmp);
    let begin = Instant::now();
    holders.kill_all();
    let left = sessions.split_off(died);
    left.iter().for_each(|session| closed(session, begin));
    let superuser = runtime.block_on(cluster.superuser("app"));
    while roles(&runtime, &superuser) > 0 {
        assert!(begin.elapsed() < Duration::from_secs(120), "roles are left");
    }
    let all = begin.elapsed().as_secs_f64() * 1000.0;
    let own = runtime.block_on(alone(&cluster, &superuser, left.len()));
    Some(Deaths { holders: holders.each.len(), one, all, own })
}

/// A daemon with that server as an engine.
pub fn stage(cluster: &Postgres) -> Stage {
    let engine = format!(
        "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"postgres\"\n",
        cluster.socket_folder().display(),
        cluster.port
    );
    let table = "grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\", \"GRANT SELECT ON app.orders TO {{role}}\"]";
    let member = "grants = [\"GRANT app_owner TO {{role}}\"]";
    let secrets = secret("bench/database", "pg", table)
        + &secret("bench/member", "pg", member)
        + &secret("bench/rounds", "pg", &format!("{member}, scram_iterations = 1"));
    Stage::start_engine(&engine, &secrets, &["bench/database", "bench/member", "bench/rounds"]).0
}

/// A row of the catalogue with these settings.
pub fn secret(name: &str, engine: &str, settings: &str) -> String {
    format!(
        "[[secret]]\nname = \"{name}\"\nengine = \"{engine}\"\nowner = \"bench\"\nsensitivity = \"confidential\"\n\
         environment = \"bench\"\npurposes = [\"bench\"]\noperation = \"read\"\nttl = {{ max = \"1h\" }}\nreads_max = 1000000000\n\
         description = \"for measuring\"\nsettings = {{ {settings} }}\n"
    )
}

fn closed(session: &Client, since: Instant) {
    while !session.is_closed() {
        assert!(since.elapsed() < Duration::from_secs(120), "a session stays open");
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn roles(runtime: &tokio::runtime::Runtime, superuser: &Client) -> i64 {
    let rows = runtime.block_on(superuser.query_one("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'clv\\_%'", &[]));
    rows.expect("the superuser may count").get(0)
}

/// The same work by a script that knows all roles: close the session, take the rights, drop the role.
async fn alone(cluster: &Postgres, superuser: &Client, count: usize) -> f64 {
    let mut sessions = Vec::new();
    for n in 0..count {
        let create =
            format!("CREATE ROLE own_{n} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA app TO own_{n}; GRANT SELECT ON app.orders TO own_{n}");
        superuser.batch_execute(&create).await.expect("a superuser");
        let mut config = tokio_postgres::Config::new();
        config.host_path(cluster.socket_folder()).port(cluster.port).user(format!("own_{n}")).password("x").dbname("app");
        let (client, connection) = config.connect(NoTls).await.expect("a login");
        tokio::spawn(connection);
        sessions.push(client);
    }
    let begin = Instant::now();
    for n in 0..count {
        let end = format!(
            "ALTER ROLE own_{n} NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'own_{n}';
             DROP OWNED BY own_{n}; DROP ROLE own_{n}"
        );
        superuser.batch_execute(&end).await.expect("a superuser");
    }
    let took = begin.elapsed().as_secs_f64() * 1000.0;
    drop(sessions);
    took
}
