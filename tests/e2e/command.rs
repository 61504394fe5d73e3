//! A service whose login a program makes: it works until its holder dies, and neither `kill -9` of the daemon nor a program that cannot be
//! reached leaves anything behind. Programs are started without units here; those are in `tests/command`.

use super::{activated::Activated, host::*, leaks::Needles, residue::look};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    process::Command,
    time::Duration,
};

const ASK: &str = r#"{"secret":"status/login"}"#;
/// A login for each lease, and one that lasts.
const NAMES: [&str; 2] = ["status/login", "status/monitor"];
const ASK_LASTING: &str = r#"{"secret":"status/monitor"}"#;

/// A daemon, and the shipped example's program behind its socket.
struct Stage {
    host: Host,
    program: Option<Activated>,
    made: PathBuf,
}

impl Stage {
    fn new(timeout: u32) -> Option<Self> {
        let settings = "parameters = { site = \"status\" }";
        let host = Host::prepare(Setup {
            config: format!(
                "[[engine]]\nkind = \"command\"\nname = \"web-users\"\nsocket = \"$DIR/users.sock\"\ntimeout_seconds = {timeout}\nprobes = true\n"
            ),
            identities: identity("orders", VICTIM, &NAMES.map(declared).concat()),
            secrets: (secret(NAMES[0], "internal", &format!("settings = {{ {settings} }}"))
                + &secret(NAMES[1], "internal", &format!("settings = {{ ends = \"none\", {settings} }}")))
                .replace("engine = \"local\"", "engine = \"web-users\""),
            policy: NAMES.map(|name| grant("orders", name)).concat(),
            ..Setup::default()
        });
        let made = host.dir.join("users");
        fs::create_dir(&made).unwrap();
        let mut stage = Self { host, program: None, made };
        stage.program = stage.activated();
        stage.program.as_ref()?;
        stage.host.launch();
        Some(stage)
    }

    fn activated(&self) -> Option<Activated> {
        let socket = self.host.dir.join("users.sock");
        let _ = fs::remove_file(&socket);
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples/web-users/program/web-users");
        Activated::start(&socket, &["/usr/bin/python3".as_ref(), &program, &self.made], &self.host.dir.join("users.log"))
    }

    /// The leases whose logins there are.
    fn users(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.made.join("status.read")).unwrap_or_default();
        let lease = |line: &str| format!("lease-{}", line.split(':').next().unwrap().rsplit('_').next().unwrap());
        text.lines().map(lease).collect()
    }

    fn live(&self) -> BTreeSet<String> {
        self.host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
    }

    /// What the program has made is what lives, exactly.
    fn agree(&mut self, what: &str) {
        let mut last = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..400 {
            last = (self.users(), self.live());
            if last.0 == last.1 {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{what}: logins and leases {last:?}\n{}", self.host.log());
    }
}

#[test]
fn a_login_works_until_its_holder_dies_and_is_kept_nowhere() {
    if !is_root() {
        return;
    }
    let Some(mut stage) = Stage::new(20) else { return };
    let mut holder = stage.host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, stage.host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "upstream");
    let lease = holder.lease();
    assert_eq!(stage.users(), BTreeSet::from([lease.clone()]));
    let issue = stage.host.records_of("issue").pop().unwrap();
    let digest = issue["credential"]["intent"].as_str().unwrap();
    assert!(issue["credential"]["sealed"].is_null() && issue["credential"]["name"].as_str().unwrap().starts_with("clv_"));
    assert!(fs::read_to_string(stage.made.join("status.read")).unwrap().contains(digest));
    // Many values pass through, are read again, prolonged and given back.
    let mut needles = Needles::default();
    needles.add("the first", holder.first["body"]["secret"]["value"].as_str().unwrap().as_bytes());
    let mut call = |line: String| {
        holder.say(&format!("call {line}"));
        let answer = holder.line();
        assert!(answer["status"].as_u64().is_some_and(|status| status < 300), "{line}: {answer}");
        answer["body"].clone()
    };
    for n in 0..5 {
        let issued = call(r#"POST /v1/leases {"secret":"status/login","purpose":"testing"}"#.into());
        needles.add(&format!("value {n}"), issued["secret"]["value"].as_str().unwrap().as_bytes());
        let id = issued["lease"]["id"].as_str().unwrap();
        assert_eq!(call(format!("GET /v1/leases/{id}/secret"))["secret"], issued["secret"]);
        call(format!("POST /v1/leases/{id}/renew"));
        call(format!("DELETE /v1/leases/{id}"));
    }
    let memory = look(stage.host.pid(), &needles);
    let mut control = Needles::default();
    control.add("the control", b"grant.orders.status.login");
    assert!(!look(stage.host.pid(), &control).found.is_empty() && memory.read > 10 << 20, "whoever looks sees what is there");
    assert!(memory.found.is_empty(), "{:#?}", memory.found);
    for folder in ["state", "audit"] {
        for entry in walk(&stage.host.dir.join(folder)) {
            assert!(needles.within(&fs::read(&entry).unwrap()).is_empty(), "{}", entry.display());
        }
    }
    assert!(needles.within(stage.host.log().as_bytes()).is_empty());
    // What bears a new daemon's mark and is in no journal is half of what is there: it waits for a person. No other daemon's is touched.
    stage.host.stop(true);
    let file = stage.made.join("status.read");
    let text = fs::read_to_string(&file).unwrap();
    let bare = lease.strip_prefix("lease-").unwrap();
    let stray = text.replace(bare, "0000000000000000000000000a");
    let foreign = format!("clv_{}_{bare}:x\n", "0".repeat(16));
    fs::write(&file, format!("{text}{stray}{foreign}")).unwrap();
    stage.host.launch();
    let lines = |file: &PathBuf| fs::read_to_string(file).unwrap();
    stage.host.wait_until(Duration::from_secs(20), "the source is looked at", |host| {
        host.operator("GET", "/v1/engines", "")["engines"].as_array().unwrap().iter().any(|engine| engine["waiting"] == 1)
    });
    assert_eq!(lines(&file), format!("{text}{stray}{foreign}"));
    let ended = stage.host.operator("POST", "/v1/engines/web-users/reconcile", r#"{"end":true}"#);
    assert_eq!((ended["ended"].as_array().map(Vec::len), lines(&file)), (Some(1), format!("{text}{foreign}")), "{ended}");
    fs::write(&file, &text).unwrap();
    // It gives the same value, also while the program cannot be reached.
    stage.program = None;
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"]);
    let refused = stage.host.hold(VICTIM, "orders", &["hold", ASK]);
    let error = &refused.first["body"]["error"];
    assert_eq!((error["code"].as_str(), refused.first["status"].as_u64()), (Some("engine_unavailable"), Some(503)), "{}", refused.first);
    assert!(!refused.first.to_string().contains("web-users"), "why is for operators: {}", refused.first);
    let told = stage.host.records().into_iter().rev().find(|record| record["code"] == "engine_unavailable").unwrap().to_string();
    assert!(told.contains("web-users: create: connecting"), "{told}");
    holder.kill();
    stage.host.wait_until(Duration::from_secs(20), "the end is tried", |host| !host.records_of("retry").is_empty());
    stage.program = stage.activated();
    let end = stage.host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("revoked")));
    stage.agree("at the end");
    assert!(stage.users().is_empty());
}

fn rotate(host: &Host) -> (u16, Value) {
    host.call("operator", "POST", "/v1/rotations/status/monitor", "")
}

/// What is known of the login that lasts.
fn row(host: &Host) -> Value {
    host.operator("GET", "/v1/rotations", "")["rotations"][0].clone()
}

impl Stage {
    /// Whether the site lets a holder in with what it was given, as the program says.
    fn lets_in(&self, body: &Value) -> bool {
        let asked = serde_json::json!({"version": 1, "call": "probe", "deadline": 1u64 << 40, "mark": "0000000000000000",
            "name": body["attributes"]["user"], "value": body["secret"]["value"]});
        let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("config/examples/web-users/program/web-users");
        let mut child = Command::new("/usr/bin/python3")
            .arg(program)
            .arg(&self.made)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        writeln!(child.stdin.take().unwrap(), "{asked}").unwrap();
        let answer = child.wait_with_output().unwrap();
        serde_json::from_slice::<Value>(&answer.stdout).unwrap()["alive"] == true
    }

    /// How many logins there are that last.
    fn lasting(&self) -> usize {
        fs::read_to_string(self.made.join("status.read")).unwrap_or_default().matches(":secret=status/monitor").count()
    }
}

#[test]
fn a_login_that_lasts_is_changed_by_its_program_and_kept_sealed() {
    if !is_root() {
        return;
    }
    let Some(mut stage) = Stage::new(20) else { return };
    let early = stage.host.act(VICTIM, "orders", &["hold", ASK_LASTING]);
    assert_eq!((early[0]["status"].as_u64(), early[0]["body"]["error"]["code"].as_str()), (Some(404), Some("no_value")), "{early:?}");
    let mut needles = Needles::default();
    let mut holders: Vec<Actor> = Vec::new();
    for n in 1..=3 {
        let (status, answer) = rotate(&stage.host);
        assert_eq!((status, answer["version"].as_u64()), (200, Some(n)), "{answer}\n{}", stage.host.log());
        let holder = stage.host.hold(VICTIM, "orders", &["hold", ASK_LASTING]);
        let body = &holder.first["body"];
        assert_eq!(
            (body["lease"]["ends_by"].as_str(), body["attributes"]["version"].as_str()),
            (Some("none"), Some(n.to_string().as_str()))
        );
        needles.add(&format!("version {n}"), body["secret"]["value"].as_str().unwrap().as_bytes());
        holders.push(holder);
    }
    let lets_in: Vec<bool> = holders.iter().map(|holder| stage.lets_in(&holder.first["body"])).collect();
    assert_eq!((lets_in, stage.lasting()), (vec![false, true, true], 2), "the one before works, the one before that was taken back");
    let records = stage.host.records_of("rotate");
    assert!(records.iter().any(|record| record["outcome"] == "begun") && records.iter().any(|record| record["outcome"] == "done"));
    // No lease's login is touched by it, and it is none to be reconciled.
    let login = stage.host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(stage.host.call("operator", "POST", "/v1/engines/web-users/reconcile", "").1["orphans"], serde_json::json!([]));
    for folder in ["state", "audit"] {
        for entry in walk(&stage.host.dir.join(folder)) {
            assert!(needles.within(&fs::read(&entry).unwrap()).is_empty(), "{}", entry.display());
        }
    }
    assert!(needles.within(stage.host.log().as_bytes()).is_empty());
    // What somebody else takes out of the file is told, and mended by a change.
    fs::write(stage.made.join("status.read"), "").unwrap();
    drop((holders, login));
    stage.host.stop(true);
    stage.host.launch();
    stage.host.wait_until(Duration::from_secs(20), "it is told", |host| {
        row(host)["trouble"].as_str().is_some_and(|why| why.contains("version 3 does not work any more"))
    });
    assert_eq!(rotate(&stage.host).1["version"], 4, "{}", stage.host.log());
    assert!(row(&stage.host)["trouble"].is_null());
}

/// Each version that is taken back is on the record; so are those whose definition is gone, which end when an operator says so.
#[test]
fn versions_that_are_taken_back_are_on_the_record() {
    if !is_root() {
        return;
    }
    let Some(mut stage) = Stage::new(5) else { return };
    let changes: Vec<Value> = (0..3).map(|_| rotate(&stage.host).1).collect();
    let retired = stage.host.records_of("retire");
    let [one] = &retired[..] else { panic!("{retired:?}") };
    assert_eq!(
        (one["outcome"].as_str(), &one["request"], one["secret"]["version"].as_u64()),
        (Some("done"), &changes[2]["request"], Some(1))
    );
    assert_eq!((one["credential"]["found"].as_bool(), one["secret"]["name"].as_str()), (Some(true), Some(NAMES[1])));
    let mut holder = stage.host.hold(VICTIM, "orders", &["hold", ASK_LASTING]);
    let reconcile = |host: &Host, body: &str| host.operator("POST", "/v1/engines/web-users/reconcile", body);
    let nothing = serde_json::json!([null, null]);
    let values = |answer: &Value| serde_json::json!([answer["values"], answer["values_ended"]]);
    assert_eq!(values(&reconcile(&stage.host, r#"{"end":true,"end_values":true}"#)), nothing, "a definition names them");
    // A definition that makes a login for each lease now: what live leases have lasts as long as they.
    let file = stage.host.dir.join("secrets.d/test.toml");
    let rows = fs::read_to_string(&file).unwrap();
    fs::write(&file, rows.replace("ends = \"none\", ", "")).unwrap();
    stage.host.operator("POST", "/v1/reload", "");
    let spared = reconcile(&stage.host, r#"{"end_values":true}"#);
    let said = spared["failed"].to_string();
    assert!(said.contains(&format!("{} has a version of its secret; end that first", holder.lease())), "{spared}");
    assert_eq!((spared["values"].as_array().unwrap().len(), &spared["values_ended"], stage.lasting()), (2, &Value::Null, 2));
    holder.say(&format!("call-anew GET /v1/leases/{}/secret", holder.lease()));
    assert_eq!(holder.line()["body"]["secret"], holder.first["body"]["secret"], "it is read again");
    fs::write(&file, &rows).unwrap();
    stage.host.operator("POST", "/v1/reload", "");
    // The definition is taken away, and with it the right to what it gave.
    let (first, _) = rows.split_at(rows.rfind("[[secret]]").unwrap());
    assert!(first.contains(NAMES[0]) && !first.contains(NAMES[1]));
    fs::write(&file, first).unwrap();
    stage.host.operator("POST", "/v1/reload", "");
    stage.host.wait_until(Duration::from_secs(10), "its leases end", |host| host.live().is_empty());
    let looked = reconcile(&stage.host, "");
    let names = looked["values"].as_array().unwrap().clone();
    assert!(names.len() == 2 && looked["values_ended"].is_null() && stage.lasting() == 2, "{looked}");
    let engines = stage.host.operator("GET", "/v1/engines", "")["engines"].clone();
    assert!(engines.as_array().unwrap().iter().any(|row| row["name"] == "web-users" && row["left"] == 2), "{engines}");
    assert_eq!(values(&reconcile(&stage.host, r#"{"end":true}"#)), serde_json::json!([names, null]), "that ends other things");
    assert!(stage.lets_in(&holder.first["body"]));
    let ended = reconcile(&stage.host, r#"{"end_values":true}"#);
    assert_eq!(values(&ended), serde_json::json!([names, names]), "{ended}\n{}", stage.host.log());
    assert!(!stage.lets_in(&holder.first["body"]) && stage.lasting() == 0);
    let retired = stage.host.records_of("retire");
    let (mut told, mut wanted): (Vec<_>, _) = (retired[1..].iter().map(|record| record["credential"]["name"].clone()).collect(), names);
    told.sort_by_key(Value::to_string);
    wanted.sort_by_key(Value::to_string);
    assert_eq!(told, wanted);
    assert!(retired[1..].iter().all(|record| record["request"] == ended["request"] && record["credential"]["secret"] == NAMES[1]));
    assert_eq!(values(&reconcile(&stage.host, "")), nothing);
}

/// Needs the build with failpoints: `tests/mutations` runs it.
#[test]
fn killed_at_every_step_of_a_change_it_gives_what_works() {
    if !is_root() || std::env::var_os("CLAVIGER_TEST_FAILPOINTS").is_none() {
        return;
    }
    let Some(mut stage) = Stage::new(5) else { return };
    assert_eq!(rotate(&stage.host).0, 200);
    for (point, changed) in [("command-kept", false), ("command-set", false), ("command-tried", false), ("command-given", true)] {
        let before = row(&stage.host)["version"].as_u64().unwrap();
        stage.host.stop(false);
        stage.host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("{point}:1"))];
        stage.host.launch();
        let mut stream = UnixStream::connect(stage.host.path("operator.sock")).unwrap();
        stream.write_all(b"POST /v1/rotations/status/monitor HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "nobody is answered");
        stage.host.wait_until(Duration::from_secs(10), point, |host| !host.is_running());
        stage.host.stop(true);
        stage.host.environment.clear();
        stage.host.launch();
        let holder = stage.host.hold(VICTIM, "orders", &["hold", ASK_LASTING]);
        assert!(stage.lets_in(&holder.first["body"]), "{point}: {}", holder.first);
        // What was cut short is brought to its end by the daemon itself.
        let version = before + 1;
        stage
            .host
            .wait_until(Duration::from_secs(30), "it is changed", |host| row(host)["version"] == version && row(host)["trouble"].is_null());
        assert!(stage.lets_in(&holder.first["body"]), "{point}: the one before works");
        if changed {
            assert_eq!(holder.first["body"]["attributes"]["version"], version.to_string(), "{point}");
        }
        let holder = stage.host.hold(VICTIM, "orders", &["hold", ASK_LASTING]);
        let (status, answer) = rotate(&stage.host);
        assert_eq!((status, answer["version"].as_u64()), (200, Some(version + 1)), "{point}: {answer}");
        assert_eq!((stage.lets_in(&holder.first["body"]), stage.lasting()), (true, 2), "{point}");
    }
}

fn walk(folder: &std::path::Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).filter(|path| path.is_file()).collect()
}

#[test]
fn killed_while_programs_make_something_it_leaves_nothing() {
    if !is_root() {
        return;
    }
    let Some(mut stage) = Stage::new(5) else { return };
    for round in 0..3u64 {
        let commands: Vec<_> = (0..3).map(|_| stage.host.actor(VICTIM, "orders", &["hold", ASK])).collect();
        let killer = std::thread::spawn({
            let pid = stage.host.pid().to_string();
            move || {
                std::thread::sleep(Duration::from_millis(100 + round * 57 % 200));
                Command::new("kill").args(["-KILL", &pid]).status().unwrap();
            }
        });
        let holders: Vec<Actor> = commands.into_iter().map(Actor::of).collect();
        killer.join().unwrap();
        stage.host.stop(true);
        stage.host.launch();
        stage.agree(&format!("round {round}"));
        drop(holders);
        stage.host.wait_until(Duration::from_secs(60), "all leases end", |host| host.live().is_empty());
    }
    stage.agree("at the end");
    assert!(stage.users().is_empty());
}
