//! Verbs about the host: `init` and `doctor`.

use super::*;
use std::{os::unix::fs::PermissionsExt, process::Command};

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn init_makes_everything_once_and_the_daemon_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let init = || Command::new(env!("CARGO_BIN_EXE_clav")).args(["init", "--root", root.to_str().unwrap()]).output().unwrap();
    let first = exits(&init(), 0);
    assert!(first.contains("made") && first.contains("Next:"), "{first}");
    assert_eq!(mode(&root.join("etc/claviger/key")), 0o400);
    assert_eq!(mode(&root.join("var/lib/claviger")), 0o700);
    assert_eq!(mode(&root.join("var/log/claviger")), 0o750);
    let key = std::fs::read(root.join("etc/claviger/key")).unwrap();
    assert_eq!(key.len(), 32);
    std::fs::write(root.join("etc/claviger/clavigerd.toml"), "# mine\n").unwrap();
    let second = exits(&init(), 0);
    assert!(second.contains("nothing was changed") && !second.contains("made"), "{second}");
    assert_eq!(std::fs::read(root.join("etc/claviger/key")).unwrap(), key, "the key is the same");
    assert_eq!(std::fs::read_to_string(root.join("etc/claviger/clavigerd.toml")).unwrap(), "# mine\n");
    a_first_secret(&root.join("etc/claviger"));
    // The files make a bundle.
    let etc = root.join("etc/claviger");
    let text = format!(
        "[paths]\npolicy = {0:?}\nsecrets = {1:?}\nidentities = {2:?}\n[local]\nkey_file = {3:?}\n",
        etc.join("policy.d"),
        etc.join("secrets.d"),
        etc.join("identities.d"),
        etc.join("key")
    );
    std::fs::write(etc.join("clavigerd.toml"), text).unwrap();
    let config = etc.join("clavigerd.toml");
    let check = Command::new(env!("CARGO_BIN_EXE_clavigerd")).args(["--check", "--config", config.to_str().unwrap()]).output().unwrap();
    exits(&check, 0);
    // An engine that could not be made.
    let row = "[[engine]]\nkind = \"github-app\"\nname = \"gh\"\napp = \"1\"\ninstallation = 7\nkey_file = \"/nowhere/key\"\n";
    let broken = etc.join("broken.toml");
    std::fs::write(&broken, format!("{}{row}", std::fs::read_to_string(&config).unwrap())).unwrap();
    let check = Command::new(env!("CARGO_BIN_EXE_clavigerd")).args(["--check", "--config", broken.to_str().unwrap()]).output().unwrap();
    exits(&check, 78);
    assert!(errors(&check).contains("engine gh: key_file: there is no /nowhere/key"), "{}", errors(&check));
    // What a definition needs of its engine.
    let lasting = "[[secret]]\nname = \"site/login\"\nengine = \"users\"\nowner = \"a\"\nsensitivity = \"internal\"\nenvironment = \"a\"\n\
        purposes = [\"a\"]\noperation = \"read\"\nttl = { max = \"1h\" }\ndescription = \"a\"\nsettings = { ends = \"none\" }\n";
    std::fs::write(etc.join("secrets.d/lasting.toml"), lasting).unwrap();
    for (probes, code) in [(true, 0), (false, 78)] {
        let row = format!("[[engine]]\nkind = \"command\"\nname = \"users\"\nprobes = {probes}\n");
        std::fs::write(&broken, format!("{}{row}", std::fs::read_to_string(&config).unwrap())).unwrap();
        let check = Command::new(env!("CARGO_BIN_EXE_clavigerd")).args(["--check", "--config", broken.to_str().unwrap()]).output().unwrap();
        exits(&check, code);
        assert_eq!(errors(&check).contains("needs probes = true of the engine"), !probes, "{}", errors(&check));
    }
    // What is set for a secret, as long as no engine has to be asked.
    let rows = "[[engine]]\nkind = \"jwt\"\nname = \"users\"\nissuer = \"https://host.example.com\"\nmax_ttl = \"10m\"\n";
    std::fs::write(&broken, format!("{}{rows}", std::fs::read_to_string(&config).unwrap())).unwrap();
    let row = |settings: &str, ttl: &str| lasting.replace("ends = \"none\"", settings).replace("\"1h\"", ttl);
    for (row, wanted) in [
        (row("audience = \"b\"", "\"10m\""), None),
        (row("audiense = \"b\"", "\"10m\""), Some("audiense")),
        (row("audience = \"b\"", "\"2h\""), Some("ttl: the engine users gives at most 10m")),
        (row("audience = \"b\"", "\"10m\"") + "share = \"identity\"\n", Some("nothing is made for each lease that could be shared")),
        (row("nonsense = 1", "\"10m\"").replace("\"users\"", "\"local\""), Some("no setting \"nonsense\"")),
    ] {
        std::fs::write(etc.join("secrets.d/lasting.toml"), row).unwrap();
        let check = Command::new(env!("CARGO_BIN_EXE_clavigerd")).args(["--check", "--config", broken.to_str().unwrap()]).output().unwrap();
        exits(&check, if wanted.is_some() { 78 } else { 0 });
        assert!(wanted.is_none_or(|wanted| errors(&check).contains(wanted)), "{}", errors(&check));
    }
    std::fs::remove_file(etc.join("secrets.d/lasting.toml")).unwrap();
    // A relative path is one from here, not from the root.
    let mut relative = Command::new(env!("CARGO_BIN_EXE_clavigerd"));
    exits(&relative.args(["--check", "--config", "clavigerd.toml"]).current_dir(&etc).output().unwrap(), 0);
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&root).unwrap()) == 0 {
        let mut other = Command::new(env!("CARGO_BIN_EXE_clav"));
        std::os::unix::process::CommandExt::uid(&mut other, 1000);
        exits(&other.arg("init").output().unwrap(), 2);
    }
    exits(&Command::new(env!("CARGO_BIN_EXE_clav")).args(["init", "--root", "/proc/nowhere"]).output().unwrap(), 1);
}

/// What init promises as next steps.
fn a_first_secret(etc: &std::path::Path) {
    let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
    let user = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(etc).unwrap());
    let user = if user == 0 { 1000 } else { user };
    let identity: Vec<String> = read("identities.d/hello.toml")
        .lines()
        .map(|line| if line.starts_with("selectors") { format!("selectors = [\"unix:uid:{user}\"]") } else { line.to_owned() })
        .collect();
    let files = [
        ("identities.d/tester.toml", identity.join("\n")),
        ("secrets.d/sample.toml", read("secrets.d/hello.toml")),
        ("policy.d/50-grants.cedar", read("policy.d/hello.cedar")),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text)).to_vec();
    let daemon = Daemon::start(&Options { files, ..Options::default() });
    exits(&daemon.clav_with(b"hello, world", ["secret", "put", "hello"]), 0);
    assert_eq!(exits(&daemon.plain(["get", "hello", "--purpose", "try-claviger", "-q"]), 0), "hello, world");
}

#[test]
fn doctor_names_what_is_wrong_and_a_remedy() {
    let mut daemon = sample();
    let report: serde_json::Value = serde_json::from_slice(&daemon.clav(["doctor", "--json"]).stdout).unwrap();
    let checks = report["checks"].as_array().unwrap().clone();
    let of = |what: &str| checks.iter().find(|check| check["what"] == what).unwrap_or_else(|| panic!("no check {what}"))["verdict"].clone();
    for what in ["configuration", "key", "policy", "daemon", "workload socket", "operator socket"] {
        assert_eq!(of(what), "ok", "{what}: {report}");
    }
    assert_eq!(of("anchors"), "warn");
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || !check["remedy"].as_str().unwrap().is_empty()));
    daemon.stop();
    let down = daemon.clav(["doctor"]);
    let said = exits(&down, 1);
    assert!(said.contains("FAIL") && said.contains("-> systemctl"), "{said}");
    exits(&daemon.clav(["doctor", "too-much"]), 2);
}
