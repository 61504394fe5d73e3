//! What workloads may ask.

use super::{
    connection::{Call, Context},
    reply,
    reply::Body,
    routes::Route,
};
use crate::{
    broker::{Broker, Caller, Delivery},
    intent::Ask,
    model::{Code, LeaseId, Refusal, RequestId},
    wire::{Health, LeaseAnswer, LeaseList, SecretList},
};
use hyper::{Method, Response, StatusCode};
use serde_json::json;

pub(super) async fn answer(route: &Route, call: Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let (broker, id) = (&context.broker, call.id);
    match (route.method, route.path) {
        ("GET", "/v1/health") => Ok(reply::json(StatusCode::OK, id, &health(context))),
        ("GET", "/v1/whoami") => Ok(reply::json(StatusCode::OK, id, &broker.whoami(&call.peer, id).await?)),
        ("POST", "/v1/explain") => {
            let ask = Ask::parse(&call.body)?;
            Ok(reply::json(StatusCode::OK, id, &broker.explain(&call.peer, &ask, id).await?))
        }
        ("GET", "/v1/secrets") => {
            let secrets = broker.secrets_for(&call.peer, id).await?;
            Ok(reply::json(StatusCode::OK, id, &SecretList { request: id, secrets }))
        }
        ("POST", "/v1/leases") => {
            let ask = match Ask::parse(&call.body) {
                Ok(ask) => ask,
                Err(refusal) => return Err(broker.record_malformed(&call.peer, id, &call.body, refusal).await),
            };
            let peer = call.peer.clone();
            let delivery = broker.issue(call.peer, ask, &call.body, id, call.pinned).await?;
            crate::failpoint!("before-reply");
            Ok(secret(StatusCode::CREATED, &peer, broker, &delivery))
        }
        ("GET", "/v1/leases") => {
            let leases = broker.leases_of(&call.peer, id).await?;
            let leases = leases.iter().map(|lease| broker.view(lease)).collect();
            Ok(reply::json(StatusCode::OK, id, &LeaseList { request: id, leases }))
        }
        ("GET", "/v1/leases/{id}") => {
            let lease = broker.lease(&call.peer, lease_id(&call)?, id).await?;
            Ok(reply::json(StatusCode::OK, id, &LeaseAnswer { request: id, lease: broker.view(&lease) }))
        }
        ("DELETE", "/v1/leases/{id}") => {
            let lease = broker.give_back(&call.peer, lease_id(&call)?, id).await?;
            Ok(reply::json(StatusCode::OK, id, &LeaseAnswer { request: id, lease: broker.view_now(&lease) }))
        }
        ("GET", "/v1/leases/{id}/secret") => {
            let (lease, peer) = (lease_id(&call)?, call.peer.clone());
            let delivery = broker.read(call.peer, lease, id, call.pinned).await?;
            Ok(secret(StatusCode::OK, &peer, broker, &delivery))
        }
        ("POST", "/v1/leases/{id}/renew") => {
            let lease = lease_id(&call)?;
            let lease = broker.renew(call.peer, lease, id).await?;
            Ok(reply::json(StatusCode::OK, id, &LeaseAnswer { request: id, lease: broker.view(&lease) }))
        }
        ("GET", "/v1/watch") => super::watch::answer(call, context).await,
        ("GET", "/v1/jwt/{jti}") => {
            let live = broker.lives(lease_id(&call)?);
            Ok(reply::json(StatusCode::OK, id, &json!({"request": id, "active": live})))
        }
        _ => Err(Refusal::new(Code::NO_ROUTE)),
    }
}

/// A value that is read again, where the broker can give it on the spot; everything else goes the long way through [`answer`].
pub(super) fn answer_now(method: &Method, path: &str, peer: &Caller, broker: &Broker, id: RequestId) -> Option<Response<Body>> {
    let lease = path.strip_prefix("/v1/leases/")?.strip_suffix("/secret").filter(|_| method == Method::GET)?;
    let delivery = broker.read_now(peer, LeaseId::parse(lease).ok()?, id)?;
    Some(secret(StatusCode::OK, peer, broker, &delivery))
}

fn secret(status: StatusCode, peer: &Caller, broker: &Broker, delivery: &Delivery) -> Response<Body> {
    peer.show(broker, delivery.lease(), |lease| reply::secret(status, delivery, lease))
}

fn lease_id(call: &Call) -> Result<LeaseId, Refusal> {
    // What is no id is nobody's lease.
    lease_id_of(call.parameter.as_deref().unwrap_or_default())
}

pub(super) fn lease_id_of(text: &str) -> Result<LeaseId, Refusal> {
    LeaseId::parse(text).map_err(|_| Refusal::new(Code::NO_LEASE))
}

pub(super) fn health(context: &Context) -> Health {
    let broker = &context.broker;
    let status = if broker.is_frozen() {
        "frozen"
    } else if broker.read_only().is_some() {
        "read_only"
    } else if broker.load_problems().is_empty() {
        "ok"
    } else {
        "degraded"
    };
    Health { status: status.to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}
