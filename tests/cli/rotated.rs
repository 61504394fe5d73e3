//! What a workload notices of a new value: events, a command that is told or started again, a file that is kept true.

use super::*;
use std::{
    fs,
    io::{BufRead, BufReader, Lines},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A command in the background that is ended with the test.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(daemon: &Daemon, script: &str) -> Running {
        let mut child = daemon.shell_command(script).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, lines }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.lines.next().expect("there is another line").unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // What it started goes with it only if it is asked.
        if matches!(self.child.try_wait(), Ok(None)) {
            daemon::signal(self.child.id(), "TERM");
            let _ = self.child.wait();
        }
    }
}

fn put(daemon: &Daemon, value: &str) {
    exits(&daemon.clav_with(value.as_bytes(), ["secret", "put", "hello"]), 0);
}

fn live(daemon: &Daemon) -> usize {
    json(&daemon.clav(["leases", "--all", "--json"]))["leases"].as_array().unwrap().len()
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < give_up, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

#[test]
fn a_watcher_is_told_of_new_values_renewals_and_ends() {
    let daemon = sample();
    let mut watcher =
        Running::start(&daemon, "clav get hello -q --ttl 1m >/dev/null; clav leases --json | tr -d '\\n'; echo; clav watch --json");
    let held: serde_json::Value = serde_json::from_str(&watcher.line()).unwrap();
    let id = held["leases"][0]["id"].as_str().unwrap().to_owned();
    let mut event = || -> serde_json::Value { serde_json::from_str(&watcher.line()).unwrap() };
    let first = event();
    assert_eq!((&first["event"], &first["data"]["id"]), (&"lease".into(), &id.as_str().into()), "{first}");
    put(&daemon, "second");
    let rotated = event();
    assert_eq!(rotated, serde_json::json!({"event": "rotated", "data": {"lease": id, "secret": "hello"}}));
    // Values of other secrets are nobody's business here, and one that is told is not told again.
    exits(&daemon.clav_with(b"x", ["secret", "put", "other"]), 0);
    put(&daemon, "third");
    exits(&daemon.clav(["revoke", &id]), 0);
    let ended = event();
    assert_eq!(ended, serde_json::json!({"event": "ended", "data": {"lease": id, "secret": "hello", "reason": "operator"}}));
}

#[test]
fn a_command_is_started_again_with_new_values() {
    let daemon = sample();
    let script =
        "exec clav exec -q --on-rotate restart --secret hello --env WORD=hello -- sh -c 'echo $WORD $(cat $HELLO_FD); exec sleep 60'";
    let mut running = Running::start(&daemon, script);
    assert_eq!(running.line(), format!("{CANARY} {CANARY}"));
    put(&daemon, "second");
    assert_eq!(running.line(), "second second");
    until("the lease before was given back", || live(&daemon) == 1);
    // The command's own end is the end: it is not started again.
    daemon::signal(running.child.id(), "TERM");
    assert_eq!(running.child.wait().unwrap().code(), Some(128 + 15));
    until("everything was given back", || live(&daemon) == 0);
}

#[test]
fn a_command_is_told_by_a_signal_and_reads_the_new_value_where_it_read_the_old_one() {
    let daemon = sample();
    let inner = "trap \"cat \\$HELLO_FD; echo\" USR1; cat $HELLO_FD; echo; while :; do sleep 0.1; done";
    let mut running = Running::start(&daemon, &format!("exec clav exec -q --on-rotate signal:USR1 --secret hello -- sh -c '{inner}'"));
    assert_eq!(running.line(), CANARY);
    put(&daemon, "a value that is longer than the one before it, by far");
    assert_eq!(running.line(), "a value that is longer than the one before it, by far");
    put(&daemon, "short");
    assert_eq!(running.line(), "short");
    // Without a name it is the one that daemons read their configuration again at.
    let inner = inner.replace("USR1", "HUP");
    let mut daemons = Running::start(&daemon, &format!("exec clav exec -q --on-rotate signal --secret hello -- sh -c '{inner}'"));
    assert_eq!(daemons.line(), "short");
    put(&daemon, "after a hangup");
    assert_eq!((daemons.line(), running.line()), ("after a hangup".to_owned(), "after a hangup".to_owned()));
    drop(daemons);
    until("its leases were given back", || live(&daemon) == 4);
    // Whoever says nothing is left alone: the same process goes on with what it has.
    let inner = "trap \"echo told\" HUP USR1 TERM; cat $HELLO_FD; echo; sleep 2; cat $HELLO_FD; echo; echo over";
    let mut left = Running::start(&daemon, &format!("exec clav exec -q --secret hello -- sh -c '{inner}'"));
    let before = left.line();
    put(&daemon, "unheard");
    assert_eq!(running.line(), "unheard");
    assert_eq!((before.as_str(), left.line().as_str(), left.line().as_str()), ("after a hangup", "after a hangup", "over"));
    until("its lease was given back", || live(&daemon) == 5);
    put(&daemon, "short");
    assert_eq!(running.line(), "short");
    // Those from before live on for a while: the command may still use them.
    assert_eq!(live(&daemon), 6);
    let refused = daemon.shell("clav exec --on-rotate signal --env A=hello -- true");
    exits(&refused, 2);
    assert!(errors(&refused).contains("cannot change"), "{}", text(&refused));
    exits(&daemon.shell("clav exec --on-rotate signal:NOTHING --secret hello -- true"), 2);
    exits(&daemon.shell("clav exec --on-rotate sometimes --secret hello -- true"), 2);
}

/// A folder in memory of the workload's own.
fn folder(daemon: &Daemon) -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("claviger-template-").tempdir_in("/dev/shm").unwrap();
    if daemon.apart {
        std::os::unix::fs::chown(folder.path(), Some(daemon.user), Some(daemon.user)).unwrap();
    }
    folder
}

#[test]
fn a_file_is_kept_true_and_goes_with_its_keeper() {
    let daemon = sample();
    let folder = folder(&daemon);
    let at = |name: &str| -> PathBuf { folder.path().join(name) };
    fs::write(at("page"), "# for {{ secret('hello').version }}\npassword = \"{{ secret('hello') }}\"\n").unwrap();
    let (page, file, told) = (at("page"), at("file"), at("told"));
    let script = format!(
        "exec clav template -q {} -o {} --mode 0440 --reload 'cat {} >> {}'",
        page.display(),
        file.display(),
        file.display(),
        told.display()
    );
    let mut running = Running::start(&daemon, &script);
    let read = || fs::read_to_string(&file).unwrap_or_default();
    until("the file is written", || read() == format!("# for 1\npassword = \"{CANARY}\"\n"));
    let meta = fs::metadata(&file).unwrap();
    assert_eq!((meta.permissions().mode() & 0o777, meta.uid()), (0o440, daemon.user));
    put(&daemon, "second");
    until("the file is written again", || read() == "# for 2\npassword = \"second\"\n");
    until("it is said", || fs::read_to_string(&told).is_ok_and(|told| told.matches("password").count() == 2));
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(left.len(), 3, "no backup and nothing half written: {left:?}");
    daemon::signal(running.child.id(), "TERM");
    assert!(running.child.wait().unwrap().success());
    assert!(!file.exists(), "it goes with its keeper");
    until("everything was given back", || live(&daemon) == 0);
}

#[test]
fn a_file_is_written_once_or_not_at_all() {
    let daemon = sample();
    let folder = folder(&daemon);
    let (page, file) = (folder.path().join("page"), folder.path().join("file"));
    let template = |text: &str, more: &str| {
        fs::write(&page, text).unwrap();
        daemon.shell(&format!(
            "clav template -q {} -o {} {more}; echo $?; clav leases --json | grep -c lease-",
            page.display(),
            file.display()
        ))
    };
    let once = template("{{ secret('hello') }}", "--once");
    assert!(text(&once).contains("0\n1\n"), "held by the session: {}", text(&once));
    assert_eq!(fs::read_to_string(&file).unwrap(), CANARY);
    fs::remove_file(&file).unwrap();
    for (page, more, why) in [
        ("{{ secret('hello') ", "--once", "page:1:"),
        ("\n{{ unknown }}", "--once", "line 2"),
        ("{{ secret('other') }}", "--once --purpose try", "no_grant"),
        ("{{ secret('hello') }}", "--once --mode 0444", "everybody"),
        ("{{ secret('hello') }}", "--once --owner nobody-of-that-name", "no user"),
    ] {
        let refused = template(page, more);
        assert!(text(&refused).contains(why) && !text(&refused).contains(CANARY), "{page} {more}: {}", text(&refused));
        assert!(!file.exists(), "{page} {more}");
    }
    // Its own user and group may be said by anybody, by number; those of others by root alone.
    let own = template("{{ secret('hello') }}", "--once --owner $(id -u):$(id -g)");
    assert!(text(&own).contains("0\n") && fs::metadata(&file).unwrap().uid() == daemon.user, "{}", text(&own));
    fs::remove_file(&file).unwrap();
    if daemon.apart {
        let foreign = template("{{ secret('hello') }}", "--once --owner 0:0");
        assert!(!text(&foreign).contains(CANARY) && !file.exists(), "{}", text(&foreign));
    }
    // What cannot be told of its file has none.
    if daemon.user != 0 {
        let told = format!("exec prlimit --nproc=1 clav template -q {} -o {} --once --reload true", page.display(), file.display());
        let untold = daemon.shell(&told);
        assert!(errors(&untold).contains("/bin/sh") && !file.exists(), "{}", text(&untold));
    }
    // Where everybody may write, nobody takes the name that it needs on its way.
    let shared = std::path::PathBuf::from(format!("/dev/shm/claviger-shared-{}", std::process::id()));
    let taken = std::path::PathBuf::from(format!("/dev/shm/.claviger-shared-{}.tmp", std::process::id()));
    fs::create_dir(&taken).unwrap();
    let written = daemon.shell(&format!("clav template -q {} -o {} --once", page.display(), shared.display()));
    fs::remove_dir(&taken).unwrap();
    assert!(fs::read_to_string(&shared).is_ok_and(|value| value == CANARY), "{}", text(&written));
    fs::remove_file(&shared).unwrap();
    // A disk outlasts its files: only where that is said.
    if !claviger::sys::in_memory(&daemon.dir).unwrap() {
        let path = if daemon.apart { "/var/tmp".into() } else { daemon.dir.join("run") };
        let refused = daemon.shell(&format!("clav template -q {} -o {}/claviger-never --once", page.display(), path.display()));
        exits(&refused, 2);
        assert!(errors(&refused).contains("--on-disk"), "{}", text(&refused));
        let meant = path.join(format!("claviger-meant-{}", std::process::id()));
        exits(&daemon.shell(&format!("clav template -q {} -o {} --once --on-disk", page.display(), meant.display())), 0);
        assert_eq!(fs::read_to_string(&meant).unwrap(), CANARY);
        fs::remove_file(&meant).unwrap();
    }
}

/// Root keeps a file for a service: whoever looks at any moment finds it the service's with its mode, or half written and closed to all but its
/// owner.
#[test]
fn a_file_for_another_user_is_at_no_moment_anybody_elses() {
    if claviger::sys::euid() != 0 {
        eprintln!("\n*** SKIPPED: only root gives files to others ***\n");
        return;
    }
    let (user, group) = (1000, 65_534);
    let mut daemon = sample();
    // A parent that is no interpreter, for which the client speaks.
    let parent = daemon.dir.join("bin/keeper");
    assert!(Command::new("cp").args(["-L", "/usr/bin/timeout"]).arg(&parent).status().unwrap().success());
    let of_root = daemon::identities(0).replace("\"unix:uid:0\"", &format!("\"unix:uid:0\", \"unix:path:{}\"", parent.display()));
    daemon.write("identities.d/tester.toml", &of_root, 0o644);
    daemon.restart();
    let folder = tempfile::Builder::new().prefix("claviger-template-").tempdir_in("/dev/shm").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (page, file) = (folder.path().join("page"), folder.path().join("file"));
    fs::write(&page, "{{ secret('hello') }}").unwrap();
    let script = format!(
        "exec keeper --foreground 600 clav template -q {} -o {} --mode 0440 --owner {user}:{group}",
        page.display(),
        file.display()
    );
    let over = Arc::new(AtomicBool::new(false));
    let watcher = std::thread::spawn({
        let (over, folder) = (over.clone(), folder.path().to_owned());
        move || {
            let (mut whole, mut half) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&folder).unwrap().flatten() {
                    let Ok(meta) = entry.metadata() else { continue };
                    let (owner, mode) = ((meta.uid(), meta.gid()), meta.mode() & 0o7777);
                    match entry.file_name().to_str().unwrap() {
                        "page" => {}
                        "file" => {
                            assert_eq!((owner, mode), ((user, group), 0o440));
                            whole += 1;
                        }
                        name => {
                            let good =
                                mode == 0o600 && (owner == (0, 0) || owner == (user, group)) || (owner, mode) == ((user, group), 0o440);
                            assert!(good, "{name}: {owner:?} {mode:o}");
                            half += 1;
                        }
                    }
                }
            }
            (whole, half)
        }
    });
    let mut keeper = daemon.shell_of_operator(&script).spawn().unwrap();
    let mut value = CANARY.to_owned();
    for round in 0..40 {
        until("the file is written", || fs::read_to_string(&file).is_ok_and(|text| text == value));
        value = format!("value {round}");
        put(&daemon, &value);
    }
    let read = Command::new("setpriv").args(["--reuid=1000", "--regid=1000", "--clear-groups", "cat"]).arg(&file).output().unwrap();
    assert!(read.status.success(), "{}", text(&read));
    let stranger = Command::new("setpriv").args(["--reuid=1001", "--regid=1001", "--clear-groups", "cat"]).arg(&file).output().unwrap();
    assert!(!stranger.status.success(), "{}", text(&stranger));
    daemon::signal(keeper.id(), "TERM");
    assert!(keeper.wait().unwrap().success());
    over.store(true, Ordering::Relaxed);
    let (whole, half) = watcher.join().unwrap();
    assert!(whole > 100, "{whole} sights of the file, {half} of one half written");
    assert!(!file.exists());
}

#[test]
fn a_file_that_is_to_be_kept_stays_and_its_leases_do_not() {
    let daemon = sample();
    let folder = folder(&daemon);
    let (page, file) = (folder.path().join("page"), folder.path().join("file"));
    fs::write(&page, "{{ secret('hello') }}").unwrap();
    let mut running = Running::start(&daemon, &format!("exec clav template -q {} -o {} --keep", page.display(), file.display()));
    until("the file is written", || fs::read_to_string(&file).is_ok_and(|text| text == CANARY));
    assert_eq!(live(&daemon), 1);
    daemon::signal(running.child.id(), "TERM");
    assert!(running.child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&file).unwrap(), CANARY);
    until("everything was given back", || live(&daemon) == 0);
    exits(&daemon.shell(&format!("clav template -q {} -o {} --keep --once", page.display(), file.display())), 2);
}

/// Nobody may renew this one, and its tokens live for twenty seconds at most.
const BRIEF: &str = "[[secret]]\nname = \"brief\"\nengine = \"tokens\"\nowner = \"team-test\"\nsensitivity = \"public\"\nenvironment = \"test\"\n\
                     purposes = [\"try\"]\noperation = \"read\"\nttl = { max = \"20s\" }\ndescription = \"A token\"\n\
                     settings = { audience = [\"them\"] }\n";
const NOT_RENEWED: &str = "@id(\"test.no-renewal\") @class(\"cap\") @cap_renewable(\"no\")\n\
                           forbid (principal is Claviger::Workload, action in Claviger::Action::\"use\", resource == Claviger::Secret::\"brief\")\n\
                           when { context.effective.renewable };\n";

/// When a token is over, in seconds since 1970.
fn over(token: &str) -> u64 {
    let claims = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice::<serde_json::Value>(&claims).unwrap()["exp"].as_u64().unwrap()
}

#[test]
fn a_lease_that_cannot_be_renewed_is_followed_by_another_before_it_ends() {
    let mut daemon = sample();
    let grants = fs::read_to_string(daemon.dir.join("etc/policy.d/50-grants.cedar")).unwrap();
    let hello: Vec<&str> = grants.lines().take(2).collect();
    daemon.write("secrets.d/brief.toml", BRIEF, 0o644);
    daemon.write("policy.d/60-brief.cedar", &(hello.join("\n").replace("hello", "brief") + "\n" + NOT_RENEWED), 0o644);
    daemon.restart();
    let script =
        "exec clav exec -q --purpose try --on-rotate restart --secret brief -- sh -c 'cat $BRIEF_FD; echo; echo $$; exec sleep 60'";
    let mut running = Running::start(&daemon, script);
    let (first, pid) = (running.line(), running.line());
    let leases = json(&daemon.clav(["leases", "--all", "--json"]));
    let lease = leases["leases"][0].clone();
    assert_eq!((lease["secret"].as_str(), lease["renewable"].as_bool()), (Some("brief"), Some(false)), "{lease}");
    let (second, another) = (running.line(), running.line());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(first != second && pid != another, "another value, and another start");
    assert!(now < over(&first), "{now}: the first was over at {}", over(&first));
    assert!(over(&second) > over(&first));
    until("the first was given back", || live(&daemon) == 1);
    // It did not run out: it was given back while it lived.
    let of_lease = |record: &serde_json::Value| record["kind"] == "end" && record["lease"] == lease["id"];
    let records: Vec<serde_json::Value> = daemon.records().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = records.iter().find(|record| of_lease(record)).expect("its end is on the record");
    assert_eq!(end["ended"]["reason"], "asked", "{end}");
    daemon::signal(running.child.id(), "TERM");
    running.child.wait().unwrap();
    until("everything was given back", || live(&daemon) == 0);
}
