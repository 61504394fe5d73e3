//! `clav key ls` and `clav key rotate`.

use super::{remedy::as_operator, *};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use std::fs;

const TOKEN: &str = "\n[[secret]]\nname = \"token\"\nengine = \"tokens\"\nowner = \"team-test\"\nsensitivity = \"public\"\nenvironment = \"test\"\n\
                     purposes = [\"try\"]\noperation = \"read\"\nttl = { max = \"2s\" }\ndescription = \"A token\"\nsettings = { audience = [\"them\"] }\n";

/// With a secret of a jwt engine whose tokens live for two seconds at most.
fn with_tokens() -> Daemon {
    let mut daemon = sample();
    let read = |name: &str| fs::read_to_string(daemon.dir.join("etc").join(name)).unwrap();
    let (rows, grants, config) = (read("secrets.d/sample.toml"), read("policy.d/50-grants.cedar"), read("clavigerd.toml"));
    let hello: Vec<&str> = grants.lines().take(2).collect();
    daemon.write("secrets.d/sample.toml", &(rows + TOKEN), 0o644);
    daemon.write("policy.d/50-grants.cedar", &(grants.clone() + &hello.join("\n").replace("hello", "token") + "\n"), 0o644);
    daemon.write("clavigerd.toml", &config.replace("max_ttl = \"1h\"", "max_ttl = \"2s\""), 0o644);
    daemon.restart();
    daemon
}

fn rows(daemon: &Daemon, name: &str) -> Vec<serde_json::Value> {
    let keys = json(&daemon.clav(["key", "ls", "--json"]))["keys"].as_array().unwrap().clone();
    keys.into_iter().filter(|key| key["name"] == name).collect()
}

fn token(daemon: &Daemon) -> String {
    exits(&daemon.plain(["get", "token", "--purpose", "try", "-q"]), 0)
}

/// The key that a token names is among those that verifiers are told of, and its signature is by it.
fn is_verified(daemon: &Daemon, token: &str) -> bool {
    let part = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let head: serde_json::Value = serde_json::from_slice(&part(signed.split('.').next().unwrap())).unwrap();
    let exported = json(&daemon.clav(["jwks", "export", "tokens"]));
    let keys = exported["jwks"]["keys"].as_array().unwrap();
    let Some(key) = keys.iter().find(|key| key["kid"] == head["kid"]) else { return false };
    let coordinate = |name: &str| part(key[name].as_str().unwrap());
    let point = [vec![4], coordinate("x"), coordinate("y")].concat();
    let public = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    public.verify(signed.as_bytes(), &part(signature)).is_ok()
}

#[test]
fn keys_are_listed_and_unknown_ones_are_not_changed() {
    let daemon = sample();
    let list = exits(&daemon.clav(["key", "ls"]), 0);
    for word in ["local", "seals the local store", "tokens", "ES256: signs", "EdDSA: signs", "audit", "signs the audit log"] {
        assert!(list.contains(word), "{word} is missing:\n{list}");
    }
    let wrong = daemon.clav(["key", "rotate", "nothing"]);
    exits(&wrong, 10);
    assert!(errors(&wrong).contains("there is local, audit, tokens") && !errors(&wrong).contains("clav why"), "{}", text(&wrong));
    exits(&daemon.clav(["key", "rotate", "No Name"]), 2);
    // A second change on top of a first would shorten how long a key is known before it signs.
    exits(&daemon.clav(["key", "rotate", "tokens"]), 0);
    assert!(exits(&daemon.clav(["key", "ls"]), 0).contains("ES256: published; signs from"));
    let early = daemon.clav(["key", "rotate", "tokens"]);
    exits(&early, 10);
    assert!(errors(&early).contains("signs only from"), "{}", text(&early));
    assert_eq!(daemon.records().matches("key-rotate-jwt").count(), 2, "asked and done once; what does not happen is not said to have");
}

#[test]
fn old_tokens_are_verified_while_they_live_and_new_ones_after() {
    let daemon = with_tokens();
    let before = rows(&daemon, "tokens");
    let old = token(&daemon);
    assert!(is_verified(&daemon, &old));
    let said = exits(&daemon.clav(["key", "rotate", "tokens"]), 0);
    assert!(said.contains("sign from") && said.contains("clav jwks export tokens"), "{said}");
    assert_eq!(rows(&daemon, "tokens").len(), before.len() * 2, "both hand over");
    assert!(is_verified(&daemon, &old), "the key before stays published");
    assert!(is_verified(&daemon, &token(&daemon)));
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !rows(&daemon, "tokens").iter().any(|row| row["state"].as_str().unwrap().contains("signs no more")) {
        assert!(std::time::Instant::now() < until, "the new key does not take over: {:?}", rows(&daemon, "tokens"));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(is_verified(&daemon, &old), "not before its last token is dead, and a rotation or a start comes by");
    let new = token(&daemon);
    assert!(is_verified(&daemon, &new));
    assert_ne!(new.split('.').next(), old.split('.').next(), "another key signs");
    assert!(daemon.records().contains("key-rotate-jwt"));
}

#[test]
fn a_key_that_others_may_have_is_given_up_with_what_it_signed() {
    let daemon = with_tokens();
    let (before, old) = (rows(&daemon, "tokens"), token(&daemon));
    assert!(is_verified(&daemon, &old));
    // Also while a change is under way, which asks for patience.
    exits(&daemon.clav(["key", "rotate", "tokens"]), 0);
    let said = exits(&daemon.clav(["key", "rotate", "tokens", "--discard"]), 0);
    assert!(said.contains("keys of before are gone") && said.contains("clav jwks export tokens"), "{said}");
    let after = rows(&daemon, "tokens");
    assert!(after.len() == before.len() && !after.iter().any(|row| before.iter().any(|other| other["id"] == row["id"])), "{after:?}");
    assert!(!is_verified(&daemon, &old), "what it signed is good no more");
    assert!(is_verified(&daemon, &token(&daemon)));
    assert_eq!(daemon.records().matches("key-discard-jwt").count(), 2, "asked and done");
    for name in ["local", "audit"] {
        let refused = daemon.clav(["key", "rotate", name, "--discard"]);
        exits(&refused, 10);
        assert!(errors(&refused).contains("Only keys of jwt engines"), "{}", text(&refused));
    }
}

#[test]
fn a_new_key_of_the_store_changes_no_value() {
    let mut daemon = sample();
    let old = rows(&daemon, "local")[0]["id"].clone();
    // While the old key stands in its place, the answer is how to put a new one there, to be typed as it is.
    let refused = daemon.clav(["key", "rotate", "local"]);
    exits(&refused, 10);
    let said = errors(&refused);
    assert!(said.contains("is the one in use"), "{said}");
    let commands: Vec<&str> = said.lines().skip(1).collect();
    assert!(commands.len() == 1 && commands[0].contains(" && clav key rotate local && rm "), "no step without the one before: {said}");
    for command in commands {
        exits(&as_operator(&daemon, command, b""), 0);
    }
    assert_ne!(rows(&daemon, "local")[0]["id"], old);
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), CANARY);
    daemon.restart();
    assert_eq!(exits(&daemon.plain(["get", "hello", "-q"]), 0), CANARY, "under the new key alone");
    assert!(daemon.records().contains("key-rotate-local"));
    exits(&daemon.clav(["key", "rotate", "local"]), 10);
}

#[test]
fn the_log_is_sound_across_a_change_of_its_key() {
    let mut daemon = sample();
    exits(&daemon.plain(["get", "hello", "-q"]), 0);
    let first = fs::read_to_string(daemon.dir.join("log/audit.pub")).unwrap();
    let said = exits(&daemon.clav(["key", "rotate", "audit"]), 0);
    let both = fs::read_to_string(daemon.dir.join("log/audit.pub")).unwrap();
    assert!(both.starts_with(&first) && both.lines().count() == 2 && said.contains(both.lines().last().unwrap()), "{said}\n{both}");
    exits(&daemon.plain(["get", "hello", "-q"]), 0);
    exits(&daemon.clav(["key", "rotate", "audit"]), 0);
    // Which keys there are is not the file's to say.
    let public = daemon.dir.join("log/audit.pub");
    fs::write(&public, "00".repeat(32) + "\n").unwrap();
    daemon.restart();
    let all = fs::read_to_string(&public).unwrap();
    assert!(all.starts_with(&both) && all.lines().count() == 3, "{all}");
    exits(&daemon.plain(["get", "hello", "-q"]), 0);
    assert_eq!(rows(&daemon, "audit").len(), 1);
    daemon.stop();
    // The first key alone leads to all that follow it.
    let pinned = daemon.dir.join("first.pub");
    fs::write(&pinned, first).unwrap();
    let sound = exits(&daemon.clav(["audit", "verify", "--key", pinned.to_str().unwrap()]), 0);
    assert!(sound.contains("The log is sound."), "{sound}");
    let records = daemon.records();
    assert_eq!(records.matches("\"kind\":\"key\"").count(), 2);
    assert_eq!(records.matches("key-rotate-audit").count(), 4);
}
