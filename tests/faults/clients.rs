//! Clients that go on whatever happens, and what they were told.

use super::host::*;
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    thread::{JoinHandle, sleep},
    time::{Duration, Instant},
};

/// One process that asks over and over.
pub struct Client {
    child: Child,
    _input: ChildStdin,
    heard: Arc<Mutex<Vec<Value>>>,
    reader: Option<JoinHandle<()>>,
}

impl Client {
    /// So many rounds; each answer may take `patience` seconds.
    pub fn start(host: &Host, rounds: u32, patience: f32) -> Client {
        let program = host.program("orders");
        let script = host.dir.join("client.py");
        if !script.exists() {
            host.write("exchange.py", include_str!("../support/exchange.py"));
            host.write("client.py", include_str!("client.py"));
        }
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={VICTIM}"), &format!("--regid={VICTIM}"), "--clear-groups", "--", &program, "-B"]);
        command.arg(script).arg(host.dir.join("workload.sock")).args([rounds.to_string(), patience.to_string()]);
        command.env_clear().env("PYTHONHOME", "/usr");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let heard: Arc<Mutex<Vec<Value>>> = Arc::default();
        let into = heard.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                into.lock().unwrap().push(serde_json::from_str(&line.unwrap()).unwrap());
            }
        });
        Client { child, _input: input, heard, reader: Some(reader) }
    }

    /// Waits until it has done its rounds, for so long at most.
    pub fn done_within(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && self.heard.lock().unwrap().last().is_none_or(|last| last["step"] != "done") {
            sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process and returns all that it was told.
    pub fn end(mut self) -> Vec<Value> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The leases of which a value was handed over.
pub fn delivered(heard: &[Value]) -> Vec<String> {
    heard
        .iter()
        .filter(|told| told["step"] == "issue" && told["value"].is_string())
        .map(|told| told["lease"].as_str().unwrap().to_owned())
        .collect()
}

/// Every step was done.
pub fn all_well(heard: &[Value]) -> bool {
    heard.len() > 1 && heard.iter().all(|told| told["step"] == "done" || told["status"].as_u64().is_some_and(|code| code / 100 == 2))
}
