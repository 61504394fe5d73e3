//! The log under load, on a failing disk and on a full one.

use super::*;
use crate::sys::storage::Volume;
use crate::sys::{DiskVolume, Fault, SimulatedVolume};
use std::sync::Arc;

/// Writes `N text` lines and answers with N.
struct Lines<V: Volume> {
    volume: V,
    next: u64,
    written: u64,
    files: u64,
    /// Writing goes on only while nobody holds it.
    gate: Arc<Mutex<()>>,
}

impl<V: Volume + 'static> Lines<V> {
    fn start(volume: V, reserve: Reserve) -> Log<Self> {
        Self::start_behind(Arc::default(), volume, reserve)
    }

    fn start_behind(gate: Arc<Mutex<()>>, mut volume: V, reserve: Reserve) -> Log<Self> {
        let storage = volume.create("0").unwrap();
        Log::start("lines", storage, Lines { volume, next: 0, written: 0, files: 1, gate }, reserve, 4096).unwrap()
    }
}

impl<V: Volume + 'static> Scribe for Lines<V> {
    type Item = String;
    type Done = u64;
    fn encode(&mut self, item: String, out: &mut Vec<u8>) -> u64 {
        let _open = self.gate.lock().unwrap();
        self.next += 1;
        out.extend_from_slice(format!("{} {item}\n", self.next).as_bytes());
        self.next
    }
    fn due(&self) -> Option<Duration> {
        None
    }
    fn turn(&mut self, _: bool, _: &mut Vec<u8>) {}
    fn written(&mut self) {
        self.written = self.next;
    }
    fn synced(&mut self) {}
    fn dropped(&mut self) {
        self.next = self.written;
    }
    fn full(&self, _: u64) -> bool {
        false
    }
    fn close(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"end\n");
    }
    fn open(&mut self, _: Reopen, _: &mut Vec<u8>) -> io::Result<Box<dyn Storage>> {
        self.files += 1;
        self.volume.create(&(self.files - 1).to_string())
    }
    fn space(&self) -> io::Result<Space> {
        self.volume.space()
    }
    fn has_ballast(&self) -> bool {
        self.volume.has_ballast()
    }
    fn hold_ballast(&mut self, held: bool) -> io::Result<()> {
        self.volume.hold_ballast(held)
    }
}

const SMALL: Reserve = Reserve { bytes: 1000, percent: 100, floor: 500 };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_acknowledged_by_64_tasks_is_in_the_file_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = Arc::new(Lines::start(DiskVolume::new(folder.path(), 0), Reserve { bytes: 0, ..SMALL }));
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..50 {
                    let sync = if n % 2 == 0 { Sync::Now } else { Sync::Soon };
                    let text = format!("{task}/{n}");
                    acknowledged.push((log.append(text.clone(), sync, Room::Ordinary).await.unwrap(), text));
                }
                acknowledged
            })
        })
        .collect();
    let mut acknowledged = Vec::new();
    for task in tasks {
        acknowledged.extend(task.await.unwrap());
    }
    let log = Arc::into_inner(log).unwrap();
    log.stop();
    assert_eq!(log.append(String::new(), Sync::Soon, Room::Ordinary).await, Err(AppendError::Closed));
    acknowledged.sort();
    let expected: String = acknowledged.iter().map(|(n, text)| format!("{n} {text}\n")).collect::<String>() + "end\n";
    assert_eq!(std::fs::read_to_string(folder.path().join("0")).unwrap(), expected);
}

#[tokio::test]
async fn a_failed_sync_is_reported_never_repeated_and_loses_nothing_acknowledged() {
    let disk = SimulatedVolume::new(1 << 20, 100);
    let log = Lines::start(disk.clone(), SMALL);
    log.append("a".into(), Sync::Now, Room::Ordinary).await.unwrap();
    log.append("b".into(), Sync::Soon, Room::Ordinary).await.unwrap();
    disk.fail(Fault::Sync(libc::EIO));
    let error = log.append("c".into(), Sync::Now, Room::Ordinary).await.unwrap_err();
    assert_eq!(error, AppendError::Io { step: Step::Sync, errno: libc::EIO });
    log.append("d".into(), Sync::Now, Room::Ordinary).await.unwrap();
    let disk = disk.crashed(0);
    assert!(disk.content("0").unwrap().starts_with(b"1 a\n"));
    let (first, second) = (disk.content("0").unwrap(), disk.content("1").unwrap());
    // `c` was refused to its caller, but stands between others; `b` was acknowledged before the disk failed.
    assert!([first, second].concat().windows(4).any(|w| w == b"2 b\n"));
    assert!(disk.content("1").unwrap().ends_with(b"4 d\n"));
}

#[tokio::test]
async fn a_failed_write_leaves_nothing_of_its_batch() {
    let disk = SimulatedVolume::new(1 << 20, 100);
    let log = Lines::start(disk.clone(), SMALL);
    log.append("a".into(), Sync::Now, Room::Ordinary).await.unwrap();
    disk.fail(Fault::Write(libc::EIO));
    let error = log.append("bbbbbbbbbb".into(), Sync::Soon, Room::Ordinary).await.unwrap_err();
    assert_eq!(error, AppendError::Io { step: Step::Write, errno: libc::EIO });
    assert_eq!(log.append("c".into(), Sync::Now, Room::Ordinary).await, Ok(2));
    assert_eq!(disk.content("0").unwrap(), b"1 a\n");
    assert_eq!(disk.content("1").unwrap(), b"2 c\n");
}

#[tokio::test]
async fn what_was_acknowledged_before_a_failed_write_never_leaves_the_disk() {
    let disk = SimulatedVolume::new(1 << 20, 0);
    disk.keep_moments();
    let log = Lines::start(disk.clone(), SMALL);
    log.append("a".into(), Sync::Soon, Room::Ordinary).await.unwrap();
    let acknowledged = disk.moment();
    disk.fail(Fault::Write(libc::EIO));
    log.append("bbbbbbbbbb".into(), Sync::Soon, Room::Ordinary).await.unwrap_err();
    log.append("c".into(), Sync::Now, Room::Ordinary).await.unwrap();
    for moment in acknowledged..=disk.moment() {
        let killed = disk.killed(moment);
        let all = [killed.content("0"), killed.content("1")].into_iter().flatten().collect::<Vec<_>>().concat();
        assert!(all.windows(4).any(|part| part == b"1 a\n"), "moment {moment}: {:?}", String::from_utf8_lossy(&all));
    }
}

#[tokio::test]
async fn a_full_disk_refuses_the_ordinary_lets_endings_go_on_and_returns_by_itself() {
    let disk = SimulatedVolume::new(10_000, 2_000);
    let log = Lines::start(disk.clone(), SMALL);
    log.append("a".into(), Sync::Now, Room::Ordinary).await.unwrap();
    assert!(disk.has_ballast() && log.has_room().await);
    disk.resize(2_200);
    assert_eq!(log.append("b".into(), Sync::Now, Room::Ordinary).await, Err(AppendError::NoSpace));
    assert!(!log.has_room().await);
    assert!(disk.has_ballast(), "only an ending gives it up");
    log.append("ending".repeat(100), Sync::Now, Room::Ending).await.unwrap();
    assert!(!disk.has_ballast());
    disk.resize(1_200);
    assert_eq!(log.append("b".into(), Sync::Now, Room::Ordinary).await, Err(AppendError::NoSpace));
    assert_eq!(log.append("x".repeat(5_000), Sync::Now, Room::Ending).await, Err(AppendError::NoSpace));
    disk.resize(10_000);
    log.append("c".into(), Sync::Now, Room::Ordinary).await.unwrap();
    log.append("d".into(), Sync::Now, Room::Ordinary).await.unwrap();
    assert!(disk.has_ballast(), "taken again once there is room");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let gate = Arc::new(Mutex::new(()));
    let log = Lines::start_behind(gate.clone(), SimulatedVolume::new(1 << 30, 0), SMALL);
    let held = gate.lock().unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let mut append = Box::pin(log.append("a".into(), Sync::Soon, Room::Ordinary));
        match futures_util::FutureExt::now_or_never(&mut append) {
            Some(result) => break result,
            None => waiting.push(append),
        }
    };
    assert_eq!(refused, Err(AppendError::Full));
    assert!((4096..=4096 + 1025).contains(&waiting.len()));
    drop(held);
    for append in waiting {
        append.await.unwrap();
    }
}

#[tokio::test]
async fn the_ordinary_sync_follows_within_milliseconds() {
    let disk = SimulatedVolume::new(1 << 20, 0);
    let log = Lines::start(disk.clone(), SMALL);
    log.append("a".into(), Sync::Soon, Room::Ordinary).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let disk = disk.crashed(0);
    assert_eq!(disk.content("0").unwrap(), b"1 a\n");
}
