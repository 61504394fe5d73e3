//! Attacks on attestation as loops with a fixed order. `docs/known-attacks.md` has a row for each.

use super::{
    host::*,
    siege::{ALONE, staged},
};

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

#[test]
fn a_foreign_writer_on_a_connection_is_cut() {
    siege("foreign writer", |host, found| {
        // Its folded records are written in the end.
        host.stop(false);
        let records = host.records();
        let cuts = records.iter().filter(|record| record["code"] == "foreign_writer");
        let cut: u64 = cuts.map(|record| record["folded"]["count"].as_u64().unwrap_or(1)).sum();
        assert!(cut >= found["answers"]["closed"].as_u64().unwrap(), "every cut is on the record: {cut}, {found}");
        host.launch();
    });
}

#[test]
fn a_reused_pid_is_not_the_process_that_connected() {
    siege("pid reuse", |_, _| {});
}

#[test]
fn a_zombie_peer_asks_for_nothing() {
    siege("zombie", |_, _| {});
}

#[test]
fn a_thread_that_outlives_its_leader_asks_for_nothing() {
    siege("leader gone", |_, _| {});
}

#[test]
fn changed_ids_are_refused() {
    siege("changed credentials", |_, _| {});
}

#[test]
fn another_program_in_the_same_process_reads_nothing_on_the_old_connection() {
    siege("exec after connect, to another", |_, found| {
        assert_eq!(found["answers"]["program_changed"], found["rounds"], "{found}");
    });
}

#[test]
fn an_exec_behind_a_helper_that_keeps_the_memory_map_is_found_at_the_next_issue() {
    siege("exec that keeps the memory map", |_, found| {
        assert_eq!(found["answers"]["program_changed"], found["rounds"], "{found}");
    });
}

#[test]
fn a_process_that_becomes_the_trusted_program_is_who_it_was_when_it_connected() {
    siege("exec after connect, to the trusted", |_, _| {});
}

#[test]
fn what_only_looks_like_the_trusted_program_is_not() {
    siege("odd executables", |_, _| {});
}

#[test]
fn the_trusted_program_in_namespaces_of_its_own_is_nobody() {
    siege("namespaces", |_, _| {});
}

#[test]
fn other_users_programs_and_relays_are_themselves() {
    siege("other users, programs, relays", |_, _| {});
}

#[test]
fn below_an_agent_and_beside_it_a_workload_is_nobody_else() {
    siege("below an agent", |_, found| {
        // Below the agent it is the agent, which has no grant; out of its tree it is a deserter.
        let half = found["rounds"].as_u64().unwrap() / 2;
        assert_eq!(found["answers"], serde_json::json!({ "no_grant": half, "left_agent_session": half }), "{found}");
    });
}

#[test]
fn another_programs_face_raises_nothing() {
    siege("another program's face", |host, found| {
        let fifth = found["rounds"].as_u64().unwrap() / 5;
        // It is believed, at what any program of its user is worth; not what it was when it connected; another user; out of the tree;
        // another user's parent.
        let answers = serde_json::json!({ "needs": fifth, "no_identity": 3 * fifth, "left_agent_session": fifth });
        assert_eq!(found["answers"], answers, "{found}");
        // The program with a user of its own has what the face did not bring.
        let two = r#"{"secret":"app/two","purpose":"testing"}"#;
        let answer = host.act(ALONE, "alone", &["call", "POST", "/v1/leases", two]).remove(0);
        assert_eq!((&answer["status"], &answer["body"]["secret"]["value"]), (&201.into(), &"value-one".into()), "{answer}");
    });
}

/// The attack in its size, as root.
fn siege(name: &str, and: impl FnOnce(&mut Host, &serde_json::Value)) {
    if is_root() {
        staged(name, and);
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

#[test]
fn it_listens_on_no_network_and_under_no_abstract_name() {
    if !is_root() {
        return;
    }
    let host = started(GENEROUS);
    let of_daemon: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", host.pid()))
        .unwrap()
        .flatten()
        .filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(of_daemon.len() >= 2, "{of_daemon:?}");
    let table = |name: &str| std::fs::read_to_string(format!("/proc/{}/net/{name}", host.pid())).unwrap_or_default();
    for name in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6", "packet"] {
        let own = |line: &&str| line.split_whitespace().any(|word| of_daemon.iter().any(|inode| inode == word));
        assert_eq!(table(name).lines().find(own), None, "{name}");
    }
    // What listens has `00010000` among its flags; an abstract name begins with `@`.
    let own: Vec<Vec<String>> = table("unix")
        .lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|words| words.get(6).is_some_and(|inode| of_daemon.contains(inode)))
        .collect();
    let listening: Vec<&Vec<String>> = own.iter().filter(|words| words[3] == "00010000").collect();
    assert!(listening.len() >= 2, "those of workloads and operators: {own:?}");
    // A connection of the daemon's own, to its attestor, has a name from the kernel, at which nobody can reach it.
    assert!(listening.iter().all(|words| words.get(7).is_some_and(|path| path.starts_with('/'))), "{own:?}");
}
