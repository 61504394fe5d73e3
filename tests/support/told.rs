//! What workloads, operators and the record say of a source that is away or refuses, and what they say when it is there again.

use super::host::{Actor, Host, VICTIM};
use serde_json::{Value, json};
use std::time::Duration;

/// Whoever asks is told to come again, and not why; the record says both, in the engine's name.
pub fn is_refused(host: &Host, program: &str, ask: &str, causes: &[&str]) {
    let answer = host.act(VICTIM, program, &["call", "POST", "/v1/leases", ask]).remove(0);
    is_told(host, &answer, "engine_unavailable", causes);
}

pub fn is_told(host: &Host, answer: &Value, code: &str, causes: &[&str]) {
    let error = &answer["body"]["error"];
    assert_eq!((&answer["status"], &error["code"]), (&json!(503), &json!(code)), "{answer}\n{}", host.log());
    assert!(causes.iter().all(|cause| !answer.to_string().contains(cause)), "what is upstream is not the workload's business: {answer}");
    let request = error["request"].as_str().or(answer["body"]["request"].as_str());
    let record = host.records().into_iter().rev().find(|record| record["code"] == code).expect("a record");
    assert!(request.is_none_or(|request| record["request"] == request), "{answer}\n{record}");
    let detail = record["detail"].as_str().unwrap_or_default();
    assert!(causes.iter().all(|cause| detail.contains(cause)), "{causes:?}: {record}");
}

/// An end that was tried in vain: its line in the log has the lease, the engine and what was in the way.
pub fn is_tried(host: &mut Host, lease: &str, causes: &[&str]) {
    host.wait_until(Duration::from_secs(30), "the end is tried", |host| {
        host.records_of("retry").iter().any(|record| record["lease"] == lease)
    });
    let log = host.log();
    let of_lease = |line: &&str| line.contains("ending a lease did not come through") && line.contains(lease);
    let line = log.lines().find(of_lease).unwrap_or_else(|| panic!("no line about {lease}\n{log}"));
    // Nobody tries soon after a failure.
    let waits = line.contains(causes[0]) && line.contains("could not be reached a moment ago");
    assert!(waits || causes.iter().all(|cause| line.contains(cause)), "{causes:?}: {line}");
    assert!(host.records_of("end").iter().all(|record| record["lease"] != lease), "it is not called dead");
}

/// Once the source is there again.
pub fn comes_to_its_end(host: &mut Host, lease: &str) {
    let end = host.end_of(lease);
    assert_eq!((&end["ended"]["reason"], &end["ended"]["result"]), (&json!("holder_gone"), &json!("revoked")), "{end}");
    assert!(end["ended"]["attempts"].as_u64().unwrap() > 1 && end["ended"]["dead"].is_string(), "{end}");
}

/// A lease is given as soon as nobody waits any more before the next try.
pub fn is_served(host: &mut Host, program: &str, ask: &str) -> Actor {
    let mut holder = None;
    host.wait_until(Duration::from_secs(30), "another is served", |host| {
        let asked = host.hold(VICTIM, program, &["hold", ask]);
        let served = asked.first["status"] == 201;
        holder = served.then_some(asked);
        served
    });
    holder.unwrap()
}
