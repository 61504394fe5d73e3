//! A secret is where it was asked for and nowhere else: the whole story is played with values that are known, and then they are looked for
//! in everything that the daemon and its client wrote, said or let others see.

use super::{host::*, leaks::*, postgres::*};
use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    os::unix::fs::PermissionsExt,
    process::{Command, Output, Stdio},
    sync::{Arc, RwLock},
    time::Duration,
};

/// Each with something that every encoding writes in another way.
const TEXT: &str = "cnry-7f3a \"91d2\"/c4+\\\u{e9}%b0&=?-text";
const BYTES: &[u8] = b"\xff\x00\xfecnry-5be1-bytes\x80\x81\r\n\x01/?";
const OLD: &str = "cnry-0c77-a-version-before-\"the\"-last";
const MASTER: &[u8; 32] = b"cnry-e604-the-master-key-of-host";
/// Put where no value belongs, by somebody's mistake.
const LOST: &str = "cnry-33ad Misplaced \"value\"/of+somebody";
const PASTED: &str = "cnry-9be2-pasted-into-a-file-of-settings";

/// What was said and where, to be looked through at the end.
struct Story {
    host: Host,
    watch: Watch,
    said: Vec<(String, Vec<u8>)>,
}

impl Story {
    fn hear(&mut self, what: &str, bytes: &[u8]) {
        self.said.push((what.to_owned(), bytes.to_vec()));
    }

    /// Runs a script to its end and keeps both of its outputs; nothing secret may be in them.
    fn run(&mut self, uid: u32, script: &str, input: &[u8]) -> Output {
        let done = self.quietly(uid, script, input);
        self.hear(&format!("standard output of {script}"), &done.stdout);
        done
    }

    /// The same for one whose standard output may hold the value.
    fn quietly(&mut self, uid: u32, script: &str, input: &[u8]) -> Output {
        let mut child = self.host.shell(uid, script).spawn().unwrap();
        // A script that reads nothing may have ended.
        let _ = child.stdin.take().unwrap().write_all(input);
        let done = child.wait_with_output().unwrap();
        self.hear(&format!("standard error of {script}"), &done.stderr);
        done
    }

    /// An operator's verb, which must go well.
    fn operator(&mut self, script: &str) -> String {
        let done = self.run(0, script, b"");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        assert!(done.status.success(), "{script}: {text}{}", String::from_utf8_lossy(&done.stderr));
        text
    }

    /// A request by an actor, kept; what is in it beside the status.
    fn ask(&mut self, actor: &mut Actor, line: &str) -> serde_json::Value {
        actor.say(&format!("call {line}"));
        let answer = actor.line();
        self.hear(&format!("the answer to {line}"), answer.to_string().as_bytes());
        answer
    }
}

fn setup(cluster: Option<&Postgres>) -> Setup {
    let row = |name: &str, engine: &str, sensitivity: &str, more: &str| {
        secret(name, sensitivity, more).replace("engine = \"local\"", &format!("engine = \"{engine}\""))
    };
    let mut setup = Setup {
        config: "[attest]\nclients = [\"$DIR/bin/clav\"]\n[metrics]\ntextfile = \"$DIR/claviger.prom\"\n\
                 [limits]\nconnections_per_second = 10000\n[leases]\nend_tries = 2\n\
                 [[engine]]\nkind = \"jwt\"\nname = \"tokens\"\nissuer = \"https://tokens.example\"\nmax_ttl = \"1h\"\n\
                 [[engine]]\nkind = \"postgres\"\nname = \"away\"\nhost = \"$DIR\"\nport = 1\ndatabase = \"app\"\nuser = \"nobody\"\n"
            .to_owned(),
        // By uid alone: actors, shells and `clav` itself.
        identities: identity("shop", VICTIM, "").replace(", \"unix:path:$DIR/bin/shop\"", ""),
        secrets: row("app/text", "local", "internal", "")
            + &row("app/bytes", "local", "internal", "")
            + &row("app/none", "local", "internal", "")
            + &row("app/empty", "local", "internal", "")
            + &row("app/deep", "local", "critical", "")
            + &row("token/api", "tokens", "internal", "settings = { audience = \"api\" }")
            + &row("db/away", "away", "internal", "settings = { grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\"] }"),
        policy: ["app/text", "app/bytes", "app/empty", "app/deep", "token/api", "db/away", "db/orders", "db/broken"]
            .iter()
            .filter(|name| cluster.is_some() || !["db/orders", "db/broken"].contains(name))
            .map(|name| grant("shop", name))
            .collect(),
        environment: vec![("CLAVIGER_LOG".into(), "trace".into())],
        two: false,
    };
    if let Some(cluster) = cluster {
        setup.config += &format!(
            "[[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"{BROKER}\"\npassword_file = \"$DIR/broker\"\n",
            cluster.socket_folder().display(),
            cluster.port
        );
        let good = "GRANT USAGE ON SCHEMA app TO {{role}}\", \"GRANT SELECT ON app.orders TO {{role}}";
        setup.secrets += &row("db/orders", "pg", "internal", &format!("settings = {{ grants = [\"{good}\"] }}"));
        setup.secrets += &row("db/broken", "pg", "internal", "settings = { grants = [\"GRANT SELECT ON app.no_such_table TO {{role}}\"] }");
    }
    setup
}

fn started(cluster: Option<&Postgres>) -> Story {
    let mut host = Host::prepare(setup(cluster));
    for (name, bytes) in [("key", &MASTER[..]), ("broker", BROKER_PASSWORD.as_bytes())] {
        let _ = fs::remove_file(host.dir.join(name));
        fs::write(host.dir.join(name), bytes).unwrap();
        fs::set_permissions(host.dir.join(name), fs::Permissions::from_mode(0o400)).unwrap();
    }
    host.launch();
    let watch = Watch::start(Arc::new(RwLock::new(Needles::default())));
    for (name, value) in [
        ("the text", TEXT.as_bytes()),
        ("the bytes", BYTES),
        ("the old version", OLD.as_bytes()),
        ("the master key", MASTER),
        ("the engine's password", BROKER_PASSWORD.as_bytes()),
        ("the misplaced value", LOST.as_bytes()),
        ("the pasted value", PASTED.as_bytes()),
        // What a server keeps of a password is as good as it for whoever guesses.
        ("a password's verifier", b"SCRAM-SHA-256$4096:"),
    ] {
        watch.add(name, value);
    }
    Story { host, watch, said: Vec::new() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_is_seen_where_it_does_not_belong() {
    if !is_root() {
        return;
    }
    let cluster = Postgres::start().await;
    let mut story = started(cluster.as_ref());
    for (name, value) in [("app/text", OLD.as_bytes()), ("app/text", TEXT.as_bytes()), ("app/bytes", BYTES), ("app/deep", TEXT.as_bytes())]
    {
        assert!(story.run(0, &format!("clav secret put {name}"), value).status.success());
    }
    a_shell_and_a_command(&mut story);
    let mut holder = a_holder(&mut story, cluster.is_some());
    refusals_and_faults(&mut story, cluster.is_some());
    files_with_mistakes(&mut story);
    an_operators_day(&mut story, &mut holder);
    // A crash, and the story goes on.
    story.host.stop(true);
    story.host.launch();
    let lease = holder.lease();
    assert_eq!(story.operator("clav leases --all --json").matches(&lease).count(), 1);
    story.watch.a_round();
    let server_log = cluster.as_ref().map(Postgres::log);
    // Its source is gone when the holder dies: the end is tried, put off and given up.
    drop(cluster);
    holder.kill();
    let last = if server_log.is_some() { "irrevocable" } else { "end" };
    story.host.wait_until(Duration::from_secs(20), "the end is given up", |host| {
        host.records_of(last).iter().any(|record| record["lease"] == lease.as_str())
    });
    story.operator("clav status; clav leases --all; clav audit tail -n 100");
    if server_log.is_some() {
        // Its server is gone for good, which an operator says.
        let given_up = story.operator(&format!(
            "clav revoke {lease} --force; clav revoke {lease} --give-up 'the server is gone'; clav leases --all --json"
        ));
        assert!(given_up.contains("given up for good") && given_up.matches(&lease).count() == 2, "{given_up}");
        let acts = story.host.records_of("operator");
        let why = |record: &&serde_json::Value| record.to_string().contains("the server is gone");
        assert!(acts.iter().any(|record| why(&record) && record.to_string().contains(&lease)), "the reason is on the record");
        let figures = story.host.operator("GET", "/v1/metrics", "");
        let figures = figures.as_str().unwrap();
        let counted = |name: &str| figures.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap();
        assert!(counted("claviger_leases_irrevocable_total") >= 1 && counted("claviger_lease_end_retries_total") >= 1, "{figures}");
    }
    let mut host = story.host;
    host.stop(false);
    for folder in ["state", "audit"] {
        story.said.append(&mut files(&host.dir.join(folder)));
    }
    for file in ["daemon.log", "claviger.prom"] {
        story.said.push((file.to_owned(), fs::read(host.dir.join(file)).unwrap()));
    }
    let (places, bytes) = (story.said.len(), story.said.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
    eprintln!("{places} outputs and files with {bytes} bytes");
    assert!(places > 60 && bytes > 100_000, "the story was played");
    let needles = story.watch.needles();
    let found: Vec<_> =
        story.said.iter().map(|(place, bytes)| (place, needles.read().unwrap().within(bytes))).filter(|f| !f.1.is_empty()).collect();
    assert!(found.is_empty(), "{found:#?}");
    // Beside what this server was told by its own superuser, passwords are in its log as little.
    let told = server_log.map(|log| needles.read().unwrap().within(log.as_bytes())).unwrap_or_default();
    assert!(told.iter().all(|name| name.starts_with("a password's verifier") || name.starts_with("the engine's password")), "{told:?}");
    // Exactly what was let out on purpose: so the watch does see, and nothing else was there.
    let seen = story.watch.end();
    let child = "environ of sh -c : the child that asked;";
    let (meant, others): (BTreeSet<_>, BTreeSet<_>) =
        seen.into_iter().partition(|(_, place)| place.starts_with(child) || place.starts_with("cmdline of /bin/sh -c : the control;"));
    assert!(others.is_empty(), "{others:#?}");
    assert!(meant.iter().any(|(name, place)| name == "the text as itself" && place.starts_with(child)), "{meant:#?}");
    assert!(meant.iter().any(|(name, place)| name == "the control as itself" && place.starts_with("cmdline")), "{meant:#?}");
}

#[test]
fn what_is_looked_for_is_found_in_every_form() {
    use base64::{Engine, engine::general_purpose::*};
    let mut needles = Needles::default();
    needles.add("it", TEXT.as_bytes());
    let ahead = |n: usize| [&b"abc"[..n], TEXT.as_bytes(), b"z"].concat();
    let mut texts: Vec<Vec<u8>> =
        (0..3).flat_map(|n| [STANDARD.encode(ahead(n)), URL_SAFE_NO_PAD.encode(ahead(n))]).map(String::into_bytes).collect();
    texts.extend(
        [format!("{TEXT:?}"), serde_json::to_string(TEXT).unwrap(), hex::encode(TEXT), hex::encode_upper(TEXT)].map(String::into_bytes),
    );
    texts.extend([ahead(2), ahead(1)[..TEXT.len() / 2 + 2].to_vec(), format!("{:?}", TEXT.as_bytes()).into_bytes()]);
    texts.push(b"?x=cnry-7f3a%20%2291d2%22%2Fc4%2B%5C%C3%A9%25b0%26%3D%3F-text".to_vec());
    for text in texts {
        assert!(!needles.within(&text).is_empty(), "{}", String::from_utf8_lossy(&text));
    }
    assert!(needles.within(b"cnry-7f3 a and other words").is_empty());
}

/// `clav get` and `clav exec`, beside a process whose arguments really hold a value.
fn a_shell_and_a_command(story: &mut Story) {
    for (script, expected) in [
        ("clav get app/text --purpose testing", TEXT.as_bytes().to_vec()),
        ("clav get app/bytes --purpose testing", BYTES.to_vec()),
        ("x=$(clav get -q app/text --purpose testing); printf %s \"$x\"", TEXT.as_bytes().to_vec()),
        ("clav get -q app/bytes --purpose testing | cat", BYTES.to_vec()),
    ] {
        let done = story.quietly(VICTIM, script, b"");
        assert!(done.stdout == expected, "{script}: {done:?}");
    }
    let json = story.quietly(VICTIM, "clav get app/text --purpose testing --json", b"");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap()["secret"]["value"], TEXT);

    let control = "cnry-control-in-an-argument-list";
    story.watch.add("the control", control.as_bytes());
    let mut control = Command::new("/bin/sh").args(["-c", ": the control; read go", control]).stdin(Stdio::piped()).spawn().unwrap();
    // Both ways at once, for as long as the watch needs to look at everybody.
    let script = "clav exec --env WORD=app/text --secret app/bytes --purpose testing -- \
                  sh -c ': the child that asked; printf %s \"$WORD\"; read go; unset WORD; cat \"$APP_BYTES_FD\"'";
    let mut child = story.host.shell(VICTIM, script).spawn().unwrap();
    let mut word = vec![0; TEXT.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut word).unwrap();
    assert_eq!(word, TEXT.as_bytes());
    story.watch.a_round();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.stdout == BYTES, "{done:?}");
    story.hear("standard error of clav exec", &done.stderr);
    drop(control.stdin.take());
    control.wait().unwrap();
}

/// Leases of all engines: read again, renewed, given back. The holder of the one that stays is returned.
fn a_holder(story: &mut Story, database: bool) -> Actor {
    let stays = if database { "db/orders" } else { "app/text" };
    let body = format!(r#"{{"secret":"{stays}","purpose":"testing"}}"#);
    let mut holder = story.host.hold(VICTIM, "shop", &["hold", &body]);
    let lease = holder.lease();
    if database {
        story.watch.add("the database password", holder.first["body"]["secret"]["value"].as_str().unwrap().as_bytes());
    }
    for path in [format!("GET /v1/leases/{lease}/secret"), format!("GET /v1/leases/{lease}/secret")] {
        holder.say(&format!("call {path}"));
        assert_eq!(holder.line()["body"]["secret"], holder.first["body"]["secret"], "the same value again");
    }
    for path in [format!("POST /v1/leases/{lease}/renew"), format!("GET /v1/leases/{lease}"), "GET /v1/leases".to_owned()] {
        assert_eq!(story.ask(&mut holder, &path)["status"], 200);
    }
    for name in ["token/api", "app/text", "app/bytes"] {
        holder.say(&format!("call POST /v1/leases {{\"secret\":\"{name}\",\"purpose\":\"testing\"}}"));
        let issued = holder.line()["body"].clone();
        if name == "token/api" {
            let token = issued["secret"]["value"].as_str().unwrap();
            let signature = token.rsplit('.').next().unwrap();
            story.watch.add("the token", token.as_bytes());
            story.watch.add("the token's signature", signature.as_bytes());
        }
        let lease = issued["lease"]["id"].as_str().unwrap();
        assert_eq!(story.ask(&mut holder, &format!("POST /v1/leases/{lease}/renew"))["status"], 200);
        assert_eq!(story.ask(&mut holder, &format!("DELETE /v1/leases/{lease}"))["status"], 200);
        assert_eq!(story.ask(&mut holder, &format!("GET /v1/leases/{lease}/secret"))["status"], 410);
    }
    holder
}

/// What is refused, what fails at a source, and requests that hold a value where none belongs.
fn refusals_and_faults(story: &mut Story, database: bool) {
    let mut asker = story.host.hold(VICTIM, "shop", &["hold", r#"{"secret":"app/none","purpose":"testing"}"#]);
    assert_eq!(asker.first["status"], 403);
    let lost = serde_json::to_string(LOST).unwrap().replace(' ', "\\u0020");
    for (body, expected) in [
        (r#"{"secret":"app/deep","purpose":"testing"}"#.to_owned(), 403),
        (r#"{"secret":"app/empty","purpose":"testing"}"#.to_owned(), 404),
        (r#"{"secret":"app/text","purpose":"other"}"#.to_owned(), 403),
        (r#"{"secret":"db/away","purpose":"testing"}"#.to_owned(), 503),
        (format!("{{\"secret\":{lost},\"purpose\":\"testing\"}}"), 400),
        (format!("{{\"secret\":\"app/text\",\"purpose\":{lost}}}"), 400),
        (format!("{{\"secret\":\"app/text\",\"ttl\":{lost}}}"), 400),
        (format!("{{\"secret\":\"app/text\",\"value\":{lost}}}"), 400),
        (format!("{{\"secret\":\"app/text\",\"tickets\":[{lost}]}}"), 400),
        (format!("{{\"secret\":\"app/text\",\"holder\":{lost}}}"), 400),
        (format!("{{\"secret\":\"app/text\"{lost}"), 400),
    ] {
        let answer = story.ask(&mut asker, &format!("POST /v1/leases {body}"));
        assert_eq!(answer["status"], expected, "{body}: {answer}");
    }
    if database {
        let answer = story.ask(&mut asker, r#"POST /v1/leases {"secret":"db/broken","purpose":"testing"}"#);
        assert_eq!(answer["status"], 503, "{answer}");
    }
    for (script, input) in [
        ("clav secret put 'Not a name'", TEXT.as_bytes()),
        ("clav secret put app/text a-word-too-many", TEXT.as_bytes()),
        ("clav get app/none --purpose testing", b"" as &[u8]),
        ("clav exec --secret app/none --purpose testing -- true", b""),
        ("clav exec --env WORD=app/bytes --purpose testing -- true", b""),
        ("clav exec --secret app/text --purpose testing -- /no/such/command", b""),
    ] {
        assert!(!story.run(VICTIM, script, input).status.success(), "{script}");
        assert!(!story.run(0, script, input).status.success(), "{script}");
    }
    for (door, path) in
        [("operator", "/v1/secrets/local/Not%20a%20name"), ("workload", "/v1/secrets/local/app/text"), ("operator", "/v1/freeze")]
    {
        for body in [LOST.to_owned(), LOST.repeat(4_000), format!("{{\"frozen\":{lost}}}")] {
            let method = if path == "/v1/freeze" { "POST" } else { "PUT" };
            let (code, answer) = story.host.call(door, method, path, &body);
            assert!((400..500).contains(&code), "{door} {path}: {code} {answer}");
            story.hear(&format!("{door} {path}"), answer.to_string().as_bytes());
        }
    }
}

/// Files that do not load, with a value in each that somebody pasted there.
fn files_with_mistakes(story: &mut Story) {
    for (file, text) in [
        ("secrets.d/bad.toml", format!("[[secret]]\nname = \"app/bad\"\nvalue = \"{PASTED}\"\n")),
        ("secrets.d/bad.toml", format!("[[secret]]\nname = \"app/bad\"\nengine = \"{PASTED}!\"\n")),
        ("secrets.d/bad.toml", format!("[[secret]]\nname = \"app/bad\" {PASTED}\n")),
        ("identities.d/bad.toml", format!("[[identity]]\nname = \"bad\"\npassword = \"{PASTED}\"\n")),
        ("identities.d/bad.toml", format!("password = \"{PASTED}\n")),
        ("policy.d/60-bad.cedar", format!("permit (principal, action, resource) when {{ context.password == \"{PASTED}\" }};\n")),
        ("policy.d/60-bad.cedar", format!("permit (principal, action, resource) when {{ \"{PASTED} }};\n")),
    ] {
        story.host.write(file, &text);
        for script in ["clav policy check", "clav reload"] {
            assert!(!story.run(0, script, b"").status.success(), "{script} with {text}");
        }
        story.operator("clav status");
        fs::remove_file(story.host.dir.join(file)).unwrap();
    }
    story.operator("clav reload");
}

/// Every question that an operator may ask.
fn an_operators_day(story: &mut Story, holder: &mut Actor) {
    let requests: BTreeSet<String> =
        story.host.records().iter().filter_map(|record| record["request"].as_str().map(str::to_owned)).collect();
    assert!(requests.len() > 30, "{}", requests.len());
    for request in requests {
        story.operator(&format!("clav why {request} && clav why --json {request}"));
    }
    for by in ["--secret app/bytes", "--secret app/bytes --json"] {
        holder.say(r#"call POST /v1/leases {"secret":"app/bytes","purpose":"testing"}"#);
        assert_eq!(holder.line()["status"], 201);
        let ended = story.operator(&format!("clav revoke {by}"));
        assert!(ended.contains("lease-"), "{ended}");
    }
    let pid = holder.pid();
    for script in [
        "clav status && clav status --json",
        "clav leases --all && clav leases --all --json",
        "clav audit tail -n 1000 && clav audit tail -n 1000 --json",
        "clav secret ls",
        "clav identity ls && clav identity ls --json",
        "clav jwks export tokens",
        "clav freeze --reason looking && clav status && clav freeze --off",
        &format!("clav identity try --pid {pid} && clav identity try --pid {pid} --json"),
        &format!("clav explain app/text --purpose testing --pid {pid} && clav explain --json app/text --purpose testing --pid {pid}"),
    ] {
        story.operator(script);
    }
    // These may find something to complain about here.
    for script in [
        "clav doctor; clav doctor --json",
        "clav audit verify",
        "clav explain app/deep --purpose testing",
        "clav secrets",
        "clav whoami --json",
    ] {
        story.run(0, script, b"");
        story.run(VICTIM, script, b"");
    }
    let (code, metrics) = story.host.call("operator", "GET", "/v1/metrics", "");
    assert!(code == 200 && metrics.as_str().unwrap().contains("claviger_leases_issued_total"), "{metrics}");
    story.hear("the figures", metrics.as_str().unwrap().as_bytes());
}
