//! Disks that fail, fill up, lose what was not synced, and files that somebody removes.

use super::*;
use crate::sys::Fault;
use crate::sys::append::{AppendError, Reserve, Step};

fn exported(volume: &SimulatedVolume) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    volume.export(folder.path()).unwrap();
    folder
}

#[tokio::test]
async fn a_full_disk_stops_issuing_lets_endings_go_on_and_returns_by_itself() {
    let (keys, volume, clock) = (Keys::new(), SimulatedVolume::new(1_000_000, 50_000), clock());
    let reserve = Reserve { bytes: 100_000, percent: 50, floor: 60_000 };
    let audit = simulated(&volume, &keys, &clock, Options { reserve, ..options() });
    let _ = audit.append(issue(1), Need::Soon).await.unwrap();
    volume.resize(100_000);
    assert_eq!(audit.append(issue(2), Need::Soon).await, Err(AuditError::NoSpace));
    assert!(audit.status().low);
    for n in 0..40 {
        let _ = audit.append(end(n), Need::Durable).await.unwrap();
    }
    assert!(!crate::sys::Volume::has_ballast(&volume), "endings were given the ballast");
    volume.resize(1_000_000);
    let _ = audit.append(issue(3), Need::Soon).await.unwrap();
    assert!(!audit.status().low);
    audit.stop();
    let folder = exported(&volume);
    let _ = sound(folder.path(), &keys.pinned(vec![]));
    let records = records(folder.path());
    assert_eq!((count(&records, Kind::Issue), count(&records, Kind::End)), (2, 40));
}

#[tokio::test]
async fn a_failed_sync_refuses_those_who_waited_and_the_log_goes_on_in_another_file() {
    let (keys, volume, clock) = (Keys::new(), SimulatedVolume::new(1 << 30, 0), clock());
    let audit = simulated(&volume, &keys, &clock, options());
    let _ = audit.append(issue(1), Need::Durable).await.unwrap();
    let soon = audit.append(end(1), Need::Soon).await.unwrap();
    volume.fail(Fault::Sync(libc::EIO));
    let error = audit.append(issue(2), Need::Durable).await;
    assert_eq!(error, Err(AuditError::Log(AppendError::Io { step: Step::Sync, errno: libc::EIO })));
    let after = audit.append(issue(3), Need::Durable).await.unwrap();
    assert_eq!(audit.status().failures, 1);
    volume.fail(Fault::Write(libc::EIO));
    assert!(audit.append(issue(4), Need::Durable).await.is_err());
    let last = audit.append(issue(5), Need::Durable).await.unwrap();
    // The power fails: nothing that was acknowledged as durable, or that was carried over, is gone.
    let folder = exported(&volume.crashed(0));
    let records = records(folder.path());
    assert!([soon.seq(), after.seq(), last.seq()].iter().all(|seq| records.iter().any(|record| record.seq == *seq)));
    assert!(records.iter().all(|record| record.request != Some(request(4))));
    assert_eq!(count(&records, Kind::Gap), 2);
    let _ = sound(folder.path(), &keys.pinned(vec![]));
    audit.stop();
}

#[tokio::test]
async fn a_failed_file_that_cannot_be_cut_is_explained_by_the_next() {
    let (keys, volume, clock) = (Keys::new(), SimulatedVolume::new(1 << 30, 0), clock());
    let audit = simulated(&volume, &keys, &clock, options());
    let _ = audit.append(issue(1), Need::Durable).await.unwrap();
    audit.settle().await.unwrap();
    let mut last = 0;
    for n in 0..3 {
        last = audit.append(end(n), Need::Soon).await.unwrap().seq();
    }
    (0..2).for_each(|_| volume.fail(Fault::Truncate(libc::EIO)));
    volume.fail(Fault::Write(libc::EIO));
    assert!(audit.append(end(9), Need::Soon).await.is_err());
    let _ = audit.append(issue(2), Need::Durable).await.unwrap();
    audit.stop();
    let folder = exported(&volume);
    let report = sound(folder.path(), &keys.pinned(vec![]));
    assert!(report.abandoned >= 1, "{report:?}");
    let numbers: Vec<_> = records(folder.path()).iter().map(|record| record.seq).collect();
    assert!(numbers.contains(&last));
    // Without the record that explains it, the same files are not sound.
    let first = folder.path().join(segment::name(1));
    let mut bytes = std::fs::read(&first).unwrap();
    let copy = bytes.clone();
    bytes.extend_from_slice(copy.split_inclusive(|b| *b == b'\n').next().unwrap());
    std::fs::write(&first, bytes).unwrap();
    assert!(verify(folder.path(), &keys.pinned(vec![])).unwrap().is_sound(), "what is behind the place does not count");
    let files = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let second = files.filter(|path| path.to_str().unwrap().ends_with(".jsonl") && *path != first).min().unwrap();
    let text = std::fs::read_to_string(&second).unwrap().replace("\"cause\":\"failed\"", "\"cause\":\"torn__\"");
    std::fs::write(&second, text).unwrap();
    let report = verify(folder.path(), &keys.pinned(vec![])).unwrap();
    assert!(report.problems.iter().any(|problem| problem.flaw == Flaw::Overlap), "{:#?}", report.problems);
}

#[tokio::test]
async fn repeated_failures_end_in_one_sound_log() {
    let (keys, volume, clock) = (Keys::new(), SimulatedVolume::new(1 << 30, 0), clock());
    let audit = simulated(&volume, &keys, &clock, options());
    let mut acknowledged = Vec::new();
    for n in 0..200 {
        match n % 7 {
            3 => volume.fail(Fault::Sync(libc::EIO)),
            5 => volume.fail(Fault::Write(libc::ENOSPC)),
            6 => [Fault::Sync(libc::EIO), Fault::Write(libc::EIO), Fault::Sync(libc::EIO)].into_iter().for_each(|fault| volume.fail(fault)),
            _ => {}
        }
        let need = if n % 2 == 0 { Need::Durable } else { Need::Soon };
        acknowledged.extend(audit.append(end(n), need).await.ok());
    }
    audit.stop();
    let folder = exported(&volume);
    let records = records(folder.path());
    assert!(acknowledged.len() > 50);
    assert!(acknowledged.iter().all(|recorded| records.iter().any(|record| record.seq == recorded.seq())));
    let _ = sound(folder.path(), &keys.pinned(vec![]));
}

#[tokio::test]
async fn a_torn_end_is_cut_said_and_the_chain_goes_on() {
    let (keys, clock) = (Keys::new(), clock());
    for kept in [0, 1, 100, 500, 900] {
        let volume = SimulatedVolume::new(1 << 30, 0);
        let audit = simulated(&volume, &keys, &clock, options());
        let durable = audit.append(issue(1), Need::Durable).await.unwrap();
        for n in 0..3 {
            let _ = audit.append(end(n), Need::Soon).await.unwrap();
        }
        let again = volume.crashed(kept);
        let audit = simulated(&again, &keys, &clock, options());
        assert!(audit.append(issue(2), Need::Durable).await.unwrap().seq() > durable.seq());
        audit.stop();
        let folder = exported(&again);
        let _ = sound(folder.path(), &keys.pinned(vec![]));
        assert!(records(folder.path()).iter().any(|record| record.seq == durable.seq()));
    }
}

#[tokio::test]
async fn a_log_that_was_cut_behind_its_head_does_not_open_unless_repaired() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    for n in 0..10 {
        let _ = audit.append(issue(n), Need::Soon).await.unwrap();
    }
    audit.stop();
    let path = folder.path().join(segment::name(1));
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: String = text.split_inclusive('\n').take(5).collect();
    // Also where nothing of the last segment is sound any more.
    let damaged = text.replacen('{', "(", 1);
    let open = |options| Audit::open(options, Box::new(DiskVolume::new(folder.path(), 0)), keys.key(), clock.clone(), Vec::new());
    for (found, content) in [(0, damaged), (5, kept + "half a li")] {
        std::fs::write(&path, &content).unwrap();
        assert!(matches!(open(options()), Err(OpenError::Damaged { found: at, .. }) if at == found));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content, "it is evidence, and left as it is");
    }
    let audit = open(Options { repair: true, ..options() }).unwrap();
    let _ = audit.append(issue(11), Need::Soon).await.unwrap();
    audit.stop();
    let report = verify(folder.path(), &keys.pinned(vec![])).unwrap();
    assert!(report.problems.iter().any(|problem| matches!(problem.flaw, Flaw::Missing { from: 6, .. })), "it stays visible");
    assert_eq!(count(&records(folder.path()), Kind::Gap), 1);
}

#[tokio::test]
async fn a_removed_or_replaced_file_is_noticed() {
    for replace in [false, true] {
        let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
        let audit = on_disk(folder.path(), &keys, &clock, options());
        let _ = audit.append(issue(1), Need::Durable).await.unwrap();
        let path = folder.path().join(segment::name(1));
        std::fs::remove_file(&path).unwrap();
        if replace {
            std::fs::write(&path, b"").unwrap();
        }
        let recorded = audit.append(issue(2), Need::Durable).await.unwrap();
        audit.stop();
        let records = records(folder.path());
        let gap = records.iter().find(|record| record.kind == Kind::Gap).unwrap();
        assert_eq!(gap.rest["more"]["cause"], "displaced");
        assert!(records.iter().any(|record| record.seq == recorded.seq()));
        assert!(!verify(folder.path(), &keys.pinned(vec![])).unwrap().is_sound());
    }
}
