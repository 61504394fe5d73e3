//! What programs make, under the contract: logins of a real nginx that the shipped example makes, and a program of every bad habit. Each
//! call starts the program as `systemd-socket-activate` does, which stands in for the socket units; those are in `tests/command`.

use crate::{
    activated::Activated,
    static_roles::store,
    suite::{Asked, Harness, Probe, every_wait_has_a_deadline, secret},
};
use async_trait::async_trait;
use claviger::{
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, EngineError, Issued, Mark, Order, Over,
        command::{CommandConfig, CommandEngine},
        local::LocalStore,
    },
    model::{EndResult, EndsBy, EngineName, Operation, SecretDefinition, Target},
    sys::SystemClock,
};
use serde_json::{Value, json};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;

/// Generous: the machine may be busy with a build.
pub const LIMIT: Duration = Duration::from_secs(10);
/// For programs that do not end.
pub const SHORT: Duration = Duration::from_secs(2);
pub const CANARY: &str = "canary-of-a-plugin-8c21";

/// A program behind a socket.
pub struct Behind {
    pub folder: TempDir,
    socket: PathBuf,
    /// What is left of the daemon after a crash.
    pub store: Arc<LocalStore>,
    #[allow(dead_code, reason = "keeps the program")]
    activated: Activated,
}

impl Behind {
    fn start(program: &Path, folder: TempDir) -> Option<Self> {
        let socket = folder.path().canonicalize().unwrap().join("p.sock");
        let program = [Path::new("/usr/bin/python3"), program, folder.path()];
        let activated = Activated::start(&socket, &program, &folder.path().join("activator.log"))?;
        let store = store(&folder);
        Some(Self { folder, socket, store, activated })
    }

    pub fn text(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn engine(&self, timeout: Duration) -> CommandEngine {
        self.lingering(timeout, Duration::from_secs(1))
    }

    /// One whose programs may live so much longer than their calls.
    pub fn lingering(&self, timeout: Duration, lingers: Duration) -> CommandEngine {
        engine_at(&self.socket, &self.store, (timeout, lingers), true)
    }

    /// From now on calls of this kind go so.
    pub fn mood(&self, mood: &str) {
        fs::write(self.folder.path().join("mood"), mood).unwrap();
    }

    /// What the bad program has made and not taken back.
    pub fn made(&self) -> Vec<String> {
        let made = fs::read_dir(self.folder.path().join("made")).unwrap();
        made.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        // Children that left the group have said who they are.
        for child in self.text("log").lines().filter_map(|line| line.strip_prefix("child ")) {
            let _ = Command::new("kill").args(["-9", child]).stderr(Stdio::null()).status();
        }
    }
}

pub fn engine_at(socket: &Path, store: &Arc<LocalStore>, (timeout, lingers): (Duration, Duration), probes: bool) -> CommandEngine {
    let config = CommandConfig { name: EngineName::parse("under-test").unwrap(), socket: socket.to_owned(), timeout, lingers, probes };
    let root = SealKey::from_bytes(&[9; 32]).unwrap();
    CommandEngine::new(config, mark(), &root, store.clone(), Arc::new(SystemClock), Arc::new(SystemRandom::default()))
}

pub fn mark() -> Mark {
    Mark::new(b"machine", b"state")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

pub fn attribute(issued: &Issued, name: &str) -> String {
    issued.attributes.iter().find(|(known, _)| known == name).unwrap().1.clone()
}

// ---- the example: logins of nginx ------------------------------------------------------------------------------------------------

fn web_users() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/web-users/program/web-users")
}

/// A site of a real nginx that lets in who stands in the program's files.
pub struct Site {
    pub behind: Behind,
    nginx: Child,
    port: u16,
}

impl Site {
    pub fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let program = ["/usr/sbin/nginx", "/usr/local/sbin/nginx"].iter().find(|path| Path::new(path).exists());
        let Some(program) = program else {
            let text = "no nginx found (Debian: apt-get install nginx-light)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_PACKAGES").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        };
        let behind = Behind::start(&web_users(), folder)?;
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let place = behind.folder.path().display();
        let places: String =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|what| format!("{what}_temp_path {place}/{what};\n")).concat();
        let config = format!(
            "daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/error.log;\nevents {{}}\n\
             http {{\nlog_format who '$remote_user $status'; access_log {place}/access.log who;\n{places}server {{\nlisten 127.0.0.1:{port};\n\
             auth_basic status; auth_basic_user_file {place}/status.read;\n\
             location / {{ limit_except GET {{ auth_basic_user_file {place}/status.write; }} return 200 in; }}\n}}\n}}\n"
        );
        // "return" is answered before anybody is asked who they are; a page is not.
        let config = config.replace("return 200 in;", &format!("root {place}/pages;"));
        fs::create_dir(behind.folder.path().join("pages")).unwrap();
        fs::write(behind.folder.path().join("pages/index.html"), "in").unwrap();
        let file = format!("{place}/nginx.conf");
        fs::write(&file, config).unwrap();
        let mut nginx = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program, "-c", &file, "-e", &format!("{place}/error.log")])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(nginx.try_wait().unwrap().is_none(), "nginx: {}", behind.text("error.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(Self { behind, nginx, port })
    }

    /// The status that curl gets with this login.
    pub fn ask(&self, issued: &Issued, method: &str) -> String {
        let login = format!("{}:{}", attribute(issued, "user"), std::str::from_utf8(issued.value.expose()).unwrap());
        let url = format!("http://127.0.0.1:{}/", self.port);
        let done = run("curl", &["-s", "-o", "/dev/null", "-w", "%{http_code}", "--noproxy", "*", "-X", method, "-u", &login, &url]);
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}

#[async_trait]
impl Probe for Site {
    async fn works(&self, issued: &Issued) -> bool {
        self.ask(issued, "GET") == "200"
    }
}

fn status(engine: &CommandEngine) -> SecretDefinition {
    secret("status/login", engine, json!({"parameters": {"site": "status"}}))
}

async fn logins() -> Option<Harness> {
    let site = Site::start()?;
    let engine = Arc::new(site.behind.engine(LIMIT));
    let secret = status(&engine);
    Some(Harness { engine, secret, probe: Box::new(site) })
}

mod nginx_logins {
    crate::contract!(super::logins);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_lets_a_live_login_do_what_it_asked_for_and_knows_whose_it_is() {
    let Some(site) = Site::start() else { return };
    let engine = site.behind.engine(LIMIT);
    let secret = status(&engine);
    let (asked, other) = (Asked::new(), Asked::new());
    let reads = engine.issue(&asked.order(&secret)).await.unwrap();
    let writes = engine.issue(&Order { operation: Operation::Write, ..other.order(&secret) }).await.unwrap();
    // A file cannot be put to, so whoever may is told that, and who may not is not let in.
    assert_eq!([site.ask(&reads, "GET"), site.ask(&reads, "PUT")], ["200", "401"]);
    assert_eq!([site.ask(&writes, "GET"), site.ask(&writes, "PUT")], ["200", "405"]);
    let file = site.behind.text("status.read");
    let digest = asked.order(&secret).intent_digest();
    let told = format!(":lease={} identity=orders-service intent={digest}\n", asked.lease);
    assert!(file.contains(&told) && !file.contains(std::str::from_utf8(reads.value.expose()).unwrap()), "{file}");
    assert!(site.behind.text("access.log").contains(&format!("clv_{}_{} 200", mark(), asked.lease.bare())));
    // Nothing but its own line goes.
    assert_eq!(engine.end(asked.lease, &reads.reference).await.unwrap(), EndResult::Revoked);
    assert_eq!([site.ask(&reads, "GET"), site.ask(&writes, "GET")], ["401", "200"]);
    assert_eq!(engine.inventory().await.unwrap(), [other.lease]);
    // Without a site there is none.
    let nowhere = crate::suite::secret("status/login", &engine, json!({}));
    let error = engine.issue(&Asked::new().order(&nowhere)).await.err().unwrap();
    assert!(matches!(&error, EngineError::Setup(text) if text.contains("parameters need a site")), "{error:?}");
}

// ---- programs with bad habits ----------------------------------------------------------------------------------------------------

pub fn plugin() -> Option<Behind> {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("made")).unwrap();
    Behind::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/plugin.py"), folder)
}

fn row(engine: &CommandEngine, settings: Value) -> SecretDefinition {
    secret("app/key", engine, settings)
}

pub fn shown<T>(done: Result<T, EngineError>) -> String {
    done.err().map_or_else(|| "done".into(), |error| format!("{error:?}"))
}

/// As often as the broker would.
async fn settle(engine: &CommandEngine, asked: &Asked) -> Over {
    for _ in 0..20 {
        if let Ok(result) = engine.settle(asked.lease, None).await {
            return result;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("cannot be settled")
}

/// Whatever a program does when it is to make something: a clear error, no byte of the value in it, and nothing left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_whatever_habit_leaves_nothing() {
    let Some(behind) = plugin() else { return };
    for (how, wanted) in [
        ("hang", "Unreachable(\"under-test: create: the program had not ended after 2000 ms"),
        ("made-and-hang", "Unreachable(\"under-test: create: the program had not ended after 2000 ms"),
        ("deaf", "Unreachable(\"under-test: create: the program had not ended after 2000 ms"),
        ("daemon", "Unreachable(\"under-test: create: the program had not ended after 2000 ms"),
        ("early", "Unreachable(\"under-test: create: the program broke off"),
        ("flood", "Setup(\"under-test: create: the program answers with more than 65536 bytes"),
        ("garbage", "Setup(\"under-test: create: the program's answer is not one object of JSON, at byte 1"),
        ("truncated", "Setup(\"under-test: create: the program's answer is cut off"),
        ("two", "Setup(\"under-test: create: the program's answer is not one object of JSON"),
        ("nothing", "Unreachable(\"under-test: create: the program ended without an answer"),
        ("killed", "Unreachable(\"under-test: create: the program ended without an answer"),
        ("exit", "Unreachable(\"under-test: create: the program ended without an answer"),
        ("other-lease", "Setup(\"under-test: create: the program's answer is about another lease"),
        ("shout", "Setup(\"under-test: create: the program says: a\\\\x0ab\\\\x1b[31m\\\\xe2\\\\x80\\\\xae"),
        ("unreachable", "Unreachable(\"under-test: create: the program says: it rains"),
        ("refused", "Refused(\"under-test: create: the program says: it rains"),
        ("setup", "Setup(\"under-test: create: the program says: it rains"),
        ("no-value", "NoValue"),
    ] {
        let limit = if wanted.contains("2000 ms") { SHORT } else { LIMIT };
        let engine = behind.engine(limit);
        behind.mood(&format!("create {how}"));
        let (asked, secret) = (Asked::new(), row(&engine, json!({})));
        let said = shown(engine.issue(&asked.order(&secret)).await);
        assert!(said.starts_with(wanted), "{how}: {said}");
        assert!(!said.contains(CANARY) && said.len() < 600, "{how}: {said}");
        behind.mood("");
        let patient = behind.engine(LIMIT);
        let settled = settle(&engine, &asked).await;
        assert_eq!(behind.made(), [""; 0], "{how}: settled as {settled:?}");
        let good = patient.issue(&asked.order(&secret)).await.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!(good.value.expose(), CANARY.as_bytes());
        patient.end(asked.lease, &good.reference).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_done_when_the_program_said_so_and_not_before() {
    let Some(behind) = plugin() else { return };
    for (mood, wanted) in [
        ("revoke hang", "had not ended"),
        ("revoke made-and-hang", "had not ended"),
        ("revoke flood", "more than 65536 bytes"),
        ("revoke nothing", "ended without an answer"),
        ("revoke other-lease", "about another lease"),
        ("revoke refused", "it rains"),
        ("revoke no-value", "NoValue"),
        ("revoke stays", "probe: it lives after it was revoked"),
        ("probe nothing", "ended without an answer"),
        ("revoke secret-in-error", "Refused(\"under-test: revoke: the program says something that may hold the value"),
        ("revoke piece-in-error", "Refused(\"under-test: revoke: the program says something that may hold the value"),
    ] {
        let (patient, hasty) = (behind.engine(LIMIT), behind.engine(SHORT));
        let engine = if wanted == "had not ended" { &hasty } else { &patient };
        behind.mood("");
        let (asked, secret) = (Asked::new(), row(engine, json!({})));
        let issued = patient.issue(&asked.order(&secret)).await.unwrap();
        behind.mood(mood);
        let said = shown(engine.end(asked.lease, &issued.reference).await);
        assert!(said.contains(wanted) && !said.contains(CANARY), "{mood}: {said}");
        behind.mood("");
        assert_eq!(patient.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        assert_eq!(behind.made(), [""; 0], "{mood}");
    }
}

/// Whatever a program does when it is to prolong something: a clear error, and what there is is as good as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_is_done_when_the_program_said_so_and_not_before() {
    let Some(behind) = plugin() else { return };
    for (how, wanted) in [
        ("hang", "Unreachable(\"under-test: renew: the program had not ended after 2000 ms"),
        ("made-and-hang", "Unreachable(\"under-test: renew: the program had not ended after 2000 ms"),
        ("deaf", "Unreachable(\"under-test: renew: the program had not ended after 2000 ms"),
        ("daemon", "Unreachable(\"under-test: renew: the program had not ended after 2000 ms"),
        ("early", "Unreachable(\"under-test: renew: the program broke off"),
        ("flood", "Setup(\"under-test: renew: the program answers with more than 65536 bytes"),
        ("garbage", "Setup(\"under-test: renew: the program's answer is not one object of JSON, at byte 1"),
        ("truncated", "Setup(\"under-test: renew: the program's answer is cut off"),
        ("two", "Setup(\"under-test: renew: the program's answer is not one object of JSON"),
        ("nothing", "Unreachable(\"under-test: renew: the program ended without an answer"),
        ("killed", "Unreachable(\"under-test: renew: the program ended without an answer"),
        ("exit", "Unreachable(\"under-test: renew: the program ended without an answer"),
        ("other-lease", "Setup(\"under-test: renew: the program's answer is about another lease"),
        ("shout", "Setup(\"under-test: renew: the program says: a\\\\x0ab\\\\x1b[31m\\\\xe2\\\\x80\\\\xae"),
        ("secret-in-error", "Refused(\"under-test: renew: the program says something that may hold the value"),
        ("unreachable", "Unreachable(\"under-test: renew: the program says: it rains"),
        ("refused", "Refused(\"under-test: renew: the program says: it rains"),
        ("setup", "Setup(\"under-test: renew: the program says: it rains"),
    ] {
        let (patient, hasty) = (behind.engine(LIMIT), behind.engine(SHORT));
        let engine = if wanted.contains("2000 ms") { &hasty } else { &patient };
        behind.mood("");
        let (asked, secret) = (Asked::new(), row(engine, json!({})));
        let issued = patient.issue(&asked.order(&secret)).await.unwrap();
        behind.mood(&format!("renew {how}"));
        let said = shown(engine.renew(&asked.order(&secret), &issued.reference).await);
        assert!(said.starts_with(wanted), "{how}: {said}");
        assert!(!said.contains(CANARY) && said.len() < 600, "{how}: {said}");
        assert_eq!(engine.read_now(&asked.order(&secret), &issued.reference).unwrap().unwrap().value.expose(), CANARY.as_bytes());
        behind.mood("");
        patient.renew(&asked.order(&secret), &issued.reference).await.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!(patient.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
        assert_eq!(behind.made(), [""; 0], "{how}");
    }
}

/// What cannot be listed is not said to be nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_that_a_program_garbles_is_an_error() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let (asked, secret) = (Asked::new(), row(&engine, json!({})));
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    for (how, wanted) in [
        ("flood", "list: the program answers with more than 1048576 bytes"),
        ("garbage", "list: the program's answer is not one object of JSON"),
        ("truncated", "list: the program's answer is cut off"),
        ("two", "list: the program's answer is not one object of JSON"),
        ("nothing", "list: the program ended without an answer"),
        ("killed", "list: the program ended without an answer"),
        ("other-lease", "list: "),
        ("stays", "list: "),
        ("unreachable", "list: the program says: it rains"),
        ("refused", "list: the program says: it rains"),
    ] {
        behind.mood(&format!("list {how}"));
        let listed = engine.inventory().await;
        let said = format!("{:?}", listed.err().unwrap_or_else(|| panic!("{how}: a list")));
        assert!(said.contains(&format!("under-test: {wanted}")) && !said.contains(CANARY), "{how}: {said}");
        behind.mood("");
        assert_eq!(engine.inventory().await.unwrap(), [asked.lease], "{how}");
    }
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
}

/// A program that makes what it was asked for when nobody waits any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_makes_after_its_deadline_is_found_and_ended() {
    let Some(behind) = plugin() else { return };
    // The program makes it after the deadline, and before no program can live any more, also on a busy host.
    let hasty = || behind.lingering(SHORT, Duration::from_secs(5));
    let engine = hasty();
    behind.mood("create late");
    let secret = row(&engine, json!({"parameters": {"after": 2.5}}));
    let asked = Asked::new();
    assert!(matches!(engine.issue(&asked.order(&secret)).await, Err(EngineError::Unreachable(_))));
    assert_eq!(behind.made(), [""; 0]);
    assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Revoked, "it came after the first look");
    assert_eq!(behind.made(), [""; 0]);
    // The same for the one that was asked by a daemon that died.
    let (first, asked) = (hasty(), Asked::new());
    let secret = row(&engine, json!({"parameters": {"after": 1.5}}));
    let died = tokio::time::timeout(Duration::from_millis(1000), first.issue(&asked.order(&secret))).await;
    assert!(died.is_err());
    let next = hasty();
    assert_eq!(next.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Revoked);
    assert_eq!(behind.made(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_dies_too_early_or_too_late_or_says_its_value_is_no_credential() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let short = "short-life";
    for (settings, wanted) in [
        (json!({"parameters": {"later": -60}}), "dies 60 s before its lease"),
        (json!({"parameters": {"later": 86400}}), "done"),
        (json!({"ends": short}), "what nobody can revoke needs expires"),
        (json!({"ends": short, "parameters": {"later": 0}}), "done"),
        (json!({"ends": short, "parameters": {"later": -60}}), "dies 60 s before its lease"),
        (json!({"ends": short, "parameters": {"later": 2}}), "lives 2 s longer than its lease"),
        (json!({"parameters": {"answer": {"value": ""}}}), "a value of 0 bytes"),
        (json!({"parameters": {"answer": {"value": "x".repeat(15000) }}}), "done"),
        (
            json!({"parameters": {"answer": {"reference": {"it": format!("is {CANARY}")}}}}),
            "the value stands in an attribute or in the reference",
        ),
        (json!({"parameters": {"answer": {"attributes": {"it": CANARY}}}}), "the value stands in an attribute or in the reference"),
        (json!({"parameters": {"answer": {"reference": {"it": "x".repeat(3000)}}}}), "a reference of more than 2048 bytes"),
        (json!({"parameters": {"answer": {"attributes": {"a b": "c"}}}}), "attributes: names of"),
        (json!({"parameters": {"answer": {"attributes": {"a": 7}}}}), "attributes: names of"),
        (json!({"parameters": {"answer": {"value_base64": "AAEC"}}}), "exactly one of value and value_base64"),
    ] {
        let (asked, secret) = (Asked::new(), row(&engine, settings.clone()));
        let said = shown(engine.issue(&asked.order(&secret)).await);
        assert!(said.contains(wanted) && !said.contains(CANARY), "{settings}: {said}");
        engine.settle(asked.lease, Some(&secret)).await.unwrap();
        assert_eq!(behind.made(), [""; 0]);
    }
    // What cannot be revoked lapses, is not prolonged, and nobody is asked about it.
    let secret = row(&engine, json!({"ends": short, "parameters": {"later": 0}}));
    assert_eq!(engine.ends_by(&secret), EndsBy::ShortLife);
    let asked = Asked::new();
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    assert!(matches!(engine.renew(&asked.order(&secret), &issued.reference).await, Err(EngineError::Refused(_))));
    behind.mood("revoke refused");
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Lapsed);
    behind.mood("");
    // Renewed for less than was asked.
    let (secret, asked) = (row(&engine, json!({})), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    let less = row(&engine, json!({"parameters": {"later": -60}}));
    let renewed = engine.renew(&asked.order(&less), &issued.reference).await;
    assert!(matches!(&renewed, Err(EngineError::Refused(text)) if text.contains("60 s before its lease")), "{}", shown(renewed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_told_the_intent_and_lists_only_what_is_its_askers() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let settings = json!({"parameters": {"room": "b", "more": [1, {"a": null}]}});
    let (secret, asked) = (row(&engine, settings), Asked::new());
    let targets = [Target::parse("db.example.com:443").unwrap()];
    let order = Order { hosts: &targets, ..asked.order(&secret) };
    let issued = engine.issue(&order).await.unwrap();
    let name = format!("clv_{}_{}", mark(), asked.lease.bare());
    let told: Value = serde_json::from_str(&behind.text(&format!("made/{name}"))).unwrap();
    let intent = json!({"identity": "orders-service", "purpose": "serve-orders", "operation": "read", "targets": ["db.example.com:443"],
                        "digest": order.intent_digest()});
    assert_eq!(told["intent"], intent);
    assert_eq!(told["parameters"], json!({"room": "b", "more": [1, {"a": null}]}));
    for (member, wanted) in [
        ("version", json!(1)),
        ("call", json!("create")),
        ("mark", json!(mark().as_str())),
        ("lease", json!(asked.lease)),
        ("name", json!(name)),
        ("secret", json!("app/key")),
        ("request", json!(asked.request)),
        ("expires", json!(asked.expires.unix_secs())),
    ] {
        assert_eq!(told[member], wanted, "{member}");
    }
    let ttl = told["ttl"].as_u64().unwrap();
    assert!((200..=300).contains(&ttl) && told["deadline"].as_u64().unwrap() > crate::suite::now().unix_secs());
    // The environment is nobody's.
    assert!(!behind.text("log").contains("CARGO"), "{}", behind.text("log"));
    // What bears another mark, or is no name at all, is not ours to end.
    behind.mood("list others");
    assert_eq!(engine.inventory().await.unwrap(), [asked.lease]);
    behind.mood("");
    // The value is sealed into its own lease's row; the record gets what is not secret.
    let record = serde_json::to_string(&issued.reference.named()).unwrap();
    assert!(record.contains(&name) && record.contains(&order.intent_digest()) && !record.contains("sealed") && !record.contains(CANARY));
    let again = behind.engine(LIMIT);
    assert_eq!(again.read_now(&order, &issued.reference).unwrap().unwrap().value.expose(), CANARY.as_bytes());
    assert!(matches!(again.read(&Asked::new().order(&secret), &issued.reference).await, Err(EngineError::Setup(_))));
    engine.end(asked.lease, &issued.reference).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_stands_in_for_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().canonicalize().unwrap().join("p.sock");
    let engine = engine_at(&socket, &store(&folder), (LIMIT, SHORT), false);
    let (asked, secret) = (Asked::new(), row(&engine, json!({})));
    let said = shown(engine.issue(&asked.order(&secret)).await);
    assert!(said.starts_with("Unreachable") && said.contains("is its socket unit started?"), "{said}");
    // Nobody was asked, so there is nothing, whoever comes later.
    assert_eq!(engine.settle(asked.lease, Some(&secret)).await.unwrap(), EndResult::Lapsed);
    // Somebody who answers as a program would, at a socket that others may ask as well.
    let listener = UnixListener::bind(&socket).unwrap();
    impostor(listener);
    for mode in [0o666, 0o660] {
        fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).unwrap();
        let said = shown(engine.issue(&Asked::new().order(&secret)).await);
        assert!(said.starts_with("Setup") && said.contains("may be asked by others"), "{mode:o}: {said}");
    }
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(shown(engine.issue(&Asked::new().order(&secret)).await), "done", "the impostor knows the protocol");
    if !nix::unistd::geteuid().is_root() {
        eprintln!("\n*** SKIPPED: needs root; programs of others were NOT tested ***\n");
        return;
    }
    // Another user's socket in a folder like /tmp.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(&socket, Some(65534), None).unwrap();
    let said = shown(engine.issue(&Asked::new().order(&secret)).await);
    assert!(said.starts_with("Setup") && said.contains("belongs to another user"), "{said}");
    // Root's socket, at which another user listens.
    fs::remove_file(&socket).unwrap();
    let text = "import os, socket, sys, time\ns = socket.socket(socket.AF_UNIX)\ns.bind(sys.argv[1])\nos.chmod(sys.argv[1], 0o600)\nos.setuid(65534)\n\
                s.listen()\nprint(flush=True)\nwhile True:\n c, _ = s.accept()\n said = c.makefile().readline()\n if not said: continue\n \
                lease = said.split('\"lease\":\"')[1].split('\"')[0]\n c.send(('{\"version\":1,\"lease\":\"' + lease + '\",\"value\":\"of an impostor\"}').encode())\n c.close()\n";
    let mut other = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "python3", "-c", text])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let said = shown(engine.issue(&Asked::new().order(&secret)).await);
    let _ = other.kill();
    let _ = other.wait();
    assert!(said.starts_with("Setup") && said.contains("uid 65534 listens for the program"), "{said}");
}

/// Answers every call as the program would.
fn impostor(listener: UnixListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut text = String::new();
            if std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut text).is_err() || text.is_empty() {
                continue;
            }
            let asked: Value = serde_json::from_str(&text).unwrap();
            let answer = json!({"version": 1, "lease": asked["lease"], "value": "of an impostor"});
            let _ = std::io::Write::write_all(&mut stream, answer.to_string().as_bytes());
        }
    });
}

/// Programs that hang while they make something keep nobody from ending what there is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endings_do_not_wait_for_what_is_being_made() {
    let Some(behind) = plugin() else { return };
    let engine = Arc::new(behind.engine(LIMIT));
    let (secret, asked) = (row(&engine, json!({})), Asked::new());
    let issued = engine.issue(&asked.order(&secret)).await.unwrap();
    behind.mood("create hang");
    let hanging: Vec<_> = (0..20)
        .map(|_| {
            let (engine, secret) = (engine.clone(), secret.clone());
            tokio::spawn(async move { engine.issue(&Asked::new().order(&secret)).await.is_ok() })
        })
        .collect();
    while behind.text("log").matches("create ").count() < 3 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(engine.end(asked.lease, &issued.reference).await.unwrap(), EndResult::Revoked);
    assert!(hanging.iter().all(|task| !task.is_finished()), "they were not what was waited for");
    hanging.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_never_ends_does_not_hold_anybody() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(Duration::from_millis(500));
    behind.mood("any deaf");
    let secret = row(&engine, json!({}));
    // Five calls, each with its own deadline.
    every_wait_has_a_deadline(&engine, &secret, Duration::from_secs(2)).await;
}

#[test]
fn definitions_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let engine = engine_at(Path::new("/nowhere"), &store, (LIMIT, SHORT), false);
    let check = |settings: Value| engine.check(&row(&engine, settings)).err().unwrap_or_default();
    assert_eq!(check(json!({})), "");
    assert_eq!(check(json!({"ends": "upstream", "parameters": {"a": {"b": []}}})), "");
    for (bad, wanted) in [
        (json!({"ends": "never"}), "unknown variant `never`"),
        (json!({"parameters": "a"}), "expected a map"),
        (json!({"parameters": {"a": "x".repeat(17000)}}), "parameters: 16384 bytes"),
        (json!({"probes": true}), "unknown field `probes`"),
        (json!({"ends": "none"}), "needs probes = true of the engine"),
        (json!({"ends": "none", "parameters": {"a": "x".repeat(1100)}}), "parameters: 1024 bytes are the most where ends"),
        (json!({"overlap": true}), "overlap goes with ends = \"none\""),
    ] {
        assert!(check(bad.clone()).contains(wanted), "{bad}: {}", check(bad.clone()));
    }
    let engine = engine_at(Path::new("/nowhere"), &store, (LIMIT, SHORT), true);
    let lasts = row(&engine, json!({"ends": "none", "overlap": false}));
    assert_eq!((engine.check(&lasts), lasts.ends_by, engine.can_rotate(&lasts)), (Ok(()), EndsBy::None, true));
    assert!(!engine.can_rotate(&row(&engine, json!({}))));
}
