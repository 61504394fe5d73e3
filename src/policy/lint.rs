//! The annotations of a policy, read as the closed vocabulary they are. What is not understood does not load.

use super::{
    reads::Reads,
    rule::{Cap, Grant, GrantNote, Need, Requirement, Rule, RuleClass, RuleNote},
    slice::Reach,
    source::{Fault, Notice, Place, Problem, Statement, Warning},
};
use crate::model::{Code, Line, Owner, Purpose, TicketId, Ttl, WallTime};
use cedar_policy::{Effect, Policy, PolicyId};
use serde_json::{Value, json};
use std::{borrow::Cow, sync::Arc};

/// The furthest ahead that a grant may expire.
const GRANT_DAYS: u64 = 90;
/// How long before its end a grant is reported.
const SOON_DAYS: u64 = 14;
const DAY: u64 = 86_400_000_000;

/// A policy that passed.
pub(super) enum Linted {
    Grant(Grant),
    Rule(Rule),
}

impl Linted {
    pub fn id(&self) -> &str {
        match self {
            Linted::Grant(grant) => &grant.note.id,
            Linted::Rule(rule) => &rule.note.id,
        }
    }

    pub fn place(&self) -> &Place {
        match self {
            Linted::Grant(grant) => &grant.note.place,
            Linted::Rule(rule) => &rule.note.place,
        }
    }

    pub fn policy(&self) -> &Policy {
        match self {
            Linted::Grant(grant) => &grant.policy,
            Linted::Rule(rule) => &rule.policy,
        }
    }
}

/// Reads one policy's annotations. `None` when they do not hold together; the problems say why.
pub(super) fn lint(
    policy: &Policy,
    at: &Statement<'_>,
    today: WallTime,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Option<Linted> {
    let reads = match Reads::of(policy) {
        Ok(reads) => reads,
        Err(error) => {
            problems.push(Problem { place: at.place(0), fault: Fault::Syntax(error.to_string()) });
            return None;
        }
    };
    let before = problems.len();
    let mut notes = Notes { policy, at, reads, problems };
    let id = notes.id();
    let linted = match policy.effect() {
        Effect::Permit => notes.grant(id, today, warnings).map(Linted::Grant),
        Effect::Forbid => notes.rule(id).map(Linted::Rule),
    };
    linted.filter(|_| problems.len() == before)
}

struct Notes<'a> {
    policy: &'a Policy,
    at: &'a Statement<'a>,
    reads: Reads,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Notes<'a> {
    fn grant(&mut self, id: Option<String>, today: WallTime, warnings: &mut Vec<Warning>) -> Option<Grant> {
        self.only(&["id", "owner", "purpose", "expires", "ticket", "lasting"], "a grant does not have it");
        // Evidence is what rules ask for, all at once; a grant that waited for it would be "no grant" instead.
        for forbidden in ["evidence", "grant", "effective.ttl", "effective.uses", "effective.renewable"] {
            self.must_not_read("a grant", forbidden);
        }
        let owner = self.required("owner").and_then(|text| self.parsed("owner", text, Owner::parse));
        let purposes = self
            .required("purpose")
            .and_then(|text| text.split(',').map(|one| self.parsed("purpose", one.trim(), Purpose::parse)).collect::<Option<Vec<_>>>());
        let ticket = self.optional("ticket").map(|text| self.parsed("ticket", text, TicketId::parse));
        let lasting = self.one_of("lasting", &["yes"]).is_some();
        let expires = self.required("expires").and_then(|text| self.expiry(text, today));
        let (id, expires) = (id?, expires?);
        let place = self.at.place(0);
        if let Some(notice) = expiry_notice(&id, expires, today) {
            warnings.push(Warning { place: place.clone(), notice });
        }
        let policy = self.policy.new_id(PolicyId::new(&id));
        let conditional = policy.has_non_scope_constraint();
        let ticket = ticket.flatten();
        let note = Arc::new(GrantNote { id: id.into(), place, owner: owner?, purposes: purposes?, expires, ticket, lasting });
        Some(Grant { note, reach: Reach::of(&policy), policy, conditional })
    }

    fn rule(&mut self, id: Option<String>) -> Option<Rule> {
        let shadow = self.one_of("mode", &["shadow"]).is_some();
        self.required("class")?;
        let class = match self.one_of("class", &["invariant", "require", "cap"])? {
            "invariant" => self.invariant()?,
            "require" => self.requirement()?,
            _ => self.cap()?,
        };
        let id = id?;
        let policy = self.policy.new_id(PolicyId::new(&id));
        let note = Arc::new(RuleNote { id, place: self.at.place(0), class });
        Some(Rule { note, reach: Reach::of(&policy), policy, shadow })
    }

    fn invariant(&mut self) -> Option<RuleClass> {
        self.only(&["id", "class", "mode", "code", "sentence"], "an invariant does not have it");
        self.must_not_read("an invariant", "evidence");
        self.must_not_read("an invariant", "grant");
        let name = self.required("code")?;
        if !is_word(name, b"_") {
            return self.bad("code", name, "must be of a-z, 0-9 and '_'");
        }
        let own = Code::ALL.iter().map(|(code, _)| code).find(|code| code.as_str() == name);
        let code = own.cloned().unwrap_or_else(|| Code::from_policy(name));
        let sentence = match self.optional("sentence") {
            Some(text) => Cow::Owned(self.sentence(text)?),
            None => Cow::Borrowed(code.sentence()),
        };
        Some(RuleClass::Invariant { code, sentence })
    }

    fn requirement(&mut self) -> Option<RuleClass> {
        self.only(&["id", "class", "mode", "require", "sentence", "approval", "control"], "a requirement does not have it");
        let word = self.required("require")?;
        let Some(&need) = Need::ALL.iter().find(|need| need.as_str() == word) else {
            let words: Vec<_> = Need::ALL.iter().map(|need| need.as_str()).collect();
            return self.bad("require", word, &format!("must be one of {}", words.join(", ")));
        };
        if !self.reads.any_of(need.reads()) {
            self.fault(None, Fault::NeverMet(need.reads()));
        }
        let text = self.required("sentence")?;
        let sentence = self.sentence(text)?;
        let approval = if need == Need::Approval { self.required("approval") } else { self.optional("approval") };
        let control = if need == Need::Control { self.required("control") } else { self.optional("control") };
        for (key, token) in [("approval", approval), ("control", control)] {
            if let Some(token) = token.filter(|token| !is_word(token, b"-_./") || !self.reads.compares_with(token)) {
                self.bad::<()>(key, token, "must be a word that the condition compares with");
            }
        }
        Some(RuleClass::Require(Requirement { need, sentence, approval: approval.map(str::to_owned), control: control.map(str::to_owned) }))
    }

    fn cap(&mut self) -> Option<RuleClass> {
        self.only(&["id", "class", "mode", "cap_ttl", "cap_uses", "cap_renewable"], "a cap does not have it");
        let set: Vec<_> = ["cap_ttl", "cap_uses", "cap_renewable"].into_iter().filter(|key| self.optional(key).is_some()).collect();
        let &[key] = set.as_slice() else {
            self.fault(None, Fault::Missing("cap_ttl, @cap_uses or @cap_renewable, exactly one of them,"));
            return None;
        };
        let text = self.optional(key)?;
        let (cap, reading, body) = match key {
            "cap_ttl" => {
                let Some(ttl) = Ttl::parse(text) else { return self.bad(key, text, "must be a time such as 15m") };
                (Cap::Ttl(ttl), format!("context.effective.ttl > {}", ttl.as_secs()), more_than("ttl", ttl.as_secs()))
            }
            "cap_uses" => {
                let Some(uses) = text.parse::<u32>().ok().filter(|uses| *uses > 0) else { return self.bad(key, text, "must be a number") };
                (Cap::Uses(uses.into()), format!("context.effective.uses > {uses}"), more_than("uses", uses))
            }
            _ => {
                self.one_of("cap_renewable", &["no"])?;
                (Cap::Once, "context.effective.renewable".to_owned(), effective("renewable"))
            }
        };
        if !self.reads.is_exactly(body) {
            self.fault(Some(key), Fault::Cap(reading));
        }
        Some(RuleClass::Cap(cap))
    }

    fn id(&mut self) -> Option<String> {
        let id = self.required("id")?;
        if is_word(id, b"-_.") && id.len() <= 128 {
            Some(id.to_owned())
        } else {
            self.bad("id", id, "must be of a-z, 0-9, '.', '_' and '-'")
        }
    }

    fn expiry(&mut self, text: &'a str, today: WallTime) -> Option<WallTime> {
        match WallTime::parse(text).filter(|_| text.len() == "YYYY-MM-DD".len()) {
            None => self.bad("expires", text, "must be a date as YYYY-MM-DD"),
            Some(at) if at.0 > today.0.saturating_add(GRANT_DAYS * DAY) => {
                self.bad("expires", text, &format!("is more than {GRANT_DAYS} days ahead"))
            }
            at => at,
        }
    }

    fn sentence(&mut self, text: &'a str) -> Option<String> {
        if text.is_empty() {
            return self.bad("sentence", text, "is empty");
        }
        self.parsed("sentence", text, Line::parse).map(|line| line.as_str().to_owned())
    }

    fn optional(&self, key: &str) -> Option<&'a str> {
        self.policy.annotation(key)
    }

    fn required(&mut self, key: &'static str) -> Option<&'a str> {
        let value = self.optional(key);
        if value.is_none() {
            self.fault(None, Fault::Missing(key));
        }
        value
    }

    fn one_of(&mut self, key: &'static str, words: &[&str]) -> Option<&'a str> {
        let value = self.optional(key)?;
        if words.contains(&value) { Some(value) } else { self.bad(key, value, &format!("must be {}", words.join(", "))) }
    }

    fn parsed<T, E: ToString>(&mut self, key: &'static str, text: &str, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        parse(text).or_else(|why| self.bad(key, text, &why.to_string()).ok_or(())).ok()
    }

    fn only(&mut self, known: &[&str], why: &'static str) {
        for (key, _) in self.policy.annotations().filter(|(key, _)| !known.contains(key)) {
            self.problems.push(Problem { place: self.place_of(Some(key)), fault: Fault::Misplaced(key.to_owned(), why) });
        }
    }

    fn must_not_read(&mut self, kind: &'static str, path: &str) {
        if self.reads.any_of(path) {
            self.fault(None, Fault::Reads(kind, format!("context.{path}")));
        }
    }

    fn bad<T>(&mut self, key: &'static str, value: &str, why: &str) -> Option<T> {
        self.fault(Some(key), Fault::Value { key, value: value.to_owned(), why: why.to_owned() });
        None
    }

    fn fault(&mut self, key: Option<&str>, fault: Fault) {
        self.problems.push(Problem { place: self.place_of(key), fault });
    }

    fn place_of(&self, key: Option<&str>) -> Place {
        self.at.place(key.and_then(|key| self.at.text.find(&format!("@{key}"))).unwrap_or(0))
    }
}

fn expiry_notice(id: &str, expires: WallTime, today: WallTime) -> Option<Notice> {
    let (id, on) = (id.to_owned(), date(expires));
    if expires <= today {
        Some(Notice::Expired { id, on })
    } else if expires.0 - today.0 < SOON_DAYS * DAY {
        Some(Notice::ExpiresSoon { id, on })
    } else {
        None
    }
}

/// The date of an instant.
pub(super) fn date(at: WallTime) -> String {
    at.rfc3339().chars().take("YYYY-MM-DD".len()).collect()
}

fn is_word(text: &str, marks: &[u8]) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || marks.contains(&b))
}

fn effective(field: &str) -> Value {
    json!({ ".": { "left": { ".": { "left": { "Var": "context" }, "attr": "effective" } }, "attr": field } })
}

fn more_than(field: &str, limit: u32) -> Value {
    json!({ ">": { "left": effective(field), "right": { "Value": limit } } })
}
