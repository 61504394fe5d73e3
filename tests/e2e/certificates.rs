//! A service whose key and certificate are made by a confined daemon: the same ones after `kill -9`, and on the revocation list once their
//! holder is gone.

use super::host::*;
use serde_json::Value;
use std::process::Command;

const ASK: &str = r#"{"secret":"mesh/orders"}"#;

/// What OpenSSL says about the credential, with the revocation list.
fn verify(host: &Host, answer: &Value) -> String {
    host.write("bundle.pem", answer["body"]["secret"]["value"].as_str().unwrap());
    host.write("ca.pem", answer["body"]["attributes"]["ca"].as_str().unwrap());
    let path = |name: &str| host.path(name);
    let said = Command::new("openssl")
        .args([
            "verify",
            "-x509_strict",
            "-crl_check",
            "-CAfile",
            &path("ca.pem"),
            "-CRLfile",
            &path("lists/mesh.pem"),
            &path("bundle.pem"),
        ])
        .output()
        .unwrap();
    String::from_utf8_lossy(&said.stdout).into_owned() + &String::from_utf8_lossy(&said.stderr)
}

fn lives_and_dies(two: bool) {
    if !is_root() {
        return;
    }
    let settings = "settings = { uri = [\"spiffe://example.org/{{identity}}\"] }";
    let mut host = Host::prepare(Setup {
        config: "[[engine]]\nkind = \"x509\"\nname = \"mesh\"\nmax_ttl = \"1h\"\ncrl_file = \"$DIR/lists/mesh.pem\"\n".into(),
        identities: identity("orders", VICTIM, &declared("mesh/orders")),
        secrets: secret("mesh/orders", "internal", settings).replace("engine = \"local\"", "engine = \"mesh\""),
        policy: grant("orders", "mesh/orders"),
        two,
        ..Setup::default()
    });
    // The daemon's own, as an operator makes it.
    std::fs::create_dir(host.path("lists")).unwrap();
    let state = std::fs::metadata(&host.dir).unwrap();
    std::os::unix::fs::chown(host.path("lists"), Some(std::os::unix::fs::MetadataExt::uid(&state)), None).unwrap();
    host.launch();
    let mut holder = host.hold(VICTIM, "orders", &["hold", ASK]);
    assert_eq!(holder.first["status"], 201, "{}\n{}", holder.first, host.log());
    assert_eq!(holder.first["body"]["lease"]["ends_by"], "short-life");
    assert!(verify(&host, &holder.first).contains("bundle.pem: OK"), "{}", verify(&host, &holder.first));
    let lease = holder.lease();
    host.stop(true);
    host.launch();
    holder.say(&format!("call-anew GET /v1/leases/{lease}/secret"));
    assert_eq!(holder.line()["body"]["secret"]["value"], holder.first["body"]["secret"]["value"], "made again");
    holder.kill();
    let end = host.end_of(&lease);
    assert_eq!((end["ended"]["reason"].as_str(), end["ended"]["result"].as_str()), (Some("holder_gone"), Some("lapsed")));
    assert!(verify(&host, &holder.first).contains("certificate revoked"));
    // What a server's log says leads to the lease.
    let issue = host.records_of("issue").pop().unwrap();
    assert_eq!(issue["credential"]["serial"], holder.first["body"]["attributes"]["serial"]);
}

#[test]
fn a_certificate_is_revoked_when_its_holder_dies() {
    lives_and_dies(false);
}

#[test]
fn a_certificate_is_revoked_when_its_holder_dies_in_two_processes() {
    lives_and_dies(true);
}
