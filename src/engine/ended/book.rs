//! What is remembered of ended leases, and when it may be forgotten.
//!
//! A row that goes too early makes a certificate good again, and nothing brings the row back. No wall clock is believed about that alone: it
//! may be years ahead at a start, or stand at 1970, or have been ahead when a certificate was made. Each row has a time to stay, which is
//! counted down by the clock that nobody sets: the longest life that certificates ever had here, and a day. Then whatever was made while the
//! wall clock was right is dead, whatever it said since. The last day of this passes only while the wall clock, too, says that the last
//! certificate is over, and begins anew when it says that it is not: a clock that is wrong at a start and set right within a day loses
//! nothing, and what was made while the clock was ahead stays listed for as long as it lives.
//!
//! Of the time between two looks an hour counts at most, so that no day passes on one word of the wall clock. What is left of each row is in
//! the book, with where the clock stood: a daemon that is started anew goes on counting. If that was another boot, all that the clock shows
//! has passed since, so the difference is never too much. Time without a daemon does not count: rows then stay longer than they need to.

use crate::model::{BootTime, LeaseId, Ttl, WallTime};
use std::collections::BTreeMap;

/// Seconds for which a row stays while all that was made for its lease is dead.
const SLACK: u64 = 86_400;
/// Seconds between two looks, and what counts of them at most.
pub(super) const LOOK: u64 = 3_600;
/// What a book begins with; the version follows.
const HEAD: &str = "claviger ended ";

#[derive(Clone)]
pub(super) struct Book {
    /// The list's number: never given twice.
    pub(super) number: u64,
    /// Counts what was added.
    pub(super) step: u64,
    /// The longest life, in seconds, that certificates ever had here.
    life: u64,
    /// Where the clock that nobody sets stood at the last look, in seconds.
    looked: Option<u64>,
    leases: BTreeMap<LeaseId, Row>,
}

/// Wall clock times are in seconds since 1970.
#[derive(Clone)]
struct Row {
    /// When it ended.
    at: u64,
    /// When the last certificate of the lease ends.
    until: u64,
    /// Seconds for which it stays, if the wall clock says in the last day of them that it is over.
    left: u64,
    step: u64,
}

impl Book {
    pub(super) fn new(life: Ttl) -> Self {
        Self { number: 0, step: 0, life: life.as_secs().into(), looked: None, leases: BTreeMap::new() }
    }

    /// Reads what [`Book::text`] wrote, or the first version, which knew neither ends of certificates nor their longest life.
    pub(super) fn read(text: &str, life: Ttl) -> Option<Self> {
        let (head, rows) = text.split_once('\n')?;
        let (version, head) = head.strip_prefix(HEAD)?.split_once(' ')?;
        let mut book = Self::new(life);
        match version {
            "1" => {
                book.number = head.parse().ok()?;
                for row in rows.lines() {
                    let (lease, at) = row.split_once(' ')?;
                    let (lease, at) = (LeaseId::parse(lease).ok()?, at.parse().ok()?);
                    let row = Row { at, until: book.longest(lease, at), left: book.stay(), step: 0 };
                    book.leases.insert(lease, row);
                }
            }
            "2" => {
                let [number, life, looked] = numbers(head)?;
                (book.number, book.looked) = (number, Some(looked));
                // Certificates of before were made to last as long as was right then.
                if !crate::mutation!("ended-life") {
                    book.life = book.life.max(life);
                }
                for row in rows.lines() {
                    let (lease, row) = row.split_once(' ')?;
                    let [at, until, left] = numbers(row)?;
                    book.leases.insert(LeaseId::parse(lease).ok()?, Row { at, until, left, step: 0 });
                }
            }
            _ => return None,
        }
        Some(book)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEAD}2 {} {} {}\n", self.number, self.life, self.looked.unwrap_or(0));
        for (lease, Row { at, until, left, .. }) in &self.leases {
            text.push_str(&format!("{lease} {at} {until} {left}\n"));
        }
        text
    }

    /// Leases, and when they ended, in seconds since 1970.
    pub(super) fn leases(&self) -> Vec<(LeaseId, u64)> {
        self.leases.iter().map(|(lease, row)| (*lease, row.at)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// A lease has ended; `until` is when its last certificate ends, where that is known. Returns the step that it is on the disk with.
    pub(super) fn add(&mut self, lease: LeaseId, until: Option<WallTime>, boot: BootTime, wall: WallTime) -> u64 {
        let (at, step, told) = (wall.unix_secs(), self.step + 1, until.map(WallTime::unix_secs));
        // What has passed since the last look is taken off at the next one.
        let left = self.stay().saturating_add(self.passed(boot));
        let until = told.unwrap_or_else(|| self.longest(lease, at));
        let row = self.leases.entry(lease).or_insert(Row { at, until, left, step });
        if told.is_some_and(|told| told > row.until) {
            *row = Row { at: row.at, until, left, step };
        }
        self.step = self.step.max(row.step);
        row.step
    }

    /// Takes off what has passed, and the rows of which nothing is left.
    pub(super) fn look(&mut self, boot: BootTime, wall: WallTime) {
        let (passed, wall, life) = (self.passed(boot), wall.unix_secs(), self.life);
        self.looked = Some(boot.0 / 1_000_000);
        self.leases.retain(|_, row| {
            if crate::mutation!("ended-counted") {
                return row.at.saturating_add(life).saturating_add(SLACK) > wall;
            }
            row.left = row.left.saturating_sub(passed);
            if wall <= row.until && !crate::mutation!("ended-until") {
                row.left = row.left.max(SLACK);
            }
            row.left > 0
        });
    }

    /// What counts of the time since the last look.
    fn passed(&self, boot: BootTime) -> u64 {
        self.looked.map_or(0, |looked| (boot.0 / 1_000_000).saturating_sub(looked).min(LOOK))
    }

    /// How long a row stays at least.
    fn stay(&self) -> u64 {
        self.life.saturating_add(SLACK)
    }

    /// When the last certificate of a lease ends of which that was not told. The clock may have been set back since the lease was made.
    fn longest(&self, lease: LeaseId, at: u64) -> u64 {
        at.max(lease.unix_ms() / 1_000).saturating_add(self.life)
    }
}

/// Three numbers, and nothing else.
fn numbers(text: &str) -> Option<[u64; 3]> {
    let mut parts = text.split(' ').map(|part| part.parse().ok());
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}
