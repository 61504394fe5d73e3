//! Certificates of an OpenBao's `ssh` and `pki`, as sshd, OpenSSL and nginx see them: made and bound by the definitions and the commands of
//! docs/engines/openbao.md, word for word.

use crate::{
    nginx::Nginx,
    openbao::engine,
    openbao_server::{OpenBao, find_program},
    sshd::{Sshd, put_key, run, text},
    suite::{Asked, Harness, Probe, secret},
};
use async_trait::async_trait;
use claviger::{
    config::{self, File},
    engine::{Engine, EngineError, Issued, openbao::OpenBaoEngine},
    model::{EndResult, EndsBy, SecretDefinition, WallTime},
    outbound::Method,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

const PAGE: &str = include_str!("../../docs/engines/openbao.md");

/// The first block of that kind below a heading of the page.
fn block(heading: &str, kind: &str) -> String {
    let below = PAGE.split(&format!("\n{heading}\n")).nth(1).unwrap_or_else(|| panic!("the page has no {heading}"));
    let block = below.split(&format!("```{kind}\n")).nth(1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("{heading}: no block of {kind}")).to_owned()
}

/// A server that was prepared with the commands below that heading, and the settings of the definition there.
async fn prepared(heading: &str, folder: &Path) -> Option<(OpenBao, Value)> {
    let server = OpenBao::start().await?;
    server.prepare().await;
    fs::write(folder.join("bao-ca.pem"), &server.ca_pem).unwrap();
    let program = find_program().unwrap();
    let done = Command::new("sh")
        .args(["-euc", &block(heading, "sh")])
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .env("PATH", format!("{}:/usr/bin:/bin", program.parent().unwrap().display()))
        .env("BAO_ADDR", format!("https://localhost:{}", server.port))
        .env("BAO_CACERT", folder.join("bao-ca.pem"))
        .env("BAO_TOKEN", &server.root)
        .output()
        .unwrap();
    assert!(done.status.success(), "{}", text(&done));
    let rows = config::secrets(&[File { path: "page".into(), text: block(heading, "toml secrets") }]).unwrap();
    assert_eq!(rows.len(), 1);
    Some((server, Value::Object(rows[0].row().settings.clone())))
}

/// What the server gives at a path to whoever asks, in a file.
fn fetched(server: &OpenBao, folder: &Path, path: &str, name: &str) -> PathBuf {
    let url = format!("https://localhost:{}/v1/{path}", server.port);
    let (ca, file) = (folder.join("bao-ca.pem"), folder.join(name));
    let fetched = run("curl", &["-sSf", "--noproxy", "*", "--cacert", ca.to_str().unwrap(), "-o", file.to_str().unwrap(), &url]);
    assert!(fetched.status.success(), "{}", text(&fetched));
    file
}

fn attribute<'a>(issued: &'a Issued, name: &str) -> &'a str {
    &issued.attributes.iter().find(|(known, _)| known == name).unwrap().1
}

/// The same settings with this member changed.
fn with(settings: &Value, at: &str, value: Value) -> Value {
    let mut settings = settings.clone();
    *settings.pointer_mut(at).unwrap_or_else(|| panic!("{at}")) = value;
    settings
}

async fn issue(engine: &OpenBaoEngine, secret: &SecretDefinition, asked: &Asked) -> Issued {
    engine.issue(&asked.order(secret)).await.unwrap_or_else(|error| panic!("{error}"))
}

// ---- ssh -----------------------------------------------------------------------------------------------------------------------

const OPENSSH: &str = "### For OpenSSH";

/// The authority's public key, which anybody may read.
fn ssh_authority(server: &OpenBao, folder: &Path) -> PathBuf {
    fetched(server, folder, "ssh/public_key", "ca.pub")
}

/// A verifier that knows the authority: `ssh-keygen` signs with the credential and checks it, as an allowed signer, at this moment.
struct Signers {
    folder: TempDir,
    authority: String,
    #[allow(dead_code, reason = "keeps the server")]
    server: OpenBao,
}

#[async_trait]
impl Probe for Signers {
    async fn works(&self, issued: &Issued) -> bool {
        let name = attribute(issued, "serial_number");
        let key = put_key(self.folder.path(), name, issued.value.expose(), attribute(issued, "signed_key"));
        let (file, signers) = (format!("{key}.message"), format!("{key}.signers"));
        fs::write(&file, "message").unwrap();
        fs::write(&signers, format!("release cert-authority {}", self.authority)).unwrap();
        let signed = run("ssh-keygen", &["-q", "-Y", "sign", "-f", &format!("{key}-cert.pub"), "-n", "test", &file]);
        assert!(signed.status.success(), "{}", text(&signed));
        let check = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-f", &signers, "-I", "release", "-n", "test", "-s", &format!("{file}.sig")])
            .stdin(fs::File::open(&file).unwrap())
            .output()
            .unwrap();
        fs::remove_file(format!("{file}.sig")).unwrap();
        check.status.success()
    }
}

async fn ssh_harness() -> Option<Harness> {
    let folder = tempfile::tempdir().unwrap();
    let (server, settings) = prepared(OPENSSH, folder.path()).await?;
    let engine = Arc::new(engine(&server, b"state").await);
    let secret = secret("hosts/release", &*engine, settings);
    assert_eq!(secret.ends_by, EndsBy::ShortLife);
    let authority = fs::read_to_string(ssh_authority(&server, folder.path())).unwrap();
    Some(Harness { engine, secret, probe: Box::new(Signers { folder, authority, server }) })
}

mod ssh {
    // All but the renewal: what nobody can prolong is asked for anew.
    crate::contract!(super::ssh_harness:
        the_definition_is_accepted_and_an_unknown_setting_is_not
        what_is_issued_works_and_can_be_read_again
        ending_says_what_became_of_it_and_can_be_repeated
        an_end_says_how_it_is_known
        ending_what_never_was_is_no_error
        settling_without_an_issue_finds_nothing
        an_issue_that_was_never_committed_is_settled
        nothing_but_the_value_holds_the_value
        what_exists_upstream_is_listed
        many_leases_at_once_do_not_disturb_each_other
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sshd_lets_in_whom_the_role_lets_be_and_nobody_after_the_lease() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, settings)) = prepared(OPENSSH, folder.path()).await else { return };
    // Another role, with which leases may be others than `release`.
    let mut role = server.call(Method::Get, "ssh/roles/release", Value::Null).await.1["data"].clone();
    for member in ["allowed_users", "default_user"] {
        role[member] = "backup".into();
    }
    server.put("ssh/roles/backup", role).await;
    server.put("sys/policies/acl/app-ssh", json!({"policy": "path \"ssh/+/+\" { capabilities = [\"update\"] }"})).await;
    let engine = engine(&server, b"state").await;
    let authority = ssh_authority(&server, folder.path());
    fs::write(folder.path().join("principals"), "release\n").unwrap();
    let more = format!("AuthorizedPrincipalsFile {}", folder.path().join("principals").display());
    let Some(sshd) = Sshd::start(folder.path(), &authority, &more) else { return };
    let put = |name: &str, issued: &Issued| put_key(folder.path(), name, issued.value.expose(), attribute(issued, "signed_key"));

    let release = secret("hosts/release", &engine, settings.clone());
    let (asked, mut short) = (Asked::new(), Asked::new());
    let issued = issue(&engine, &release, &asked).await;
    let mine = put("mine", &issued);
    sshd.lets_in(&mine);
    let id = format!("claviger lease={} identity=orders-service intent={}", asked.lease, asked.order(&release).intent_digest());
    assert!(sshd.log().contains(&id), "the server's log names the lease: {}", sshd.log());
    assert!(server.tokens().await.is_empty(), "the token was for one call");

    // The holder of another principal, with a certificate of the same authority.
    let mut others = with(&settings, "/write/valid_principals", "backup".into());
    let beyond = engine.issue(&Asked::new().order(&secret("hosts/beyond", &engine, others.clone()))).await.err().unwrap();
    assert!(matches!(&beyond, EngineError::Refused(text) if text.contains("backup")), "the role bounds what is asked for: {beyond}");
    others["read"] = "ssh/issue/backup".into();
    let backup = secret("hosts/backup", &engine, others);
    sshd.refuses(&put("backup", &issue(&engine, &backup, &Asked::new()).await), "principal");

    // A key that is the holder's own, signed.
    let own = folder.path().join("own").display().to_string();
    assert!(run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &own]).status.success());
    let write = json!({"public_key": fs::read_to_string(format!("{own}.pub")).unwrap(), "ttl": "{{ttl}}", "valid_principals": "release"});
    let signed =
        secret("hosts/own", &engine, json!({"read": "ssh/sign/release", "write": write, "field": "signed_key", "ends": "short-life"}));
    let issued = issue(&engine, &signed, &Asked::new()).await;
    fs::write(format!("{own}-cert.pub"), issued.value.expose()).unwrap();
    sshd.lets_in(&own);

    // After its short life.
    short.expires = WallTime(short.issued.0 + 12_000_000);
    let brief = put("brief", &issue(&engine, &release, &short).await);
    sshd.lets_in(&brief);
    while crate::suite::now().unix_secs() <= short.expires.unix_secs() + 1 {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    sshd.refuses(&brief, "expired");
    // An end closes our books; a copy works until it expires.
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Lapsed);
    sshd.lets_in(&mine);
}

/// The record calls a credential that cannot be revoked dead when its lease is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_revoked_dies_with_its_lease_or_is_not_given() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, settings)) = prepared(OPENSSH, folder.path()).await else { return };
    let engine = engine(&server, b"state").await;
    let why = async |settings: Value| {
        let row = secret("hosts/release", &engine, settings);
        let asked = Asked::new();
        let error = engine.issue(&asked.order(&row)).await.err().unwrap();
        engine.settle(asked.lease, Some(&row)).await.unwrap();
        assert!(server.tokens().await.is_empty());
        let EngineError::Setup(text) = error else { panic!("{error}") };
        text
    };
    let text = why(with(&settings, "/write/ttl", "50m".into())).await;
    assert!(text.contains("longer than its lease, and nobody can revoke it"), "{text}");
    let text = why(with(&settings, "/write/ttl", "2m".into())).await;
    assert!(text.contains("before its lease"), "{text}");
    // `pki` gives less without a word where the role allows no more.
    server.put("sys/mounts/pki", json!({"type": "pki"})).await;
    server.put("pki/root/generate/internal", json!({"common_name": "ca.test", "ttl": "24h"})).await;
    server.put("pki/roles/web", json!({"allowed_domains": "test", "allow_subdomains": true, "max_ttl": "1m"})).await;
    server.put("auth/token/roles/claviger", json!({"allowed_policies": "app,claviger-fence", "orphan": true})).await;
    let web = json!({"read": "pki/issue/web", "write": {"common_name": "a.test", "ttl": "{{ttl}}"}, "ends": "short-life"});
    let text = why(web).await;
    assert!(text.contains("before its lease (max_ttl there)"), "{text}");
}

// ---- pki -----------------------------------------------------------------------------------------------------------------------

const TLS: &str = "### For TLS";

fn openssl(arguments: &[&str]) -> std::process::Output {
    run("openssl", arguments)
}

/// The server's revocation list, which anybody may read.
fn list(server: &OpenBao, folder: &Path) -> PathBuf {
    fetched(server, folder, "pki/crl/pem", "mesh.crl")
}

/// OpenSSL with the authority and the list of this moment.
struct Listed {
    folder: TempDir,
    server: OpenBao,
}

#[async_trait]
impl Probe for Listed {
    async fn works(&self, issued: &Issued) -> bool {
        // Each look has files of its own, as several are made at once.
        let place = tempfile::tempdir_in(self.folder.path()).unwrap();
        fs::copy(self.folder.path().join("bao-ca.pem"), place.path().join("bao-ca.pem")).unwrap();
        let (crl, bundle) = (list(&self.server, place.path()), place.path().join("bundle.pem"));
        fs::write(&bundle, issued.value.expose()).unwrap();
        let (bundle, ca) = (bundle.to_str().unwrap(), self.folder.path().join("mesh-ca.pem"));
        let (own, certified) = (openssl(&["pkey", "-pubout", "-in", bundle]), openssl(&["x509", "-pubkey", "-noout", "-in", bundle]));
        assert!(own.status.success() && own.stdout == certified.stdout, "{}", text(&own));
        let words = ["verify", "-purpose", "sslclient", "-crl_check", "-CRLfile", crl.to_str().unwrap(), "-CAfile", ca.to_str().unwrap()];
        let said = openssl(&[&words[..], &[bundle]].concat());
        assert!(said.status.success() || text(&said).contains("certificate revoked"), "{}", text(&said));
        said.status.success()
    }
}

async fn pki_harness() -> Option<Harness> {
    let folder = tempfile::tempdir().unwrap();
    let (server, settings) = prepared(TLS, folder.path()).await?;
    let engine = Arc::new(engine(&server, b"state").await);
    let secret = secret("mesh/shop", &*engine, settings);
    assert_eq!(secret.ends_by, EndsBy::Upstream);
    Some(Harness { engine, secret, probe: Box::new(Listed { folder, server }) })
}

mod pki_with_leases {
    // All but the renewal: a certificate has its end in it.
    crate::contract!(super::pki_harness:
        the_definition_is_accepted_and_an_unknown_setting_is_not
        what_is_issued_works_and_can_be_read_again
        ending_says_what_became_of_it_and_can_be_repeated
        an_end_says_how_it_is_known
        ending_what_never_was_is_no_error
        settling_without_an_issue_finds_nothing
        an_issue_that_was_never_committed_is_settled
        nothing_but_the_value_holds_the_value
        what_exists_upstream_is_listed
        many_leases_at_once_do_not_disturb_each_other
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_lets_a_live_lease_in_and_a_revoked_one_not() {
    let folder = tempfile::tempdir().unwrap();
    let Some((server, settings)) = prepared(TLS, folder.path()).await else { return };
    let engine = engine(&server, b"state").await;
    let client = secret("mesh/shop", &engine, settings.clone());
    // The web server's own is of the same authority.
    server.put("pki/roles/server", json!({"allow_localhost": true, "client_flag": false, "max_ttl": "1h"})).await;
    let own = server.put("pki/issue/server", json!({"common_name": "localhost", "format": "pem_bundle"})).await;
    let put = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let (ca, web) = (folder.path().join("mesh-ca.pem"), put("server.pem", own["data"]["certificate"].as_str().unwrap().as_bytes()));
    let (asked, other, brief) = (Asked::new(), Asked::new(), Asked::new());
    let issued = issue(&engine, &client, &asked).await;
    let (mine, kept) = (put("mine.pem", issued.value.expose()), put("kept.pem", issue(&engine, &client, &other).await.value.expose()));
    // Nobody can revoke this one: its role makes no leases.
    let mut role = server.call(Method::Get, "pki/roles/mesh", Value::Null).await.1["data"].clone();
    role["generate_lease"] = false.into();
    server.put("pki/roles/mesh", role).await;
    let unleased = engine.issue(&Asked::new().order(&client)).await.err().unwrap();
    assert!(matches!(&unleased, EngineError::Setup(text) if text.contains("ends = \"short-life\"")), "{unleased}");
    let mut row = settings;
    row["ends"] = "short-life".into();
    let dying = secret("mesh/dying", &engine, row);
    let lapsing = issue(&engine, &dying, &brief).await;
    let lapsed = put("lapsed.pem", lapsing.value.expose());

    let Some(nginx) = Nginx::start(folder.path(), &web, &ca, &list(&server, folder.path())) else { return };
    let serial = attribute(&issued, "serial_number").replace(':', "");
    let (intent, said) = (asked.order(&client).intent_digest(), nginx.ask(&ca, Some(&mine)));
    assert_eq!(said, format!("{} UID=intent-{intent},UID={},CN=orders-service.mesh.example.com", serial.to_uppercase(), asked.lease));
    assert!(nginx.ask(&ca, Some(&kept)).contains("orders-service") && nginx.ask(&ca, Some(&lapsed)).contains("orders-service"));
    assert!(nginx.ask(&ca, None).contains("No required SSL certificate was sent"));
    assert!(nginx.ask(&ca, Some(&web)).contains("The SSL certificate error"), "a server's is no client's");
    let shown = text(&openssl(&["x509", "-noout", "-ext", "subjectAltName", "-in", mine.to_str().unwrap()]));
    assert!(shown.contains("URI:spiffe://example.com/orders-service"), "{shown}");

    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!(engine.end(brief.lease, &lapsing.reference).await.unwrap(), EndResult::Lapsed);
    drop(nginx);
    // nginx reads the list when it starts and when it is reloaded.
    let crl = list(&server, folder.path());
    let Some(nginx) = Nginx::start(folder.path(), &web, &ca, &crl) else { return };
    let said = nginx.ask(&ca, Some(&mine));
    assert!(said.contains("The SSL certificate error"), "{said}");
    let shown = text(&openssl(&["crl", "-noout", "-text", "-in", crl.to_str().unwrap()]));
    assert!(shown.to_lowercase().contains(&format!("serial number: {serial}")), "{shown}");
    assert!(nginx.ask(&ca, Some(&kept)).contains("orders-service") && nginx.ask(&ca, Some(&lapsed)).contains("orders-service"));
}
