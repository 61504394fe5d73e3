//! The attacks of `tests/support/attack.py` as loops, and what each range of kernels makes of them. `docs/known-attacks.md` has the rows.
//!
//! `CLAVIGER_TEST_ATTACKS` is how many in a hundred of the full sizes are run: 5 by default, 100 for a release.

use super::host::*;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{PermissionsExt, chown},
    process::Command,
};

/// An attack, the program that starts it, its verb with arguments, and how many rounds are its full size.
pub struct Attack {
    pub name: &'static str,
    pub program: &'static str,
    pub verb: &'static [&'static str],
    pub full: u64,
}

/// `DAEMON` stands for the process id of the daemon, `$DIR` for its folder.
pub const ATTACKS: [Attack; 13] = [
    Attack { name: "pid reuse", program: "attacker", verb: &["reuse", "DAEMON"], full: 10_000 },
    Attack { name: "foreign writer", program: "orders", verb: &["foreign"], full: 10_000 },
    Attack { name: "exec after connect, to another", program: "orders", verb: &["exec", "evil"], full: 10_000 },
    Attack { name: "exec after connect, to the trusted", program: "attacker", verb: &["exec", "keeper"], full: 10_000 },
    Attack { name: "exec that keeps the memory map", program: "attacker", verb: &["keepmap"], full: 1000 },
    Attack { name: "changed credentials", program: "orders", verb: &["changed", "DAEMON"], full: 10_000 },
    Attack { name: "zombie", program: "orders", verb: &["zombie", "DAEMON"], full: 1000 },
    Attack { name: "leader gone", program: "orders", verb: &["leader"], full: 1000 },
    Attack { name: "odd executables", program: "attacker", verb: &["odd", "DAEMON"], full: 1000 },
    Attack { name: "namespaces", program: "attacker", verb: &["mount", "DAEMON"], full: 1000 },
    Attack { name: "other users, programs, relays", program: "attacker", verb: &["others", "DAEMON"], full: 1000 },
    Attack { name: "below an agent", program: "robot", verb: &["below", "DAEMON"], full: 1000 },
    Attack { name: "another program's face", program: "orders", verb: &["face"], full: 1000 },
];

/// A user of one program alone, so that it is isolated.
pub const ALONE: u32 = 61_004;

/// What a program among others of its user is not.
const ISOLATED: &str = r#"@id("test.isolated") @class("require") @require("assurance") @sentence("Run it isolated.")
forbid (principal, action in Claviger::Action::"use", resource == Claviger::Secret::"app/two")
unless { context.attested.assurance in Claviger::Assurance::"isolated" };
"#;

/// How many rounds of a full size are run.
pub fn part_of(full: u64) -> u64 {
    let percent: u64 = std::env::var("CLAVIGER_TEST_ATTACKS").map_or(5, |text| text.parse().unwrap());
    (full * percent / 100).max(10)
}

/// A daemon with somebody to be, whose sweep does not come to the rescue.
pub fn besieged(missing: &[&str]) -> Host {
    besieged_by(missing, "", "")
}

/// The same with these identities and grants too.
pub fn besieged_by(missing: &[&str], more_identities: &str, more_grants: &str) -> Host {
    let robot = identity("robot", AGENT, "").replace("\"workload\"", "\"agent\"");
    let workloads = [("orders", VICTIM), ("keeper", VICTIM), ("keepmap", VICTIM), ("deserter", AGENT)];
    let alone = identity("alone", ALONE, "exclusive_uid = true");
    let host = Host::start(Setup {
        config: format!(
            "[limits]\nconnections = 1000\nconnections_per_second = 100000\nrequests_per_second = 100000\n[leases]\nsweep = \"1h\"\n\
             [attest]\nassume_missing = {missing:?}\nclients = [\"$DIR/bin/clav\"]\n"
        ),
        identities: workloads.map(|(name, uid)| identity(name, uid, "")).concat() + &robot + &alone + more_identities,
        secrets: secret("app/one", "internal", "") + &secret("app/two", "internal", ""),
        policy: workloads.map(|(name, _)| grant(name, "app/one")).concat()
            + &["keeper", "alone"].map(|name| grant(name, "app/two")).concat()
            + ISOLATED
            + more_grants,
        ..Setup::default()
    });
    host.put("app/one", "value-one");
    host.put("app/two", "value-one");
    // The same file under each name: what tells them apart is what they are called, and in the registry.
    for (name, mode, group) in
        [("keeper", 0o755, 0), ("evil", 0o755, 0), ("deserter", 0o755, 0), ("setuid", 0o4755, 0), ("setgid", 0o2755, AGENT)]
    {
        let path = host.dir.join("bin").join(name);
        assert!(Command::new("cp").arg("/usr/bin/cat").arg(&path).status().unwrap().success());
        chown(&path, Some(0), Some(group)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, source) in [("keepmap", include_str!("../support/keepmap.c")), ("mimic", include_str!("../support/mimic.c"))] {
        let (program, file) = (host.dir.join("bin").join(name), format!("{name}.c"));
        host.write(&file, source);
        let compiled = Command::new("cc").args(["-O1", "-Wl,-z,now", "-o"]).arg(program).arg(host.dir.join(file)).status();
        assert!(compiled.unwrap().success());
    }
    host.program("alone");
    fs::write(host.dir.join("attack.py"), include_str!("../support/attack.py")).unwrap();
    host
}

impl Attack {
    pub fn named(name: &str) -> &'static Attack {
        ATTACKS.iter().find(|attack| attack.name == name).unwrap()
    }

    /// All rounds by one process that starts as root; what it counted.
    pub fn run(&self, host: &Host, rounds: u64) -> Value {
        let mut command = Command::new(host.program(self.program));
        command.arg("-B").arg(host.dir.join("attack.py")).arg(host.dir.join("workload.sock")).arg(self.verb[0]).arg(rounds.to_string());
        command.args(
            self.verb[1..]
                .iter()
                .map(|word| word.replace("DAEMON", &host.pid().to_string()).replace("$DIR", &host.path("")).replace("//", "/")),
        );
        let output = command.env_clear().env("PYTHONHOME", "/usr").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{}: {}: {said}", self.name, output.status);
        let found = lines(&output).remove(0);
        assert_eq!(found["rounds"], rounds, "{}: {found}", self.name);
        found
    }
}

/// Nothing was served, and nearly every round was what it should be. Another process of this machine may take the number that the attack
/// wants for its own: such a round stages nothing.
pub fn holds(attack: &Attack, found: &Value) {
    let (rounds, staged) = (found["rounds"].as_u64().unwrap(), found["staged"].as_u64().unwrap());
    assert_eq!(found["served"], 0, "{}: {found}", attack.name);
    assert!(staged * 100 >= rounds * 95, "{}: hardly staged: {found}", attack.name);
    let codes: BTreeSet<&str> = found["answers"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(!codes.contains("201") && !codes.contains("200"), "{}: {found}", attack.name);
}

/// The attack in its size, on a daemon that serves those who are who they say before and after.
pub fn staged(name: &str, and: impl FnOnce(&mut Host, &Value)) {
    let attack = Attack::named(name);
    let mut host = besieged(&[]);
    served(&host);
    let found = attack.run(&host, part_of(attack.full));
    eprintln!("{name}: {found}");
    holds(attack, &found);
    served(&host);
    and(&mut host, &found);
}

/// Who is who they say is served.
pub fn served(host: &Host) {
    let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", r#"{"secret":"app/one","purpose":"testing"}"#]).remove(0);
    assert_eq!((&answer["status"], &answer["body"]["secret"]["value"]), (&201.into(), &"value-one".into()), "{answer}");
}

/// What each range of kernels lacks that can be taken away here, newest first.
const RANGES: [(&str, &[&str]); 4] = [
    ("6.18", &[]),
    ("6.13-6.17", &["pidfd_handle"]),
    ("6.9-6.12", &["pidfd_handle", "pidfd_info"]),
    ("before 6.5", &["pidfd_handle", "pidfd_info", "peer_pidfd"]),
];

#[test]
fn no_range_of_kernels_serves_an_attacker() {
    if !is_root() {
        return;
    }
    eprintln!("{:<36} {:<12} {:>6} {:>6} {:>6}  answers", "attack", "Linux", "rounds", "staged", "served");
    for (range, missing) in RANGES {
        let host = besieged(missing);
        for attack in &ATTACKS {
            if attack.verb[0] == "keepmap" && missing.contains(&"peer_pidfd") {
                // Its program cannot answer the challenge, so it has no lease to begin with.
                eprintln!("{:<36} {range:<12} not staged", attack.name);
                continue;
            }
            // A tenth of what the newest range has in its own tests.
            let found = attack.run(&host, (part_of(attack.full) / 10).max(10));
            let (rounds, staged, served) = (&found["rounds"], &found["staged"], &found["served"]);
            eprintln!("{:<36} {range:<12} {rounds:>6} {staged:>6} {served:>6}  {}", attack.name, found["answers"]);
            holds(attack, &found);
        }
    }
}
