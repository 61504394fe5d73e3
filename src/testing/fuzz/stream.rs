//! HTTP as it is spoken on our sockets: what the server makes of any bytes, and what the client makes of any answer.

use super::{Target, samples};
use crate::{client, server};
use tokio::runtime::Runtime;

thread_local! {
    static RUNTIME: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
}

pub(super) const HTTP: Target = Target {
    name: "http",
    share: 1,
    samples: || {
        samples(&[
            "GET /v1/health HTTP/1.1\r\nhost: x\r\n\r\n",
            "POST /v1/leases HTTP/1.1\r\nhost: x\r\ncontent-length: 20\r\n\r\n{\"secret\":\"app/one\"}GET /v1/whoami HTTP/1.1\r\nhost: x\r\n\r\n",
            "POST /v1/leases HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"sec\r\n8;x=y\r\nret\":\"a\"\r\n1\r\n}\r\n0\r\ntrailer: x\r\n\r\n",
            "GET /v1/secret/data/app/one HTTP/1.1\r\nhost: x\r\nx-vault-request: true\r\n\r\nLIST /v1/secret/metadata/ HTTP/1.1\r\nhost: x\r\n\r\n",
            "PUT /v1/secrets/local/db/orders HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
            "DELETE /v1/leases/lease-00000000z80000000000000001 HTTP/1.0\r\nconnection: keep-alive\r\n\r\nHEAD /v1/secrets HTTP/1.1\r\nhost: x\r\n\r\n",
        ])
    },
    words: &[
        "\r\n",
        "\r\n\r\n",
        "\n",
        "\r",
        ": ",
        " ",
        "\t",
        "\0",
        "GET ",
        "POST ",
        "HEAD ",
        "CONNECT ",
        "/v1/leases",
        "/v1/secret/data/",
        "/v1/sys/leases/renew",
        "LIST ",
        "x-vault-request: true\r\n",
        "%2e%2e",
        "//",
        "?",
        "#",
        "*",
        "content-length: ",
        "content-length: 99999999\r\n",
        "transfer-encoding: chunked\r\n",
        "connection: upgrade\r\nupgrade: h2c\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "x: y\r\n",
        "0\r\n\r\n",
        "ffffffffffffffff\r\n",
        "host: x\r\n",
    ],
    run: |bytes| {
        RUNTIME.with(|runtime| {
            let _entered = runtime.enter();
            // In one piece, in small ones, and at both doors.
            let doors = [server::Door::Workload, server::Door::Operator];
            let door = doors[bytes.len() % 2];
            let whole = server::heard::hear(bytes, usize::MAX, door);
            check(&whole);
            let piece = 1 + bytes.first().map_or(0, |byte| usize::from(*byte % 90));
            let pieces = server::heard::hear(bytes, piece, door);
            check(&pieces);
            // What is closed early may hide what would have come after it; what was understood was the same.
            let common = whole.heads.len().min(pieces.heads.len());
            assert_eq!(whole.heads[..common], pieces.heads[..common], "however it is cut, it says the same");
            whole.reached > 0
        })
    },
};

/// What Vault's clients are told of a value: always one object, whatever the value is, in which an object's own members win.
pub(super) const VAULT_VALUE: Target = Target {
    name: "vault_value",
    share: 1,
    samples: || {
        samples(&["value", r#"{"user":"u","password":"p"}"#, r#" {"username": {"a": [1, 2.5e3, "\u00e4", null]}} "#, "{}", r#"["a"]"#])
    },
    words: &[
        "{",
        "}",
        "\"",
        ":",
        ",",
        "[",
        "]",
        "null",
        "\\u0000",
        "\\ud800",
        "1e999",
        " ",
        "\n",
        "\"username\":",
        "\"a\":",
        "\u{feff}",
        "}{",
    ],
    run: |bytes| {
        let attributes = [("username", "u\"".to_owned()), ("version", "3".to_owned())];
        let mut is_object = false;
        for leased in [false, true] {
            let text = server::heard::vault_data(bytes, &attributes, leased);
            let told: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&text).expect("one object of JSON");
            let own: Option<serde_json::Map<String, serde_json::Value>> = serde_json::from_slice(bytes).ok();
            if own.is_some_and(|own| own.iter().all(|(name, value)| told.get(name) == Some(value))) {
                is_object = true;
            } else {
                // No object, or one that names a member twice: as it is.
                let whole = told[if leased { "password" } else { "value" }].as_str().expect("a text");
                assert!(told.contains_key("encoding") || whole.as_bytes() == bytes);
                assert_eq!(told["username"], "u\"");
            }
        }
        is_object
    },
};

/// All that came back is answers: whole, and none says that we failed.
fn check(heard: &server::heard::Heard) {
    let (mut rest, mut heads) = (&heard.replies[..], heard.heads.iter());
    while !rest.is_empty() {
        let end = rest.windows(4).position(|part| part == b"\r\n\r\n").expect("a head comes whole");
        let head = std::str::from_utf8(&rest[..end]).expect("a head of ours is text").to_ascii_lowercase();
        let status: u16 = head.get(9..12).and_then(|code| code.parse().ok()).expect("a status");
        assert!(head.starts_with("http/1.") && matches!(status, 100 | 200 | 400..=499), "{head}");
        rest = &rest[end + 4..];
        if status == 100 {
            continue;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |text| text.parse().expect("a length"));
        // What the protocol refuses has no request behind it.
        let bodiless = heads.next().copied().unwrap_or(false);
        rest = if bodiless { rest } else { rest.get(length..).expect("a body comes whole") };
    }
}

pub(super) const ANSWER: Target = Target {
    name: "answer",
    share: 1,
    samples: || {
        let lease = r#"{"id":"lease-00000000z80000000000000001","state":"live","identity":"orders","secret":"db/ro","sensitivity":"internal","ends_by":"upstream","purpose":"serve","operation":"read","channel":"deliver","holder":{"kind":"process","pid":7},"issued":"2026-01-01T00:00:00.000000Z","expires":"2026-01-01T01:00:00.000000Z","remaining":7,"ttl":3600,"renewable":true}"#;
        let answer = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        };
        let leases = format!("{{\"request\":\"req-00000000z80000000000000001\",\"leases\":[{lease}]}}");
        let refusal =
            r#"{"request":"req-00000000z80000000000000001","error":{"code":"no_grant","message":"No.","needs":[],"recorded":true}}"#;
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n21\r\n{\"status\":\"ok\",\"version\":\"0.1.0\"}\r\n0\r\n\r\n";
        [answer("200 OK", &leases), answer("403 Forbidden", refusal), chunked.to_owned()].into_iter().map(String::into_bytes).collect()
    },
    words: &[
        "\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n",
        "content-length: ",
        "99999999999999999999",
        "transfer-encoding: chunked\r\n",
        "0\r\n\r\n",
        "ffffffff\r\n",
        "{",
        "}",
        "[",
        "null",
        "\"",
        "\\u0000",
        "\0",
    ],
    run: |bytes| RUNTIME.with(|runtime| runtime.block_on(client::heard::hear(bytes)).is_ok_and(|taken| taken > 0)),
};
