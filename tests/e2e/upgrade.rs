//! What an earlier version left is read by this one. `tests/fixtures/format-1` is the folder of a daemon that wrote format 1: state with
//! leases, local store and the keys of a `jwt` engine, audit log, configuration. All its keys are for tests and open nothing.
//!
//! `CLAVIGER_TEST_WRITE_FIXTURE=FOLDER` makes one of the present format in that folder instead; do so before a format changes.

use super::host::*;
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/format-1");
const ASKS: [&str; 2] = [r#"{"secret":"app/one"}"#, r#"{"secret":"tok/partner"}"#];

fn setup() -> Setup {
    Setup {
        config: "[[engine]]\nkind = \"jwt\"\nname = \"tok\"\nissuer = \"https://tokens.example\"\nmax_ttl = \"1h\"\n".into(),
        identities: identity("orders", VICTIM, &(declared("app/one") + &declared("tok/partner"))),
        secrets: secret("app/one", "internal", "")
            + &secret("tok/partner", "internal", "settings = { audience = [\"partner\"] }").replace("\"local\"", "\"tok\""),
        policy: grant("orders", "app/one") + &grant("orders", "tok/partner"),
        ..Setup::default()
    }
}

/// What must be the same before and after, however it is written down.
fn known(host: &Host) -> serde_json::Value {
    let rows = |rows: serde_json::Value, names: &[&str]| -> Vec<serde_json::Value> {
        let pick = |row: &serde_json::Value| names.iter().map(|name| row[name].clone()).collect();
        rows.as_array().unwrap().iter().map(pick).collect()
    };
    let of = |path: &str, member: &str| host.operator("GET", path, "")[member].take();
    let lease =
        ["id", "state", "identity", "secret", "sensitivity", "ends_by", "purpose", "operation", "holder", "issued", "expires", "ttl"];
    serde_json::json!({
        "leases": rows(of("/v1/leases", "leases"), &lease),
        "values": rows(of("/v1/secrets/local", "values"), &["name", "version", "size", "updated"]),
        "keys": rows(of("/v1/keys", "keys"), &["name", "kind", "id"]),
        "jwks": host.operator("GET", "/v1/jwks/tok", "")["jwks"],
    })
}

/// The keys in use are those that were; such as were kept for an hour after the one that follows them may be gone by now.
fn same_keys(now: &serde_json::Value, before: &serde_json::Value) {
    let all = |of: &serde_json::Value| of["keys"].as_array().unwrap().clone();
    for (now, before) in [(all(now), all(before)), (all(&now["jwks"]), all(&before["jwks"]))] {
        assert!(now.iter().all(|key| before.contains(key)), "{now:?} of {before:?}");
    }
    // One of each algorithm that signs now; store and log.
    let count = |kind: &str| all(now).iter().filter(|key| key[1] == kind).count();
    assert!(count("local") == 1 && count("audit") == 1 && count("jwt") >= 2 && all(&now["jwks"]).len() >= 2, "{now}");
}

/// The day on which grants that are made today expire: a fixture says `$SOON`, for none may be made for longer than 90 days.
fn soon() -> String {
    let grant = grant("orders", "app/one");
    grant.split("@expires(\"").nth(1).unwrap()[..10].to_owned()
}

fn each_file(folder: &Path, see: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        match entry.path() {
            path if path.is_dir() => each_file(&path, see),
            path if path.is_file() => see(&path),
            _ => {}
        }
    }
}

/// Makes a fixture of what this version writes.
fn write(to: &Path) {
    let mut host = Host::start(setup());
    host.put("app/one", "value-of-old");
    host.put("app/one", "value-one");
    for key in ["audit", "tok"] {
        host.operator("POST", &format!("/v1/keys/{key}/rotate"), "");
    }
    let over = host.hold(VICTIM, "orders", &["hold", ASKS[0]]);
    drop(over);
    host.wait_until(Duration::from_secs(10), "one lease is over", |host| host.live().is_empty());
    let _holders: Vec<Actor> = ASKS.iter().map(|ask| host.hold(VICTIM, "orders", &["hold", ask])).collect();
    fs::write(to.join("known.json"), serde_json::to_string_pretty(&known(&host)).unwrap() + "\n").unwrap();
    host.stop(false);
    each_file(&host.dir, &mut |path| {
        let name = path.strip_prefix(&host.dir).unwrap();
        let skip = ["bin", "daemon.log", "actor.py", "policy.d/00-baseline.cedar"];
        if skip.iter().any(|skip| name.starts_with(skip)) || name.ends_with("ballast") {
            return;
        }
        let bytes = fs::read(path).unwrap();
        let own = host.dir.display().to_string();
        let bytes = match name.components().next().unwrap().as_os_str().to_str().unwrap() {
            "state" | "audit" | "key" => bytes,
            _ => String::from_utf8(bytes).unwrap().replace(&own, "$DIR").replace(&soon(), "$SOON").into_bytes(),
        };
        let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
        let bytes = match name.ends_with("state.json") {
            // A machine that nobody has.
            true => String::from_utf8(bytes).unwrap().replace(machine.trim(), &"0".repeat(32)).into_bytes(),
            false => bytes,
        };
        fs::create_dir_all(to.join(name).parent().unwrap()).unwrap();
        fs::write(to.join(name), bytes).unwrap();
    });
}

/// Lays a fixture out as a host's folder.
fn laid_out(fixture: &Path) -> Host {
    let host = Host::prepare(setup());
    let own = host.dir.display().to_string();
    let mut folders: Vec<PathBuf> = Vec::new();
    each_file(fixture, &mut |path| {
        let to = host.dir.join(path.strip_prefix(fixture).unwrap());
        let _ = fs::remove_file(&to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        folders.push(to.parent().unwrap().to_owned());
        let bytes = fs::read(path).unwrap();
        let text = String::from_utf8(bytes.clone()).map(|text| text.replace("$DIR", &own).replace("$SOON", &soon()).into_bytes());
        fs::write(&to, text.unwrap_or(bytes)).unwrap();
        let private = to.starts_with(host.dir.join("state"));
        let mode = if to.ends_with("key") {
            0o400
        } else if private {
            0o600
        } else {
            0o644
        };
        fs::set_permissions(&to, fs::Permissions::from_mode(mode)).unwrap();
    });
    for folder in folders.iter().filter(|folder| folder.starts_with(host.dir.join("state"))) {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
    }
    host
}

#[test]
fn what_the_first_format_holds_is_read() {
    if !is_root() {
        return;
    }
    if let Ok(folder) = std::env::var("CLAVIGER_TEST_WRITE_FIXTURE") {
        return write(Path::new(&folder));
    }
    let mut host = laid_out(Path::new(FIXTURE));
    let before: serde_json::Value = serde_json::from_slice(&fs::read(host.dir.join("known.json")).unwrap()).unwrap();
    // On a machine that is not its own everything can be looked at and nothing is touched.
    host.launch();
    assert!(host.operator("GET", "/v1/status", "")["read_only"].is_string());
    assert_eq!(before["leases"].as_array().unwrap().len(), 2);
    let now = known(&host);
    assert_eq!((&now["leases"], &now["values"]), (&before["leases"], &before["values"]));
    same_keys(&now, &before);
    host.stop(false);
    // It is told that this is its machine. The holders were another boot's, so their leases end, each once and as what it was.
    let path = host.dir.join("state/state.json");
    let mut head: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    head["machine"] = fs::read_to_string("/etc/machine-id").map_or(serde_json::Value::Null, |id| id.trim().into());
    fs::write(&path, head.to_string()).unwrap();
    host.launch();
    assert_eq!(host.operator("GET", "/v1/status", "")["read_only"], serde_json::Value::Null);
    for lease in before["leases"].as_array().unwrap() {
        let end = host.end_of(lease[0].as_str().unwrap());
        assert_eq!((&end["ended"]["reason"], &end["secret"]["name"]), (&"holder_gone".into(), &lease[3]), "{end}");
    }
    same_keys(&known(&host), &before);
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASKS[0]]);
    assert_eq!(holder.first["body"]["secret"]["value"], "value-one", "{}", holder.first);
    holder.say(&format!("call POST /v1/leases {}", ASKS[1]));
    assert_eq!(holder.line()["status"], 201);
    let over = host.records_of("end").iter().filter(|record| record["ended"]["reason"] == "holder_gone").count();
    assert_eq!(over, 3, "what was over stays over");
    host.stop(false);
    super::crash::verify(&host);
}

#[test]
fn what_a_later_version_wrote_ends_the_start_with_a_sentence_and_is_left_alone() {
    if !is_root() {
        return;
    }
    let host = laid_out(Path::new(FIXTURE));
    let body = r#"{"event":"heading","format":2,"state_id":"of a later version"}"#;
    let sum = ring::digest::digest(&ring::digest::SHA256, body.as_bytes());
    let sum: String = sum.as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(host.dir.join("state/leases/leases-000000000002.jsonl"), format!("{sum} {body}\n")).unwrap();
    let content = |folder: &str| {
        let mut all = Vec::new();
        each_file(&host.dir.join(folder), &mut |path| all.push((path.to_owned(), fs::read(path).unwrap())));
        all.retain(|(path, _)| !path.ends_with("ballast"));
        all.sort();
        all
    };
    let before = content("state/leases");
    let mut command = std::process::Command::new(program_under_test());
    let output = command.arg("--config").arg(host.dir.join("clavigerd.toml")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(78), "{said}");
    assert!(said.contains("lease journal: written in format 2") && said.contains("Start the version that wrote it"), "{said}");
    assert!(content("state/leases") == before, "nothing was changed");
}
