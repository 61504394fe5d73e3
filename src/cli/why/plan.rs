//! What to do, in a form that can be typed: changes of files by line, commands, and how to ask instead.
//!
//! The form is fixed, so that people and a test can follow it to the letter: each line that ends with a colon says what becomes of the
//! lines below it, which are indented further and hold nothing else.

use super::super::{Failure, output::line};
use std::collections::BTreeSet;

/// A change of a file. Lines count as the file stands now: changes are printed from its end to its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    Replace { path: String, first: usize, last: usize, text: String },
    Insert { path: String, after: usize, text: String },
    Append { path: String, text: String },
}

impl Edit {
    fn path(&self) -> &str {
        match self {
            Edit::Replace { path, .. } | Edit::Insert { path, .. } | Edit::Append { path, .. } => path,
        }
    }

    fn at(&self) -> usize {
        match self {
            Edit::Replace { first, .. } => *first,
            Edit::Insert { after, .. } => *after,
            Edit::Append { .. } => usize::MAX,
        }
    }

    fn says(&self) -> (String, &str) {
        match self {
            Edit::Replace { path, first, last, text } if first == last => (format!("Replace line {first} of {path} with:"), text),
            Edit::Replace { path, first, last, text } => (format!("Replace lines {first} to {last} of {path} with:"), text),
            Edit::Insert { path, after, text } => (format!("Insert after line {after} of {path}:"), text),
            Edit::Append { path, text } => (format!("Append to {path}:"), text),
        }
    }
}

/// One way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    says: Vec<String>,
    edits: Vec<Edit>,
    runs: Vec<String>,
    ask: Option<String>,
    /// Further ways, each with when it is the right one.
    others: Vec<(String, Plan)>,
}

impl Plan {
    pub(super) fn say(&mut self, sentence: impl Into<String>) {
        // A colon belongs to what is to be typed below it; sentences stand together above all of that.
        let sentence = sentence.into();
        let sentence = sentence.strip_suffix(':').map(|text| format!("{text}.")).unwrap_or(sentence);
        if !self.says.contains(&sentence) {
            self.says.push(sentence);
        }
    }

    pub(super) fn edit(&mut self, edit: Edit) {
        if !self.edits.contains(&edit) {
            self.edits.push(edit);
        }
    }

    pub(super) fn run(&mut self, command: impl Into<String>) {
        let command = command.into();
        if !self.runs.contains(&command) {
            self.runs.push(command);
        }
    }

    pub(super) fn ask(&mut self, command: impl Into<String>) {
        self.ask = Some(command.into());
    }

    pub(super) fn or(&mut self, when: impl Into<String>, plan: Plan) {
        let other = (when.into(), plan);
        if !self.others.contains(&other) {
            self.others.push(other);
        }
    }

    /// Takes over what another plan says.
    pub(super) fn absorb(&mut self, other: Plan) {
        let Plan { says, edits, runs, ask, others } = other;
        says.into_iter().for_each(|text| self.say(text));
        edits.into_iter().for_each(|edit| self.edit(edit));
        runs.into_iter().for_each(|command| self.run(command));
        self.ask = ask.or(self.ask.take());
        self.others.extend(others);
    }

    /// What is to be typed, without the words around it.
    pub(super) fn deeds(&self) -> Plan {
        Plan { says: Vec::new(), others: Vec::new(), ..self.clone() }
    }

    /// Nothing that could be typed here would help: keeps the words and the other ways, each of which needs these deeds as well.
    pub(super) fn only_words(&mut self, deeds: &Plan) {
        (self.edits, self.runs, self.ask) = (Vec::new(), Vec::new(), None);
        self.others.iter_mut().for_each(|(_, other)| {
            let own = other.ask.take();
            other.absorb(deeds.clone());
            other.ask = own.or(other.ask.take());
        });
    }

    /// There is more to mend than the one thing that each of the other ways is about.
    pub(super) fn rest_as_above(&mut self) {
        self.others.iter_mut().for_each(|(when, _)| *when = format!("{} (and the rest as above):", when.trim_end_matches(':')));
    }

    /// There is something to be typed.
    pub(super) fn has_deeds(&self) -> bool {
        !self.edits.is_empty() || !self.runs.is_empty() || self.ask.is_some()
    }

    /// It says how to ask instead.
    pub(super) fn asks(&self) -> bool {
        self.ask.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.says.is_empty() && self.edits.is_empty() && self.runs.is_empty() && self.ask.is_none() && self.others.is_empty()
    }

    /// The lines, without what stands before them.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut out: Vec<String> = self.says.iter().flat_map(|text| text.lines()).map(str::to_owned).collect();
        let mut block = |title: &str, text: &str| {
            out.push(title.to_owned());
            out.extend(text.lines().map(|line| format!("    {line}")));
        };
        let mut edits: Vec<&Edit> = self.edits.iter().collect();
        edits.sort_by(|a, b| a.path().cmp(b.path()).then_with(|| b.at().cmp(&a.at())));
        for edit in &edits {
            let (title, text) = edit.says();
            block(&title, text);
        }
        let files: BTreeSet<&str> = edits.iter().map(|edit| edit.path()).collect();
        let daemon = files.iter().any(|path| path.ends_with("clavigerd.toml"));
        let bundle = files.iter().any(|path| !path.ends_with("clavigerd.toml"));
        let after = daemon.then_some("systemctl restart clavigerd").into_iter().chain(bundle.then_some("clav policy check && clav reload"));
        let runs: Vec<&str> = self.runs.iter().map(String::as_str).chain(after).collect();
        if !runs.is_empty() {
            block("Run:", &runs.join("\n"));
        }
        if let Some(ask) = &self.ask {
            block("Let the program ask:", ask);
        }
        for (when, plan) in &self.others {
            out.push(format!("Or, {when}"));
            out.extend(plan.lines());
        }
        out
    }

    pub(super) fn print(&self) -> Result<(), Failure> {
        self.lines().iter().try_for_each(|text| line(&format!("  {text}")))
    }
}

/// A text as one word of a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:@%+=,".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_one_file_are_told_from_its_end() {
        let mut plan = Plan::default();
        let replace = |first| Edit::Replace { path: "a.toml".into(), first, last: first, text: "x".into() };
        plan.edit(replace(3));
        plan.edit(Edit::Insert { path: "a.toml".into(), after: 9, text: "y\nz".into() });
        plan.edit(replace(3));
        let lines = plan.lines();
        assert_eq!(lines[..3], ["Insert after line 9 of a.toml:", "    y", "    z"]);
        assert_eq!(lines[3..], ["Replace line 3 of a.toml with:", "    x", "Run:", "    clav policy check && clav reload"]);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted("db/ro"), "db/ro");
        assert_eq!(quoted("it's $HOME"), "'it'\\''s $HOME'");
    }
}
