//! An agent tries to become somebody else, by each way that leads out of its process tree: it stays that agent or is refused.
//!
//! Every way is truly gone, by the agent itself, on a booted machine of its own: with the real user manager, the real cron and the real
//! sshd. What stands in is said where it does.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "support/machine.rs"]
mod machine;

use machine::{Machine, package, put};
use serde_json::Value;
use std::{fs, net::TcpListener, path::Path, time::Duration};

const CURL: &str = "curl --silent --show-error --max-time 30 --unix-socket /run/claviger/operator.sock";

/// Asks as program $1, for the file $2 in the home folder: who am I, and give me this.
const ASK: &str = r#"#!/bin/sh
out=$HOME/$2
export PYTHONHOME=/usr
for program in $1 robot; do
    for call in "GET /v1/whoami" "POST /v1/leases {\"secret\":\"app/one\",\"purpose\":\"testing\"}" "POST /v1/leases {\"secret\":\"app/public\",\"purpose\":\"testing\"}"; do
        /opt/robot/bin/$program -B /opt/robot/actor.py /run/claviger/workload.sock call $call
    done
done >$out.new 2>&1
mv $out.new $out
"#;

/// The same as soon as whoever started it is gone.
const ORPHAN: &str = r#"#!/bin/sh
while [ "$(cut -d" " -f4 /proc/$$/stat)" != 1 ]; do sleep 0.05; done
exec /opt/robot/ask "$@"
"#;

/// A way out, and the control group it leads to.
struct Way {
    name: &'static str,
    script: String,
    group: &'static str,
    /// The program that is run: a registered workload's.
    program: &'static str,
    /// Still below the agent, so it is the agent.
    below: bool,
}

fn ways(port: u16) -> Vec<Way> {
    let way = |name, below, group, script: &str| Way { name, script: script.to_owned(), group, program: "orders", below };
    let ssh = "mkdir -m 700 ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/key && cp ~/.ssh/key.pub ~/.ssh/authorized_keys && \
               ssh -i ~/.ssh/key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p PORT localhost";
    vec![
        // First, as it takes until the next minute; the others go on meanwhile.
        way("cron", false, "/system.slice/test-cron.service", "echo '* * * * * /opt/robot/ask orders cron' | crontab -"),
        way("binary", true, "robot@binary.service", "/opt/robot/ask orders binary"),
        Way { program: "apart", ..way("anothers-binary", true, "robot@anothers", "/opt/robot/ask apart anothers-binary") },
        way("double-fork", false, "robot@double", "sh -c '/opt/robot/orphan orders double-fork & exit 0'"),
        way("session", true, "robot@session", "setsid --wait /opt/robot/ask orders session"),
        way("session-and-fork", false, "robot@session", "setsid --fork /opt/robot/orphan orders session-and-fork"),
        way(
            "user-manager",
            false,
            "/user@",
            "export XDG_RUNTIME_DIR=/run/user/$(id -u); systemd-run --user --wait --quiet /opt/robot/ask orders user-manager",
        ),
        // A unit of one's own with the name of a registered one.
        Way {
            program: "named",
            ..way(
                "user-unit",
                false,
                "/user@",
                "export XDG_RUNTIME_DIR=/run/user/$(id -u); systemd-run --user --wait --quiet --unit=nightly /opt/robot/ask named user-unit",
            )
        },
        way("ssh", false, "/system.slice/test-ssh.service", &format!("{ssh} /opt/robot/ask orders ssh").replace("PORT", &port.to_string())),
    ]
}

fn identity(name: &str, kind: &str, selectors: &str) -> String {
    let soon = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
    format!(
        "[[identity]]\nname = \"{name}\"\nkind = \"{kind}\"\nowner = \"team\"\nenvironment = \"test\"\npurposes = [\"testing\"]\n\
         max_sensitivity = \"internal\"\nexpires = \"{soon}\"\nselectors = [{selectors}]\n\n"
    )
}

fn grant(kind: &str, identity: &str, secret: &str) -> String {
    let soon = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
    format!(
        "@id(\"grant.{identity}.{secret}\") @owner(\"team\") @purpose(\"testing\") @expires(\"{soon}\")\n\
         permit (principal == Claviger::{kind}::\"{identity}\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"app/{secret}\");\n"
    )
}

/// An agent, two workloads that are registered on its uid in different ways, and one with a uid of its own.
fn lay_out(files: &Path, ways: &[Way], port: u16) {
    package(files);
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    let identities = identity("robot", "agent", "\"unix:user:robot\", \"unix:path:/opt/robot/bin/robot\"")
        + &identity("orders", "workload", "\"unix:user:robot\", \"unix:path:/opt/robot/bin/orders\"")
        + &identity("nightly", "workload", "\"systemd:id:nightly.service\", \"unix:path:/opt/robot/bin/named\"")
        + &identity("apart", "workload", "\"unix:user:apart\", \"unix:path:/opt/robot/bin/apart\"");
    put(files, "etc/claviger/identities.d/all.toml", identities, 0o644);
    let secret = |name: &str, sensitivity: &str| {
        format!(
            "[[secret]]\nname = \"app/{name}\"\nengine = \"local\"\nowner = \"team\"\nsensitivity = \"{sensitivity}\"\nenvironment = \"test\"\n\
             purposes = [\"testing\"]\noperation = \"read\"\nttl = {{ max = \"1h\" }}\ndescription = \"for a test\"\n"
        )
    };
    put(files, "etc/claviger/secrets.d/all.toml", secret("one", "internal") + &secret("public", "public"), 0o644);
    let grants = ["orders", "nightly", "apart"].map(|name| grant("Workload", name, "one")).concat() + &grant("Agent", "robot", "public");
    put(files, "etc/claviger/policy.d/50-all.cedar", grants, 0o644);
    // Programs with names of their own, all of them the interpreter.
    let python = fs::read(fs::canonicalize("/usr/bin/python3").unwrap()).unwrap();
    for program in ["robot", "orders", "named", "apart"] {
        put(files, &format!("opt/robot/bin/{program}"), &python, 0o755);
    }
    put(files, "opt/robot/actor.py", include_str!("support/actor.py"), 0o644);
    put(files, "opt/robot/ask", ASK, 0o755);
    put(files, "opt/robot/orphan", ORPHAN, 0o755);
    for way in ways {
        put(files, &format!("opt/robot/ways/{}", way.name), &way.script, 0o644);
    }
    let service = |name: &str, text: &str| put(files, &format!("etc/systemd/system/{name}"), format!("[Service]\n{text}\n"), 0o644);
    let actor = "-B /opt/robot/actor.py /run/claviger/workload.sock";
    // The agent: it runs the script of a way and stays until there is an answer, so that nothing of it is cleared away.
    service(
        "robot@.service",
        &format!(
            "Type=oneshot\nUser=robot\nEnvironment=PYTHONHOME=/usr\nTimeoutStartSec=180\n\
             ExecStart=/opt/robot/bin/robot {actor} script /opt/robot/ways/%i /home/robot/%i"
        ),
    );
    service("apart.service", "Type=oneshot\nUser=apart\nExecStart=/opt/robot/ask apart answer");
    service("test-cron.service", "ExecStart=/usr/sbin/cron -f");
    let sshd =
        format!("Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/test-ssh/key\nUsePAM no\nPasswordAuthentication no\nPidFile none\n");
    put(files, "etc/test-ssh/config", sshd, 0o600);
    service(
        "test-ssh.service",
        "RuntimeDirectory=sshd\nExecStartPre=/usr/bin/ssh-keygen -q -t ed25519 -N '' -f /etc/test-ssh/key\n\
         ExecStart=/usr/sbin/sshd -D -e -f /etc/test-ssh/config",
    );
    // The real manager; what stands in is only what logind and PAM do around it, which do not run here.
    service(
        "user@.service",
        "Type=notify\nUser=%i\nSlice=user-%i.slice\nDelegate=yes\nKillMode=mixed\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n\
         ExecStartPre=+/bin/sh -c 'mkdir -p /run/user/%i && chmod 700 /run/user/%i && chown %i /run/user/%i'\nExecStart=/lib/systemd/systemd --user",
    );
}

/// The six answers of `ask`: identity, `app/one`, `app/public`; for the program and for the agent's own.
fn answers(machine: &Machine, user: &str, name: &str) -> Vec<Value> {
    let text = machine.until(&format!("cat /home/{user}/{name}"), Duration::from_secs(150));
    let answers: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert_eq!(answers.len(), 6, "{name}: {text}");
    answers
}

#[test]
fn every_way_out_of_an_agents_tree_leads_nowhere() {
    if let Err(why) = Machine::possible() {
        eprintln!("\n*** SKIPPED: no machine was booted: {why} ***\n");
        return;
    }
    let tools = ["/usr/sbin/cron", "/usr/bin/crontab", "/usr/sbin/sshd", "/usr/bin/ssh", "/usr/lib/systemd/user/dbus.socket"];
    let missing: Vec<_> = tools.into_iter().filter(|tool| !Path::new(tool).exists()).collect();
    if !missing.is_empty() {
        // With tests/run, which installs them, a test that does not find them has failed.
        assert!(std::env::var_os("CLAVIGER_REQUIRE_PACKAGES").is_none(), "{missing:?} are missing");
        eprintln!("\n*** SKIPPED: {missing:?} are missing (tests/run installs them): no way out of an agent's tree was tried ***\n");
        return;
    }
    // The machine shares the host's loopback.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).unwrap().port();
    let ways = ways(port);
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), &ways, port);
    let machine = Machine::boot(folder.path());
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    // Accounts that somebody can log in to. A star is no password and no lock.
    machine.ok("for user in robot apart; do useradd --create-home --shell /bin/sh --password '*' $user; done");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
    for name in ["one", "public"] {
        machine.ok(&format!("printf %s value-{name} | {CURL} --fail -T - http://claviger/v1/secrets/local/app/{name}"));
    }
    machine.ok("systemctl start test-cron test-ssh user@$(id -u robot)");
    machine.until(&format!("bash -c '</dev/tcp/127.0.0.1/{port}'"), Duration::from_secs(20));

    // What is granted is granted: to a workload with a uid of its own.
    machine.ok("systemctl start apart");
    let apart = answers(&machine, "apart", "answer");
    assert_eq!((&apart[0]["body"]["identity"]["name"], &apart[1]["status"]), (&"apart".into(), &201.into()), "{apart:#?}");

    for way in &ways {
        // Every one of them as a child of the agent.
        machine.ok(&format!("systemctl start --no-block robot@{}", way.name));
    }
    // The longest wait comes last.
    for way in ways.iter().rev() {
        let name = way.name;
        let found = answers(&machine, "robot", name);
        for (at, program) in [(0, way.program), (3, "robot")] {
            let (who, one, public) = (&found[at]["body"], &found[at + 1], &found[at + 2]);
            let group = who["attested"]["cgroup"].as_str().unwrap_or_default();
            assert!(group.contains(way.group), "{name} leads to {:?}, not to {group:?}: {who:#}", way.group);
            assert_eq!(who["attested"]["exe"]["path"], format!("/opt/robot/bin/{program}"), "{name}: {who:#}");
            assert!(one["status"] != 201 && one["body"]["secret"].is_null(), "{name}: {program} got what is a workload's: {one:#}");
            if way.below || program == "robot" {
                assert_eq!(who["identity"]["name"], "robot", "{name}: {program} is the agent: {who:#}");
                assert_eq!(public["status"], 201, "{name}: and has what the agent has: {public:#}");
            } else {
                assert_eq!(who["refused"]["code"], "left_agent_session", "{name}: {program} is nobody: {who:#}");
                assert_eq!(public["body"]["error"]["code"], "left_agent_session", "{name}: {public:#}");
            }
        }
        eprintln!("{name}: {}", found[0]["body"]["attested"]["cgroup"]);
    }
    let live: Value = serde_json::from_str(&machine.ok(&format!("{CURL} http://claviger/v1/leases"))).unwrap();
    let of_others: Vec<&Value> = live["leases"].as_array().unwrap().iter().filter(|lease| lease["identity"] != "robot").collect();
    assert!(of_others.is_empty(), "{of_others:#?}");
}
