//! From start to stop: order, restart, rotation, retention, keys, anchors, followers.

use super::*;
use crate::sys::append::Reserve;
use std::os::unix::net::UnixDatagram;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_64_tasks_were_told_is_in_the_file() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = Arc::new(on_disk(folder.path(), &keys, &clock, options()));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let audit = audit.clone();
            tokio::spawn(async move {
                let mut told = Vec::new();
                for n in 0..20 {
                    told.push((audit.append(issue(task * 100 + n), Need::Durable).await.unwrap(), request(task * 100 + n)));
                }
                told
            })
        })
        .collect();
    let mut told = Vec::new();
    for task in tasks {
        told.extend(task.await.unwrap());
    }
    audit.stop();
    let records = records(folder.path());
    for (recorded, request) in told {
        let record = records.iter().find(|record| record.seq == recorded.seq()).unwrap();
        assert_eq!(record.request, Some(request));
        assert_eq!(record.rest["hash"], hex::encode(recorded.hash()));
    }
    let _ = sound(folder.path(), &keys.pinned(vec![]));
    assert_eq!(audit.append(issue(1), Need::Soon).await, Err(AuditError::Log(crate::sys::append::AppendError::Closed)));
}

#[tokio::test]
async fn a_restart_goes_on_with_the_same_chain() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let mut last = 0;
    for n in 0..5 {
        let audit = on_disk(folder.path(), &keys, &clock, options());
        let recorded = audit.append(issue(n), Need::Soon).await.unwrap();
        assert!(recorded.seq() > last);
        last = recorded.seq();
        audit.stop();
    }
    let report = sound(folder.path(), &keys.pinned(vec![]));
    assert_eq!((report.segments, report.first), (1, Some(1)));
    assert_eq!(report.signed_to, Some(last), "a stop leaves a head");
}

#[tokio::test]
async fn old_segments_go_and_what_remains_verifies() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let keep = Retention { days: 1000, bytes: 60_000 };
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 20_000, keep, ..options() });
    for n in 0..300 {
        let _ = audit.append(issue(n), Need::Soon).await.unwrap();
    }
    audit.stop();
    let report = sound(folder.path(), &keys.pinned(vec![]));
    assert!(report.first.unwrap() > 1 && report.segments < 7, "{report:?}");
    assert!(count(&records(folder.path()), Kind::Prune) > 0);
    std::fs::remove_file(folder.path().join("pruned")).unwrap();
    let report = verify(folder.path(), &keys.pinned(vec![])).unwrap();
    assert_eq!(report.problems[0].flaw, Flaw::Beginning);
    // By age: everything but the last segment is older than a day by now.
    let clock = Arc::new(ManualClock::new(1, START + 2_000 * 86_400_000_000));
    let audit = on_disk(folder.path(), &keys, &clock, Options { keep: Retention { days: 1000, bytes: u64::MAX }, ..options() });
    let _ = audit.append(issue(1), Need::Soon).await.unwrap();
    audit.stop();
    assert_eq!(sound(folder.path(), &keys.pinned(vec![])).segments, 1);
}

#[tokio::test]
async fn a_new_key_is_introduced_by_the_old_one() {
    let (old, new, folder, clock) = (Keys::new(), Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &old, &clock, options());
    let _ = audit.append(issue(1), Need::Soon).await.unwrap();
    let _ = audit.rotate_key(new.key()).await.unwrap();
    let _ = audit.append(issue(2), Need::Soon).await.unwrap();
    audit.stop();
    let audit = on_disk(folder.path(), &new, &clock, options());
    let _ = audit.append(issue(3), Need::Soon).await.unwrap();
    audit.stop();
    let report = sound(folder.path(), &old.pinned(vec![]));
    assert!(report.heads >= 3);
    let audit = on_disk(folder.path(), &old, &clock, options());
    let _ = audit.append(issue(4), Need::Soon).await.unwrap();
    audit.stop();
    let report = verify(folder.path(), &old.pinned(vec![])).unwrap();
    assert!(report.problems.iter().all(|problem| problem.flaw == Flaw::Key) && !report.is_sound(), "the old key signs no more");
}

#[tokio::test]
async fn heads_leave_the_host_by_themselves() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let path = folder.path().join("journal");
    let receiver = UnixDatagram::bind(&path).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let anchors: Vec<Box<dyn Anchor>> =
        vec![Box::new(JournalAnchor { socket: path }), Box::new(SyslogAnchor { socket: folder.path().join("nobody") })];
    let log = folder.path().join("log");
    std::fs::create_dir(&log).unwrap();
    let audit = Audit::open(options(), Box::new(DiskVolume::new(&log, 0)), keys.key(), clock.clone(), anchors).unwrap();
    let recorded = audit.append(issue(1), Need::Soon).await.unwrap();
    let mut buffer = [0; 2048];
    let n = receiver.recv(&mut buffer).unwrap();
    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
    assert!(text.contains("\nCLAVIGER_HEAD=claviger-head-v1 host-1 "), "{text}");
    let note = Note::find(&text).unwrap();
    assert!(note.holds() && note.tip.seq >= recorded.seq());
    audit.stop();
    let status = audit.status();
    assert!(!status.anchor_stale && status.anchored.error.is_some_and(|error| error.starts_with("syslog")));
    assert!(status.anchored.seq >= note.tip.seq);
    std::fs::write(folder.path().join("journal.txt"), format!("noise\nJan 1 host claviger[1]: {note}\n")).unwrap();
    let anchors = read_anchors(&folder.path().join("journal.txt")).unwrap();
    assert!(sound(&log, &keys.pinned(anchors)).anchors >= 1);
}

#[tokio::test]
async fn anchors_that_fail_are_said_after_a_minute() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let anchors: Vec<Box<dyn Anchor>> = vec![Box::new(SyslogAnchor { socket: folder.path().join("nobody") })];
    let options = Options { anchor_every: Duration::from_millis(1), ..options() };
    let audit = Audit::open(options, Box::new(DiskVolume::new(folder.path(), 0)), keys.key(), clock.clone(), anchors).unwrap();
    let _ = audit.append(issue(1), Need::Durable).await.unwrap();
    audit.settle().await.unwrap();
    audit.settle().await.unwrap();
    assert!(!audit.status().anchor_stale);
    clock.advance(61_000_000);
    assert!(audit.status().anchor_stale);
    audit.settle().await.unwrap();
    audit.stop();
    assert_eq!(count(&records(folder.path()), Kind::Anchor), 1);
}

#[tokio::test]
async fn a_follower_resumes_crosses_segments_and_waits() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 5_000, ..options() });
    let mut follower = Follower::new(folder.path(), 0, Some(audit.watch()));
    let mut seen = Vec::new();
    for n in 0..100 {
        let recorded = audit.append(issue(n), Need::Soon).await.unwrap();
        while follower.position() <= recorded.seq() {
            seen.extend(follower.next(7).await.unwrap().unwrap());
        }
        if n % 10 == 0 {
            follower = Follower::new(folder.path(), follower.position(), Some(audit.watch()));
        }
    }
    audit.stop();
    drop(audit);
    while let Some(lines) = follower.next(100).await.unwrap() {
        seen.extend(lines);
    }
    let numbers: Vec<u64> = seen.iter().map(|line| serde_json::from_str::<Record>(line).unwrap().seq).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(follower.missed(), 0);
    let found = find_request(folder.path(), request(50), 10).unwrap();
    assert_eq!(found.iter().map(|record| record.lease).collect::<Vec<_>>(), [Some(lease(50))]);
    let filter = Filter { identity: Some("orders".into()), lease: Some(lease(7)), outcome: Some(Outcome::Done), ..Filter::default() };
    assert_eq!(query(folder.path(), 1, &filter, 10).unwrap().len(), 1);
    let filter = Filter { identity: Some("nobody".into()), ..Filter::default() };
    assert!(query(folder.path(), 1, &filter, 10).unwrap().is_empty());
}

#[test]
fn a_real_full_file_system_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(folder.path()).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a small tmpfs cannot be mounted here (needs root)");
        return;
    }
    let (keys, clock) = (Keys::new(), clock());
    let reserve = Reserve { bytes: 256 << 10, percent: 90, floor: 300 << 10 };
    let options = Options { reserve, ..options() };
    let audit = Audit::open(options, Box::new(DiskVolume::new(folder.path(), 128 << 10)), keys.key(), clock, Vec::new()).unwrap();
    let _ = audit.append_blocking(issue(1), Need::Durable).unwrap();
    std::fs::write(folder.path().join("hog"), vec![1; 700 << 10]).unwrap();
    assert_eq!(audit.append_blocking(issue(2), Need::Durable), Err(AuditError::NoSpace));
    for n in 0..100 {
        let _ = audit.append_blocking(end(n), Need::Durable).unwrap();
    }
    std::fs::remove_file(folder.path().join("hog")).unwrap();
    let _ = audit.append_blocking(issue(3), Need::Durable).unwrap();
    audit.stop();
    let report = verify(folder.path(), &keys.pinned(vec![])).unwrap();
    let unmounted = std::process::Command::new("umount").arg(folder.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert!(report.is_sound(), "{:#?}", report.problems);
}

#[tokio::test]
async fn what_was_issued_of_late_and_has_not_ended_is_told_at_the_next_start() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let lease = |n: u128| LeaseId::from_parts(n as u64, n);
    // A short segment after a long one: both were written of late.
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 4_000, ..options() });
    for n in 0..12 {
        let _ = audit.append(issue(n).lease(lease(n)), Need::Soon).await.unwrap();
    }
    for n in [3, 7, 11] {
        let _ = audit.append(Event::new(Kind::End).lease(lease(n)), Need::Soon).await.unwrap();
    }
    audit.stop();
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let told: Vec<LeaseId> = audit.take_books().unended().collect();
    assert!(told.contains(&lease(10)) && ![3, 7, 11].iter().any(|n| told.contains(&lease(*n))), "{told:?}");
    assert_eq!(audit.take_books().unended().count(), 0, "once");
    audit.stop();
}

#[tokio::test]
async fn a_lease_of_the_last_minute_that_the_record_lacks_was_cut_short() {
    const SECOND: u64 = 1_000_000;
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let lease = |n: u128| LeaseId::from_parts(n as u64, n);
    let open = || on_disk(folder.path(), &keys, &clock, options());
    let audit = open();
    assert!(!audit.take_books().lacks(lease(9), WallTime(START)), "a log that was just begun says nothing");
    for n in [1, 2] {
        let _ = audit.append(issue(n).lease(lease(n)), Need::Soon).await.unwrap();
        clock.advance(600 * SECOND);
    }
    let _ = audit.append(Event::new(Kind::End).lease(lease(2)), Need::Soon).await.unwrap();
    audit.stop();
    let (audit, at) = (open(), |seconds: u64| WallTime(START + seconds * SECOND));
    let books = audit.take_books();
    assert!(books.lacks(lease(9), at(1_200)) && books.lacks(lease(9), at(1_150)));
    // After it the daemon may have been still for long.
    assert!(books.lacks(lease(9), at(90_000)));
    // What is on the record, what lies further back than one crash reaches, and what may be on an earlier part of the record.
    assert!(!books.lacks(lease(1), at(1_200)) && !books.lacks(lease(2), at(1_200)));
    assert!(!books.lacks(lease(9), at(1_100)) && !books.lacks(lease(9), WallTime(START - 1)));
    audit.stop();
}

#[tokio::test]
async fn only_what_no_crash_could_have_left_without_its_row_must_be_in_the_journal() {
    const SECOND: u64 = 1_000_000;
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let lease = |n: u128| LeaseId::from_parts(n as u64, n);
    let certain = |audit: &Audit, begin| audit.take_books().certain(begin).map(|(id, _)| id).collect::<Vec<_>>();
    let open = || on_disk(folder.path(), &keys, &clock, options());
    let audit = open();
    let put = async |audit: &Audit, event: Event| {
        let _ = audit.append(event, Need::Soon).await.unwrap();
    };
    put(&audit, issue(0).lease(lease(0))).await;
    clock.advance(61 * SECOND);
    put(&audit, issue(1).lease(lease(1))).await;
    audit.stop();
    // Killed: the first was long on the disk, the second may have been on its way. A new state asks about neither.
    let audit = open();
    let books = audit.take_books();
    assert_eq!(books.certain(0).map(|(id, _)| id).collect::<Vec<_>>(), [lease(0)]);
    assert_eq!(books.certain(audit.opened_at().seq).count(), 0);
    // However long nobody starts it again: nothing that happens in between makes the second certain.
    clock.advance(3_600 * SECOND);
    put(&audit, Event::new(Kind::Start)).await;
    clock.advance(120 * SECOND);
    put(&audit, issue(2).lease(lease(2))).await;
    clock.advance(2 * SECOND);
    put(&audit, Event::new(Kind::Stop)).await;
    audit.stop();
    // An orderly stop leaves nothing on its way.
    let audit = open();
    assert_eq!(certain(&audit, 0), [lease(0), lease(2)]);
    // What never came to be is in no journal.
    let ended = |reason| {
        let at = WallTime(START);
        Ended { reason, result: EndResult::Lapsed, asked: at, ended: at, dead: None, attempts: 1, proof: None }
    };
    put(&audit, Event::new(Kind::End).lease(lease(0)).ended(ended(EndReason::Unfinished))).await;
    put(&audit, Event::new(Kind::End).lease(lease(2)).ended(ended(EndReason::Asked))).await;
    audit.stop();
    let audit = open();
    let books = audit.take_books();
    assert_eq!(books.certain(0).map(|(id, _)| id).collect::<Vec<_>>(), [lease(2)]);
    assert_eq!((books.end_of(lease(0)), books.end_of(lease(2))), (None, Some(EndReason::Asked)));
    assert_eq!(books.unended().collect::<Vec<_>>(), [lease(1)]);
}

#[tokio::test]
async fn a_log_of_another_format_is_refused_and_left_alone() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let _ = audit.append(issue(1), Need::Durable).await.unwrap();
    audit.stop();
    let path = folder.path().join("audit-00000000000000000001.jsonl");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"v\":2,\"seq\":9,\"something\":\"else\"}\n");
    std::fs::write(&path, &text).unwrap();
    let volume = Box::new(crate::sys::DiskVolume::new(folder.path(), 0));
    let error = Audit::open(options(), volume, keys.key(), clock, vec![]).err().unwrap();
    assert!(error.to_string().contains("format 2"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_makes_nothing_old_and_keeps_the_order() {
    let (folder, keys, clock) = (tempfile::tempdir().unwrap(), Keys::new(), clock());
    const YEARS: u64 = 10 * 365 * 86_400 * 1_000_000;
    let keep = Retention { days: 90, bytes: u64::MAX };
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 4_000, keep, ..options() });
    let mut seqs = Vec::new();
    for (n, wall) in [START, START + YEARS, START - YEARS, START].into_iter().enumerate() {
        clock.step_wall(wall);
        for lease in 0..40 {
            seqs.push(audit.append(issue(n as u128 * 40 + lease), Need::Durable).await.unwrap().seq());
            clock.advance(3_600_000_000);
        }
    }
    // What really is old goes, whatever was set before.
    assert!(seqs.is_sorted());
    audit.settle().await.unwrap();
    assert_eq!(count(&records(folder.path()), Kind::Issue), 160, "a week has passed");
    clock.advance(100 * 86_400_000_000);
    for lease in 200..240 {
        let _ = audit.append(issue(lease), Need::Durable).await.unwrap();
    }
    audit.stop();
    let left = records(folder.path());
    assert!(count(&left, Kind::Issue) < 200 && count(&left, Kind::Prune) > 0);
    let _ = sound(folder.path(), &keys.pinned(vec![]));
}
