//! A service with a confidential PostgreSQL credential: it logs in, it restarts with nobody awake, and its credentials die with it.

use super::{host::*, postgres::Postgres};
use std::time::Duration;
use tokio_postgres::{Client, Config, NoTls};

pub fn setup(cluster: &Postgres) -> Setup {
    let secret = "[[secret]]\nname = \"db/orders\"\nengine = \"pg\"\nowner = \"team-test\"\nsensitivity = \"confidential\"\nenvironment = \"test\"\n\
                  purposes = [\"testing\"]\noperation = \"read\"\nttl = { max = \"1h\" }\ndescription = \"a role per lease\"\n\
                  settings = { grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\", \"GRANT SELECT ON app.orders TO {{role}}\"] }\n";
    Setup {
        config: format!(
            "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"postgres\"\n",
            cluster.socket_folder().display(),
            cluster.port
        ),
        identities: identity("orders", VICTIM, &declared("db/orders")),
        secrets: secret.to_owned(),
        policy: grant("orders", "db/orders"),
        ..Setup::default()
    }
}

pub const ASK: &str = r#"{"secret":"db/orders"}"#;

/// Logs in with what was issued.
pub async fn log_in_as(cluster: &Postgres, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host_path(cluster.socket_folder()).port(cluster.port).dbname("app").user(user).password(password);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

pub async fn log_in(cluster: &Postgres, answer: &serde_json::Value) -> Result<Client, tokio_postgres::Error> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    log_in_as(cluster, &text(&answer["body"]["attributes"]["username"]), &text(&answer["body"]["secret"]["value"])).await
}

/// Roles of ours in the database.
pub async fn roles(cluster: &Postgres) -> Vec<String> {
    let (client, connection) =
        Config::new().host_path(cluster.socket_folder()).port(cluster.port).dbname("app").user("postgres").connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'clv')", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_works_until_its_holder_dies_and_its_open_session_dies_too() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(setup(&cluster));
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}", holder.first);
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "upstream");
    let open = log_in(&cluster, &holder.first).await.unwrap();
    assert_eq!(open.query_one("SELECT count(*) FROM app.orders", &[]).await.unwrap().len(), 1);
    let lease = holder.lease();
    holder.say(&format!("call GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("revoked")));
    assert!(end["ended"]["dead"].is_string(), "the source proved it");
    assert_eq!(end["ended"]["proof"], serde_json::json!({"by": "looked", "seen": ["sessions_gone", "role_gone"]}));
    let receipt = host.receipt(&lease);
    assert_eq!((receipt["state"].as_str(), receipt["end"]["seq"].as_u64()), (Some("looked"), end["seq"].as_u64()));
    assert_eq!(receipt["credential"]["role"], holder.first["body"]["attributes"]["username"]);
    assert!(cluster.log().contains(receipt["intent"].as_str().unwrap()), "the server's log joins with it");
    assert!(open.query_one("SELECT 1", &[]).await.is_err(), "the open session is closed");
    assert!(log_in(&cluster, &holder.first).await.is_err());
    assert!(roles(&cluster).await.is_empty());
    let value = holder.first["body"]["secret"]["value"].as_str().unwrap();
    assert!(!cluster.log().contains(value) && !host.log().contains(value), "no clear password in any log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_restarts_a_hundred_times_with_nobody_awake() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(setup(&cluster));
    for _ in 0..100 {
        let mut service = host.hold(VICTIM, "orders", &["hold", ASK]);
        assert_eq!(service.first["status"], 201, "{}", service.first);
        service.kill();
    }
    host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    assert!(roles(&cluster).await.is_empty());
    let issued = host.records_of("issue");
    assert_eq!(issued.len(), 100);
    assert!(issued.iter().all(|record| record["policy"]["grant"] == "grant.orders.db.orders" && record["policy"]["ticket"] == "test:1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_while_it_issues_it_leaves_no_role_without_a_lease() {
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut host = Host::start(setup(&cluster));
    for round in 0..12u64 {
        let mut holders: Vec<Actor> = Vec::new();
        let commands: Vec<_> = (0..3).map(|_| host.actor(VICTIM, "orders", &["hold", ASK])).collect();
        let killer = std::thread::spawn({
            let pid = host.pid().to_string();
            move || {
                std::thread::sleep(Duration::from_millis(60 + round * 11 % 90));
                std::process::Command::new("kill").args(["-KILL", &pid]).status().unwrap();
            }
        });
        for command in commands {
            holders.push(Actor::of(command));
        }
        killer.join().unwrap();
        host.stop(true);
        host.launch();
        let mut last = (Vec::new(), 0);
        for _ in 0..200 {
            last = (roles(&cluster).await, host.live().len());
            if last.0.len() == last.1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(last.0.len(), last.1, "round {round}: roles {:?} against {} leases\n{}", last.0, last.1, host.log());
        drop(holders);
        host.wait_until(Duration::from_secs(20), "all leases end", |host| host.live().is_empty());
    }
    assert!(roles(&cluster).await.is_empty());
}
