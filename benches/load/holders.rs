//! Processes that hold leases: many of them, small, forked from one that has done nothing yet.

use super::stage::{STORM, STORM_UID, Stage, lease, now_micros};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::{ForkResult, Gid, Pid, Uid, fork, pause},
};
use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A group of holders; all of them end with it.
pub struct Holders {
    mother: super::stage::Guard,
    /// Each one's pid with its last lease.
    pub each: Vec<(i32, String)>,
}

impl Holders {
    /// So many processes with so many leases each.
    pub fn start(me: &str, socket: &Path, count: usize, leases: usize) -> Self {
        let mut command = Command::new(me);
        command.arg("--holders").arg(count.to_string()).arg(leases.to_string()).arg(socket);
        let mut mother = super::stage::Guard(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("holders start"));
        let lines = BufReader::new(mother.0.stdout.take().expect("its output")).lines();
        let each = lines.take(count).map(|line| {
            let line = line.expect("a holder's line");
            let (pid, lease) = line.split_once(' ').expect("a pid and a lease");
            (pid.parse().expect("a pid"), lease.to_owned())
        });
        let each: Vec<_> = each.collect();
        assert_eq!(each.len(), count, "every holder got its leases");
        Self { mother, each }
    }

    /// So many processes with one credential of a database each; with each one's name and password there.
    pub fn of_database(me: &str, socket: &Path, count: usize) -> (Self, Vec<(String, String)>) {
        let mut holders = Self::start(me, socket, count, 0);
        let credentials = holders.each.iter_mut().map(|(_, said)| {
            let words: Vec<String> = said.split(' ').map(str::to_owned).collect();
            let [lease, name, password] = <[String; 3]>::try_from(words).expect("a lease, a name and a password");
            *said = lease;
            (name, password)
        });
        let credentials = credentials.collect();
        (holders, credentials)
    }

    /// Kills one.
    pub fn kill(&self, pid: i32) {
        assert!(self.each.iter().any(|(own, _)| *own == pid));
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("own grandchild");
    }

    /// Kills all that are left, as fast as one can.
    pub fn kill_all(&self) {
        for (pid, _) in &self.each {
            // Some were killed before.
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        self.kill_all();
        let _ = self.mother.0.kill();
    }
}

/// `--holders COUNT LEASES SOCKET`: forks, takes leases in each child, says so, waits to be killed. With 0 leases it takes one credential of
/// the database and says what it is.
pub fn hold(arguments: &[String]) {
    let (count, leases): (usize, usize) = (arguments[0].parse().expect("a number"), arguments[1].parse().expect("a number"));
    for _ in 0..count {
        // SAFETY: this process has one thread.
        if matches!(unsafe { fork() }.expect("a process"), ForkResult::Child) {
            prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
            let mut stream = UnixStream::connect(&arguments[2]).expect("the workload socket");
            let mut last = String::new();
            for _ in 0..leases {
                (last, _) = lease(&mut stream);
            }
            if leases == 0 {
                last = super::database::credential(&mut stream);
            }
            drop(stream);
            // One write of a short line is not torn.
            let _ = std::io::stdout().write_all(format!("{} {last}\n", std::process::id()).as_bytes());
            let _ = std::io::stdout().flush();
            loop {
                pause();
            }
        }
        // Not all at once: a queue of connections has 1,024 places.
        if leases <= 1 {
            // A source takes longer, and what waits for it longer than its deadline is refused.
            std::thread::sleep(if leases == 1 { Duration::from_micros(200) } else { Duration::from_millis(10) });
        }
    }
    // Children are reaped, so that none stays a zombie; ends with standard input.
    let reaper = std::thread::spawn(|| {
        loop {
            if nix::sys::wait::wait().is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    drop(reaper);
}

/// `--storm SOCKET`: forks a process for each identity; when the last is there all ask for their first secret. Prints the microseconds
/// that each took.
pub fn storm(socket: &str) {
    let (gate, release) = nix::unistd::pipe().expect("a pipe");
    for n in 0..STORM {
        // SAFETY: this process has one thread.
        if matches!(unsafe { fork() }.expect("a process"), ForkResult::Child) {
            drop(release);
            prctl::set_pdeathsig(Signal::SIGKILL).expect("prctl");
            nix::unistd::setgroups(&[]).expect("root");
            nix::unistd::setgid(Gid::from_raw(STORM_UID + n)).expect("root");
            nix::unistd::setuid(Uid::from_raw(STORM_UID + n)).expect("root");
            let _ = nix::unistd::read(&gate, &mut [0]);
            let begin = Instant::now();
            let mut stream = UnixStream::connect(socket).expect("the workload socket");
            let _ = lease(&mut stream);
            let _ = std::io::stdout().write_all(format!("{}\n", begin.elapsed().as_micros()).as_bytes());
            std::process::exit(0);
        }
    }
    drop(gate);
    std::thread::sleep(Duration::from_millis(300));
    drop(release);
    while nix::sys::wait::wait().is_ok() {}
}

/// Milliseconds until each of [`STORM`] identities that ask at once has its first secret; `None` without root.
pub fn storm_times(me: &str, socket: &Path) -> Option<Vec<f64>> {
    if !Uid::effective().is_root() {
        return None;
    }
    let out = Command::new(me).arg("--storm").arg(socket).output().expect("the storm starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut times: Vec<f64> = String::from_utf8_lossy(&out.stdout).lines().map(|l| l.parse::<f64>().expect("a number") / 1000.0).collect();
    assert_eq!(times.len(), STORM as usize, "{}", String::from_utf8_lossy(&out.stderr));
    times.sort_by(f64::total_cmp);
    Some(times)
}

/// Milliseconds from the kill of a holder to the end of its lease in the daemon's books, as the record says it.
pub fn deaths(stage: &Stage, holders: &Holders, count: usize) -> Vec<f64> {
    let mut log = Tail::new(&stage.dir().join("audit"));
    let mut out = Vec::new();
    for (pid, lease) in holders.each.iter().take(count) {
        let killed = now_micros();
        holders.kill(*pid);
        out.push((log.ended(lease) - killed as f64) / 1000.0);
    }
    out.sort_by(f64::total_cmp);
    out
}

/// Milliseconds until no lease is live any more after all holders were killed at once.
pub fn mass_death(stage: &Stage, holders: &Holders, left: u64) -> f64 {
    let begin = Instant::now();
    holders.kill_all();
    while stage.live() > left {
        assert!(begin.elapsed() < Duration::from_secs(60), "{} leases are left", stage.live());
        std::thread::sleep(Duration::from_millis(1));
    }
    begin.elapsed().as_secs_f64() * 1000.0
}

/// Follows the log's files.
struct Tail {
    folder: PathBuf,
    read: HashMap<PathBuf, u64>,
    ends: HashMap<String, f64>,
}

impl Tail {
    fn new(folder: &Path) -> Self {
        let mut tail = Self { folder: folder.into(), read: HashMap::new(), ends: HashMap::new() };
        tail.follow();
        tail
    }

    fn follow(&mut self) {
        for entry in fs::read_dir(&self.folder).expect("own folder").flatten() {
            let path = entry.path();
            let at = self.read.entry(path.clone()).or_default();
            let Ok(mut file) = File::open(&path) else { continue };
            let mut text = String::new();
            if file.seek(SeekFrom::Start(*at)).is_err() || file.read_to_string(&mut text).is_err() {
                continue;
            }
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            *at += whole as u64;
            for line in text[..whole].lines().filter(|line| line.contains("\"kind\":\"end\"")) {
                let record: serde_json::Value = serde_json::from_str(line).expect("a record");
                let time = record["ended"]["ended"].as_str().and_then(claviger::model::WallTime::parse).expect("a time");
                self.ends.insert(record["lease"].as_str().expect("a lease").to_owned(), time.0 as f64);
            }
        }
    }

    fn ended(&mut self, lease: &str) -> f64 {
        let begin = Instant::now();
        loop {
            if let Some(time) = self.ends.remove(lease) {
                return time;
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "{lease} does not end");
            std::thread::sleep(Duration::from_millis(1));
            self.follow();
        }
    }
}
