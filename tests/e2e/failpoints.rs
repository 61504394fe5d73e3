//! `kill -9` at every step from accepting a connection to answering it, and from the end of a lease to its source's word: after each death
//! the books agree with each other and with the database.

use super::{
    database::{ASK, roles, setup},
    host::*,
    postgres::Postgres,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::Duration,
};

type Ids = BTreeSet<String>;

/// Every place in the source where a build with `--cfg mutations` can be killed.
fn points(folder: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            out.append(&mut points(&entry.path()));
        } else {
            let text = fs::read_to_string(entry.path()).unwrap();
            out.extend(text.split("failpoint!(\"").skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    out.sort();
    out
}

/// Leases that the journal on the disk says were issued and have not ended.
fn journal(host: &Host) -> Ids {
    let (mut issued, mut ended) = (Ids::new(), Ids::new());
    for entry in
        fs::read_dir(host.dir.join("state/leases")).unwrap().flatten().filter(|e| e.path().extension().is_some_and(|e| e == "jsonl"))
    {
        for line in fs::read_to_string(entry.path()).unwrap().lines() {
            // What was cut off in the middle of a line counts for nothing.
            let Some(event) = line.get(17..).and_then(|json| serde_json::from_str::<serde_json::Value>(json).ok()) else { continue };
            let Some(id) = event["id"].as_str().map(str::to_owned) else { continue };
            match event["event"].as_str() {
                Some("ended") => ended.insert(id),
                _ => issued.insert(id),
            };
        }
    }
    &issued - &ended
}

/// Leases that the audit log says were issued and have not ended.
fn recorded(host: &Host) -> Ids {
    let of = |kind: &str| host.records_of(kind).iter().map(|record| record["lease"].as_str().unwrap().to_owned()).collect::<Ids>();
    &of("issue") - &of("end")
}

/// Leases whose pipeline did not come to its end, on the record.
fn unfinished(host: &Host) -> Ids {
    let ends = host.records_of("end").into_iter().filter(|record| record["ended"]["reason"] == "unfinished");
    ends.map(|record| record["lease"].as_str().unwrap().to_owned()).collect()
}

fn live(host: &Host) -> Ids {
    host.live().iter().map(|lease| lease["id"].as_str().unwrap().to_owned()).collect()
}

/// Leases whose roles are in the database.
async fn upstream(cluster: &Postgres) -> Ids {
    roles(cluster).await.iter().map(|role| format!("lease-{}", role.rsplit('_').next().unwrap())).collect()
}

/// What a round left behind.
#[derive(Debug, Default)]
struct Left {
    /// Leases that were answered and whose holders live.
    kept: Ids,
    /// Leases that were answered and whose holders do not.
    lost: Ids,
}

/// Everything that says which leases there are.
#[derive(Debug, Default)]
struct Books {
    roles: Ids,
    journal: Ids,
    recorded: Ids,
    live: Ids,
    unfinished: bool,
}

impl Books {
    async fn read(host: &Host, cluster: &Postgres) -> Books {
        let unfinished = host.live().iter().any(|lease| lease["state"] != "live");
        Books { roles: upstream(cluster).await, journal: journal(host), recorded: recorded(host), live: live(host), unfinished }
    }

    /// Roles are live leases; the journal's issued without ended are, and the record's; what was answered lives exactly as long as its holder.
    fn agree(&self, left: &Left) -> bool {
        !self.unfinished
            && self.roles == self.live
            && self.journal == self.live
            && self.recorded == self.live
            && left.kept.is_subset(&self.live)
            && left.lost.is_disjoint(&self.live)
    }
}

/// Returns the books when they agree, within a time that nobody should need.
async fn settled(host: &Host, cluster: &Postgres, left: &Left, what: &str) -> Books {
    let mut last = Books::default();
    for _ in 0..400 {
        last = Books::read(host, cluster).await;
        if last.agree(left) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: {left:#?}\n{last:#?}\n{}", host.log())
}

/// Needs the build with failpoints: `tests/mutations` runs it, with as many deaths as it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_failpoint_it_owes_nothing() {
    let Some(rounds) = std::env::var("CLAVIGER_TEST_FAILPOINTS").ok().and_then(|rounds| rounds.parse::<usize>().ok()) else { return };
    if !is_root() {
        return;
    }
    let Some(cluster) = Postgres::start().await else { return };
    let mut points = points(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    // Passed with those engines only, when a value is changed, or by an operator's act: these have tests of their own.
    points.retain(|point| !["openbao-", "bearer-", "rotate-", "command-", "operator-"].iter().any(|other| point.starts_with(other)));
    assert!(points.len() >= 15, "{points:?}");
    let rounds = rounds.max(points.len());
    let mut host = Host::prepare(setup(&cluster));
    host.clav_is_there();
    let (mut figures, mut cut_before) = (BTreeMap::<&str, [usize; 4]>::new(), 0);
    for round in 0..rounds {
        let point = points[round % points.len()].as_str();
        // Starting passes some of them already.
        let before = match point {
            "accepted" => 8,
            "recorded" => 4,
            _ => 0,
        };
        let what = format!("round {round}, {point}");
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("{point}:{}", before + 1 + round / points.len() % 4))];
        host.launch();
        let (mut holders, mut answered, mut left) = (Vec::new(), Vec::new(), Left::default());
        for _ in 0..24 {
            let holder = host.hold(VICTIM, "orders", &["hold", ASK]);
            if holder.first["status"] == 201 {
                answered.push(holder.first["body"]["request"].as_str().unwrap().to_owned());
                left.kept.insert(holder.lease());
            }
            holders.push(holder);
            // Three live on, so that there is something left to agree about.
            if holders.len() > 3 {
                let mut dies = holders.remove(0);
                dies.kill();
                if dies.first["status"] == 201 {
                    left.kept.remove(&dies.lease());
                    left.lost.insert(dies.lease());
                }
            }
            if !host.is_running() {
                break;
            }
        }
        host.wait_until(Duration::from_secs(10), &format!("{what} is reached"), |host| !host.is_running());
        host.stop(true);
        host.environment.clear();
        host.launch();
        // Nothing that was answered is forgotten.
        let requests: Ids = host.records_of("issue").iter().map(|record| record["request"].as_str().unwrap().to_owned()).collect();
        for request in &answered {
            assert!(requests.contains(request), "{what}: {request} was answered and is not on the record");
        }
        let books = settled(&host, &cluster, &left, &what).await;
        let cut = unfinished(&host).len();
        let figure = figures.entry(point).or_default();
        for (sum, more) in figure.iter_mut().zip([1, answered.len(), books.live.len(), cut - cut_before]) {
            *sum += more;
        }
        cut_before = cut;
        drop(holders);
        let all = Left { lost: &left.lost | &left.kept, kept: Ids::new() };
        let books = loop {
            let books = settled(&host, &cluster, &all, &what).await;
            // One that was issued and not answered ends with its holder too.
            if books.live.is_empty() {
                break books;
            }
        };
        assert!(books.roles.is_empty() && books.journal.is_empty() && books.recorded.is_empty(), "{what}: {books:#?}");
        host.stop(false);
        let verified = host.shell(0, &format!("clav audit verify --key {0}/audit.pub {0}", host.path("audit"))).output().unwrap();
        assert!(verified.status.success(), "{what}: {}", String::from_utf8_lossy(&verified.stdout));
    }
    eprintln!("\n{:<18} {:>7} {:>9} {:>15} {:>18}", "killed at", "deaths", "answered", "live afterwards", "ended at the start");
    for (point, [deaths, answered, left, cut]) in &figures {
        eprintln!("{point:<18} {deaths:>7} {answered:>9} {left:>15} {cut:>18}");
    }
    let sum = |n: usize| figures.values().map(|figure| figure[n]).sum::<usize>();
    eprintln!("{:<18} {:>7} {:>9} {:>15} {:>18}\n", "all", sum(0), sum(1), sum(2), sum(3));
    assert!(sum(0) == rounds && figures.len() == points.len());
}

/// Row and record are written side by side. With the row in the journal and nothing on the record nobody was answered: it ends at the next
/// start, though its holder lives. Needs the build with failpoints, which `tests/mutations` lets stand in.
#[test]
fn a_lease_in_the_journal_that_is_not_on_the_record_ends_at_the_next_start() {
    if std::env::var_os("CLAVIGER_TEST_DAEMON").is_none() || !is_root() {
        return;
    }
    let mut host = Host::prepare(Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.launch();
    host.put("app/one", "value-one");
    let hold = |host: &Host| host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/one"}"#]);
    let mut kept = hold(&host);
    for passes in 1..=3 {
        host.stop(false);
        host.environment = vec![("CLAVIGER_FAILPOINT".into(), format!("unrecorded:{passes}"))];
        host.launch();
        let mut answered: Vec<Actor> = (1..passes).map(|_| hold(&host)).collect();
        let cut = hold(&host);
        assert_eq!(cut.first["status"], 0, "nobody is answered: {}", cut.first);
        host.wait_until(Duration::from_secs(10), "it is killed", |host| !host.is_running());
        host.stop(true);
        // It is in the one book and not in the other.
        let only: Vec<String> = (&journal(&host) - &recorded(&host)).into_iter().collect();
        let [lease] = &only[..] else { panic!("{only:?}") };
        let before = unfinished(&host);
        host.environment.clear();
        host.launch();
        host.wait_until(Duration::from_secs(10), "it ends", |host| unfinished(host).contains(lease));
        assert_eq!((&unfinished(&host) - &before).len(), 1, "nothing else was cut short");
        let holders = answered.iter().chain([&kept]).map(Actor::lease).collect::<Ids>();
        assert_eq!((live(&host), journal(&host), recorded(&host)), (holders.clone(), holders.clone(), holders));
        for holder in answered.iter_mut().chain([&mut kept]) {
            let lease = holder.lease();
            holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
            assert_eq!(holder.line()["status"], 200, "who was answered keeps what it has");
        }
        drop((cut, answered));
        host.wait_until(Duration::from_secs(10), "the others end with their holders", |host| host.live().len() == 1);
    }
    host.stop(false);
    super::crash::verify(&host);
}
