//! When values that last are looked at and changed.

use super::*;
use crate::{
    config,
    model::{EndsBy, OfEngine},
};

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
    let secrets = drafts.into_iter().map(|draft| Arc::new(draft.with(OfEngine::ends_by(EndsBy::None))));
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

/// Nothing but what was found.
const NOTHING: Standing = Standing { version: None, cut_short: false };
const MADE: Version = Version { number: 1, made: WallTime(START) };

#[test]
fn a_value_is_looked_at_first_and_changed_in_the_tenth_day() {
    let (mut rota, secrets) = rota(&[("a", "pg", true)]);
    assert_eq!(words(&rota.next(day(0.0), true)), ["look a"]);
    assert!(rota.next(day(0.0), true).is_empty(), "one thing at a time");
    rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(0.0));
    assert!(rota.next(day(0.01), true).is_empty());
    for late in [8.9, 9.6] {
        let steps = words(&rota.next(day(late), true));
        assert_eq!(steps, [if late < 9.0 { "look a" } else { "rotate a" }]);
        if late < 9.0 {
            rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(late));
        }
    }
    rota.rotated(&secrets[0], Ok(Version { number: 2, made: day(9.6).wall }), day(9.6));
    assert!(rota.next(day(9.61), true).is_empty());
    let row = &rota.view(day(9.6).wall)[0];
    assert_eq!((row.version, row.overdue, row.trouble.as_deref()), (Some(2), false, None));
}

/// The same name over another value: nothing that was known of the one before counts.
#[test]
fn another_value_of_the_same_name_is_looked_at_first() {
    let (mut rota, secrets) = rota(&[("a", "pg", true)]);
    rota.next(day(0.0), true);
    rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(0.0));
    let renamed = || {
        let mut entry = entries(&[("a", "pg", true)]).remove(0);
        entry.secret = Arc::new(SecretDefinition { recipe: "another".into(), ..SecretDefinition::clone(&entry.secret) });
        vec![entry]
    };
    rota.load(2, renamed);
    assert_eq!(words(&rota.next(day(9.6), true)), ["look a"], "it is not changed for the age of another");
}

#[test]
fn a_failure_is_tried_again_with_growing_pauses_and_stays_told_until_it_works() {
    let (mut rota, secrets) = rota(&[("a", "pg", true)]);
    rota.next(day(0.0), true);
    rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(0.0));
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
            assert!(!rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(at)));
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
    rota.looked(&secrets[0], NOTHING, Ok(None), day(0.0));
    rota.rotated(&secrets[0], Err("not now".into()), day(0.0));
    assert_eq!(words(&rota.next(day(0.1), true)), ["look a"]);
    rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(0.1));
    rota.rotated(&secrets[0], Err("not now".into()), day(0.11));
    assert!(rota.next(day(0.11), true).is_empty(), "after a pause");
    assert_eq!(words(&rota.next(day(0.12), true)), ["rotate a"]);
    rota.rotated(&secrets[0], Ok(Version { number: 2, made: day(0.12).wall }), day(0.12));
    assert!(rota.next(day(0.13), true).is_empty());
}

#[test]
fn a_change_that_was_cut_short_is_made_once_more_after_a_restart() {
    let cut_short = |version| Standing { version, cut_short: true };
    for found in [Ok(Some(MADE)), Err("neither works".to_owned())] {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        rota.next(day(0.0), true);
        rota.looked(&secrets[0], cut_short(Some(MADE)), found, day(0.0));
        assert!(rota.next(day(0.0), false).is_empty(), "a freeze keeps it");
        assert_eq!(words(&rota.next(day(0.0), true)), ["rotate a"]);
    }
    // The first value stays a person's.
    let (mut rota, secrets) = rota(&[("a", "pg", true)]);
    rota.next(day(0.0), true);
    rota.looked(&secrets[0], cut_short(None), Ok(None), day(0.0));
    assert!(rota.next(day(0.0), true).is_empty());
}

#[test]
fn a_value_that_does_not_work_is_due_all_the_same() {
    let (mut rota, secrets) = rota(&[("a", "pg", true)]);
    rota.next(day(0.0), true);
    assert!(rota.looked(&secrets[0], Standing { version: Some(MADE), cut_short: false }, Err("refused".into()), day(0.0)));
    assert_eq!(words(&rota.next(day(9.6), true)), ["rotate a"]);
}

#[test]
fn each_engine_does_one_thing_at_a_time() {
    let (mut rota, secrets) = rota(&[("a", "pg", true), ("b", "pg", true), ("c", "bao", true)]);
    assert_eq!(words(&rota.next(day(0.0), true)).len(), 2);
    for secret in &secrets {
        rota.looked(secret, NOTHING, Ok(Some(MADE)), day(0.0));
    }
    // The one that is older comes first.
    rota.looked(&secrets[1], NOTHING, Ok(Some(Version { number: 1, made: WallTime(START - DAY) })), day(0.0));
    assert_eq!(words(&rota.next(day(9.8), true)), ["late b", "rotate c", "rotate b"]);
    rota.rotated(&secrets[1], Err("no".into()), day(9.8));
    assert_eq!(words(&rota.next(day(9.8), true)), ["rotate a"], "one that fails keeps no other from its turn");
}

#[test]
fn without_leave_nothing_is_changed_and_what_is_too_old_is_said_once_a_day() {
    for (row, may_change) in [(("a", "pg", true), false), (("a", "local", false), true)] {
        let (mut rota, secrets) = rota(&[row]);
        rota.next(day(0.0), may_change);
        rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(0.0));
        let (mut said, mut hour) = (0, 0);
        while hour < 24 * 3 {
            for step in rota.next(day(9.9 + f64::from(hour) / 24.0), may_change) {
                match step {
                    Step::Rotate(_) => panic!("changed"),
                    Step::Look(secret) => drop(rota.looked(&secret, NOTHING, Ok(Some(MADE)), day(9.9 + f64::from(hour) / 24.0))),
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
    assert!(rota.looked(&secrets[0], NOTHING, Err("refused".into()), day(0.0)));
    assert!(!rota.looked(&secrets[0], NOTHING, Err("refused".into()), day(0.1)));
    assert!(rota.looked(&secrets[0], NOTHING, Err("unreachable".into()), day(0.2)));
    assert!(rota.looked(&secrets[0], NOTHING, Err("unreachable".into()), day(1.3)), "a day later");
    rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(1.4));
    assert!(rota.looked(&secrets[0], NOTHING, Err("unreachable".into()), day(1.5)), "it had worked");
}

#[test]
fn a_restart_changes_nothing_about_when() {
    let due = |at| {
        let (mut rota, secrets) = rota(&[("a", "pg", true)]);
        rota.looked(&secrets[0], NOTHING, Ok(Some(MADE)), day(at));
        rota.view(day(at).wall)[0].due.clone()
    };
    assert_eq!(due(0.0), due(5.0));
}
