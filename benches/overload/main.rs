//! One hostile uid at a time against a daemon with its default limits, and a workload of another uid that asks meanwhile.
//!
//!     cargo bench --bench overload               about a minute; needs root, for the uids
//!     cargo bench --bench overload -- --seconds 10
//!
//! Prints how long the other's requests take alone and beside each flood, and whether descriptors and memory of the daemon come back.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![allow(dead_code, reason = "the stage is the load benchmark's, which uses more of it")]

mod floods;
#[path = "../load/stage.rs"]
mod stage;

use floods::Flood;
use stage::{STORM_UID, Stage};
use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--flood") {
        return floods::flood(&arguments[at + 1..]);
    }
    if !nix::unistd::Uid::effective().is_root() {
        return println!("not root: there is only one uid, so nobody is hostile to another; nothing was measured");
    }
    let seconds = arguments.iter().position(|a| a == "--seconds").and_then(|at| arguments.get(at + 1)?.parse().ok()).unwrap_or(4.0);
    let (stage, _) = Stage::start_with(floods::UIDS, "", &floods::measured_row());
    let program = floods::large_program();
    let mut victim = Victim::new(&stage);
    victim.ask(1.0);
    let quiet = victim.ask(seconds);
    let (descriptors, memory) = (open_descriptors(&stage), stage.memory());
    println!("limits: the defaults; the other asks a thousand times a second on one connection, each second time for a new lease\n");
    println!(
        "{:<44}{:>8}{:>10}{:>10}{:>10}{:>9}{:>14}{:>12}",
        "beside", "asked", "p50 ms", "p99 ms", "max ms", "moved", "descriptors", "memory MiB"
    );
    let row = |name: &str, seen: &Seen| {
        println!(
            "{name:<44}{:>8}{:>10.2}{:>10.2}{:>10.2}{:>9.2}{:>14}{:>12.1}",
            seen.count,
            seen.p50,
            seen.p99,
            seen.max,
            seen.p99 - quiet.p99,
            open_descriptors(&stage),
            stage.memory() / 1024.0
        );
    };
    row("nobody", &quiet);
    for flood in floods::ALL {
        let hostile = Flood::start(&arguments[0], flood, &stage.workload(), &program);
        std::thread::sleep(Duration::from_millis(300));
        let seen = victim.ask(seconds);
        row(flood, &seen);
        println!("    {}", hostile.end());
    }
    // Whatever was open for the floods is closed by now.
    let until = Instant::now() + Duration::from_secs(30);
    while open_descriptors(&stage) > descriptors + 8 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    row("nobody, afterwards", &victim.ask(seconds));
    println!(
        "\ndescriptors {descriptors} before, {} after; memory {:.1} MiB before, {:.1} after",
        open_descriptors(&stage),
        memory / 1024.0,
        stage.memory() / 1024.0
    );
}

fn open_descriptors(stage: &Stage) -> usize {
    fs::read_dir(format!("/proc/{}/fd", stage.pid())).map_or(0, Iterator::count)
}

/// The workload that is not to notice anything.
struct Victim {
    stream: UnixStream,
    read: String,
}

struct Seen {
    count: usize,
    p50: f64,
    p99: f64,
    max: f64,
}

impl Victim {
    fn new(stage: &Stage) -> Self {
        let mut stream = UnixStream::connect(stage.workload()).expect("the workload socket");
        let (lease, _) = stage::lease(&mut stream);
        Self { stream, read: format!("GET /v1/leases/{lease}/secret HTTP/1.1\r\nhost: x\r\n\r\n") }
    }

    /// Asks a thousand times a second, if it can.
    fn ask(&mut self, seconds: f64) -> Seen {
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        let mut times = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            if times.len() % 2 == 0 {
                let (lease, _) = stage::lease(&mut self.stream);
                times.push(begin.elapsed());
                let give = format!("DELETE /v1/leases/{lease} HTTP/1.1\r\nhost: x\r\n\r\n");
                self.stream.write_all(give.as_bytes()).expect("the workload socket");
                assert_eq!(stage::reply(&mut self.stream).0, 200);
            } else {
                self.stream.write_all(self.read.as_bytes()).expect("the workload socket");
                let (code, body) = stage::reply(&mut self.stream);
                assert_eq!(code, 200, "{}", String::from_utf8_lossy(&body));
                times.push(begin.elapsed());
            }
            std::thread::sleep(Duration::from_millis(1).saturating_sub(begin.elapsed()));
        }
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
        Seen { count: times.len(), p50: at(0.5), p99: at(0.99), max: at(1.0) }
    }
}

/// The hostile uid's number.
const fn hostile_uid() -> u32 {
    STORM_UID + 1
}
