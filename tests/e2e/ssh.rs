//! A service that logs in to a real sshd with a key and a certificate of a confined daemon's: the same ones after `kill -9`, and refused by
//! the server once their holder is gone.

use super::{
    host::*,
    sshd::{Sshd, put_key, revocation_list},
};
use serde_json::Value;
use std::os::unix::fs::MetadataExt;

const ASK: &str = r#"{"secret":"hosts/web"}"#;

/// Writes the credential of an answer; the path of the key.
fn put(host: &Host, name: &str, answer: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_else(|| panic!("{answer}\n{}", host.log())).to_owned();
    let (key, certificate) = (text(&answer["body"]["secret"]["value"]), text(&answer["body"]["attributes"]["certificate"]));
    put_key(&host.dir, name, key.as_bytes(), &certificate)
}

fn lives_and_dies(two: bool) {
    if !is_root() {
        return;
    }
    let mut host = Host::prepare(Setup {
        config: "[[engine]]\nkind = \"ssh\"\nname = \"hosts\"\nmax_ttl = \"1h\"\nca_public_file = \"$DIR/lists/hosts.pub\"\n\
                 revoked_file = \"$DIR/lists/hosts.revoked\"\n"
            .into(),
        identities: identity("orders", VICTIM, &declared("hosts/web")),
        secrets: secret("hosts/web", "internal", "settings = { principals = [\"release\"] }")
            .replace("engine = \"local\"", "engine = \"hosts\""),
        policy: grant("orders", "hosts/web"),
        two,
        ..Setup::default()
    });
    // The daemon's own, as an operator makes it.
    std::fs::create_dir(host.path("lists")).unwrap();
    let state = std::fs::metadata(&host.dir).unwrap();
    std::os::unix::fs::chown(host.path("lists"), Some(state.uid()), None).unwrap();
    host.launch();
    let (krl, authority, ended) = (host.dir.join("krl"), host.dir.join("lists/hosts.pub"), host.dir.join("lists/hosts.revoked"));
    revocation_list(&krl, &authority, &ended);
    host.write("principals", "release\n");
    let more = format!("RevokedKeys {}\nAuthorizedPrincipalsFile {}", krl.display(), host.path("principals"));
    let Some(sshd) = Sshd::start(&host.dir, &authority, &more) else { return };
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "short-life");
    let lease = holder.lease();
    let key = put(&host, "mine", &holder.first);
    sshd.lets_in(&key);
    // What the server's log says leads to the lease and to the intent on the record.
    let issue = host.records_of("issue").pop().unwrap();
    let intent = issue["credential"]["intent"].as_str().unwrap();
    assert!(sshd.log().contains(&format!("claviger lease={lease} identity=orders intent={intent}")), "{}", sshd.log());
    assert_eq!(issue["credential"]["serial"], holder.first["body"]["attributes"]["serial"]);
    host.stop(true);
    host.launch();
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    let again = holder.line();
    assert_eq!(again["body"]["secret"]["value"], holder.first["body"]["secret"]["value"], "made again");
    sshd.lets_in(&put(&host, "again", &again));
    // Another who asks has another key.
    let other = host.hold(VICTIM, "orders", &["hold", ASK]);
    let others = put(&host, "other", &other.first);
    // A holder who lives is on no list.
    revocation_list(&krl, &authority, &ended);
    sshd.lets_in(&key);
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("lapsed")));
    revocation_list(&krl, &authority, &ended);
    sshd.refuses(&key, "revoked");
    sshd.lets_in(&others);
}

#[test]
fn a_certificate_lets_nobody_in_when_its_holder_is_dead() {
    lives_and_dies(false);
}

#[test]
fn a_certificate_lets_nobody_in_when_its_holder_is_dead_in_two_processes() {
    lives_and_dies(true);
}
