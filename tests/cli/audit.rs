//! The audit log as operators read it.

use super::*;
use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

fn sequence(line: &str) -> u64 {
    serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap()
}

#[test]
fn tail_shows_lines_for_people_and_filters() {
    let daemon = sample();
    exits(&daemon.plain(["get", "hello"]), 0);
    exits(&daemon.plain(["get", "other", "--purpose", "try"]), 10);
    let tail = exits(&daemon.clav(["audit", "tail"]), 0);
    assert!(tail.contains("tester") && tail.contains("issue") && tail.contains("for try") && tail.contains("no_grant"), "{tail}");
    assert!(!tail.contains(" head "), "{tail}");
    let refused = exits(&daemon.clav(["audit", "tail", "--outcome", "refused"]), 0);
    assert!(refused.contains("no_grant") && !refused.contains("issue"), "{refused}");
    assert_eq!(exits(&daemon.clav(["audit", "tail", "-n", "1", "--secret", "hello", "--json"]), 0).lines().count(), 1);
    assert!(exits(&daemon.clav(["audit", "tail", "--since", "1m", "--identity", "tester"]), 0).contains("issue"));
    assert_eq!(sequence(exits(&daemon.clav(["audit", "tail", "--from", "2", "--json"]), 0).lines().next().unwrap()), 2);
    exits(&daemon.clav(["audit", "tail", "--since", "yesterday"]), 2);
    exits(&daemon.clav(["audit", "tail", "--identity", "a b"]), 2);
    exits(&daemon.clav(["audit", "tail", "--outcome", "perhaps"]), 2);
    exits(&daemon.clav(["audit", "tail", "-f", "--operator-socket", "/nowhere/s"]), 12);
}

#[test]
fn search_says_who_had_a_secret_without_a_daemon() {
    let mut daemon = sample();
    exits(&daemon.plain(["get", "hello"]), 0);
    exits(&daemon.plain(["get", "other", "--purpose", "try"]), 10);
    daemon.stop();
    let found = exits(&daemon.clav(["audit", "search", "--secret", "hello", "--kind", "issue"]), 0);
    assert_eq!((found.lines().count(), found.contains("tester")), (1, true), "{found}");
    let who = exits(&daemon.clav(["audit", "search", "--secret", "hello", "--since", "1h", "--who", "--json"]), 0);
    let who: serde_json::Value = serde_json::from_str(&who).unwrap();
    assert_eq!((&who[0]["who"], &who[0]["issued"], &who[0]["refused"]), (&"tester".into(), &1.into(), &0.into()), "{who}");
    let refused = exits(&daemon.clav(["audit", "search", "--outcome", "refused", "--json"]), 0);
    assert!(refused.contains("no_grant") && refused.lines().all(|line| sequence(line) > 0), "{refused}");
    assert_eq!(exits(&daemon.clav(["audit", "search", "--secret", "hello", "--until", "2020-01-01"]), 0), "");
    for wrong in [["--kind", "reading"], ["--since", "June"], ["--lease", "7"], ["--secret", "a\"b"], ["--outcome", "perhaps"]] {
        exits(&daemon.clav(["audit", "search", wrong[0], wrong[1]]), 2);
    }
    exits(&daemon.clav(["audit", "search", "/nowhere"]), 1);
}

#[test]
fn a_receipt_says_what_is_known_of_an_end_and_where_it_stands() {
    let mut daemon = sample();
    exits(&daemon.plain(["get", "hello"]), 0);
    // Its holder was the command itself.
    let search = |daemon: &Daemon, kind: &str| exits(&daemon.clav(["audit", "search", "--secret", "hello", "--kind", kind, "--json"]), 0);
    for _ in 0..200 {
        if !search(&daemon, "end").is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    daemon.stop();
    let record = |kind: &str| serde_json::from_str::<serde_json::Value>(search(&daemon, kind).lines().next().unwrap()).unwrap();
    let (issue, end) = (record("issue"), record("end"));
    let lease = issue["lease"].as_str().unwrap();
    // Nothing is proven of it, and scripts hear that.
    let receipt: serde_json::Value = serde_json::from_str(&exits(&daemon.clav(["audit", "receipt", lease, "--json"]), 14)).unwrap();
    assert_eq!((receipt["state"].as_str(), receipt["hashes_fit"].as_bool()), (Some("none"), Some(true)), "a copy lives on: {receipt}");
    for (part, record) in [("issue", &issue), ("end", &end)] {
        assert_eq!((&receipt[part]["seq"], &receipt[part]["hash"]), (&record["seq"], &record["hash"]));
    }
    assert_eq!((&receipt["intent"], receipt["intent"].as_str().unwrap().len()), (&issue["intent"], 32));
    assert_eq!((&receipt["credential"], &receipt["secret"]["name"]), (&issue["credential"], &"hello".into()));
    assert!(receipt["head"].as_str().unwrap().starts_with("claviger-head-v1 "), "{receipt}");
    let words = exits(&daemon.clav(["audit", "receipt", lease]), 14);
    for word in [lease, "hello for tester", "nothing shows that a copy", end["hash"].as_str().unwrap(), "asked for at"] {
        assert!(words.contains(word), "{word} is missing:\n{words}");
    }
    exits(&daemon.clav(["audit", "receipt", "7"]), 2);
    exits(&daemon.clav(["audit", "receipt", "lease-01kb0000000000000000000000"]), 1);
    // What was edited is told apart.
    let log = std::fs::read_dir(daemon.dir.join("log")).unwrap().flatten();
    let file = log.map(|file| file.path()).find(|path| path.extension().is_some_and(|e| e == "jsonl")).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"result\":\"lapsed\"", "\"result\":\"revoked\"")).unwrap();
    assert!(exits(&daemon.clav(["audit", "receipt", lease]), 1).contains("was edited"));
}

#[test]
fn following_loses_and_repeats_nothing_across_restarts_and_new_files() {
    let small = "segment_bytes = 65536\n";
    let options = Options { files: Vec::new(), config: String::new() };
    let mut daemon = Daemon::start(&options);
    let config = std::fs::read_to_string(daemon.dir.join("etc/clavigerd.toml")).unwrap();
    daemon.write("clavigerd.toml", &config.replace("anchors = []\n", &format!("anchors = []\n{small}")), 0o644);
    daemon.restart();
    let daemon_values = |daemon: &Daemon| exits(&daemon.clav_with(CANARY.as_bytes(), ["secret", "put", "hello"]), 0);
    daemon_values(&daemon);
    let mut follower =
        daemon.command("bin/clav", &["audit", "tail", "-f", "--from", "1", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(follower.stdout.take().unwrap());
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || out.lines().map_while(Result::ok).for_each(|line| drop(send.send(line))));
    for round in 0..3 {
        for _ in 0..25 {
            exits(&daemon.plain(["get", "hello", "-q"]), 0);
        }
        if round % 2 == 0 {
            daemon.restart();
        } else {
            daemon.kill();
            daemon.run();
        }
    }
    exits(&daemon.plain(["get", "hello", "-q"]), 0);
    let last = sequence(exits(&daemon.clav(["audit", "tail", "-n", "1", "--json"]), 0).lines().last().unwrap());
    let mut seen = 0;
    while seen < last {
        let line = lines.recv_timeout(Duration::from_secs(20)).unwrap_or_else(|_| panic!("nothing after record {seen} of {last}"));
        assert_eq!(sequence(&line), seen + 1);
        seen += 1;
    }
    follower.kill().unwrap();
    follower.wait().unwrap();
    let files = std::fs::read_dir(daemon.dir.join("log")).unwrap().flatten();
    assert!(files.filter(|file| file.path().extension().is_some_and(|e| e == "jsonl")).count() > 1, "more than one file");
}

#[test]
fn verifying_names_file_line_and_what() {
    let mut daemon = sample();
    exits(&daemon.plain(["get", "hello"]), 0);
    daemon.stop();
    let log = daemon.dir.join("log");
    let (folder, key) = (log.to_str().unwrap().to_owned(), log.join("audit.pub").to_str().unwrap().to_owned());
    let sound = exits(&daemon.clav(["audit", "verify", &folder, "--key", &key]), 0);
    assert!(sound.contains("The log is sound."), "{sound}");
    assert_eq!(json(&daemon.clav(["audit", "verify", &folder, "--json"]))["pinned"], false);
    // Without a folder, that of the configuration.
    let config = daemon.dir.join("etc/clavigerd.toml").to_str().unwrap().to_owned();
    let mut bare = std::process::Command::new(daemon.dir.join("bin/clav"));
    let bare = bare.args(["audit", "verify", "--config", &config, "--json"]).env_remove("CLAVIGER_CONFIG").output().unwrap();
    assert!(json(&bare)["records"].as_u64().unwrap() > 0);
    let head = log.join("head").to_str().unwrap().to_owned();
    assert!(exits(&daemon.clav(["audit", "verify", &folder, "--anchors", &head]), 0).contains("anchors fit (1 given)"));
    let file =
        std::fs::read_dir(&log).unwrap().flatten().find(|file| file.path().extension().is_some_and(|e| e == "jsonl")).unwrap().path();
    let changed = std::fs::read_to_string(&file).unwrap().replacen("\"purpose\":\"try\"", "\"purpose\":\"lie\"", 1);
    std::fs::write(&file, changed).unwrap();
    let wrong = exits(&daemon.clav(["audit", "verify", &folder, "--key", &key]), 1);
    assert!(wrong.contains(".jsonl:") && wrong.contains("was edited"), "{wrong}");
    exits(&daemon.clav(["audit", "verify", "/no/such/folder"]), 1);
    exits(&daemon.clav(["audit", "verify", &folder, "--key", "/dev/null"]), 2);
}

#[test]
fn the_value_is_nowhere_but_where_it_was_asked_for() {
    let daemon = sample();
    let mut said = String::new();
    let got = daemon.plain(["get", "hello"]);
    said.push_str(&errors(&got));
    said.push_str(&errors(&daemon.shell("clav exec --secret hello -- cat /dev/null")));
    for arguments in [
        ["status", "--json"],
        ["doctor", "--json"],
        ["reload", "--json"],
        ["secret", "ls"],
        ["identity", "ls"],
        ["leases", "--all"],
        ["policy", "check"],
        ["audit", "tail"],
    ] {
        let out = daemon.clav(arguments);
        said.push_str(&text(&out));
    }
    said.push_str(&text(
        &daemon.shell("clav whoami --json; clav secrets --json; clav leases --json; clav explain hello --purpose try --json"),
    ));
    said.push_str(&daemon.records());
    said.push_str(&daemon.logged());
    assert!(!said.contains(CANARY) && !said.contains(&hex::encode(CANARY)), "{said}");
    assert!(said.contains("hello"));
    // Nor on the disk of the daemon.
    for entry in std::fs::read_dir(daemon.dir.join("state")).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{}", entry.path().display());
    }
}
