//! Clocks that are wrong, starts and settings, and what the list has then.

use super::*;
use crate::sys::ManualClock;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
const NOW: u64 = 20_500 * DAY;
const YEARS: u64 = 10 * 365 * DAY;

/// A folder with a list's files, and the clocks.
struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(HOUR, NOW)) }
    }

    fn book(&self) -> PathBuf {
        self.folder.path().join("book")
    }

    fn open(&self, life: &str) -> Arc<EndedList> {
        let places = ListPlaces { file: self.folder.path().join("list"), book: self.book() };
        let render = |edition: &Edition<'_>| Ok(edition.leases.iter().map(|(lease, _)| format!("{lease}\n")).collect::<String>().into());
        EndedList::open(places, Ttl::parse(life).unwrap(), self.clock.clone(), Box::new(render)).unwrap()
    }

    /// The machine begins anew, with this on its wall clock.
    fn boot(self, wall: u64) -> Self {
        Self { clock: Arc::new(ManualClock::new(20 * SECOND, wall)), ..self }
    }

    fn lists(&self, lease: LeaseId) -> bool {
        let text = std::fs::read_to_string(self.folder.path().join("list")).unwrap();
        text.lines().any(|line| line == lease.to_string())
    }

    /// Both clocks go on, with a look every hour.
    fn pass(&self, list: &EndedList, hours: u64) {
        for _ in 0..hours {
            self.clock.advance(HOUR);
            list.ended().look(self.clock.boot(), self.clock.wall());
        }
        list.write().unwrap();
    }
}

/// One that was issued at this moment.
fn lease(at: u64) -> LeaseId {
    LeaseId::from_parts(at / 1_000, 7)
}

#[tokio::test]
async fn a_row_goes_a_day_after_the_longest_life() {
    let bench = Bench::new();
    let (list, lease) = (bench.open("1h"), lease(NOW));
    // A look that was long ago takes nothing off.
    bench.clock.advance(HOUR / 2);
    list.add(lease).await.unwrap();
    bench.pass(&list, 24);
    assert!(bench.lists(lease));
    bench.pass(&list, 1);
    assert!(!bench.lists(lease));
    assert_eq!(std::fs::read_to_string(bench.book()).unwrap().lines().count(), 1, "nothing but its head");
}

#[tokio::test]
async fn a_clock_that_is_ahead_at_a_start_forgets_nothing() {
    let bench = Bench::new();
    let (old, young) = (lease(NOW), lease(NOW + SECOND));
    let list = bench.open("30d");
    list.made(old, WallTime(NOW + 30 * DAY));
    list.add(old).await.unwrap();
    // The older one has been over for half a day when the machine begins anew.
    bench.pass(&list, 30 * 24 + 12);
    list.made(young, WallTime(bench.clock.wall().0 + 30 * DAY));
    list.add(young).await.unwrap();
    drop(list);
    let right = bench.clock.wall().0;
    let bench = bench.boot(right + YEARS);
    let list = bench.open("30d");
    bench.pass(&list, 11);
    assert!(bench.lists(old) && bench.lists(young), "half a day and eleven hours");
    bench.clock.step_wall(right + 11 * HOUR);
    bench.pass(&list, 1);
    assert!(!bench.lists(old) && bench.lists(young), "the right clock says it too");
    // Wrong for longer than a day, it is believed about nothing that may live.
    bench.clock.step_wall(right + YEARS);
    bench.pass(&list, 29 * 24);
    assert!(bench.lists(young));
    bench.pass(&list, 3 * 24);
    assert!(!bench.lists(young));
}

#[tokio::test]
async fn the_last_day_begins_anew_when_the_clock_was_wrong() {
    let bench = Bench::new();
    let (list, lease) = (bench.open("1h"), lease(NOW));
    list.made(lease, WallTime(NOW + 20 * DAY));
    list.add(lease).await.unwrap();
    for _ in 0..3 {
        let right = bench.clock.wall().0;
        bench.clock.step_wall(right + YEARS);
        bench.pass(&list, 23);
        // However long nobody looks.
        bench.clock.advance(5 * DAY);
        bench.clock.step_wall(right + 23 * HOUR);
        list.write().unwrap();
        assert!(bench.lists(lease));
    }
}

#[tokio::test]
async fn what_ends_while_the_clock_stands_at_1970_stays() {
    let bench = Bench::new();
    let lease = lease(NOW);
    drop(bench.open("30d"));
    let bench = bench.boot(20 * SECOND);
    let list = bench.open("30d");
    // Its holder went with the boot before.
    list.made(lease, WallTime(NOW + 30 * DAY));
    list.add(lease).await.unwrap();
    bench.pass(&list, 1);
    bench.clock.step_wall(NOW + HOUR);
    bench.pass(&list, 30 * 24);
    assert!(bench.lists(lease));
    bench.pass(&list, 24);
    assert!(!bench.lists(lease));
}

#[tokio::test]
async fn a_shorter_life_shortens_nothing_that_was_made_before() {
    let bench = Bench::new();
    let (before, after) = (lease(NOW), lease(NOW + SECOND));
    let list = bench.open("30d");
    list.add(before).await.unwrap();
    drop(list);
    let list = bench.open("1h");
    // Issued while certificates lived for thirty days, and nobody says for how long this one does.
    list.add(after).await.unwrap();
    bench.pass(&list, 30 * 24 + 23);
    assert!(bench.lists(before) && bench.lists(after));
    bench.pass(&list, 2);
    assert!(!bench.lists(before) && !bench.lists(after));
}

#[tokio::test]
async fn a_certificate_made_while_the_clock_was_ahead_stays_listed() {
    let bench = Bench::new();
    let (told, issued, other) = (lease(NOW), lease(NOW + 60 * DAY), lease(NOW + SECOND));
    let list = bench.open("1h");
    // Renewed while the clock was two months ahead, and read again when it was not.
    list.made(told, WallTime(NOW + 60 * DAY));
    list.made(told, WallTime(NOW + HOUR));
    for lease in [told, issued, other] {
        list.add(lease).await.unwrap();
    }
    bench.pass(&list, 60 * 24);
    assert!(bench.lists(told) && bench.lists(issued) && !bench.lists(other));
    bench.pass(&list, 26);
    assert!(!bench.lists(told) && !bench.lists(issued));
}

#[tokio::test]
async fn a_later_end_that_is_told_later_counts() {
    let bench = Bench::new();
    let (list, lease) = (bench.open("1h"), lease(NOW));
    list.add(lease).await.unwrap();
    bench.pass(&list, 20);
    list.made(lease, WallTime(NOW + 10 * DAY));
    list.add(lease).await.unwrap();
    // Without a word about it an end may be repeated, and changes nothing.
    list.add(lease).await.unwrap();
    bench.pass(&list, 10 * 24);
    assert!(bench.lists(lease));
    bench.pass(&list, 8);
    assert!(!bench.lists(lease));
}

#[tokio::test]
async fn a_daemon_that_is_often_started_anew_goes_on_counting() {
    let bench = Bench::new();
    let lease = lease(NOW);
    bench.open("1h").add(lease).await.unwrap();
    for n in 0..50 {
        assert!(bench.lists(lease), "{n}");
        bench.clock.advance(HOUR / 2);
        drop(bench.open("1h"));
    }
    assert!(!bench.lists(lease));
    // A machine that is: what a boot counted is kept.
    bench.open("1h").add(lease).await.unwrap();
    let mut bench = bench;
    for n in 0..5 {
        assert!(bench.lists(lease), "{n}");
        let wall = bench.clock.wall().0;
        bench = bench.boot(wall + 16 * HOUR);
        let list = bench.open("1h");
        bench.pass(&list, 5);
    }
    assert!(!bench.lists(lease));
}

#[tokio::test]
async fn a_book_of_the_first_version_is_read() {
    let bench = Bench::new();
    let (old, of_1970) = (lease(NOW - YEARS), lease(NOW));
    std::fs::write(bench.book(), format!("claviger ended 1 41\n{old} {}\n{of_1970} 17\n", (NOW - YEARS) / SECOND)).unwrap();
    let list = bench.open("30d");
    assert!(bench.lists(old) && bench.lists(of_1970));
    let text = std::fs::read_to_string(bench.book()).unwrap();
    assert!(text.starts_with("claviger ended 2 42 2592000 3600\n") && text.contains(&format!("{of_1970} 17 ")), "{text}");
    bench.pass(&list, 30 * 24 + 23);
    assert!(bench.lists(old) && bench.lists(of_1970), "from now on they stay as long as any");
    bench.pass(&list, 1);
    assert!(!bench.lists(old) && !bench.lists(of_1970));
}

#[test]
fn what_is_no_book_is_not_read() {
    let life = Ttl::parse("1h").unwrap();
    let row = lease(NOW);
    let good = format!("claviger ended 2 7 3600 10\n{row} 1 2 3\n");
    assert_eq!(Book::read(&good, life).unwrap().text(), good);
    let rest = |head: &str| format!("{head}\n{row} 1 2 3\n");
    let bad = [
        "claviger ended 2 7 3600",
        "claviger ended 2 7 3600 10 1",
        "claviger ended 3 7 3600 10",
        "claviger ended 1 7",
        "ended 2 7 3600 10",
    ];
    for bad in bad.map(rest) {
        assert!(Book::read(&bad, life).is_none(), "{bad}");
    }
    for bad in ["1 2", "1 2 3 4", "1 2 x", "1  2 3", "-1 2 3"] {
        assert!(Book::read(&format!("claviger ended 2 7 3600 10\n{row} {bad}\n"), life).is_none(), "{bad}");
    }
    assert!(Book::read("", life).is_none());
}
