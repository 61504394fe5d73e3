//! Deliberate mistakes, one after another: each is made with the real programs, asked about with `clav why`, and mended exactly as that
//! says. What it prints is followed to the letter (`remedy`), so a remedy that does not work as typed fails here.

mod table;

use super::{
    remedy::{as_operator, follow, ways},
    *,
};
use std::{fs, process::Stdio};
use table::{MISTAKES, Mistake};

#[test]
fn why_names_the_cause_and_its_remedy_works_as_printed() {
    assert!(MISTAKES.len() >= 20);
    let mut failed = Vec::new();
    for mistake in MISTAKES {
        if std::env::var("MISTAKE").is_ok_and(|only| only != mistake.name) {
            continue;
        }
        // Every one is tried, so that one change of words needs one run.
        if let Err(why) = std::panic::catch_unwind(|| make(mistake)) {
            let why = why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            failed.push(format!("--- {}: {}", mistake.name, why.unwrap_or_default()));
        }
    }
    assert!(failed.is_empty(), "{} of {} failed\n{}", failed.len(), MISTAKES.len(), failed.join("\n"));
}

fn make(mistake: &Mistake) {
    let mut daemon = sample();
    if !daemon.apart {
        eprintln!("*** SKIPPED: mistakes of users need several uids, so they run as root only ***");
        return;
    }
    for (name, from, to) in mistake.files {
        edit(&daemon, name, from, to);
    }
    if !mistake.files.is_empty() {
        daemon.restart();
    }
    let mut holding = None;
    match mistake.before {
        "" => {}
        "hold" => holding = Some(hold(&daemon)),
        "open" => fs::set_permissions(&daemon.operator, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap(),
        command => drop(exits(&as_operator(&daemon, command, b""), 0)),
    }
    for (name, from, to) in mistake.later {
        edit(&daemon, name, from, to);
    }
    let refused = ask(&daemon, mistake.ask);
    assert_ne!(refused.status.code(), Some(0), "nothing was wrong: {}", text(&refused));
    let said = text(&refused);
    let request = said.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).find(|word| word.starts_with("req-"));
    let request = request.unwrap_or_else(|| panic!("no request id: {said}"));
    let why = exits(&daemon.clav(["why", request]), 0);
    println!("== {}\n{why}", mistake.name);
    assert!(why.contains(&format!(": {}", mistake.code)), "{} is not the code:\n{why}", mistake.code);
    for word in mistake.says {
        assert!(why.contains(word), "{word:?} is missing:\n{why}");
    }
    if let Some(way) = mistake.way {
        let ways = ways(&why);
        let steps = ways.get(way).unwrap_or_else(|| panic!("there is no way {way}:\n{why}"));
        assert!(!steps.is_empty(), "nothing to do:\n{why}");
        let asked = follow(&mut daemon, steps);
        let again = ask(&daemon, asked.as_deref().map_or(mistake.ask.to_owned(), |command| command.to_owned()).as_str());
        let again = if mistake.code == "not_operator" { daemon.clav(["status"]) } else { again };
        assert_eq!(again.status.code(), Some(0), "the remedy does not work: {}\n{why}", text(&again));
        assert!(mistake.code == "not_operator" || text(&again).contains(CANARY), "{}\n{why}", text(&again));
    }
    drop(holding);
}

fn edit(daemon: &Daemon, name: &str, from: &str, to: &str) {
    let day = (chrono::Utc::now() + chrono::Days::new(60)).format("%Y-%m-%d").to_string();
    let bin = daemon.dir.join("bin").display().to_string();
    let fill = |text: &str| text.replace("$UID", &daemon.user.to_string()).replace("$DAY", &day).replace("$BIN", &bin);
    let (from, to) = (fill(from), fill(to));
    let before = fs::read_to_string(daemon.dir.join("etc").join(name)).unwrap_or_default();
    assert!(before.contains(&from), "{name} does not hold {from:?}");
    let after = if from.is_empty() { to } else { before.replace(&from, &to) };
    daemon.write(name, &after, 0o644);
}

/// Makes a request as it is written in the table, or as a remedy prints it.
fn ask(daemon: &Daemon, command: &str) -> Output {
    if let Some(arguments) = command.strip_prefix("root: ") {
        return as_operator(daemon, &format!("{}/plain {arguments}", daemon.dir.join("bin").display()), b"");
    }
    if let Some(arguments) = command.strip_prefix("unshare: ") {
        let user = daemon.user;
        let plain = daemon.dir.join("bin/plain").display().to_string();
        return as_operator(
            daemon,
            &format!("unshare --pid --fork setpriv --reuid={user} --regid={user} --clear-groups {plain} {arguments}"),
            b"",
        );
    }
    if let Some(body) = command.strip_prefix("body: ") {
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); b=sys.argv[2].encode()\ns.sendall(b'POST /v1/leases HTTP/1.1\\r\\nhost: x\\r\\nconnection: close\\r\\ncontent-length: %d\\r\\n\\r\\n' % len(b) + b)\nwhile True:\n    d=s.recv(65536)\n    if not d: break\n    sys.stdout.write(d.decode())\nsys.exit(10)";
        let mut python = std::process::Command::new("/usr/bin/python3");
        python.args(["-c", script]).arg(&daemon.workload).arg(body);
        return daemon.as_user(python).output().unwrap();
    }
    // What needs root says so by its first word.
    if command.starts_with("setpriv ") || command.starts_with("runuser ") {
        as_operator(daemon, command, b"")
    } else {
        daemon.shell(command)
    }
}

/// A program that holds a lease until this is dropped.
struct Holding(std::process::Child);

impl Drop for Holding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn hold(daemon: &Daemon) -> Holding {
    use std::io::{BufRead, BufReader};
    let script = "exec clav exec -q --secret hello -- sh -c 'echo ready; sleep 60'";
    let mut child = daemon.shell_command(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");
    Holding(child)
}
