//! Holds the house plan: which room of `src/` may name which, and which crates live in which room. Reads the source text, so it costs nothing.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Each room with the rooms that it may name, in the order of a request's way through them. A room may name those before it that it
/// needs, never one after it: so there are no cycles, and the folder listing is the diagram.
const ROOMS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sys", &["model"]),
    ("digest", &["model", "sys"]),
    ("wire", &["model"]),
    ("launch", &["sys"]),
    ("attest", &["model", "sys", "digest", "launch"]),
    ("outbound", &["model", "sys", "digest"]),
    ("intent", &["model", "attest"]),
    ("policy", &["model", "digest", "attest", "intent"]),
    ("approval", &["model", "sys", "digest", "attest", "intent", "policy"]),
    ("engine", &["model", "sys", "digest", "outbound", "approval"]),
    ("lease", &["model", "sys", "digest", "intent", "approval", "engine"]),
    ("audit", &["model", "sys", "digest"]),
    ("broker", &["model", "sys", "digest", "wire", "launch", "attest", "intent", "policy", "approval", "engine", "lease", "audit"]),
    ("server", &["model", "sys", "digest", "wire", "launch", "attest", "intent", "engine", "audit", "broker"]),
    ("client", &["model", "sys", "digest", "wire"]),
    ("config", &["model", "sys", "digest"]),
    (
        "app",
        &[
            "model", "sys", "digest", "wire", "launch", "attest", "outbound", "intent", "policy", "approval", "engine", "lease", "audit",
            "broker", "server", "config",
        ],
    ),
    ("cli", &["model", "sys", "digest", "wire", "launch", "policy", "audit", "client", "config"]),
    (
        "testing",
        &[
            "model", "sys", "digest", "wire", "attest", "intent", "policy", "approval", "engine", "lease", "audit", "broker", "server",
            "client", "config", "app",
        ],
    ),
];

/// Crates that stay in their rooms, so that exchanging one is a change in one place.
const CRATES: &[(&str, &[&str])] = &[
    ("nix", &["sys"]),
    ("libc", &["sys"]),
    ("sd_notify", &["sys"]),
    ("ring", &["digest"]),
    ("pbkdf2", &["digest"]),
    ("cedar_policy", &["policy"]),
    ("miette", &["policy"]),
    ("hyper", &["server", "client", "outbound"]),
    ("hyper_util", &["server", "client", "outbound"]),
    ("http_body_util", &["server", "client", "outbound"]),
    ("rustls", &["outbound", "engine/postgres"]),
    ("tokio_rustls", &["outbound", "engine/postgres"]),
    ("tokio_postgres", &["engine/postgres"]),
    ("rcgen", &["engine/x509"]),
    ("x509_parser", &["engine/x509"]),
    ("ssh_key", &["engine/ssh"]),
    ("moka", &["attest", "policy", "engine"]),
    ("prometheus_client", &["broker"]),
    ("clap", &["app", "cli"]),
    ("toml", &["config"]),
];

/// Libraries that must never be linked: a second TLS beside `rustls`, and crypto of its kind beside `ring`.
const BANNED: &[&str] = &["openssl", "openssl-sys", "native-tls", "aws-lc-sys", "aws-lc-rs"];

const LINES: usize = 400;

struct Source {
    /// Below `src/`, such as `engine/local/mod.rs`.
    name: String,
    text: String,
    /// Without comments, texts and tests.
    code: String,
}

impl Source {
    fn room(&self) -> &str {
        self.name.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// How many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        let stem = self.name.trim_end_matches(".rs").trim_end_matches("/mod");
        stem.split('/').count()
    }

    fn is_test(&self) -> bool {
        self.name.contains("/tests/") || self.name.ends_with("/tests.rs")
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let name = path.strip_prefix(&root).unwrap().display().to_string();
                found.push(Source { name, code: code_of(&text), text });
            }
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(found.len() > 50, "the source was not found");
    found
}

/// The text without comments, the contents of texts, and what stands behind `#[cfg(test)]` up to its closing brace or semicolon.
fn code_of(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    let begins = |at: usize, what: &str| what.chars().enumerate().all(|(n, c)| bytes.get(at + n) == Some(&c));
    while at < bytes.len() {
        if begins(at, "//") {
            while at < bytes.len() && bytes[at] != '\n' {
                at += 1;
            }
        } else if bytes[at] == 'r' && (begins(at, "r\"") || begins(at, "r#")) && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
            if bytes.get(at + 1 + hashes) == Some(&'"') {
                let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                at += 2 + hashes;
                while at < bytes.len() && !begins(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        } else if bytes[at] == '"' {
            at += 1;
            while at < bytes.len() && bytes[at] != '"' {
                at += if bytes[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if begins(at, "'\"'") || begins(at, "'\\\"'") || begins(at, "'{'") || begins(at, "'}'") {
            at += 3 + usize::from(bytes[at + 1] == '\\');
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    without_tests(&out)
}

fn without_tests(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code;
    while let Some(found) = rest.find("#[cfg(test)]") {
        out.push_str(&rest[..found]);
        let mut depth = 0;
        let mut end = rest.len();
        for (at, c) in rest[found..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = found + at + 1;
                break;
            }
        }
        rest = &rest[end..];
    }
    out + rest
}

/// The first names behind a path's beginning: one, or those of a group in braces.
fn heads(after: &str) -> Vec<String> {
    let name = |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = after.trim_start().strip_prefix('{') else {
        let head = name(after);
        let is_macro = after.trim_start()[head.len()..].starts_with('!');
        return if is_macro { Vec::new() } else { vec![head] };
    };
    let (mut out, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                out.push(name(&group[begin..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                out.push(name(&group[begin..at]));
                begin = at + 1;
            }
            _ => {}
        }
    }
    out.retain(|head| !head.is_empty());
    out
}

/// Every place where `word` stands as a word of its own, with what follows it.
fn after_word<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    code.match_indices(word).filter(move |(at, _)| !code[..*at].ends_with(part_of_word)).map(move |(at, _)| &code[at + word.len()..])
}

/// The rooms that a file names, itself included.
fn named(source: &Source) -> BTreeSet<String> {
    let mut out: BTreeSet<String> = after_word(&source.code, "crate::").flat_map(heads).collect();
    let up = "super::".repeat(source.depth());
    out.extend(after_word(&source.code, &up).flat_map(heads));
    // Constants and macros of the root are no rooms; `super` is caught as a step too far.
    out.retain(|name| name.starts_with(char::is_lowercase));
    out
}

#[test]
fn rooms_name_only_rooms_of_their_row() {
    let mut problems = Vec::new();
    for source in sources() {
        let room = source.room();
        if room == "bin" || room == "lib" || source.is_test() {
            continue;
        }
        let Some((_, may)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            problems.push(format!("src/{}: there is no room {room} in the plan", source.name));
            continue;
        };
        for name in named(&source).iter().filter(|name| *name != room && !may.contains(&name.as_str())) {
            problems.push(format!("src/{}: {room} may not name {name}", source.name));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn the_plan_has_no_cycle_and_every_room_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (at, (room, may)) in ROOMS.iter().enumerate() {
        assert!(root.join(room).is_dir(), "{room} is in the plan but not in src/");
        for other in *may {
            assert!(ROOMS[..at].iter().any(|(name, _)| name == other), "{room} may name {other}, which does not come before it");
        }
    }
}

#[test]
fn crates_stay_in_their_rooms() {
    let mut problems = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        for (name, rooms) in CRATES {
            let path = format!("{name}::");
            let used = after_word(&source.code, &path).next().is_some() || source.code.contains(&format!("use {name};"));
            if used && !rooms.iter().any(|room| source.name.starts_with(&format!("{room}/"))) {
                problems.push(format!("src/{}: {name} belongs to {}", source.name, rooms.join(", ")));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_file_is_short_and_says_what_it_is_for() {
    let mut problems = Vec::new();
    for source in sources() {
        if source.text.lines().count() > LINES {
            problems.push(format!("src/{}: {} lines, {LINES} are enough", source.name, source.text.lines().count()));
        }
        if !source.text.starts_with("//! ") {
            problems.push(format!("src/{}: does not open with a line that says what it is for", source.name));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn unsafe_code_is_in_one_room_and_gives_its_reasons() {
    let mut problems = Vec::new();
    for source in sources() {
        let places = after_word(&source.code, "unsafe").filter(|after| after.trim_start().starts_with(['{', 'i', 'f'])).count();
        if places > 0 && source.room() != "sys" {
            problems.push(format!("src/{}: unsafe belongs to sys", source.name));
        }
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let reason = |line: &&str| line.contains("SAFETY:");
            if (code.contains("unsafe {") || code.contains("unsafe impl") || code.contains("unsafe fn"))
                && !lines[at.saturating_sub(6)..=at].iter().any(reason)
            {
                problems.push(format!("src/{}:{}: unsafe without // SAFETY:", source.name, at + 1));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn what_cannot_fail_says_why() {
    let mut problems = Vec::new();
    // What is fuzzed says by a panic that a property does not hold.
    let fuzzed = |source: &Source| source.name.starts_with("testing/fuzz/");
    for source in sources().iter().filter(|source| !source.is_test() && !fuzzed(source)) {
        // Tests stand at the end of a file.
        let text = source.text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let panics = [".unwrap()", ".expect(\""].iter().any(|call| line.split("//").next().unwrap_or_default().contains(call));
            if panics && !lines[at.saturating_sub(5)..at].iter().any(|above| above.trim_start().starts_with("// ")) {
                problems.push(format!("src/{}:{}: the invariant is not beside it", source.name, at + 1));
            }
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn no_second_crypto_is_linked() {
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock")).unwrap();
    let lock: toml::Table = toml::from_str(&lock).unwrap();
    let packages = lock["package"].as_array().unwrap();
    let names: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    assert!(names.contains(&"ring"));
    for banned in BANNED {
        assert!(!names.contains(banned), "{banned} is in Cargo.lock");
    }
}

#[test]
fn this_test_sees_what_it_should() {
    let read = |name: &str, text: &str| Source { name: name.into(), code: code_of(text), text: text.into() };
    let text = "//! x\nuse crate::{a::{b, c}, d, E, f::*};\n// crate::no\nlet t = \"crate::no\"; let r = r#\"crate::no \"#;\n\
                crate::m!(crate::g::H);\nuse super::super::i::j;\n#[cfg(test)]\nmod tests { use crate::k; }\nfn l() { crate::l() }\n";
    let found: Vec<String> = named(&read("room/file.rs", text)).into_iter().collect();
    assert_eq!(found, ["a", "d", "f", "g", "i", "l"]);
    let from_mod: Vec<String> = named(&read("room/mod.rs", "use super::a;")).into_iter().collect();
    assert_eq!(from_mod, ["a"]);
    assert!(named(&read("room/file.rs", "use super::a;")).is_empty());
}
