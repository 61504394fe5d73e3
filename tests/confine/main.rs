//! A process that has confined itself as the daemon does turns on the host: it tries what somebody would who took it over, each attempt
//! in a process of its own and in each role, and beside it without confinement, so that it is seen what the confinement is good for.
//!
//! Without libtest: a process confines itself before its second thread. Runs as root, as the users that the units have.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

mod attempts;

use attempts::{ATTEMPTS, Attempt, NEEDS, READ_IS_EXECUTE, World};
use claviger::sys::{self, Reach, Role};
use std::{
    fs::{self, Permissions},
    io::Read,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            fs::PermissionsExt,
            net::{SocketAddr, UnixListener},
            process::ExitStatusExt,
        },
    },
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
};

/// A uid that no account has.
const USER: u32 = 61_020;
const ROLES: [(&str, Option<Role>); 4] =
    [("unconfined", None), ("core", Some(Role::Core)), ("attestor", Some(Role::Attestor)), ("single", Some(Role::Single))];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, attempt, role, name, folder] = &arguments[..]
        && attempt == "--attempt"
    {
        return attempt_one(role, name, &PathBuf::from(folder));
    }
    if sys::euid() != 0 {
        eprintln!("\n*** SKIPPED: this test needs several users, so it runs as root only ***\n");
        return ExitCode::SUCCESS;
    }
    let stage = Stage::set();
    let mut wrong = Vec::new();
    let (mut refused, mut free) = (0, 0);
    println!("{:<58}{}", "attempt", ROLES.map(|(role, _)| format!("{role:<12}")).concat());
    for (attempt, must_work) in ATTEMPTS.iter().map(|a| (a, false)).chain(NEEDS.iter().map(|a| (a, true))) {
        let mut line = format!("{:<58}", attempt.name);
        for (role, confined) in ROLES {
            let ends = stage.play(role, attempt);
            let no = matches!(ends.as_str(), "EPERM" | "EACCES" | "ENOSYS" | "killed");
            let concerns = confined.is_some_and(|role| attempt.roles.contains(&role));
            if concerns && no == must_work {
                wrong.push(format!("{role}: {}: {ends}", attempt.name));
            }
            refused += usize::from(concerns && no);
            free += usize::from(confined.is_none() && !no && !must_work);
            let dot = if concerns || confined.is_none() { "" } else { "." };
            line += &format!("{:<12}", format!("{ends}{dot}"));
        }
        println!("{line}");
    }
    println!("\n{} attempts, {refused} refusals; without confinement {free} of the attempts are not refused", ATTEMPTS.len());
    println!("(a dot: not what this role is kept from)");
    // So the refusals are the confinement's, not this host's.
    assert!(free >= 40, "only {free} attempts go through without confinement: this test sees too little here");
    assert!(wrong.is_empty(), "{wrong:#?}");
    ExitCode::SUCCESS
}

/// What the attempts are directed at.
struct Stage {
    folder: tempfile::TempDir,
    /// Of another user.
    victim: Child,
    _ports: [TcpListener; 2],
    _abstract: UnixListener,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
    }
}

impl Stage {
    fn set() -> Stage {
        let folder = tempfile::Builder::new().prefix("claviger-confine-").tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        for (name, mode) in [("own", 0o755), ("config", 0o755), ("other", 0o777)] {
            fs::create_dir(at(name)).unwrap();
            fs::write(at(name).join("file"), "text").unwrap();
            for (path, mode) in [(at(name), mode), (at(name).join("file"), mode & 0o666)] {
                fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            }
        }
        for path in [at("own"), at("own/file")] {
            std::os::unix::fs::chown(path, Some(USER), Some(USER)).unwrap();
        }
        // A copy that the attempts' user can reach wherever this was built.
        fs::copy(std::env::current_exe().unwrap(), at("attacker")).unwrap();
        let ports = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
        let name = format!("claviger-confine-{}", std::process::id());
        let abstract_socket = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let mut victim = Command::new("setpriv");
        victim.args([&format!("--reuid={}", USER + 1), "--regid=61021", "--clear-groups", "--", "cat"]);
        let victim = victim.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let world = World {
            folder: folder.path().into(),
            victim: victim.id() as i32,
            near: ports[0].local_addr().unwrap().port(),
            far: ports[1].local_addr().unwrap().port(),
            name,
        };
        fs::write(folder.path().join("world"), serde_json::to_vec(&world).unwrap()).unwrap();
        Stage { folder, victim, _ports: ports, _abstract: abstract_socket }
    }

    fn play(&self, role: &str, attempt: &Attempt) -> String {
        // As the units have it.
        let capabilities = if role == "core" { "-all" } else { "-all,+sys_ptrace,+dac_read_search" };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"]);
        command.args([&format!("--inh-caps={capabilities}"), &format!("--ambient-caps={capabilities}"), "--"]);
        command.arg(self.folder.path().join("attacker")).args(["--attempt", role, attempt.name]).arg(self.folder.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        match status.signal() {
            Some(libc::SIGSYS) => "killed".to_owned(),
            Some(signal) => format!("signal {signal}"),
            None if text.is_empty() => format!("exit {:?}", status.code()),
            None => text,
        }
    }
}

/// Confines this process, tries, and says on standard output how that went.
fn attempt_one(role: &str, name: &str, folder: &std::path::Path) -> ExitCode {
    let world: World = serde_json::from_slice(&fs::read(folder.join("world")).unwrap()).unwrap();
    let attempt = ATTEMPTS.iter().chain(NEEDS).find(|attempt| attempt.name == name).unwrap();
    if name == READ_IS_EXECUTE {
        // SAFETY: a number; personality(2).
        unsafe { libc::personality(libc::READ_IMPLIES_EXEC as libc::c_ulong) };
    }
    if let Some((_, Some(role))) = ROLES.iter().find(|(known, _)| *known == role) {
        let reach = Reach { write: vec![folder.join("own")], read: vec![folder.join("config")], ports: vec![world.near] };
        sys::harden().unwrap();
        let lacking = sys::confine(*role, &reach).unwrap();
        assert_eq!(lacking.0, [""; 0], "what this host cannot give cannot be tested");
    }
    let ends = match (attempt.act)(&world) {
        Ok(()) => "done".to_owned(),
        Err(errno) => format!("{:?}", nix::errno::Errno::from_raw(errno)),
    };
    print!("{ends}");
    ExitCode::SUCCESS
}
