//! Which values that last are to be looked at or changed now. Bookkeeping alone, with the times given: `rotate` does what it says.
//!
//! Nothing of it is kept over a restart. How old a value is its engine knows, and the first look after a start asks for it.

use crate::{
    digest::sha256,
    engine::Version,
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

#[derive(Default)]
struct Row {
    version: Option<Version>,
    /// When it is looked at; at once, to begin with.
    look: Option<BootTime>,
    trouble: Option<Trouble>,
    late_said: Option<BootTime>,
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
        self.rows.retain(|name, _| entries.iter().any(|entry| entry.secret.name == *name));
    }

    /// What is to be done now: of each engine one thing at a time, changing before looking, the one that is due longest first. Without
    /// `may_change` nothing is changed. A look or change must be followed by [`Rota::looked`] or [`Rota::rotated`].
    pub(super) fn next(&mut self, now: Now, may_change: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut chosen: BTreeMap<&EngineName, (u64, Step)> = BTreeMap::new();
        for Entry { secret, can_rotate } in &self.entries {
            let row = self.rows.entry(secret.name.clone()).or_default();
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

    /// A look is over. Whether somebody has to be told: what is wrong is new, or was told a day ago.
    pub(super) fn looked(&mut self, secret: &SecretDefinition, found: Result<Option<Version>, String>, now: Now) -> bool {
        self.busy.remove(&secret.engine);
        let row = self.rows.entry(secret.name.clone()).or_default();
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
        let row = self.rows.entry(secret.name.clone()).or_default();
        match done {
            Ok(version) => {
                *row = Row { version: Some(version), look: Some(BootTime(now.boot.0 + LOOK)), ..Row::default() };
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
mod tests {
    use super::*;
    use crate::{config, model::EndsBy};

    const DAY: u64 = 24 * 3_600 * SECOND;
    const START: u64 = 20_000 * DAY;

    /// Rows whose values are used for ten days at most.
    fn entries(rows: &[(&str, &str, bool)]) -> Vec<Entry> {
        let text: String = rows
            .iter()
            .map(|(name, engine, _)| {
                format!(
                    "[[secret]]\nname = \"{name}\"\nengine = \"{engine}\"\nowner = \"a\"\nsensitivity = \"internal\"\nenvironment = \"a\"\n\
                     purposes = [\"a\"]\noperation = \"read\"\nttl = {{ max = \"1h\" }}\nrotate = {{ every = \"10d\" }}\ndescription = \"a\"\n"
                )
            })
            .collect();
        let drafts = config::secrets(&[config::File { path: "a".into(), text }]).unwrap_or_else(|errors| panic!("{errors:?}"));
        let secrets = drafts.into_iter().map(|draft| Arc::new(draft.with(EndsBy::None)));
        secrets.zip(rows).map(|(secret, (.., can_rotate))| Entry { secret, can_rotate: *can_rotate }).collect()
    }

    fn rota(rows: &[(&str, &str, bool)]) -> (Rota, Vec<Arc<SecretDefinition>>) {
        let (mut rota, entries) = (Rota::default(), entries(rows));
        let secrets = entries.iter().map(|entry| entry.secret.clone()).collect();
        rota.load(1, || entries);
        (rota, secrets)
    }

    /// So many days after the start.
    fn day(days: f64) -> Now {
        let micros = (days * DAY as f64) as u64;
        Now { wall: WallTime(START + micros), boot: BootTime(1_000 * SECOND + micros) }
    }

    fn words(steps: &[Step]) -> Vec<String> {
        let said = |step: &Step| match step {
            Step::Look(secret) => format!("look {}", secret.name),
            Step::Rotate(secret) => format!("rotate {}", secret.name),
            Step::Late(secret, _) => format!("late {}", secret.name),
        };
        steps.iter().map(said).collect()
    }

    const MADE: Version = Version { number: 1, made: WallTime(START) };

    #[test]
    fn a_value_is_looked_at_first_and_changed_in_the_tenth_day() {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        assert_eq!(words(&rota.next(day(0.0), true)), ["look a"]);
        assert!(rota.next(day(0.0), true).is_empty(), "one thing at a time");
        rota.looked(&secrets[0], Ok(Some(MADE)), day(0.0));
        assert!(rota.next(day(0.01), true).is_empty());
        for late in [8.9, 9.6] {
            let steps = words(&rota.next(day(late), true));
            assert_eq!(steps, [if late < 9.0 { "look a" } else { "rotate a" }]);
            if late < 9.0 {
                rota.looked(&secrets[0], Ok(Some(MADE)), day(late));
            }
        }
        rota.rotated(&secrets[0], Ok(Version { number: 2, made: day(9.6).wall }), day(9.6));
        assert!(rota.next(day(9.61), true).is_empty());
        let row = &rota.view(day(9.6).wall)[0];
        assert_eq!((row.version, row.overdue, row.trouble.as_deref()), (Some(2), false, None));
    }

    #[test]
    fn a_failure_is_tried_again_with_growing_pauses_and_stays_told_until_it_works() {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        rota.next(day(0.0), true);
        rota.looked(&secrets[0], Ok(Some(MADE)), day(0.0));
        let (mut tries, mut at, mut pauses) = (0, 9.6, Vec::new());
        let mut last = at;
        while tries < 12 {
            let steps = words(&rota.next(day(at), true));
            if steps.contains(&"rotate a".to_owned()) {
                rota.rotated(&secrets[0], Err("not now".into()), day(at));
                pauses.push(((at - last) * 86_400.0).round() as u64);
                (last, tries) = (at, tries + 1);
            } else if steps.contains(&"look a".to_owned()) {
                // That it works says nothing about whether it can be changed.
                assert!(!rota.looked(&secrets[0], Ok(Some(MADE)), day(at)));
            }
            assert_eq!(rota.view(day(at).wall)[0].trouble.as_deref(), Some("not now"));
            at += 1.0 / 86_400.0;
        }
        assert!((60..=70).contains(&pauses[1]) && (120..=140).contains(&pauses[2]), "{pauses:?}");
        assert!(pauses.windows(2).skip(1).all(|pair| pair[1] > pair[0] || pair[1] >= 3_600), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= 4_060), "{pauses:?}");
        rota.rotated(&secrets[0], Ok(Version { number: 2, made: day(at).wall }), day(at));
        assert_eq!(rota.view(day(at).wall)[0].trouble, None);
    }

    #[test]
    fn what_a_person_wanted_changed_and_failed_is_tried_again_before_it_is_due() {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        rota.next(day(0.0), true);
        // Nothing was ever given: the first change stays a person's.
        rota.looked(&secrets[0], Ok(None), day(0.0));
        rota.rotated(&secrets[0], Err("not now".into()), day(0.0));
        assert_eq!(words(&rota.next(day(0.1), true)), ["look a"]);
        rota.looked(&secrets[0], Ok(Some(MADE)), day(0.1));
        rota.rotated(&secrets[0], Err("not now".into()), day(0.11));
        assert!(rota.next(day(0.11), true).is_empty(), "after a pause");
        assert_eq!(words(&rota.next(day(0.12), true)), ["rotate a"]);
        rota.rotated(&secrets[0], Ok(Version { number: 2, made: day(0.12).wall }), day(0.12));
        assert!(rota.next(day(0.13), true).is_empty());
    }

    #[test]
    fn each_engine_does_one_thing_at_a_time() {
        let (mut rota, secrets) = rota(&[("a", "pg", true), ("b", "pg", true), ("c", "bao", true)]);
        assert_eq!(words(&rota.next(day(0.0), true)).len(), 2);
        for secret in &secrets {
            rota.looked(secret, Ok(Some(MADE)), day(0.0));
        }
        // The one that is older comes first.
        rota.looked(&secrets[1], Ok(Some(Version { number: 1, made: WallTime(START - DAY) })), day(0.0));
        assert_eq!(words(&rota.next(day(9.8), true)), ["late b", "rotate c", "rotate b"]);
        rota.rotated(&secrets[1], Err("no".into()), day(9.8));
        assert_eq!(words(&rota.next(day(9.8), true)), ["rotate a"], "one that fails keeps no other from its turn");
    }

    #[test]
    fn without_leave_nothing_is_changed_and_what_is_too_old_is_said_once_a_day() {
        for (row, may_change) in [(("a", "pg", true), false), (("a", "local", false), true)] {
            let (mut rota, secrets) = rota(&[row]);
            rota.next(day(0.0), may_change);
            rota.looked(&secrets[0], Ok(Some(MADE)), day(0.0));
            let (mut said, mut hour) = (0, 0);
            while hour < 24 * 3 {
                for step in rota.next(day(9.9 + f64::from(hour) / 24.0), may_change) {
                    match step {
                        Step::Rotate(_) => panic!("changed"),
                        Step::Look(secret) => drop(rota.looked(&secret, Ok(Some(MADE)), day(9.9 + f64::from(hour) / 24.0))),
                        Step::Late(..) => said += 1,
                    }
                }
                hour += 1;
            }
            assert_eq!(said, 3);
            assert!(rota.view(day(12.0).wall)[0].overdue);
        }
    }

    #[test]
    fn what_does_not_work_is_said_once_and_again_when_it_is_something_else() {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        assert!(rota.looked(&secrets[0], Err("refused".into()), day(0.0)));
        assert!(!rota.looked(&secrets[0], Err("refused".into()), day(0.1)));
        assert!(rota.looked(&secrets[0], Err("unreachable".into()), day(0.2)));
        assert!(rota.looked(&secrets[0], Err("unreachable".into()), day(1.3)), "a day later");
        rota.looked(&secrets[0], Ok(Some(MADE)), day(1.4));
        assert!(rota.looked(&secrets[0], Err("unreachable".into()), day(1.5)), "it had worked");
    }

    #[test]
    fn a_restart_changes_nothing_about_when() {
        let due = |at| {
            let (mut rota, secrets) = rota(&[("a", "pg", true)]);
            rota.looked(&secrets[0], Ok(Some(MADE)), day(at));
            rota.view(day(at).wall)[0].due.clone()
        };
        assert_eq!(due(0.0), due(5.0));
    }
}
