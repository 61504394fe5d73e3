//! What the end of the log says of leases, for a start that compares it with the lease journal.

use super::{
    chain::{Scan, Tip},
    kind::Kind,
};
use crate::model::{EndReason, LeaseId, WallTime};
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Issue and journal row are written side by side. A crash may leave one without the other, if both are younger than this. Microseconds.
const OF_A_CRASH: u64 = 60_000_000;
/// An orderly stop leaves none, but for what was on its way in just then.
const OF_A_STOP: u64 = 1_000_000;

/// Issues and ends of leases of late, in the order of the record: at least those of the last mebibyte of the log.
#[derive(Clone, Debug, Default)]
pub struct Books {
    issued: BTreeMap<LeaseId, Issued>,
    /// Those that a crash at the record that was seen last could have left without their rows.
    recent: Vec<LeaseId>,
    ended: HashMap<LeaseId, Option<EndReason>>,
    first: Option<WallTime>,
    last: String,
    looked_for: Option<Tip>,
    differs: bool,
}

#[derive(Clone, Copy, Debug)]
struct Issued {
    seq: u64,
    at: WallTime,
    /// The journal must know it.
    certain: bool,
}

#[derive(Deserialize)]
struct Row {
    lease: Option<LeaseId>,
    ended: Option<Why>,
}

#[derive(Deserialize)]
struct Why {
    reason: EndReason,
}

impl Books {
    /// Also looks whether a record of that number has that hash.
    pub(super) fn looking_for(record: Option<Tip>) -> Self {
        Self { looked_for: record, ..Self::default() }
    }

    pub(super) fn see(&mut self, scan: &Scan<'_>, line: &[u8]) {
        self.differs |= self.looked_for.is_some_and(|wanted| wanted.seq == scan.seq && wanted.hash != scan.hash);
        let is = |kind: Kind| scan.kind == kind.as_str();
        // Whatever came before a start had ended with the record before it: the time in between says nothing.
        if is(Kind::Start) {
            self.close();
            self.recent.clear();
        }
        self.first = self.first.or_else(|| WallTime::parse(scan.time));
        self.last.clear();
        self.last.push_str(scan.time);
        if is(Kind::Stop) {
            self.settle(OF_A_STOP);
        } else if is(Kind::Issue) || is(Kind::End) {
            let Ok(Row { lease: Some(lease), ended }) = serde_json::from_slice(line) else { return };
            if is(Kind::End) {
                self.ended.insert(lease, ended.map(|why| why.reason));
            } else if let Some(at) = WallTime::parse(scan.time) {
                self.issued.insert(lease, Issued { seq: scan.seq, at, certain: false });
                self.recent.push(lease);
            }
        }
    }

    /// The last record was seen.
    pub(super) fn close(&mut self) {
        self.settle(OF_A_CRASH);
    }

    fn settle(&mut self, micros: u64) {
        let now = WallTime::parse(&self.last).map_or(0, |now| now.0);
        for lease in &self.recent {
            if let Some(issued) = self.issued.get_mut(lease) {
                issued.certain |= issued.at.0.saturating_add(micros) < now;
            }
        }
    }

    /// Leases that were issued and have not ended.
    pub fn unended(&self) -> impl Iterator<Item = LeaseId> {
        self.issued.keys().copied().filter(|lease| !self.ended.contains_key(lease))
    }

    /// Whether a lease that was issued then must be on the record if anybody had had its secret, and is not: a crash came between its row in
    /// the journal and its record. So it is with what an older log does not know that an operator goes on with.
    pub fn lacks(&self, lease: LeaseId, issued: WallTime) -> bool {
        let last = WallTime::parse(&self.last).map_or(0, |last| last.0);
        let within = self.first.is_some_and(|first| first < issued) && issued.0.saturating_add(OF_A_CRASH) >= last;
        within && !self.issued.contains_key(&lease) && !self.ended.contains_key(&lease)
    }

    /// Why a lease ended, if it has ended on the record and somebody had had its secret.
    pub fn end_of(&self, lease: LeaseId) -> Option<EndReason> {
        self.ended.get(&lease).copied().flatten().filter(|reason| *reason != EndReason::Unfinished)
    }

    /// Leases that were issued behind record `begin` and that the journal must know, whatever a crash may have done.
    pub fn certain(&self, begin: u64) -> impl Iterator<Item = (LeaseId, WallTime)> {
        let certain = self.issued.iter().filter(move |(_, issued)| issued.certain && issued.seq > begin);
        let certain = certain.map(|(lease, issued)| (*lease, issued.at));
        // What ended as unfinished never came to be.
        certain.filter(|(lease, _)| !self.ended.contains_key(lease) || self.end_of(*lease).is_some())
    }

    /// The record that was looked for is another one.
    pub fn differs(&self) -> bool {
        self.differs
    }
}
