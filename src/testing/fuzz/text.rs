//! Declarations, names, configuration, policy, and the kernel's text files.

use super::{Target, samples};
use crate::{
    config::{Config, File, identities, secrets},
    intent::Ask,
    model::{Catalogue, IdentityName, Registry, SecretName, Selector, Ttl, WallTime},
    policy::{BASELINE, Bundle, Source},
    sys::{parse_stat, parse_status},
};

const FULL_ASK: &str = r#"{"secret":"db/ro","purpose":"serve","operation":"read","targets":["db:5432"],"ttl":"15m","uses":3,"reason":"nightly report","tickets":["jira:OPS-1"],"channel":"deliver","holder":"unit","idempotency_key":"0123456789abcdef"}"#;

pub(super) const ASK: Target = Target {
    name: "ask",
    share: 1,
    samples: || samples(&[FULL_ASK, r#"{"secret":"db/ro"}"#, r#"{"secret":"a","ttl":900}"#]),
    words: &["\"secret\":", "\"ttl\":", "\"uses\":", "{", "}", "[", "]", "null", "-1", "1e309", "\"\\u0000\"", "\"\\ud800\"", ","],
    run: |bytes| {
        let salvaged = Ask::salvage(bytes);
        match Ask::parse(bytes) {
            Ok(ask) => {
                assert_eq!((&salvaged.secret, &salvaged.purpose, salvaged.ttl), (&ask.secret, &ask.purpose, ask.ttl));
                assert!(ask.reason.is_none_or(|reason| !reason.as_str().chars().any(char::is_control)), "a reason is one line");
                assert!(ask.targets.windows(2).all(|pair| pair[0] < pair[1]), "targets are a set");
                true
            }
            Err(refusal) => {
                assert!(!refusal.message.chars().any(char::is_control), "a refusal is one line");
                false
            }
        }
    },
};

/// What was accepted is spelled as it was read: no two byte strings are one name.
fn same<T: std::fmt::Display, E>(parsed: Result<T, E>, text: &str) -> bool {
    let Ok(parsed) = parsed else { return false };
    assert_eq!(parsed.to_string(), text);
    assert!(!text.bytes().any(|b| b < b' ' || b == 0x7f), "a name is one line");
    true
}

fn utf8(bytes: &[u8], run: impl FnOnce(&str) -> bool) -> bool {
    std::str::from_utf8(bytes).is_ok_and(run)
}

pub(super) const NAME: Target = Target {
    name: "name",
    share: 1,
    samples: || samples(&["db/ro", "prod-db/orders.ro", "orders", "a"]),
    words: &["/", "-", ".", "..", "//", "_", "\u{200b}", "\u{430}", "%", "\n"],
    // A secret's name may have parts; an identity's may not.
    run: |bytes| utf8(bytes, |text| same(SecretName::parse(text), text) | same(IdentityName::parse(text), text)),
};

pub(super) const SELECTOR: Target = Target {
    name: "selector",
    share: 1,
    samples: || {
        samples(&["unix:uid:1000", "unix:path:/usr/bin/orders", "systemd:id:orders.service", "exe:root-owned:/bin/x", "cgroup:path:/a/b"])
    },
    words: &[":", "unix:", "exe:", "systemd:", "/../", "//", "\0", " ", "+1", "00"],
    run: |bytes| utf8(bytes, |text| same(Selector::parse(text), text)),
};

pub(super) const TARGET: Target = Target {
    name: "target",
    share: 1,
    samples: || samples(&["db:5432", "db.example.org", "a-b.c:1"]),
    words: &[":", ".", "..", "-", ":0", ":065", ":65536", "127.0.0.1", "0x7f"],
    run: |bytes| utf8(bytes, |text| same(crate::model::Target::parse(text), text)),
};

pub(super) const UNIT_ADDRESS: Target = Target {
    name: "unit_address",
    share: 1,
    samples: || samples(&["ff8da756aa2b3eb9/unit/orders.service/db-password", "0/unit/app@a\\x2db.service/KEY_1"]),
    words: &["/", "//", "unit", "user", "/unit/", "..", "\0", "@", ".service", "f", "G", "\u{200b}"],
    run: |bytes| {
        let Some(asked) = crate::server::Asked::parse(bytes) else { return false };
        // One unit, one credential: nothing else could be meant by the same bytes.
        let rest = format!("/unit/{}/{}", asked.unit, asked.credential.as_str());
        assert!(bytes.ends_with(rest.as_bytes()) && !asked.unit.contains('/') && !asked.credential.as_str().contains('/'));
        true
    },
};

pub(super) const DURATION: Target = Target {
    name: "duration",
    share: 1,
    samples: || samples(&["15m", "1h", "90", "30d", "2592000"]),
    words: &["s", "m", "h", "d", "0", "99999999", "-", "+"],
    run: |bytes| {
        utf8(bytes, |text| {
            let Some(ttl) = Ttl::parse(text) else { return false };
            assert!((1..=2_592_000).contains(&ttl.as_secs()));
            assert_eq!(Ttl::parse(&ttl.to_string()), Some(ttl));
            true
        })
    },
};

pub(super) const TIME: Target = Target {
    name: "time",
    share: 1,
    samples: || samples(&["2026-11-25", "2026-11-25T18:00:00Z", "2026-11-25T18:00:00.000001+02:00"]),
    words: &["T", "Z", "-", ":", "+", "9999", "262143", "60", "00", "."],
    run: |bytes| {
        utf8(bytes, |text| {
            let Some(time) = WallTime::parse(text) else { return false };
            assert_eq!(WallTime::parse(&time.rfc3339()), Some(time), "{}", time.rfc3339());
            true
        })
    },
};

fn file(bytes: &[u8]) -> File {
    File { path: "f.toml".into(), text: String::from_utf8_lossy(bytes).into_owned() }
}

/// An error names a line of the file, or 0 for all of it.
fn in_file(line: usize, file: &File) {
    assert!(line <= file.text.split('\n').count(), "line {line}");
}

const TOML: &[&str] = &["[", "]", "[[", "]]", "=", "\"", "'''", "\n", "{}", "true", "1e400", "-1", "9223372036854775808", "\\u0000", "."];

pub(super) const CONFIG: Target = Target {
    name: "config",
    share: 1,
    samples: || vec![include_bytes!("../../../config/clavigerd.toml").to_vec(), b"[limits]\nconnections = 3\n".to_vec()],
    words: TOML,
    run: |bytes| {
        let file = file(bytes);
        let parsed = Config::parse(&file);
        match &parsed {
            Ok(config) => assert!(config.sockets.workload.is_absolute() && config.paths.state.is_absolute()),
            Err(error) => in_file(error.line, &file),
        }
        parsed.is_ok()
    },
};

pub(super) const SECRETS: Target = Target {
    name: "secrets",
    share: 1,
    samples: || {
        samples(&[
            "[[secret]]\nname = \"db/ro\"\nengine = \"local\"\nowner = \"team\"\nsensitivity = \"internal\"\nenvironment = \"prod\"\npurposes = [\"serve\"]\noperation = \"read\"\nttl = { default = \"15m\", max = \"1h\" }\ndescription = \"d\"\n",
        ])
    },
    words: TOML,
    run: |bytes| {
        let file = file(bytes);
        let rows = secrets(std::slice::from_ref(&file));
        match &rows {
            Ok(rows) => assert!(rows.iter().all(|row| row.row().ttl.default <= row.row().ttl.max)),
            Err(errors) => errors.iter().for_each(|error| in_file(error.line, &file)),
        }
        rows.is_ok_and(|rows| !rows.is_empty())
    },
};

pub(super) const IDENTITIES: Target = Target {
    name: "identities",
    share: 1,
    samples: || {
        samples(&[
            "[[identity]]\nname = \"orders\"\nkind = \"workload\"\nowner = \"team\"\nenvironment = \"prod\"\npurposes = [\"serve\"]\nmax_sensitivity = \"internal\"\nexpires = \"2027-01-01\"\nselectors = [\"unix:uid:1000\", \"unix:path:/usr/bin/orders\"]\n",
        ])
    },
    words: TOML,
    run: |bytes| {
        let file = file(bytes);
        let rows = identities(std::slice::from_ref(&file));
        if let Err(errors) = &rows {
            errors.iter().for_each(|error| in_file(error.line, &file));
        }
        rows.is_ok_and(|_| file.text.contains("[[identity]]"))
    },
};

pub(super) const POLICY: Target = Target {
    name: "policy",
    share: 50,
    samples: || {
        let grant = "@id(\"grant.orders\")\n@owner(\"team\")\n@expires(\"2027-01-01\")\npermit(principal == Workload::\"orders\", action == Action::\"deliver\", resource == Secret::\"db/ro\")\nwhen { context.purpose == \"serve\" };\n";
        // The shipped baseline, and its pieces, which are short enough to be tried often.
        let pieces = BASELINE.split("\n\n").filter(|piece| piece.contains(';')).map(|piece| piece.as_bytes().to_vec());
        pieces.chain([grant.as_bytes().to_vec(), BASELINE.as_bytes().to_vec()]).collect()
    },
    words: &["permit", "forbid", "(", ")", "{", "}", ";", "\"", "//", "@id(\"", "when", "unless", "context.", " in ", " == ", "::"],
    run: |bytes| {
        let source = Source { name: "f.cedar".into(), text: String::from_utf8_lossy(bytes).into_owned() };
        let today = WallTime(1_795_600_000_000_000);
        let loaded = Bundle::load(vec![source.clone()], &Catalogue::new(Vec::new()), &Registry::new(Vec::new()), today);
        if let Err(problems) = &loaded {
            assert!(!problems.is_empty(), "a refused bundle says why");
            problems.iter().for_each(|problem| assert!(!problem.to_string().is_empty()));
        }
        loaded.is_ok()
    },
};

pub(super) const PROC_STATUS: Target = Target {
    name: "proc_status",
    share: 1,
    samples: || {
        samples(&[
            "Name:\ta\\nb\nUmask:\t0022\nState:\tS (sleeping)\nTgid:\t7\nPid:\t7\nPPid:\t1\nTracerPid:\t0\nUid:\t1000\t1000\t1000\t1000\nGid:\t1000\t1000\t1000\t1000\nGroups:\t4 24 \nCapEff:\t00000000a80425fb\nNoNewPrivs:\t1\n",
        ])
    },
    words: &["Uid:", "Gid:", "PPid:", "TracerPid:", "Groups:", "CapEff:", "\t", "\n", "\r", "-1", "4294967296", "+0"],
    run: |bytes| parse_status(bytes).is_some(),
};

pub(super) const PROC_STAT: Target = Target {
    name: "proc_stat",
    share: 1,
    samples: || samples(&["7 (a) S 1 (x)) S 42 7 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0\n"]),
    words: &[")", "(", " ", "\n", "-1", "18446744073709551616"],
    run: |bytes| {
        let Some(stat) = parse_stat(bytes) else { return false };
        // A name can say what it likes before the last parenthesis.
        assert_eq!(parse_stat(&[b"9 (x) R 5 5 5 5) ", bytes].concat()), Some(stat));
        true
    },
};
