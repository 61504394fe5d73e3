//! What goes wrong meanwhile: each fault is done and mended by itself, one after the other, while the workers go on.

use super::{
    chance::Chance,
    host::*,
    postgres::Postgres,
    work::{IDENTITIES, SECRETS, name_of},
};
use std::{
    fs,
    io::Write,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    process::Command,
    thread::sleep,
    time::Duration,
};
use tokio::runtime::Runtime;

/// What may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillDaemon,
    RestartDaemon,
    KillAttestor,
    HangAttestor,
    StopPostgres,
    CrashPostgres,
    FlipPolicy,
    BreakPolicy,
    Freeze,
    EndIdentity,
    EndSecret,
    PutValue,
    RotateAudit,
    RotateTokens,
    RotateLocal,
    KillWhileRotating,
    SlowClient,
    Stranger,
}

/// All of them; each is drawn once before any comes again.
pub const ALL: &[Fault] = &[
    Fault::KillDaemon,
    Fault::RestartDaemon,
    Fault::KillAttestor,
    Fault::HangAttestor,
    Fault::StopPostgres,
    Fault::CrashPostgres,
    Fault::FlipPolicy,
    Fault::BreakPolicy,
    Fault::Freeze,
    Fault::EndIdentity,
    Fault::EndSecret,
    Fault::PutValue,
    Fault::RotateAudit,
    Fault::RotateTokens,
    Fault::RotateLocal,
    Fault::KillWhileRotating,
    Fault::SlowClient,
    Fault::Stranger,
];

impl Fault {
    /// The daemon ends by it.
    pub fn ends_the_daemon(self) -> bool {
        matches!(self, Fault::KillDaemon | Fault::RestartDaemon | Fault::KillWhileRotating)
    }
}

/// The grants of all identities but one.
pub fn policy(without: Option<usize>) -> String {
    let granted = (0..IDENTITIES).filter(|identity| Some(*identity) != without);
    granted.flat_map(|identity| SECRETS.map(|secret| grant(&name_of(identity), secret))).collect()
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// The daemon looks for its attestor every now and then; until it finds it, operators are nobody either.
fn attested_again(host: &mut Host) {
    host.wait_until(Duration::from_secs(20), "the attestor is used again", |host| host.call("operator", "GET", "/v1/status", "").0 == 200);
}

/// Does it and mends it. Answers of the daemon that are not what they should be are an error in words.
pub fn happen(fault: Fault, host: &mut Host, cluster: &mut Postgres, runtime: &Runtime, chance: &mut Chance) -> Result<(), String> {
    let pause = |chance: &mut Chance, least: u64, more: u64| sleep(Duration::from_millis(least + chance.draw() % more));
    let asked = |host: &Host, method: &str, path: &str, body: &str, wanted: &[u16]| match host.call("operator", method, path, body) {
        (code, _) if wanted.contains(&code) => Ok(()),
        (code, answer) => Err(format!("{fault:?}: {method} {path}: {code} {answer}")),
    };
    match fault {
        Fault::KillDaemon => {
            host.stop(true);
            pause(chance, 0, 300);
            host.launch();
        }
        Fault::RestartDaemon => {
            host.stop(false);
            host.launch();
        }
        Fault::KillAttestor => {
            let Some(attestor) = host.attestor.take() else { return Ok(()) };
            attestor.end("KILL");
            pause(chance, 100, 1_500);
            host.launch_attestor();
            attested_again(host);
        }
        Fault::HangAttestor => {
            let Some(attestor) = &host.attestor else { return Ok(()) };
            signal(attestor.pid(), "STOP");
            pause(chance, 100, 2_500);
            signal(attestor.pid(), "CONT");
            attested_again(host);
        }
        Fault::StopPostgres | Fault::CrashPostgres => {
            cluster.stop(fault == Fault::CrashPostgres);
            pause(chance, 100, 2_500);
            cluster.start_again();
            runtime.block_on(cluster.serves());
        }
        Fault::FlipPolicy => {
            host.write("policy.d/50-test.cedar", &policy(Some(chance.below(IDENTITIES))));
            asked(host, "POST", "/v1/reload", "", &[200])?;
            pause(chance, 100, 1_500);
            host.write("policy.d/50-test.cedar", &policy(None));
            asked(host, "POST", "/v1/reload", "", &[200])?;
        }
        Fault::BreakPolicy => {
            host.write("policy.d/60-bad.cedar", "permit (principal, action, resource);\n");
            asked(host, "POST", "/v1/reload", "", &[422])?;
            pause(chance, 50, 300);
            fs::remove_file(host.dir.join("policy.d/60-bad.cedar")).unwrap();
            asked(host, "POST", "/v1/reload", "", &[200])?;
        }
        Fault::Freeze => {
            asked(host, "POST", "/v1/freeze", r#"{"frozen":true,"reason":"a drill"}"#, &[200])?;
            pause(chance, 100, 1_000);
            asked(host, "POST", "/v1/freeze", r#"{"frozen":false}"#, &[200])?;
        }
        Fault::EndIdentity => {
            let body = format!(r#"{{"identity":"{}"}}"#, name_of(chance.below(IDENTITIES)));
            asked(host, "POST", "/v1/leases/end", &body, &[200, 404])?;
        }
        Fault::EndSecret => asked(host, "POST", "/v1/leases/end", &format!(r#"{{"secret":"{}"}}"#, chance.of(&SECRETS)), &[200, 404])?,
        Fault::PutValue => {
            let value = format!("value-{:016x}", chance.draw());
            asked(host, "PUT", &format!("/v1/secrets/local/{}", chance.of(&SECRETS[..3])), &value, &[201])?;
        }
        Fault::RotateAudit => asked(host, "POST", "/v1/keys/audit/rotate", "", &[200])?,
        // Refused while verifiers still learn of the last one.
        Fault::RotateTokens => asked(host, "POST", "/v1/keys/tok/rotate", "", &[200, 403, 409])?,
        Fault::RotateLocal => {
            let next = host.dir.join("key.new");
            let half = |chance: &mut Chance| u128::from(chance.draw()) << 64 | u128::from(chance.draw());
            fs::write(&next, [half(chance).to_be_bytes(), half(chance).to_be_bytes()].concat()).unwrap();
            fs::set_permissions(&next, fs::Permissions::from_mode(0o400)).unwrap();
            fs::rename(&next, host.dir.join("key")).unwrap();
            asked(host, "POST", "/v1/keys/local/rotate", "", &[200])?;
        }
        Fault::KillWhileRotating => {
            let mut stream = UnixStream::connect(host.dir.join("operator.sock")).unwrap();
            let name = *chance.of(&["audit", "tok"]);
            write!(stream, "POST /v1/keys/{name}/rotate HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").unwrap();
            sleep(Duration::from_micros(chance.draw() % 20_000));
            host.stop(true);
            host.launch();
        }
        Fault::SlowClient => {
            let mut slow: Vec<UnixStream> = (0..8).map(|_| UnixStream::connect(host.dir.join("workload.sock")).unwrap()).collect();
            for at in 0..20 {
                // Closed by the daemon, sooner or later, or by the end of this.
                let _ = slow.iter_mut().try_for_each(|stream| stream.write_all(&b"GET /v1/leases HTTP/1.1\r\nhost: x\r\nx: y"[at..=at]));
                sleep(Duration::from_millis(40));
            }
        }
        Fault::Stranger => {
            let answer = host.act(ATTACKER, "nobody", &["call", "POST", "/v1/leases", r#"{"secret":"app/one"}"#]).remove(0);
            if !answer["body"]["secret"].is_null() || answer["status"] == 201 {
                return Err(format!("a stranger got something: {}", answer["status"]));
            }
        }
    }
    Ok(())
}
