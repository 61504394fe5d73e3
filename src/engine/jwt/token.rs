//! What a token says: settings of the secret, and claims made from them and the order.

use super::{
    super::{Order, narrows::said},
    JwtError,
    keys::{Algorithm, SigningKey},
};
use crate::model::{IdentityName, Operation, SecretBytes, SecretDefinition};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

/// Claims that follow from the lease and can be set by nobody.
const RESERVED: [&str; 8] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "claviger"];

/// The settings of one secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    audience: Audience,
    #[serde(default = "identity")]
    subject: String,
    #[serde(default)]
    claims: Map<String, Value>,
    /// Operations to which verifiers hold the caller, as the token says them.
    #[serde(default)]
    pub(super) narrows: Vec<Operation>,
    pub(super) algorithm: Option<Algorithm>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

const IDENTITY: &str = "{{identity}}";

fn identity() -> String {
    IDENTITY.into()
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let mut settings: Settings =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        let wrong = |what: &str| Err(format!("{}: {what}", secret.name));
        let audiences: &[String] = match &settings.audience {
            Audience::One(one) => std::slice::from_ref(one),
            Audience::Many(many) => many,
        };
        // A token for nobody in particular is a token for everybody.
        if audiences.is_empty() || audiences.iter().any(|audience| audience.is_empty() || audience == "*") {
            return wrong("audience: name who is to accept the token, no empty name and no \"*\"");
        }
        if settings.subject.replace(IDENTITY, "").contains("{{") || settings.subject.is_empty() {
            return wrong("subject: the only placeholder is {{identity}}");
        }
        if let Some(claim) = settings.claims.keys().find(|claim| RESERVED.contains(&claim.as_str())) {
            return wrong(&format!("claims: {claim:?} follows from the lease and cannot be set"));
        }
        settings.narrows = said(settings.narrows, secret)?;
        Ok(settings)
    }

    /// Those of a token about an identity, for one audience.
    pub(super) fn about(audience: &str) -> Self {
        Self { audience: Audience::One(audience.to_owned()), subject: identity(), claims: Map::new(), narrows: Vec::new(), algorithm: None }
    }

    pub(super) fn subject(&self, identity: &IdentityName) -> String {
        self.subject.replace(IDENTITY, identity.as_str())
    }

    fn audience(&self) -> Value {
        match &self.audience {
            Audience::One(one) => one.as_str().into(),
            Audience::Many(many) => many.as_slice().into(),
        }
    }
}

/// The claims of a lease: the same whenever they are made, but for `exp` after a renewal.
pub(super) fn claims(issuer: &str, order: &Order<'_>, settings: &Settings) -> Value {
    let mut claims = settings.claims.clone();
    let issued = order.issued.unix_secs();
    let own = json!({
        "iss": issuer,
        "sub": settings.subject(order.identity),
        "aud": settings.audience(),
        "iat": issued,
        "nbf": issued,
        "exp": order.expires.unix_secs(),
        "jti": order.lease.to_string(),
        "claviger": {
            "secret": order.secret.name.as_str(),
            "identity": order.identity.as_str(),
            "purpose": order.purpose.as_str(),
            "operation": order.operation.as_str(),
            "hosts": order.hosts.iter().map(|host| host.as_str()).collect::<Vec<_>>(),
            "request": order.request.to_string(),
            "intent": order.intent_digest(),
        },
    });
    if let Value::Object(own) = own {
        claims.extend(own);
    }
    Value::Object(claims)
}

/// The compact form (RFC 7515): header, claims and signature in base64url, joined by dots.
pub(super) fn sign(key: &SigningKey, claims: &Value) -> Result<SecretBytes, JwtError> {
    let header = json!({"alg": key.algorithm.as_str(), "kid": key.kid, "typ": "JWT"});
    // Without its signature a token is no secret; with it, it stays in one buffer that is wiped.
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let signature = Zeroizing::new(key.sign(signed.as_bytes())?);
    let mut token = Zeroizing::new(String::with_capacity(signed.len() + 1 + signature.len() * 4 / 3 + 4));
    token.push_str(&signed);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(signature.as_slice(), &mut token);
    Ok(SecretBytes::new(std::mem::take(&mut *token).into_bytes()))
}
