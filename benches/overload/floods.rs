//! What a hostile uid does, each flood in a process of its own that has become that uid.

use super::{
    hostile_uid,
    stage::{Guard, STORM_UID},
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::{
    fs::{self, File},
    io::{IoSlice, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Identities besides the one that must not notice anything.
pub const UIDS: u32 = 300;

const CONNECTIONS: &str = "connections, as fast as they are made";
const MANY: &str = "10,000 connections of 250 uids, kept open";
const SLOW: &str = "slow bytes on as many connections as there are";
const DESCRIPTORS: &str = "descriptors passed, eight at a time";
const BODIES: &str = "bodies larger than are read";
const REFUSALS: &str = "requests that are refused";
const LARGE: &str = "programs of 200 MB, whose content is asked for";

/// In the order of the table.
pub const ALL: [&str; 7] = [CONNECTIONS, MANY, SLOW, DESCRIPTORS, BODIES, REFUSALS, LARGE];

/// A row that pins the content of whatever the hostile uid runs, so that the daemon has to hash it.
pub fn measured_row() -> String {
    format!(
        "[[identity]]\nname = \"hostile-measured\"\nkind = \"workload\"\nowner = \"bench\"\nenvironment = \"bench\"\npurposes = [\"bench\"]\n\
         max_sensitivity = \"internal\"\nexpires = \"{}\"\nselectors = [\"unix:uid:{}\", \"unix:sha256:{}\"]\n",
        &claviger::model::WallTime(super::stage::now_micros() + 30 * 86_400_000_000).rfc3339()[..10],
        STORM_UID + UIDS + 1,
        "0".repeat(64)
    )
}

/// This program made 200 MB long, in a folder of its own.
pub fn large_program() -> (tempfile::TempDir, PathBuf) {
    let dir = super::stage::folder();
    let path = dir.path().join("large");
    fs::copy(std::env::current_exe().expect("own path"), &path).expect("own folder");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("own file");
    File::options().write(true).open(&path).and_then(|file| file.set_len(200_000_000)).expect("own file");
    (dir, path)
}

/// A flood under way.
pub struct Flood(Guard);

impl Flood {
    pub fn start(me: &str, what: &str, socket: &Path, large: &(tempfile::TempDir, PathBuf)) -> Self {
        let program = if what == LARGE { large.1.as_os_str() } else { me.as_ref() };
        let mut command = Command::new(program);
        command.arg("--flood").arg(what).arg(socket).arg(&large.1).stdin(Stdio::piped()).stdout(Stdio::piped());
        match what {
            // It becomes each of them itself.
            MANY => {}
            LARGE => drop(command.uid(STORM_UID + UIDS + 1).gid(STORM_UID + UIDS + 1)),
            _ => drop(command.uid(hostile_uid()).gid(hostile_uid())),
        }
        Self(Guard(command.spawn().expect("a flood starts")))
    }

    /// Ends it and gives what it says of itself.
    pub fn end(mut self) -> String {
        drop(self.0.0.stdin.take());
        let mut said = String::new();
        let _ = self.0.0.stdout.take().expect("its output").read_to_string(&mut said);
        said.trim().to_owned()
    }
}

/// `--flood WHAT SOCKET LARGE`: until standard input ends.
pub fn flood(arguments: &[String]) {
    let (socket, large) = (arguments[1].clone(), arguments[2].clone());
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let told = over.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let goes_on = || !over.load(std::sync::atomic::Ordering::Relaxed);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 4096, 4096);
    let mut done = 0u64;
    match arguments[0].as_str() {
        CONNECTIONS => {
            while goes_on() {
                let _ = UnixStream::connect(&socket);
                done += 1;
            }
            println!("{done} connections made");
        }
        MANY => println!("{} of 10,000 connections were open at the end", many(&socket, goes_on)),
        SLOW => {
            let mut open: Vec<UnixStream> = Vec::new();
            while goes_on() {
                if let Ok(stream) = UnixStream::connect(&socket) {
                    open.push(stream);
                }
                open.retain_mut(|stream| stream.write_all(b"G").is_ok());
                done = done.max(open.len() as u64);
                std::thread::sleep(Duration::from_millis(2));
            }
            println!("{done} connections were open at most");
        }
        DESCRIPTORS => {
            let file = File::open("/proc/self/status").expect("a file");
            let fds = [file.as_raw_fd(); 8];
            let mut refused = 0u64;
            while goes_on() {
                let Ok(stream) = UnixStream::connect(&socket) else { continue };
                let sent = sendmsg::<()>(
                    stream.as_raw_fd(),
                    &[IoSlice::new(b"G")],
                    &[ControlMessage::ScmRights(&fds)],
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                );
                done += 8;
                refused += u64::from(sent.is_err());
            }
            println!("{done} descriptors, {refused} messages refused by the kernel");
        }
        BODIES => {
            let head = "POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n";
            let body = vec![b'x'; 64 << 10];
            while goes_on() {
                let Ok(mut stream) = UnixStream::connect(&socket) else { continue };
                if stream.write_all(head.as_bytes()).is_ok() {
                    while stream.write_all(&body).is_ok() && goes_on() {
                        done += 1;
                    }
                }
            }
            println!("{done} pieces of 64 KiB were taken");
        }
        REFUSALS => {
            let ask = super::stage::post("/v1/leases", r#"{"secret":"bench/none","purpose":"bench","reason":"flood"}"#);
            let Ok(mut stream) = UnixStream::connect(&socket) else { return };
            while goes_on() {
                if stream.write_all(ask.as_bytes()).is_err() || stream.read(&mut [0; 4096]).unwrap_or(0) == 0 {
                    match UnixStream::connect(&socket) {
                        Ok(again) => stream = again,
                        Err(_) => break,
                    }
                }
                done += 1;
            }
            println!("{done} requests");
        }
        LARGE => {
            while goes_on() {
                // Another file each time, so that nothing is remembered.
                let begin = Instant::now();
                let _ = fs::copy(&large, format!("{large}.{done}"));
                let mut child = Command::new(&large).arg("--flood").arg("ask").arg(&socket).arg(&large).stdin(Stdio::null()).spawn();
                if let Ok(child) = &mut child {
                    let _ = child.wait();
                }
                done += 1;
                std::thread::sleep(Duration::from_millis(5).saturating_sub(begin.elapsed()));
            }
            println!("{done} programs asked");
        }
        _ => {
            if let Ok(mut stream) = UnixStream::connect(&socket) {
                let _ = stream.write_all(b"GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n");
                let _ = stream.read(&mut [0; 4096]);
            }
        }
    }
}

/// Forks a process for each of 250 uids, which opens 40 connections and keeps them; counts those that are open at the end.
fn many(socket: &str, goes_on: impl Fn() -> bool) -> usize {
    use nix::unistd::{ForkResult, Gid, Uid, fork};
    let (counts, count) = nix::unistd::pipe().expect("a pipe");
    let (gate, release) = nix::unistd::pipe().expect("a pipe");
    for n in 0..250 {
        // SAFETY: the other thread of this process only waits in read(2); the child calls nothing that it could hold a lock for.
        if matches!(unsafe { fork() }.expect("a process"), ForkResult::Child) {
            drop(release);
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            let _ = nix::unistd::setgroups(&[]);
            nix::unistd::setgid(Gid::from_raw(STORM_UID + 10 + n)).expect("root");
            nix::unistd::setuid(Uid::from_raw(STORM_UID + 10 + n)).expect("root");
            let open: Vec<UnixStream> = (0..40).filter_map(|_| UnixStream::connect(socket).ok()).collect();
            let _ = nix::unistd::read(&gate, &mut [0]);
            let alive = open.iter().filter(|stream| stream.set_nonblocking(true).is_ok() && (&**stream).read(&mut [0]).is_err()).count();
            let _ = nix::unistd::write(&count, &[alive as u8]);
            std::process::exit(0);
        }
    }
    drop((gate, count));
    while goes_on() {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(release);
    let mut each = Vec::new();
    let _ = File::from(counts).read_to_end(&mut each);
    while nix::sys::wait::wait().is_ok() {}
    each.into_iter().map(usize::from).sum()
}
