//! What the engines' pages show to begin with, pasted: their commands at real servers, their definitions into a daemon. What is changed is
//! where servers and files are, and the secrets that pages leave out (`...`). GitHub is a stand-in, as everywhere.

use super::{
    activated::Activated,
    github::{app_key, stand_in},
    host::*,
    oauth_server::{AuthorizationServer, CLIENT_SECRET},
    openbao_server::{OpenBao, find_program},
    postgres::{BROKER, BROKER_PASSWORD, Postgres},
};
use claviger::outbound::Method;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

const PASSWORD: &str = "what-the-page-leaves-out";

/// The first block of that sort on an engine's page.
fn block(page: &str, sort: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/engines").join(page).with_extension("md");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (_, rest) = text.split_once(&format!("```{sort}\n")).unwrap_or_else(|| panic!("{page} has no {sort}"));
    rest.split_once("\n```").unwrap().0.to_owned() + "\n"
}

/// The same with other words in place of some, each of which is there.
fn pasted(page: &str, sort: &str, instead: &[(&str, &str)]) -> String {
    instead.iter().fold(block(page, sort), |text, (from, to)| {
        assert!(text.contains(from), "{page}, {sort}: {from}");
        text.replace(from, to)
    })
}

/// Names and purposes of the secrets in a file of definitions.
fn rows(text: &str) -> Vec<(String, String)> {
    let table: toml::Table = text.parse().unwrap();
    let text = |value: &toml::Value| value.as_str().unwrap().to_owned();
    table["secret"].as_array().unwrap().iter().map(|row| (text(&row["name"]), text(&row["purposes"][0]))).collect()
}

/// The database of the page, and what it says to type there.
async fn prepare_database(cluster: &Postgres) {
    let superuser = cluster.superuser("app").await;
    superuser.batch_execute("CREATE ROLE app_ro NOLOGIN").await.unwrap();
    superuser.batch_execute("CREATE DATABASE orders").await.unwrap();
    let orders = cluster.superuser("orders").await;
    orders.batch_execute("CREATE TABLE orders (id int); GRANT SELECT ON orders TO app_ro").await.unwrap();
    orders.batch_execute(&pasted("postgres", "sql", &[("'...'", &format!("'{PASSWORD}'"))])).await.unwrap();
}

/// OpenBao with a database and a value, and what the page says to type there. Role id and secret id.
async fn prepare_openbao(server: &OpenBao, cluster: &Postgres, folder: &Path) -> (String, String) {
    server.put("sys/mounts/secret", json!({"type": "kv", "options": {"version": "2"}})).await;
    server.with_database(cluster.port, (BROKER, BROKER_PASSWORD)).await;
    let (_, role) = server.call(Method::Get, "database/roles/ro", Value::Null).await;
    server.put("database/roles/app-ro", role["data"].clone()).await;
    while server.call(Method::Put, "secret/data/app/mail", json!({"data": {"user": "u", "password": "p"}})).await.0 != 200 {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    fs::write(folder.join("claviger.hcl"), block("openbao", "hcl")).unwrap();
    fs::write(folder.join("ca.pem"), &server.ca_pem).unwrap();
    let script = "set -e\n".to_owned() + &pasted("openbao", "sh", &[("192.0.2.17/32", "127.0.0.1/32")]);
    let bin = find_program().unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.parent().unwrap().display());
    let mut command = Command::new("sh");
    command.args(["-c", &script]).current_dir(folder).env_clear().env("PATH", path).env("HOME", folder);
    command.env("BAO_ADDR", format!("https://localhost:{}", server.port)).env("BAO_CACERT", folder.join("ca.pem"));
    let output = command.env("BAO_TOKEN", &server.root).output().unwrap();
    assert!(output.status.success(), "{}\n{}", script, String::from_utf8_lossy(&output.stderr));
    let (_, role) = server.call(Method::Get, "auth/approle/role/web-1/role-id", Value::Null).await;
    let secret = server.put("auth/approle/role/web-1/secret-id", json!({})).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&role["data"]["role_id"]), text(&secret["data"]["secret_id"]))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_pages_show_works_when_it_is_pasted() {
    if !is_root() {
        return;
    }
    let (Some(cluster), Some(bao)) = (Postgres::start().await, OpenBao::start().await) else { return };
    let Some(oauth) = AuthorizationServer::start("https://host.example.com", &json!({"keys": []})).await else { return };
    let (github, tokens) = stand_in().await;
    prepare_database(&cluster).await;
    let typed = tempfile::tempdir().unwrap();
    let (role_id, secret_id) = prepare_openbao(&bao, &cluster, typed.path()).await;
    let at = oauth.issuer();
    let socket = format!("host = \"{}\"\nport = {}", cluster.socket_folder().display(), cluster.port);
    let config = [
        pasted("jwt", "toml clavigerd", &[]),
        pasted("x509", "toml clavigerd", &[("/var/lib/claviger-crl", "$DIR/lists")]),
        pasted("ssh", "toml clavigerd", &[("/var/lib/claviger-ssh", "$DIR/lists")]),
        pasted(
            "postgres",
            "toml clavigerd",
            &[
                ("host = \"db.example.com\"", &socket),
                ("ca_file = \"/etc/claviger/db-ca.pem\"\n", ""),
                ("password_credential = \"orders-pg\"", "password_file = \"$DIR/pg-password\""),
            ],
        ),
        pasted(
            "openbao",
            "toml clavigerd",
            &[
                ("https://bao.example.com:8200", &format!("https://localhost:{}", bao.port)),
                ("/etc/claviger/bao-ca.pem", "$DIR/bao-ca.pem"),
                ("/etc/claviger/bao-secret-id", "$DIR/bao-secret-id"),
                ("3d3b3a0e-6f0c-4c1b-a8b4-6b2f1f6f0a11", &role_id),
            ],
        ),
        pasted("command", "toml clavigerd", &[("probes = true", "probes = true\nsocket = \"$DIR/users.sock\"")]),
        pasted(
            "oauth2",
            "toml clavigerd",
            &[
                ("https://login.example.com/oauth2/token", &format!("{at}/token")),
                ("https://login.example.com/oauth2/revoke", &format!("{at}/token/revocation")),
                ("https://login.example.com/oauth2/introspect", &format!("{at}/token/introspection")),
                ("claviger-web-1", "basic"),
                ("/etc/claviger/login-secret", "$DIR/login-secret"),
                ("max_ttl", "ca_file = \"$DIR/login-ca.pem\"\nmax_ttl"),
            ],
        ),
        pasted(
            "github-app",
            "toml clavigerd",
            &[
                ("/etc/claviger/github-app.pem", "$DIR/github-app.pem"),
                ("installation", &format!("api = \"http://127.0.0.1:{}\"\nplain_loopback = true\ninstallation", github.port)),
            ],
        ),
    ];
    let pages = ["local", "jwt", "x509", "ssh", "postgres", "openbao", "command", "oauth2", "github-app"];
    let listed = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/engines")).unwrap().count();
    assert_eq!(pages.len(), listed, "a page is missing here");
    let secrets = pages.map(|page| block(page, "toml secrets")).concat();
    let rows = rows(&secrets);
    let declared: String =
        rows.iter().map(|(name, purpose)| format!("[[identity.use]]\nsecret = \"{name}\"\npurpose = \"{purpose}\"\n")).collect();
    let mut purposes: Vec<&str> = rows.iter().map(|(_, purpose)| purpose.as_str()).collect();
    purposes.sort_unstable();
    purposes.dedup();
    let mut host = Host::prepare(Setup {
        config: config.concat(),
        identities: identity("orders", VICTIM, &declared)
            .replace("environment = \"test\"", "environment = \"prod\"")
            .replace("[\"testing\"]", &format!("{purposes:?}")),
        policy: rows.iter().map(|(name, purpose)| grant("orders", name).replace("\"testing\"", &format!("{purpose:?}"))).collect(),
        secrets,
        ..Setup::default()
    });
    host.write("pg-password", PASSWORD);
    host.write("bao-ca.pem", &bao.ca_pem);
    host.write("bao-secret-id", &secret_id);
    host.write("login-ca.pem", &oauth.ca_pem);
    host.write("login-secret", CLIENT_SECRET);
    host.write("github-app.pem", &app_key().0);
    for private in ["pg-password", "bao-secret-id", "login-secret", "github-app.pem"] {
        fs::set_permissions(host.path(private), fs::Permissions::from_mode(0o400)).unwrap();
    }
    for folder in ["lists", "users"] {
        fs::create_dir(host.path(folder)).unwrap();
    }
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples/web-users/program/web-users");
    let (socket, users) = (host.dir.join("users.sock"), host.dir.join("users"));
    let started = Activated::start(&socket, &["/usr/bin/python3".as_ref(), &program, &users], &host.dir.join("users.log"));
    let Some(_program) = started else { return };
    host.launch();
    host.put("orders/api-key", "typed by somebody");
    let mut holders = Vec::new();
    for (name, _) in &rows {
        let holder = host.hold(VICTIM, "orders", &["hold", &json!({"secret": name}).to_string()]);
        assert_eq!(holder.first["status"], 201, "{name}: {}\n{}", holder.first, host.log());
        holders.push((name.as_str(), holder));
    }
    let of = |secret: &str| &holders.iter().find(|(name, _)| *name == secret).unwrap().1.first["body"];
    // It is good for what its row says.
    for (secret, database, query) in [("orders/db-ro", "orders", "SELECT 1 FROM orders"), ("orders/db", "app", "SELECT 1 FROM app.orders")]
    {
        let (user, password) = (of(secret)["attributes"]["username"].as_str().unwrap(), of(secret)["secret"]["value"].as_str().unwrap());
        let client = cluster.connect(user, password.as_bytes(), database).await.unwrap_or_else(|error| panic!("{secret}: {error}"));
        client.query(query, &[]).await.unwrap_or_else(|error| panic!("{secret}: {error}"));
    }
    assert_eq!(of("orders/mail")["secret"]["value"], "p");
    let known = oauth.introspect(of("orders/api")["secret"]["value"].as_str().unwrap()).await;
    assert_eq!(known["active"], true, "{known}");
    let leases: Vec<String> = holders.iter().map(|(_, holder)| holder.lease()).collect();
    drop(holders);
    for lease in &leases {
        let end = host.end_of(lease);
        assert!(end["ended"]["result"] == "revoked" || end["ended"]["result"] == "lapsed", "{end}");
    }
    assert_eq!(leases.len(), rows.len());
    assert!(
        rows.len() > pages.len() && oauth.alive().await.is_empty() && bao.tokens().await.is_empty() && tokens.lock().unwrap().is_empty()
    );
}
