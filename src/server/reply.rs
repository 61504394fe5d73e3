//! Answers: where a refusal becomes a status, and a secret becomes bytes on their way out. `vault/` says both in another protocol's words.

use crate::{
    broker::Delivery,
    model::{Class, Code, Refusal, RequestId},
    wire::{ErrorBody, ErrorView, PINNED_ENCODING, REQUEST_HEADER},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{
    Response, StatusCode,
    header::{self, RETRY_AFTER},
};
use serde::Serialize;
use std::{
    convert::Infallible,
    io::{self, Write},
};
use zeroize::{Zeroize, Zeroizing};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A body whose secret part is wiped when hyper is done with it.
struct Wiped {
    bytes: Vec<u8>,
    /// The secret lies before this.
    secret: usize,
}

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.bytes[..self.secret].zeroize();
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
        retry_after: refusal.retry_after,
        recorded: refusal.recorded,
    };
    let mut answer = json(status(&refusal.code), request, &ErrorBody { request, error });
    if let Some(seconds) = refusal.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

pub(super) fn status(code: &Code) -> StatusCode {
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

/// An answer that holds a secret in the bytes before `secret`: they are wiped after they were sent.
pub(super) fn wiped(status: StatusCode, request: RequestId, mut body: Zeroizing<Vec<u8>>, secret: usize) -> Response<Body> {
    let body = Wiped { bytes: std::mem::take(&mut *body), secret };
    bytes(status, request, "application/json", Bytes::from_owner(body))
}

/// A secret with its lease: written once into a buffer of the right size, which is wiped after it was sent. `lease` is the lease in JSON.
pub(super) fn secret(status: StatusCode, delivery: &Delivery, lease: &[u8]) -> Response<Body> {
    match secret_body(delivery, lease) {
        Ok((body, secret)) => wiped(status, delivery.request(), body, secret),
        Err(_) => refusal(delivery.request(), &Refusal::new(Code::INTERNAL), None),
    }
}

fn secret_body(delivery: &Delivery, lease: &[u8]) -> io::Result<(Zeroizing<Vec<u8>>, usize)> {
    let sealed = match delivery.pinned() {
        Some(pinned) => Some(pinned.key.seal(pinned.info.as_bytes(), delivery.value().expose()).map_err(io::Error::other)?),
        None => None,
    };
    let value = sealed.as_deref().unwrap_or_else(|| delivery.value().expose());
    let text = if sealed.is_none() { std::str::from_utf8(value).ok() } else { None };
    let escaped = |b: &u8| match b {
        b'"' | b'\\' => 2,
        0..=31 => 6,
        _ => 1,
    };
    let length = if text.is_some() { value.iter().map(escaped).sum() } else { value.len().div_ceil(3) * 4 };
    let mut out = Zeroizing::new(Vec::with_capacity(length + lease.len() + 512));
    match text {
        Some(text) => {
            out.extend_from_slice(br#"{"secret":{"encoding":"utf-8","value":"#);
            serde_json::to_writer(&mut *out, text)?;
        }
        None => {
            let encoding = if sealed.is_some() { PINNED_ENCODING } else { "base64" };
            write!(out, r#"{{"secret":{{"encoding":"{encoding}","value":""#)?;
            let mut encoder = base64::write::EncoderWriter::new(&mut *out, &base64::engine::general_purpose::STANDARD);
            encoder.write_all(value)?;
            encoder.finish()?;
            drop(encoder);
            out.push(b'"');
        }
    }
    let secret = out.len();
    write!(out, r#"}},"request":"{}","lease":"#, delivery.request())?;
    out.extend_from_slice(lease);
    out.extend_from_slice(br#","attributes":{"#);
    for (n, (name, value)) in delivery.attributes().iter().enumerate() {
        out.extend_from_slice(if n == 0 { b"" } else { b"," });
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        serde_json::to_writer(&mut *out, value)?;
    }
    out.push(b'}');
    if !delivery.clamped().is_empty() {
        out.extend_from_slice(br#","clamped":"#);
        serde_json::to_writer(&mut *out, delivery.clamped())?;
    }
    out.push(b'}');
    Ok((out, secret))
}
