//! strace(1) around a daemon, to make its system calls fail.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// A tracer that is attached to every thread of a running process.
pub struct Tracer {
    child: Child,
    log: PathBuf,
}

/// A fault as strace's options say it.
pub struct Fault<'a> {
    pub call: &'a str,
    pub error: &'a str,
    pub when: &'a str,
    /// Only on these files; on anything if there are none.
    pub files: Vec<PathBuf>,
}

impl Fault<'_> {
    fn options(&self) -> Vec<String> {
        let Fault { call, error, when, files } = self;
        let what = ["-e".into(), format!("trace={call}"), "-e".into(), format!("inject={call}:error={error}:when={when}")];
        what.into_iter().chain(files.iter().flat_map(|file| ["-P".to_owned(), file.display().to_string()])).collect()
    }
}

impl Tracer {
    /// Attaches to the process; when this returns, the fault is on in all its threads.
    pub fn attach(pid: u32, log: &Path, fault: &Fault) -> Tracer {
        Self::attached(pid, log, &fault.options())
    }

    /// Attaches to the process and only writes down its calls.
    pub fn watch(pid: u32, log: &Path) -> Tracer {
        Self::attached(pid, log, &[])
    }

    fn attached(pid: u32, log: &Path, more: &[String]) -> Tracer {
        let mut command = Command::new("strace");
        command.args(["-f", "-p", &pid.to_string(), "-o"]).arg(log).args(more);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.contains("attached"), "strace: {said}");
        Tracer { child, log: log.to_owned() }
    }

    /// Lets go of the process; says whether the fault ever happened.
    pub fn end(mut self) -> bool {
        self.let_go();
        happened(&self.log)
    }

    fn let_go(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            // SIGTERM, upon which strace detaches and ends; a killed strace would kill what it traces.
            let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        }
        self.child.wait().unwrap();
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// The words before a program's that let it start with a fault. The program stays our child, and the tracer is nobody's.
pub fn below(log: &Path, fault: &Fault) -> Vec<String> {
    let mut words: Vec<String> = ["strace", "-D", "-I2", "-f", "-o", &log.display().to_string()].map(str::to_owned).to_vec();
    words.extend(fault.options());
    words
}

/// Ends the tracer of a process that was started below one; says whether the fault ever happened.
pub fn release(pid: u32, log: &Path) -> bool {
    let tracer = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().find_map(|line| line.strip_prefix("TracerPid:")?.trim().parse::<u32>().ok()).filter(|pid| *pid != 0)
    };
    let until = Instant::now() + Duration::from_secs(10);
    while let Some(pid) = tracer() {
        assert!(Instant::now() < until, "the tracer does not let go");
        let _ = Command::new("kill").arg(pid.to_string()).status();
        sleep(Duration::from_millis(20));
    }
    happened(log)
}

fn happened(log: &Path) -> bool {
    fs::read(log).is_ok_and(|text| text.windows(10).any(|part| part == b"(INJECTED)"))
}

/// How often each system call is made by the thread that makes it most often.
pub fn count(log: &Path) -> HashMap<String, usize> {
    let mut threads: HashMap<(String, String), usize> = HashMap::new();
    for line in String::from_utf8_lossy(&fs::read(log).unwrap()).lines() {
        // With threads, each line begins with the number of one.
        let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (thread, line) = line.split_at(digits);
        if let Some((name, _)) = line.trim_start().split_once('(')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        {
            *threads.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most = HashMap::new();
    for ((name, _), count) in threads {
        let known = most.entry(name).or_default();
        *known = count.max(*known);
    }
    most
}
