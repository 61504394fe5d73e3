//! Peer to `Workload`: who is asking.
//!
//! **Contract.** A connection is pinned when it is accepted (`Attestor::accept`), judged when it asks (`attest`), and looked at again
//! right before anything leaves (`still`, `still_for_issue`). The caller must use a stream that checks the writer of every chunk
//! (`sys::CheckedStream`) with the ids that `Peer::sender` names.
//!
//! Gathering (`gather`, privileged, reads the kernel) and judging (`judge`, `identity`, pure) meet in `evidence`, plain data. Gathering may
//! be done by another process, the attestor: `source` asks it through `remote`, it answers through `serve`, in the words of `protocol`.
//! What is held here (`pins`) needs no privilege.
//!
//! **Deliberately absent:** command line, process name and environment are never read: the process writes them itself. There is no
//! "soft" failure: what cannot be attested is refused, never attested with fewer facts.

mod attestor;
mod evidence;
mod facts;
mod gather;
mod hash;
mod identity;
mod judge;
mod launches;
mod pins;
pub mod protocol;
mod recent;
mod remote;
mod serve;
mod source;
mod turns;
mod unit;
mod workload;

#[cfg(test)]
mod tests;

pub use attestor::{Attested, Attestor, ClientProgram, Peer, Subject};
pub use evidence::{ConnectIds, Evidence, ExeEvidence, Gathered, Look, Measured, ProcessEvidence, Sight};
pub use facts::{Ancestor, Exe, Facts, Login, Unit};
pub use gather::{Gatherer, invocation_of};
pub use hash::{ExeHashes, HashError};
pub use identity::{Candidate, Names, Roll};
pub use judge::{facts_of, judge};
pub use launches::{Launches, LaunchesError, launcher};
pub use pins::{Changed, Pins};
#[cfg(feature = "testing")]
pub use protocol::{Answer, Malformed, Numbered, Request, decode_answer, decode_request, encode_answer, encode_request};
pub use remote::{Remote, Unavailable, is_unseen};
pub use serve::Service;
pub use source::Source;
pub use unit::StartingUnit;
pub use workload::{Basis, Eyes, Workload};
