//! (`Workload`, `Intent`, the time) to `Permit` or what is missing. Cedar lives here.
//!
//! A *grant* is a permit: one identity (or group), secrets, channels, purposes, an owner and an expiry. A *rule* is a forbid. How
//! one request is decided:
//!
//! 1. **Slice.** The policies whose scope admits this identity, secret and channel are picked once per triple and kept.
//! 2. **Caps.** A cap's condition is its limit and nothing else, so what would be issued is narrowed to it first. The condition
//!    is evaluated all the same: an annotation that lied would cost an answer, never safety.
//! 3. **Grants.** Those of the slice that name the claimed purpose and have not expired; conditions are evaluated. None: `no_grant`.
//! 4. **Rules** are evaluated with the evidence at hand and the facts of the covering grant, best grant first. Nothing refuses: a
//!    `Permit`. An invariant refuses: a refusal, and requirements are not mentioned.
//! 5. Only requirements refuse: the rules are evaluated once more as if all evidence were there. Nothing refuses then: `Unmet`
//!    names all that is missing at once. Otherwise evidence would not help, and nobody is asked for any.
//!
//! The same request within the same second is answered from memory (`recent`).
//!
//! Any evaluation error denies: Cedar leaves out a policy that it cannot evaluate, and a forbid that falls silent would permit.
//!
//! Invariants of this module: it does no I/O, looks at no clock and never waits. No claim lightens a requirement: rules see what was
//! claimed and what is effective under different names, and `Evidence` cannot be read from a request. A `Permit` is made by
//! [`Bundle::decide`] only, and explaining is the same call with its answer put in sentences.
//!
//! A grant's `@purpose` and `@expires` are checked here and not by a condition, because both are mandatory and their absence is a load
//! error: a grant cannot forget to look. Everything else that grants or refuses is Cedar's.

mod bundle;
mod context;
mod decide;
mod decision;
mod doubts;
mod entities;
mod evidence;
mod explain;
mod lint;
mod near;
mod reads;
mod recent;
mod rule;
mod slice;
mod source;
mod words;

#[cfg(test)]
mod tests;

pub use bundle::{BASELINE, Bundle};
pub use decision::{Because, Decision, Permit, Refused, Shadow, Unmet};
pub use evidence::{Evidence, Signs};
pub use explain::{Blocker, Mention, Told};
pub use near::{Misfit, NearMiss};
pub use rule::{Cap, GrantNote, Need, Requirement, RuleClass, RuleNote};
pub use source::{Fault, Notice, Place, Problem, Source, Warning, permits};
pub use words::SCHEMA;
