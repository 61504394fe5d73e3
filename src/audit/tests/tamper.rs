//! Every way of changing a log that has been written: all of them are found, and what cannot be found is said.

use super::*;
use crate::audit::chain::{self, Tip};
use std::collections::BTreeMap;

struct Fixture {
    keys: Keys,
    folder: tempfile::TempDir,
    files: BTreeMap<String, Vec<u8>>,
}

/// Some 300 records in several segments, stopped in order.
async fn fixture() -> Fixture {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, Options { segment_bytes: 40_000, head_every: 16, ..options() });
    for n in 0..250 {
        let _ = audit.append(issue(n), Need::Soon).await.unwrap();
        clock.advance(10_000);
    }
    audit.stop();
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with("audit-") {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    assert!(files.len() > 3);
    Fixture { keys, folder, files }
}

impl Fixture {
    /// A note that was kept elsewhere: the last head.
    fn anchor(&self) -> Note {
        Note::find(&std::fs::read_to_string(self.folder.path().join("head")).unwrap()).unwrap()
    }

    /// Verifies other content under the same names, without the log's own head file.
    fn verify(&self, files: &BTreeMap<String, Vec<u8>>, anchors: Vec<Note>) -> Report {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for (name, bytes) in files {
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        verify(folder.path(), &self.keys.pinned(anchors)).unwrap()
    }

    fn middle(&self) -> String {
        self.files.keys().nth(1).unwrap().clone()
    }

    fn lines(&self, name: &str) -> Vec<Vec<u8>> {
        self.files[name].split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn with(&self, name: &str, bytes: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
        let mut files = self.files.clone();
        files.insert(name.to_owned(), bytes);
        files
    }
}

#[tokio::test]
async fn an_untouched_log_is_sound() {
    let f = fixture().await;
    let report = f.verify(&f.files, vec![f.anchor()]);
    assert!(report.is_sound(), "{:#?}", report.problems);
    assert_eq!((report.first, report.anchors, report.pinned), (Some(1), 1, true));
    assert!(report.heads > 10);
    assert_eq!(report.signed_to, report.last.map(|last| last - 1));
    let stranger = Keys::new();
    let report = verify(f.folder.path(), &stranger.pinned(vec![])).unwrap();
    assert!(report.problems.iter().all(|problem| problem.flaw == Flaw::Key) && !report.is_sound());
}

#[tokio::test]
async fn every_flipped_bit_is_found() {
    let f = fixture().await;
    let name = f.middle();
    let anchors = vec![f.anchor()];
    // A prime step walks over every field and every bit of the byte.
    for at in (0..f.files[&name].len() * 8).step_by(1013) {
        let mut bytes = f.files[&name].clone();
        bytes[at / 8] ^= 1 << (at % 8);
        assert!(!f.verify(&f.with(&name, bytes), anchors.clone()).is_sound(), "bit {at}");
    }
}

#[tokio::test]
async fn every_cut_is_found() {
    let f = fixture().await;
    let last = f.files.keys().last().unwrap().clone();
    let anchors = vec![f.anchor()];
    let length = f.files[&last].len();
    for at in (0..length - 1).step_by(97) {
        let files = f.with(&last, f.files[&last][..at].to_vec());
        assert!(!f.verify(&files, anchors.clone()).is_sound(), "cut at {at}");
    }
    // At the boundary of a record only an anchor can tell.
    let lines = f.lines(&last);
    for keep in 0..lines.len() - 1 {
        let files = f.with(&last, lines[..keep].concat());
        assert!(f.verify(&files, vec![]).is_sound(), "this is what anchors are for");
        let report = f.verify(&files, anchors.clone());
        let covered = report.last.is_none_or(|last| last < anchors[0].tip.seq);
        assert_eq!(report.problems.iter().any(|problem| matches!(problem.flaw, Flaw::Truncated { .. })), covered, "kept {keep}");
    }
    let mut files = f.files.clone();
    files.remove(&last);
    assert!(!f.verify(&files, anchors).is_sound());
}

#[tokio::test]
async fn removed_repeated_exchanged_and_inserted_records_are_found() {
    let f = fixture().await;
    let name = f.middle();
    let lines = f.lines(&name);
    let stranger = f.lines(f.files.keys().nth(2).unwrap());
    for at in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(at);
        let mut repeated = lines.clone();
        repeated.insert(at, lines[at].clone());
        let mut inserted = lines.clone();
        inserted.insert(at, stranger[0].clone());
        let mut exchanged = lines.clone();
        exchanged.swap(at, (at + 1) % lines.len());
        for (what, changed) in [("removed", removed), ("repeated", repeated), ("inserted", inserted), ("exchanged", exchanged)] {
            let report = f.verify(&f.with(&name, changed.concat()), vec![]);
            assert!(!report.is_sound(), "{what} at {at}");
            assert!(report.problems.iter().any(|problem| problem.file >= name), "{what} at {at} is located");
        }
    }
    for name in f.files.keys().take(f.files.len() - 1) {
        let mut files = f.files.clone();
        files.remove(name);
        assert!(!f.verify(&files, vec![]).is_sound(), "{name} removed");
    }
}

#[tokio::test]
async fn a_rewrite_without_the_key_is_found_by_the_next_head() {
    let f = fixture().await;
    let mut tip = Tip::default();
    let mut forged = BTreeMap::new();
    for (name, bytes) in &f.files {
        let mut out = Vec::new();
        for line in bytes.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            let text = std::str::from_utf8(line).unwrap();
            let scan = chain::scan(line).unwrap();
            let members = &text[text.find("\"boot\":\"boot-1\"").unwrap() + 15..text.rfind(",\"prev\"").unwrap()];
            let members = members.replace("\"pid\":42", "\"pid\":43");
            tip = chain::write_line(&mut out, tip, scan.time, scan.kind, "boot-1", members.as_bytes());
        }
        forged.insert(name.clone(), out);
    }
    let report = f.verify(&forged, vec![f.anchor()]);
    assert!(report.problems.iter().all(|problem| matches!(problem.flaw, Flaw::Head | Flaw::Anchor)), "{:#?}", report.problems);
    assert!(report.problems.iter().any(|problem| problem.flaw == Flaw::Anchor));
    assert_eq!(report.heads, 0);
}

#[tokio::test]
async fn a_forged_anchor_is_told_from_a_rewritten_log() {
    let f = fixture().await;
    let mut tip = f.anchor().tip;
    tip.hash[0] ^= 1;
    let forged = Note::sign(Says::Head, "host-1", tip, "2026-01-01T00:00:00.000000Z", &Keys::new().key());
    let report = f.verify(&f.files, vec![forged]);
    assert_eq!(report.problems.iter().map(|problem| problem.flaw).collect::<Vec<_>>(), [Flaw::ForgedAnchor]);
    let foreign = Note::sign(Says::Head, "host-2", tip, "2026-01-01T00:00:00.000000Z", &Keys::new().key());
    let report = f.verify(&f.files, vec![foreign]);
    assert!(report.is_sound());
    assert_eq!(report.anchors_elsewhere, 1);
}

#[tokio::test]
async fn the_python_in_the_manual_verifies_the_chain() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED: no python3 here, so the verifier in docs/audit.md was not run");
        return;
    }
    let manual = include_str!("../../../docs/audit.md");
    let script = manual.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    assert!(script.lines().count() <= 30);
    let f = fixture().await;
    let run = |folder: &Path| std::process::Command::new("python3").arg("-c").arg(script).arg(folder).output().unwrap();
    let output = run(f.folder.path());
    assert!(output.status.success(), "{output:?}");
    let name = f.middle();
    let mut bytes = f.files[&name].clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(f.folder.path().join(&name), bytes).unwrap();
    assert!(!run(f.folder.path()).status.success());
}
