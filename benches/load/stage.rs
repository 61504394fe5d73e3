//! What is measured against: a bare hyper server, and a real daemon with a temporary host's files, sockets passed as systemd would.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Response, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

/// The attestor is a process of its own, and the daemon has no privilege. Needs root.
pub static TWO: AtomicBool = AtomicBool::new(false);

/// The attestor's uid: one that no account has.
const ATTESTOR: u32 = 61_900;

/// Uids of the identities that ask all at once, from this one on.
pub const STORM_UID: u32 = 61_000;
/// How many of them.
pub const STORM: u32 = 300;

/// Limits that limit nothing: what is measured is the daemon, not its patience.
const OPEN: &str =
    "[limits]\nconnections = 10000\nconnections_total = 20000\nconnections_per_second = 1000000\nrequests_per_second = 1000000\n";

/// A child that ends with this program.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon with its folder.
pub struct Stage {
    dir: tempfile::TempDir,
    listeners: [UnixListener; 2],
    daemon: Guard,
    /// Ended after the daemon.
    attestor: Option<Guard>,
    kept: std::cell::RefCell<Vec<PathBuf>>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.kept.borrow().iter().for_each(|folder| drop(fs::remove_dir_all(folder)));
    }
}

impl Stage {
    /// Starts a daemon on a new state with one identity and so many more, and says how long it took to be ready, in milliseconds.
    pub fn start(more: u32) -> (Self, f64) {
        Self::start_with(more, OPEN, "")
    }

    /// The same with an engine and its secrets, of which these may be asked for by name alone.
    pub fn start_engine(engine: &str, secrets: &str, declared: &[&str]) -> (Self, f64) {
        // Behind the one identity that there is: they are its own.
        let uses = declared.iter().map(|secret| format!("[[identity.use]]\nsecret = \"{secret}\"\npurpose = \"bench\"\n"));
        Self::start_all(0, &format!("{OPEN}{engine}"), &uses.collect::<String>(), secrets)
    }

    /// Removes that folder too when it is over.
    pub fn keep(&self, folder: PathBuf) {
        self.kept.borrow_mut().push(folder);
    }

    /// One process or two, as the daemon itself says it.
    pub fn processes(&self) -> String {
        let status = self.operator("GET", "/v1/status", "");
        let attestor = self.attestor.as_ref().map_or_else(String::new, |attestor| format!(", {}", attestor.0.id()));
        format!("attestor: {} (pids {}{attestor})", status["attestor"].as_str().unwrap_or_default(), self.pid())
    }

    /// The same with these limits, and with more rows of identities.
    pub fn start_with(more: u32, limits: &str, rows: &str) -> (Self, f64) {
        Self::start_all(more, limits, rows, "")
    }

    fn start_all(more: u32, limits: &str, rows: &str, secrets: &str) -> (Self, f64) {
        let dir = folder();
        files(dir.path(), more, limits, rows);
        fs::write(dir.path().join("secrets.d/more.toml"), secrets).expect("own folder");
        let listeners = ["workload.sock", "operator.sock"].map(|name| {
            let path = dir.path().join(name);
            let listener = UnixListener::bind(&path).expect("own folder");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("own socket");
            claviger::sys::pass_credentials(&listener).expect("a socket");
            listener
        });
        let attestor = TWO.load(Ordering::Relaxed).then(|| launch_attestor(dir.path()));
        let (daemon, ready) = launch(dir.path(), &listeners);
        let stage = Self { dir, listeners, daemon, attestor, kept: Default::default() };
        stage.operator("PUT", "/v1/secrets/local/bench/confidential", &"p".repeat(40));
        (stage, ready)
    }

    /// Stops the daemon as a service manager does and starts it again on the same sockets; says how long until it was ready.
    pub fn restart(&mut self) -> f64 {
        let begin = Instant::now();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid() as i32), nix::sys::signal::Signal::SIGTERM).expect("own child");
        self.daemon.0.wait().expect("own child");
        eprintln!("... the old one has ended after {:.0} ms", begin.elapsed().as_secs_f64() * 1000.0);
        let (daemon, ready) = launch(self.dir.path(), &self.listeners);
        self.daemon = daemon;
        ready
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.daemon.0.id()
    }

    pub fn workload(&self) -> PathBuf {
        self.dir.path().join("workload.sock")
    }

    /// Asks on the operator socket.
    pub fn operator(&self, method: &str, path: &str, body: &str) -> serde_json::Value {
        let mut stream = UnixStream::connect(self.dir.path().join("operator.sock")).expect("the operator socket");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).expect("the operator socket");
        let (code, body) = reply(&mut stream);
        assert!((200..300).contains(&code), "{method} {path}: {code} {}", String::from_utf8_lossy(&body));
        serde_json::from_slice(&body).expect("JSON")
    }

    /// Live leases.
    pub fn live(&self) -> u64 {
        self.operator("GET", "/v1/status", "")["leases"]["live"].as_u64().expect("a count")
    }

    /// Resident KiB of the daemon.
    pub fn memory(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.trim().trim_end_matches(" kB").parse().ok());
        kib.expect("a running process has a resident size")
    }
}

/// A folder that other uids may look into.
pub fn folder() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("claviger-bench").tempdir().expect("a temporary folder");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("own folder");
    dir
}

fn launch(dir: &Path, listeners: &[UnixListener; 2]) -> (Guard, f64) {
    let mut command = Command::new("sh");
    command.args(["-c", "LISTEN_PID=$$ exec \"$@\"", "sh"]);
    let two = TWO.load(Ordering::Relaxed);
    if two {
        // Root by number, for the files are root's, and nothing of what root may.
        command.args(["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]);
    }
    command.arg(env!("CARGO_BIN_EXE_clavigerd")).arg("--config").arg(dir.join("clavigerd.toml"));
    if two {
        command.arg("--attestor").arg(dir.join("attest/attest.sock"));
    }
    command.env("CLAVIGER_LOG", "warn").env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "workload:operator").stdin(Stdio::null());
    let passed = [listeners[0].as_raw_fd(), listeners[1].as_raw_fd()];
    // SAFETY: only dup2 and fcntl, between fork and exec; above the numbers first, so that none overwrites the other.
    unsafe {
        command.pre_exec(move || {
            for (fd, at) in passed.iter().zip([30, 31]) {
                nix::libc::dup2(*fd, at);
            }
            for at in [30, 31] {
                nix::libc::dup2(at, at - 27);
                nix::libc::close(at);
            }
            Ok(())
        })
    };
    let began = Instant::now();
    let child = Guard(command.spawn().expect("the daemon starts"));
    let mut stream = UnixStream::connect(dir.join("operator.sock")).expect("the operator socket");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    stream.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n").expect("the operator socket");
    let (code, _) = reply(&mut stream);
    assert_eq!(code, 200, "the daemon is ready");
    (child, began.elapsed().as_secs_f64() * 1000.0)
}

/// The attestor with the two capabilities that its unit gives it.
fn launch_attestor(dir: &Path) -> Guard {
    let folder = dir.join("attest");
    fs::create_dir(&folder).expect("own folder");
    std::os::unix::fs::chown(&folder, Some(ATTESTOR), None).expect("root");
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={ATTESTOR}"), &format!("--regid={ATTESTOR}"), "--clear-groups"]);
    for set in ["--inh-caps", "--ambient-caps", "--bounding-set"] {
        command.args([set, "-all,+sys_ptrace,+dac_read_search"]);
    }
    command.args(["--", env!("CARGO_BIN_EXE_clavigerd"), "attest", "--config"]).arg(dir.join("clavigerd.toml"));
    command.arg("--socket").arg(folder.join("attest.sock")).env("CLAVIGER_LOG", "warn").stdin(Stdio::null());
    let child = Guard(command.spawn().expect("the attestor starts"));
    let until = Instant::now() + Duration::from_secs(20);
    while !folder.join("attest.sock").exists() {
        assert!(Instant::now() < until, "the attestor does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

fn files(dir: &Path, more: u32, limits: &str, rows: &str) {
    for folder in ["policy.d", "secrets.d", "identities.d", "audit"] {
        fs::create_dir(dir.join(folder)).expect("own folder");
    }
    let me = std::env::current_exe().expect("own path").canonicalize().expect("own path");
    let uid = fs::metadata(dir).expect("own folder").uid();
    let d = dir.display();
    let config = format!(
        "[sockets]\nworkload = \"{d}/workload.sock\"\noperator = \"{d}/operator.sock\"\n[paths]\nstate = \"{d}/state\"\naudit = \"{d}/audit\"\n\
         policy = \"{d}/policy.d\"\nsecrets = \"{d}/secrets.d\"\nidentities = \"{d}/identities.d\"\n[local]\nkey_file = \"{d}/key\"\n\
         [attest]\nclients = [\"{}\"]\n{}\
         {limits}[leases]\nper_identity = 100000000\n[audit]\nanchors = []\nhourly_bytes_per_identity = 68719476736\n",
        env!("CARGO_BIN_EXE_clav"),
        if TWO.load(Ordering::Relaxed) { format!("attestor_user = \"{ATTESTOR}\"\ndaemon_user = \"root\"\n") } else { String::new() }
    );
    let write = |name: &str, text: &str| fs::write(dir.join(name), text).expect("own folder");
    write("clavigerd.toml", &config);
    fs::write(dir.join("key"), [7u8; 32]).expect("own folder");
    fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o400)).expect("own file");
    write("policy.d/00-baseline.cedar", claviger::policy::BASELINE);
    let expires = claviger::model::WallTime(now_micros() + 30 * 86_400_000_000).rfc3339();
    let expires = &expires[..10];
    let mut grants = String::new();
    let mut identities = String::new();
    let names = std::iter::once(("bench".to_owned(), uid)).chain((0..more).map(|n| (format!("storm-{n}"), STORM_UID + n)));
    for (name, uid) in names {
        let _ = write!(
            grants,
            "@id(\"grant.{name}\") @owner(\"bench\") @purpose(\"bench\") @expires(\"{expires}\") @ticket(\"bench:1\") @lasting(\"yes\")\n\
             permit (principal == Claviger::Workload::\"{name}\", action == Claviger::Action::\"deliver\", resource in Claviger::Folder::\"bench\");\n"
        );
        let _ = write!(
            identities,
            "[[identity]]\nname = \"{name}\"\nkind = \"workload\"\nowner = \"bench\"\nenvironment = \"bench\"\npurposes = [\"bench\"]\n\
             max_sensitivity = \"confidential\"\nexpires = \"{expires}\"\nselectors = [\"unix:uid:{uid}\", \"unix:path:{}\"]\n\
             [[identity.use]]\nsecret = \"bench/confidential\"\npurpose = \"bench\"\n",
            me.display()
        );
    }
    write("policy.d/10-bench.cedar", &grants);
    identities += rows;
    write("identities.d/bench.toml", &identities);
    write(
        "secrets.d/bench.toml",
        "[[secret]]\nname = \"bench/confidential\"\nengine = \"local\"\nowner = \"bench\"\nsensitivity = \"confidential\"\n\
         environment = \"bench\"\npurposes = [\"bench\"]\noperation = \"read\"\nttl = { max = \"1h\" }\nreads_max = 1000000000\n\
         description = \"for measuring\"\n",
    );
}

/// Microseconds since 1970.
pub fn now_micros() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_micros() as u64
}

/// A request with a body.
pub fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// Takes a lease on a connection of this process: its id, and the bytes of such an answer.
pub fn lease(stream: &mut UnixStream) -> (String, usize) {
    stream.write_all(post("/v1/leases", r#"{"secret":"bench/confidential"}"#).as_bytes()).expect("the workload socket");
    let (code, body) = reply(stream);
    assert_eq!(code, 201, "{}", String::from_utf8_lossy(&body));
    let answer: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    (answer["lease"]["id"].as_str().expect("an id").to_owned(), body.len())
}

/// One answer: its status and body.
pub fn reply(stream: &mut impl Read) -> (u16, Vec<u8>) {
    let mut reader = BufReader::with_capacity(16 << 10, stream);
    let (mut code, mut length, mut line) = (0, 0, String::new());
    loop {
        line.clear();
        reader.read_line(&mut line).expect("an answer");
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            code = rest[..3].parse().expect("a status");
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" || line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    (code, body)
}

/// Starts the floor server of this program and waits for it.
pub fn floor(me: &str, dir: &Path) -> Guard {
    let child = Guard(Command::new(me).arg("--floor").arg(dir).spawn().expect("a server starts"));
    let until = Instant::now() + Duration::from_secs(20);
    while UnixStream::connect(dir.join("floor.sock")).is_err() {
        assert!(Instant::now() < until, "the floor server does not answer");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

/// A bare hyper server on a Unix socket and on loopback TCP; `GET /N` answers N bytes.
pub fn serve_floor(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        fs::write(dir.join("floor.port"), tcp.local_addr().expect("its address").to_string()).expect("own folder");
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(answer(TokioIo::new(stream)));
            }
        });
        let unix = tokio::net::UnixListener::bind(dir.join("floor.sock")).expect("own folder");
        while let Ok((stream, _)) = unix.accept().await {
            tokio::spawn(answer(TokioIo::new(stream)));
        }
    });
}

async fn answer<S: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(stream: S) {
    let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| async move {
        let bytes = request.uri().path()[1..].parse().unwrap_or(0);
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![b'x'; bytes]))))
    });
    let _ = http1::Builder::new().serve_connection(stream, service).await;
}
