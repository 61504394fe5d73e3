//! How long finding out who is asking takes: a fresh connection of a live process, cold, and the look right before an answer, warm.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use claviger::{
    attest::{Attestor, ExeHashes, Gatherer, Names, Peer, Remote, Roll, Service, Source},
    digest::SystemRandom,
    model::{Environment, ExecRule, Identity, IdentityKind, IdentityName, Owner, Purpose, Registry, Selector, Sensitivity, WallTime},
    sys::{Host, Kernel, SystemClock, euid, listen_packets_at},
};
use std::{
    error::Error,
    hint::black_box,
    io::Read,
    os::unix::net::{UnixListener, UnixStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const ROUNDS: usize = 5_000;
const AT_A_TIME: usize = 64;
/// In the environment of the process that connects: where to.
const CONNECT: &str = "CLAVIGER_BENCH_CONNECT";

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(path) = std::env::var_os(CONNECT) {
        return connect(path.as_ref());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("s.sock");
    let listener = UnixListener::bind(&path)?;
    let mut caller = Command::new(std::env::current_exe()?).env(CONNECT, &path).stdin(Stdio::piped()).spawn()?;
    let done = measured(&listener, &caller);
    end(&mut caller)?;
    done
}

/// An attestor in threads of this process, asked over its socket as the daemon asks.
async fn attestor(gatherer: Gatherer) -> Result<Source, Box<dyn Error>> {
    let folder = tempfile::tempdir()?.keep();
    let path = folder.canonicalize()?.join("attest.sock");
    let listener = listen_packets_at(&path, 0o600, None)?;
    let service = Service::new(gatherer, euid());
    std::thread::spawn(move || service.serve(&listener));
    let remote = Remote::start(path, euid());
    let reached = remote.reached(Duration::from_secs(5)).await;
    std::fs::remove_dir_all(folder)?;
    if reached { Ok(Source::Attestor(remote)) } else { Err(remote.trouble().unwrap_or_default().into()) }
}

/// The process that asks: one connection after the other, each until it is closed.
fn connect(path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    while let Ok(mut stream) = UnixStream::connect(path) {
        let _ = stream.read(&mut [0]);
    }
    Ok(())
}

fn end(caller: &mut Child) -> Result<(), Box<dyn Error>> {
    caller.kill()?;
    caller.wait()?;
    Ok(())
}

fn measured(listener: &UnixListener, caller: &Child) -> Result<(), Box<dyn Error>> {
    let kernel = Kernel::probe()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("kernel: {}; {ROUNDS} connections of one process", kernel.tier());
    println!("{:<66} {:>9} {:>9} {:>9}", "what", "p50 us", "p99 us", "max us");
    for (agents, remote) in [(false, false), (true, false), (false, true), (true, true)] {
        let hashes = ExeHashes::new(1 << 28, 1 << 26, Arc::new(SystemClock));
        let gatherer = Gatherer::new(kernel, Host::probe()?, hashes, Arc::new(SystemClock));
        let source = if remote { runtime.block_on(attestor(gatherer))? } else { Source::Here(Box::new(gatherer)) };
        let attestor = Attestor::new(source, kernel, Vec::new(), Arc::new(SystemRandom::default()));
        attestor.read_ancestors_in_full(agents);
        let roll = roll(agents)?;
        let (mut pinned, mut known, mut both) = (Vec::new(), Vec::new(), Vec::new());
        let mut last: Option<(Peer, UnixStream)> = None;
        for round in 0..ROUNDS + ROUNDS / 10 {
            // The one before is closed first: the caller makes one connection at a time.
            drop(last.take());
            let (stream, _) = listener.accept()?;
            let start = Instant::now();
            let peer = runtime.block_on(attestor.accept(&stream, &roll))?;
            let between = Instant::now();
            let attested = black_box(attestor.examine(&peer, &roll).map_err(|refusal| refusal.message)?);
            let now = Instant::now();
            let identity = attested.workload.map(|workload| workload.identity().name.to_string()).unwrap_or_default();
            if (identity.as_str(), attested.candidate.facts.pid) != ("caller", caller.id()) {
                return Err(format!("{identity:?} was found, in process {}", attested.candidate.facts.pid).into());
            }
            if round >= ROUNDS / 10 {
                pinned.push(between - start);
                known.push(now - between);
                both.push(now - start);
            }
            last = Some((peer, stream));
        }
        let with = if agents { ", an agent is registered" } else { "" };
        let with = format!("{with}{}", if remote { ", attestor asked" } else { "" });
        print(&format!("cold: pinned and read{with}"), pinned);
        print(&format!("cold: judged and identified among 36{with}"), known);
        print(&format!("cold: both{with}"), both);
        let (peer, stream) = last.ok_or("no connection was made")?;
        print(&format!("warm: still the same{with}"), repeat(|| attestor.still(&peer).is_ok())?);
        print(&format!("warm: still the same, for an issue{with}"), repeat(|| runtime.block_on(attestor.still_for_issue(&peer)).is_ok())?);
        let start = Instant::now();
        for _ in 0..ROUNDS / AT_A_TIME {
            let all = runtime.block_on(futures_util::future::join_all((0..AT_A_TIME).map(|_| attestor.accept(&stream, &roll))));
            all.into_iter().collect::<Result<Vec<_>, _>>()?;
        }
        let done = (ROUNDS / AT_A_TIME * AT_A_TIME) as f64 / start.elapsed().as_secs_f64();
        println!("{:<66} {done:>9.0} per second", format!("cold: {AT_A_TIME} at a time{with}"));
    }
    Ok(())
}

fn repeat(check: impl Fn() -> bool) -> Result<Vec<Duration>, Box<dyn Error>> {
    (0..ROUNDS * 4)
        .map(|_| {
            let start = Instant::now();
            let holds = black_box(check());
            if holds { Ok(start.elapsed()) } else { Err("the process is another".into()) }
        })
        .collect()
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_nanos() as f64 / 1_000.0;
    println!("{what:<66} {:>9.1} {:>9.1} {:>9.1}", at(0.5), at(0.99), at(1.0));
}

/// 36 identities: this process's, maybe an agent's, and others that do not match.
fn roll(agents: bool) -> Result<Roll, Box<dyn Error>> {
    use std::os::unix::fs::MetadataExt;
    let uid = std::fs::metadata("/proc/self")?.uid();
    let exe = std::env::current_exe()?.canonicalize()?;
    let mut rows = vec![identity("caller", IdentityKind::Workload, &[format!("unix:uid:{uid}"), format!("unix:path:{}", exe.display())])?];
    for at in 1..36 {
        let kind = if agents && at == 35 { IdentityKind::Agent } else { IdentityKind::Workload };
        rows.push(identity(
            &format!("other-{at:02}"),
            kind,
            &[format!("unix:uid:{}", 70_000 + at), format!("unix:path:/usr/bin/other-{at}")],
        )?);
    }
    Ok(Roll::new(Registry::new(rows), Names::default()))
}

fn identity(name: &str, kind: IdentityKind, selectors: &[String]) -> Result<Identity, Box<dyn Error>> {
    Ok(Identity {
        name: IdentityName::parse(name)?,
        kind,
        owner: Owner::parse("team")?,
        environment: Environment::parse("prod")?,
        purposes: vec![Purpose::parse("serve")?],
        max_sensitivity: Sensitivity::Internal,
        expires: WallTime::parse("2099-01-01").ok_or("a date")?,
        suspended: false,
        groups: Vec::new(),
        selectors: selectors.iter().map(|text| Selector::parse(text)).collect::<Result<_, _>>()?,
        exclusive_uid: false,
        on_exec: ExecRule::Reattest,
        uses: Vec::new(),
        generation: String::new(),
    })
}
