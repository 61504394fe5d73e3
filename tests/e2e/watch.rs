//! Who is told what happens to a lease.

use super::host::*;

const ONE: &str = r#"{"secret":"app/one"}"#;

#[test]
fn a_holder_is_told_what_happens_to_its_lease_and_nobody_else_is() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(Setup {
        identities: identity("orders", VICTIM, &declared("app/one")),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    host.put("app/one", "v");
    let mut holder = host.hold(VICTIM, "orders", &["watch", ONE]);
    let lease = holder.lease();
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["id"]), (&"lease".into(), &lease.as_str().into()), "{told}");
    // Another process of the same identity, and a stranger.
    let mut neighbour = host.hold(VICTIM, "orders", &["watch"]);
    assert_eq!(neighbour.first["comment"], "nothing new", "{}", neighbour.first);
    let stranger = host.act(ATTACKER, "attacker", &["call", "GET", "/v1/watch"]);
    assert_eq!(stranger[0]["body"]["error"]["code"], "no_identity", "{stranger:?}");
    // A process whose session's leader gets one later, which it may use.
    let mut led = host.hold(VICTIM, "orders", &["led", r#"{"secret":"app/one","holder":"ancestor"}"#]);
    assert_eq!(led.first["comment"], "nothing new", "{}", led.first);
    led.say("go");
    let leaders = led.line();
    assert_eq!((&leaders["event"], &leaders["data"]["holder"]["kind"]), (&"lease".into(), &"ancestor".into()), "{leaders}");
    drop(led);
    host.put("app/one", "another");
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["lease"]), (&"rotated".into(), &lease.as_str().into()), "{told}");
    host.operator("POST", "/v1/leases/end", &format!(r#"{{"id":"{lease}"}}"#));
    let told = holder.line();
    assert_eq!((&told["event"], &told["data"]["reason"]), (&"ended".into(), &"operator".into()), "{told}");
    host.end_of(&lease);
    assert!(host.stop(false).is_some_and(|status| status.success()), "streams do not keep it");
    let last = neighbour.line();
    assert_eq!(last["over"], 0, "it was told of no event: {last}");
}
