//! A real OAuth 2.0 authorization server for tests (oidc-provider, with TLS by an authority of its own), gone when the test process is.

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

/// The secret of the clients that have one.
pub const CLIENT_SECRET: &str = "a client's secret: with signs & spaces";
/// What the server's clients may have.
pub const SCOPES: [&str; 3] = ["orders.read", "orders.write", "stock.read"];

/// A running server with these clients: `basic`, `post`, `key` (authenticates with the keys of `jwks`), `short` (its tokens live for five
/// minutes, all others' for an hour) and `verifier`, which only looks.
pub struct AuthorizationServer {
    pub port: u16,
    pub ca_pem: String,
    folder: PathBuf,
    keeper: Child,
    client: Client,
}

impl AuthorizationServer {
    /// Starts a server that believes tokens of `issuer` signed by the keys of `jwks`, or says on standard error that there is none here.
    /// With `CLAVIGER_REQUIRE_OAUTH=1` its absence is a failure.
    pub async fn start(issuer: &str, jwks: &Value) -> Option<Self> {
        let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules");
        let found = modules.join("oidc-provider/package.json").exists() && Command::new("node").arg("--version").output().is_ok();
        if !found {
            let text = "no oidc-provider found (tests/run installs it from npm into target/node)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_OAUTH").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("claviger-oauth-").tempdir().expect("a temporary folder").keep();
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let ca_pem = lay_out(&folder, port, issuer, jwks);
        // Where the script's imports are looked for.
        std::os::unix::fs::symlink(&modules, folder.join("node_modules")).expect("a link");
        let keeper = spawn(&folder);
        let client =
            client_at(port, &ca_pem, Limits { connect: Duration::from_secs(10), call: Duration::from_secs(30), ..Limits::default() });
        let server = Self { port, ca_pem, folder, keeper, client };
        server.until_it_answers().await;
        Some(server)
    }

    /// A client that trusts its authority.
    pub fn client(&self, limits: Limits) -> Client {
        client_at(self.port, &self.ca_pem, limits)
    }

    /// What the server calls itself.
    pub fn issuer(&self) -> String {
        format!("https://localhost:{}", self.port)
    }

    /// What another client, one who only looks, is told about a token.
    pub async fn introspect(&self, token: &str) -> Value {
        let body = format!("client_id=verifier&client_secret=verifier-secret&token={token}");
        let headers: &[(&'static str, &[u8])] = &[("content-type", b"application/x-www-form-urlencoded")];
        let call =
            Call { method: Method::Post, path: "/token/introspection", headers, body: Some(body.into_bytes().into()), repeatable: true };
        let answer = self.client.call(call).await.expect("the server answers");
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        serde_json::from_slice(&answer.body).expect("JSON")
    }

    /// The tokens that live, of all clients.
    pub async fn alive(&self) -> Vec<String> {
        let call = Call { method: Method::Get, path: "/alive", headers: &[], body: None, repeatable: true };
        serde_json::from_slice(&self.client.call(call).await.expect("the server answers").body).expect("JSON")
    }

    /// Lets it hang, or go on.
    pub fn hang(&mut self, hang: bool) {
        let word = if hang { "STOP" } else { "CONT" };
        writeln!(self.keeper.stdin.as_mut().expect("a pipe"), "{word}").expect("the keeper listens");
        std::thread::sleep(Duration::from_millis(100));
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    async fn until_it_answers(&self) {
        for _ in 0..600 {
            let path = "/.well-known/openid-configuration";
            let call = Call { method: Method::Get, path, headers: &[], body: None, repeatable: true };
            if self.client.call(call).await.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("oidc-provider does not answer; its log:\n{}", self.log());
    }
}

impl Drop for AuthorizationServer {
    fn drop(&mut self) {
        // The keeper waits for its standard input to close: then it ends the server and removes the folder.
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn client_at(port: u16, ca_pem: &str, limits: Limits) -> Client {
    let address = Address::parse(&format!("https://localhost:{port}"), false).expect("an address");
    Client::new(address, None, || Trust::named(ca_pem.as_bytes()), None, limits, Arc::new(SystemClock)).expect("a client")
}

fn lay_out(folder: &Path, port: u16, issuer: &str, jwks: &Value) -> String {
    let ca_key = rcgen::KeyPair::generate().expect("a key");
    let mut ca = rcgen::CertificateParams::new(Vec::new()).expect("a certificate without names");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "authority of a test's oidc-provider");
    let ca_pem = ca.self_signed(&ca_key).expect("an authority").pem();
    let issuer_of_server = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a certificate for localhost");
    let certificate = params.signed_by(&key, &issuer_of_server).expect("a certificate");
    let client = |id: &str, more: Value| {
        let mut client = json!({
            "client_id": id,
            "client_secret": CLIENT_SECRET,
            "grant_types": ["client_credentials", "urn:ietf:params:oauth:grant-type:token-exchange"],
            "redirect_uris": [],
            "response_types": [],
            "scope": SCOPES.join(" "),
        });
        let members = client.as_object_mut().expect("an object");
        members.extend(more.as_object().expect("an object").clone());
        members.retain(|_, value| !value.is_null());
        client
    };
    let keys = jwks["keys"].as_array().cloned().unwrap_or_default();
    let signing: Vec<Value> = keys.iter().filter(|key| key["alg"] == "ES256").cloned().collect();
    let config = json!({
        "port": port,
        "cert": certificate.pem(),
        "key": key.serialize_pem(),
        "scopes": SCOPES,
        "seconds": {"short": 300},
        "host": {"issuer": issuer, "jwks": jwks},
        "clients": [
            client("basic", json!({"token_endpoint_auth_method": "client_secret_basic"})),
            client("post", json!({"token_endpoint_auth_method": "client_secret_post"})),
            client("short", json!({"token_endpoint_auth_method": "client_secret_basic"})),
            client("key", json!({"client_secret": null, "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES256", "jwks": {"keys": signing}})),
            client("verifier", json!({"client_secret": "verifier-secret", "token_endpoint_auth_method": "client_secret_post"})),
        ],
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("a file in the temporary folder");
    fs::write(folder.join("server.mjs"), include_str!("oidc-provider.mjs")).expect("a file in the temporary folder");
    ca_pem
}

/// A shell keeps the server: it stops and continues it as it is told, and when its standard input closes, because we said so or because we
/// are gone, it ends the server by its pid and removes the folder.
fn spawn(folder: &Path) -> Child {
    const KEEPER: &str = r#"
        folder=$1
        cd "$folder"
        env -i HOME="$folder" PATH="$PATH" node server.mjs config.json >>log 2>&1 </dev/null &
        server=$!
        while read -r word; do kill -"$word" "$server"; done
        kill -KILL "$server"
        wait "$server"
        cd /
        rm -rf "$folder"
    "#;
    let mut command = Command::new("sh");
    command.arg("-c").arg(KEEPER).arg("keeper").arg(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a shell")
}
