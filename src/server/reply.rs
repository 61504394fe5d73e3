//! Answers: the only place where a refusal becomes a status, and the only one where a secret becomes bytes on their way out.

use crate::{
    broker::Delivery,
    model::{Class, Code, Refusal, RequestId},
    wire::{ErrorBody, ErrorView, LeaseView, REQUEST_HEADER},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{Response, StatusCode, header};
use serde::Serialize;
use std::{convert::Infallible, io::Write};
use zeroize::Zeroizing;

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body that is wiped when hyper is done with it.
struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// An answer with these bytes.
pub(super) fn bytes(status: StatusCode, request: RequestId, kind: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    if let Ok(id) = header::HeaderValue::from_str(&request.to_string()) {
        headers.insert(REQUEST_HEADER, id);
    }
    response
}

/// An answer in JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, request: RequestId, body: &T) -> Response<Body> {
    match serde_json::to_vec(body) {
        Ok(text) => bytes(status, request, "application/json", text.into()),
        Err(_) => refusal(request, &Refusal::new(Code::INTERNAL), None),
    }
}

/// A refusal. Only the code, the safe sentence and the remedies leave; `detail` stays here.
pub(super) fn refusal(request: RequestId, refusal: &Refusal, nonce: Option<&str>) -> Response<Body> {
    let error = ErrorView {
        code: refusal.code.as_str().to_owned(),
        message: refusal.message.to_string(),
        field: refusal.field.as_ref().map(ToString::to_string),
        needs: refusal.remedies.clone(),
        nonce: nonce.map(str::to_owned),
        recorded: refusal.recorded,
    };
    json(status(&refusal.code), request, &ErrorBody { request, error })
}

fn status(code: &Code) -> StatusCode {
    match code.class() {
        Class::Malformed if *code == Code::TOO_LARGE => StatusCode::PAYLOAD_TOO_LARGE,
        Class::Malformed if *code == Code::METHOD => StatusCode::METHOD_NOT_ALLOWED,
        Class::Malformed => StatusCode::BAD_REQUEST,
        Class::Attestation if *code == Code::NONCE_REQUIRED => StatusCode::UNAUTHORIZED,
        Class::Attestation | Class::Denied | Class::Needs => StatusCode::FORBIDDEN,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::Gone => StatusCode::GONE,
        Class::Conflict => StatusCode::CONFLICT,
        Class::Limit => StatusCode::TOO_MANY_REQUESTS,
        Class::Unavailable if *code == Code::INTERNAL => StatusCode::INTERNAL_SERVER_ERROR,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// A secret with its lease: written once into a buffer of the right size, which is wiped after it was sent.
pub(super) fn secret(status: StatusCode, delivery: &Delivery, lease: &LeaseView) -> Response<Body> {
    #[derive(Serialize)]
    struct Beside<'a> {
        request: RequestId,
        lease: &'a LeaseView,
        attributes: std::collections::BTreeMap<&'a str, &'a str>,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        clamped: &'a [String],
    }
    let attributes = delivery.attributes().iter().map(|(name, value)| (*name, value.as_str())).collect();
    let beside = Beside { request: delivery.request(), lease, attributes, clamped: delivery.clamped() };
    let Ok(mut head) = serde_json::to_vec(&beside) else { return refusal(delivery.request(), &Refusal::new(Code::INTERNAL), None) };
    // The object goes on behind the secret.
    head[0] = b',';
    let value = delivery.value().expose();
    // Six bytes for each byte that must be escaped is the most that JSON makes of one.
    let mut out = Zeroizing::new(Vec::with_capacity(value.len() * 6 + head.len() + 64));
    let written = match std::str::from_utf8(value) {
        Ok(text) => {
            out.extend_from_slice(br#"{"secret":{"encoding":"utf-8","value":"#);
            serde_json::to_writer(&mut *out, text).map_err(std::io::Error::from)
        }
        Err(_) => {
            out.extend_from_slice(br#"{"secret":{"encoding":"base64","value":""#);
            let mut encoder = base64::write::EncoderWriter::new(&mut *out, &base64::engine::general_purpose::STANDARD);
            let done = encoder.write_all(value).and_then(|()| encoder.finish().map(drop));
            drop(encoder);
            out.push(b'"');
            done
        }
    };
    if written.is_err() {
        return refusal(delivery.request(), &Refusal::new(Code::INTERNAL), None);
    }
    out.push(b'}');
    out.extend_from_slice(&head);
    bytes(status, delivery.request(), "application/json", Bytes::from_owner(Wiped(out)))
}
