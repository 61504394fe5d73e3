//! Decisions in sentences for operators: who asked, which policy decided, what to change in which file.

use super::{
    decision::{Because, Decision, Shadow},
    lint::date,
    near::Misfit,
    rule::{Cap, GrantNote, RuleClass, RuleNote},
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
        lines.extend(self.grant.iter().map(|grant| format!("{COVERED}{grant}")));
        lines.extend(self.policies.iter().map(ToString::to_string));
        lines.extend(self.further.iter().map(|note| format!("{FURTHER}{note}")));
        lines.extend(self.errors.iter().map(|error| format!("could not be evaluated: {error}")));
        lines.extend(self.shadows.iter().map(|shadow| match shadow {
            Shadow::Would(note) => format!("shadow: {note}"),
            Shadow::Fails(error) => format!("shadow: could not be evaluated: {error}"),
        }));
        lines.extend(self.near.iter().map(|near| {
            let why: Vec<_> = near.misfits.iter().map(ToString::to_string).collect();
            format!("{NEAR}{}: {}", near.grant, why.join(", "))
        }));
        if refused == Some(&Code::NO_GRANT) && self.near.is_empty() {
            lines.push("no grant speaks of this identity or of this secret".to_owned());
        }
        lines.push(format!("bundle {}", self.bundle));
        lines.join("\n")
    }
}

/// What begins the lines of a decision's sentences, as they are written above and read below.
const COVERED: &str = "covered by ";
const FURTHER: &str = "besides: ";
const NEAR: &str = "near: ";

/// The sentences of a decision, read back from a record: what refused, and which grants it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What refused, in the order of the files; last what would refuse once that were mended.
    pub blockers: Vec<Blocker>,
    /// The grant that covers the request.
    pub covering: Option<Mention>,
    /// Grants that nearly do, with their misfits in words.
    pub near: Vec<(Mention, Vec<Misfit>)>,
}

/// A rule that refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Its id.
    pub id: String,
    /// The code of an invariant, or what a requirement asks for.
    pub word: String,
    /// It asks for something; otherwise nothing lifts it.
    pub requires: bool,
}

/// A grant and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mention {
    /// Its id.
    pub id: String,
    /// The file.
    pub file: String,
    /// The line in which it begins.
    pub line: usize,
    /// And the column in characters, from 1.
    pub column: usize,
}

impl Told {
    /// Reads what [`Decision::explain`] or a refusal's detail says. What is not understood is left out.
    pub fn read(text: &str) -> Told {
        let mut told = Told::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix(COVERED) {
                told.covering = Mention::read(rest).map(|(mention, _)| mention);
            } else if let Some(rest) = line.strip_prefix(NEAR) {
                let misfits = |rest: &str| Misfit::ALL.into_iter().filter(|misfit| rest.contains(&misfit.to_string())).collect();
                told.near.extend(Mention::read(rest).map(|(mention, rest)| (mention, misfits(rest))));
            } else {
                told.blockers.extend(Blocker::read(line.strip_prefix(FURTHER).unwrap_or(line)));
            }
        }
        told
    }
}

impl Blocker {
    fn read(line: &str) -> Option<Blocker> {
        let (id, rest) = line.split_once(" (")?;
        let (_, rest) = rest.split_once(") ")?;
        let (word, requires) = match (rest.strip_prefix("refuses with "), rest.strip_prefix("requires ")) {
            (Some(rest), _) => (rest, false),
            (None, Some(rest)) => (rest, true),
            (None, None) => return None,
        };
        let word = word.split_once(':')?.0.to_owned();
        (!id.contains(' ')).then(|| Blocker { id: id.to_owned(), word, requires })
    }
}

impl Mention {
    /// The grant at the head of the text, and what follows it.
    fn read(text: &str) -> Option<(Mention, &str)> {
        let (id, rest) = text.strip_prefix("grant ")?.split_once(" (")?;
        let (place, rest) = rest.split_once(')')?;
        let mut parts = place.rsplitn(3, ':');
        let (column, line, file) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
        Some((Mention { id: id.to_owned(), file: file.to_owned(), line, column }, rest))
    }
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
