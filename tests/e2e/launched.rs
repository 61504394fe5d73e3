//! Programs of one user that are kept apart by the launcher, and everything by which their neighbours try to be them.

use super::host::*;
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

const ONE: &str = r#"{"secret":"app/one"}"#;
static COUNT: AtomicU32 = AtomicU32::new(0);

/// The launcher with its capability, manifests and a program tree, where every folder above is root's alone; removed at the end.
struct Apart {
    dir: PathBuf,
    host: Host,
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Apart {
    fn start(identities: &str, policy: &str) -> Apart {
        let dir = PathBuf::from(format!("/opt/claviger-e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        for folder in ["", "launch.d", "tree"] {
            fs::create_dir(dir.join(folder)).unwrap();
            fs::set_permissions(dir.join(folder), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let launcher = dir.join("clav-launch");
        assert!(Command::new("cp").arg(launcher_under_test()).arg(&launcher).status().unwrap().success());
        chown(&launcher, Some(0), Some(0)).unwrap();
        fs::set_permissions(&launcher, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("setcap").arg("cap_setgid=ep").arg(&launcher).status().unwrap().success(), "libcap2-bin");
        for (name, text) in [("actor.py", include_str!("../support/actor.py")), ("neighbour.py", include_str!("../support/neighbour.py"))] {
            fs::write(dir.join("tree").join(name), text).unwrap();
        }
        let row = |name: &str| {
            identity(name, VICTIM, &declared("app/one")).replace(&format!("unix:path:$DIR/bin/{name}"), &format!("launch:id:{name}"))
        };
        let host = Host::start(Setup {
            config: format!(
                "[attest]\nlauncher = \"{}\"\nclients = [\"$DIR/bin/clav\"]\n[limits]\nconnections = 1000\n",
                launcher.display()
            ),
            identities: row("tool") + &row("family") + &row("script") + identities,
            secrets: secret("app/one", "internal", ""),
            policy: grant("tool", "app/one") + &grant("family", "app/one") + &grant("script", "app/one") + policy,
            ..Setup::default()
        });
        host.put("app/one", "value-one");
        let apart = Apart { dir, host };
        apart.write("clav-launch.conf", &format!("{}\n{}\n", apart.path("launch.d"), apart.host.path("launch.sock")));
        let actor =
            format!("argument {}\nargument {}\npass-arguments yes\n", apart.path("tree/actor.py"), apart.host.path("workload.sock"));
        apart.manifest("tool", &format!("{actor}descendants no\n"));
        apart.manifest("family", &format!("{actor}descendants yes\n"));
        apart.manifest("probe", &format!("argument {}\npass-arguments yes\nkeep LANG\n", apart.path("tree/neighbour.py")));
        let script = format!("{} --socket {} get app/one; exit $?", apart.host.path("bin/clav"), apart.host.path("workload.sock"));
        apart.write("launch.d/script", &format!("program /bin/sh\nargument -c\nargument {script}\n"));
        apart
    }

    fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
        fs::set_permissions(self.dir.join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn manifest(&self, name: &str, more: &str) {
        self.write(
            &format!("launch.d/{name}"),
            &format!("program /usr/bin/python3\nargument -I\nargument -B\ntree {}\n{more}", self.path("tree")),
        );
    }

    fn as_user(&self, uid: u32, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--", program]).args(arguments);
        command
            .env_clear()
            .envs(std::env::vars().filter(|(key, _)| key == "CLAVIGER_MUTATION"))
            .env("LANG", "C.UTF-8")
            .env("SECRET", "x")
            .current_dir("/tmp");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn launch(&self, uid: u32, arguments: &[&str]) -> Command {
        self.as_user(uid, &self.path("clav-launch"), arguments)
    }

    /// A neighbour of the same user, who was not launched.
    fn neighbour(&self, arguments: &[&str]) -> Value {
        let script = self.path("tree/neighbour.py");
        let output = self.as_user(VICTIM, "/usr/bin/python3", &[&["-I", script.as_str()], arguments].concat()).output().unwrap();
        lines(&output).remove(0)
    }

    /// The same program and script as `tool`, started by hand.
    fn by_hand(&self, program: &mut Command) -> Actor {
        program.args(["-I", "-B", &self.path("tree/actor.py"), &self.host.path("workload.sock"), "hold", ONE]);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).env_clear();
        Actor::of(std::mem::replace(program, Command::new("true")))
    }

    fn worth(&self, actor: &mut Actor) -> Value {
        actor.say("call-anew GET /v1/whoami");
        actor.line()["body"].clone()
    }
}

/// A build with a defence taken out stands in when the tests themselves are tested.
fn launcher_under_test() -> String {
    std::env::var("CLAVIGER_TEST_LAUNCHER").unwrap_or_else(|_| env!("CARGO_BIN_EXE_clav-launch").to_owned())
}

fn denied(output: &std::process::Output, code: i32, why: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(code) && text.contains(why), "{:?} {text}", output.status);
}

#[test]
fn a_launched_program_is_isolated_and_the_same_program_by_hand_is_nobody() {
    if !is_root() {
        return;
    }
    let mut apart = Apart::start("", "");
    let mut tool = Actor::of(apart.launch(VICTIM, &["tool", "hold", ONE]));
    assert_eq!(tool.first["status"], 201, "{}", tool.first);
    let worth = apart.worth(&mut tool);
    assert_eq!((&worth["assurance"], &worth["identity"]["name"]), (&"isolated".into(), &"tool".into()), "{worth}");
    assert!(worth["selectors"].as_array().unwrap().contains(&"launch:id:tool".into()), "{worth}");
    let issue = apart.host.records_of("issue").pop().unwrap();
    assert_eq!((&issue["basis"], &issue["attested"]["launch"]), (&"launch".into(), &"tool".into()), "{issue}");
    let launch = apart.host.records_of("launch").pop().unwrap();
    assert_eq!((&launch["more"]["name"], &launch["uid"]), (&"tool".into(), &VICTIM.into()), "{launch}");
    assert_eq!(launch["more"]["group"], issue["attested"]["gid"]);
    // The same interpreter with the same script.
    let hand = apart.by_hand(&mut apart.as_user(VICTIM, "/usr/bin/python3", &[]));
    assert_eq!(hand.first["body"]["error"]["code"], "no_identity", "{}", hand.first);
    // Another user launches it: another uid, so not this row.
    let other = Actor::of(apart.launch(ATTACKER, &["tool", "hold", ONE]));
    assert_eq!(other.first["body"]["error"]["code"], "no_identity", "{}", other.first);
    // Each launch has a group of its own.
    let again = Actor::of(apart.launch(VICTIM, &["tool", "hold", ONE]));
    assert_eq!(again.first["status"], 201);
    let groups: Vec<Value> = apart.host.records_of("launch").iter().map(|record| record["more"]["group"].clone()).collect();
    assert_eq!(groups.len(), 3);
    assert!(groups.windows(2).all(|pair| pair[0].as_u64() < pair[1].as_u64()), "{groups:?}");
    // The daemon goes and comes back: the program is who it was, its lease is its own, and no group is given twice.
    let lease = tool.lease();
    apart.host.stop(true);
    apart.host.launch();
    tool.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    let read = tool.line();
    assert_eq!(read["status"], 200, "{read}");
    assert_eq!(apart.worth(&mut tool)["assurance"], "isolated");
    let after = Actor::of(apart.launch(VICTIM, &["tool", "hold", ONE]));
    assert_eq!(after.first["status"], 201);
    let last = apart.host.records_of("launch").pop().unwrap()["more"]["group"].as_u64();
    assert!(last > groups[2].as_u64(), "{last:?} after {groups:?}");
}

#[test]
fn neighbours_of_the_same_user_get_at_nothing() {
    if !is_root() {
        return;
    }
    let apart = Apart::start("", "");
    let tool = Actor::of(apart.launch(VICTIM, &["tool", "hold", ONE]));
    let tried = apart.neighbour(&["attack", &tool.pid().to_string()]);
    assert!(tried.as_object().unwrap().values().all(|result| result != "ok"), "{tried}");
    // The attack itself works here: on a neighbour that was not launched.
    let hand = apart.by_hand(&mut apart.as_user(VICTIM, "/usr/bin/python3", &[]));
    let tried = apart.neighbour(&["attack", &hand.pid().to_string()]);
    for way in ["mem", "environ", "ptrace", "pidfd_getfd", "prlimit"] {
        assert_eq!(tried[way], "ok", "{tried}");
    }
}

#[test]
fn a_launched_program_cannot_hand_its_group_on() {
    if !is_root() {
        return;
    }
    let apart = Apart::start("", "");
    let folder = apart.dir.join("open");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let mut ignoring = apart.launch(VICTIM, &["probe", "mint", &folder.display().to_string()]);
    ignoring.env("LD_PRELOAD", "/nowhere").env("PYTHONSTARTUP", "/nowhere");
    let probe = Actor::of(ignoring);
    let report = &probe.first;
    let refused = report["refused"].as_object().unwrap();
    assert!(refused.len() > 30 && refused.values().all(|result| result == "EPERM" || result == "ENOSYS"), "{report}");
    assert!(report["good"].as_object().unwrap().values().all(|result| result == "ok"), "{report}");
    let gid = report["gids"][0].as_u64().unwrap();
    assert!((2_010_000_000..2_140_000_000).contains(&gid) && report["gids"] == serde_json::json!([gid, gid, gid]), "{report}");
    assert_eq!(report["caps"].as_str().unwrap().trim_matches('0'), "");
    assert_eq!((&report["nnp"], &report["umask"], &report["core"]), (&"1".into(), &"0077".into(), &serde_json::json!([1, 1])));
    assert_eq!(report["environment"], serde_json::json!({"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}));
    assert_eq!(report["blocked"].as_str().unwrap().trim_matches('0'), "");
    // A neighbour marks the file that it finds: the kernel leaves the bit out for whoever is not in the group.
    let file = folder.join("good").display().to_string();
    let marked = apart.neighbour(&["own", &file]);
    assert_eq!((&marked["gid"], &marked["mode"]), (&gid.into(), &0o755.into()), "{marked}");
    // It has ended, and its group is nobody: by root's hand a process with it, which has the right uid and program.
    for family in [false, true] {
        if family {
            drop(Actor::of(apart.launch(VICTIM, &["family", "hold", ONE])));
        }
        let mut left = Command::new("setpriv");
        left.args([&format!("--reuid={VICTIM}"), &format!("--regid={gid}"), "--clear-groups", "--", "/usr/bin/python3"]);
        let answer = apart.by_hand(&mut left).first.clone();
        assert_eq!(answer["body"]["error"]["code"], "no_identity", "{answer}");
    }
}

#[test]
fn nobody_but_the_launcher_with_its_privilege_is_believed() {
    if !is_root() {
        return;
    }
    let apart = Apart::start("", "");
    let launcher = apart.path("clav-launch");
    let socket = apart.host.path("launch.sock");
    // Another program asks in its place.
    for text in ["claviger-launch/1 tool alone", "claviger-launch/9", "x"] {
        let answer = apart.neighbour(&["ask", &socket, text]);
        assert!(answer["answer"].as_str().unwrap().contains("not_launcher"), "{answer}");
    }
    // With the launcher's face.
    let mimic = apart.path("mimic");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/mimic.c");
    assert!(Command::new("cc").args(["-O1", "-Wl,-z,now", "-o", &mimic, source]).status().unwrap().success());
    let answer = apart.neighbour(&["mimic", &socket, "claviger-launch/1 tool alone", &mimic, &launcher]);
    assert!(answer["answer"].as_str().unwrap().contains("not_launcher"), "{answer}");
    // Traced, or where no exec gives a privilege, it has none and says so.
    assert_eq!(apart.neighbour(&["traced", &launcher, "tool"])["code"], 125);
    let bound =
        apart.as_user(VICTIM, "/usr/bin/python3", &["-I", &apart.path("tree/neighbour.py"), "bound", &launcher, "tool"]).output().unwrap();
    denied(&bound, 125, "no privilege");
    // Code of a caller's within the launcher: not where it has its privilege, and worth nothing where it has not.
    let library = apart.path("preloaded.so");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-o", &library])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/preloaded.c"))
        .status();
    assert!(built.unwrap().success());
    let mark = apart.dir.join("mark");
    let marks = || fs::read_to_string(&mark).unwrap_or_default();
    let clear = || {
        fs::write(&mark, "").unwrap();
        fs::set_permissions(&mark, fs::Permissions::from_mode(0o666)).unwrap();
    };
    clear();
    let mut clean = apart.launch(VICTIM, &["tool", "hold", ONE]);
    clean.env("LD_PRELOAD", &library).env("MARK", &mark).env("SOCKET", &socket);
    let tool = Actor::of(clean);
    assert_eq!(tool.first["status"], 201);
    assert!(!marks().contains("clav-launch") && !marks().contains("group"), "{}", marks());
    // A copy that lost its privilege (or lies on a file system that gives none) executes what its caller loads into it.
    clear();
    assert!(Command::new("setcap").args(["-r", &launcher]).status().unwrap().success());
    let mut steered = apart.launch(VICTIM, &["tool"]);
    steered.env("LD_PRELOAD", &library).env("MARK", &mark).env("SOCKET", &socket);
    denied(&steered.output().unwrap(), 125, "no privilege");
    let said = marks();
    assert!(
        said.lines().any(|line| line.starts_with(&launcher) && line.contains("not_launcher")),
        "its code ran there, and was refused: {said}"
    );
    assert!(!said.contains("group "), "{said}");
    let refused: Vec<Value> = apart.host.records_of("refuse").into_iter().filter(|record| record["code"] == "not_launcher").collect();
    assert!(refused.len() >= 4, "{refused:?}");
}

#[test]
fn what_others_may_write_is_not_launched() {
    if !is_root() {
        return;
    }
    let apart = Apart::start("", "");
    let launch = |arguments: &[&str]| apart.launch(VICTIM, arguments).stdin(Stdio::null()).output().unwrap();
    denied(&launch(&[]), 2, "usage");
    denied(&launch(&["../tool"]), 2, "no name");
    denied(&launch(&["nothing"]), 125, "there is no manifest");
    let (folder, away) = (apart.dir.join("launch.d"), apart.dir.join("away"));
    fs::rename(&folder, &away).unwrap();
    denied(&launch(&["nothing"]), 125, &format!("there is no manifest {}/nothing", folder.display()));
    fs::rename(&away, &folder).unwrap();
    apart.manifest("plain", "");
    denied(&launch(&["plain", "-c", "print(1)"]), 125, "pass-arguments");
    apart.manifest("odd", "user root\n");
    denied(&launch(&["odd"]), 125, "line 5");
    // Each in turn writable by others, and then no more.
    let theirs = apart.dir.join("tree/library.py");
    fs::write(&theirs, "").unwrap();
    for (path, good, bad, owner) in [
        (theirs.clone(), 0o644, 0o666, 0),
        (theirs.clone(), 0o644, 0o644, VICTIM),
        (apart.dir.join("tree"), 0o755, 0o1777, 0),
        (apart.dir.join("tree/actor.py"), 0o644, 0o664, 0),
        (apart.dir.join("launch.d/tool"), 0o644, 0o646, 0),
        (apart.dir.join("launch.d/tool"), 0o644, 0o644, VICTIM),
        (apart.dir.join("launch.d"), 0o755, 0o777, 0),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(bad)).unwrap();
        chown(&path, Some(owner), None).unwrap();
        denied(&launch(&["tool", "wait"]), 125, "root");
        chown(&path, Some(0), None).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(good)).unwrap();
        assert!(launch(&["tool", "wait"]).status.success(), "{}", path.display());
    }
    std::os::unix::fs::symlink("/tmp/claviger-nobody-made-this", apart.dir.join("tree/link.py")).unwrap();
    denied(&launch(&["tool", "wait"]), 125, "link.py");
}

#[test]
fn children_belong_to_it_only_where_the_manifest_says_so() {
    if !is_root() {
        return;
    }
    let apart = Apart::start("", "");
    let alone = Actor::of(apart.launch(VICTIM, &["tool", "child", "child", "/usr/bin/python3", "call", "GET", "/v1/whoami"]));
    assert!(alone.first["body"]["identity"].is_null(), "{}", alone.first);
    let child = Actor::of(apart.launch(VICTIM, &["family", "child", "child", "/usr/bin/python3", "call", "GET", "/v1/whoami"]));
    assert_eq!(
        (&child.first["body"]["identity"]["name"], &child.first["body"]["assurance"]),
        (&"family".into(), &"isolated".into()),
        "{}",
        child.first
    );
    // One that left its tree is nobody, though it has the group.
    let orphan = Actor::of(apart.launch(VICTIM, &["family", "child", "orphan", "/usr/bin/python3", "call", "GET", "/v1/whoami"]));
    assert!(orphan.first["body"]["identity"].is_null(), "{}", orphan.first);
    // Our client speaks for the launched program that starts it.
    let get = apart.launch(VICTIM, &["script"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&get.stdout).trim(), "value-one", "{}", String::from_utf8_lossy(&get.stderr));
    let issue = apart.host.records_of("issue").pop().unwrap();
    assert_eq!((&issue["basis"], &issue["assurance"]), (&"launch".into(), &"isolated".into()), "{issue}");
}

#[test]
fn an_agent_launches_nothing() {
    if !is_root() {
        return;
    }
    let agent = identity("robot", AGENT, "").replace("kind = \"workload\"", "kind = \"agent\"");
    let apart = Apart::start(&agent, "");
    let robot = apart.host.program("robot");
    let launcher = apart.path("clav-launch");
    let script = format!(
        "import subprocess,json; p = subprocess.run(['{launcher}', 'tool', 'wait'], capture_output=True, text=True); print(json.dumps({{'code': p.returncode, 'why': p.stderr}}))"
    );
    let mut command = apart.as_user(AGENT, &robot, &["-c", &script]);
    let output = command.env("PYTHONHOME", "/usr").output().unwrap();
    let answer = lines(&output).remove(0);
    assert!(answer["code"] == 125 && answer["why"].as_str().unwrap().contains("agent_descendant"), "{answer}");
}
