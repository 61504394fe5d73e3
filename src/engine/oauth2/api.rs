//! One call to the authorization server: authenticated as our client, and whose fault a failure is.

use super::{
    super::{
        EngineError, Order,
        bearer::{NotGiven, is_object, line, not_now, unheard},
    },
    Authentication,
};
use crate::{
    digest::Random,
    model::SecretBytes,
    outbound::{Answer, Call, Client, Method, Unanswered},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::sync::Arc;
use zeroize::Zeroizing;

/// How long an assertion of ours lives, in seconds.
const ASSERTION_SECONDS: u64 = 60;

pub(super) struct Api {
    pub(super) client: Client,
    pub(super) client_id: String,
    pub(super) authentication: Authentication,
    pub(super) random: Arc<dyn Random>,
}

/// What every refusal says (RFC 6749, 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: String,
    error_description: String,
}

/// What is sent to prove who we are.
struct Proof {
    header: Option<Zeroizing<Vec<u8>>>,
    fields: Vec<(&'static str, SecretBytes)>,
    /// What of it nobody else may read; a field where it is none.
    secret: Option<SecretBytes>,
}

/// Fields that hold a secret.
const SECRET_FIELDS: [&str; 4] = ["token", "subject_token", "client_secret", "client_assertion"];

impl Api {
    /// Sends a form, for an order where it makes something; what makes nothing may be sent twice. Everything but a success is an
    /// error, which repeats nothing of what was sent in confidence.
    pub(super) async fn post(
        &self,
        doing: &str,
        path: &str,
        fields: &[(&str, &[u8])],
        order: Option<&Order<'_>>,
    ) -> Result<Answer, NotGiven> {
        let proof = self.proof().map_err(|what| NotGiven::certain(EngineError::Setup(format!("{doing}: {what}"))))?;
        let own = proof.fields.iter().map(|(name, value)| (*name, value.expose()));
        let fields: Vec<(&str, &[u8])> = fields.iter().copied().chain(own).collect();
        let known_as = order.map(|order| format!("{}.{}", order.lease, order.intent_digest()));
        let mut headers: Vec<(&'static str, &[u8])> =
            vec![("content-type", b"application/x-www-form-urlencoded"), ("accept", b"application/json")];
        headers.extend(proof.header.as_ref().map(|value| ("authorization", value.as_slice())));
        // Proxies and servers log it, so their logs join with our record.
        headers.extend(known_as.as_ref().map(|name| ("x-request-id", name.as_bytes())));
        let making = order.is_some();
        let call = Call { method: Method::Post, path, headers: &headers, body: Some(form(&fields)), repeatable: !making };
        let answer = match making {
            true => self.client.try_call(call).await,
            false => self.client.call(call).await.map_err(|error| Unanswered { error, sent: false }),
        };
        let answer = answer.map_err(|unanswered| unheard(doing, unanswered))?;
        if matches!(answer.status, 200 | 204) {
            return Ok(answer);
        }
        let mut secrets: Vec<&[u8]> = proof.secret.iter().map(|secret| secret.expose()).collect();
        secrets.extend(fields.iter().filter(|(name, _)| SECRET_FIELDS.contains(name)).map(|(_, value)| *value));
        Err(refused(doing, &answer, &secrets))
    }

    fn proof(&self) -> Result<Proof, String> {
        let id = || ("client_id", SecretBytes::new(self.client_id.clone().into_bytes()));
        Ok(match &self.authentication {
            Authentication::Basic(secret) => {
                let secret = trimmed(secret.read()?)?;
                Proof { header: Some(basic(&self.client_id, secret.expose())), fields: Vec::new(), secret: Some(secret) }
            }
            Authentication::Post(secret) => {
                Proof { header: None, fields: vec![id(), ("client_secret", trimmed(secret.read()?)?)], secret: None }
            }
            Authentication::PrivateKeyJwt { signer, audience } => {
                let unique = format!("{:032x}", self.random.u128());
                let assertion =
                    signer.sign_for_client(&self.client_id, audience, &unique, ASSERTION_SECONDS).map_err(|why| why.to_string())?;
                let kind = SecretBytes::new(b"urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_vec());
                Proof { header: None, fields: vec![id(), ("client_assertion_type", kind), ("client_assertion", assertion)], secret: None }
            }
        })
    }
}

/// An answer that is not a success. Nothing of `secrets` is repeated, should the server do so.
fn refused(doing: &str, answer: &Answer, secrets: &[&[u8]]) -> NotGiven {
    let Refusal { error, error_description } =
        if is_object(answer) { serde_json::from_slice(&answer.body).unwrap_or_default() } else { Refusal::default() };
    let words = match (error.is_empty(), error_description.is_empty()) {
        (true, _) => "no reason was given".to_owned(),
        (false, true) => error.clone(),
        (false, false) => format!("{error}: {error_description}"),
    };
    let wait = answer.retry_after.map_or_else(String::new, |after| format!(", asks to wait {} s", after.as_secs()));
    let text = format!("{doing}: {} ({}{wait})", line(&words, secrets), answer.status);
    let mend = |what: &str| EngineError::Setup(format!("{text}: {what}"));
    let failed = match (answer.status, error.as_str()) {
        (429 | 500.., _) | (_, "temporarily_unavailable" | "server_error" | "slow_down") => not_now(text, answer),
        (_, "invalid_client") => {
            mend("the server does not know this client, or does not accept how it authenticates (client_id, authenticate)")
        }
        (_, "unauthorized_client" | "unsupported_grant_type") => mend("this grant is not allowed to the client there"),
        (_, "invalid_scope") => mend("the client may not have one of these scopes there"),
        (_, "invalid_target") => mend("the server does not know the resource or audience, or the client may not have it"),
        (_, "invalid_grant" | "invalid_request" | "unsupported_token_type") => EngineError::Setup(text),
        (401 | 404 | 405, _) => mend("is this the right endpoint?"),
        _ => EngineError::Refused(text),
    };
    // Who gives one of the reasons that there are has made nothing (RFC 6749 5.2, RFC 8707 2, RFC 8628 3.5); a gateway's word about a server
    // behind it, in whatever member it stands, is no such reason.
    let reasons = "temporarily_unavailable slow_down invalid_client unauthorized_client unsupported_grant_type invalid_scope invalid_target \
                   invalid_grant invalid_request";
    let reason = reasons.split_whitespace().any(|reason| reason == error);
    NotGiven { error: failed, may_exist: answer.status < 300 || (answer.status >= 500 && !reason) }
}

/// A secret from a file; editors end files with a line feed.
fn trimmed(secret: SecretBytes) -> Result<SecretBytes, String> {
    match secret.expose().trim_ascii() {
        b"" => Err("the client's secret is empty".into()),
        text => Ok(SecretBytes::new(text.to_vec())),
    }
}

/// `application/x-www-form-urlencoded`, in one buffer that does not grow and leave copies.
fn form(fields: &[(&str, &[u8])]) -> Zeroizing<Vec<u8>> {
    let size = fields.iter().map(|(name, value)| name.len() + 3 * value.len() + 2).sum();
    let mut out = Zeroizing::new(Vec::with_capacity(size));
    for (name, value) in fields {
        if !out.is_empty() {
            out.push(b'&');
        }
        out.extend_from_slice(name.as_bytes());
        out.push(b'=');
        encode(value, &mut out);
    }
    out
}

/// `Basic` with id and secret, each encoded as in a form (RFC 6749, 2.3.1).
fn basic(id: &str, secret: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut pair = Zeroizing::new(Vec::with_capacity(3 * (id.len() + secret.len()) + 1));
    encode(id.as_bytes(), &mut pair);
    pair.push(b':');
    encode(secret, &mut pair);
    let mut header = Zeroizing::new(vec![0; 6 + pair.len().div_ceil(3) * 4]);
    header[..6].copy_from_slice(b"Basic ");
    // The buffer is exact.
    STANDARD.encode_slice(pair.as_slice(), &mut header[6..]).expect("base64 is four bytes for each three");
    header
}

fn encode(value: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(*byte),
            b' ' => out.push(b'+'),
            other => out.extend_from_slice(&[b'%', HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_credentials_are_encoded() {
        assert_eq!(form(&[("a", b"x y&=+%"), ("b", "ü".as_bytes())]).as_slice(), b"a=x+y%26%3D%2B%25&b=%C3%BC");
        // RFC 6749, 2.3.1; a secret with a colon stays one.
        assert_eq!(basic("s6BhdRkqt3", b"gX1fBat3bV").as_slice(), b"Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
        assert_eq!(STANDARD.decode(&basic("a", b"b:c")[6..]).unwrap(), b"a:b%3Ac");
    }
}
