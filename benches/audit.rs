//! How many records a second the audit log takes and verifies. Prints a table; the folder is `$CLAVIGER_BENCH_DIR` or the system's own.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]

use claviger::audit::{Audit, Event, Kind, Need, Options, Outcome, Pinned, Word, verify};
use claviger::digest::Ed25519Key;
use claviger::model::{LeaseId, RequestId};
use claviger::sys::{DiskVolume, SystemClock};
use std::{error::Error, sync::Arc, time::Instant};

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

fn main() -> Result<(), Box<dyn Error>> {
    let folder = match std::env::var_os("CLAVIGER_BENCH_DIR") {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
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
