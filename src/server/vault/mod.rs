//! The read API of Vault and OpenBao on the workload socket: their calls become ours, our answers theirs. Translation only (ADR 11).
//!
//! The mount `secret/` is a KV store of version 2 whose paths are the names of secrets; `creds/` gives the same names with their leases. Who
//! asks is attested as ever, so a token is not looked at; why is what a declared use says.

mod body;
mod calls;
mod path;
mod shape;

#[cfg(feature = "testing")]
pub(super) use body::data_of;
pub(super) use path::is_spoken;

use super::{
    connection::{self, Call, Context},
    reply,
    reply::Body,
    routes::Route,
};
use crate::{
    broker::{Broker, Caller},
    model::{Class, Code, Refusal, RequestId},
};
use bytes::Bytes;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body as _, Incoming},
    http::{HeaderMap, request::Parts},
};
use std::{sync::Arc, time::Duration};

/// Answers one request in Vault's own shapes, whatever comes of it.
pub(super) async fn handle(request: Request<Incoming>, peer: &Arc<Caller>, id: RequestId, context: &Context) -> Response<Body> {
    let (head, body) = request.into_parts();
    connection::nonce(&head, peer);
    let answered = async {
        let (route, parameter, body) = arrived(&head, body, context.limits.settings().request).await?;
        // A key to seal to is for clients that know how to open it: whoever speaks this has none.
        let call = Call { id, peer: peer.clone(), parameter, query: query(&head), body, pinned: None };
        calls::answer(route, call, context).await
    };
    match answered.await {
        Ok(response) => response,
        Err(refusal) => refused(id, &refusal),
    }
}

/// A value that was read by its name a moment ago, where the broker can give it on the spot; everything else goes the long way.
pub(super) fn answer_now(request: &Request<Incoming>, peer: &Caller, broker: &Broker, id: RequestId) -> Option<Response<Body>> {
    let (uri, is_read) = (request.uri(), request.method() == Method::GET && request.body().is_end_stream());
    let (read, name) = path::read_at(uri.path().strip_prefix("/v1/")?).filter(|_| is_read && uri.query().is_none())?;
    may_be_answered(request.headers()).ok()?;
    let delivery = broker.read_named(peer, name, id)?;
    Some(body::secret(&delivery, broker.remaining(delivery.lease()), read))
}

/// The route that a request is for, with its parameter, and its whole body.
pub(super) async fn arrived(head: &Parts, body: Incoming, within: Duration) -> Result<(&'static Route, Option<String>, Bytes), Refusal> {
    may_be_answered(&head.headers)?;
    let (route, parameter) = path::find(&head.method, head.uri.path())?;
    Ok((route, parameter, connection::read(body, connection::max_body(route), within).await?))
}

/// What a client says beside its path and would be wrong to believe was done.
fn may_be_answered(headers: &HeaderMap) -> Result<(), Refusal> {
    let said = |name: &str| headers.get(name).is_some_and(|value| !value.is_empty());
    if said("x-vault-wrap-ttl") && !crate::mutation!("vault-wrap") {
        // Without this the value would be where a token that stands for it was asked for.
        return Err(Refusal::field("x-vault-wrap-ttl", "cannot be had: nothing is wrapped here"));
    }
    if said("x-vault-namespace") {
        return Err(Refusal::field("x-vault-namespace", "names nothing: there are no namespaces here"));
    }
    Ok(())
}

/// A refusal as Vault's clients print it. What is not there, or not for this caller, is one answer: nothing at all.
pub(super) fn refused(id: RequestId, refusal: &Refusal) -> Response<Body> {
    let status = match refusal.code.class() {
        Class::NotFound if refusal.code == Code::NO_ROUTE => StatusCode::BAD_REQUEST,
        // About a lease, not a path.
        Class::NotFound if refusal.code == Code::NO_LEASE => StatusCode::BAD_REQUEST,
        Class::Gone => StatusCode::BAD_REQUEST,
        // Nobody here knows what to do with a 401: they would log in.
        Class::Attestation => StatusCode::FORBIDDEN,
        _ => reply::status(&refusal.code),
    };
    let errors = if status == StatusCode::NOT_FOUND { Vec::new() } else { shape::errors(id, refusal) };
    reply::json(status, id, &serde_json::json!({ "errors": errors }))
}

/// What stands behind the path's question mark; `LIST` is another spelling of `GET` with `list=true`.
fn query(head: &Parts) -> Option<String> {
    if head.method.as_str() == "LIST" { Some("list=true".to_owned()) } else { head.uri.query().map(str::to_owned) }
}

/// The method under which a route stands in the list: `POST` is another spelling of `PUT`.
fn spelled(method: &Method) -> Method {
    match method.as_str() {
        "LIST" => Method::GET,
        "POST" => Method::PUT,
        _ => method.clone(),
    }
}
