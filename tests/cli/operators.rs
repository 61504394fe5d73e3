//! What operators do.

use super::*;
use std::{
    io::{Read, Write},
    process::Stdio,
};

#[test]
fn status_and_reload() {
    let daemon = sample();
    let first = exits(&daemon.clav(["status"]), 0);
    assert!(first.starts_with("kernel "), "the tier comes first: {first}");
    let status = json(&daemon.clav(["status", "--json"]));
    assert_eq!(status["frozen"], false);
    assert!(status["audit"]["seq"].as_u64().unwrap() > 0, "{status}");
    assert!(exits(&daemon.clav(["policy", "check"]), 0).contains("sound"));
    assert!(exits(&daemon.clav(["reload"]), 0).contains("in force"));
    daemon.write("identities.d/tester.toml", "[[identity]]\nnme = 1\n", 0o644);
    let wrong = exits(&daemon.clav(["reload"]), 1);
    assert!(wrong.contains("tester.toml:") && wrong.contains("stays"), "{wrong}");
    exits(&daemon.clav(["policy", "check"]), 1);
    assert!(exits(&daemon.clav(["status"]), 0).contains("not in force"));
    exits(&daemon.clav(["status", "--operator-socket", "/nowhere/s"]), 12);
    if daemon.apart {
        exits(&daemon.plain(["status"]), 12);
    }
}

#[test]
fn values_come_from_a_pipe_and_are_never_shown() {
    let daemon = sample();
    let put = daemon.clav_with(b"second\n", ["secret", "put", "hello"]);
    assert!(exits(&put, 0).contains("version 2, 7 bytes"), "{}", text(&put));
    assert!(errors(&put).contains("line feed"));
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), "second\n");
    let list = exits(&daemon.clav(["secret", "ls"]), 0);
    assert!(list.contains("hello") && !list.contains("second"), "{list}");
    assert!(exits(&daemon.clav_with(b"x", ["secret", "put", "nowhere"]), 0).contains("No definition"));
    exits(&daemon.clav_with(b"", ["secret", "put", "hello"]), 2);
    exits(&daemon.clav_with(b"x", ["secret", "put", "Hello"]), 2);
    exits(&daemon.clav_with(b"x", ["secret", "put", "hello", "value"]), 2);
    exits(&daemon.clav(["secret", "rm", "hello"]), 0);
    exits(&daemon.clav(["secret", "rm", "hello"]), 10);
}

#[test]
fn what_is_kept_is_listed_and_let_go_of() {
    let daemon = sample();
    // The local store makes its values again each time.
    exits(&daemon.plain(["get", "hello", "-q"]), 0);
    assert!(exits(&daemon.clav(["cache", "ls"]), 0).contains("Nothing is kept."));
    assert_eq!(json(&daemon.clav(["cache", "ls", "--json"]))["kept"], serde_json::json!([]));
    assert!(exits(&daemon.clav(["cache", "evict", "hello"]), 0).contains("Nothing was kept."));
    assert_eq!(json(&daemon.clav(["cache", "evict", "--all", "--json"]))["evicted"], serde_json::json!([]));
    let none = daemon.clav(["cache", "evict", "nowhere"]);
    exits(&none, 10);
    assert!(errors(&none).contains("No definition in secrets.d names nowhere"), "{}", text(&none));
    exits(&daemon.clav(["cache", "evict"]), 2);
    exits(&daemon.clav(["cache", "evict", "hello", "--all"]), 2);
    exits(&daemon.clav(["cache", "evict", "Hello"]), 2);
    let acts = exits(&daemon.clav(["audit", "search", "--kind", "operator", "--json"]), 0);
    let acts = acts.lines().filter(|line| line.contains("\"cache-evict\"")).count();
    assert_eq!(acts, 4, "asked and done, each time it was");
}

#[test]
fn why_says_who_what_and_what_to_change() {
    let daemon = sample();
    let refused = errors(&daemon.plain(["get", "other", "--purpose", "try"]));
    let request = refused.split_whitespace().find(|word| word.starts_with("req-")).unwrap();
    let why = exits(&daemon.clav(["why", request]), 0);
    for word in ["no_grant", "tester", "uid 1", "purpose try", "permit (principal == Claviger::Workload::\"tester\"", "clav reload"] {
        assert!(why.contains(word) || !daemon.apart, "{word} is missing:\n{why}");
    }
    assert!(json(&daemon.clav(["why", request, "--json"]))["records"][0]["seq"].is_u64());
    // A refusal tells the process also where nobody is registered, and a missing ticket what to write where.
    if daemon.apart {
        let refused = errors(&daemon.command("bin/plain", &["get", "hello"]).output().unwrap());
        let request = refused.split_whitespace().find(|word| word.starts_with("req-")).unwrap();
        let why = exits(&daemon.clav(["why", request]), 0);
        assert!(why.contains("no_identity") && why.contains("bin/plain") && why.contains("identity try --pid"), "{why}");
    }
    let refused = errors(&daemon.plain(["get", "deep", "--purpose", "try"]));
    let request = refused.split_whitespace().find(|word| word.starts_with("req-")).unwrap();
    let why = exits(&daemon.clav(["why", request]), 0);
    assert!(
        why.contains("@ticket(\"ops:1\")") && why.contains("Replace lines 3 to 4 of") && why.contains("50-grants.cedar with:"),
        "{why}"
    );
    let none = daemon.clav(["why", "req-01arz3ndektsv4rrffq69g5fav"]);
    exits(&none, 10);
    assert!(errors(&none).contains("No record names req-01arz3ndektsv4rrffq69g5fav"), "{}", text(&none));
    exits(&daemon.clav(["why", "nonsense"]), 2);
}

#[test]
fn what_was_looked_for_is_named_and_no_record_is_promised() {
    let daemon = sample();
    for (arguments, says) in [
        (vec!["jwks", "export", "nowhere"], "no jwt engine \"nowhere\"; there is tokens"),
        (vec!["revoke", "--identity", "nobody"], "no live lease of identity nobody"),
        (vec!["revoke", "--unit", "x.service"], "no live lease held in the unit \"x.service\""),
        (vec!["secret", "rm", "missing"], "holds no value of missing"),
        (vec!["identity", "try", "--pid", "4194999"], "no process 4194999"),
        (vec!["explain", "hello", "--pid", "4194999"], "no process 4194999"),
    ] {
        let refused = daemon.command("bin/clav", &arguments).output().unwrap();
        exits(&refused, 10);
        assert!(errors(&refused).contains(says), "{says}: {}", text(&refused));
        // The record knows no more than is said here, so nobody is sent there.
        assert!(!errors(&refused).contains("clav why"), "{}", text(&refused));
    }
}

#[test]
fn rows_and_grants_that_do_not_agree_are_warned_about() {
    let mut daemon = sample();
    let read = |daemon: &Daemon, name: &str| std::fs::read_to_string(daemon.dir.join("etc").join(name)).unwrap();
    let soon = (chrono::Utc::now() + chrono::Days::new(5)).format("%Y-%m-%d").to_string();
    let (row, secrets, grants) =
        (read(&daemon, "identities.d/tester.toml"), read(&daemon, "secrets.d/sample.toml"), read(&daemon, "policy.d/50-grants.cedar"));
    let second = row.replace("tester", "second").replace("unix:uid:", "unix:uid:7").replace("2099-01-01", &soon);
    let third = row.replace("tester", "third").replace("unix:uid:", "unix:uid:8").replace("2099-01-01", "2020-01-01");
    let rows = row.replace("secret = \"hello\"", "secret = \"gone\"") + &second + &third;
    daemon.write("identities.d/tester.toml", &rows, 0o644);
    daemon.write("secrets.d/sample.toml", &secrets.replacen("environment = \"test\"", "environment = \"prod\"", 1), 0o644);
    daemon.write("policy.d/50-grants.cedar", &grants.replacen("@purpose(\"try\")", "@purpose(\"try, fly\")", 1), 0o644);
    let expected = [
        "tester.toml:2: identity tester declares a use of gone".to_owned(),
        format!("tester.toml:14: identity second expires on {soon}"),
        "tester.toml:26: identity third expired on 2020-01-01".to_owned(),
        "grant grant.tester.hello: purpose fly is none of identity tester, which lists try, other-purpose".to_owned(),
        "grant grant.tester.hello: purpose fly is none of secret hello, which lists try".to_owned(),
        "grant grant.tester.hello: identity tester belongs to test and secret hello to prod".to_owned(),
    ];
    let check = exits(&daemon.clav(["policy", "check"]), 0);
    let doctor = text(&daemon.clav(["doctor"]));
    let reload = exits(&daemon.clav(["reload"]), 0);
    daemon.restart();
    let start = daemon.logged();
    for (what, said) in [("check", check), ("doctor", doctor.clone()), ("reload", reload), ("start", start)] {
        for warning in &expected {
            assert!(said.contains(warning.as_str()), "{what} does not say {warning:?}:\n{said}");
        }
    }
    assert!(doctor.contains("were changed and are not in force"), "{doctor}");
    assert!(!daemon.logged().contains('\x1b'), "a file is no terminal");
}

#[test]
fn freezing_stops_issuing() {
    let daemon = sample();
    assert!(exits(&daemon.clav(["freeze", "--reason", "an incident at night"]), 0).contains("Frozen"));
    exits(&daemon.plain(["get", "hello"]), 10);
    assert!(exits(&daemon.clav(["status"]), 0).contains("frozen"));
    exits(&daemon.clav(["freeze", "--off"]), 0);
    exits(&daemon.plain(["get", "hello"]), 0);
    exits(&daemon.clav(["freeze", "--reason", "a\u{202e}b"]), 2);
}

#[test]
fn identities_and_revoking() {
    let daemon = sample();
    assert!(exits(&daemon.clav(["identity", "ls"]), 0).contains("tester"));
    let mut shell = daemon.shell_command("clav get hello -q >/dev/null; sleep 30").spawn().unwrap();
    let pid = shell.id().to_string();
    let tried = exits(&daemon.clav(["identity", "try", "--pid", &pid]), 0);
    assert!(tried.contains("tester") && tried.contains("# weak: "), "{tried}");
    exits(&daemon.clav(["identity", "try", "--pid", "4194999"]), 10);
    let explained = exits(&daemon.clav(["explain", "hello", "--purpose", "try", "--pid", &pid]), 0);
    assert!(explained.contains("grant.tester.hello"), "{explained}");
    let mut held = Vec::new();
    for _ in 0..100 {
        held = json(&daemon.clav(["leases", "--all", "--json"]))["leases"].as_array().unwrap().clone();
        if !held.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(held.len(), 1);
    assert!(exits(&daemon.clav(["leases", "--all"]), 0).contains("hello"));
    exits(&daemon.clav(["revoke", "--identity", "nobody"]), 10);
    exits(&daemon.clav(["revoke", "--identity", "No Body"]), 2);
    assert!(exits(&daemon.clav(["revoke", "--secret", "hello"]), 0).contains("lapsed"));
    exits(&daemon.clav(["revoke", "--tree", &pid]), 10);
    shell.kill().unwrap();
    shell.wait().unwrap();
}

#[test]
fn keys_of_tokens() {
    let daemon = sample();
    let out = daemon.dir.join("jwks");
    exits(&daemon.clav(["jwks", "export", "tokens", "--out", out.to_str().unwrap()]), 0);
    let keys: serde_json::Value = serde_json::from_slice(&std::fs::read(out.join(".well-known/jwks.json")).unwrap()).unwrap();
    assert!(!keys["keys"].as_array().unwrap().is_empty());
    assert!(out.join(".well-known/openid-configuration").exists());
    exits(&daemon.clav(["jwks", "export", "nowhere"]), 10);
}

#[test]
fn a_typed_value_is_asked_for_twice_and_never_shown() {
    let daemon = sample();
    let put = |answers: [&str; 2]| {
        let mut script = std::process::Command::new("script");
        let command = format!("{} secret put hello", daemon.dir.join("bin/clav").display());
        script.args(["-qec", &command, "/dev/null"]).env("CLAVIGER_OPERATOR_SOCKET", &daemon.operator);
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut seen = String::new();
        let mut read = |seen: &mut String, until: &str| {
            let mut byte = [0];
            while !seen.ends_with(until) && screen.read(&mut byte).unwrap() > 0 {
                seen.push(char::from(byte[0]));
            }
        };
        for (question, answer) in ["Value of hello: ", "Once more: "].into_iter().zip(answers) {
            read(&mut seen, question);
            writeln!(keys, "{answer}").unwrap();
        }
        read(&mut seen, "never seen");
        (child.wait().unwrap().code(), seen)
    };
    let (code, seen) = put(["typed-value", "typed-value"]);
    assert_eq!(code, Some(0), "{seen}");
    assert!(seen.contains("version 2, 11 bytes") && !seen.contains("typed-value"), "{seen}");
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), "typed-value");
    let (code, seen) = put(["one", "other"]);
    assert_eq!(code, Some(2), "{seen}");
    assert!(seen.contains("nothing was stored") && !seen.contains("other"), "{seen}");
}
