//! How many records a second the audit log takes and verifies. Prints a table; the folder is `$CLAVIGER_BENCH_DIR` or the system's own.
//!
//!     cargo bench --bench audit -- --year 10000000      who had one secret in June, in a log of a year with so many records (700 bytes each)

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use claviger::audit::{Audit, Event, Filter, Kind, Need, Options, Outcome, Pinned, Tip, Word, search, verify, write_line};
use claviger::digest::Ed25519Key;
use claviger::model::{LeaseId, RequestId, WallTime};
use claviger::sys::{DiskVolume, SystemClock};
use std::{
    collections::BTreeSet,
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};

fn event(n: u128) -> Event {
    Event::new(Kind::Issue)
        .request(RequestId::from_parts(1_767_225_600_000, n))
        .lease(LeaseId::from_parts(1_767_225_600_000, n))
        .outcome(Outcome::Done)
        .detail("a sentence of the length that a record of an ordinary issue has beside its names, with facts about the caller and policy")
}

fn soon(n: u128) -> Event {
    Event::new(Kind::Reload).request(RequestId::from_parts(1_767_225_600_000, n)).outcome(Outcome::Done)
}

async fn run(audit: &Arc<Audit>, tasks: u128, each: u128, need: Need) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let spawned: Vec<_> = (0..tasks)
        .map(|task| {
            let audit = audit.clone();
            tokio::spawn(async move {
                for n in 0..each {
                    let event = if need == Need::Durable { event(task * each + n) } else { soon(task * each + n) };
                    let _ = audit.append(event, need).await?;
                }
                Ok::<(), claviger::audit::AuditError>(())
            })
        })
        .collect();
    for task in spawned {
        task.await??;
    }
    Ok((tasks * each) as f64 / start.elapsed().as_secs_f64())
}

/// A log of one year: every record an issue of one of a thousand secrets to one of a hundred identities, chained as the daemon does.
fn write_year(folder: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    let boot = Word::parse("0d2a7f0e-6c1b-4c55-9d8a-0b6f3f0d2a7f")?;
    let (mut tip, mut line, mut file, mut bytes) = (Tip::default(), Vec::new(), None, 0);
    let begin = WallTime::parse("2026-01-01T00:00:00Z").ok_or("a date")?.0;
    for n in 0..records {
        let time = WallTime(begin + (31_536_000_000_000u128 * u128::from(n) / u128::from(records)) as u64).rfc3339();
        let (id, secret, who) = (LeaseId::from_parts(1_767_225_600_000 + n, n.into()), n * 7919 % 1000, n * 104_729 % 100);
        let members = format!(
            ",\"request\":\"{}\",\"lease\":\"{id}\",\"identity\":{{\"name\":\"service-{who}\",\"kind\":\"workload\",\"owner\":\"team\",\
             \"environment\":\"prod\",\"generation\":\"0011223344556677\"}},\"secret\":{{\"name\":\"team/secret-{secret}\",\"engine\":\"local\",\
             \"owner\":\"team\",\"sensitivity\":\"confidential\",\"environment\":\"prod\",\"ends_by\":\"none\",\"generation\":\"8899aabbccddeeff\",\
             \"version\":1}},\"outcome\":\"done\",\"claimed\":{{\"purpose\":\"serve\",\"reason\":\"run {n}\"}}",
            RequestId::from_parts(1_767_225_600_000 + n, n.into())
        );
        line.clear();
        tip = write_line(&mut line, tip, &time, "issue", boot.as_str(), members.as_bytes());
        if file.is_none() || bytes > 64 << 20 {
            file = Some(BufWriter::with_capacity(1 << 20, File::create(folder.join(format!("audit-{:020}.jsonl", n + 1)))?));
            bytes = 0;
        }
        bytes += line.len();
        file.as_mut().ok_or("a file")?.write_all(&line)?;
    }
    Ok(())
}

fn year(folder: &Path, records: u64) -> Result<(), Box<dyn Error>> {
    write_year(folder, records)?;
    let time = |text| WallTime::parse(text).ok_or("a date");
    let june = (Some(time("2026-06-01T00:00:00Z")?), Some(time("2026-07-01T00:00:00Z")?));
    let filter = Filter { secret: Some("team/secret-7".into()), since: june.0, until: june.1, ..Filter::default() };
    for round in 1..=3 {
        let (start, mut who) = (Instant::now(), BTreeSet::new());
        let searched = search(folder, &filter, |_, record| {
            who.extend(record.identity.as_ref().map(|identity| identity.name.clone()));
            Ok::<_, std::io::Error>(())
        })?;
        let (took, mib) = (start.elapsed().as_secs_f64(), searched.bytes >> 20);
        println!(
            "{round}: who had one secret in June, {records} records, {mib} MiB: {} found, {} identities, {took:.2} s",
            searched.found,
            who.len()
        );
    }
    let start = Instant::now();
    let report = verify(folder, &Pinned { max_unsigned: u64::MAX, ..Pinned::default() })?;
    println!("verify: {:.0} records/s", report.records as f64 / start.elapsed().as_secs_f64());
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::var_os("CLAVIGER_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|a| a == "--year") {
        return year(folder.path(), arguments.get(at + 1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000));
    }
    let pkcs8 = Ed25519Key::generate()?;
    let key = Ed25519Key::from_pkcs8(pkcs8.expose())?;
    let public: [u8; 32] = key.public().try_into()?;
    let options = Options::new(Word::parse("bench")?, Word::parse("boot")?);
    let limits =
        format!("segments of {} MiB, a head per {} records, queue of {}", options.segment_bytes >> 20, options.head_every, options.queue);
    let audit = Arc::new(Audit::open(options, Box::new(DiskVolume::new(folder.path(), 0)), key, Arc::new(SystemClock), Vec::new())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("audit log in {} ({limits})", folder.path().display());
    println!("{:<28}{:>14}", "what", "records/s");
    for (name, tasks, each, need) in [
        ("durable, 1 task", 1, 2_000, Need::Durable),
        ("durable, 16 tasks", 16, 2_000, Need::Durable),
        ("durable, 64 tasks", 64, 2_000, Need::Durable),
        ("durable, 1000 tasks", 1000, 200, Need::Durable),
        ("soon, 1 task", 1, 50_000, Need::Soon),
        ("soon, 64 tasks", 64, 5_000, Need::Soon),
    ] {
        println!("{name:<28}{:>14.0}", runtime.block_on(run(&audit, tasks, each, need))?);
    }
    audit.stop();
    let start = Instant::now();
    let report = verify(folder.path(), &Pinned { keys: vec![public], ..Pinned::default() })?;
    println!("{:<28}{:>14.0}", "verify", report.records as f64 / start.elapsed().as_secs_f64());
    println!("{} records, {} segments, {} heads, {} problems", report.records, report.segments, report.heads, report.problem_count);
    if report.is_sound() { Ok(()) } else { Err(format!("{:#?}", report.problems).into()) }
}
