//! What a log says about one lease from its issue to its end, offline: the revocation receipt, which an auditor holds against the log.

use super::chain::{hash_of, scan, to_hex};
use super::kind::{Kind, Outcome};
use super::note::{Note, Says};
use super::read::{Filter, Record, query};
use super::search::search;
use crate::model::LeaseId;
use std::{io, path::Path};

/// One record of the log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The record, read.
    pub record: Record,
    /// Its hash, computed anew from the line as it stands there.
    pub hash: String,
    /// Whether that is the hash that it bears. The chain as a whole is for `verify` to look at.
    pub fits: bool,
}

/// What is on the record about one lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Receipt {
    /// The lease.
    pub lease: LeaseId,
    /// Its issue; none where it never came to that, or where that part of the log was pruned.
    pub issue: Option<Entry>,
    /// How often it was renewed.
    pub renewed: u64,
    /// The tries at ending it that the source did not confirm, oldest first.
    pub tries: Vec<Entry>,
    /// Its end; none while it lives or is being ended.
    pub end: Option<Entry>,
    /// The first signed head that covers the end.
    pub head: Option<Note>,
}

/// Looks at every byte of every segment, as [`search`] does. `None` where the log says nothing of the lease.
pub fn receipt(folder: &Path, lease: LeaseId) -> io::Result<Option<Receipt>> {
    let mut receipt = Receipt { lease, issue: None, renewed: 0, tries: Vec::new(), end: None, head: None };
    let filter = Filter { lease: Some(lease), ..Filter::default() };
    let searched = search::<io::Error>(folder, &filter, |line, record| {
        let entry = || {
            let scanned = scan(line.as_bytes());
            let hash = hash_of(line.as_bytes());
            Entry { record: record.clone(), hash: to_hex(&hash), fits: scanned.is_some_and(|scanned| scanned.hash == hash) }
        };
        match (record.kind, record.outcome) {
            (Kind::Issue, Some(Outcome::Done)) => receipt.issue = Some(entry()),
            (Kind::Renew, Some(Outcome::Done)) => receipt.renewed += 1,
            (Kind::Retry | Kind::Irrevocable, _) => receipt.tries.push(entry()),
            (Kind::End, _) => receipt.end = Some(entry()),
            _ => {}
        }
        Ok(())
    })?;
    if let Some(end) = &receipt.end {
        let heads = Filter { kind: Some(Kind::Head), ..Filter::default() };
        let head = query(folder, end.record.seq.saturating_add(1), &heads, 1)?.pop();
        let note = head.and_then(|record| Note::find(record.rest.get("note")?.as_str()?));
        receipt.head = note.filter(|note| note.holds() && note.says == Says::Head && note.tip.seq >= end.record.seq);
    }
    Ok((searched.found > 0).then_some(receipt))
}
