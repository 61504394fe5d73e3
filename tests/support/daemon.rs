//! A real `clavigerd` in a folder of its own, for any suite: `#[path = "../support/daemon.rs"] mod daemon;`.
//!
//! The folder holds configuration, key, state, log, sockets and copies of `clav`: `bin/clav` is configured as a client that speaks for its
//! parent, `bin/plain` is the same program unconfigured. As root, workloads run as [`Daemon::user`] (uid 1000); otherwise as the caller.
//! Dropping kills the daemon and removes the folder.

#![allow(dead_code, reason = "no suite uses all of it")]

use std::{
    fs::{self, Permissions},
    io::Write,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

#[path = "served.rs"]
mod served;

use served::Served;

/// What is different from the sample installation.
#[derive(Default)]
pub struct Options {
    /// Added to `clavigerd.toml`.
    pub config: String,
    /// Further files below `etc/`, such as `("policy.d/x.cedar", "...")`; they replace those of the sample.
    pub files: Vec<(String, String)>,
}

/// One daemon.
pub struct Daemon {
    /// Its workload socket.
    pub workload: PathBuf,
    /// Its operator socket.
    pub operator: PathBuf,
    /// Its folder.
    pub dir: PathBuf,
    /// The uid of workloads.
    pub user: u32,
    /// Workloads and the daemon have different users: only when root runs the tests.
    pub apart: bool,
    child: Option<Served>,
    _folder: tempfile::TempDir,
}

/// A value that must never be seen where it does not belong.
pub const CANARY: &str = "canary-7f3a91d2c4-value";

impl Daemon {
    /// Writes the sample installation with these changes and starts the daemon.
    pub fn start(options: &Options) -> Daemon {
        let folder = tempfile::Builder::new().prefix("claviger-").tempdir().unwrap();
        let dir = folder.path().canonicalize().unwrap();
        mode(&dir, 0o755);
        let me = fs::metadata(&dir).map(|meta| std::os::unix::fs::MetadataExt::uid(&meta)).unwrap();
        let user = if me == 0 { 1000 } else { me };
        for name in ["etc", "etc/policy.d", "etc/secrets.d", "etc/identities.d", "run", "bin", "log"] {
            fs::create_dir(dir.join(name)).unwrap();
            mode(&dir.join(name), 0o755);
        }
        for name in ["bin/clav", "bin/plain"] {
            // By another process: a child that is forked meanwhile by another test would hold the file open for writing ("text file busy").
            assert!(Command::new("cp").arg(env!("CARGO_BIN_EXE_clav")).arg(dir.join(name)).status().unwrap().success());
            mode(&dir.join(name), 0o755);
        }
        let mut daemon = Daemon {
            workload: dir.join("run/workload.sock"),
            operator: dir.join("run/operator.sock"),
            user,
            apart: me == 0,
            child: None,
            _folder: folder,
            dir,
        };
        daemon.write("key", &"6b".repeat(32), 0o400);
        daemon.write("clavigerd.toml", &(config(&daemon.dir) + &options.config), 0o644);
        daemon.write("policy.d/00-baseline.cedar", include_str!("../../config/policy.d/00-baseline.cedar"), 0o644);
        daemon.write("policy.d/50-grants.cedar", &grants(), 0o644);
        daemon.write("identities.d/tester.toml", &identities(user), 0o644);
        daemon.write("secrets.d/sample.toml", SECRETS, 0o644);
        for (name, text) in &options.files {
            daemon.write(name, text, 0o644);
        }
        daemon.run();
        daemon
    }

    /// Replaces a file below `etc/`.
    pub fn write(&self, name: &str, text: &str, bits: u32) {
        let path = self.dir.join("etc").join(name);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).unwrap();
        mode(&path, bits);
    }

    /// Starts the daemon and waits until it serves.
    pub fn run(&mut self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
        command.arg("--config").arg(self.dir.join("etc/clavigerd.toml"));
        command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM").env("CLAVIGER_LOG", "debug");
        self.child = Some(Served::start(&mut command, &self.log(), &[&self.workload, &self.operator]));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().pid()
    }

    /// Tells it to stop and waits.
    pub fn stop(&mut self) {
        self.child.take().unwrap().end("TERM");
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(child) = self.child.take() {
            child.end("KILL");
        }
    }

    /// Stops and starts it.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// `clav` as the caller of the tests: an operator.
    pub fn clav<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.command("bin/clav", &arguments).output().unwrap()
    }

    /// The same with something on standard input.
    pub fn clav_with<const N: usize>(&self, input: &[u8], arguments: [&str; N]) -> Output {
        let mut child =
            self.command("bin/clav", &arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Whoever refuses the command line does not read.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    /// An unconfigured `clav` as the user: it is the subject itself.
    pub fn plain<const N: usize>(&self, arguments: [&str; N]) -> Output {
        self.as_user(self.command("bin/plain", &arguments)).output().unwrap()
    }

    /// A shell of the user with the configured `clav` in its path: the shell is the subject.
    pub fn shell(&self, script: &str) -> Output {
        self.shell_command(script).output().unwrap()
    }

    /// The same, to be spawned.
    pub fn shell_command(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        // The last command of a script would otherwise take the shell's place.
        command.arg("-c").arg(format!("{script}\nexit $?")).stdin(Stdio::null());
        self.environment(&mut command);
        self.as_user(command)
    }

    /// A shell of the caller of the tests, with `clav` in its path.
    pub fn shell_of_operator(&self, script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(script).stdin(Stdio::null());
        self.environment(&mut command);
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.dir.join("bin").display()));
        command
    }

    /// `bin/NAME` with these arguments, not yet run.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.join(program));
        command.args(arguments).stdin(Stdio::null());
        self.environment(&mut command);
        command
    }

    /// Lets the command run as the user.
    pub fn as_user(&self, mut command: Command) -> Command {
        if self.apart {
            command.uid(self.user).gid(self.user);
        }
        command
    }

    fn environment(&self, command: &mut Command) {
        command.env("CLAVIGER_SOCKET", &self.workload).env("CLAVIGER_OPERATOR_SOCKET", &self.operator);
        command.env("CLAVIGER_CONFIG", self.dir.join("etc/clavigerd.toml"));
        command.env("PATH", format!("{}:/usr/bin:/bin", self.dir.join("bin").display())).current_dir("/");
    }

    /// Stores the canary as the value of `hello` and `other`.
    pub fn with_values(self) -> Daemon {
        for name in ["hello", "other", "deep"] {
            let put = self.clav_with(CANARY.as_bytes(), ["secret", "put", name]);
            assert_eq!(put.status.code(), Some(0), "{}", text(&put));
        }
        self
    }

    /// The daemon's own log.
    pub fn logged(&self) -> String {
        fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// All audit records as text.
    pub fn records(&self) -> String {
        let mut out = String::new();
        let mut paths: Vec<_> = fs::read_dir(self.dir.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")) {
            out.push_str(&fs::read_to_string(path).unwrap());
        }
        out
    }

    fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }
}

/// Standard output and error of a command, for messages.
pub fn text(output: &Output) -> String {
    format!("{:?}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Sends a signal to a process of ours.
pub fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap().success());
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, Permissions::from_mode(bits)).unwrap();
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"[sockets]
workload = "{dir}/run/workload.sock"
operator = "{dir}/run/operator.sock"
operator_group = "no-such-group"
[paths]
state = "{dir}/state"
audit = "{dir}/log"
policy = "{dir}/etc/policy.d"
secrets = "{dir}/etc/secrets.d"
identities = "{dir}/etc/identities.d"
[attest]
clients = ["{dir}/bin/clav"]
[local]
key_file = "{dir}/etc/key"
[audit]
anchors = []
reserve_bytes = 1048576
[[engine]]
kind = "jwt"
name = "tokens"
issuer = "https://tokens.example"
max_ttl = "1h"
"#
    )
}

/// The sample's identity, for workloads of this uid.
pub fn identities(user: u32) -> String {
    format!(
        r#"[[identity]]
name = "tester"
kind = "workload"
owner = "team-test"
environment = "test"
purposes = ["try", "other-purpose"]
max_sensitivity = "confidential"
expires = "2099-01-01"
selectors = ["unix:uid:{user}"]
[[identity.use]]
secret = "hello"
purpose = "try"
"#
    )
}

const SECRETS: &str = r#"
[[secret]]
name = "hello"
engine = "local"
owner = "team-test"
sensitivity = "public"
environment = "test"
purposes = ["try"]
operation = "read"
ttl = { default = "5m", max = "1h" }
description = "A greeting"
[[secret]]
name = "other"
engine = "local"
owner = "team-test"
sensitivity = "internal"
environment = "test"
purposes = ["try"]
operation = "read"
ttl = { default = "5m", max = "1h" }
description = "Granted to nobody"
[[secret]]
name = "deep"
engine = "local"
owner = "team-test"
sensitivity = "confidential"
environment = "test"
purposes = ["try"]
operation = "read"
ttl = { default = "5m", max = "1h" }
description = "Granted, but the evidence is missing"
[[secret]]
name = "missing"
engine = "local"
owner = "team-test"
sensitivity = "public"
environment = "test"
purposes = ["try"]
operation = "read"
ttl = { default = "5m", max = "1h" }
description = "Granted, without a value"
"#;

fn grants() -> String {
    let soon = chrono::Utc::now() + chrono::Days::new(60);
    let mut out = String::new();
    for name in ["hello", "deep", "missing"] {
        out.push_str(&format!(
            "@id(\"grant.tester.{name}\") @owner(\"team-test\") @purpose(\"try\") @expires(\"{}\") @lasting(\"yes\")\npermit (principal == Claviger::Workload::\"tester\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"{name}\");\n",
            soon.format("%Y-%m-%d")
        ));
    }
    out
}
