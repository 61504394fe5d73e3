//! Hostile input on every route of both doors: a stable refusal, no fault, no answer that is none.

use super::host::*;
use std::time::Duration;

#[test]
fn every_route_survives_every_body() {
    if !is_root() {
        return;
    }
    let mut host = Host::start(Setup {
        config: "[limits]\nconnections_per_second = 100000\nconnections = 1000\n".into(),
        identities: identity("orders", VICTIM, ""),
        secrets: secret("app/one", "internal", ""),
        policy: grant("orders", "app/one"),
        ..Setup::default()
    });
    let bodies = [
        String::new(),
        "{".into(),
        "[]".into(),
        "null".into(),
        "\u{feff}{}".into(),
        "[".repeat(15_000),
        r#"{"secret":"app/one","secret":"app/two"}"#.into(),
        r#"{"secret":"../../etc/passwd"}"#.into(),
        r#"{"secret":"app/one\u0000"}"#.into(),
        format!(r#"{{"secret":"{}"}}"#, "a".repeat(300)),
        r#"{"secret":"app/one","ttl":1e400}"#.into(),
        r#"{"secret":"app/one","uses":-1}"#.into(),
        r#"{"secret":"app/one","__proto__":{}}"#.into(),
        r#"{"frozen":"yes"}"#.into(),
        r#"{"id":"lease-x"}"#.into(),
        "x".repeat(17_000),
    ];
    for route in claviger::server::ROUTES {
        for parameter in ["x", "lease-00000000000000000000000000", "%2e%2e", "A", "\u{e9}"] {
            let mut path = route.path.to_owned();
            for name in ["{id}", "{jti}", "{name}", "{request}", "{engine}"] {
                path = path.replace(name, &parameter.bytes().map(|b| format!("%{b:02x}")).collect::<String>());
            }
            for body in &bodies {
                if route.path == "/v1/reload" || (route.method == "PUT" && body.is_empty()) {
                    continue;
                }
                let (code, answer) = host.call(route.socket, route.method, &path, body);
                assert!(code < 500 || code == 503, "{} {path} {body:.60}: {code} {answer}", route.method);
            }
        }
    }
    assert!(host.is_running());
    assert_eq!(host.call("workload", "GET", "/v1/health", "").0, 200);
    assert!(!host.log().contains("panicked"), "{}", host.log());
}

#[test]
fn odd_bytes_and_slow_ones_end_in_a_refusal_or_a_closed_connection() {
    if !is_root() {
        return;
    }
    let config =
        "[limits]\nrequest_seconds = 1\nidle_seconds = 3600\nanswer_seconds = 1\nconnections_per_second = 100000\nconnections = 1000\n";
    let mut host = Host::start(Setup { config: config.into(), ..Setup::default() });
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let long = [b"GET /v1/health HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 40 << 10], b"\r\n\r\n".to_vec()].concat();
    for bytes in [
        b"\0\0\0\0".to_vec(),
        b"GET /v1/health\r\n\r\n".to_vec(),
        b"GET /v1/health HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
        b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nabcdef".to_vec(),
        b"GET //v1/health HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        b"GET /v1/health HTTP/1.1\r\nhost: x\r\nclaviger-nonce: \xff\xfe\r\n\r\n".to_vec(),
        long,
    ] {
        let answer = host.act(VICTIM, "any", &["raw", &hex(&bytes)]).remove(0);
        let code = answer["status"].as_u64().unwrap();
        assert!(
            code == 0 || code == 200 || (400..500).contains(&code),
            "{code} for {:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
        );
    }
    // A request that never comes to its end gives its place back.
    use std::io::{Read, Write};
    let mut slow = std::os::unix::net::UnixStream::connect(host.dir.join("workload.sock")).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    slow.write_all(b"POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{").unwrap();
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).unwrap();
    assert!(String::from_utf8_lossy(&answer).contains("did not arrive in time"), "{}", String::from_utf8_lossy(&answer));
    // Nor does one whose head drips in, although a connection may be idle for an hour here.
    let mut slow = std::os::unix::net::UnixStream::connect(host.dir.join("workload.sock")).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.write_all(b"GET /v1/health HTTP/1.1\r\n").unwrap();
    assert_eq!(slow.read(&mut [0]).unwrap(), 0, "closed");
    assert!(host.is_running());
}

#[test]
fn a_connection_may_be_idle_for_so_long() {
    if !is_root() {
        return;
    }
    use std::io::{Read, Write};
    let host =
        Host::start(Setup { config: "[limits]\nrequest_seconds = 1\nidle_seconds = 2\nanswer_seconds = 1\n".into(), ..Setup::default() });
    let mut idle = std::os::unix::net::UnixStream::connect(host.dir.join("workload.sock")).unwrap();
    idle.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    idle.write_all(b"GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    idle.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "answered, then closed");
}

#[test]
fn one_uid_that_takes_all_it_can_leaves_the_rest_to_others() {
    if !is_root() {
        return;
    }
    let host = Host::start(Setup { config: "[limits]\nconnections = 8\n".into(), ..Setup::default() });
    let held: Vec<Actor> = (0..12).map(|_| host.hold(ATTACKER, "flood", &["hold", "{}"])).collect();
    let served = held.iter().filter(|actor| actor.first["status"] != 0).count();
    assert_eq!(served, 8, "the ninth connection is closed");
    assert_eq!(host.act(VICTIM, "other", &["call", "GET", "/v1/health"]).remove(0)["status"], 200);
}
