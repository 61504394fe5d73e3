//! Signed tokens under the contract.

use crate::{
    local::store,
    suite::{Harness, Probe, now, secret},
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use claviger::{
    digest::{verify_ed25519, verify_es256},
    engine::{
        Issued,
        jwt::{Algorithm, JwtConfig, JwtEngine},
    },
    model::{EngineName, Ttl},
    sys::SystemClock,
};
use serde_json::Value;
use std::sync::Arc;
use tempfile::TempDir;

/// A verifier that knows the issuer's key set, its own name and the time.
struct Verifier {
    engine: Arc<JwtEngine>,
    _folder: TempDir,
}

#[async_trait]
impl Probe for Verifier {
    async fn works(&self, issued: &Issued) -> bool {
        let token = std::str::from_utf8(issued.value.expose()).unwrap();
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let header: Value = serde_json::from_slice(&bytes(header)).unwrap();
        let claims: Value = serde_json::from_slice(&bytes(claims)).unwrap();
        let jwks = self.engine.jwks();
        let Some(key) = jwks["keys"].as_array().unwrap().iter().find(|key| key["kid"] == header["kid"]) else { return false };
        let part = |name: &str| bytes(key[name].as_str().unwrap());
        let good = match header["alg"].as_str().unwrap() {
            "ES256" => verify_es256(&[vec![4], part("x"), part("y")].concat(), signed.as_bytes(), &bytes(signature)),
            "EdDSA" => verify_ed25519(&part("x"), signed.as_bytes(), &bytes(signature)),
            _ => false,
        };
        let at = now().unix_secs();
        good && claims["iss"] == "https://host.example"
            && claims["aud"] == "orders-api"
            && claims["nbf"].as_u64().unwrap() <= at
            && claims["exp"].as_u64().unwrap() > at
    }
}

async fn harness_of(algorithm: &str) -> Option<Harness> {
    let (folder, store) = store();
    let config = JwtConfig {
        name: EngineName::parse("under-test").unwrap(),
        issuer: "https://host.example".into(),
        algorithms: vec![Algorithm::Es256, Algorithm::EdDsa],
        max_ttl: Ttl::parse("1h").unwrap(),
    };
    let engine = Arc::new(JwtEngine::open(config, store, Arc::new(SystemClock)).unwrap());
    let secret = secret("api/orders", &*engine, serde_json::json!({"audience": "orders-api", "algorithm": algorithm}));
    Some(Harness { engine: engine.clone(), secret, probe: Box::new(Verifier { engine, _folder: folder }) })
}

mod es256 {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of("ES256").await
    }
    crate::contract!(harness);
}

mod eddsa {
    async fn harness() -> Option<crate::suite::Harness> {
        super::harness_of("EdDSA").await
    }
    crate::contract!(harness);
}
