//! Random failures and a power cut at a random place: what was acknowledged as durable is there, and the log is sound and goes on.

use super::*;
use crate::digest::{Random, SeededRandom};
use crate::sys::Fault;

#[tokio::test]
async fn whatever_fails_nothing_durable_is_lost() {
    let (mut durable_total, mut failed_total, mut torn_total) = (0, 0, 0);
    for seed in 0..300 {
        let random = SeededRandom::new(seed);
        let dice = |sides: u128| random.u128() % sides;
        let (keys, clock) = (Keys::new(), clock());
        let mut volume = SimulatedVolume::new(1 << 30, 0);
        let mut durable = Vec::new();
        for _ in 0..1 + dice(3) {
            let options = Options { segment_bytes: 3_000 + dice(20_000) as u64, head_every: 1 + dice(30) as u64, ..options() };
            let audit = simulated(&volume, &keys, &clock, options);
            for n in 0..dice(60) {
                match dice(40) {
                    0 => volume.fail(Fault::Sync(libc::EIO)),
                    1 => volume.fail(Fault::Write(libc::ENOSPC)),
                    2 => clock.advance(2_000_000),
                    _ => {}
                }
                let need = if dice(3) == 0 { Need::Durable } else { Need::Soon };
                match audit.append(if dice(2) == 0 { end(n) } else { read(n % 3, Sensitivity::Internal) }, need).await {
                    Ok(recorded) if need == Need::Durable => durable.push(recorded),
                    Ok(_) => {}
                    Err(_) => failed_total += 1,
                }
            }
            volume = volume.crashed(dice(4000) as usize);
        }
        let audit = simulated(&volume, &keys, &clock, options());
        durable.push(audit.append(issue(1), Need::Durable).await.unwrap());
        audit.stop();
        let folder = tempfile::tempdir().unwrap();
        volume.export(folder.path()).unwrap();
        let report = verify(folder.path(), &keys.pinned(vec![])).unwrap();
        assert!(report.is_sound(), "seed {seed}: {:#?}", report.problems);
        let records = records(folder.path());
        for recorded in &durable {
            let found = records.iter().find(|record| record.seq == recorded.seq());
            let kept = found.is_some_and(|record| record.rest["hash"] == hex::encode(recorded.hash()));
            assert!(kept, "seed {seed}: record {} is not there", recorded.seq());
        }
        durable_total += durable.len();
        torn_total += records.iter().filter(|record| record.kind == Kind::Gap && record.rest["more"]["cause"] == "torn").count();
    }
    assert!(durable_total > 1_000 && failed_total > 50 && torn_total > 20, "{durable_total} {failed_total} {torn_total}");
}
