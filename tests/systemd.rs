//! The units, started by a real systemd: activation, readiness, watchdog, credentials, restart, reload, and what the sandbox lets through.
//!
//! Needs root and leaves nothing behind. Where that is not possible it says so and passes.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "support/machine.rs"]
mod machine;

use machine::{Machine, package, put, root};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

const CURL: &str = "curl --silent --show-error --max-time 30 --unix-socket";

/// What an administrator adds: a service with a user of its own, its identity, its secret and a grant.
fn orders(files: &Path) {
    let soon = (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string();
    let identity = format!(
        "[[identity]]\nname = \"orders\"\nkind = \"workload\"\nowner = \"team-orders\"\nenvironment = \"prod\"\npurposes = [\"serve-orders\"]\n\
         max_sensitivity = \"confidential\"\nexpires = \"{soon}\"\nselectors = [\"systemd:id:orders.service\", \"unix:user:orders\"]\n\
         [[identity.use]]\nsecret = \"orders/api-key\"\npurpose = \"serve-orders\"\noperation = \"read\"\n\
         [[identity]]\nname = \"agent\"\nkind = \"agent\"\nowner = \"team-orders\"\nenvironment = \"prod\"\npurposes = [\"work\"]\n\
         max_sensitivity = \"internal\"\nexpires = \"{soon}\"\nselectors = [\"unix:user:agent\"]\n"
    );
    let secret = "[[secret]]\nname = \"orders/api-key\"\nengine = \"local\"\nowner = \"team-orders\"\nsensitivity = \"internal\"\n\
         environment = \"prod\"\npurposes = [\"serve-orders\"]\noperation = \"read\"\nttl = { max = \"1h\" }\ndescription = \"Key of the orders API\"\n";
    let grant = format!(
        "@id(\"grant.orders\") @owner(\"team-orders\") @purpose(\"serve-orders\") @expires(\"{soon}\")\n\
         permit (principal == Claviger::Workload::\"orders\", action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"orders/api-key\");\n"
    );
    let whoami = format!("{CURL} /run/claviger/workload.sock http://claviger/v1/whoami >/run/orders/whoami");
    let lease = format!(
        "{CURL} /run/claviger/workload.sock -d '{{\\\"secret\\\":\\\"orders/api-key\\\",\\\"holder\\\":\\\"unit\\\"}}' http://claviger/v1/leases >/run/orders/lease"
    );
    let unit = format!(
        "[Service]\nUser=orders\nRuntimeDirectory=orders\nPrivateTmp=yes\nProtectSystem=strict\nType=notify\nNotifyAccess=all\n\
         ExecStart=/bin/sh -c \"{whoami}; {lease}; systemd-notify --ready; exec sleep infinity\"\n"
    );
    put(files, "etc/claviger/identities.d/orders.toml", identity, 0o644);
    put(files, "etc/claviger/secrets.d/orders.toml", secret, 0o644);
    put(files, "etc/claviger/policy.d/50-orders.cedar", grant, 0o644);
    put(files, "etc/systemd/system/orders.service", unit, 0o644);
    put(files, "etc/sysusers.d/orders.conf", "u orders - \"orders\" / /usr/sbin/nologin\nu agent - \"agent\" / /usr/sbin/nologin\n", 0o644);
}

fn shown(machine: &Machine, unit: &str, property: &str) -> String {
    machine.ok(&format!("systemctl show --value -p {property} {unit}")).trim().to_owned()
}

fn json(machine: &Machine, command: &str) -> Value {
    let text = machine.ok(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text}\n{}", machine.journal()))
}

fn say(started: Instant, what: &str) {
    eprintln!("{:>6} ms  {what}", started.elapsed().as_millis());
}

#[test]
fn the_units_do_what_they_promise() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let started = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    package(files);
    orders(files);
    // Root's alone: the daemon reads it by its capability.
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    // The watchdog at the speed of a test.
    put(files, "etc/systemd/system/clavigerd.service.d/test.conf", "[Service]\nWatchdogSec=2s\n", 0o644);
    put(files, "etc/systemd/system/claviger-attest.service.d/test.conf", "[Service]\nWatchdogSec=2s\n", 0o644);
    let machine = Machine::boot(files);
    say(started, "booted");
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");

    // Activation: nothing runs until somebody asks.
    assert_eq!(shown(&machine, "clavigerd", "ActiveState"), "inactive");
    let health = json(&machine, &format!("{CURL} /run/claviger/workload.sock http://claviger/v1/health"));
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(shown(&machine, "clavigerd", "ActiveState"), "active");
    assert!(!shown(&machine, "clavigerd", "StatusText").is_empty());
    say(started, "activated by its socket");

    // Who owns what.
    let modes =
        "stat -c '%a %U:%G' /run/claviger /run/claviger/workload.sock /run/claviger/operator.sock /var/lib/claviger /var/log/claviger";
    let expected = "755 root:root\n666 root:root\n660 root:claviger-operators\n700 claviger:claviger-audit\n750 claviger:claviger-audit\n";
    assert_eq!(machine.ok(modes), expected);
    assert_eq!(machine.ok("find /var/lib/claviger /var/log/claviger -perm /o+rwx ! -name audit.pub"), "", "open to everybody");
    let pid = shown(&machine, "clavigerd", "MainPID");
    let status = machine.ok(&format!("cat /proc/{pid}/status"));
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    // The daemon may nothing that its user may not; the attestor has CAP_DAC_READ_SEARCH (bit 2) and CAP_SYS_PTRACE (bit 19), to look.
    for set in ["CapEff:", "CapPrm:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));
    let attestor = machine.ok(&format!("cat /proc/{}/status", shown(&machine, "claviger-attest", "MainPID")));
    let of_attestor = |name: &str| attestor.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned();
    for (set, bits) in [("CapEff:", "0000000000080004"), ("CapBnd:", "0000000000080004"), ("CapAmb:", "0000000000000000")] {
        assert_eq!(of_attestor(set), bits, "{set} of the attestor");
    }
    assert_ne!(of_attestor("Uid:"), field("Uid:"));
    assert_eq!((of_attestor("Seccomp:").as_str(), of_attestor("NoNewPrivs:").as_str()), ("2", "1"));
    // Not dumpable: its memory is root's, although it runs as another user.
    assert_eq!(machine.ok(&format!("stat -c %U /proc/{pid}/mem")), "root\n");
    let host = json(&machine, &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/status"));
    assert_eq!(host["frozen"], false, "{host}");
    // The client believes a listener that root put there, whoever serves it.
    assert!(machine.ok("clav status && clav leases --all").contains("kernel "));
    assert!(machine.run("setpriv --reuid daemon --regid daemon --clear-groups clav whoami").status.code() != Some(12));
    say(started, "modes, capabilities and filter are as written");

    // A service with its own user is isolated, and gets its secret with nothing but its name.
    let put = format!("printf %s s3cret-value | {CURL} /run/claviger/operator.sock -T - http://claviger/v1/secrets/local/orders/api-key");
    assert_eq!(json(&machine, &put)["version"], 1);
    machine.ok("systemctl start orders");
    let who = json(&machine, "cat /run/orders/whoami");
    assert_eq!((&who["assurance"], &who["identity"]["name"]), (&"isolated".into(), &"orders".into()), "{who}");
    assert!(who["selectors"].as_array().unwrap().contains(&"systemd:id:orders.service".into()), "{who}");
    assert_eq!(who["attested"]["unit"]["invocation"], shown(&machine, "orders", "InvocationID"), "{who}");
    let issued = json(&machine, "cat /run/orders/lease");
    assert_eq!(issued["secret"]["value"], "s3cret-value", "{issued}");
    assert_eq!(issued["lease"]["holder"]["kind"], "unit", "{issued}");
    say(started, "a unit is isolated and has its lease");

    // Another unit of the same kind is nobody, and an agent stays an agent, whoever it asks as.
    let nobody = json(
        &machine,
        &format!("setpriv --reuid daemon --regid daemon --clear-groups {CURL} /run/claviger/workload.sock http://claviger/v1/whoami"),
    );
    assert_eq!(nobody["refused"]["code"], "no_identity", "{nobody}");
    let agent = json(
        &machine,
        &format!(
            "setpriv --reuid agent --regid agent --groups claviger-operators {CURL} /run/claviger/operator.sock http://claviger/v1/status"
        ),
    );
    assert_eq!(agent["error"]["code"], "not_operator", "{agent}");
    let member = json(
        &machine,
        &format!(
            "setpriv --reuid daemon --regid daemon --groups claviger-operators {CURL} /run/claviger/operator.sock http://claviger/v1/status"
        ),
    );
    assert_eq!(member["frozen"], false, "{member}");
    let closed = machine
        .run(&format!("setpriv --reuid daemon --regid daemon --clear-groups {CURL} /run/claviger/operator.sock http://claviger/v1/status"));
    assert!(!closed.status.success(), "the operator socket is open to everybody");
    say(started, "others are turned away");

    // A restart keeps the sockets, what waits in them, and the leases.
    let inode = machine.ok("stat -c %i /run/claviger/workload.sock");
    machine.ok("systemctl restart clavigerd");
    assert_eq!(machine.ok("stat -c %i /run/claviger/workload.sock"), inode);
    let leases = json(&machine, &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases"));
    assert_eq!(leases["leases"][0]["id"], issued["lease"]["id"], "{leases}\n{}", machine.journal());
    say(started, "restarted; the lease lives");

    // A daemon that hangs is replaced, and who asked meanwhile gets an answer.
    let pid = shown(&machine, "clavigerd", "MainPID");
    machine.ok(&format!("kill -STOP {pid}"));
    let waiting = json(&machine, &format!("{CURL} /run/claviger/workload.sock http://claviger/v1/health"));
    assert_eq!(waiting["status"], "ok");
    assert_ne!(shown(&machine, "clavigerd", "MainPID"), pid);
    assert_eq!(shown(&machine, "clavigerd", "NRestarts"), "1");
    let leases = json(&machine, &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases"));
    assert_eq!(leases["leases"][0]["id"], issued["lease"]["id"], "{leases}\n{}", machine.journal());
    say(started, "a hung daemon was replaced");

    // So is an attestor that hangs or dies; the daemon stays and its leases with it.
    let daemon = shown(&machine, "clavigerd", "MainPID");
    for signal in ["STOP", "KILL"] {
        let attestor = shown(&machine, "claviger-attest", "MainPID");
        machine.ok(&format!("kill -{signal} {attestor}"));
        machine.until(
            &format!("test $(systemctl show --value -p MainPID claviger-attest) -gt 0 && test $(systemctl show --value -p MainPID claviger-attest) != {attestor}"),
            Duration::from_secs(20),
        );
        machine.until("clav status | grep -q 'attestor a process of its own'", Duration::from_secs(10));
    }
    assert_eq!(shown(&machine, "clavigerd", "MainPID"), daemon);
    let leases = json(&machine, &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases"));
    assert_eq!(leases["leases"][0]["id"], issued["lease"]["id"], "{leases}\n{}", machine.journal());
    say(started, "a hung attestor and a dead one were replaced");

    // A broken file fails the reload and changes nothing.
    machine.ok("echo '[[secret' >/etc/claviger/secrets.d/broken.toml");
    assert!(!machine.run("systemctl reload clavigerd").status.success());
    // What a program wrote is in the journal some time after it has ended.
    machine.until("journalctl -u clavigerd | grep -q secrets.d/broken.toml:1", Duration::from_secs(10));
    assert_eq!(json(&machine, &format!("{CURL} /run/claviger/workload.sock http://claviger/v1/health"))["status"], "ok");
    machine.ok("rm /etc/claviger/secrets.d/broken.toml && systemctl reload clavigerd");
    // reload(8) may return before the daemon has said that it is done.
    machine.until("systemctl show -P ActiveState clavigerd | grep -qx active", std::time::Duration::from_secs(10));
    say(started, "a broken reload fails, a sound one is taken");

    // The unit stops: its lease ends.
    machine.ok("systemctl stop orders");
    machine.until(
        &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases | grep -q '\"leases\":\\[\\]'"),
        Duration::from_secs(5),
    );
    say(started, "the unit stopped and its lease ended");

    // What leaves the host by the journal.
    machine.until(
        "journalctl -o json CLAVIGER_HEAD | grep -q claviger-head-v1 || journalctl -t claviger -o json | grep -q claviger-head-v1",
        Duration::from_secs(10),
    );
    machine.ok("journalctl -t claviger | grep -q ready");
    assert!(
        !machine
            .run(
                "journalctl -t claviger -p warning | grep -v 'No entries' | grep -v broken.toml | grep -v 'the attestor was lost' | grep ."
            )
            .status
            .success(),
        "{}",
        machine.journal()
    );
    assert!(!machine.run("journalctl -o export | grep -aq s3cret-value").status.success(), "a value is in the journal");
    say(started, "heads are in the journal, and no warning and no value");

    // A new key: one start with both, and from then on without the old.
    machine.ok("cd /etc/claviger && mv key key.previous && (umask 377; head -c 32 /dev/urandom >key) && chown claviger key && \
         sed -i 's|^##previous_key_file|previous_key_file|' clavigerd.toml && systemctl restart clavigerd && \
         sed -i 's|^previous_key_file|##previous_key_file|' clavigerd.toml && rm key.previous && systemctl restart clavigerd && \
         systemctl start orders");
    assert_eq!(json(&machine, "cat /run/orders/lease")["secret"]["value"], "s3cret-value");
    machine.ok("systemctl stop orders");
    say(started, "the key was changed and the value is the same");

    // The same key as a credential that is sealed to the machine.
    machine.ok("mkdir -m 700 -p /etc/credstore.encrypted && \
         systemd-creds encrypt --with-key=host --name=claviger-key /etc/claviger/key /etc/credstore.encrypted/claviger-key && \
         rm /etc/claviger/key && systemctl restart clavigerd && systemctl start orders");
    assert_eq!(json(&machine, "cat /run/orders/lease")["secret"]["value"], "s3cret-value");
    say(started, "a sealed credential opens the store");

    // An orderly stop, and a start that cannot succeed is not tried again.
    machine.ok("systemctl stop clavigerd");
    assert_eq!(shown(&machine, "clavigerd", "Result"), "success");
    machine.ok("echo 'nonsense = 1' >>/etc/claviger/clavigerd.toml");
    assert!(!machine.run("systemctl start clavigerd").status.success());
    assert_eq!(shown(&machine, "clavigerd", "ExecMainStatus"), "78");
    assert_eq!(shown(&machine, "clavigerd", "NRestarts"), "0");
    machine.ok("journalctl -u clavigerd | grep -q 'clavigerd.toml:.*nonsense'");
    say(started, "a start that cannot succeed is not tried again");
}

/// A booted machine where `orders` runs these lines of a unit; its secret has a value.
fn with_orders(folder: &Path, unit: &str) -> Machine {
    package(folder);
    orders(folder);
    put(folder, "etc/claviger/key", "6b".repeat(32), 0o400);
    let unit = format!("[Service]\nUser=orders\nRuntimeDirectory=orders\nType=notify\nNotifyAccess=all\n{unit}");
    put(folder, "etc/systemd/system/orders.service", unit, 0o644);
    let machine = Machine::boot(folder);
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
    let put = format!("printf %s s3cret-value | {CURL} /run/claviger/operator.sock -T - http://claviger/v1/secrets/local/orders/api-key");
    assert_eq!(json(&machine, &put)["version"], 1);
    machine
}

/// Waits until the live leases are these and no others.
fn live_are(machine: &Machine, ids: &[&str]) {
    let mut ids = ids.to_vec();
    ids.sort_unstable();
    let listed = format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases | grep -o 'lease-[0-9a-z]*' | sort | xargs");
    machine.until(&format!("test \"$({listed})\" = '{}'", ids.join(" ")), Duration::from_secs(20));
}

/// Secrets fetched before the service starts, as for a program that knows files only: `ExecStartPre=` has gone when `ExecStart=` begins.
#[test]
fn what_is_fetched_before_the_start_is_held_by_the_unit() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let machine = with_orders(
        folder.path(),
        &format!(
            "ExecStartPre=/bin/sh -c 'clav get -q orders/api-key --field json >/run/orders/lease'\nExecStartPre=/bin/true\n\
             ExecStart=/bin/sh -c 'id=$$(grep -o \"lease-[0-9a-z]*\" /run/orders/lease | head -n 1); \
             {CURL} /run/claviger/workload.sock http://claviger/v1/leases/$$id/secret >/run/orders/again; systemd-notify --ready; exec sleep infinity'\n"
        ),
    );
    for round in 1..=5 {
        machine.ok("systemctl restart orders");
        let fetched = json(&machine, "cat /run/orders/lease");
        let holder = &fetched["lease"]["holder"];
        assert_eq!((&fetched["secret"]["value"], &holder["kind"]), (&"s3cret-value".into(), &"unit".into()), "{fetched}");
        let again = json(&machine, "cat /run/orders/again");
        assert_eq!(again["secret"]["value"], "s3cret-value", "round {round}: {again}");
        // What the run before fetched has ended with it, and this one's goes on.
        live_are(&machine, &[fetched["lease"]["id"].as_str().unwrap()]);
    }
    machine.ok("systemctl stop orders");
    live_are(&machine, &[]);
}

/// A service that is a shell script: it forks workers, replaces them, and feeds programs through pipes. What it fetches is its unit's.
#[test]
fn a_script_in_a_unit_forks_and_pipes_and_its_unit_holds() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = format!(
        "#!/bin/sh\nset -e\ncd /run/orders\nclav get -q orders/api-key --field json >shared\n\
         id=$(grep -o 'lease-[0-9a-z]*' shared | head -n 1)\n\
         call='{CURL} /run/claviger/workload.sock http://claviger/v1/leases'\n\
         for generation in 1 2 3; do\n    for worker in 1 2; do\n        \
         (echo $($call/$id/secret; echo; $call -d '{{\"secret\":\"orders/api-key\"}}') >worker-$generation-$worker) &\n    done\n    wait\ndone\n\
         clav get -q orders/api-key | cat >piped\nx=$(clav get -q orders/api-key)\nprintf %s \"$x\" >taken\n\
         systemd-notify --ready\nexec sleep infinity\n"
    );
    put(folder.path(), "usr/local/bin/orders", script, 0o755);
    let machine = with_orders(folder.path(), "ExecStart=/usr/local/bin/orders\n");
    machine.ok("systemctl start orders");
    assert_eq!(machine.ok("cat /run/orders/piped /run/orders/taken"), "s3cret-values3cret-value");
    // Each worker has read what is everybody's, and had a lease of its own that ended with the process that asked for it.
    assert_eq!(machine.ok("grep -l 's3cret-value.*s3cret-value' /run/orders/worker-* | wc -l").trim(), "6");
    let listed = json(&machine, &format!("{CURL} /run/claviger/operator.sock http://claviger/v1/leases"));
    let of_unit: Vec<&str> = listed["leases"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|lease| lease["holder"]["kind"] == "unit")
        .map(|l| l["id"].as_str().unwrap())
        .collect();
    assert_eq!(of_unit.len(), 3, "{listed}");
    live_are(&machine, &of_unit);
    machine.ok("systemctl stop orders");
    live_are(&machine, &[]);
}

/// The package as it is released, but with the programs of this build: a release build would take ten minutes.
fn deb(folder: &Path) -> Result<(), String> {
    let programs = folder.join("target/release");
    fs::create_dir_all(&programs).unwrap();
    for (name, program) in [
        ("clavigerd", env!("CARGO_BIN_EXE_clavigerd")),
        ("clav", env!("CARGO_BIN_EXE_clav")),
        ("clav-launch", env!("CARGO_BIN_EXE_clav-launch")),
    ] {
        fs::copy(program, programs.join(name)).unwrap();
    }
    let done = std::process::Command::new("cargo-deb")
        .args(["--no-build", "--no-strip", "--fast", "--output"])
        .arg(folder.join("claviger.deb"))
        .arg("--manifest-path")
        .arg(root().join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .output()
        .map_err(|error| format!("cargo-deb: {error}; 'cargo install cargo-deb' takes two minutes"))?;
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

#[test]
fn the_package_installs_upgrades_and_goes() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    if let Err(why) = deb(folder.path()) {
        eprintln!("SKIPPED: no package was made: {why}");
        return;
    }
    let started = Instant::now();
    let files = tempfile::tempdir().unwrap();
    put(files.path(), "opt/claviger.deb", fs::read(folder.path().join("claviger.deb")).unwrap(), 0o644);
    let machine = Machine::boot(files.path());
    let said = machine.ok("DEBIAN_FRONTEND=noninteractive dpkg -i /opt/claviger.deb");
    assert!(said.contains("clav init"), "{said}");
    say(started, "installed");

    // Both doors are there; without a key the daemon says what to do, and its doors stay.
    machine
        .ok("systemctl is-active clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
    machine.ok("systemctl is-enabled clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket clavigerd.service");
    assert!(!machine.run("systemctl start clavigerd").status.success());
    machine.ok("journalctl -u clavigerd | grep -q \"there is no key.*clav init\"");
    machine.ok("umask 377; head -c 32 /dev/urandom >/etc/claviger/key; umask 22; chown claviger /etc/claviger/key; systemctl reset-failed clavigerd");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
    let health = json(&machine, &format!("{CURL} /run/claviger/workload.sock http://claviger/v1/health"));
    assert_eq!(health["status"], "ok", "{health}");
    // The launcher came with its capability, and the daemon under the shipped units knows what it starts.
    machine.ok("printf 'program /usr/bin/curl\nargument -s\nargument --unix-socket\nargument /run/claviger/workload.sock\nargument http://claviger/v1/whoami\n' >/etc/claviger/launch.d/who");
    let who = json(&machine, "setpriv --reuid=1000 --regid=1000 --clear-groups clav-launch who");
    assert!(who["selectors"].as_array().is_some_and(|all| all.contains(&"launch:id:who".into())), "{who}");
    machine.ok("clav doctor | grep -q 'launcher *  */usr/bin/clav-launch'");
    for file in ["operations.md", "api/openapi.yaml", "examples/web-postgres/policy.d/50-orders.cedar"] {
        machine.ok(&format!("test -s /usr/share/doc/claviger/{file}"));
    }
    // What units of programs have from the package reaches those of an administrator.
    machine.ok("cp /usr/share/doc/claviger/examples/web-users/systemd/* /etc/systemd/system/ && systemctl daemon-reload && \
         test -s /usr/share/doc/claviger/examples/web-users/program/web-users && test -s /usr/share/doc/claviger/engines/command.md");
    assert_eq!(shown(&machine, "claviger-command-web-users.socket", "Accept"), "yes");
    assert_eq!(shown(&machine, "claviger-command-web-users@1.service", "RuntimeMaxUSec"), "10s");
    machine.ok("rm /etc/systemd/system/claviger-command-*");
    say(started, "serves");

    // An upgrade starts the new daemon behind the same sockets, and keeps what an administrator changed.
    let (pid, inode) = (shown(&machine, "clavigerd", "MainPID"), machine.ok("stat -c %i /run/claviger/workload.sock"));
    machine.ok("echo '# mine' >>/etc/claviger/clavigerd.toml");
    machine.ok("DEBIAN_FRONTEND=noninteractive dpkg -i --force-confold /opt/claviger.deb && grep -q '# mine' /etc/claviger/clavigerd.toml");
    assert_ne!(shown(&machine, "clavigerd", "MainPID"), pid);
    assert_eq!(shown(&machine, "clavigerd", "ActiveState"), "active");
    assert_eq!(machine.ok("stat -c %i /run/claviger/workload.sock"), inode);
    say(started, "upgraded");

    machine.ok(
        "dpkg -r claviger && test ! -e /run/claviger/workload.sock && test -s /etc/claviger/key && test -e /var/lib/claviger/state.json",
    );
    machine.ok("dpkg -P claviger && test ! -e /etc/claviger && test ! -e /var/lib/claviger && ls /var/log/claviger/audit-*");
    say(started, "removed, then purged; the audit log stays");
}

/// Tries every way from the attestor's unit into the daemon, and prints those that are open.
const TAKEN_OVER: &str = r#"
import ctypes, errno, os, socket
pid = int(open("/run/daemon-pid").read())
libc = ctypes.CDLL(None, use_errno=True)
arm = os.uname().machine == "aarch64"
number = {"ptrace": 117, "readv": 270, "writev": 271, "kcmp": 272, "setns": 268, "unshare": 97} if arm else \
         {"ptrace": 101, "readv": 310, "writev": 311, "kcmp": 312, "setns": 308, "unshare": 272}
def call(name, nr, *arguments):
    ctypes.set_errno(0)
    done = libc.syscall(nr, *arguments)
    report(name, None if done >= 0 else ctypes.get_errno())
def report(name, error):
    print("OPEN" if error is None else "closed", name, errno.errorcode.get(error), flush=True)
def attempt(name, act):
    try:
        act()
        report(name, None)
    except OSError as error:
        report(name, error.errno)
pidfd = os.pidfd_open(pid)
call("ptrace-attach", number["ptrace"], 16, pid, 0, 0)
call("ptrace-seize", number["ptrace"], 0x4206, pid, 0, 0)
call("process_vm_readv", number["readv"], pid, 0, 0, 0, 0, 0)
call("process_vm_writev", number["writev"], pid, 0, 0, 0, 0, 0)
call("kcmp", number["kcmp"], pid, os.getpid(), 1, 0, 0)
call("pidfd_getfd", 438, pidfd, 0, 0)
call("pidfd_send_signal", 424, pidfd, 0, 0, 0)
call("setns", number["setns"], pidfd, 0x00020000)
call("unshare", number["unshare"], 0x10000000)
attempt("kill", lambda: os.kill(pid, 0))
attempt("mem-rdwr", lambda: os.open(f"/proc/{pid}/mem", os.O_RDWR))
attempt("mem-wronly", lambda: os.open(f"/proc/{pid}/mem", os.O_WRONLY))
attempt("root", lambda: os.open(f"/proc/{pid}/root/etc/claviger/x", os.O_WRONLY | os.O_CREAT))
attempt("inet", lambda: socket.socket(socket.AF_INET))
attempt("inet6", lambda: socket.socket(socket.AF_INET6))
attempt("netlink", lambda: socket.socket(socket.AF_NETLINK))
attempt("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
def something(found):
    if not found:
        raise OSError(errno.ENOENT, "something else lies over it")
attempt("state", lambda: something(os.listdir("/var/lib/claviger")))
attempt("log", lambda: something(os.listdir("/var/log/claviger")))
attempt("key", lambda: something(open("/etc/claviger/key").read()))
attempt("etc", lambda: open("/etc/claviger/x", "w"))
attempt("run", lambda: open("/run/claviger/x", "w"))
attempt("setuid", lambda: os.setuid(0))
print("DONE", flush=True)
"#;

#[test]
fn an_attestor_that_was_taken_over_gets_into_no_process() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // The attestor's unit as it is, with another program in it.
    let left_out = ["Requires=", "After=", "Type=", "NotifyAccess=", "Sockets=", "Restart", "StartLimit", "ExecStart="];
    let unit = fs::read_to_string(root().join("systemd/claviger-attest.service")).unwrap();
    let kept: String =
        unit.lines().filter(|line| !left_out.iter().any(|key| line.starts_with(key))).flat_map(|line| [line, "\n"]).collect();
    let start = "[Service]\nType=oneshot\nExecStart=/usr/bin/python3 /opt/taken-over.py\n";
    put(folder.path(), "etc/systemd/system/taken-over.service", kept + start, 0o644);
    put(folder.path(), "opt/taken-over.py", TAKEN_OVER, 0o644);
    let machine = with_orders(folder.path(), "ExecStart=/bin/true\n");
    machine.ok(&format!("echo {} >/run/daemon-pid", shown(&machine, "clavigerd", "MainPID")));
    machine.ok("systemctl start taken-over");
    let said = machine.until("journalctl -u taken-over -o cat | grep -E '^(OPEN|closed|DONE)' | grep -B99 DONE", Duration::from_secs(10));
    let (open, closed): (Vec<&str>, Vec<&str>) = said.lines().filter(|line| *line != "DONE").partition(|line| line.starts_with("OPEN"));
    assert!(open.is_empty() && closed.len() == 23, "{said}");
}
