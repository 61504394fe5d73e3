//! `kill -9` at any moment: no acknowledged record is lost, the chain verifies, and the books agree with themselves.

use super::host::*;
use std::{
    collections::{HashMap, HashSet},
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
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

/// What the record says by now, of which each line is read once: ten thousand rounds make millions of them.
#[derive(Default)]
struct OnRecord {
    read: HashMap<PathBuf, u64>,
    requests: HashSet<String>,
    issued: HashSet<String>,
    ended: HashSet<String>,
}

impl OnRecord {
    fn read(&mut self, host: &Host) {
        for entry in std::fs::read_dir(host.dir.join("audit")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "jsonl") {
                continue;
            }
            let from = self.read.entry(path.clone()).or_default();
            let (mut text, mut file) = (Vec::new(), std::fs::File::open(&path).unwrap());
            file.seek(SeekFrom::Start(*from)).unwrap();
            file.read_to_end(&mut text).unwrap();
            // What is half written is read the next time.
            let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            *from += whole as u64;
            for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let record: serde_json::Value = serde_json::from_slice(line).unwrap();
                let word = |name: &str| record[name].as_str().unwrap().to_owned();
                match record["kind"].as_str() {
                    Some("issue") => {
                        self.requests.insert(word("request"));
                        self.issued.insert(word("lease"));
                    }
                    Some("end") => drop(self.ended.insert(word("lease"))),
                    _ => {}
                }
            }
        }
    }

    /// What was issued and is over is of no more interest.
    fn close(&mut self) {
        self.requests.clear();
        let over: Vec<String> = self.issued.intersection(&self.ended).cloned().collect();
        over.iter().for_each(|lease| {
            self.issued.remove(lease);
            self.ended.remove(lease);
        });
    }
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
    let (mut record, mut leases) = (OnRecord::default(), 0);
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
        record.read(&host);
        for (request, _) in answered.lock().unwrap().iter() {
            assert!(record.requests.contains(request), "round {round}: {request} was answered and is not on the record");
        }
        steady.say(&format!("call-anew GET /v1/leases/{kept}/secret"));
        let again = steady.line();
        assert_eq!(again["status"], 200, "round {round}: {again}");
        drop(holders);
        host.wait_until(Duration::from_secs(10), "every holder's leases end", |host| host.live().len() == 1);
        record.read(&host);
        for (_, lease) in answered.lock().unwrap().iter() {
            assert!(record.ended.contains(lease), "round {round}: {lease} was answered and never ended");
        }
        assert!(!record.ended.contains(&kept));
        // What is live is what was issued less what has ended: nothing else is owed.
        assert_eq!(record.issued.difference(&record.ended).collect::<Vec<_>>(), [&kept], "round {round}");
        leases += record.issued.len() - 1;
        // Records of one round need not be looked at again in the next.
        record.close();
        answered.lock().unwrap().clear();
        if (round + 1) % 500 == 0 {
            println!("{} deaths, {leases} leases", round + 1);
        }
    }
    println!("{rounds} deaths, {leases} leases issued and ended");
    drop(steady);
    host.wait_until(Duration::from_secs(10), "the last lease ends", |host| host.live().is_empty());
    host.stop(false);
    verify(&host);
}
