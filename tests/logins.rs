//! What engines log in with, from credentials of the daemon's unit and from files that are exchanged, in a real systemd with the drop-in of
//! `docs/secret-zero.md` and with real servers.
//!
//! Needs root and leaves nothing behind. Where that is not possible it says so and passes.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "support/machine.rs"]
mod machine;
#[path = "support/openbao.rs"]
mod openbao_server;
#[path = "support/postgres.rs"]
mod postgres;

use claviger::outbound::Method;
use machine::{Machine, package, put};
use openbao_server::OpenBao;
use postgres::{BROKER, BROKER_PASSWORD, Postgres};
use serde_json::{Value, json};
use std::{fmt::Write as _, time::Duration};

const PAGE: &str = include_str!("../docs/secret-zero.md");

/// The drop-in, as an operator copies it.
fn drop_in() -> &'static str {
    PAGE.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the page has a drop-in")
}

/// An OpenBao engine of the machine's configuration.
fn bao(server: &OpenBao, name: &str, more: &str) -> String {
    format!(
        "[[engine]]\nkind = \"openbao\"\nname = \"{name}\"\naddress = \"https://localhost:{}\"\nca_file = \"/etc/claviger/bao-ca.pem\"\n\
         timeout_seconds = 20\n{more}\n",
        server.port
    )
}

async fn with_certificates(server: &OpenBao) {
    server.put("sys/auth/cert", json!({"type": "cert"})).await;
    for name in ["web-1", "svid-1", "svid-2"] {
        let role = json!({"certificate": server.ca_pem, "allowed_common_names": name, "token_policies": "claviger"});
        server.put(&format!("auth/cert/certs/{name}"), role).await;
    }
}

fn started(machine: &Machine) {
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_log_in_with_credentials_of_the_unit() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let (Some(cluster), Some(server)) = (Postgres::start().await, OpenBao::start().await) else { return };
    server.prepare().await;
    with_certificates(&server).await;
    let (role_id, secret_id) = server.approle(json!({"token_policies": "claviger", "token_ttl": "20m"})).await;
    let token = server.put("auth/token/create", json!({"policies": ["claviger"], "ttl": "1h"})).await["auth"]["client_token"].clone();
    let (certificate, key) = server.certificate("web-1");
    let github = std::process::Command::new("openssl").args(["genrsa", "2048"]).output().unwrap();
    assert!(github.status.success());
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    package(files);
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    put(files, "etc/claviger/bao-ca.pem", &server.ca_pem, 0o644);
    put(files, "etc/claviger/db-ca.pem", &cluster.ca_pem, 0o644);
    put(files, "etc/claviger/bao-client.pem", certificate, 0o644);
    put(files, "etc/systemd/system/clavigerd.service.d/logins.conf", drop_in(), 0o644);
    let sealed = [
        ("bao-secret-id", secret_id.clone()),
        ("bao-client-key", key.clone()),
        ("orders-pg", BROKER_PASSWORD.to_owned()),
        ("github-app", String::from_utf8(github.stdout).unwrap()),
        ("oauth-client", "the-secret-of-a-client".to_owned()),
    ];
    for (name, text) in &sealed {
        put(files, &format!("root/{name}"), text, 0o400);
    }
    put(files, "root/bao-token", token.as_str().unwrap(), 0o400);
    let mut config = std::fs::read_to_string(machine::root().join("config/clavigerd.toml")).unwrap() + "\n";
    config += &bao(
        &server,
        "bao",
        &format!("login = {{ method = \"approle\", role_id = \"{role_id}\", secret_id_credential = \"bao-secret-id\" }}"),
    );
    config += &bao(
        &server,
        "bao-by-certificate",
        "certificate_file = \"/etc/claviger/bao-client.pem\"\nkey_credential = \"bao-client-key\"\nlogin = { method = \"cert\", role = \"web-1\" }",
    );
    config += &bao(&server, "bao-by-token", "login = { method = \"token\", token_credential = \"bao-token\" }");
    let _ = write!(
        config,
        "[[engine]]\nkind = \"postgres\"\nname = \"orders-pg\"\nhost = \"localhost\"\nport = {}\nca_file = \"/etc/claviger/db-ca.pem\"\n\
         database = \"app\"\nuser = \"{BROKER}\"\npassword_credential = \"orders-pg\"\n\
         [[engine]]\nkind = \"github-app\"\nname = \"gh\"\napp = \"1\"\ninstallation = 1\nkey_credential = \"github-app\"\n\
         [[engine]]\nkind = \"oauth2\"\nname = \"sso\"\ntoken_endpoint = \"https://sso.example/token\"\nclient_id = \"web-1\"\nmax_ttl = \"1h\"\n\
         ca_file = \"/etc/claviger/bao-ca.pem\"\nauthenticate = {{ method = \"client_secret_basic\", secret_credential = \"oauth-client\" }}\n",
        cluster.port
    );
    put(files, "etc/claviger/clavigerd.toml", config, 0o644);
    let machine = Machine::boot(files);
    // Sealed on the machine that opens them; this one has no TPM. What was sealed stands in no file any more.
    machine.ok("mkdir -p -m 700 /etc/credstore.encrypted && mkdir -p -m 700 /run/bao-agent && mv /root/bao-token /run/bao-agent/token");
    for (name, _) in &sealed {
        machine.ok(&format!(
            "systemd-creds encrypt --with-key=host --name={name} /root/{name} /etc/credstore.encrypted/{name} && rm /root/{name}"
        ));
    }
    started(&machine);

    // Each looks at its source, for which it has to log in.
    for engine in ["bao", "bao-by-certificate", "bao-by-token", "orders-pg"] {
        let said = machine.ok(&format!("clav engine reconcile {engine}"));
        assert!(said.starts_with(&format!("0 credentials bear our mark at {engine}")), "{said}");
    }
    // What no server here takes was read all the same, or the daemon had not started.
    let listed = machine.ok("clav engine ls");
    assert!(listed.contains("github-app") && listed.contains("oauth2"), "{listed}");
    let (_, accessors) = server.call(Method::Get, "auth/token/accessors?list=true", Value::Null).await;
    assert!(accessors["data"]["keys"].as_array().unwrap().len() >= 3, "{accessors}");
    let said = machine.ok("cat /var/log/claviger/*.jsonl; journalctl -o cat");
    for secret in [secret_id.as_str(), BROKER_PASSWORD, token.as_str().unwrap(), "the-secret-of-a-client", key.lines().nth(1).unwrap()] {
        assert!(!said.contains(secret), "a login is in a log");
    }

    // One that is not there stops the unit, by name; one that the unit does not pass stops the daemon.
    machine.ok("mv /etc/credstore.encrypted/orders-pg /root/sealed");
    assert!(!machine.run("systemctl restart clavigerd").status.success());
    machine.until("journalctl -u clavigerd | grep -q status=243/CREDENTIALS", Duration::from_secs(10));
    machine
        .ok("sed -i /orders-pg/d /etc/systemd/system/clavigerd.service.d/logins.conf && systemctl daemon-reload && systemctl reset-failed");
    assert!(!machine.run("systemctl restart clavigerd").status.success());
    assert_eq!(machine.ok("systemctl show --value -p ExecMainStatus clavigerd").trim(), "78");
    machine.until("journalctl -u clavigerd -o cat | grep -q /orders-pg", Duration::from_secs(10));
}

/// As `spiffe-helper` keeps the SVID of a SPIRE agent: two files of the daemon's user below `/run`, written anew now and then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_exchanged_logs_in_without_a_restart() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let Some(server) = OpenBao::start().await else { return };
    server.prepare().await;
    with_certificates(&server).await;
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    package(files);
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    put(files, "etc/claviger/bao-ca.pem", &server.ca_pem, 0o644);
    for name in ["svid-1", "svid-2"] {
        let (certificate, key) = server.certificate(name);
        put(files, &format!("root/{name}.pem"), certificate, 0o644);
        put(files, &format!("root/{name}_key.pem"), key, 0o600);
    }
    let config = std::fs::read_to_string(machine::root().join("config/clavigerd.toml")).unwrap() + "\n";
    let engine =
        "certificate_file = \"/run/claviger-svid/svid.pem\"\nkey_file = \"/run/claviger-svid/svid_key.pem\"\nlogin = { method = \"cert\" }";
    put(files, "etc/claviger/clavigerd.toml", config + &bao(&server, "bao", engine), 0o644);
    let machine = Machine::boot(files);
    machine.ok("systemd-sysusers && install -d -o claviger -m 700 /run/claviger-svid");
    let exchange = |name: &str| {
        machine.ok(&format!(
            "cp /root/{name}_key.pem /run/claviger-svid/svid_key.pem && cp /root/{name}.pem /run/claviger-svid/svid.pem && \
             chown claviger /run/claviger-svid/* && chmod 600 /run/claviger-svid/svid_key.pem"
        ))
    };
    exchange("svid-1");
    started(&machine);
    machine.ok("clav engine reconcile bao");
    let daemon = machine.ok("systemctl show --value -p MainPID clavigerd");
    let names = async || {
        let (_, listed) = server.call(Method::Get, "auth/token/accessors?list=true", Value::Null).await;
        let mut names = Vec::new();
        for accessor in listed["data"]["keys"].as_array().into_iter().flatten() {
            let (_, looked) = server.call(Method::Put, "auth/token/lookup-accessor", json!({"accessor": accessor})).await;
            names.extend(looked["data"]["meta"]["common_name"].as_str().map(str::to_owned));
        }
        names
    };
    assert_eq!(names().await, ["svid-1"]);
    exchange("svid-2");
    // The first is no more; claviger's own token went with it, as a server does whose role is withdrawn.
    server.call(Method::Delete, "auth/cert/certs/svid-1", Value::Null).await;
    server.put("sys/leases/revoke-prefix/auth/cert", json!({})).await;
    // A token that was refused when it was new says nothing yet.
    machine.until("clav engine reconcile bao", Duration::from_secs(30));
    assert_eq!(names().await, ["svid-2"]);
    assert_eq!(machine.ok("systemctl show --value -p MainPID clavigerd"), daemon, "without a restart");
}
