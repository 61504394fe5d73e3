//! What is on the record; the chain and its verification.
//!
//! The contract: nothing that hands out a secret happens without a [`Recorded`], and only [`Audit::append`] makes one. Attested caller,
//! declared intent and exact credential stand in one record. A record cannot hold a secret: an [`Event`] is built from words of the model,
//! numbers, and types admitted by name ([`Recordable`]).
//!
//! The log is JSON lines in segments, chained by SHA-256, with Ed25519-signed heads in it that also leave the host ([`Anchor`]).
//! `docs/audit.md` describes every member and how to verify it without this code. Deliberately absent: a switch that turns it off.

mod anchor;
mod batch;
mod books;
mod chain;
mod event;
mod fold;
mod kind;
mod note;
mod read;
mod receipt;
mod report;
mod scribe;
mod search;
mod segment;
mod status;
#[cfg(test)]
mod tests;
mod text;
mod verify;
mod writer;

pub use anchor::{Anchor, Anchored, JournalAnchor, SyslogAnchor};
pub use books::Books;
pub use chain::{Tip, write_line};
pub use event::{Decided, Ended, Event, Holder, Person};
pub use kind::{Kind, Outcome};
pub use note::{Note, Says};
pub use read::{Filter, Follower, Record, find_request, last_introduced, query};
pub use receipt::{Entry, Receipt, receipt};
pub use report::{Flaw, Problem, Report};
pub use search::{Searched, search};
pub use segment::Retention;
pub use status::Status;
pub use text::{Facts, NoJson, Recordable, Sentence, Word, WordError};
pub use verify::{Pinned, read_anchors, read_keys, verify, verify_volume};
pub use writer::{Audit, AuditError, MAX_MEMBERS, Need, OpenError, Options, Recorded};
