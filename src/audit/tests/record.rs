//! The record itself: one line with everything in it, documented member by member, and printable whatever goes in.

use super::*;
use proptest::prelude::*;
use serde::Serialize;

#[derive(Serialize)]
struct Object {
    purpose: &'static str,
}
impl Recordable for Object {}

/// An event with every member that callers can set.
fn full() -> Event {
    let facts = || Facts::of(&Object { purpose: "migrate" }).unwrap();
    let policy = Decided {
        bundle: Some(word("ef12")),
        grant: Some(word("orders-ro")),
        grant_owner: Some(Owner::parse("team").unwrap()),
        ticket: Some(TicketId::parse("jira:OPS-1").unwrap()),
        determining: vec![word("grant/orders-ro")],
        shadow: vec![word("no-nights")],
    };
    let person = Person { uid: 1000, login: Some(1000), name: Some(word("kim")), action: word("stop") };
    let refusal = Refusal {
        remedies: vec![Remedy { require: "ticket".into(), sentence: "Name one.".into(), policy: None, ticket: None }],
        ..Refusal::new(Code::NO_GRANT).detail("nothing fits")
    };
    let dead = Some(WallTime(START));
    let ended = Ended {
        reason: EndReason::Asked,
        result: EndResult::Revoked,
        asked: WallTime(START),
        ended: WallTime(START),
        dead,
        attempts: 1,
        proof: None,
    };
    issue(1)
        .uid(1000)
        .basis(facts())
        .attested(facts())
        .client(facts())
        .source(facts())
        .claimed(facts())
        .effective(facts())
        .channel(Channel::Deliver)
        .credential(facts())
        .policy(policy)
        .ended(ended)
        .by(person)
        .refusal(&refusal)
        .more(facts())
}

#[tokio::test]
async fn caller_intent_and_credential_stand_in_one_record() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let recorded = audit.append(full(), Need::Durable).await.unwrap();
    audit.stop();
    let record = records(folder.path()).into_iter().find(|record| record.seq == recorded.seq()).unwrap();
    assert_eq!((record.kind, record.outcome), (Kind::Issue, Some(Outcome::Done)));
    assert_eq!(record.identity.unwrap().name, "orders");
    let secret = record.secret.unwrap();
    assert_eq!((&*secret.name, &secret.rest["ends_by"], &secret.rest["version"]), ("prod-db/orders-ro", &"none".into(), &3.into()));
    for member in ["attested", "claimed", "effective", "credential"] {
        assert_eq!(record.rest[member]["purpose"], "migrate", "{member}");
    }
    assert_eq!(record.rest["policy"]["ticket"], "jira:OPS-1");
    assert_eq!(record.rest["holder"]["handle"], 7);
    assert_eq!(record.rest["expires"], "2026-01-01T00:01:00.000000Z");
}

#[test]
fn every_member_and_kind_is_documented() {
    let manual = include_str!("../../../docs/audit.md");
    let members = full().members().unwrap();
    let object: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&format!("{{{}}}", &std::str::from_utf8(&members).unwrap()[1..])).unwrap();
    let own = ["v", "seq", "time", "kind", "boot", "folded", "note", "prev", "hash"].map(String::from);
    for member in object.keys().chain(&own) {
        assert!(manual.contains(&format!("\n| `{member}` |")), "{member} is not in docs/audit.md");
    }
    for word in Kind::ALL.iter().map(|kind| kind.as_str()).chain(Outcome::ALL.iter().map(|outcome| outcome.as_str())) {
        assert!(manual.contains(&format!("`{word}`")), "{word} is not in docs/audit.md");
    }
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_and_costs_nothing() {
    #[derive(Serialize)]
    struct Large(String);
    impl Recordable for Large {}
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let large = Facts::of(&Large("x".repeat(MAX_MEMBERS))).unwrap();
    assert_eq!(audit.append(issue(1).more(large), Need::Soon).await, Err(AuditError::Record));
    assert_eq!(audit.append(issue(1), Need::Soon).await.unwrap().seq(), 1);
    audit.stop();
}

proptest! {
    #[test]
    fn any_text_stays_one_printable_line_and_comes_back(text in any::<String>()) {
        let event = Event::new(Kind::Refuse).uid(1).refusal(&Refusal::new(Code::NO_GRANT).detail(text.clone()));
        let mut line = Vec::new();
        let members = event.members().unwrap();
        super::super::chain::write_line(&mut line, Default::default(), "2026-01-01T00:00:00.000000Z", "refuse", "b", &members);
        prop_assert_eq!(line.pop(), Some(b'\n'));
        prop_assert!(line.iter().all(|b| matches!(b, 0x20..=0x7e)));
        prop_assert!(super::super::chain::scan(&line).is_some());
        let record: Record = serde_json::from_slice(&line).unwrap();
        let kept: String = text.chars().take(text::MAX_DETAIL).collect();
        prop_assert_eq!(record.rest["detail"].as_str(), Some(&*kept));
    }
}
