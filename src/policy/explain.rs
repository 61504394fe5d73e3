//! Decisions in sentences for operators: who asked, which policy decided, what to change in which file.

use super::{
    decision::{Because, Decision, Shadow},
    lint::date,
    rule::{Cap, GrantNote, Need, RuleClass, RuleNote},
};
use crate::model::{Code, UNLIMITED};
use std::fmt;

impl Decision {
    /// The whole decision in sentences, one a line. For operators: it names policies, files and other identities' grants.
    pub fn explain(&self) -> String {
        match self {
            Decision::Permit(permit) => {
                let (ttl, uses) = (permit.effective().ttl, permit.effective().uses);
                let uses = if uses == UNLIMITED { "any number of uses".to_owned() } else { format!("{uses} uses") };
                let renewable = if permit.renewable() { "renewable" } else { "not renewable" };
                format!("permit: {ttl}, {uses}, {renewable}\n{}", self.because().sentences(None))
            }
            Decision::Needs(_) => format!("needs evidence\n{}", self.because().sentences(None)),
            Decision::Forbid(refused) => format!("refused: {}\n{}", refused.code(), self.because().sentences(Some(refused.code()))),
        }
    }
}

impl Because {
    /// Everything that is known, one sentence a line.
    pub(super) fn sentences(&self, refused: Option<&Code>) -> String {
        let (who, intent) = (self.workload.identity(), &self.intent);
        let mut lines = vec![format!(
            "{} {} at {} asked to {} {} ({}) for {}",
            who.kind.as_str(),
            who.name,
            self.workload.assurance(),
            intent.channel().as_str(),
            intent.secret().name,
            intent.secret().sensitivity,
            intent.claimed().purpose,
        )];
        lines.extend(self.grant.iter().map(|grant| format!("covered by {grant}")));
        lines.extend(self.policies.iter().map(|note| {
            let remedy = self.grant.as_ref().and_then(|grant| in_the_grant(note, grant)).unwrap_or_default();
            format!("{note}{remedy}")
        }));
        lines.extend(self.errors.iter().map(|error| format!("could not be evaluated: {error}")));
        lines.extend(self.shadows.iter().map(|shadow| match shadow {
            Shadow::Would(note) => format!("shadow: {note}"),
            Shadow::Fails(error) => format!("shadow: could not be evaluated: {error}"),
        }));
        lines.extend(self.near.iter().map(|near| {
            let why: Vec<_> = near.misfits.iter().map(ToString::to_string).collect();
            format!("near: {} {}", near.grant, why.join(", "))
        }));
        if refused == Some(&Code::NO_GRANT) && self.near.is_empty() {
            lines.push("no grant speaks of this identity or of this secret".to_owned());
        }
        lines.push(format!("bundle {}", self.bundle));
        lines.join("\n")
    }
}

/// What to write into the covering grant, where that is the remedy.
fn in_the_grant(note: &RuleNote, grant: &GrantNote) -> Option<String> {
    let RuleClass::Require(requirement) = &note.class else { return None };
    let change = match requirement.need {
        Need::GrantTicket => "add @ticket(\"SYSTEM:ID\")",
        Need::GrantLasting => "add @lasting(\"yes\")",
        Need::GrantSignature => "have it signed by a second person",
        _ => return None,
    };
    Some(format!(" -> {change} to {} in {}", grant.id, grant.place))
}

impl fmt::Display for GrantNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grant {} ({}), owner {}, expires {}", self.id, self.place, self.owner, date(self.expires))?;
        self.ticket.as_ref().map_or(Ok(()), |ticket| write!(f, ", ticket {}", ticket.as_str()))
    }
}

impl fmt::Display for RuleNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}) ", self.id, self.place)?;
        match &self.class {
            RuleClass::Invariant { code, sentence } => write!(f, "refuses with {code}: {sentence}"),
            RuleClass::Require(requirement) => {
                write!(f, "requires {}: {}", requirement.need, requirement.sentence)?;
                requirement.approval.as_ref().map_or(Ok(()), |rule| write!(f, " (approval rule {rule})"))
            }
            RuleClass::Cap(Cap::Ttl(ttl)) => write!(f, "allows at most {ttl}"),
            RuleClass::Cap(Cap::Uses(1)) => f.write_str("allows a single use"),
            RuleClass::Cap(Cap::Uses(uses)) => write!(f, "allows at most {uses} uses"),
            RuleClass::Cap(Cap::Once) => f.write_str("allows no renewal"),
        }
    }
}
