//! From declaration to answer: granted by a declared use, refused, clamped, explained.

use super::host::*;

fn setup() -> Setup {
    Setup {
        identities: identity(
            "orders",
            VICTIM,
            &(declared("app/one") + "[[identity.use]]\nsecret = \"app/two\"\npurpose = \"testing\"\nttl = \"5m\"\n"),
        ),
        secrets: secret("app/one", "internal", "") + &secret("app/two", "confidential", "") + &secret("app/none", "internal", ""),
        policy: grant("orders", "app/one") + &grant("orders", "app/two"),
        ..Setup::default()
    }
}

#[test]
fn a_secret_alone_takes_its_declared_use_and_the_record_joins_all_three() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "value-one");
    let answer = &host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", r#"{"secret":"app/one"}"#])[0];
    assert_eq!(answer["status"], 201, "{answer}");
    assert_eq!(answer["body"]["secret"]["value"], "value-one");
    assert_eq!(answer["body"]["lease"]["ttl"], 3600);
    let record = &host.records_of("issue")[0];
    assert_eq!(record["request"], answer["body"]["request"]);
    assert_eq!(record["lease"], answer["body"]["lease"]["id"]);
    assert_eq!(record["identity"]["name"], "orders");
    assert_eq!(record["assurance"], "program");
    assert_eq!(record["attested"]["uid"], VICTIM);
    assert_eq!(record["attested"]["pid"], answer["pid"]);
    assert_eq!(record["source"], "registry");
    assert_eq!(record["claimed"]["purpose"], "testing");
    assert_eq!(record["policy"]["grant"], "grant.orders.app.one");
    assert_eq!(record["policy"]["ticket"], "test:1");
    assert_eq!(record["credential"]["version"], 1);
    assert!(!host.records().iter().any(|record| record.to_string().contains("value-one")), "no value in any record");
}

#[test]
fn no_grant_an_unknown_secret_and_a_foreign_user_are_refused_and_recorded() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    let code = |uid, program: &str, body: &str| {
        let answer = host.act(uid, program, &["call", "POST", "/v1/leases", body]).remove(0);
        assert!(answer["body"]["secret"].is_null());
        (answer["status"].as_u64().unwrap(), answer["body"]["error"]["code"].as_str().unwrap().to_owned())
    };
    assert_eq!(code(VICTIM, "orders", r#"{"secret":"app/none","purpose":"testing"}"#), (403, "no_grant".into()));
    assert_eq!(code(VICTIM, "orders", r#"{"secret":"no/such","purpose":"testing"}"#), (403, "no_grant".into()));
    assert_eq!(code(VICTIM, "orders", r#"{"secret":"app/one","purpose":"other"}"#).0, 403);
    assert_eq!(code(VICTIM, "orders", r#"{"secret":"app/none"}"#), (403, "no_declared_use".into()));
    assert_eq!(code(ATTACKER, "orders", r#"{"secret":"app/one"}"#), (403, "no_identity".into()));
    assert_eq!(code(VICTIM, "other", r#"{"secret":"app/one"}"#), (403, "no_identity".into()));
    assert_eq!(host.records_of("refuse").len(), 6);
    assert!(host.records_of("refuse")[0]["detail"].as_str().unwrap().contains("grant"), "operators see the near misses");
}

#[test]
fn what_is_asked_only_narrows_and_caps_clamp() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "v");
    host.put("app/two", "v");
    let ttl = |body: &str| {
        let answer = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", body]).remove(0);
        (answer["body"]["lease"]["ttl"].clone(), answer["body"]["clamped"].clone())
    };
    assert_eq!(ttl(r#"{"secret":"app/one","ttl":"1m"}"#).0, 60);
    assert_eq!(ttl(r#"{"secret":"app/two"}"#).0, 300, "the declared use says five minutes");
    assert_eq!(ttl(r#"{"secret":"app/two","ttl":"30m"}"#).0, 300, "a caller cannot widen its declared use");
    let (ttl, clamped) = ttl(r#"{"secret":"app/one","purpose":"testing","ttl":"12h"}"#);
    assert_eq!(ttl, 3600);
    assert!(clamped[0].as_str().unwrap().contains("ttl 12h"), "{clamped}");
}

#[test]
fn explain_says_what_issuing_would_say_and_issues_nothing() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "v");
    let explain = |body: &str| host.act(VICTIM, "orders", &["call", "POST", "/v1/explain", body]).remove(0)["body"].clone();
    assert_eq!(explain(r#"{"secret":"app/one"}"#)["outcome"], "permit");
    let refused = explain(r#"{"secret":"app/none","purpose":"testing"}"#);
    assert_eq!((refused["outcome"].as_str(), refused["error"]["code"].as_str()), (Some("refuse"), Some("no_grant")));
    assert!(refused["because"].is_null(), "reasons are for operators");
    assert!(host.live().is_empty() && host.records_of("issue").is_empty());
    let holder = host.hold(VICTIM, "orders", &["wait"]);
    let told = host.operator("POST", &format!("/v1/explain?pid={}", holder.pid()), r#"{"secret":"app/none","purpose":"testing"}"#);
    assert!(told["because"].as_str().unwrap().contains("no grant") || told["because"].as_str().unwrap().contains("near"), "{told}");
    let listed = host.act(VICTIM, "orders", &["call", "GET", "/v1/secrets"]).remove(0);
    let names: Vec<&str> = listed["body"]["secrets"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["app/one", "app/two"]);
}

#[test]
fn a_bad_bundle_keeps_the_last_good_one_and_names_file_and_line() {
    if !is_root() {
        return;
    }
    let host = Host::start(setup());
    host.put("app/one", "v");
    let before = host.operator("GET", "/v1/status", "")["bundle"].clone();
    host.write("policy.d/60-bad.cedar", "\n\npermit (principal, action, resource);\n");
    let (code, answer) = host.call("operator", "POST", "/v1/reload", "");
    assert_eq!(code, 422);
    assert!(answer["problems"][0].as_str().unwrap().contains("60-bad.cedar:3"), "{answer}");
    assert_eq!(answer["bundle"], before);
    let issued = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", r#"{"secret":"app/one"}"#]).remove(0);
    assert_eq!(issued["status"], 201, "what was in force is in force");
    assert_eq!(host.operator("GET", "/v1/health", "")["status"], "degraded");
    host.write("policy.d/60-bad.cedar", "");
    host.write("policy.d/50-test.cedar", "");
    let answer = host.operator("POST", "/v1/reload", "");
    assert_ne!(answer["bundle"], before);
    let refused = host.act(VICTIM, "orders", &["call", "POST", "/v1/leases", r#"{"secret":"app/one"}"#]).remove(0);
    assert_eq!(refused["body"]["error"]["code"], "no_grant");
}

#[test]
fn the_challenge_proves_the_process_on_older_kernels() {
    if !is_root() {
        return;
    }
    let config = "[attest]\nassume_missing = [\"peer_pidfd\", \"pidfd_info\", \"pidfd_handle\"]\n".to_owned();
    let host = Host::start(Setup { config, ..setup() });
    host.put("app/one", "v");
    let answer = host.act(VICTIM, "orders", &["nonce", r#"{"secret":"app/one"}"#]).remove(0);
    assert_eq!((answer["first"].as_u64(), answer["code"].as_str()), (Some(401), Some("nonce_required")), "{answer}");
    assert_eq!(answer["other"], 401, "the nonce is worth nothing on another connection");
    assert_eq!(answer["status"], 201, "{answer}");
    let plain = host.act(VICTIM, "orders", &["call", "GET", "/v1/whoami"]).remove(0);
    assert_eq!(plain["body"]["assurance"], "uid");
}
