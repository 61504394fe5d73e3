//! The shapes in which programs are really deployed: entry points that exec, servers that fork ahead, scripts and their pipes. What comes
//! between a unit's `ExecStartPre=` and its `ExecStart=` is in `tests/systemd.rs`.

use super::host::*;
use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdout},
    time::Duration,
};

fn started() -> Host {
    let host = Host::start(Setup {
        config: "[attest]\nclients = [\"$DIR/bin/clav\"]\n[leases]\nsweep = \"1s\"\n".into(),
        // A service with a user of its own: whatever it runs is this service.
        identities: identity("shop", VICTIM, &declared("app/one")).replace(", \"unix:path:$DIR/bin/shop\"", ""),
        secrets: secret("app/one", "internal", ""),
        policy: grant("shop", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "value-one");
    host
}

const OWN: &str = r#"{"secret":"app/one"}"#;
const FOR_ALL: &str = r#"{"secret":"app/one","holder":"ancestor"}"#;

/// A script that goes on until it is told to.
struct Script {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Script {
    fn run(host: &Host, script: &str) -> Script {
        let mut child = host.shell(VICTIM, script).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Script { child, out }
    }

    #[track_caller]
    fn says(&mut self, expected: &str) {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), expected);
    }

    fn say(&mut self, text: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{text}").unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn holders(host: &Host) -> Vec<(String, u64)> {
    let of = |lease: &serde_json::Value| (lease["holder"]["kind"].as_str().unwrap().to_owned(), lease["holder"]["pid"].as_u64().unwrap());
    host.live().iter().map(of).collect()
}

fn live(host: &Host) -> Vec<String> {
    host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

/// Everything ends with its holder, and not before.
fn all_end(host: &mut Host, count: usize) {
    host.wait_until(Duration::from_secs(10), "all leases end", |host| host.live().is_empty());
    let ends = host.records_of("end");
    assert_eq!(ends.len(), count);
    assert!(ends.iter().all(|end| end["ended"]["reason"] == "holder_gone"), "{ends:?}");
}

/// A container's or a package's entry point: a shell that fetches what the server needs and becomes the server.
#[test]
fn an_entry_point_fetches_and_becomes_the_server() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let server = format!("{} -B {} {}", host.program("server"), host.path("actor.py"), host.path("workload.sock"));
    // Led by its supervisor's session, and as leader of a session of its own.
    for (ended, lead) in [(0, ""), (1, "setsid ")] {
        let script = format!(
            "exec {lead}sh -c 'export KEY=$(clav get -q app/one); echo $KEY; read go; PYTHONHOME=/usr exec {server} hold \"{{}}\"'"
        );
        let mut entry = Script::run(&host, &script);
        entry.says("value-one");
        let pid = u64::from(entry.child.id());
        assert_eq!(holders(&host), [("ancestor".to_owned(), pid)]);
        let lease = host.live()[0]["id"].as_str().unwrap().to_owned();
        entry.say("become the server");
        let mut line = String::new();
        entry.out.read_line(&mut line).unwrap();
        assert!(line.contains("\"status\": 400"), "the server runs now, its empty first request is refused: {line}");
        // The same process is another program: what it fetched before is still its own, also when it is looked at again.
        host.wait_until(Duration::from_secs(10), "the sweep has seen the new program", |host| {
            let tried = host.operator("GET", &format!("/v1/identities/try?pid={pid}"), "");
            tried["attested"]["exe"]["path"].as_str().is_some_and(|path| path.ends_with("/server"))
        });
        // And it has been looked at, once at least.
        std::thread::sleep(Duration::from_millis(1500));
        entry.say(&format!("call GET /v1/leases/{lease}/secret"));
        let mut line = String::new();
        entry.out.read_line(&mut line).unwrap();
        assert!(line.contains("value-one"), "{line}");
        drop(entry);
        all_end(&mut host, ended + 1);
    }
}

/// The same below `clav exec`, which stays above and holds: the command may exec as it likes.
#[test]
fn a_command_below_clav_exec_may_become_another() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let mut entry = Script::run(
        &host,
        "exec clav exec -q --secret app/one:key -- sh -c 'exec sh -c \"exec sh -c \\\"cat \\$KEY_FD; echo; read go\\\"\"'",
    );
    entry.says("value-one");
    assert_eq!(holders(&host), [("process".to_owned(), u64::from(entry.child.id()))]);
    entry.say("go");
    entry.child.wait().unwrap();
    host.wait_until(Duration::from_secs(10), "it is given back", |host| host.live().is_empty());
    assert_eq!(host.records_of("end")[0]["ended"]["reason"], "asked");
}

/// A server that forks its workers ahead and replaces them: one lease for all of them, and one of each worker's own.
#[test]
fn a_server_that_forks_ahead_replaces_its_workers() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let mut server = host.hold(VICTIM, "server", &["prefork", FOR_ALL, OWN]);
    let shared = server.lease();
    assert_eq!(server.first["body"]["lease"]["holder"]["kind"], "ancestor", "{}", server.first);
    let mut workers: Vec<(String, String)> = Vec::new();
    let mut ended = Vec::new();
    for generation in 0..4 {
        for _ in 0..3 {
            server.say("fork");
            let worker = server.line();
            assert_eq!(
                (&worker["read"]["status"], &worker["read"]["body"]["secret"]["value"]),
                (&200.into(), &"value-one".into()),
                "{worker}"
            );
            assert_eq!(worker["body"]["lease"]["holder"]["pid"], worker["pid"], "a worker's own lease is the worker's: {worker}");
            workers.push((worker["pid"].to_string(), worker["body"]["lease"]["id"].as_str().unwrap().to_owned()));
        }
        if generation == 3 {
            break;
        }
        for (pid, lease) in std::mem::take(&mut workers) {
            server.say(&format!("recycle {pid}"));
            server.line();
            assert_eq!(host.end_of(&lease)["ended"]["reason"], "holder_gone");
            ended.push(lease);
            host.wait_until(Duration::from_secs(10), "it is off the books", |host| live(host).iter().all(|id| !ended.contains(id)));
            assert!(live(&host).contains(&shared), "a worker ends its own leases and no others");
        }
        assert_eq!(host.live().len(), 1, "between two generations only the server's is left");
    }
    // The server dies before its workers: what was for all ends, what is a worker's own does not.
    server.kill();
    assert_eq!(host.end_of(&shared)["ended"]["reason"], "holder_gone");
    host.wait_until(Duration::from_secs(10), "it is off the books", |host| !live(host).contains(&shared));
    assert_eq!(host.live().len(), 3);
    for (pid, _) in &workers {
        assert!(std::process::Command::new("kill").args(["-9", pid]).status().unwrap().success());
    }
    all_end(&mut host, 1 + 4 * 3);
}

/// Makes a session and leaves it to a process that does not lead it, as a job in the background of a shell that was left.
const ORPHANED: &str = "/usr/bin/python3 -c \"import os, sys; os.setsid(); leader = os.getpid(); os.fork() and os._exit(0); \
                        any(iter(lambda: os.getppid() == leader, False)); os.execv(sys.argv[1], sys.argv[1:])\" ";

/// Pipes, substitutions and subshells: `clav` is gone in a moment, and who asks is a shell that may be gone as soon.
#[test]
fn a_script_holds_what_its_pipes_fetched() {
    if !is_root() {
        return;
    }
    let mut host = started();
    let forms = "clav get -q app/one | cat; echo; x=$(clav get -q app/one); echo $x; y=$(clav get -q app/one | tr a-z A-Z); echo $y; \
                 (clav get -q app/one; echo); sh -c \"clav get -q app/one; echo\"; z=`clav get -q app/one`; echo $z; \
                 clav get -q app/one >/dev/null && echo done; read go";
    let shells: Vec<&str> = ["/bin/dash", "/bin/bash"].into_iter().filter(|shell| exists(shell)).collect();
    let mut ended = 0;
    for shell in &shells {
        // In the session of whoever runs this, in one of its own, and in one whose leader has gone.
        for lead in ["", "setsid ", ORPHANED] {
            let mut script = Script::run(&host, &format!("exec {lead}{shell} -c '{forms}'"));
            for expected in ["value-one", "value-one", "VALUE-ONE", "value-one", "value-one", "value-one", "done"] {
                script.says(expected);
            }
            // The leader of the session; where that is somebody else's, the outermost process of the user.
            let pid = if lead == ORPHANED { holders(&host)[0].1 } else { u64::from(script.child.id()) };
            assert_eq!(holders(&host), vec![("ancestor".to_owned(), pid); 7], "{lead}{shell}: {:?}", host.records_of("end"));
            // Decided again, without the processes that asked: they are gone.
            host.operator("POST", "/v1/reload", "");
            host.wait_until(Duration::from_secs(10), "the reload is on the record", |host| !host.records_of("reload").is_empty());
            assert_eq!(holders(&host), vec![("ancestor".to_owned(), pid); 7], "{lead}{shell}: {:?}", host.records_of("end"));
            script.say("go");
            script.child.wait().unwrap();
            ended += 7;
            all_end(&mut host, ended);
        }
    }
    assert!(ended >= 14);
}
