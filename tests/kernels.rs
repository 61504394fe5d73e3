//! What each range of kernels gives, on one kernel: features are taken away by configuration. docs/kernels.md is the page to this.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use serde_json::Value;
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A daemon on sockets of its own, with this very test as its only identity.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    fn with(missing: &[&str]) -> Daemon {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().canonicalize().unwrap();
        for name in ["policy.d", "secrets.d", "identities.d"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        let write = |name: &str, text: &str, mode: u32| {
            fs::write(at.join(name), text).unwrap();
            fs::set_permissions(at.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        let place = at.display();
        let config = format!(
            "[sockets]\nworkload = \"{place}/w.sock\"\noperator = \"{place}/o.sock\"\n[paths]\nstate = \"{place}/state\"\naudit = \"{place}/audit\"\n\
             policy = \"{place}/policy.d\"\nsecrets = \"{place}/secrets.d\"\nidentities = \"{place}/identities.d\"\n\
             [attest]\nassume_missing = {missing:?}\n[audit]\nanchors = []\nreserve_bytes = 1\n[local]\nkey_file = \"{place}/key\"\n"
        );
        let soon = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
        let (uid, exe) = (nix::unistd::geteuid(), std::env::current_exe().unwrap());
        write("clavigerd.toml", &config, 0o644);
        write("key", &"6b".repeat(32), 0o400);
        write("policy.d/00-baseline.cedar", claviger::policy::BASELINE, 0o644);
        let identity = format!(
            "[[identity]]\nname = \"test\"\nkind = \"workload\"\nowner = \"me\"\nenvironment = \"dev\"\npurposes = [\"testing\"]\n\
             max_sensitivity = \"internal\"\nexpires = \"{soon}\"\nselectors = [\"unix:uid:{uid}\", \"unix:path:{}\"]\n",
            exe.display()
        );
        write("identities.d/i.toml", &identity, 0o644);
        let secret = "[[secret]]\nname = \"value\"\nengine = \"local\"\nowner = \"me\"\nsensitivity = \"internal\"\nenvironment = \"dev\"\n\
                      purposes = [\"testing\"]\noperation = \"read\"\nttl = { max = \"1h\" }\ndescription = \"A value\"\n";
        write("secrets.d/s.toml", secret, 0o644);
        let grant = format!(
            "@id(\"g\") @owner(\"me\") @purpose(\"testing\") @expires(\"{soon}\")\npermit (principal == Claviger::Workload::\"test\", \
             action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"value\");\n"
        );
        write("policy.d/g.cedar", &grant, 0o644);
        let daemon = Daemon { child: start(&at), folder };
        daemon.until_it_serves();
        daemon
    }

    fn until_it_serves(&self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while ["w.sock", "o.sock"].iter().any(|name| UnixStream::connect(self.socket(name)).is_err()) {
            assert!(Instant::now() < deadline, "the daemon does not serve");
            sleep(Duration::from_millis(20));
        }
    }

    fn socket(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn stop(&mut self) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.child.id() as i32), nix::sys::signal::SIGTERM).unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.stop();
        self.child = start(&self.folder.path().canonicalize().unwrap());
        self.until_it_serves();
    }

    fn status(&self) -> Value {
        Connection::to(&self.socket("o.sock")).call("GET", "/v1/status", "", None).1
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(at: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(at.join("log")).unwrap();
    Command::new(env!("CARGO_BIN_EXE_clavigerd"))
        .arg("--config")
        .arg(at.join("clavigerd.toml"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// One connection, used for one request after the other.
struct Connection(BufReader<UnixStream>);

impl Connection {
    fn to(socket: &Path) -> Connection {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Connection(BufReader::new(stream))
    }

    fn call(&mut self, method: &str, path: &str, body: &str, nonce: Option<&str>) -> (u16, Value) {
        let nonce = nonce.map(|nonce| format!("claviger-nonce: {nonce}\r\n")).unwrap_or_default();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: claviger\r\n{nonce}content-length: {}\r\n\r\n{body}", body.len());
        self.0.get_mut().write_all(head.as_bytes()).unwrap();
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the connection ended");
            let text = line.trim().to_ascii_lowercase();
            if let Some(code) = text.strip_prefix("http/1.1 ") {
                status = code[..3].parse().unwrap();
            } else if let Some(value) = text.strip_prefix("content-length: ") {
                length = value.parse().unwrap();
            } else if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

const ASK: &str = r#"{"secret": "value", "purpose": "testing"}"#;

/// Whether the folder for this test's files is one that the daemon can believe: not writable by others all the way up.
fn believable() -> bool {
    let mut at = std::env::temp_dir();
    loop {
        let Ok(meta) = fs::symlink_metadata(&at) else { return false };
        let sticky = meta.mode() & 0o1000 != 0 && meta.uid() == 0;
        if meta.mode() & 0o022 != 0 && !sticky {
            eprintln!("SKIPPED: {} is writable by others", at.display());
            return false;
        }
        if !at.pop() {
            return true;
        }
    }
}

fn put(daemon: &Daemon) {
    let (status, answer) = Connection::to(&daemon.socket("o.sock")).call("PUT", "/v1/secrets/local/value", "s3cret", None);
    assert_eq!(status, 201, "{answer}");
}

/// Where a peer is pinned at connect, whatever else is missing: attested at once, and its lease outlives the daemon on 6.9 and later.
fn pinned(missing: &[&str], says: &str) {
    if !believable() {
        return;
    }
    let mut daemon = Daemon::with(missing);
    put(&daemon);
    let kernel = daemon.status()["kernel"].as_str().unwrap().to_owned();
    assert!(kernel.starts_with(says), "{kernel}");
    let mut connection = Connection::to(&daemon.socket("w.sock"));
    let (_, who) = connection.call("GET", "/v1/whoami", "", None);
    assert_eq!((&who["assurance"], &who["identity"]["name"]), (&"program".into(), &"test".into()), "{who}");
    let (status, issued) = connection.call("POST", "/v1/leases", ASK, None);
    assert_eq!(status, 201, "{issued}");
    let lease = issued["lease"]["id"].as_str().unwrap().to_owned();
    daemon.restart();
    let (status, again) = Connection::to(&daemon.socket("w.sock")).call("GET", &format!("/v1/leases/{lease}/secret"), "", None);
    assert_eq!((status, &again["secret"]["value"]), (200, &"s3cret".into()), "{again}");
}

#[test]
fn linux_6_18_gives_everything() {
    pinned(&[], "full");
}

#[test]
fn linux_6_13_to_6_17_finds_holders_by_their_inode() {
    pinned(&["pidfd_handle"], "pinned: ");
}

#[test]
fn linux_6_9_to_6_12_takes_ids_from_proc() {
    pinned(&["pidfd_handle", "pidfd_info"], "pinned, ids from /proc");
}

#[test]
fn before_linux_6_5_a_nonce_proves_who_writes() {
    if !believable() {
        return;
    }
    let daemon = Daemon::with(&["pidfd_handle", "pidfd_info", "peer_pidfd"]);
    assert_eq!(daemon.status()["error"]["code"], "nonce_required", "operators prove it as well");
    let socket = daemon.socket("w.sock");
    let mut connection = Connection::to(&socket);
    let (status, asked) = connection.call("POST", "/v1/leases", ASK, None);
    assert_eq!((status, &asked["error"]["code"]), (401, &"nonce_required".into()), "{asked}");
    let nonce = asked["error"]["nonce"].as_str().unwrap().to_owned();
    // Neither a wrong one nor that of another connection.
    let (status, wrong) = connection.call("POST", "/v1/leases", ASK, Some("0000"));
    assert_eq!(status, 401, "{wrong}");
    let (status, other) = Connection::to(&socket).call("POST", "/v1/leases", ASK, Some(&nonce));
    assert_eq!(status, 401, "{other}");
    // The right one, and from then on the connection is known.
    let nonce = wrong["error"]["nonce"].as_str().unwrap().to_owned();
    let (status, answer) = connection.call("GET", "/v1/whoami", "", Some(&nonce));
    assert_eq!((status, &answer["assurance"]), (200, &"program".into()), "{answer}");
    // It got as far as the engine: what is missing is the value that nobody has put.
    let (status, answer) = connection.call("POST", "/v1/leases", ASK, None);
    assert_eq!((status, &answer["error"]["code"]), (404, &"no_value".into()), "{answer}");
}
