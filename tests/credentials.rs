//! Credentials that units load from the daemon, in a real systemd: `LoadCredential=NAME:/run/claviger/credentials.sock`.
//!
//! Needs root and leaves nothing behind. Where that is not possible it says so and passes.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "support/machine.rs"]
mod machine;

use machine::{Machine, package, put};
use serde_json::Value;
use std::{path::Path, process::Command, time::Duration};

const VALUE: &str = "s3cret-of-a-unit";
const ASK: &str = "/run/claviger/credentials.sock";

fn soon() -> String {
    (chrono::Utc::now() + chrono::Days::new(30)).format("%Y-%m-%d").to_string()
}

/// The identity of a unit that loads credentials.
fn loading(name: &str, more: &str) -> String {
    identity(name, &format!("systemd:loads:{name}.service"), more)
}

/// An identity with this selector, and its declared use of `app/key` as the credential `api-key`.
fn identity(name: &str, selector: &str, more: &str) -> String {
    format!(
        "[[identity]]\nname = \"{name}\"\nkind = \"workload\"\nowner = \"team\"\nenvironment = \"prod\"\npurposes = [\"serve\"]\n\
         max_sensitivity = \"confidential\"\nexpires = \"{}\"\nselectors = [\"{selector}\"]\n{more}\n\
         [[identity.use]]\nsecret = \"app/key\"\npurpose = \"serve\"\ncredential = \"api-key\"\n\
         [[identity.use]]\nsecret = \"plain\"\npurpose = \"serve\"\n\
         [[identity.use]]\nsecret = \"sealed\"\npurpose = \"serve\"\n",
        soon()
    )
}

fn unit(files: &Path, name: &str, lines: &str) {
    put(files, &format!("etc/systemd/system/{name}.service"), format!("[Service]\nType=oneshot\nRemainAfterExit=yes\n{lines}"), 0o644);
}

/// A machine whose daemon has a value for `app/key`; nothing has asked for it yet.
fn booted(files: &Path, identities: &str, units: &[&str]) -> Machine {
    package(files);
    put(files, "etc/claviger/key", "6b".repeat(32), 0o400);
    let secret = |name: &str, more: &str| {
        format!(
            "[[secret]]\nname = \"{name}\"\nengine = \"local\"\nowner = \"team\"\nsensitivity = \"internal\"\nenvironment = \"prod\"\n\
             purposes = [\"serve\"]\noperation = \"read\"\nttl = {{ max = \"1h\" }}\ndescription = \"of a test\"\n{more}\n"
        )
    };
    let secrets = secret("app/key", "") + &secret("plain", "") + &secret("sealed", "pinned = true");
    let mut grants = String::new();
    for (name, secret) in units.iter().flat_map(|name| ["app/key", "plain", "sealed"].map(|secret| (name, secret))) {
        grants += &format!(
            "@id(\"grant.{name}.{}\") @owner(\"team\") @purpose(\"serve\") @expires(\"{}\")\npermit (principal == Claviger::Workload::\"{name}\", \
             action == Claviger::Action::\"deliver\", resource == Claviger::Secret::\"{secret}\");\n",
            secret.replace('/', "."),
            soon()
        );
    }
    put(files, "etc/claviger/identities.d/units.toml", identities, 0o644);
    put(files, "etc/claviger/secrets.d/units.toml", secrets, 0o644);
    put(files, "etc/claviger/policy.d/50-units.cedar", grants, 0o644);
    put(files, "etc/sysusers.d/loads.conf", "u loads - \"loads\" / /usr/sbin/nologin\nu agent - \"agent\" / /usr/sbin/nologin\n", 0o644);
    let machine = Machine::boot(files);
    machine
        .ok("systemd-sysusers && systemd-tmpfiles --create claviger.conf && chown claviger /etc/claviger/key && systemctl daemon-reload");
    machine.ok("systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-launch.socket clavigerd-credentials.socket");
    for name in ["app/key", "plain", "sealed"] {
        machine.ok(&format!("printf %s {VALUE} | clav secret put {name}"));
    }
    machine
}

fn shown(machine: &Machine, unit: &str, property: &str) -> String {
    machine.ok(&format!("systemctl show --value -p {property} {unit}")).trim().to_owned()
}

fn leases(machine: &Machine) -> Vec<Value> {
    let text = machine.ok("curl -s --unix-socket /run/claviger/operator.sock http://claviger/v1/leases");
    serde_json::from_str::<Value>(&text).unwrap()["leases"].as_array().unwrap().clone()
}

fn records(machine: &Machine, kind: &str) -> Vec<Value> {
    let text = machine.ok("cat /var/log/claviger/*.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).filter(|record: &Value| record["kind"] == kind).collect()
}

/// Starts a unit that must not get what it loads: it fails before its program runs, and the journal names unit, reason and request.
fn refused(machine: &Machine, unit: &str, code: &str) -> Value {
    assert!(!machine.run(&format!("systemctl start {unit}")).status.success(), "{unit} has started\n{}", machine.journal());
    assert_eq!(shown(machine, unit, "Result"), "exit-code");
    // The journal may lag behind.
    machine.until(&format!("journalctl -u {unit} -o cat | grep -q status=243/CREDENTIALS"), Duration::from_secs(10));
    machine.ok(&format!("test ! -e /run/{unit}.began"));
    let record = records(machine, "refuse").pop().unwrap();
    assert_eq!((record["code"].as_str(), record["adapter"].as_str()), (Some(code), Some("systemd")), "{record}");
    let request = record["request"].as_str().unwrap();
    let told = format!("journalctl -u clavigerd | grep {request} | grep '{unit}' | grep -q {code}");
    machine.until(&told, Duration::from_secs(10));
    let why = machine.ok(&format!("clav why {request}"));
    assert!(why.contains(code) && why.contains("systemctl restart"), "{why}");
    record
}

#[test]
fn a_unit_loads_its_credential_and_holds_the_lease() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    let began = |name: &str| format!("ExecStart=/bin/touch /run/{name}.began\n");
    let load = format!("LoadCredential=api-key:{ASK}\nLoadCredential=plain:{ASK}\n");
    let read =
        "cat $${CREDENTIALS_DIRECTORY}/api-key $${CREDENTIALS_DIRECTORY}/plain; id -un; stat -c %%a $${CREDENTIALS_DIRECTORY}/api-key";
    let first = format!("ExecStartPre=/bin/sh -c '{read}'\n");
    unit(files, "loads", &format!("Type=exec\nUser=loads\n{load}{first}ExecStart=/bin/sh -c '{read}; exec sleep infinity'\n"));
    unit(files, "demands", &format!("User=loads\nLoadCredential=api-key:{ASK}\n{}", began("demands")));
    unit(files, "unknown", &format!("LoadCredential=api-key:{ASK}\n{}", began("unknown")));
    unit(files, "undeclared", &format!("LoadCredential=other-key:{ASK}\n{}", began("undeclared")));
    unit(files, "pinned", &format!("LoadCredential=sealed:{ASK}\n{}", began("pinned")));
    let rows =
        loading("loads", "") + &identity("demands", "systemd:id:demands.service", "") + &loading("undeclared", "") + &loading("pinned", "");
    let machine = booted(files, &rows, &["loads", "demands", "undeclared", "pinned"]);

    // The daemon starts when the unit asks.
    machine
        .ok("systemctl stop clavigerd && systemctl start clavigerd-workload.socket clavigerd-operator.socket clavigerd-credentials.socket");
    machine.ok("systemctl start loads");
    let said =
        machine.until("journalctl -u loads -o cat | grep -c ^400$ | grep -q 2 && journalctl -u loads -o cat", Duration::from_secs(10));
    assert_eq!(said.matches(&format!("{VALUE}{VALUE}\nloads\n400\n")).count(), 2, "{said}");
    assert_eq!(machine.ok(&format!("stat -c '%a %U' {ASK}")), "600 root\n");
    // One lease for each credential, however many commands the unit has; the unit holds it.
    let live = leases(&machine);
    assert_eq!(live.len(), 2, "{live:?}");
    for lease in &live {
        assert_eq!((lease["holder"]["kind"].as_str(), lease["identity"].as_str()), (Some("unit"), Some("loads")), "{lease}");
        assert_eq!(lease["holder"]["cgroup"], "/system.slice/loads.service");
    }
    let issued = &records(&machine, "issue")[0];
    assert_eq!((issued["source"].as_str(), issued["adapter"].as_str()), (Some("adapter"), Some("systemd")), "{issued}");
    assert_eq!((issued["basis"].as_str(), issued["assurance"].as_str()), (Some("service_manager"), Some("program")), "{issued}");
    assert_eq!(issued["attested"]["exe"]["path"], "/usr/lib/systemd/systemd");

    machine.ok("! journalctl -u clavigerd | grep 'names no unix:user or unix:uid' | grep loads");
    // They live on when the daemon is another.
    let ids = |live: &[Value]| live.iter().map(|lease| lease["id"].to_string()).collect::<Vec<_>>();
    machine.ok("systemctl restart clavigerd && clav doctor | grep 'credentials socket' | grep -q 0600");
    assert_eq!(ids(&leases(&machine)), ids(&live));
    // No is said in such a way that the unit does not start.
    let record = refused(&machine, "demands", "no_identity");
    assert!(record["detail"].as_str().unwrap().contains("selectors = [\"systemd:loads:demands.service\"]"), "{record}");
    refused(&machine, "unknown", "no_identity");
    refused(&machine, "undeclared", "no_declared_use");
    refused(&machine, "pinned", "pinned_required");
    assert_eq!(leases(&machine).len(), 2);

    // With the unit's end they end.
    machine.ok("systemctl stop loads");
    machine.until("test -z \"$(clav leases --all -q 2>/dev/null | grep lease-)\"", Duration::from_secs(10));
    assert!(records(&machine, "end").iter().all(|end| end["ended"]["reason"] == "holder_gone"));

    // Where an agent is registered, somebody must have said that nothing else runs on the unit's user.
    let agent = identity("agent", "unix:user:agent", "").replace("\"workload\"", "\"agent\"");
    let reload = |rows: &str| {
        machine.ok(&format!("cat >/etc/claviger/identities.d/units.toml <<'END'\n{rows}\nEND\nclav reload"));
    };
    reload(&(rows.clone() + &agent));
    machine.ok("systemctl reset-failed");
    refused(&machine, "loads", "left_agent_session");
    reload(&(loading("loads", "exclusive_uid = true") + &agent));
    machine.ok("systemctl restart loads");
    let issued_before = records(&machine, "issue").len();
    // Also on a kernel such as Debian 12's, under the units as they are shipped.
    let without = r#"s/^#assume_missing.*/assume_missing = ["peer_pidfd", "pidfd_info", "pidfd_handle"]/"#;
    machine.ok(&format!("sed -i '{without}' /etc/claviger/clavigerd.toml && grep -q ^assume_missing /etc/claviger/clavigerd.toml"));
    machine.ok("systemctl restart claviger-attest clavigerd && systemctl restart loads");
    assert!(records(&machine, "issue").len() > issued_before, "from this daemon too");
    assert!(!machine.ok("cat /var/log/claviger/*.jsonl; journalctl -u clavigerd").contains(VALUE), "no value on any record");
}

#[test]
fn nobody_but_the_service_manager_is_believed_about_a_unit() {
    if let Err(why) = Machine::possible() {
        eprintln!("SKIPPED: no systemd was booted: {why}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path();
    let library = files.join("credential.so");
    let built = Command::new("gcc")
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/credential.c"))
        .status();
    assert!(built.unwrap().success());
    let text = std::fs::read(&library).unwrap();
    put(files, "opt/credential.so", text, 0o755);
    let name = |unit: &str| format!("unit/{unit}.service/api-key");
    let asks = |unit: &str, answer: &str| format!("Environment=NAME={} ANSWER=/run/{answer}", name(unit));
    let manager = "LD_PRELOAD=/opt/credential.so /usr/lib/systemd/systemd --version";
    let python = "LD_PRELOAD=/opt/credential.so /usr/bin/python3 -c 0";
    // All of it as root, for nobody else may connect.
    unit(files, "loads", &format!("{}\nExecStart=/bin/sh -c 'exec env {python}'\n", asks("loads", "program")));
    unit(files, "below", &format!("{}\nExecStart=/bin/sh -c '{manager}; true'\n", asks("below", "chain")));
    unit(files, "other", &format!("{}\nExecStart=/bin/sh -c 'exec env {manager}'\n", asks("loads", "unit")));
    let rows = loading("loads", "") + &loading("below", "") + &loading("other", "");
    let machine = booted(files, &rows, &["loads", "below", "other"]);

    // A program in the unit's own control group; one below another program there; one in another unit; and one in no unit at all.
    machine.ok("systemctl start loads below other");
    machine.ok(&format!("NAME={} ANSWER=/run/outside {python}", name("loads")));
    machine.ok(&format!("NAME={} ANSWER=/run/outside-manager {manager}", name("loads")));
    for answer in ["program", "chain", "unit", "outside", "outside-manager"] {
        let said = machine.ok(&format!("head -c 200 /run/{answer}"));
        assert!(said.contains("not_service_manager") && !said.contains(VALUE), "{answer}: {said}\n{}", machine.journal());
    }
    // A name that is none of systemd's.
    machine.ok(&format!("NAME=whatever ANSWER=/run/unnamed {python}"));
    assert!(machine.ok("head -c 200 /run/unnamed").contains("not_service_manager"));
    // Not even a connection for others.
    let other = format!("setpriv --reuid daemon --regid daemon --clear-groups env NAME={} ANSWER=/tmp/daemon {python}", name("loads"));
    assert_eq!(machine.run(&other).status.code(), Some(92), "connected as another user");
    let refusals = records(&machine, "refuse");
    assert_eq!(refusals.iter().filter(|record| record["code"] == "not_service_manager").count(), 6, "{refusals:?}");
    assert!(refusals.iter().any(|record| record["attested"]["exe"]["path"].as_str().is_some_and(|path| path.contains("python3"))));
    assert!(leases(&machine).is_empty());
}
