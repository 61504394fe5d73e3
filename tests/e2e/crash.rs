//! `kill -9` at any moment: no acknowledged record is lost, the chain verifies, and the books agree with themselves.

use super::host::*;
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

pub fn verify(host: &Host) {
    let keys = claviger::audit::read_keys(&host.dir.join("audit/audit.pub")).unwrap();
    let pinned = claviger::audit::Pinned { keys, anchors: Vec::new(), max_unsigned: 0 };
    let report = claviger::audit::verify(&host.dir.join("audit"), &pinned).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

#[test]
fn killed_under_load_it_forgets_nothing_that_was_answered() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(Setup {
        config: "[limits]\nconnections_per_second = 100000\n".into(),
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    let answered: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    // One holder lives through all of it: its lease is bound again each time, and its value can be read.
    let mut steady = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one"}"#]);
    let kept = steady.lease();
    let rounds = std::env::var("CLAVIGER_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(100u64);
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        // Holders that live on and holders that come and go, so that issues and ends are both under way.
        let mut holders: Vec<Actor> = (0..2).map(|_| host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one"}"#])).collect();
        let (note, told) = (answered.clone(), stop.clone());
        let first: Vec<(String, String)> =
            holders.iter().map(|h| (h.first["body"]["request"].as_str().unwrap().to_owned(), h.lease())).collect();
        note.lock().unwrap().extend(first);
        let worker = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                for holder in &mut holders {
                    holder.say(r#"call POST /v1/leases {"secret":"app/one"}"#);
                    let answer = holder.line();
                    if answer["status"] == 201 {
                        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
                        note.lock().unwrap().push((text(&answer["body"]["request"]), text(&answer["body"]["lease"]["id"])));
                    }
                }
            }
            holders
        });
        std::thread::sleep(Duration::from_millis(20 + round * 7 % 60));
        host.stop(true);
        stop.store(true, Ordering::Relaxed);
        let holders = worker.join().unwrap();
        host.launch();
        let recorded: HashSet<String> = host.records_of("issue").iter().map(|r| r["request"].as_str().unwrap().to_owned()).collect();
        for (request, _) in answered.lock().unwrap().iter() {
            assert!(recorded.contains(request), "round {round}: {request} was answered and is not on the record");
        }
        steady.say(&format!("call-anew GET /v1/leases/{kept}/secret"));
        let again = steady.line();
        assert_eq!(again["status"], 200, "round {round}: {again}");
        drop(holders);
        host.wait_until(Duration::from_secs(10), "every holder's leases end", |host| host.live().len() == 1);
        let of = |kind| host.records_of(kind).iter().map(|r| r["lease"].as_str().unwrap().to_owned()).collect::<HashSet<String>>();
        let (issued, ended) = (of("issue"), of("end"));
        for (_, lease) in answered.lock().unwrap().iter() {
            assert!(ended.contains(lease), "round {round}: {lease} was answered and never ended");
        }
        assert!(!ended.contains(&kept));
        // What is live is what was issued less what has ended: nothing else is owed.
        assert_eq!(issued.difference(&ended).collect::<Vec<_>>(), [&kept], "round {round}");
        // Records of one round need not be read again in the next.
        answered.lock().unwrap().clear();
    }
    println!("{rounds} deaths");
    drop(steady);
    host.wait_until(Duration::from_secs(10), "the last lease ends", |host| host.live().is_empty());
    host.stop(false);
    verify(&host);
}
