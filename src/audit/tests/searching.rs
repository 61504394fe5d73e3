//! Searching a log offline: what fits is found whatever file it is in and whatever the clock said, and counted reads are found as reads.

use super::*;
use crate::audit::{Filter, Record, search};

async fn log() -> (tempfile::TempDir, Vec<LeaseId>) {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 20_000, head_every: 16, ..options() });
    for n in 0..200 {
        let _ = audit.append(issue(n), Need::Soon).await.unwrap();
        clock.advance(60_000_000);
    }
    audit.stop();
    let mut leases = Vec::new();
    found(folder.path(), &Filter { kind: Some(Kind::Issue), ..Filter::default() }, |record| leases.extend(record.lease));
    (folder, leases)
}

fn found(folder: &std::path::Path, filter: &Filter, mut each: impl FnMut(&Record)) -> u64 {
    let searched = search(folder, filter, |line, record| {
        assert_eq!(serde_json::from_str::<Record>(line).unwrap(), *record);
        each(record);
        Ok::<_, std::io::Error>(())
    });
    searched.unwrap().found
}

#[tokio::test]
async fn what_fits_is_found_in_every_file_once_and_in_order() {
    let (folder, leases) = log().await;
    assert_eq!(leases.len(), 200);
    assert!(leases.windows(2).all(|pair| pair[0] < pair[1]), "oldest first");
    for lease in [leases[0], leases[77], leases[199]] {
        let mut seen = Vec::new();
        let count = found(folder.path(), &Filter { lease: Some(lease), ..Filter::default() }, |record| seen.push(record.clone()));
        assert_eq!((count, seen[0].lease), (1, Some(lease)));
        let at = WallTime::parse(&seen[0].time).unwrap();
        let within = |since, until| found(folder.path(), &Filter { lease: Some(lease), since, until, ..Filter::default() }, |_| ());
        assert_eq!(within(Some(at), Some(WallTime(at.0 + 1))), 1);
        assert_eq!(within(Some(WallTime(at.0 + 1)), None), 0);
        assert_eq!(within(None, Some(at)), 0);
        // Of a day, a month and a year, each of which is looked for as a text first.
        for span in [86_400_000_000, 30 * 86_400_000_000, 300 * 86_400_000_000] {
            assert_eq!(within(Some(WallTime(at.0 - span)), Some(WallTime(at.0 + span))), 1);
        }
    }
    assert_eq!(found(folder.path(), &Filter { identity: Some("nobody".into()), ..Filter::default() }, |_| ()), 0);
}

#[tokio::test]
async fn a_torn_end_and_lines_that_are_none_are_passed_over() {
    let (folder, leases) = log().await;
    let last = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let last = last.filter(|path| path.extension().is_some_and(|e| e == "jsonl")).max().unwrap();
    let mut bytes = std::fs::read(&last).unwrap();
    bytes.extend_from_slice(format!("not a record \"lease\":\"{}\"\n{{\"lease\":\"{}\"", leases[0], leases[0]).as_bytes());
    std::fs::write(&last, bytes).unwrap();
    assert_eq!(found(folder.path(), &Filter { lease: Some(leases[0]), ..Filter::default() }, |_| ()), 1);
}

#[test]
fn a_record_that_counts_reads_is_a_read() {
    let text = |kind: &str, of: &str| {
        format!(r#"{{"v":1,"seq":1,"time":"2026-01-01T00:00:00.000000Z","kind":"{kind}","boot":"b","folded":{{"of":"{of}","count":3}}}}"#)
    };
    let filter = Filter { kind: Some(Kind::Read), ..Filter::default() };
    let admits = |kind, of| filter.admits(&serde_json::from_str(&text(kind, of)).unwrap());
    assert!(admits("fold", "read") && admits("read", "") && !admits("fold", "refuse") && !admits("issue", "read"));
}
