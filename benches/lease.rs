//! How many leases a second the books take, all of them on the disk, and how long a start with 10,000 of them lasts. Prints a table; the
//! folder is `$CLAVIGER_BENCH_DIR` or the system's own.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use claviger::{
    engine::UpstreamRef,
    intent::Source,
    lease::{Holder, Lease, Leases, State},
    model::{
        Assurance, BootTime, Channel, EndReason, EndResult, EndsBy, HolderKind, IdentityKind, LeaseId, Operation, RequestId, Sensitivity,
        Ttl, WallTime,
    },
    sys::{DiskVolume, append::Reserve},
};
use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

type Failed = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), Failed> {
    let folder = match std::env::var_os("CLAVIGER_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("lease journal in {}", folder.path().display());
    println!("{:<58} {:>10} {:>9} {:>9}", "what", "leases/s", "p50 us", "p99 us");
    let leases = Arc::new(open(folder.path())?.0);
    for (tasks, each) in [(1, 2_000), (64, 200)] {
        for (what, upstream) in [("reserved and committed, each synced", true), ("one row, nothing upstream", false)] {
            let made = runtime.block_on(run(tasks, each, &leases, move |leases| async move { make(&leases, upstream).await }))?;
            let at_once = if tasks == 1 { "1 task".to_owned() } else { format!("{tasks} tasks") };
            made.print(&format!("{what}, {at_once}"));
            let ended = runtime.block_on(run(tasks, each, &leases, |leases| async move { end_one(&leases).await }))?;
            ended.print(&format!("ended, {at_once}"));
        }
    }
    if leases.count() != 0 {
        return Err(format!("{} leases were not ended", leases.count()).into());
    }
    runtime.block_on(run(64, 10_000 / 64 + 1, &leases, |leases| async move { make(&leases, false).await }))?;
    let live = leases.count();
    leases.stop();
    drop(leases);
    let bytes: u64 = std::fs::read_dir(folder.path())?.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum();
    for start in ["first", "second"] {
        let begun = Instant::now();
        let (leases, recovered) = open(folder.path())?;
        println!(
            "{:<58} {:>7.1} ms",
            format!("{start} start with {} live leases, {} KiB before", recovered, bytes >> 10),
            begun.elapsed().as_secs_f64() * 1_000.0
        );
        if recovered != live {
            return Err(format!("{live} leases were live and {recovered} came back").into());
        }
        leases.stop();
    }
    Ok(())
}

fn open(folder: &Path) -> Result<(Leases, usize), Failed> {
    let (leases, recovered) = Leases::open(Box::new(DiskVolume::new(folder, 1 << 20)), "bench", Reserve::default(), 8192)?;
    Ok((leases, recovered.live.len()))
}

static NUMBER: AtomicU64 = AtomicU64::new(1);
static NEXT_END: AtomicU64 = AtomicU64::new(1);

async fn make(leases: &Leases, upstream: bool) -> Result<(), Failed> {
    let n = NUMBER.fetch_add(1, Ordering::Relaxed);
    let slot = leases.reserve(lease(n)?, upstream).await?;
    leases.commit(slot, UpstreamRef::default()).await?;
    Ok(())
}

async fn end_one(leases: &Leases) -> Result<(), Failed> {
    let n = NEXT_END.fetch_add(1, Ordering::Relaxed);
    let ending = leases.begin_end(id(n), EndReason::Asked, WallTime(n)).ok_or("there is no such lease")?;
    leases.end(ending, EndResult::Revoked, WallTime(n)).await.1?;
    Ok(())
}

/// What a run took, in all and for each lease.
struct Took {
    all: Duration,
    each: Vec<Duration>,
}

impl Took {
    fn print(mut self, what: &str) {
        self.each.sort_unstable();
        let at = |share: f64| self.each[((self.each.len() - 1) as f64 * share) as usize].as_micros();
        println!("{what:<58} {:>10.0} {:>9} {:>9}", self.each.len() as f64 / self.all.as_secs_f64(), at(0.5), at(0.99));
    }
}

async fn run<F, R>(tasks: usize, each: usize, leases: &Arc<Leases>, act: F) -> Result<Took, Failed>
where
    F: Fn(Arc<Leases>) -> R + Copy + Send + 'static,
    R: Future<Output = Result<(), Failed>> + Send,
{
    let begun = Instant::now();
    let spawned: Vec<_> = (0..tasks)
        .map(|_| {
            let leases = leases.clone();
            tokio::spawn(async move {
                let mut times = Vec::with_capacity(each);
                for _ in 0..each {
                    let start = Instant::now();
                    act(leases.clone()).await?;
                    times.push(start.elapsed());
                }
                Ok::<_, Failed>(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in spawned {
        times.append(&mut task.await??);
    }
    Ok(Took { all: begun.elapsed(), each: times })
}

fn id(n: u64) -> LeaseId {
    LeaseId::from_parts(1_767_225_600_000 + n, u128::from(n))
}

/// As long as one of a service with a database role.
fn lease(n: u64) -> Result<Lease, Failed> {
    let holder = Holder {
        kind: HolderKind::Process,
        pid: 100_000 + n as u32,
        start: n,
        inode: Some(1_000_000 + n),
        handle: None,
        boot: "0c2b6a51-7a1e-4c3f-9a63-5a0f5d0b1c11".into(),
        cgroup: None,
        exe: Some(("/usr/bin/orders-api".to_owned(), 65_024, 1_000 + n)),
        uid: 990,
    };
    Ok(Lease {
        id: id(n),
        request: RequestId::from_parts(1_767_225_600_000, u128::from(n)),
        identity: "orders-api".parse()?,
        identity_kind: IdentityKind::Workload,
        assurance: Assurance::Isolated,
        secret: "prod-db/orders-ro".parse()?,
        recipe: "b".repeat(32).into(),
        engine: "postgres".parse()?,
        sensitivity: Sensitivity::Confidential,
        ends_by: EndsBy::Upstream,
        owner: "team-orders".parse()?,
        purpose: "serve-orders".parse()?,
        operation: Operation::Read,
        hosts: Vec::new(),
        channel: Channel::Deliver,
        source: Source::Caller,
        holder: Arc::new(holder),
        ttl: Ttl::from_secs(3_600).ok_or("an hour")?,
        issued: WallTime(1_767_225_600_000_000),
        expires: WallTime(1_767_229_200_000_000),
        deadline: BootTime(3_600_000_000 + n),
        uses: 1,
        reads_max: 100,
        renewable: true,
        grant: "grant.orders-api.prod-db".into(),
        bundle: "a".repeat(64).into(),
        idempotency: None,
        shares: None,
        reference: UpstreamRef::default(),
        state: State::Reserved,
    })
}
