//! Endings that do not come through, and what a source has that no journal knows: tried on, looked at again, and left to a person.

use super::{host::is_root, lives::*};
use claviger::{
    broker::Selection,
    engine::{Engine, UpstreamRef},
    model::{EndReason, EndResult, Line},
    testing::{Call, Mishap},
};
use std::time::Duration;

/// A source that is away, or says no, for longer than an ending is tried: it is given up, told once, and ends all the same when the source is
/// back, or lets us again.
#[test]
fn what_was_given_up_while_its_source_was_away_ends_when_it_is_back() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(1));
    let of_kind = |kind: &str| records(folder.path()).iter().filter(|record| record["kind"] == kind).count();
    live(&lives, async |life| {
        // Three tries are what there is; two turns of what is overdue fail as well.
        (0..5).for_each(|_| lives.source.plan(Call::End, Mishap::Unreachable));
        let away = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(away, EndReason::Asked).await, Some(EndResult::Retrying));
        life.none_lives().await;
        assert_eq!((of_kind("retry"), of_kind("irrevocable"), of_kind("end")), (2, 1, 1), "told once");
        assert!(lives.source.live().is_empty());
        (0..3).for_each(|_| lives.source.plan(Call::End, Mishap::Refused));
        let refused = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(refused, EndReason::Asked).await, Some(EndResult::Retrying));
        life.none_lives().await;
        assert_eq!((of_kind("irrevocable"), of_kind("end")), (2, 2), "told once");
    });
    assert!(lives.source.live().is_empty());
    sound(folder.path());
}

/// A journal is lost: what it knew waits for a person. It is told once, is not ended when it has become little beside what is issued by then,
/// and is seen to have gone when somebody has ended it at the source.
#[test]
fn what_waits_for_a_person_is_looked_at_again_and_not_ended() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(1));
    let strays =
        live(&lives, async |life| [life.issue("source").await.unwrap().lease().id, life.issue("source").await.unwrap().lease().id]);
    std::fs::remove_dir_all(folder.path().join("leases")).unwrap();
    let told = || records(folder.path()).iter().filter(|record| record["kind"] == "irrevocable").count();
    live(&lives, async |life| {
        let waiting = async |count: usize| {
            for _ in 0..400 {
                let seen = life.broker.list_engines().into_iter().find(|engine| engine.name == "source").unwrap();
                if seen.looked.is_some() && seen.waiting == count && told() == 1 {
                    return seen.there;
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            panic!("{:?}", life.broker.list_engines());
        };
        assert_eq!(waiting(2).await, 2);
        for _ in 0..15 {
            drop(life.issue("source").await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!((waiting(2).await, told()), (17, 1), "nothing is ended unasked, and nothing is said twice");
        for stray in strays {
            lives.source.end(stray, &UpstreamRef::default()).await.unwrap();
        }
        assert_eq!(waiting(0).await, 15);
    });
    assert!(reasons(folder.path()).is_empty(), "what is leased lives");
}

/// Whoever gives a lease back is told after ten seconds that its end goes on, and it does.
#[test]
fn an_end_whose_source_hangs_is_not_waited_for_and_goes_on() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(16));
    live(&lives, async |life| {
        lives.source.plan(Call::End, Mishap::Stall);
        let id = life.issue("source").await.unwrap().lease().id;
        assert_eq!(life.broker.end(id, EndReason::Asked).await, Some(EndResult::Retrying));
        let retried = records(folder.path()).iter().filter(|record| record["kind"] == "retry").count();
        assert_eq!((retried, lives.source.live().len()), (0, 1), "the first try goes on");
        while lives.source.live().len() == 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        life.none_lives().await;
    });
    sound(folder.path());
}

/// An operator who gives up an ending that is being tried at this moment is told so; afterwards it can be given up, with a reason on the record.
#[test]
fn what_is_being_tried_is_not_given_up_and_is_said_to_be() {
    if !is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let lives = Lives::new(folder.path(), Duration::from_secs(4));
    live(&lives, async |life| {
        (0..3).for_each(|_| lives.source.plan(Call::End, Mishap::Unreachable));
        (0..100).for_each(|_| lives.source.plan(Call::End, Mishap::Stall));
        let lease = life.issue("source").await.unwrap().lease().id;
        let give_up = || {
            let why = Line::parse("the server is gone").unwrap();
            let (broker, request) = (life.broker.clone(), life.broker.request_id());
            async move { broker.forget_selected(&Selection::Lease(lease), &why, request).await }
        };
        let told = give_up().await.err().unwrap().message;
        assert!(told.contains("what is still tried ends by itself"), "{told}");
        assert_eq!(life.broker.end(lease, EndReason::Asked).await, Some(EndResult::Retrying));
        // The fourth try is one of those that go on after it was given up.
        while lives.source.calls().iter().filter(|(call, _)| *call == Call::End).count() < 4 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut told = Vec::new();
        let given_up = loop {
            match give_up().await {
                Ok(rows) => break rows,
                Err(refusal) => told.push(refusal.message),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        assert!(!told.is_empty() && told.iter().all(|text| text.contains("it is being tried at this moment")), "{told:?}");
        assert_eq!(given_up.iter().map(|row| (row.id, row.result)).collect::<Vec<_>>(), [(lease, EndResult::Irrevocable)]);
        life.none_lives().await;
        let records = records(folder.path());
        let end = records.iter().find(|record| record["kind"] == "end").unwrap();
        assert!(end["detail"] == "the server is gone" && end["ended"]["dead"].is_null(), "{end}");
    });
    sound(folder.path());
}
