//! Facts to identity, rule by rule.

mod conversation;

use super::{
    facts::{Exe, Facts, Unit},
    identity::{Candidate, Names, Roll},
};
use crate::model::{Assurance, Code, ExecRule, Identity, IdentityKind, Registry, Selector, Sensitivity, WallTime};
use std::collections::HashMap;

const UID: u32 = 971;
const PATH: &str = "/usr/bin/orders";

fn row(name: &str, kind: IdentityKind, selectors: &[&str]) -> Identity {
    Identity {
        name: name.parse().unwrap(),
        kind,
        owner: "team".parse().unwrap(),
        environment: "test".parse().unwrap(),
        purposes: vec![],
        max_sensitivity: Sensitivity::Critical,
        expires: WallTime(u64::MAX),
        suspended: false,
        groups: vec![],
        selectors: selectors.iter().map(|s| Selector::parse(s).unwrap()).collect(),
        exclusive_uid: false,
        uses: vec![],
        generation: "g".into(),
        on_exec: ExecRule::Reattest,
    }
}

fn workload(name: &str, selectors: &[&str]) -> Identity {
    row(name, IdentityKind::Workload, selectors)
}

fn agent(name: &str, selectors: &[&str]) -> Identity {
    row(name, IdentityKind::Agent, selectors)
}

fn roll(rows: Vec<Identity>) -> Roll {
    let users = HashMap::from([(UID, "orders".to_owned())]);
    Roll::new(Registry::new(rows), Names::new(users, vec![], vec![1000]))
}

/// The program of a service, as judged.
fn facts(uid: u32, path: &str, cgroup: &str) -> Facts {
    let unit = cgroup.rsplit('/').next().map(|name| Unit { name: name.to_owned(), invocation: None, system: true });
    let exe = Exe { path: path.to_owned(), verified: true, root_owned: true, fs: "ext4".into(), ..Exe::default() };
    Facts { pid: 7, uid, gid: uid, exe: Some(exe), cgroup: Some(cgroup.to_owned()), unit, ..Facts::default() }
}

const SERVICE: &str = "/system.slice/orders.service";

fn service(roll: &Roll) -> Candidate {
    roll.candidate(facts(UID, PATH, SERVICE))
}

fn name(roll: &Roll, subject: &Candidate, above: &[Candidate]) -> Result<String, Code> {
    roll.identify(subject, above, None).map(|workload| workload.identity().name.to_string()).map_err(|refusal| refusal.code)
}

#[test]
fn the_narrower_row_wins_and_two_that_do_not_include_each_other_are_ambiguous() {
    let uid = format!("unix:uid:{UID}");
    let path = format!("unix:path:{PATH}");
    let all = roll(vec![workload("wide", &[&uid]), workload("narrow", &[&uid, &path])]);
    assert_eq!(name(&all, &service(&all), &[]), Ok("narrow".into()));
    let crossed = roll(vec![workload("a", &[&uid, &path]), workload("b", &[&uid, "systemd:id:orders.service"])]);
    assert_eq!(name(&crossed, &service(&crossed), &[]), Err(Code::AMBIGUOUS_IDENTITY));
    let both = [&*uid, &*path, "systemd:id:orders.service"];
    let settled = roll(vec![workload("a", &both[..2]), workload("b", &[both[0], both[2]]), workload("c", &both)]);
    assert_eq!(name(&settled, &service(&settled), &[]), Ok("c".into()), "one that includes both settles it");
    let none = roll(vec![workload("other", &["unix:uid:1"])]);
    assert_eq!(name(&none, &service(&none), &[]), Err(Code::NO_IDENTITY));
}

#[test]
fn below_an_agent_everything_is_that_agent_and_beside_one_nothing_shared_is_anybody() {
    let uid = format!("unix:uid:{UID}");
    let rows = || vec![agent("robot", &[&uid, "unix:path:/usr/bin/robot"]), workload("orders", &[&uid, &format!("unix:path:{PATH}")])];
    let all = roll(rows());
    let robot = [all.candidate(facts(UID, "/usr/bin/robot", "/user.slice/x.scope"))];
    assert_eq!(name(&all, &service(&all), &robot), Ok("robot".into()));
    assert_eq!(name(&all, &service(&all), &[]), Err(Code::LEFT_AGENT_SESSION), "orphaned");
    let unknown = all.candidate(facts(UID, "/usr/bin/sh", SERVICE));
    assert_eq!(name(&all, &unknown, &[]), Err(Code::LEFT_AGENT_SESSION));
    let elsewhere = all.candidate(facts(UID + 1, PATH, SERVICE));
    assert_eq!(name(&all, &elsewhere, &[]), Err(Code::NO_IDENTITY));
    // A row that asks for what the program holds, which nobody reads of an ancestor.
    let hash = format!("unix:sha256:{}", "a".repeat(64));
    let sealed =
        roll(vec![agent("robot", &[&uid, "unix:path:/usr/bin/robot", &hash]), workload("orders", &[&uid, &format!("unix:path:{PATH}")])]);
    let above = [sealed.candidate(facts(UID, "/usr/bin/robot", "/user.slice/x.scope"))];
    assert_eq!(name(&sealed, &service(&sealed), &above), Ok("robot".into()));
    assert!(sealed.is_agent(&above[0]));
    // Two agents above, of which neither includes the other: nobody, rather than one of them.
    let two = roll([rows(), vec![agent("other", &["unix:uid:5"])]].concat());
    let above = [two.candidate(facts(UID, "/usr/bin/robot", "/")), two.candidate(facts(5, "/usr/bin/x", "/"))];
    assert_eq!(name(&two, &service(&two), &above), Err(Code::AMBIGUOUS_IDENTITY));
    assert!(two.is_agents_uid(5) && !two.is_agents_uid(6) && two.names_uid(UID) && !two.names_uid(6));
}

#[test]
fn isolated_needs_a_unit_or_an_assertion_and_a_uid_that_nobody_else_has() {
    let uid = format!("unix:uid:{UID}");
    let unit = ["systemd:id:orders.service"];
    let assurance = |rows: Vec<Identity>, facts: Facts| {
        let roll = roll(rows);
        let subject = roll.candidate(facts);
        roll.identify(&subject, &[], None).unwrap().assurance()
    };
    let here = || facts(UID, PATH, SERVICE);
    assert_eq!(assurance(vec![workload("orders", &unit)], here()), Assurance::Isolated);
    assert_eq!(assurance(vec![workload("orders", &[&uid])], here()), Assurance::Program, "the row does not name the unit");
    assert_eq!(assurance(vec![workload("orders", &unit)], facts(0, PATH, SERVICE)), Assurance::Program, "root");
    assert_eq!(assurance(vec![workload("orders", &unit)], facts(1000, PATH, SERVICE)), Assurance::Program, "a person's uid");
    let nested = facts(UID, PATH, "/system.slice/system-a.slice/orders.service");
    assert_eq!(assurance(vec![workload("orders", &unit)], nested), Assurance::Program, "not directly below system.slice");
    let other = workload("other", &[&uid, "unix:path:/usr/bin/other"]);
    assert_eq!(assurance(vec![workload("orders", &unit), other], here()), Assurance::Program, "another row on the uid");
    let anywhere = workload("anywhere", &["unix:path:/usr/bin/other"]);
    assert_eq!(assurance(vec![workload("orders", &unit), anywhere], here()), Assurance::Program, "a row that may be on any uid");
    let asserted = Identity { exclusive_uid: true, ..workload("orders", &[&uid]) };
    assert_eq!(assurance(vec![asserted.clone()], here()), Assurance::Isolated);
    let contained = Facts { foreign: vec!["user".into()], ..here() };
    assert_eq!(assurance(vec![asserted.clone()], contained), Assurance::Uid);
    let own_mounts = Facts { foreign: vec!["mnt".into()], ..here() };
    assert_eq!(assurance(vec![asserted], own_mounts), Assurance::Isolated, "services have mounts of their own");
    let hash = "ab".repeat(32);
    let measured = workload("orders", &[unit[0], &format!("unix:sha256:{hash}")]);
    let mut exact = here();
    exact.exe.as_mut().unwrap().sha256 = Some(hash);
    assert_eq!(assurance(vec![measured.clone()], exact.clone()), Assurance::Measured);
    exact.exe.as_mut().unwrap().root_owned = false;
    assert_eq!(assurance(vec![measured], exact), Assurance::Isolated, "somebody else may change the file");
}

#[test]
fn what_the_client_hands_on_is_worth_no_more_than_the_client_where_it_runs() {
    let all = roll(vec![workload("orders", &["systemd:id:orders.service"])]);
    let subject = service(&all);
    let assurance = |client: Facts| {
        let client = all.candidate(client);
        all.identify(&subject, &[], Some(&client)).unwrap().assurance()
    };
    assert_eq!(assurance(facts(UID, "/usr/bin/clav", SERVICE)), Assurance::Isolated);
    assert_eq!(assurance(facts(UID, "/usr/bin/clav", "/system.slice/other.service")), Assurance::Program, "moved out of the unit");
    let contained = Facts { foreign: vec!["user".into()], ..facts(UID, "/usr/bin/clav", SERVICE) };
    assert_eq!(assurance(contained), Assurance::Uid);
}
