//! A real sshd for tests on this machine's loopback, gone when the test process is.

#![allow(dead_code, reason = "no suite uses all of it")]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

/// The package's own folder for unprivileged children; it is gone after a boot without its unit, and left where we make it: servers of other
/// tests need it too.
const FOLDER: &str = "/run/sshd";

/// A server that trusts one authority.
pub struct Sshd {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Sshd {
    /// Starts a server whose files are in this folder, or says on standard error that there can be none. `more` are lines of its configuration.
    pub fn start(folder: &Path, authority: &Path, more: &str) -> Option<Self> {
        // A server that is not root's lets in nobody but its own user.
        if !Path::new("/usr/sbin/sshd").exists() || fs::metadata("/proc/self").is_ok_and(|m| m.uid() != 0) {
            let text = "no sshd, or not root (Debian: apt-get install openssh-server)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_PACKAGES").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        }
        let _ = fs::create_dir(FOLDER);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| folder.join(name).display().to_string();
        assert!(run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path("host")]).status.success());
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\nAuthorizedKeysFile none\nTrustedUserCAKeys {}\n\
             LogLevel VERBOSE\n{more}\n",
            path("host"),
            authority.display()
        );
        fs::write(path("sshd_config"), config).unwrap();
        let log = folder.join("sshd.log");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "/usr/sbin/sshd", "-D", "-e", "-f", &path("sshd_config")])
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut sshd = Self { child, port, log };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(sshd.child.try_wait().unwrap().is_none(), "{}", sshd.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(sshd)
    }

    /// What comes of asking for a command as root with this key and the certificate beside it.
    pub fn ask(&self, key: &str, command: &str) -> Output {
        let port = self.port.to_string();
        let options = ["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"];
        let own = ["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "LogLevel=ERROR", "-p", &port, "-i", key];
        run("ssh", &[&options[..], &own, &["root@127.0.0.1", command]].concat())
    }

    /// Fails unless the key is refused, for a reason that the server's log names.
    pub fn refuses(&self, key: &str, why: &str) {
        let before = self.log().len();
        let said = self.ask(key, "echo asked");
        assert!(!said.status.success() && said.stdout.is_empty(), "{}", text(&said));
        assert!(self.log()[before..].contains(why), "{why}: {}", &self.log()[before..]);
    }

    /// Fails unless the key lets us in.
    pub fn lets_in(&self, key: &str) {
        let said = self.ask(key, "echo asked");
        assert!(said.status.success() && said.stdout == b"asked\n", "{} {}", text(&said), self.log());
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Writes key and certificate as ssh(1) wants them; the path of the key.
pub fn put_key(folder: &Path, name: &str, key: &[u8], certificate: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, key).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(folder.join(format!("{name}-cert.pub")), certificate).unwrap();
    path.display().to_string()
}

/// What an operator's timer does with the list of ended leases: a file that sshd reads at every login.
pub fn revocation_list(krl: &Path, authority: &Path, ended: &Path) {
    let [krl, authority, ended] = [krl, authority, ended].map(|path| path.display().to_string());
    let made = run("ssh-keygen", &["-q", "-k", "-f", &krl, "-s", &authority, &ended]);
    assert!(made.status.success(), "{}", text(&made));
}

/// Runs a program to its end.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What it said.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
