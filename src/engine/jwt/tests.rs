//! Tokens as a verifier sees them.

use super::{Algorithm, JwtConfig, JwtEngine, JwtError};
use crate::{
    digest::{SealKey, SystemRandom, verify_ed25519, verify_es256},
    engine::{Engine, Order, UpstreamRef, local::LocalStore},
    model::*,
    sys::ManualClock,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::sync::Arc;

const NOW: u64 = 1_700_000_000;

struct Bench {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new(0, NOW * 1_000_000)) }
    }

    fn engine(&self) -> JwtEngine {
        let key = SealKey::from_bytes(&[1; 32]).unwrap();
        let random = Arc::new(SystemRandom::default());
        let store = LocalStore::open(&self.folder.path().join("store"), key, None, random, self.clock.clone()).unwrap();
        JwtEngine::open(config("https://host.example"), Arc::new(store), self.clock.clone()).unwrap()
    }
}

fn config(issuer: &str) -> JwtConfig {
    JwtConfig {
        name: EngineName::parse("main").unwrap(),
        issuer: issuer.into(),
        algorithms: vec![Algorithm::Es256, Algorithm::EdDsa],
        max_ttl: Ttl::parse("1h").unwrap(),
    }
}

fn secret(settings: Value) -> SecretDefinition {
    let Value::Object(settings) = settings else { panic!("settings are a table") };
    SecretDefinition {
        name: SecretName::parse("api/token").unwrap(),
        engine: EngineName::parse("main").unwrap(),
        owner: Owner::parse("team").unwrap(),
        sensitivity: Sensitivity::Internal,
        environment: Environment::parse("prod").unwrap(),
        purposes: vec![],
        operation: Operation::Write,
        hosts: vec![],
        ttl: TtlLimits { default: Ttl::parse("5m").unwrap(), max: Ttl::parse("1h").unwrap() },
        reads_max: 10,
        quarantined: false,
        share: Default::default(),
        pinned: false,
        rotate: None,
        description: String::new(),
        ends_by: EndsBy::ShortLife,
        narrows: Vec::new(),
        recipe: "1".into(),
        settings,
        generation: "".into(),
    }
}

async fn issue(engine: &JwtEngine, secret: &SecretDefinition, expires: u64, again: bool) -> String {
    let (identity, purpose) = (IdentityName::parse("orders").unwrap(), Purpose::parse("serve").unwrap());
    let order = Order {
        lease: LeaseId::from_parts(NOW * 1000, 7),
        request: RequestId::from_parts(NOW * 1000, 8),
        secret,
        identity: &identity,
        purpose: &purpose,
        operation: Operation::Read,
        hosts: &[Target::parse("api.example").unwrap()],
        issued: WallTime(NOW * 1_000_000),
        expires: WallTime(expires * 1_000_000),
        left: std::time::Duration::from_secs(expires - NOW),
    };
    let issued = if again { engine.read(&order, &UpstreamRef::default()).await } else { engine.issue(&order).await }.unwrap();
    String::from_utf8(issued.value.expose().to_vec()).unwrap()
}

/// Finds the key by its id in the set, checks the signature, gives header and claims.
fn verify(token: &str, jwks: &Value) -> Option<(Value, Value)> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let decode = |text: &Value| URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    let key = jwks["keys"].as_array()?.iter().find(|key| key["kid"] == header["kid"])?;
    let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let good = match header["alg"].as_str()? {
        "ES256" => verify_es256(&[vec![4], decode(&key["x"]), decode(&key["y"])].concat(), signed.as_bytes(), &signature),
        "EdDSA" => verify_ed25519(&decode(&key["x"]), signed.as_bytes(), &signature),
        _ => false,
    };
    good.then(|| (header, serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap()))
}

#[tokio::test]
async fn a_token_says_who_for_whom_what_for_and_how_long() {
    let bench = Bench::new();
    let engine = bench.engine();
    for (algorithm, default) in [("EdDSA", false), ("ES256", true)] {
        let mut settings = json!({"audience": ["a", "b"], "subject": "svc:{{identity}}", "claims": {"tenant": 7}});
        if !default {
            settings["algorithm"] = algorithm.into();
        }
        let secret = secret(settings);
        engine.check(&secret).unwrap();
        let (header, claims) = verify(&issue(&engine, &secret, NOW + 300, false).await, &engine.jwks()).unwrap();
        assert_eq!((&header["alg"], &header["typ"]), (&json!(algorithm), &json!("JWT")));
        let lease = LeaseId::from_parts(NOW * 1000, 7).to_string();
        let request = RequestId::from_parts(NOW * 1000, 8).to_string();
        assert_eq!(
            claims,
            json!({
                "iss": "https://host.example", "sub": "svc:orders", "aud": ["a", "b"], "iat": NOW, "nbf": NOW, "exp": NOW + 300,
                "jti": lease, "tenant": 7,
                "claviger": {"secret": "api/token", "identity": "orders", "purpose": "serve", "operation": "read",
                             "hosts": ["api.example"], "request": request, "intent": claims["claviger"]["intent"]},
            })
        );
        assert!(claims["claviger"]["intent"].as_str().is_some_and(|digest| digest.len() >= 16), "by which it joins the record: {claims}");
        let (_, again) = verify(&issue(&engine, &secret, NOW + 600, true).await, &engine.jwks()).unwrap();
        assert_eq!((&again["jti"], &again["iat"], &again["exp"]), (&json!(lease), &json!(NOW), &json!(NOW + 600)), "a renewed lease");
    }
}

#[tokio::test]
async fn a_token_can_be_verified_through_a_rotation_and_a_restart() {
    let bench = Bench::new();
    let engine = bench.engine();
    let secret = secret(json!({"audience": "a"}));
    let before = issue(&engine, &secret, NOW + 3600, false).await;
    engine.rotate().unwrap();
    assert!(matches!(engine.rotate(), Err(JwtError::Pending(_))));
    assert_eq!(engine.keys().len(), 4);
    drop(engine);
    let engine = bench.engine();
    let published = engine.jwks();
    assert_eq!(issue(&engine, &secret, NOW + 3600, true).await.split('.').next(), before.split('.').next(), "the old key signs");
    bench.clock.advance(3_600_000_000);
    let after = issue(&engine, &secret, NOW + 7200, false).await;
    assert_ne!(after.split('.').next(), before.split('.').next(), "the new key signs");
    assert!(verify(&after, &published).is_some(), "it was published before it signed");
    assert!(verify(&before, &engine.jwks()).is_some(), "the old one stays published");
    bench.clock.advance(3_600_000_000);
    drop(engine);
    let engine = bench.engine();
    assert_eq!(engine.keys().len(), 2, "what signed before is gone");
    assert!(verify(&before, &engine.jwks()).is_none());
}

#[tokio::test]
async fn discarded_keys_take_their_tokens_with_them() {
    let bench = Bench::new();
    let engine = bench.engine();
    let secret = secret(json!({"audience": "a"}));
    let before = issue(&engine, &secret, NOW + 300, false).await;
    engine.rotate().unwrap();
    assert_eq!(engine.discard_keys_and_live_tokens().unwrap().len(), 2);
    assert!(verify(&before, &engine.jwks()).is_none());
    assert!(verify(&issue(&engine, &secret, NOW + 300, true).await, &engine.jwks()).is_some());
}

#[test]
fn definitions_that_would_make_bad_tokens_are_refused() {
    let bench = Bench::new();
    let engine = bench.engine();
    for bad in [
        json!({}),
        json!({"audience": ""}),
        json!({"audience": []}),
        json!({"audience": "*"}),
        json!({"audience": "a", "claims": {"sub": "root"}}),
        json!({"audience": "a", "claims": {"claviger": {}}}),
        json!({"audience": "a", "subject": "{{purpose}}"}),
        json!({"audience": "a", "subject": ""}),
        json!({"audience": "a", "algorithm": "none"}),
        json!({"audience": "a", "algorithm": "HS256"}),
        json!({"audience": "a", "ttl": 3}),
    ] {
        assert!(engine.check(&secret(bad.clone())).is_err(), "{bad}");
    }
    let mut long = secret(json!({"audience": "a"}));
    long.ttl.max = Ttl::parse("2h").unwrap();
    assert!(engine.check(&long).is_err(), "a token may not outlive its key");
    let store = engine.store.clone();
    for issuer in ["http://host.example", "https://", "https://host.example/", ""] {
        assert!(matches!(JwtEngine::open(config(issuer), store.clone(), bench.clock.clone()), Err(JwtError::Config(_))), "{issuer}");
    }
}
