//! Counting instead of writing, and budgets.

use super::*;

#[tokio::test]
async fn reads_of_a_live_lease_are_counted_and_the_count_is_complete() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let first = audit.append(read(1, Sensitivity::Internal), Need::Soon).await.unwrap();
    for _ in 0..99 {
        clock.advance(100_000);
        assert_eq!(audit.append(read(1, Sensitivity::Internal), Need::Soon).await.unwrap(), first, "the first stands for it");
    }
    clock.advance(200_000);
    audit.settle().await.unwrap();
    for _ in 0..5 {
        let _ = audit.append(read(1, Sensitivity::Internal), Need::Soon).await.unwrap();
    }
    let _ = audit.append(end(1), Need::Soon).await.unwrap();
    audit.stop();
    let records = records(folder.path());
    let folds: Vec<_> = records.iter().filter(|record| record.kind == Kind::Fold).map(|record| &record.rest["folded"]).collect();
    assert_eq!(count(&records, Kind::Read), 1);
    assert_eq!(folds.iter().map(|fold| fold["count"].as_u64().unwrap()).collect::<Vec<_>>(), [99, 5]);
    assert_eq!(folds[0]["first"], "2026-01-01T00:00:00.100000Z");
    assert_eq!(folds[0]["last"], "2026-01-01T00:00:09.900000Z");
    let order: Vec<_> = records.iter().filter(|record| record.lease.is_some()).map(|record| record.kind).collect();
    assert_eq!(order, [Kind::Read, Kind::Fold, Kind::Fold, Kind::End]);
    let _ = sound(folder.path(), &keys.pinned(vec![]));
}

#[tokio::test]
async fn restricted_reads_are_each_on_the_record_and_durable() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    for _ in 0..5 {
        let event = read(1, Sensitivity::Restricted);
        assert_eq!(Need::least(&event), Need::Durable);
        let recorded = audit.append(event, Need::Soon).await.unwrap();
        assert!(recorded.seq() > 0);
    }
    audit.stop();
    assert_eq!(count(&records(folder.path()), Kind::Read), 5);
}

#[tokio::test]
async fn the_first_twenty_refusals_a_minute_stand_alone() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    let refuse = |uid| Event::new(Kind::Refuse).uid(uid).refusal(&Refusal::new(Code::NO_IDENTITY));
    for _ in 0..100 {
        let _ = audit.append(refuse(1000), Need::Soon).await.unwrap();
    }
    let _ = audit.append(refuse(1001), Need::Soon).await.unwrap();
    clock.advance(60_000_000);
    audit.settle().await.unwrap();
    let _ = audit.append(refuse(1000), Need::Soon).await.unwrap();
    audit.stop();
    let records = records(folder.path());
    assert_eq!(count(&records, Kind::Refuse), 22);
    let folds: Vec<_> = records.iter().filter(|record| record.kind == Kind::Fold).collect();
    assert_eq!(folds.len(), 1);
    assert_eq!(folds[0].rest["folded"]["count"], 80);
    assert_eq!(folds[0].rest["folded"]["of"], "refuse");
    assert_eq!(folds[0].rest["uid"], 1000);
    assert_eq!(folds[0].code.as_deref(), Some("no_identity"));
}

/// Nobody hides what else was asked for behind the first.
#[tokio::test]
async fn a_count_of_refusals_names_a_secret_only_where_all_were_about_it() {
    for (others, named) in [(0, true), (10, false)] {
        let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
        let audit = on_disk(folder.path(), &keys, &clock, options());
        let refuse = |name: &str| {
            Event::new(Kind::Refuse).uid(1000).refusal(&Refusal::new(Code::NO_GRANT)).secret(&secret(name, Sensitivity::Internal), None)
        };
        for n in 0..30 + others {
            let _ = audit.append(refuse(if n < 30 { "app/first" } else { "app/probed" }), Need::Soon).await.unwrap();
        }
        audit.stop();
        let fold = records(folder.path()).into_iter().find(|record| record.kind == Kind::Fold).unwrap();
        assert_eq!(fold.secret.map(|secret| secret.name), named.then(|| "app/first".to_owned()));
    }
}

/// Whoever has no identity is refused before a definition is looked for.
#[test]
fn what_was_asked_for_in_vain_is_found_by_its_name() {
    let line = |more: &str| {
        format!(r#"{{"v":1,"boot":"b","seq":1,"time":"2026-01-01T00:00:00.000000Z","kind":"refuse","prev":"","hash":"",{more}}}"#)
    };
    let found = |more: &str| {
        let record: Record = serde_json::from_str(&line(more)).unwrap_or_else(|error| panic!("{error}: {}", line(more)));
        Filter { secret: Some("app/one".into()), ..Filter::default() }.admits(&record)
    };
    assert!(found(r#""claimed":{"secret":"app/one"}"#) && found(r#""secret":{"name":"app/one"}"#));
    assert!(!found(r#""claimed":{"secret":"app/two"}"#) && !found(r#""uid":1"#));
    assert!(!found(r#""secret":{"name":"app/two"},"claimed":{"secret":"app/one"}"#), "what it was about counts");
}

#[tokio::test]
async fn a_budget_binds_its_identity_alone_for_an_hour_and_endings_never() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, Options { budget: 5_000, ..options() });
    let mut written = 0;
    let error = loop {
        match audit.append(issue(written), Need::Soon).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error, AuditError::Budget);
    assert!((4..10).contains(&written), "{written}");
    for _ in 0..10 {
        assert_eq!(audit.append(issue(99), Need::Soon).await, Err(AuditError::Budget));
    }
    let _ = audit.append(issue(100).identity(&identity("other")), Need::Soon).await.unwrap();
    let _ = audit.append(end(1).identity(&identity("orders")), Need::Soon).await.unwrap();
    clock.advance(3_600_000_000);
    audit.settle().await.unwrap();
    let _ = audit.append(issue(101), Need::Soon).await.unwrap();
    audit.stop();
    let records = records(folder.path());
    let fold = records.iter().find(|record| record.kind == Kind::Fold).unwrap();
    assert_eq!((fold.code.as_deref(), &fold.rest["folded"]["count"]), (Some("audit_budget"), &serde_json::json!(11)));
}

#[tokio::test]
async fn what_is_counted_is_not_lost_when_the_log_stops() {
    let (keys, folder, clock) = (Keys::new(), tempfile::tempdir().unwrap(), clock());
    let audit = on_disk(folder.path(), &keys, &clock, options());
    for _ in 0..8 {
        let _ = audit.append(read(1, Sensitivity::Public), Need::Soon).await.unwrap();
    }
    audit.stop();
    let records = records(folder.path());
    assert_eq!(records.iter().find(|record| record.kind == Kind::Fold).unwrap().rest["folded"]["count"], 7);
}

#[test]
fn no_number_of_uids_takes_an_identitys_budget() {
    use super::super::fold::{Folds, Verdict};
    let (now, wall) = (crate::model::BootTime(1), crate::model::WallTime(1));
    let mut folds = Folds::new(1_000);
    let refused = |uid| Event::new(Kind::Refuse).uid(uid).refusal(&crate::model::Refusal::new(crate::model::Code::NO_IDENTITY));
    let last = (0..20_000).map(|uid| folds.admit(&refused(uid), 900, now, wall)).last().unwrap();
    assert!(matches!(last, Verdict::OverBudget { .. }), "strangers beyond the table share one budget");
    assert!(matches!(folds.admit(&issue(1).identity(&identity("orders")), 900, now, wall), Verdict::Write(_)));
}
