//! Hours of mixed load with faults: workloads of twelve identities and four uids take, read, renew and give back secrets of three engines,
//! leave and are killed, while the daemon, its attestor and PostgreSQL die and come back, policy and keys change, and operators interfere.
//!
//! Every minute it is made quiet for a moment, and then the books must agree: what was issued less what has ended, by the audit log, is
//! what the journal holds, what the daemon lists, and what exists in PostgreSQL; nobody who lives has lost anything without a reason on the
//! record; values that are read again are the same; the chain verifies; memory, threads and descriptors stay within bounds; the daemon's
//! log has no error that no fault explains.
//!
//! `CLAVIGER_TEST_SOAK` is how many seconds; 20 without it. Runs as root.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/host.rs"]
mod host;
#[path = "../support/postgres.rs"]
mod postgres;

mod books;
mod chance;
mod check;
mod faults;
mod work;

use chance::Chance;
use check::Soak;
use faults::Fault;
use host::*;
use postgres::Postgres;
use std::{
    sync::{Arc, atomic::Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use work::{Board, IDENTITIES, SECRETS, Worker, name_of, uid_of};

const SEED: u64 = 0x736f_616b;
const WORKERS: usize = 8;

fn setup(cluster: &Postgres) -> Setup {
    let uses: String = SECRETS.iter().map(|secret| declared(secret)).collect();
    let tokens = secret("tok/partner", "internal", "settings = { audience = [\"partner\"] }").replace("\"local\"", "\"tok\"");
    let grants = "settings = { grants = [\"GRANT USAGE ON SCHEMA app TO {{role}}\", \"GRANT SELECT ON app.orders TO {{role}}\"] }";
    let orders = secret("db/orders", "confidential", grants).replace("\"local\"", "\"pg\"");
    Setup {
        config: format!(
            "[limits]\nconnections_per_second = 100000\n[leases]\nsweep = \"1s\"\n[audit]\nsegment_bytes = 8388608\n\
             hourly_bytes_per_identity = 1073741824\n[[engine]]\nkind = \"jwt\"\nname = \"tok\"\n\
             issuer = \"https://tokens.example\"\nmax_ttl = \"1h\"\n\
             [[engine]]\nkind = \"postgres\"\nname = \"pg\"\nhost = \"{}\"\nport = {}\ndatabase = \"app\"\nuser = \"postgres\"\n",
            cluster.socket_folder().display(),
            cluster.port
        ),
        identities: (0..IDENTITIES).map(|n| identity(&name_of(n), uid_of(n), &uses)).collect(),
        secrets: SECRETS[..3].iter().map(|name| secret(name, "internal", "")).collect::<String>() + &tokens + &orders,
        policy: faults::policy(None),
        two: true,
        ..Setup::default()
    }
}

#[test]
fn the_books_agree_whatever_happens_meanwhile() {
    if !is_root() {
        return;
    }
    let seconds = std::env::var("CLAVIGER_TEST_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(20u64);
    let (length, between) = (Duration::from_secs(seconds), Duration::from_secs(if seconds < 120 { 5 } else { 60 }));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let Some(mut cluster) = runtime.block_on(Postgres::start()) else { return };
    let mut host = Host::start(setup(&cluster));
    SECRETS[..3].iter().for_each(|name| host.put(name, "value-of-the-beginning"));
    host.clav_is_there();
    // The stranger's program as well: nothing is copied while threads start processes.
    host.program("nobody");
    let commands = Arc::new((0..IDENTITIES).map(|n| work::command(&host, n)).collect::<Vec<_>>());
    let board = Arc::new(Board::default());
    let mut chance = Chance(SEED);
    let workers = (0..WORKERS)
        .map(|n| {
            let identities = (0..IDENTITIES).filter(|identity| identity % WORKERS == n % WORKERS || identity % 3 == n % 3).collect();
            Worker::start(n, identities, commands.clone(), board.clone(), chance.draw())
        })
        .collect();
    // Ends them before the host goes, also when a check fails.
    let mut crowd = Crowd(board.clone(), workers);
    let began = Instant::now();
    let mut soak = Soak::new(began);
    let (mut deck, mut next): (Vec<Fault>, Instant) = (Vec::new(), began + between);
    while began.elapsed() < length {
        if deck.is_empty() {
            deck.extend(faults::ALL);
            // In a long run, every other five minutes the daemon lives through, so that what grows with time is seen to grow.
            if seconds >= 600 && began.elapsed().as_secs() / 300 % 2 == 1 {
                deck.retain(|fault| !fault.ends_the_daemon());
            }
            chance.shuffle(&mut deck);
        }
        let fault = deck.pop().unwrap_or(Fault::KillDaemon);
        soak.happened(fault);
        if let Err(wrong) = faults::happen(fault, &mut host, &mut cluster, &runtime, &mut chance) {
            soak.fail(&host, &wrong);
        }
        std::thread::sleep(Duration::from_millis(if seconds < 120 { 50 } else { chance.draw() % 2_000 }));
        if Instant::now() >= next {
            soak.check(&mut host, &cluster, &runtime, &board);
            next = Instant::now() + between;
        }
    }
    soak.check(&mut host, &cluster, &runtime, &board);
    crowd.end();
    soak.check_the_end(&mut host, &cluster, &runtime, &board);
}

struct Crowd(Arc<Board>, Vec<JoinHandle<()>>);

impl Crowd {
    fn end(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|worker| worker.join().expect("a worker came to its end"));
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.1.drain(..).for_each(|worker| drop(worker.join()));
    }
}
