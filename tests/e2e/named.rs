//! Secrets that are read by name, by clients that know no leases, again and again on one connection.

use super::{host::*, vault::started};
use serde_json::Value;

/// Clients of this API ask by name again and again; what stands for a name a moment long is no less true for that.
#[test]
fn a_name_that_is_read_again_at_once_is_answered_by_what_holds_now() {
    if !is_root() {
        return;
    }
    let host = started("");
    let mut holder = host.hold(VICTIM, "orders", &["hold", r#"{"secret":"app/two","purpose":"testing"}"#]);
    let mut read = |expected: u16| {
        holder.say("call GET /v1/creds/app/one");
        let answer = holder.line();
        assert_eq!(answer["status"], expected, "{answer}");
        let text = |at: &str| answer["body"].pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/lease_id"), text("/data/value"))
    };
    let (lease, value) = read(200);
    assert_eq!(value, "value-one");
    assert!((0..50).all(|_| read(200) == (lease.clone(), value.clone())), "the same lease");
    // The next read after a new value gives that, by a lease of its own.
    for n in 0..5 {
        host.put("app/one", &format!("value-{n}"));
        assert_eq!(read(200).1, format!("value-{n}"));
        assert_eq!(read(200).1, format!("value-{n}"));
    }
    // Nobody is given anything by name from the moment on in which issuing is frozen.
    for _ in 0..5 {
        read(200);
        host.operator("POST", "/v1/freeze", r#"{"frozen":true,"reason":"a test"}"#);
        read(503);
        host.operator("POST", "/v1/freeze", r#"{"frozen":false,"reason":"a test"}"#);
    }
    // A lease that an operator ended is followed by another.
    for _ in 0..5 {
        let (lease, _) = read(200);
        host.operator("POST", "/v1/leases/end", &format!(r#"{{"id":"{lease}"}}"#));
        let (next, value) = read(200);
        assert!(next != lease && value == "value-4");
    }
}
