//! The demo's stage: a folder, a daemon, programs of their own names, and a look into the record.

use super::{actor::exchange, keeper::Keeper};
use crate::{
    audit::{self, Pinned},
    model::WallTime,
    policy::BASELINE,
    sys::{Clock, SystemClock},
};
use serde_json::Value;
use std::{
    fs,
    io::{self, BufRead, BufReader},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Why the demo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A file, process or socket.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// `clavigerd` is not beside `clav`.
    #[error("there is no clavigerd beside {0}; build both (cargo build --release)")]
    NoDaemon(PathBuf),
    /// Something did not happen in time.
    #[error("waited in vain for {0}\n{1}")]
    Late(String, String),
    /// An answer is not what it must be.
    #[error("{0}")]
    Answer(String),
}

/// Adds what was being done to an error.
pub trait While<T> {
    /// `what` was being done.
    fn doing(self, what: &str) -> Result<T, Trouble>;
}

impl<T> While<T> for io::Result<T> {
    fn doing(self, what: &str) -> Result<T, Trouble> {
        self.map_err(|error| Trouble::Io(what.to_owned(), error))
    }
}

/// The value that the demo keeps in the local store.
pub const ORDERS_KEY: &str = "an-api-key-that-only-the-demo-knows";

/// The agent's uid: one that no account has.
const AGENT: u32 = 61_004;

/// A running daemon in a folder of its own. Dropping it ends the daemon and removes the folder.
pub struct Stage {
    /// The folder.
    pub dir: PathBuf,
    daemon: Option<Child>,
    own: PathBuf,
    folders: Vec<PathBuf>,
    /// Rows of the configuration.
    engines: String,
    /// What does the same where nothing is dropped.
    pub keeper: Keeper,
}

impl Stage {
    /// Lays out the folder and starts the daemon.
    pub fn build() -> Result<Stage, Trouble> {
        let own = std::env::current_exe().and_then(|path| path.canonicalize()).doing("finding this program")?;
        let daemon = own.with_file_name("clavigerd");
        if !daemon.exists() {
            return Err(Trouble::NoDaemon(own));
        }
        let name = format!("claviger-demo-{}", std::process::id());
        let dir = std::env::temp_dir().canonicalize().doing("finding the folder for temporary files")?.join(name);
        let keeper = Keeper::start(&own)?;
        let mut stage = Stage { dir: dir.clone(), daemon: None, own, folders: Vec::new(), engines: String::new(), keeper };
        stage.own_folder(dir)?;
        stage.lay_out()?;
        stage.launch(&daemon)?;
        let put = stage.operator("PUT", "/v1/secrets/local/shop/orders-key", ORDERS_KEY)?;
        if put["version"] == 1 { Ok(stage) } else { Err(Trouble::Answer(put.to_string())) }
    }

    /// Makes a folder that goes with the stage.
    fn own_folder(&mut self, path: PathBuf) -> Result<(), Trouble> {
        fs::create_dir(&path).doing("making a folder")?;
        self.keeper.folder(&path)?;
        self.folders.push(path);
        Ok(())
    }

    /// One beside the stage's own, for a server.
    pub fn folder(&mut self, name: &str) -> Result<PathBuf, Trouble> {
        let path = self.dir.with_extension(name);
        self.own_folder(path.clone()).map(|()| path)
    }

    fn lay_out(&self) -> Result<(), Trouble> {
        fs::set_permissions(&self.dir, fs::Permissions::from_mode(0o755)).doing("making a folder")?;
        for folder in ["policy.d", "secrets.d", "identities.d", "bin", "audit"] {
            fs::create_dir(self.dir.join(folder)).doing("making a folder")?;
        }
        let mut key = [0; 32];
        crate::digest::Random::fill(&crate::digest::SystemRandom::default(), &mut key);
        self.write_secret("key", &hex::encode(key))?;
        let (dir, uid) = (self.dir.display(), crate::sys::euid());
        self.write("clavigerd.toml", &self.config(""))?;
        self.write("policy.d/00-baseline.cedar", BASELINE)?;
        let expires = WallTime(self.now().0 + 30 * 86_400_000_000).rfc3339();
        let expires = &expires[..10];
        let grant = |id: &str, principal: &str, folder: &str, purpose: &str| {
            format!(
                "@id(\"{id}\") @owner(\"team-shop\") @purpose(\"{purpose}\") @expires(\"{expires}\") @ticket(\"demo:1\") @lasting(\"yes\")\n\
                 permit (principal == Claviger::{principal}, action, resource in Claviger::Folder::\"{folder}\");\n"
            )
        };
        let grants = grant("grant.orders-api.shop", "Workload::\"orders-api\"", "shop", "serve-orders")
            + &grant("grant.robot.shop", "Agent::\"robot\"", "shop", "answer-customers");
        self.write("policy.d/10-grants.cedar", &grants)?;
        let identity = |name: &str, kind: &str, purpose: &str, more: &str| {
            format!(
                "[[identity]]\nname = \"{name}\"\nkind = \"{kind}\"\nowner = \"team-shop\"\nenvironment = \"demo\"\npurposes = [\"{purpose}\"]\n\
                 max_sensitivity = \"confidential\"\nexpires = \"{expires}\"\nselectors = [{more}\"unix:path:{dir}/bin/{name}\"]\n"
            )
        };
        let uid_selector = format!("\"unix:uid:{uid}\", ");
        let declared = ["shop/orders-key", "shop/database", "shop/tariff", "shop/bao-token"]
            .map(|secret| format!("[[identity.use]]\nsecret = \"{secret}\"\npurpose = \"serve-orders\"\n"));
        let orders = identity("orders-api", "workload", "serve-orders", &uid_selector) + &declared.concat();
        self.write("identities.d/workloads.toml", &orders)?;
        self.write("secrets.d/shop.toml", &secret("shop/orders-key", "local", "internal", "\"serve-orders\"", ""))?;
        // On one uid an agent and a workload exclude each other, so the agent has one of its own.
        self.write("identities.d/agents.toml", &identity("robot", "agent", "answer-customers", &format!("\"unix:uid:{AGENT}\", ")))?;
        self.write("secrets.d/customers.toml", &secret("shop/customer-data", "local", "confidential", "\"answer-customers\"", ""))
    }

    /// The daemon's configuration with more of it.
    fn config(&self, more: &str) -> String {
        let dir = self.dir.display();
        format!(
            "[sockets]\nworkload = \"{dir}/workload.sock\"\noperator = \"{dir}/operator.sock\"\n[paths]\nstate = \"{dir}/state\"\n\
             audit = \"{dir}/audit\"\npolicy = \"{dir}/policy.d\"\nsecrets = \"{dir}/secrets.d\"\nidentities = \"{dir}/identities.d\"\n\
             [local]\nkey_file = \"{dir}/key\"\n[audit]\nanchors = []\nreserve_bytes = 1048576\n{more}"
        )
    }

    /// Writes a file of the stage that nobody else could read at any moment.
    pub fn write_secret(&self, name: &str, text: &str) -> Result<(), Trouble> {
        let mut file = fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(file.write(true).create_new(true), 0o400);
        let written = file.open(self.dir.join(name)).and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()));
        written.doing(&format!("writing {name}"))
    }

    /// Writes a file of the stage.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Trouble> {
        fs::write(self.dir.join(name), text).doing(&format!("writing {name}"))
    }

    fn launch(&mut self, daemon: &PathBuf) -> Result<(), Trouble> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("daemon.log")).doing("opening a log")?;
        let child = Command::new(daemon)
            .arg("--config")
            .arg(self.dir.join("clavigerd.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .doing("starting clavigerd")?;
        self.keeper.process(&child, 15)?;
        self.daemon = Some(child);
        self.wait("the daemon's first answer", |stage| UnixStream::connect(stage.dir.join("operator.sock")).ok().map(drop))
    }

    /// Stops the daemon and starts it with other files and one more engine.
    pub fn restart(&mut self, engine: &str) -> Result<(), Trouble> {
        self.stop();
        self.engines.push_str(engine);
        self.write("clavigerd.toml", &self.config(&self.engines))?;
        let daemon = self.own.with_file_name("clavigerd");
        self.launch(&daemon)
    }

    fn stop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let told = crate::sys::Pidfd::open(daemon.id()).and_then(|pidfd| pidfd.signal(15));
            if told.is_err() {
                let _ = daemon.kill();
            }
            let _ = daemon.wait();
        }
    }

    /// Tries again until there is an answer, for ten seconds.
    pub fn wait<T>(&self, what: &str, mut look: impl FnMut(&Stage) -> Option<T>) -> Result<T, Trouble> {
        for _ in 0..1000 {
            if let Some(found) = look(self) {
                return Ok(found);
            }
            crate::sys::pause(Duration::from_millis(10));
        }
        Err(Trouble::Late(what.to_owned(), fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()))
    }

    /// One request on the operator socket.
    pub fn operator(&self, method: &str, path: &str, body: &str) -> Result<Value, Trouble> {
        let mut stream = UnixStream::connect(self.dir.join("operator.sock")).doing("reaching the operator socket")?;
        exchange(&mut stream, method, path, body).map(|answer| answer["body"].clone()).doing("asking the operator socket")
    }

    /// A child process that runs as a program of this name and asks.
    pub fn actor(&mut self, name: &str, body: &str) -> Result<Actor, Trouble> {
        let program = self.dir.join("bin").join(name);
        if !program.exists() {
            fs::copy(&self.own, &program).doing("copying a program")?;
        }
        let mut command = match name {
            "robot" => {
                let mut command = Command::new("setpriv");
                command.args([&format!("--reuid={AGENT}"), &format!("--regid={AGENT}"), "--clear-groups", "--"]).arg(&program);
                command
            }
            _ => Command::new(&program),
        };
        let mut child = command
            .arg("demo-actor")
            .arg(self.dir.join("workload.sock"))
            .arg(body)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .doing("starting a child")?;
        let mut line = String::new();
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).read_line(&mut line).doing("reading a child's answer")?;
        }
        let first = serde_json::from_str(&line).unwrap_or_default();
        Ok(Actor { child, first })
    }

    /// The same, ended at once.
    pub fn once(&mut self, name: &str, body: &str) -> Result<Value, Trouble> {
        self.actor(name, body).map(|mut actor| {
            actor.kill();
            std::mem::take(&mut actor.first)
        })
    }

    /// Goes on only with a secret that was issued.
    pub fn must_be_issued(&self, secret: &str, answer: &Value) -> Result<(), Trouble> {
        if answer["status"] == 201 {
            return Ok(());
        }
        let record = self.record(answer["body"]["request"].as_str().unwrap_or_default(), "refuse")?;
        Err(Trouble::Answer(format!("{secret} was not issued: {}", record["detail"])))
    }

    /// The record of a request.
    pub fn record(&self, request: &str, kind: &str) -> Result<Value, Trouble> {
        self.wait(&format!("the record of {request}"), |stage| {
            let why = stage.operator("GET", &format!("/v1/why/{request}"), "").ok()?;
            why["records"].as_array()?.iter().find(|record| record["kind"] == kind).cloned()
        })
    }

    /// The record of a lease's end.
    pub fn ended(&self, lease: &str) -> Result<Value, Trouble> {
        self.wait(&format!("the end of {lease}"), |stage| {
            let records = audit::query(&stage.dir.join("audit"), 0, &audit::Filter::default(), usize::MAX).ok()?;
            records
                .iter()
                .filter_map(|record| serde_json::to_value(record).ok())
                .find(|record| record["kind"] == "end" && record["lease"] == lease)
        })
    }

    /// What an offline verification finds wrong.
    pub fn verify(&self) -> Result<Vec<String>, Trouble> {
        let tampered = self.dir.join("tampered");
        let folder = if tampered.exists() { tampered } else { self.dir.join("audit") };
        let keys = audit::read_keys(&self.dir.join("audit/audit.pub")).doing("reading the public key")?;
        let report = audit::verify(&folder, &Pinned { keys, anchors: Vec::new(), max_unsigned: 0 }).doing("verifying")?;
        Ok(report.problems.iter().map(ToString::to_string).collect())
    }

    /// Changes one byte in the middle of a copy of the log.
    pub fn tamper(&self) -> Result<(), Trouble> {
        let copy = self.dir.join("tampered");
        fs::create_dir(&copy).doing("copying the log")?;
        for entry in fs::read_dir(self.dir.join("audit")).doing("copying the log")?.flatten() {
            fs::copy(entry.path(), copy.join(entry.file_name())).doing("copying the log")?;
            if entry.path().extension().is_some_and(|ending| ending == "jsonl") {
                let mut bytes = fs::read(entry.path()).doing("copying the log")?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                fs::write(copy.join(entry.file_name()), bytes).doing("copying the log")?;
            }
        }
        Ok(())
    }

    /// The wall clock.
    pub fn now(&self) -> WallTime {
        SystemClock.wall()
    }

    /// Microseconds from an instant to one that a record names.
    pub fn micros_after(&self, from: WallTime, to: &Value) -> u64 {
        to.as_str().and_then(WallTime::parse).map_or(0, |to| to.0.saturating_sub(from.0))
    }
}

/// A row of the catalogue.
pub fn secret(name: &str, engine: &str, sensitivity: &str, purpose: &str, more: &str) -> String {
    format!(
        "[[secret]]\nname = \"{name}\"\nengine = \"{engine}\"\nowner = \"team-shop\"\nsensitivity = \"{sensitivity}\"\nenvironment = \"demo\"\n\
         purposes = [{purpose}]\noperation = \"read\"\nttl = {{ max = \"12h\" }}\ndescription = \"for the demo\"\n{more}\n"
    )
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.stop();
        self.folders.iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
    }
}

/// A child process that holds a lease.
pub struct Actor {
    child: Child,
    /// The answer it got.
    pub first: Value,
}

impl Actor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.kill();
    }
}
