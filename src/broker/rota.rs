//! Which values that last are to be looked at or changed now. Bookkeeping alone, with the times given: `rotate` does what it says.
//!
//! Nothing of it is kept over a restart. How old a value is its engine knows, and the first look after a start asks for it.

use crate::{
    digest::sha256,
    engine::{Standing, Version},
    model::{BootTime, Due, EngineName, SecretDefinition, SecretName, WallTime},
    wire::RotationRow,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

const SECOND: u64 = 1_000_000;
/// Between two looks at a value: whether it is still what the source takes.
const LOOK: u64 = 3_600 * SECOND;
/// After a failure, doubled each time.
const FIRST_PAUSE: u64 = 60 * SECOND;
const LONGEST_PAUSE: u64 = 3_600 * SECOND;
/// What goes on being wrong is said again after so long.
const SAID_FOR: u64 = 24 * 3_600 * SECOND;

/// A secret whose value lasts, and whether its engine changes it.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) secret: Arc<SecretDefinition>,
    pub(super) can_rotate: bool,
}

/// What is to be done.
pub(super) enum Step {
    /// See which version there is and whether it works.
    Look(Arc<SecretDefinition>),
    /// Change it.
    Rotate(Arc<SecretDefinition>),
    /// Say that it is too old.
    Late(Arc<SecretDefinition>, Due),
}

impl Step {
    pub(super) fn secret(&self) -> &Arc<SecretDefinition> {
        match self {
            Step::Look(secret) | Step::Rotate(secret) | Step::Late(secret, _) => secret,
        }
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) wall: WallTime,
    pub(super) boot: BootTime,
}

/// What is known of every such secret.
#[derive(Default)]
pub(super) struct Rota {
    entries: Vec<Entry>,
    generation: Option<u64>,
    rows: BTreeMap<SecretName, Row>,
    busy: BTreeSet<EngineName>,
}

struct Row {
    /// What the value is of which this is known.
    recipe: Arc<str>,
    version: Option<Version>,
    /// When it is looked at; at once, to begin with.
    look: Option<BootTime>,
    trouble: Option<Trouble>,
    late_said: Option<BootTime>,
}

impl Row {
    fn of(secret: &SecretDefinition) -> Self {
        Self { recipe: secret.recipe.clone(), version: None, look: None, trouble: None, late_said: None }
    }
}

struct Trouble {
    /// It could not be changed; otherwise it could not be looked at, or does not work.
    rotating: bool,
    why: String,
    tries: u32,
    again: BootTime,
    said: BootTime,
}

impl Rota {
    /// Which secrets there are, where the files were loaded anew.
    pub(super) fn load(&mut self, generation: u64, entries: impl FnOnce() -> Vec<Entry>) {
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        self.entries = entries();
        let entries = &self.entries;
        // What is known of one value says nothing of another that has the name now.
        self.rows.retain(|name, row| entries.iter().any(|entry| entry.secret.name == *name && entry.secret.recipe == row.recipe));
    }

    /// What is to be done now: of each engine one thing at a time, changing before looking, the one that is due longest first. Without
    /// `may_change` nothing is changed. A look or change must be followed by [`Rota::looked`] or [`Rota::rotated`].
    pub(super) fn next(&mut self, now: Now, may_change: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut chosen: BTreeMap<&EngineName, (u64, Step)> = BTreeMap::new();
        for Entry { secret, can_rotate } in &self.entries {
            let row = self.rows.entry(secret.name.clone()).or_insert_with(|| Row::of(secret));
            let due = row.version.and_then(|version| due(secret, version));
            if let Some(due) = due.filter(|due| due.late <= now.wall)
                && row.late_said.is_none_or(|said| now.boot.since(said) >= SAID_FOR)
            {
                row.late_said = Some(now.boot);
                steps.push(Step::Late(secret.clone(), due));
            }
            if self.busy.contains(&secret.engine) {
                continue;
            }
            let trouble = row.trouble.as_ref().filter(|trouble| trouble.rotating);
            let waits = trouble.is_some_and(|trouble| trouble.again > now.boot);
            // A change that failed is tried again also where a person had asked for it before it was due.
            let wanted = match due.filter(|due| due.from <= now.wall) {
                Some(due) => Some(due.from.0),
                None => trouble.and(row.version).map(|_| u64::MAX - 1),
            };
            let (rank, step) = match wanted.filter(|_| *can_rotate && may_change && !waits) {
                Some(rank) => (rank, Step::Rotate(secret.clone())),
                None if row.look.is_none_or(|look| look <= now.boot) => (u64::MAX, Step::Look(secret.clone())),
                None => continue,
            };
            if chosen.get(&secret.engine).is_none_or(|(best, _)| rank < *best) {
                chosen.insert(&secret.engine, (rank, step));
            }
        }
        self.busy.extend(chosen.keys().map(|name| (*name).clone()));
        steps.extend(chosen.into_values().map(|(_, step)| step));
        steps
    }

    /// A look is over, and this is what is kept. Whether somebody has to be told: what is wrong is new, or was told a day ago.
    pub(super) fn looked(&mut self, secret: &SecretDefinition, kept: Standing, found: Result<Option<Version>, String>, now: Now) -> bool {
        self.busy.remove(&secret.engine);
        let row = self.rows.entry(secret.name.clone()).or_insert_with(|| Row::of(secret));
        if found.is_err() {
            // When it is due does not hang on whether it works.
            row.version = row.version.or(kept.version);
        }
        if kept.cut_short && row.trouble.as_ref().is_none_or(|trouble| !trouble.rotating) {
            let why = "a change was cut short".to_owned();
            row.trouble = Some(Trouble { rotating: true, why, tries: 0, again: now.boot, said: now.boot });
        }
        match found {
            Ok(version) => {
                row.version = version;
                // An eighth sooner or later, so that many do not come at once.
                row.look = Some(BootTime(now.boot.0 + LOOK - apart(secret, now.boot.0, LOOK / 8)));
                row.trouble = row.trouble.take().filter(|trouble| trouble.rotating);
                false
            }
            Err(why) => {
                let failed = row.failed(secret, false, why, now);
                row.look = Some(failed.0);
                failed.1
            }
        }
    }

    /// A change is over, whoever asked for it.
    pub(super) fn rotated(&mut self, secret: &SecretDefinition, done: Result<Version, String>, now: Now) {
        self.busy.remove(&secret.engine);
        let row = self.rows.entry(secret.name.clone()).or_insert_with(|| Row::of(secret));
        match done {
            Ok(version) => {
                *row = Row { version: Some(version), look: Some(BootTime(now.boot.0 + LOOK)), ..Row::of(secret) };
            }
            Err(why) => drop(row.failed(secret, true, why, now)),
        }
    }

    /// How every one of them stands, by name.
    pub(super) fn view(&self, now: WallTime) -> Vec<RotationRow> {
        let mut rows: Vec<RotationRow> = self
            .entries
            .iter()
            .map(|Entry { secret, can_rotate }| {
                let row = self.rows.get(&secret.name);
                let version = row.and_then(|row| row.version);
                let due = version.and_then(|version| due(secret, version));
                RotationRow {
                    name: secret.name.clone(),
                    engine: secret.engine.clone(),
                    changed_here: *can_rotate,
                    version: version.map(|version| version.number),
                    made: version.map(|version| version.made.rfc3339()),
                    due: due.map(|due| due.from.rfc3339()),
                    late: due.map(|due| due.late.rfc3339()),
                    overdue: due.is_some_and(|due| due.late <= now),
                    trouble: row.and_then(|row| Some(row.trouble.as_ref()?.why.clone())),
                }
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }
}

impl Row {
    /// When it is tried again, and whether somebody has to be told.
    fn failed(&mut self, secret: &SecretDefinition, rotating: bool, why: String, now: Now) -> (BootTime, bool) {
        let before = self.trouble.take();
        // That it cannot be changed is the worse trouble, and stays said until it can.
        if let Some(worse) = before.as_ref().filter(|before| before.rotating && !rotating) {
            let again = worse.again;
            self.trouble = before;
            return (again.max(BootTime(now.boot.0 + FIRST_PAUSE)), false);
        }
        let same = before.filter(|before| before.rotating == rotating);
        let tries = same.as_ref().map_or(0, |before| before.tries) + 1;
        let said = same.filter(|before| before.why == why && now.boot.since(before.said) < SAID_FOR).map(|before| before.said);
        let pause = FIRST_PAUSE.saturating_mul(1 << (tries - 1).min(12)).min(LONGEST_PAUSE);
        let again = BootTime(now.boot.0 + pause + apart(secret, u64::from(tries), pause / 8));
        self.trouble = Some(Trouble { rotating, why, tries, again, said: said.unwrap_or(now.boot) });
        (again, said.is_none())
    }
}

/// When a version is due. The same after a restart.
fn due(secret: &SecretDefinition, version: Version) -> Option<Due> {
    secret.rotate?.due(version.made, spread(secret, version.made.0))
}

/// A number that differs by secret and occasion.
fn spread(secret: &SecretDefinition, occasion: u64) -> u16 {
    let hash = sha256(&[b"claviger rotation\0", &occasion.to_be_bytes(), secret.name.as_str().as_bytes()]);
    u16::from_be_bytes([hash[0], hash[1]])
}

/// Up to so many microseconds, by secret and occasion.
fn apart(secret: &SecretDefinition, occasion: u64, most: u64) -> u64 {
    most / 65_536 * u64::from(spread(secret, occasion))
}

#[cfg(test)]
mod tests;
