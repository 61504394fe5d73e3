//! Attacks on attestation as loops with a fixed order. `docs/known-attacks.md` has a row for each.

use super::host::*;

const ONE: &str = r#"{"secret":"app/one"}"#;

fn started(config: &str) -> Host {
    let host = Host::start(Setup {
        config: config.to_owned(),
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "value-one");
    host
}

const GENEROUS: &str = "[limits]\nconnections = 1000\nconnections_per_second = 100000\n";

fn none_served(answers: &[serde_json::Value]) {
    for answer in answers {
        assert!(answer["body"]["secret"].is_null() && answer["status"] != 201, "{answer}");
    }
}

#[test]
fn a_foreign_writer_on_a_connection_is_cut() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let answers = host.act(VICTIM, "orders", &["foreign", ONE, "200"]);
    assert_eq!(answers.len(), 200);
    assert!(answers.iter().all(|answer| answer["first"] == 200), "the connection itself was good");
    none_served(&answers);
    let halves = host.act(VICTIM, "orders", &["half", ONE, "200"]);
    assert_eq!(halves.len(), 200);
    none_served(&halves);
    let cut: u64 = host
        .records()
        .iter()
        .filter(|record| record["code"] == "foreign_writer")
        .map(|record| record["folded"]["count"].as_u64().unwrap_or(1))
        .sum();
    assert!(cut >= 20, "cuts are on the record, the first ones each by itself: {cut}");
}

#[test]
fn a_reused_pid_is_not_the_process_that_connected() {
    if !is_root() {
        return;
    }
    for config in [GENEROUS.to_owned(), format!("{GENEROUS}[attest]\nassume_missing = [\"pidfd_info\", \"pidfd_handle\"]\n")] {
        let host = started(&config);
        let victim = host.program("orders");
        let daemon = host.pid().to_string();
        let answers = host.act(0, "attacker", &["reuse", ONE, &victim, &VICTIM.to_string(), "50", &daemon]);
        assert_eq!(answers.len(), 50);
        let reused = answers.iter().filter(|answer| answer["reused"] == true).count();
        assert!(reused >= 25, "the attack itself works here: {reused} of 50");
        none_served(&answers);
    }
}

#[test]
fn a_zombie_peer_asks_for_nothing() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let answers = host.act(VICTIM, "orders", &["zombie", ONE, "50"]);
    assert_eq!(answers.len(), 50);
    none_served(&answers);
}

#[test]
fn changed_ids_and_passed_descriptors_are_refused() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    for _ in 0..20 {
        let answer = host.act(0, "orders", &["setid", &VICTIM.to_string(), ONE]).remove(0);
        assert_eq!(answer["first"], 200);
        none_served(&[answer]);
    }
    // Connected as root and turned into the victim's own program before anybody looked: the program is right, the ids at connect are not.
    for _ in 0..10 {
        let daemon = host.pid().to_string();
        let mut late = host.hold(0, "attacker", &["late", &VICTIM.to_string(), &host.program("orders"), ONE, &daemon]);
        assert!(std::process::Command::new("kill").args(["-CONT", &daemon]).status().unwrap().success());
        late.say("go");
        none_served(&[late.line()]);
    }
    let answer = host.act(VICTIM, "orders", &["descriptors"]).remove(0);
    assert_eq!(answer["status"], 0, "{answer}");
}

#[test]
fn another_program_in_the_same_process_reads_nothing_on_the_old_connection() {
    if !is_root() {
        return;
    }
    // No sweep comes in between: the connection itself must notice.
    let host = started(&format!("{GENEROUS}[leases]\nsweep = \"1h\"\n"));
    let evil = host.program("evil");
    for _ in 0..20 {
        let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
        let lease = holder.lease();
        holder.say(&format!("exec-fd {evil}"));
        assert_eq!(holder.line()["status"], 1);
        holder.say(&format!("call GET /v1/leases/{lease}/secret"));
        let answer = holder.line();
        assert!(answer["body"]["secret"].is_null(), "{answer}");
        assert_eq!(answer["body"]["error"]["code"], "program_changed", "{answer}");
        holder.say(&format!("call POST /v1/leases {ONE}"));
        none_served(&[holder.line()]);
    }
}

#[test]
fn odd_executables_match_no_path() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let whoami = ["call", "GET", "/v1/whoami"];
    for name in ["orders (deleted)", "orders\n", " orders", "orders\\x0a", "ORDERS"] {
        let answer = host.act(VICTIM, name, &whoami).remove(0);
        assert_eq!(answer["body"]["refused"]["code"], "no_identity", "{name:?}: {answer}");
        assert!(answer["body"]["attested"]["exe"]["path"].as_str().unwrap().bytes().all(|b| (0x20..0x7f).contains(&b)));
    }
    // A file that was replaced after its process started is not the file at that path.
    let mut holder = host.hold(VICTIM, "orders", &["hold", ONE]);
    assert_eq!(holder.first["status"], 201);
    let path = host.program("orders");
    std::fs::rename(&path, format!("{path}.old")).unwrap();
    host.program("orders");
    holder.say("fork-call GET /v1/whoami");
    let answer = holder.line();
    assert_eq!(answer["body"]["refused"]["code"], "no_identity", "{answer}");
}

#[test]
fn a_path_in_another_mount_namespace_is_not_the_hosts() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let (good, evil) = (host.program("orders"), host.program("evil"));
    // As the victim's uid, in a mount namespace of its own, the evil program lies where the good one should be.
    let script = format!(
        "mount --bind {evil} {good} && exec setpriv --reuid={VICTIM} --regid={VICTIM} --clear-groups -- env PYTHONHOME=/usr {good} -B {} {} call GET /v1/whoami",
        host.path("actor.py"),
        host.path("workload.sock"),
    );
    let output = std::process::Command::new("unshare").args(["--mount", "--", "sh", "-c", &script]).output().unwrap();
    let answer = lines(&output).remove(0);
    assert_eq!(answer["body"]["attested"]["exe"]["verified"], false, "{answer}");
    assert_eq!(answer["body"]["refused"]["code"], "no_identity");
    // Root of a user namespace of its own is nobody here.
    let script = format!("exec {good} -B {} {} call GET /v1/whoami", host.path("actor.py"), host.path("workload.sock"));
    let output = std::process::Command::new("setpriv")
        .args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", "unshare", "--user", "--map-root-user"])
        .args(["--", "env", "PYTHONHOME=/usr", "sh", "-c", &script])
        .output()
        .unwrap();
    let answer = lines(&output).remove(0);
    assert_eq!(answer["body"]["attested"]["uid"], VICTIM);
    assert_eq!((answer["body"]["assurance"].as_str(), answer["body"]["refused"]["code"].as_str()), (Some("uid"), Some("no_identity")));
}

#[test]
fn an_endless_table_of_mounts_holds_up_nobody_else() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let evil = host.program("evil");
    // In a namespace of its own, every mount is a new one and the table is longer than is read.
    let script = format!(
        "mkdir -p {0}/far && mount -t tmpfs x {0}/far && cd {0}/far && name=$(printf 'a%.0s' $(seq 250)) && mkdir -p $name/$name/$name && \
         {evil} -B -c \"import ctypes,os; c=ctypes.CDLL(None); d=('/'.join(['a'*250]*3)).encode(); \
         [c.mount(b'/usr', d, None, 4096, None) for _ in range(7000)]\" && \
         for n in 1 2 3 4 5 6 7 8; do {evil} -B {1} {2} call GET /v1/whoami; done",
        host.dir.display(),
        host.path("actor.py"),
        host.path("workload.sock"),
    );
    let attack = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--", "sh", "-c", &script])
        .env("PYTHONHOME", "/usr")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let attack = std::thread::spawn(move || attack.wait_with_output().unwrap());
    while !attack.is_finished() {
        let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ONE]).remove(0);
        assert_eq!(answer["status"], 201, "{answer}");
    }
    let output = attack.join().unwrap();
    let answers = lines(&output);
    assert_eq!(answers.len(), 8, "{}", String::from_utf8_lossy(&output.stderr));
    assert!(answers.iter().all(|answer| answer["body"]["error"]["code"] == "attestation_failed"), "{answers:?}");
}
