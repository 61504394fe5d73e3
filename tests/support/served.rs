//! A daemon that a test started: waited for, told to stop, killed, and never left behind.

use std::{
    fs::{self, OpenOptions},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

pub struct Served(Child);

impl Served {
    /// Starts it with what it says going to the end of `log`, and waits until it listens at all of these.
    pub fn start(command: &mut Command, log: &Path, sockets: &[&Path]) -> Served {
        let file = OpenOptions::new().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        let mut served = Served(child);
        // Generous: the machine may be busy with a build.
        let until = Instant::now() + Duration::from_secs(20);
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
        self.0.try_wait().unwrap().is_none()
    }

    /// Sends it a signal that ends it, and waits for that. One that has ended already is only waited for.
    pub fn end(mut self, signal: &str) {
        if self.is_running() {
            assert!(Command::new("kill").arg(format!("-{signal}")).arg(self.pid().to_string()).status().unwrap().success());
        }
        self.0.wait().unwrap();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
