//! The moment of quiet: all books are compared, and a line is printed.

use super::{
    books::{Figures, Record, journal, lease_of_role},
    faults::{ALL, Fault},
    host::*,
    postgres::{Postgres, SUPERUSER},
    work::Board,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::PoisonError,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// How long endings that PostgreSQL held up may take to come through: pauses between tries double.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
/// What the daemon may take: it serves eight workers and an operator.
const MOST: Figures = Figures { descriptors: 250, threads: 64, resident: 128 << 10 };

pub struct Soak {
    began: Instant,
    record: Record,
    happened: BTreeMap<Fault, u64>,
    /// How far the daemon's log was read.
    log: usize,
    checks: u64,
    highest: Figures,
    explained: BTreeMap<&'static str, u64>,
    longest_quiet: Duration,
}

/// Errors in the daemon's log that a fault explains.
const EXPLAINED: &[(&str, &[Fault])] = &[
    ("nothing is attested until it is back", &[Fault::KillAttestor, Fault::HangAttestor]),
    // Issues while PostgreSQL was away.
    ("engine pg: ", &[Fault::StopPostgres, Fault::CrashPostgres]),
];

impl Soak {
    pub fn new(began: Instant) -> Soak {
        Soak {
            began,
            record: Record::default(),
            happened: BTreeMap::new(),
            log: 0,
            checks: 0,
            highest: Figures::default(),
            explained: BTreeMap::new(),
            longest_quiet: Duration::ZERO,
        }
    }

    pub fn happened(&mut self, fault: Fault) {
        *self.happened.entry(fault).or_default() += 1;
    }

    /// Ends the run with what is wrong and how it came there.
    pub fn fail(&self, host: &Host, wrong: &str) -> ! {
        let log = host.log();
        let last: Vec<&str> = log.lines().rev().take(60).collect();
        let shown: String = last.into_iter().rev().map(|line| format!("{line}\n")).collect();
        panic!(
            "after {:?}, faults so far {:?}: {wrong}\n--- the end of the daemon's log ---\n{shown}",
            self.began.elapsed(),
            self.happened
        );
    }

    /// Makes it quiet and compares.
    pub fn check(&mut self, host: &mut Host, cluster: &Postgres, runtime: &Runtime, board: &Board) {
        let asked = Instant::now();
        let _quiet = board.gate.write().unwrap_or_else(PoisonError::into_inner);
        let over = std::mem::take(&mut board.told().over);
        self.settle(host, cluster, runtime, &over);
        let mut told = board.told();
        let (mut answered, lost) = (std::mem::take(&mut told.answered), std::mem::take(&mut told.lost));
        answered.retain(|lease| !self.record.open.contains_key(lease) && !self.record.has_ended(lease));
        if !answered.is_empty() {
            self.fail(host, &format!("answered and not on the record: {answered:?}"));
        }
        // Whoever lives has lost nothing but for a reason that is on the record, and none of those that only a holder's death gives.
        for lease in told.held.values().flatten().chain(&lost).filter(|lease| !self.record.open.contains_key(*lease)) {
            match self.record.reasons.get(lease).map(String::as_str) {
                Some("expired" | "policy" | "operator") => {}
                reason => self.fail(host, &format!("{lease} is over ({reason:?}), and its holder lives and holds it")),
            }
        }
        // Nobody here ever becomes another program.
        if let Some((lease, reason)) = self.record.reasons.iter().find(|(_, reason)| reason.as_str() == "holder_changed") {
            self.fail(host, &format!("{lease} is said to have ended as {reason}"));
        }
        self.record.reasons.retain(|lease, _| told.held.values().flatten().any(|held| held == lease));
        let wrong = std::mem::take(&mut *board.wrong.lock().unwrap_or_else(PoisonError::into_inner));
        if !wrong.is_empty() {
            self.fail(host, &wrong.join("\n"));
        }
        self.verify(host);
        self.read_log(host);
        let now = Figures::of(host.pid());
        let highest = &mut self.highest;
        highest.descriptors = highest.descriptors.max(now.descriptors);
        highest.threads = highest.threads.max(now.threads);
        highest.resident = highest.resident.max(now.resident);
        if now.descriptors > MOST.descriptors || now.threads > MOST.threads || now.resident > MOST.resident {
            self.fail(host, &format!("the daemon takes {now:?}, more than {MOST:?}"));
        }
        self.checks += 1;
        self.longest_quiet = self.longest_quiet.max(asked.elapsed());
        println!(
            "{:>6} s: {} issued, {} ended, {} live in all four books; {} read, {} renewed, {} given back, {} left, {} killed; \
             {} records verified; daemon {} descriptors, {} threads, {} KiB; quiet for {} ms",
            self.began.elapsed().as_secs(),
            self.record.issued,
            self.record.ended(),
            self.record.open.len(),
            told.read,
            told.renewed,
            told.given_back,
            told.exits,
            told.kills,
            self.record.records,
            now.descriptors,
            now.threads,
            now.resident,
            asked.elapsed().as_millis()
        );
    }

    /// Waits until nothing that is over is live, and the audit log, the journal, the daemon's list and PostgreSQL's roles name the same leases.
    fn settle(&mut self, host: &mut Host, cluster: &Postgres, runtime: &Runtime, over: &[String]) {
        let until = Instant::now() + SETTLED_WITHIN;
        loop {
            self.record.read_on(&host.dir.join("audit"));
            let by_record: BTreeSet<String> = self.record.open.keys().cloned().collect();
            let of_postgres = self.record.open.iter().filter(|(_, secret)| *secret == "db/orders").map(|(lease, _)| lease.clone());
            let of_postgres: BTreeSet<String> = of_postgres.collect();
            let by_journal = journal(&host.dir.join("state/leases"));
            let listed = listed(host);
            let by_list: BTreeSet<String> = listed.iter().filter(|(_, state)| state == "live").map(|(lease, _)| lease.clone()).collect();
            let roles: BTreeSet<String> = runtime.block_on(roles(cluster)).iter().map(|role| lease_of_role(role)).collect();
            let left: Vec<&String> = over.iter().filter(|lease| by_record.contains(*lease)).collect();
            if left.is_empty() && by_record == by_journal && by_record == by_list && listed.len() == by_list.len() && of_postgres == roles {
                return;
            }
            if Instant::now() > until {
                let less = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
                let not_live: Vec<_> = listed.iter().filter(|(_, state)| state != "live").collect();
                let wrong = format!(
                    "the books do not agree, or something is left.\ngiven back or without a holder, and live {left:?}\nrecord less journal {:?}\njournal less record {:?}\nrecord less list {:?}\nlist less record {:?}\n\
                     not live {not_live:?}\nrecord less roles {:?}\nroles less record {:?}",
                    less(&by_record, &by_journal),
                    less(&by_journal, &by_record),
                    less(&by_record, &by_list),
                    less(&by_list, &by_record),
                    less(&of_postgres, &roles),
                    less(&roles, &of_postgres),
                );
                self.fail(host, &wrong);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn verify(&self, host: &Host) {
        let keys = claviger::audit::read_keys(&host.dir.join("audit/audit.pub")).unwrap();
        let pinned = claviger::audit::Pinned { keys, anchors: Vec::new(), max_unsigned: u64::MAX };
        let report = claviger::audit::verify(&host.dir.join("audit"), &pinned).unwrap();
        if !report.problems.is_empty() {
            self.fail(host, &format!("the chain does not verify: {:?}", report.problems));
        }
    }

    /// What the daemon has said since the last time, and the attestor altogether.
    fn read_log(&mut self, host: &Host) {
        let log = host.log();
        let mut wrong = Vec::new();
        for line in log[self.log..].lines() {
            if line.contains("panicked") {
                wrong.push(line);
            } else if line.contains(" ERROR ") {
                let known =
                    EXPLAINED.iter().find(|(part, faults)| line.contains(part) && faults.iter().any(|f| self.happened.contains_key(f)));
                match known {
                    Some((part, _)) => *self.explained.entry(part).or_default() += 1,
                    None => wrong.push(line),
                }
            }
        }
        if !wrong.is_empty() {
            self.fail(host, &format!("errors that no fault explains:\n{}", wrong.join("\n")));
        }
        self.log = log.len();
        let attestor = std::fs::read_to_string(host.dir.join("attestor.log")).unwrap_or_default();
        if attestor.contains("panicked") {
            self.fail(host, &attestor);
        }
    }

    /// With all workers gone: every lease is over, no role is left, and the summary.
    pub fn check_the_end(&mut self, host: &mut Host, cluster: &Postgres, runtime: &Runtime, board: &Board) {
        host.wait_until(SETTLED_WITHIN, "all leases end with their holders", |host| host.live().is_empty());
        self.settle(host, cluster, runtime, &[]);
        self.read_log(host);
        if !self.record.open.is_empty() {
            self.fail(host, "leases are left");
        }
        host.stop(false);
        self.verify(host);
        let told = board.told();
        assert!(told.issued > 0 && told.read > 0 && told.kills + told.exits > 0, "the workers did nothing");
        let missed: Vec<&Fault> = ALL.iter().filter(|fault| !self.happened.contains_key(fault)).collect();
        println!(
            "{} s, {} checks, no difference: {} issued and ended ({:?}), {} answers with a value, {} without one that came; {} reads, {} renewals\n\
             faults {:?}, not reached {missed:?}\nrefused {:?}\nerrors that they explain {:?}\nmost of the daemon {:?}; longest quiet {} ms",
            self.began.elapsed().as_secs(),
            self.checks,
            self.record.issued,
            self.record.ends,
            told.issued,
            told.unanswered,
            told.read,
            told.renewed,
            self.happened,
            told.refused,
            self.explained,
            self.highest,
            self.longest_quiet.as_millis()
        );
    }
}

/// Every lease that `clav leases --all` lists, with its state.
fn listed(host: &Host) -> Vec<(String, String)> {
    let mut command = Command::new(host.dir.join("bin/clav"));
    command.args(["leases", "--all", "--json"]).env("CLAVIGER_OPERATOR_SOCKET", host.dir.join("operator.sock"));
    let output = command.output().unwrap();
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("clav leases: {error}: {}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    answer["leases"].as_array().unwrap().iter().map(|lease| (text(&lease["id"]), text(&lease["state"]))).collect()
}

async fn roles(cluster: &Postgres) -> Vec<String> {
    let client = cluster.connect(SUPERUSER, b"", "app").await.unwrap();
    let rows = client.query("SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, 'clv')", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}
