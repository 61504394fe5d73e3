//! What a decision can be, and what it rests on.

use super::{
    near::NearMiss,
    rule::{GrantNote, Requirement, RuleClass, RuleNote},
};
use crate::{
    attest::Workload,
    intent::{Effective, Intent},
    model::{Code, Refusal, Remedy},
};
use std::{borrow::Cow, sync::Arc};

/// The answer to one request.
#[must_use]
pub enum Decision {
    /// Policy says yes, within the limits on the permit.
    Permit(Permit),
    /// Policy would say yes, were the evidence there: all that is missing, at once.
    Needs(Unmet),
    /// Policy says no, and no evidence would change that.
    Forbid(Refused),
}

impl Decision {
    /// What it rests on.
    pub fn because(&self) -> &Because {
        match self {
            Decision::Permit(permit) => &permit.because,
            Decision::Needs(unmet) => &unmet.because,
            Decision::Forbid(refused) => &refused.because,
        }
    }
}

/// The proof that policy said yes to this workload and this intent. Made by `Bundle::decide` and by nothing else.
#[must_use]
pub struct Permit {
    because: Because,
    effective: Effective,
    renewable: bool,
}

impl Permit {
    pub(super) fn new(because: Because, effective: Effective, renewable: bool) -> Self {
        Self { because, effective, renewable }
    }

    /// Who may.
    pub fn workload(&self) -> &Workload {
        &self.because.workload
    }

    /// What was asked.
    pub fn intent(&self) -> &Intent {
        &self.because.intent
    }

    /// What may be issued: the intent's, shortened to what the caps leave.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// The lease may be renewed while its holder and its grant live.
    pub fn renewable(&self) -> bool {
        self.renewable
    }

    /// The grant that covers it.
    pub fn grant(&self) -> &Arc<GrantNote> {
        // `decide` names the grant before it makes a permit, and nobody else makes one.
        self.because.grant.as_ref().expect("a permit rests on a grant")
    }

    /// The bundle that decided, as hex SHA-256.
    pub fn bundle(&self) -> &Arc<str> {
        &self.because.bundle
    }

    /// What it rests on.
    pub fn because(&self) -> &Because {
        &self.because
    }
}

/// What is missing.
#[must_use]
pub struct Unmet {
    because: Because,
    effective: Effective,
    renewable: bool,
}

impl Unmet {
    pub(super) fn new(because: Because, effective: Effective, renewable: bool) -> Self {
        Self { because, effective, renewable }
    }

    /// What would be issued once the evidence is there.
    pub fn effective(&self) -> &Effective {
        &self.effective
    }

    /// Whether its lease would be renewable.
    pub fn renewable(&self) -> bool {
        self.renewable
    }

    /// Every requirement that is not met, with the rule that asks.
    pub fn requirements(&self) -> impl Iterator<Item = (&Requirement, &Arc<RuleNote>)> {
        self.because.policies.iter().filter_map(|note| match &note.class {
            RuleClass::Require(requirement) => Some((requirement, note)),
            RuleClass::Invariant { .. } | RuleClass::Cap(_) => None,
        })
    }

    /// What it rests on.
    pub fn because(&self) -> &Because {
        &self.because
    }

    /// The same for the workload: needs and sentences, no policy names; the rest is in the detail.
    pub fn refusal(&self) -> Refusal {
        let remedies = self.requirements().map(|(requirement, _)| Remedy {
            require: requirement.need.as_str().to_owned(),
            sentence: requirement.sentence.clone(),
            policy: None,
            ticket: None,
        });
        Refusal { remedies: remedies.collect(), ..Refusal::new(Code::NEEDS).detail(self.because.sentences(None)) }
    }
}

/// A no.
#[must_use]
pub struct Refused {
    code: Code,
    sentence: Cow<'static, str>,
    because: Because,
}

impl Refused {
    pub(super) fn new(code: Code, sentence: Cow<'static, str>, because: Because) -> Self {
        Self { code, sentence, because }
    }

    /// The stable code.
    pub fn code(&self) -> &Code {
        &self.code
    }

    /// What it rests on.
    pub fn because(&self) -> &Because {
        &self.because
    }

    /// The same for the workload: a code and a safe sentence; the rest is in the detail.
    pub fn refusal(&self) -> Refusal {
        Refusal::new(self.code.clone()).message(self.sentence.clone()).detail(self.because.sentences(Some(&self.code)))
    }
}

/// What a decision rests on: for operators and the record.
#[derive(Clone)]
pub struct Because {
    /// Who asked.
    pub workload: Workload,
    /// For what.
    pub intent: Intent,
    /// The bundle that decided, as hex SHA-256.
    pub bundle: Arc<str>,
    /// The rules that decided: what refused, or the requirements that are not met, in the order of their files; then the caps
    /// that shortened what is or would be issued.
    pub policies: Vec<Arc<RuleNote>>,
    /// Rules that would refuse once everything above were mended: for operators, who want to mend all of it at once.
    pub further: Vec<Arc<RuleNote>>,
    /// The grant it was weighed with; none when nothing covers the request.
    pub grant: Option<Arc<GrantNote>>,
    /// What shadow rules would have done.
    pub shadows: Vec<Shadow>,
    /// When no grant covers the request: those that nearly do, nearest first.
    pub near: Vec<NearMiss>,
    /// What could not be evaluated. Never empty with `policy_error`.
    pub errors: Vec<String>,
}

impl Because {
    pub(super) fn new(workload: &Workload, intent: &Intent, bundle: &Arc<str>) -> Self {
        let (workload, intent, bundle) = (workload.clone(), intent.clone(), bundle.clone());
        let (policies, further, shadows, near, errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { workload, intent, bundle, policies, further, grant: None, shadows, near, errors }
    }
}

/// What a rule under trial would have done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// It would have acted.
    Would(Arc<RuleNote>),
    /// It could not be evaluated; in force it would refuse everything it reaches.
    Fails(String),
}
