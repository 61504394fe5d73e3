//! One system call fails: no secret leaves without its record, the daemon answers, refuses or ends with a code of its own, and when the
//! fault is over it serves, started again if it ended, with books that agree.

use super::{
    cases::{self, Case, Counted, Phase},
    host::*,
    site::{ASK, Site, connects, setup},
    tracer::{self, Fault, Tracer},
};
use std::{
    collections::{BTreeMap, HashSet},
    fs,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::{Command, ExitStatus},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What became of one case.
struct Outcome {
    /// The fault came about at least once.
    happened: bool,
    /// How the daemon took it.
    how: String,
    /// Values that were handed over while it was on.
    delivered: usize,
}

/// What became of all of them.
#[derive(Default)]
struct Told {
    hows: BTreeMap<String, usize>,
    failed: Vec<String>,
    happened: usize,
    handed: usize,
}

struct Trial {
    site: Site,
    trace: PathBuf,
}

fn is_memory(case: &Case) -> bool {
    matches!(case.call.as_str(), "mmap" | "mprotect" | "munmap")
}

/// Ends that a process may come to by a fault: the documented code, and for want of memory the abort of the allocator.
fn may_end(status: ExitStatus, case: &Case) -> bool {
    let memory = is_memory(case);
    // What is forbidden has to be mended. Before the program's first line it is the loader's to end it, with 127.
    status.code() == Some(1)
        || (case.error == "EPERM" && status.code() == Some(78))
        || (memory && (status.signal() == Some(6) || status.code() == Some(127)))
}

impl Trial {
    fn prepare(case: &Case) -> Trial {
        let setup = Setup { two: case.phase == Phase::Attestor, ..setup() };
        let site = match case.phase {
            Phase::First => Site::prepare(setup),
            _ => Site::start(setup),
        };
        Trial { trace: site.host.dir.join("trace"), site }
    }

    /// The process that has the fault while it serves.
    fn pid(&self, phase: Phase) -> u32 {
        if phase == Phase::Attestor { self.site.host.attestor.as_ref().unwrap().pid() } else { self.site.host.pid() }
    }

    fn fault<'a>(&self, case: &'a Case) -> Fault<'a> {
        let mut files = Vec::new();
        // Threads wake each other by writing into a descriptor, which cannot fail like a disk: then only files do.
        if case.call.starts_with("write") || case.call.contains(',') {
            let (state, audit) = (self.site.host.dir.join("state"), self.site.host.dir.join("audit"));
            files.extend((1..30).map(|n| state.join(format!("leases/leases-{n:012}.jsonl"))));
            files.extend((1..400).map(|n| audit.join(format!("audit-{n:020}.jsonl"))));
            files.extend(["leases/STATE.new", ".state.json.tmp", "store/.store", "store/.app/one.tmp"].map(|name| state.join(name)));
            files.extend(["head.new", ".audit.pub.tmp"].map(|name| audit.join(name)));
        }
        Fault { call: &case.call, error: case.error, when: &case.when, files }
    }

    /// The daemon starts with the fault. Returns how it took it, and whether the fault happened.
    fn start(&mut self, case: &Case) -> (String, bool, usize) {
        if case.phase == Phase::Again {
            self.site.host.stop(true);
        }
        self.site.host.launch_below(&tracer::below(&self.trace, &self.fault(case)));
        let mut given = 0;
        let until = Instant::now() + Duration::from_secs(4);
        while self.site.host.ended().is_none() && !connects(&self.site.host) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let up = self.site.host.ended().is_none() && connects(&self.site.host);
        if up {
            given = self.site.ask();
        }
        let happened = tracer::release(self.site.host.pid(), &self.trace);
        (if up { "served".into() } else { "did not start".into() }, happened, given)
    }

    fn run(&mut self, case: &Case) -> Outcome {
        let (mut how, happened, given) = match case.phase {
            Phase::First | Phase::Again => self.start(case),
            Phase::Serving | Phase::Attestor => {
                let tracer = Tracer::attach(self.pid(case.phase), &self.trace, &self.fault(case));
                let given = self.site.ask();
                (String::from("served"), tracer.end(), given)
            }
        };
        if case.phase == Phase::Attestor && !self.site.host.attestor.as_mut().unwrap().is_running() {
            let status = self.site.host.attestor.take().unwrap().end("KILL");
            assert!(may_end(status, case), "the attestor ended with {status}");
            self.site.host.launch_attestor();
            how = format!("attestor ended: {status}");
        }
        // Whatever holds it up is gone now: it serves or has ended, and soon.
        let until = Instant::now() + Duration::from_secs(20);
        while self.site.host.ended().is_none() && !connects(&self.site.host) {
            assert!(Instant::now() < until, "neither serves nor ends");
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that is about to end, for sockets open before the last step of a start.
        if matches!(case.phase, Phase::First | Phase::Again) {
            std::thread::sleep(Duration::from_millis(100));
        }
        if let Some(status) = self.site.host.ended() {
            assert!(may_end(status, case), "ended with {status}: {}", self.site.host.log().lines().last().unwrap_or_default());
            how = format!("ended: {status}");
            self.site.host.stop(true);
            self.site.host.launch();
        }
        if case.phase == Phase::First {
            self.site.host.put("app/one", "v");
            if !self.site.put {
                self.site.host.put("app/two", "old");
            }
        }
        // Whoever may not look at a holder any more is not certain of it.
        self.site.recovers(case.error == "EPERM");
        self.site.books();
        let log = self.site.host.log() + &fs::read_to_string(self.site.host.dir.join("attestor.log")).unwrap_or_default();
        // The runtime, and whoever has no memory for a key, know no other way to say that they cannot start.
        let starts = matches!(case.phase, Phase::First | Phase::Again) && how.starts_with("ended");
        let panics: Vec<&str> =
            log.split("panicked at").skip(1).filter(|text| !(starts && (is_memory(case) || text.contains("/tokio-")))).collect();
        assert!(panics.is_empty(), "a panic: {}", panics[0].chars().take(600).collect::<String>());
        Outcome { happened, how, delivered: given }
    }
}

/// Runs without faults, to know how often each call is made.
fn counted() -> Counted {
    let case = |phase| Case { call: "sync".into(), error: "EIO", when: "1+".into(), phase };
    let mut first = Trial::prepare(&case(Phase::First));
    let (before, starting) = (first.site.host.dir.join("before"), first.site.host.dir.join("starting"));
    let version = Command::new("strace").arg("-o").arg(&before).arg(program_under_test()).arg("--version").output().unwrap();
    assert!(version.status.success());
    first.site.host.launch_below(&["strace", "-D", "-I2", "-o", &starting.display().to_string()].map(str::to_owned));
    first.site.host.wait_until(Duration::from_secs(20), "it serves", |host| connects(host));
    tracer::release(first.site.host.pid(), &starting);
    let serving = |phase| {
        let mut trial = Trial::prepare(&case(phase));
        let tracer = Tracer::watch(trial.pid(phase), &trial.trace);
        trial.site.ask();
        tracer.end();
        tracer::count(&trial.trace)
    };
    Counted {
        before: tracer::count(&before),
        starting: tracer::count(&starting),
        serving: serving(Phase::Serving),
        attesting: serving(Phase::Attestor),
    }
}

/// The disk takes nothing any more while a lease ends, and then it does again, or the daemon dies before. The end comes onto the record.
#[test]
fn an_ending_that_the_log_did_not_take_is_recorded_when_it_does() {
    if !is_root() {
        return;
    }
    for (dies, journal_too) in [(false, true), (true, true), (true, false)] {
        let mut site = Site::start(setup());
        let trace = site.host.dir.join("trace");
        // What was written before is on the disk: the journal syncs within 10 ms.
        std::thread::sleep(Duration::from_millis(200));
        let log = (1..100).map(|n| site.host.dir.join(format!("audit/audit-{n:020}.jsonl")));
        let files = if journal_too { Vec::new() } else { log.collect() };
        let fault = Fault { call: "fdatasync", error: "EIO", when: "1+", files };
        let tracer = Tracer::attach(site.host.pid(), &trace, &fault);
        let mut steady = site.steady.take().unwrap();
        let lease = steady.lease();
        // Ends the way of whatever is refused: nothing is handed over while nothing can be put on the record.
        let refused = site.host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", ASK]).remove(0);
        assert_eq!(refused["body"]["error"]["code"], "audit_unavailable", "{refused}");
        steady.say(&format!("call DELETE /v1/leases/{lease}"));
        assert_eq!(steady.line()["status"], 200, "it ends all the same");
        let on_record = |host: &Host| host.records_of("end").iter().any(|record| record["lease"] == lease.as_str());
        assert!(!on_record(&site.host));
        if dies {
            site.host.stop(true);
        }
        assert!(tracer.end());
        if dies {
            site.host.launch();
            // Its end may be in no file at all: then it lives, and can be given back again.
            if journal_too && site.host.live().iter().any(|live| live["id"] == lease.as_str()) {
                steady.say(&format!("call-anew DELETE /v1/leases/{lease}"));
                assert_eq!(steady.line()["status"], 200);
            }
        }
        let end = site.host.end_of(&lease);
        assert_eq!(end["ended"]["reason"], "asked", "{end}");
        drop(steady);
        site.books();
    }
}

/// A file that cannot be read for a moment is not a file that is wrong, nor one that is not there: started again, everything is as before.
#[test]
fn what_cannot_be_read_at_a_start_is_tried_again() {
    if !is_root() {
        return;
    }
    let stat = "statx,newfstatat,stat,fstat";
    let of = |file: &str| (file.to_owned(), true);
    for (call, error, (file, ours)) in [
        (stat, "EIO", of("state/state.json")),
        ("openat", "EMFILE", of("state/state.json")),
        ("read", "EIO", of("state/state.json")),
        ("openat", "ENFILE", ("/etc/machine-id".to_owned(), false)),
        ("read", "EIO", ("/etc/machine-id".to_owned(), false)),
        ("openat", "EMFILE", of("clavigerd.toml")),
        ("read", "EIO", of("key")),
        ("openat", "ENOMEM", of("identities.d/test.toml")),
        ("read", "EIO", of("policy.d/50-test.cedar")),
        ("getdents64", "EIO", of("secrets.d")),
        ("getdents64", "ENOMEM", of("state/leases")),
        ("openat", "EMFILE", of("audit")),
    ] {
        let mut site = Site::start(setup());
        let state = fs::read(site.host.dir.join("state/state.json")).unwrap();
        site.host.stop(true);
        let trace = site.host.dir.join("trace");
        let mut files: Vec<PathBuf> = vec![if ours { site.host.dir.join(&file) } else { file.clone().into() }];
        // Opened by its name below the descriptor of its folder.
        if call == "openat" && file.contains('.') {
            files.push(files[0].parent().unwrap().to_owned());
        }
        site.host.launch_below(&tracer::below(&trace, &Fault { call, error, when: "1+", files }));
        site.host.wait_until(Duration::from_secs(20), "it ends or serves", |host| host.ended().is_some() || connects(host));
        let status = site.host.ended().unwrap_or_else(|| panic!("{call} {error} {file}: serves"));
        assert_eq!(status.code(), Some(1), "{call} {error} {file}: {}", site.host.log().lines().last().unwrap_or_default());
        assert_eq!(fs::read(site.host.dir.join("state/state.json")).unwrap(), state, "{call} {error} {file}");
        site.host.stop(true);
        site.host.launch();
        site.recovers(false);
        site.books();
    }
}

#[test]
fn whatever_call_fails_nothing_is_handed_over_without_its_record_and_it_recovers() {
    if !is_root() {
        return;
    }
    let mut cases = cases::all(&counted());
    let of_all = cases.len();
    if let Ok(only) = std::env::var("CLAVIGER_TEST_FAULT") {
        cases.retain(|case| format!("{:?}", case).contains(&only) || named(case).starts_with(&only));
    } else {
        match std::env::var("CLAVIGER_TEST_FAULTS").as_deref() {
            Ok("all") => {}
            Ok(count) => cases = cases::some(cases, count.parse().unwrap()),
            Err(_) => cases = cases::some(cases, 80),
        }
    }
    let (next, count) = (AtomicUsize::new(0), cases.len());
    let told: Mutex<Told> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let done = std::panic::catch_unwind(|| Trial::prepare(case).run(case));
                    let mut told = told.lock().unwrap();
                    match done {
                        Ok(outcome) => {
                            let how = if outcome.happened { outcome.how } else { "never happened".into() };
                            println!("{:<48} {how}, {} handed over", named(case), outcome.delivered);
                            *told.hows.entry(how).or_default() += 1;
                            told.happened += usize::from(outcome.happened);
                            told.handed += outcome.delivered;
                        }
                        Err(why) => {
                            let why = why.downcast_ref::<String>().map_or("failed", String::as_str);
                            println!("{:<48} FAILED: {why}", named(case));
                            told.failed.push(format!("{}: {why}", named(case)));
                        }
                    }
                }
            });
        }
    });
    let Told { hows, failed, happened, handed } = told.into_inner().unwrap();
    println!("{count} of {of_all} cases, {happened} in which the call was made; {handed} secrets handed over meanwhile; {hows:?}");
    assert!(failed.is_empty(), "{failed:#?}");
    let calls: HashSet<&str> = cases.iter().map(|case| case.call.as_str()).collect();
    assert!(happened * 2 > count || calls.len() == 1, "most of them must come about");
}

/// `call:error:when:phase`, by which `CLAVIGER_TEST_FAULT` runs one alone.
fn named(case: &Case) -> String {
    format!("{}:{}:{}:{:?}", case.call, case.error, case.when, case.phase)
}
