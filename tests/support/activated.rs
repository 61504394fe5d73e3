//! Programs of `command` engines behind sockets, as `systemd-socket-activate` starts them: one for each connection, without a unit.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

/// Whoever listens and starts the program; dropping it ends both.
pub struct Activated(Child);

impl Activated {
    /// Listens at `socket`, which only its owner may ask, and starts `program` for each connection. `log` is what both say. `None`, loudly,
    /// where systemd is not installed.
    pub fn start(socket: &Path, program: &[&Path], log: &Path) -> Option<Self> {
        let activate = Path::new("/usr/bin/systemd-socket-activate");
        if !activate.exists() {
            let text = "no systemd-socket-activate found (Debian: apt-get install systemd)";
            assert!(std::env::var_os("CLAVIGER_REQUIRE_PACKAGES").is_none_or(|value| value != "1"), "{text}");
            eprintln!("\n*** SKIPPED: {text}; what needs it was NOT tested ***\n");
            return None;
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(activate).args(["--accept", "--inetd", "-l"]).arg(socket).args(program);
        // A group of its own, so that what it starts ends with it.
        let child = command.process_group(0).stdin(Stdio::null()).stderr(fs::File::create(log).unwrap()).spawn().unwrap();
        let activated = Self(child);
        for _ in 0..500 {
            // Whoever connects starts a program, so it is not tried.
            if fs::read_to_string(log).unwrap().contains("Listening on") {
                return Some(activated);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{}", fs::read_to_string(log).unwrap());
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}
