//! A daemon that a test started: waited for, told to stop, killed, and never left behind.

use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

pub struct Served(Child);

impl Served {
    /// Starts it with what it says going to the end of `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Served {
        let file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        Served(command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap())
    }

    /// The same, and waits until it listens at all of these.
    pub fn start(command: &mut Command, log: &Path, sockets: &[&Path]) -> Served {
        let mut served = Served::spawn(command, log);
        // Generous: the machine may be busy with a build.
        let until = Instant::now() + Duration::from_secs(60);
        while !sockets.iter().all(|socket| UnixStream::connect(socket).is_ok()) {
            let said = || fs::read_to_string(log).unwrap_or_default();
            assert!(served.is_running(), "the daemon ended at start:\n{}", said());
            assert!(Instant::now() < until, "the daemon does not serve:\n{}", said());
            sleep(Duration::from_millis(10));
        }
        served
    }

    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().unwrap()
    }

    /// Sends it a signal that ends it, and waits for that. One that has ended already is only waited for.
    pub fn end(mut self, signal: &str) -> ExitStatus {
        if self.is_running() {
            assert!(Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap().success());
        }
        self.0.wait().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
