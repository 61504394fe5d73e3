//! Values that last, of programs, under the contract, and what changing them promises: logins of a real nginx, and a program of every bad habit.

use crate::{
    command::{Behind, CANARY, LIMIT, SHORT, Site, attribute, mark, plugin, shown},
    static_roles::store,
    suite::{Asked, Harness, secret},
};
use claviger::{
    engine::{Engine, EngineError, Issued, command::CommandEngine},
    model::{EndResult, LeaseId, Operation, SecretDefinition, SecretName},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

fn monitor(engine: &CommandEngine) -> SecretDefinition {
    secret("status/monitor", engine, json!({"ends": "none", "parameters": {"site": "status"}}))
}

async fn logins() -> Option<Harness> {
    let site = Site::start()?;
    let engine = Arc::new(site.behind.engine(LIMIT));
    let secret = monitor(&engine);
    engine.rotate(&secret).await.unwrap();
    Some(Harness { engine, secret, probe: Box::new(site) })
}

mod nginx_logins {
    crate::contract!(super::logins);
}

async fn issue(engine: &CommandEngine, secret: &SecretDefinition) -> Issued {
    engine.issue(&Asked::new().order(secret)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_lasts_is_changed_and_the_one_before_works_until_the_next_change() {
    let Some(site) = Site::start() else { return };
    let engine = site.behind.engine(LIMIT);
    let secret = monitor(&engine);
    // Nothing is made by asking for it.
    assert!(matches!(engine.issue(&Asked::new().order(&secret)).await, Err(EngineError::NoValue)));
    assert_eq!(engine.newest(&secret).await.unwrap(), None);
    let mut issued: Vec<Issued> = Vec::new();
    for n in 1..=4 {
        let made = engine.rotate(&secret).await.unwrap();
        assert_eq!((made.number, engine.newest(&secret).await.unwrap()), (n, Some(made)));
        issued.push(issue(&engine, &secret).await);
        assert_eq!(attribute(&issued[issued.len() - 1], "version"), n.to_string());
        for (at, one) in issued.iter().enumerate() {
            let lives = at + 2 >= issued.len();
            assert_eq!(site.ask(one, "GET"), if lives { "200" } else { "401" }, "version {} after {n}", at + 1);
            let asked = Asked::new();
            let read = engine.read(&asked.order(&secret), &one.reference).await;
            assert_eq!(read.is_ok_and(|read| read.value.expose() == one.value.expose()), lives);
            assert_eq!(engine.renew(&asked.order(&secret), &one.reference).await.is_ok(), lives);
            assert_eq!(engine.is_newest(&secret, &one.reference), at + 1 == issued.len());
        }
    }
    // The definition allows writing, so the login does; its line says what it is.
    assert_eq!(site.ask(&issued[3], "PUT"), "405");
    let file = site.behind.text("status.read");
    assert!(file.lines().count() == 2 && file.contains(":secret=status/monitor number=4\n"), "{file}");
    // A lease's end is not the value's, and no lease is looked for among the versions.
    assert_eq!(engine.end(LeaseId::from_parts(1, 1), &issued[3].reference).await.unwrap(), EndResult::Lapsed);
    assert!(site.ask(&issued[3], "GET") == "200" && engine.inventory().await.unwrap().is_empty());
}

// ---- programs with bad habits ----------------------------------------------------------------------------------------------------

fn row(engine: &CommandEngine, style: &str) -> SecretDefinition {
    secret("app/key", engine, json!({"ends": "none", "overlap": !style.ends_with("alone"), "parameters": {"style": style}}))
}

/// What the source takes: the value of each file.
fn values(behind: &Behind) -> Vec<String> {
    let value =
        |name: &String| serde_json::from_str::<Value>(&behind.text(&format!("made/{name}"))).unwrap()["value"].as_str().unwrap().to_owned();
    behind.made().iter().filter(|name| !name.ends_with(".new")).map(value).collect()
}

fn works(behind: &Behind, issued: &Issued) -> bool {
    values(behind).iter().any(|value| value.as_bytes() == issued.value.expose())
}

/// Whatever a program does when it is to set another value: a clear error, no byte of a value in it, what is given goes on working where
/// the source has two, and the next try leaves no more than those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_whatever_habit_costs_nobody_the_value() {
    let Some(behind) = plugin() else { return };
    for (how, wanted) in [
        ("rotate made-and-hang", "Unreachable(\"under-test: rotate: the program had not ended after 2000 ms"),
        ("rotate flood", "Setup(\"under-test: rotate: the program answers with more than 65536 bytes"),
        ("rotate garbage", "Setup(\"under-test: rotate: the program's answer is not one object of JSON, at byte 1"),
        ("rotate truncated", "Setup(\"under-test: rotate: the program's answer is cut off"),
        ("rotate nothing", "Unreachable(\"under-test: rotate: the program ended without an answer"),
        ("rotate killed", "Unreachable(\"under-test: rotate: the program ended without an answer"),
        ("rotate other-name", "Setup(\"under-test: rotate: the program's answer is about another name"),
        ("rotate other-lease", "Setup(\"under-test: rotate: the program's answer is about another name"),
        ("rotate refused", "Refused(\"under-test: rotate: the program says: it rains"),
        ("rotate no-value", "NoValue"),
        ("rotate proposal-in-error", "Refused(\"under-test: rotate: the program says something that may hold the value"),
        ("probe dead", "Refused(\"under-test: the program says that the new value does not work"),
        ("probe credulous", "Setup(\"under-test: probe: the program finds a value good that was never set"),
        ("probe nothing", "Unreachable(\"under-test: probe: the program ended without an answer"),
        ("list garbage", "Setup(\"under-test: list: the program's answer is not one object of JSON"),
    ] {
        // Where it matters how the source makes values, it is asked three times.
        let styles: &[&str] = match how.split_once(' ').unwrap().1 {
            "made-and-hang" | "garbage" | "nothing" | "dead" | "refused" => &["given", "own", "alone", "own-alone"],
            "credulous" => &["alone"],
            _ => &["given"],
        };
        let styles = if how.starts_with("list") { &styles[..1] } else { styles };
        for &style in styles {
            let engine = behind.engine(if wanted.contains("2000 ms") { SHORT } else { LIMIT });
            let secret = row(&engine, style);
            // There is one before, which is to be taken back.
            for _ in 0..2 {
                engine.rotate(&secret).await.unwrap();
            }
            let before = issue(&engine, &secret).await;
            behind.mood(how);
            let said = shown(engine.rotate(&secret).await);
            assert!(said.starts_with(wanted) && !said.contains(CANARY) && said.len() < 600, "{how}, {style}: {said}");
            assert!(values(&behind).iter().all(|value| !said.contains(&value[..8])), "{how}, {style}: {said}");
            behind.mood("");
            let alone = style.ends_with("alone");
            match engine.issue(&Asked::new().order(&secret)).await {
                Ok(given) => {
                    assert!(works(&behind, &given), "{how}, {style}");
                    assert!(alone || given.value.expose() == before.value.expose(), "{how}, {style}");
                }
                // Its source has a value that nobody knows: better none than one that does not work.
                Err(EngineError::Unreachable(why)) => {
                    let told = ["is being changed", "neither the value before nor the one after works"];
                    assert!(alone && told.iter().any(|told| why.contains(told)), "{how}, {style}: {why}");
                    assert!(style == "own-alone" || how.ends_with("made-and-hang"), "{how}, {style}: {why}");
                }
                Err(why) => panic!("{how}, {style}: {why}"),
            }
            let done = engine.rotate(&secret).await.unwrap_or_else(|error| panic!("{how}, {style}: {error}"));
            let given = issue(&engine, &secret).await;
            assert!(works(&behind, &given) && attribute(&given, "version") == done.number.to_string(), "{how}, {style}");
            assert_eq!((works(&behind, &before), values(&behind).len()), (!alone, if alone { 1 } else { 2 }), "{how}, {style}");
            for name in behind.made() {
                std::fs::remove_file(behind.folder.path().join("made").join(name)).unwrap();
            }
            behind.store.remove_own(&format!("command/under-test/{}", label())).unwrap();
        }
    }
}

/// A version that cannot be taken back keeps nobody from a new value, and is taken back by a later change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_back_is_given_no_more_and_tried_again() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let secret = row(&engine, "given");
    engine.rotate(&secret).await.unwrap();
    let first = issue(&engine, &secret).await;
    engine.rotate(&secret).await.unwrap();
    for (mood, number) in [("revoke refused", 3), ("revoke stays", 4)] {
        behind.mood(mood);
        assert_eq!(engine.rotate(&secret).await.unwrap().number, number);
        assert!(works(&behind, &first), "{mood}");
        assert!(matches!(engine.read(&Asked::new().order(&secret), &first.reference).await, Err(EngineError::NoValue)));
    }
    // Three are remembered; others are found on the source's list.
    for _ in 0..2 {
        engine.rotate(&secret).await.unwrap();
    }
    behind.mood("");
    assert_eq!(engine.rotate(&secret).await.unwrap().number, 7);
    assert!(!works(&behind, &first) && works(&behind, &issue(&engine, &secret).await));
    assert_eq!(values(&behind).len(), 2, "{:?}", behind.made());
}

/// What a definition allows and says is part of what a version is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_made_for_another_definition_is_not_given() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let wide = row(&engine, "given");
    engine.rotate(&wide).await.unwrap();
    let narrow = SecretDefinition { operation: Operation::Read, ..wide.clone() };
    let mut elsewhere = wide.clone();
    elsewhere.settings.insert("parameters".into(), json!({"style": "given", "site": "b"}));
    for other in [&narrow, &elsewhere] {
        for said in [shown(engine.issue(&Asked::new().order(other)).await), shown(engine.newest(other).await)] {
            assert!(said.starts_with("Setup") && said.contains("was made for another operation, other hosts or parameters"), "{said}");
        }
    }
    assert_eq!(shown(engine.newest(&wide).await), "done");
    // A change that was cut short before it is not gone on with: what it set, where it was set, is taken back.
    behind.mood("rotate nothing");
    assert!(engine.rotate(&wide).await.is_err());
    behind.mood("");
    assert_eq!((engine.rotate(&elsewhere).await.unwrap().number, values(&behind).len()), (3, 2), "{:?}", behind.made());
    let revoked: Vec<Value> = behind.text("calls").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let revoked: Vec<&Value> = revoked.iter().filter(|call| call["call"] == "revoke").collect();
    assert_eq!((revoked.len(), &revoked[0]["number"], &revoked[0]["parameters"]), (1, &json!(2), &json!({"style": "given"})));
    assert_eq!(shown(engine.newest(&elsewhere).await), "done");
}

/// Whether a source has room for two is said by a setting, and the setting may be wrong or changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_has_one_value_is_noticed_and_one_that_has_two_keeps_none_too_many() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    // Said to have two, and has one.
    let mut secret = row(&engine, "alone");
    secret.settings.insert("overlap".into(), json!(true));
    for _ in 0..3 {
        let before = engine.issue(&Asked::new().order(&secret)).await;
        engine.rotate(&secret).await.unwrap();
        assert!(works(&behind, &issue(&engine, &secret).await));
        if let Ok(before) = before {
            let read = engine.read(&Asked::new().order(&secret), &before.reference).await;
            assert!(matches!(read, Err(EngineError::NoValue)), "it is dead");
        }
    }
    std::fs::remove_file(behind.folder.path().join("made/the-one")).unwrap();
    behind.store.remove_own(&format!("command/under-test/{}", label())).unwrap();
    // Had two, and is to have one from now on.
    let mut secret = row(&engine, "given");
    for _ in 0..2 {
        engine.rotate(&secret).await.unwrap();
    }
    secret.settings.insert("overlap".into(), json!(false));
    engine.rotate(&secret).await.unwrap();
    assert!(values(&behind).len() == 1 && works(&behind, &issue(&engine, &secret).await), "{:?}", behind.made());
}

/// The same setting turned at a source that has one place, and a program that goes by no name when it takes something back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn taking_back_what_has_no_name_of_its_own_costs_nobody_the_value() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let mut secret = row(&engine, "alone");
    for overlap in [true, false] {
        secret.settings.insert("overlap".into(), json!(overlap));
        engine.rotate(&secret).await.unwrap();
        assert!(works(&behind, &issue(&engine, &secret).await), "{overlap}");
    }
    std::fs::remove_file(behind.folder.path().join("made/the-one")).unwrap();
    behind.store.remove_own(&format!("command/under-test/{}", label())).unwrap();
    let mut secret = row(&engine, "given");
    engine.rotate(&secret).await.unwrap();
    secret.settings.insert("overlap".into(), json!(false));
    behind.mood("revoke all");
    let said = shown(engine.rotate(&secret).await);
    assert!(said.contains("the new value died when another version was taken back"), "{said}");
    behind.mood("");
    engine.rotate(&secret).await.unwrap();
    assert!(works(&behind, &issue(&engine, &secret).await));
}

/// A definition is corrected while it is not known what a change came to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_begun_for_another_definition_is_settled_before_it_is_parted_from() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(SHORT);
    for (style, number) in [("alone", 3), ("own-alone", 3), ("given", 3)] {
        let secret = secret(&format!("app/{style}"), &engine, row(&engine, style).settings.into());
        engine.rotate(&secret).await.unwrap();
        behind.mood("rotate made-and-hang");
        assert!(engine.rotate(&secret).await.is_err());
        behind.mood("");
        let mut corrected = secret.clone();
        corrected.settings.insert("parameters".into(), json!({"style": style, "more": 1}));
        assert_eq!(engine.rotate(&corrected).await.unwrap().number, number, "{style}");
        assert!(works(&behind, &issue(&engine, &corrected).await), "{style}");
        behind.made().iter().for_each(|name| std::fs::remove_file(behind.folder.path().join("made").join(name)).unwrap());
    }
}

/// A program that could not be reached has set nothing: what is given stays certain, and nobody has to ask.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_reached_nobody_leaves_no_doubt() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let secret = row(&engine, "alone");
    engine.rotate(&secret).await.unwrap();
    let away = behind.folder.path().join("away");
    std::fs::rename(behind.socket(), &away).unwrap();
    assert!(matches!(engine.rotate(&secret).await, Err(EngineError::Unreachable(_))));
    assert!(works(&behind, &issue(&engine, &secret).await));
    std::fs::rename(&away, behind.socket()).unwrap();
    assert_eq!(engine.rotate(&secret).await.unwrap().number, 2);
}

/// Names that a program lists are its own words: only what is called as we would call it counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_names_raise_no_number() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let secret = row(&engine, "given");
    engine.rotate(&secret).await.unwrap();
    behind.mood("list wrong-numbers");
    assert_eq!(engine.rotate(&secret).await.unwrap().number, 2);
    assert_eq!(values(&behind).len(), 2);
}

/// Under which name the store keeps what is kept of `app/key`.
fn label() -> String {
    hex::encode(&claviger::digest::sha256(&[b"app/key"])[..16])
}

/// A daemon dies after its program set the new value, at a source that has one: whoever comes next finds out that it did.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_when_the_daemon_died_is_found_and_given() {
    let Some(behind) = plugin() else { return };
    let first = behind.engine(SHORT);
    let secret = row(&first, "alone");
    first.rotate(&secret).await.unwrap();
    let before = issue(&first, &secret).await;
    behind.mood("rotate made-and-hang");
    assert!(first.rotate(&secret).await.is_err() && !works(&behind, &before));
    behind.mood("");
    drop(first);
    // A program of before may still be at work, so nothing is said at once, and nobody who asks is given what may be dead.
    let next = behind.engine(SHORT);
    let given = loop {
        match next.issue(&Asked::new().order(&secret)).await {
            Ok(given) => break given,
            Err(EngineError::Unreachable(why)) => assert!(why.contains("is being changed"), "{why}"),
            Err(why) => panic!("{why}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(works(&behind, &given) && attribute(&given, "version") == "2");
    assert!(attribute(&given, "user").starts_with("clv_"), "what stands beside it was asked for once more");
    assert!(matches!(next.read(&Asked::new().order(&secret), &before.reference).await, Err(EngineError::NoValue)));
    assert_eq!(next.rotate(&secret).await.unwrap().number, 3);
}

/// A program that was cut off may still have its source make another value than the one that its successor was told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_not_repeated_before_the_program_of_the_first_try_has_ended() {
    let Some(behind) = plugin() else { return };
    let engine = behind.lingering(SHORT, Duration::from_secs(5));
    let mut secret = row(&engine, "own");
    secret.settings.insert("parameters".into(), json!({"style": "own", "after": 4.0}));
    engine.rotate(&secret).await.unwrap();
    behind.mood("rotate late");
    assert!(matches!(engine.rotate(&secret).await, Err(EngineError::Unreachable(_))));
    behind.mood("");
    let done = engine.rotate(&secret).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let given = issue(&engine, &secret).await;
    assert!(works(&behind, &given) && attribute(&given, "version") == done.number.to_string(), "the late one set another");
}

/// At a source that has one value: the late program replaces it after everybody was told that it works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_program_may_still_replace_it_nobody_is_given_the_value_before() {
    let Some(behind) = plugin() else { return };
    let engine = behind.lingering(SHORT, Duration::from_secs(5));
    let mut secret = row(&engine, "alone");
    secret.settings.insert("parameters".into(), json!({"style": "alone", "after": 4.0}));
    engine.rotate(&secret).await.unwrap();
    behind.mood("rotate late");
    assert!(matches!(engine.rotate(&secret).await, Err(EngineError::Unreachable(_))));
    behind.mood("");
    let said = shown(engine.issue(&Asked::new().order(&secret)).await);
    assert!(said.contains("is being changed"), "{said}");
    tokio::time::sleep(Duration::from_secs(7)).await;
    let given = issue(&engine, &secret).await;
    assert!(works(&behind, &given) && attribute(&given, "version") == "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_somebody_else_changed_is_noticed() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    for style in ["own", "alone"] {
        let secret = secret(&format!("app/{style}"), &engine, row(&engine, style).settings.into());
        engine.rotate(&secret).await.unwrap();
        behind
            .made()
            .iter()
            .for_each(|name| std::fs::write(behind.folder.path().join("made").join(name), r#"{"value":"by hand"}"#).unwrap());
        let Err(EngineError::Refused(why)) = engine.newest(&secret).await else { panic!("nobody noticed") };
        assert!(why.contains("version 1 does not work any more"), "{why}");
        let mended = engine.rotate(&secret).await.unwrap();
        assert_eq!(engine.newest(&secret).await.unwrap(), Some(mended));
        behind.made().iter().for_each(|name| std::fs::remove_file(behind.folder.path().join("made").join(name)).unwrap());
    }
}

async fn changed_thrice_and_once(engine: &CommandEngine) -> (SecretDefinition, SecretDefinition) {
    let (one, other) = (row(engine, "given"), secret("app/other", engine, row(engine, "given").settings.into()));
    for secret in [&one, &one, &one, &other] {
        engine.rotate(secret).await.unwrap();
    }
    (one, other)
}

/// An older copy of the state was put back, or none: versions that nobody knows any more are taken back by the next change.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_of_a_state_that_is_gone_are_taken_back() {
    let Some(mut behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let (secret, other) = changed_thrice_and_once(&engine).await;
    let of_other = issue(&engine, &other).await;
    let folder = tempfile::tempdir().unwrap();
    behind.store = store(&folder);
    let engine = behind.engine(LIMIT);
    assert_eq!(engine.rotate(&secret).await.unwrap().number, 4, "above what there is");
    assert!(works(&behind, &issue(&engine, &secret).await) && works(&behind, &of_other), "another secret's is left alone");
    assert_eq!(behind.made().len(), 2, "{:?}", behind.made());
}

/// A definition that is taken away or has another name leaves versions behind, which an operator can have taken back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_that_no_definition_names_are_told_and_taken_back_by_name() {
    let Some(mut behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let (secret, other) = changed_thrice_and_once(&engine).await;
    let (had, of_other) = (issue(&engine, &secret).await, issue(&engine, &other).await);
    let taken = engine.taken_back();
    assert!(taken.len() == 1 && taken[0].version == 1 && taken[0].found == Ok(true), "{taken:?}");
    assert_eq!((taken[0].secret.as_ref(), engine.taken_back().len()), (Some(&secret.name), 0), "each is told once");
    let (both, one) = (
        || vec![SecretName::parse("app/key").unwrap(), SecretName::parse("app/other").unwrap()],
        || vec![SecretName::parse("app/other").unwrap()],
    );
    assert_eq!(engine.leftovers(&both).await.unwrap(), []);
    let left = engine.leftovers(&one).await.unwrap();
    let numbers: Vec<_> = left.iter().map(|left| (left.version, left.secret.as_ref())).collect();
    assert_eq!(numbers, [(2, Some(&secret.name)), (3, Some(&secret.name))]);
    // Whoever defined it again in the meantime keeps it.
    let kept = engine.end_leftover(&left[0], &both).await;
    assert!(kept.found.as_ref().is_err_and(|why| why.contains("is defined again")), "{kept:?}");
    assert_eq!(issue(&engine, &secret).await.value.expose(), had.value.expose());
    // One that is not gone is still told of, and given to nobody from then on.
    behind.mood("revoke stays");
    let kept = engine.end_leftover(&left[1], &one).await;
    assert!(kept.found.as_ref().is_err_and(|why| why.contains("it lives after it was revoked")), "{kept:?}");
    assert!(matches!(engine.issue(&Asked::new().order(&secret)).await, Err(EngineError::NoValue)));
    assert_eq!(engine.leftovers(&one).await.unwrap(), left);
    behind.mood("");
    for left in &left {
        assert_eq!(engine.end_leftover(left, &one).await.found, Ok(true));
        assert_eq!(engine.end_leftover(left, &one).await.found, Ok(false), "once more does no harm");
    }
    assert_eq!((engine.leftovers(&one).await.unwrap().len(), behind.made().len()), (0, 1), "{:?}", behind.made());
    assert!(works(&behind, &of_other) && !works(&behind, &had));
    // What people took away themselves is forgotten here; what this state never knew goes by its name alone.
    let before = behind.made();
    engine.rotate(&secret).await.unwrap();
    for name in behind.made().iter().filter(|name| !before.contains(name)) {
        std::fs::remove_file(behind.folder.path().join("made").join(name)).unwrap();
    }
    let [gone] = &engine.leftovers(&one).await.unwrap()[..] else { panic!("one version") };
    assert_eq!((engine.end_leftover(gone, &one).await.found, engine.leftovers(&one).await.unwrap().len()), (Ok(false), 0));
    let folder = tempfile::tempdir().unwrap();
    behind.store = store(&folder);
    let engine = behind.engine(SHORT);
    let [unknown] = &engine.leftovers(&Vec::new).await.unwrap()[..] else { panic!("one version") };
    assert_eq!((&unknown.secret, unknown.version, engine.end_leftover(unknown, &Vec::new).await.found), (&None, 1, Ok(true)));
    assert_eq!(behind.made(), [""; 0]);
}

/// A source that has one value at a time, and a definition that got another name and set another value there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_was_replaced_in_its_place_is_not_taken_back_for_its_old_name() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let (old, new) = (row(&engine, "alone"), secret("app/other", &engine, row(&engine, "alone").settings.into()));
    engine.rotate(&old).await.unwrap();
    engine.rotate(&new).await.unwrap();
    let given = issue(&engine, &new).await;
    let defined = || vec![SecretName::parse("app/other").unwrap()];
    let [left] = &engine.leftovers(&defined).await.unwrap()[..] else { panic!("one version") };
    assert_eq!((engine.end_leftover(left, &defined).await.found, works(&behind, &given)), (Ok(false), true));
    assert_eq!(engine.leftovers(&defined).await.unwrap(), []);
    // Its numbers go on: whoever still ends that version ends no other.
    assert_eq!(engine.rotate(&old).await.unwrap().number, 2);
    // One that is what the source takes is taken back.
    let [left] = &engine.leftovers(&defined).await.unwrap()[..] else { panic!("one version") };
    assert_eq!((engine.end_leftover(left, &defined).await.found, behind.made().len()), (Ok(true), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_is_told_which_version_and_what_it_may_allow() {
    let Some(behind) = plugin() else { return };
    let engine = behind.engine(LIMIT);
    let secret = row(&engine, "given");
    engine.rotate(&secret).await.unwrap();
    let issued = issue(&engine, &secret).await;
    let [name] = &behind.made()[..] else { panic!("{:?}", behind.made()) };
    assert!(name.starts_with(&format!("clv_{}_v", mark())) && name.len() == 47 && name.ends_with("0000000000001"), "{name}");
    let told: Value = serde_json::from_str(&behind.text(&format!("made/{name}"))).unwrap();
    for (member, wanted) in [
        ("call", json!("rotate")),
        ("name", json!(name)),
        ("secret", json!("app/key")),
        ("number", json!(1)),
        ("allow", json!({"operation": "write", "targets": []})),
        ("parameters", json!({"style": "given"})),
    ] {
        assert_eq!(told[member], wanted, "{member}");
    }
    assert!(told.get("lease").is_none() && told["value"].as_str().unwrap().len() == 43);
    let record = serde_json::to_string(&issued.reference.named()).unwrap();
    assert!(record.contains(name) && !record.contains(told["value"].as_str().unwrap()));
    // What is too much, or says the value, is not taken.
    for (answer, wanted) in [
        (json!({"value": "x".repeat(9000)}), "a value of 9000 bytes; 1 to 8192"),
        (json!({"value": ""}), "a value of 0 bytes"),
        (json!({"value": CANARY, "attributes": {"a": CANARY}}), "the value stands in an attribute"),
        (json!({"attributes": {"stale": "true"}}), "stale and age are attributes that say something else"),
        (json!({"attributes": {"a": "\u{1}".repeat(1000)}}), "4096 may be given"),
        (json!({"attributes": {"version": "7"}}), "version is an attribute that is added here"),
        (json!({"attributes": {"a": "x".repeat(2000), "b": "x".repeat(2000), "c": "x".repeat(2000)}}), "4096 may be given"),
    ] {
        std::fs::write(behind.folder.path().join("answer"), answer.to_string()).unwrap();
        let said = shown(engine.rotate(&secret).await);
        assert!(said.starts_with("Setup") && said.contains(wanted) && !said.contains(CANARY), "{answer}: {said}");
    }
    assert!(works(&behind, &issue(&engine, &secret).await));
}
