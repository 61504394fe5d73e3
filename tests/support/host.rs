//! A real daemon in a folder of its own, with real sockets, real processes and real uids around it.
//!
//! Everything is on this machine's loopback and Unix sockets; dropping a `Host` ends the daemon and removes the folder.

#![allow(dead_code, reason = "no suite uses all of it")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

#[path = "served.rs"]
mod served;

pub use served::Served;

/// Uids that no account has.
pub const VICTIM: u32 = 61_001;
pub const ATTACKER: u32 = 61_002;
pub const AGENT: u32 = 61_003;

/// The interpreter that is copied to make programs of any name.
const PYTHON: &str = "/usr/bin/python3";

/// A build with a defence taken out stands in when the tests themselves are tested.
pub fn program_under_test() -> String {
    std::env::var("CLAVIGER_TEST_DAEMON").unwrap_or_else(|_| env!("CARGO_BIN_EXE_clavigerd").to_owned())
}

/// Says loudly why a test did nothing.
pub fn is_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    if !root {
        eprintln!("\n*** SKIPPED: this test needs several uids, so it runs as root only ***\n");
    }
    root
}

/// The uid of the attestor, where it is a process of its own.
pub const ATTESTOR: u32 = 61_010;

pub struct Host {
    pub dir: PathBuf,
    daemon: Option<Served>,
    /// The attestor, in two processes.
    pub attestor: Option<Served>,
    two: bool,
    config: String,
    pub environment: Vec<(String, String)>,
}

/// What a test sets up before the daemon starts.
#[derive(Default)]
pub struct Setup {
    pub config: String,
    pub identities: String,
    pub secrets: String,
    pub policy: String,
    pub environment: Vec<(String, String)>,
    /// The attestor is a process of its own, and the daemon has no privilege. `CLAVIGER_TEST_PROCESSES=2` makes it so for every test.
    pub two: bool,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Host {
    /// Starts a daemon with this setup beside the shipped baseline.
    pub fn start(setup: Setup) -> Host {
        let mut host = Host::prepare(setup);
        host.launch();
        host
    }

    /// The same without starting it.
    pub fn prepare(setup: Setup) -> Host {
        let name = format!("/tmp/claviger-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(&name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        for folder in ["policy.d", "secrets.d", "identities.d", "bin"] {
            fs::create_dir(dir.join(folder)).unwrap();
        }
        fs::write(dir.join("key"), [9u8; 32]).unwrap();
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o400)).unwrap();
        let config = format!(
            "[sockets]\nworkload = \"{name}/workload.sock\"\noperator = \"{name}/operator.sock\"\n[paths]\nstate = \"{name}/state\"\n\
             audit = \"{name}/audit\"\npolicy = \"{name}/policy.d\"\nsecrets = \"{name}/secrets.d\"\nidentities = \"{name}/identities.d\"\n\
             [local]\nkey_file = \"{name}/key\"\n{}",
            setup.config
        );
        let two = setup.two || std::env::var("CLAVIGER_TEST_PROCESSES").is_ok_and(|n| n == "2");
        let users = format!("attestor_user = \"{ATTESTOR}\"\ndaemon_user = \"root\"\n");
        let config = match config.contains("[attest]\n") {
            true => config.replace("[attest]\n", &format!("[attest]\n{users}")),
            false => config.replace("[local]\n", &format!("[attest]\n{users}[local]\n")),
        };
        if two {
            fs::create_dir(dir.join("attest")).unwrap();
            std::os::unix::fs::chown(dir.join("attest"), Some(ATTESTOR), None).unwrap();
        }
        let config = config.replace("$DIR", &name);
        let host = Host { dir, daemon: None, attestor: None, two, config, environment: setup.environment };
        if host.config.contains("/bin/clav\"") {
            host.clav_is_there();
        }
        host.write("policy.d/00-baseline.cedar", claviger::policy::BASELINE);
        host.write("policy.d/50-test.cedar", &setup.policy);
        host.write("identities.d/test.toml", &setup.identities.replace("$DIR", &name));
        host.write("secrets.d/test.toml", &setup.secrets);
        host.write("clavigerd.toml", &host.config);
        host
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.dir.join(file), text).unwrap();
    }

    pub fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// Starts the attestor, with the two capabilities that its unit gives it and nothing else.
    pub fn launch_attestor(&mut self) {
        self.launch_attestor_with("-all,+sys_ptrace,+dac_read_search");
    }

    /// The same with these capabilities.
    pub fn launch_attestor_with(&mut self, caps: &str) {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={ATTESTOR}"), &format!("--regid={ATTESTOR}"), "--clear-groups"]);
        command.args(["--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps, "--", &program_under_test()]);
        command.arg("attest").arg("--config").arg(self.dir.join("clavigerd.toml")).arg("--socket").arg(self.attestor_socket());
        command.envs(self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()))).current_dir("/");
        self.attestor = Some(Served::start(&mut command, &self.dir.join("attestor.log"), &[]));
    }

    pub fn attestor_socket(&self) -> PathBuf {
        self.dir.join("attest/attest.sock")
    }

    /// Starts the daemon again after it was ended.
    pub fn launch(&mut self) {
        let sockets = ["operator.sock", "workload.sock"].map(|name| self.dir.join(name));
        let (mut command, log) = (self.daemon_command(&[]), self.dir.join("daemon.log"));
        self.daemon = Some(Served::start(&mut command, &log, &sockets.each_ref().map(|path| path.as_path())));
    }

    /// Starts it below another program, such as a tracer that leaves the process to us, and waits for nothing.
    pub fn launch_below(&mut self, program: &[String]) {
        let (mut command, log) = (self.daemon_command(program), self.dir.join("daemon.log"));
        self.daemon = Some(Served::spawn(&mut command, &log));
    }

    fn daemon_command(&mut self, below: &[String]) -> Command {
        let mut words = below.to_vec();
        if self.two {
            if self.attestor.is_none() {
                self.launch_attestor();
            }
            // Root by number, for the test's files are root's, and nothing of what root may.
            words.extend(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"].map(str::to_owned));
        }
        words.push(program_under_test());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if self.two {
            command.arg("--attestor").arg(self.attestor_socket());
        }
        command.arg("--config").arg(self.dir.join("clavigerd.toml"));
        command.envs(self.environment.iter().map(|(k, v)| (k.as_str(), v.as_str()))).current_dir(&self.dir);
        command
    }

    /// How the daemon ended, if it has.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.daemon.as_mut().and_then(Served::ended)
    }

    pub fn is_running(&mut self) -> bool {
        self.daemon.as_mut().is_some_and(Served::is_running)
    }

    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().pid()
    }

    /// `kill -9`, or an orderly stop; how it ended.
    pub fn stop(&mut self, hard: bool) -> Option<std::process::ExitStatus> {
        self.daemon.take().map(|daemon| daemon.end(if hard { "KILL" } else { "TERM" }))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("daemon.log")).unwrap_or_default()
    }

    /// Waits for an event, bounded; fails with what was waited for.
    pub fn wait_until(&mut self, within: Duration, what: &str, mut done: impl FnMut(&mut Host) -> bool) {
        let until = Instant::now() + within;
        while !done(self) {
            assert!(Instant::now() < until, "waited in vain until {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One request from this test's own process.
    pub fn call(&self, door: &str, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
        let stream = UnixStream::connect(self.dir.join(format!("{door}.sock"))).unwrap();
        exchange(stream, method, path, body)
    }

    pub fn operator(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let (code, answer) = self.call("operator", method, path, body);
        assert!((200..300).contains(&code), "{method} {path}: {code} {answer}");
        answer
    }

    pub fn put(&self, secret: &str, value: &str) {
        self.operator("PUT", &format!("/v1/secrets/local/{secret}"), value);
    }

    /// A program of its own name: a copy of the interpreter with the actor script, so that its path tells it apart.
    pub fn program(&self, name: &str) -> String {
        let path = self.dir.join("bin").join(name);
        if !path.exists() {
            // By another process: a child that is forked meanwhile by another test would hold the file open for writing ("text file busy").
            assert!(Command::new("cp").arg(fs::canonicalize(PYTHON).unwrap()).arg(&path).status().unwrap().success());
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            // Once: another thread may be running it.
            if !self.dir.join("actor.py").exists() {
                self.write("actor.py", include_str!("actor.py"));
            }
        }
        path.display().to_string()
    }

    /// A command that runs the actor of that name with these arguments as a user.
    pub fn actor(&self, uid: u32, program: &str, arguments: &[&str]) -> Command {
        let program = self.program(program);
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", &program, "-B"]);
        command.arg(self.dir.join("actor.py")).arg(self.dir.join("workload.sock")).args(arguments);
        command.env_clear().env("PYTHONHOME", "/usr").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Puts `clav` where scripts find it.
    pub fn clav_is_there(&self) {
        let there = self.dir.join("bin/clav");
        // Once: while it is written, another test's child may have it open for a moment, and then it cannot be run.
        if !there.exists() {
            fs::copy(env!("CARGO_BIN_EXE_clav"), there).unwrap();
        }
    }

    /// A shell script of a user's, with `clav` in its path: configured as the client (`clients = ["$DIR/bin/clav"]`), it speaks for the shell.
    pub fn shell(&self, uid: u32, script: &str) -> Command {
        let mut command = Command::new("setpriv");
        // The last command of a script would otherwise take the shell's place.
        let script = format!("{script}\nexit $?");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", "/bin/sh", "-c", &script]);
        command.env_clear().env("PATH", format!("{}:/usr/bin:/bin", self.path("bin"))).env("LC_ALL", "C.UTF-8").current_dir("/");
        command.env("CLAVIGER_SOCKET", self.path("workload.sock")).env("CLAVIGER_OPERATOR_SOCKET", self.path("operator.sock"));
        command.env("CLAVIGER_CONFIG", self.path("clavigerd.toml"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs an actor to its end and returns what it printed, one JSON value a line.
    pub fn act(&self, uid: u32, program: &str, arguments: &[&str]) -> Vec<serde_json::Value> {
        let output = self.actor(uid, program, arguments).output().unwrap();
        lines(&output)
    }

    /// Starts an actor that goes on until its standard input closes, and reads its first line.
    pub fn hold(&self, uid: u32, program: &str, arguments: &[&str]) -> Actor {
        Actor::of(self.actor(uid, program, arguments))
    }

    /// Every audit record so far.
    pub fn records(&self) -> Vec<serde_json::Value> {
        let mut files: Vec<PathBuf> = fs::read_dir(self.dir.join("audit")).unwrap().flatten().map(|e| e.path()).collect();
        files.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
        files.sort();
        let text: String = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    pub fn records_of(&self, kind: &str) -> Vec<serde_json::Value> {
        self.records().into_iter().filter(|record| record["kind"] == kind).collect()
    }

    /// The record of a lease's end, waited for.
    pub fn end_of(&mut self, lease: &str) -> serde_json::Value {
        let mut found = None;
        self.wait_until(Duration::from_secs(60), &format!("{lease} ends"), |host| {
            found = host.records_of("end").into_iter().find(|record| record["lease"] == lease);
            found.is_some()
        });
        found.unwrap()
    }

    /// What `clav audit receipt` says of a lease that has ended.
    pub fn receipt(&self, lease: &str) -> serde_json::Value {
        let audit = self.path("audit");
        let out =
            Command::new(env!("CARGO_BIN_EXE_clav")).args(["audit", "receipt", lease, &audit, "--json"]).output().expect("clav starts");
        assert!(out.status.success(), "{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        serde_json::from_slice(&out.stdout).expect("JSON")
    }

    pub fn live(&self) -> Vec<serde_json::Value> {
        self.operator("GET", "/v1/leases", "")["leases"].as_array().unwrap().clone()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.daemon.take());
        drop(self.attestor.take());
        if std::thread::panicking() {
            eprintln!("--- daemon log ---\n{}", self.log());
            if self.two {
                eprintln!("--- attestor log ---\n{}", fs::read_to_string(self.dir.join("attestor.log")).unwrap_or_default());
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A running actor.
pub struct Actor {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    pub first: serde_json::Value,
}

impl Actor {
    pub fn of(mut command: Command) -> Actor {
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut actor = Actor { child, output, first: serde_json::Value::Null };
        actor.first = actor.line();
        actor
    }

    /// Its next line; what it said on standard error instead, if it ended.
    pub fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| {
            let mut error = String::new();
            self.child.stderr.take().map(|mut e| e.read_to_string(&mut error));
            panic!("the actor said {line:?}: {error}")
        })
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn lease(&self) -> String {
        self.first["body"]["lease"]["id"].as_str().unwrap_or_else(|| panic!("no lease: {}", self.first)).to_owned()
    }

    /// Closes its standard input and waits for its end.
    pub fn close(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn lines(output: &Output) -> Vec<serde_json::Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let found: Vec<serde_json::Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(!found.is_empty(), "the actor said nothing: {text}{}", String::from_utf8_lossy(&output.stderr));
    found
}

fn exchange(mut stream: UnixStream, method: &str, path: &str, body: &str) -> (u16, serde_json::Value) {
    let mut once = |more: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{more}content-length: {}\r\n\r\n{body}", body.len());
        // A server that has heard enough may close before it has read all; its answer comes all the same.
        let _ = stream.write_all(request.as_bytes());
        let mut reader = BufReader::new(&stream);
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let before = head.len();
            let n = reader.read_line(&mut head).unwrap_or(0);
            assert!(n > 0, "{method} {path}: no answer: {head}");
            if let Some((name, value)) = head[before..].split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer).into_owned();
        (head[9..12].parse().unwrap(), serde_json::from_str(&text).unwrap_or(serde_json::Value::String(text)))
    };
    let (code, answer): (u16, serde_json::Value) = once("");
    match answer["error"]["nonce"].as_str() {
        Some(nonce) => once(&format!("claviger-nonce: {nonce}\r\n")),
        None => (code, answer),
    }
}

/// A workload identity selected by uid and the actor program's path.
pub fn identity(name: &str, uid: u32, more: &str) -> String {
    format!(
        "[[identity]]\nname = \"{name}\"\nkind = \"workload\"\nowner = \"team-test\"\nenvironment = \"test\"\npurposes = [\"testing\"]\n\
         max_sensitivity = \"critical\"\nexpires = \"2099-01-01\"\nselectors = [\"unix:uid:{uid}\", \"unix:path:$DIR/bin/{name}\"]\n{more}\n"
    )
}

/// A local secret.
pub fn secret(name: &str, sensitivity: &str, more: &str) -> String {
    format!(
        "[[secret]]\nname = \"{name}\"\nengine = \"local\"\nowner = \"team-test\"\nsensitivity = \"{sensitivity}\"\nenvironment = \"test\"\n\
         purposes = [\"testing\"]\noperation = \"read\"\nttl = {{ max = \"1h\" }}\ndescription = \"for a test\"\n{more}\n"
    )
}

/// A grant of one secret to one workload, for the next sixty days.
pub fn grant(identity: &str, secret: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let expires = claviger::model::WallTime(now + 60 * 86_400_000_000).rfc3339();
    format!(
        "@id(\"grant.{identity}.{}\") @owner(\"team-test\") @purpose(\"testing\") @expires(\"{}\") @ticket(\"test:1\") @lasting(\"yes\")\n\
         permit (principal == Claviger::Workload::\"{identity}\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"{secret}\");\n",
        secret.replace('/', "."),
        &expires[..10]
    )
}

/// The usual declared use.
pub fn declared(secret: &str) -> String {
    format!("[[identity.use]]\nsecret = \"{secret}\"\npurpose = \"testing\"\n")
}

pub fn exists(path: &str) -> bool {
    Path::new(path).exists()
}
