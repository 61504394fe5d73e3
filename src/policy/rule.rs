//! Grants and rules: parsed policies with what their annotations say of them.

use super::{slice::Reach, source::Place};
use crate::model::{Code, Owner, Purpose, TicketId, Ttl, WallTime};
use cedar_policy::Policy;
use std::{borrow::Cow, fmt, sync::Arc};

/// A permit. It covers claims of its purposes until it expires; whatever else it says is Cedar's.
pub(super) struct Grant {
    pub note: Arc<GrantNote>,
    pub policy: Policy,
    pub reach: Reach,
    /// It has a `when` or `unless`; otherwise its scope alone decides.
    pub conditional: bool,
}

/// What a grant says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantNote {
    /// Its `@id`.
    pub id: Arc<str>,
    /// Where it stands.
    pub place: Place,
    /// Who answers for it.
    pub owner: Owner,
    /// The purposes that it covers.
    pub purposes: Vec<Purpose>,
    /// From this moment it covers nothing.
    pub expires: WallTime,
    /// What justified it.
    pub ticket: Option<TicketId>,
    /// Accepts a delivered value that outlives its lease.
    pub lasting: bool,
}

impl GrantNote {
    /// The facts that rules may ask of the covering grant. No grant is signed yet: there is no key to sign one with.
    pub(super) fn facts(&self) -> GrantFacts {
        GrantFacts { signed: false, ticket: self.ticket.is_some(), lasting: self.lasting }
    }

    /// Covers a claim of this purpose at this time, as far as its annotations go.
    pub(super) fn covers(&self, purpose: &Purpose, now: WallTime) -> bool {
        now < self.expires && self.purposes.contains(purpose)
    }
}

/// What rules may ask of the covering grant. `Ord` is by worth: the greatest asks least of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GrantFacts {
    pub signed: bool,
    pub ticket: bool,
    pub lasting: bool,
}

impl GrantFacts {
    /// The best grant that could be written.
    pub const BEST: GrantFacts = GrantFacts { signed: true, ticket: true, lasting: true };
}

/// A forbid.
pub(super) struct Rule {
    pub note: Arc<RuleNote>,
    pub policy: Policy,
    pub reach: Reach,
    /// Recorded, not enforced.
    pub shadow: bool,
}

/// What a rule says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleNote {
    /// Its `@id`.
    pub id: String,
    /// Where it stands.
    pub place: Place,
    /// What it does.
    pub class: RuleClass,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleClass {
    /// Refuses; nothing lifts it.
    Invariant {
        /// What the workload is told.
        code: Code,
        /// The sentence with it; safe to show.
        sentence: Cow<'static, str>,
    },
    /// Refuses until something is there.
    Require(Requirement),
    /// Gives less.
    Cap(Cap),
}

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// What is needed.
    pub need: Need,
    /// One sentence for people; safe to show.
    pub sentence: String,
    /// The approval rule, for approvals.
    pub approval: Option<String>,
    /// The compensating control, where one would do.
    pub control: Option<String>,
}

/// What a rule limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cap {
    /// The time to live.
    Ttl(Ttl),
    /// The number of uses.
    Uses(u64),
    /// No renewal.
    Once,
}

macro_rules! needs {
    ($($(#[$doc:meta])* $variant:ident = $word:literal, $reads:literal;)*) => {
        /// Everything a rule can ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Need { $($(#[$doc])* $variant,)* }

        impl Need {
            /// All of them.
            pub const ALL: &'static [Need] = &[$(Need::$variant),*];

            /// The word in `@require` and in answers.
            pub const fn as_str(self) -> &'static str {
                match self { $(Need::$variant => $word,)* }
            }

            /// What a condition must look at for this need ever to be met.
            pub(super) const fn reads(self) -> &'static str {
                match self { $(Need::$variant => $reads,)* }
            }
        }
    };
}

needs! {
    /// A stronger attestation.
    Assurance = "assurance", "attested.assurance";
    /// A compensating control.
    Control = "control", "evidence.controls";
    /// A grant that names its ticket.
    GrantTicket = "grant_ticket", "grant.ticket";
    /// A grant with a second signature.
    GrantSignature = "grant_signature", "grant.signed";
    /// A grant that accepts values which outlive their lease.
    GrantLasting = "grant_lasting", "grant.lasting";
    /// The person behind an agent.
    User = "user", "evidence.user";
    /// That person's own yes.
    Confirmation = "confirmation", "evidence.confirmed";
    /// A ticket for this request.
    Ticket = "ticket", "evidence.ticket";
    /// An open change window.
    ChangeWindow = "change_window", "evidence.changeWindow";
    /// Another person's yes.
    Approval = "approval", "evidence.approvals";
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
