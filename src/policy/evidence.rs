//! `Evidence`: what was checked for one request, and the warning signs of its session. Nothing here is read from a request.

use std::collections::BTreeSet;

/// What later stages and the session's books have established about one request. Deliberately not `Deserialize`: only code that
/// has looked may fill it. Empty means that nothing was checked, which is how every request starts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Evidence {
    /// The person on whose behalf the agent acts is known.
    pub user: bool,
    /// That person said yes to this request.
    pub confirmed: bool,
    /// An approved mission covers this request.
    pub mission: bool,
    /// A ticket was looked up and holds: the request's, or the one that its mission carries.
    pub ticket: bool,
    /// A change window is open.
    pub change_window: bool,
    /// Approval rules met for this very request, by the token in their `@approval`.
    pub approvals: BTreeSet<String>,
    /// Compensating controls in force around the process, by name.
    pub controls: BTreeSet<String>,
    /// What speaks against the session.
    pub signs: Signs,
}

/// Signs that somebody else may steer the session. They can only make a decision stricter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Signs {
    /// The request departs from what the session did so far.
    pub drift: bool,
    /// The session has read what a stranger may have written.
    pub untrusted_input: bool,
}

impl Evidence {
    /// Nothing was checked.
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything that could still be shown, with the signs as they are: what a request may hope for.
    pub(super) fn hoped(approvals: BTreeSet<String>, controls: BTreeSet<String>, signs: Signs) -> Self {
        Self { user: true, confirmed: true, mission: true, ticket: true, change_window: true, approvals, controls, signs }
    }
}
