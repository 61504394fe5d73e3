//! The calls that are served, one by one.

use super::{
    super::{
        connection::{Call, Context},
        reply,
        reply::Body,
        routes::Route,
        workload_api::lease_id_of,
    },
    body::{self, Read},
    path, shape,
};
use crate::{
    broker::Broker,
    intent::{Adapter, Ask, Source},
    model::{Class, Code, Refusal, RequestId, SecretName},
    wire::WhoAmI,
};
use hyper::{Response, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Paths that one question about capabilities may name.
const MAX_PATHS: usize = 32;

pub(super) async fn answer(route: &Route, call: Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let (broker, id) = (&context.broker, call.id);
    let ok = |answer: &Value| Ok(reply::json(StatusCode::OK, id, answer));
    match (route.method, route.path) {
        ("GET", "/v1/secret/data/{name}") => read(broker, call, Read::Kv).await,
        ("GET", "/v1/creds/{name}" | "/v1/database/creds/{name}") => read(broker, call, Read::Leased).await,
        ("GET", "/v1/secret/metadata") => list(broker, &call).await,
        ("GET", "/v1/secret/metadata/{name}") if is_list(&call) => list(broker, &call).await,
        ("GET", "/v1/secret/metadata/{name}") => metadata(broker, &call).await,
        ("GET", "/v1/sys/internal/ui/mounts/{name}") => {
            let asked = call.parameter.as_deref().unwrap_or_default();
            let mount = path::MOUNTS.iter().find(|mount| format!("{asked}/").starts_with(mount.path));
            let mount = mount.ok_or_else(|| Refusal::field("path", "is in no mount: there are secret/ and creds/"))?;
            ok(&shape::framed(id, shape::mount(mount)))
        }
        ("GET", "/v1/sys/seal-status") => ok(&shape::seal_status()),
        ("GET", "/v1/sys/leader") => ok(&shape::leader()),
        ("PUT", "/v1/sys/leases/lookup") => {
            let lease = broker.lease(&call.peer, lease_id_of(&body::<Lease>(&call)?.lease_id)?, id).await?;
            ok(&shape::framed(id, shape::looked_up(&broker.view(&lease))))
        }
        ("PUT", "/v1/sys/leases/renew") => {
            let asked: Lease = body(&call)?;
            let lease = broker.renew(call.peer, lease_id_of(&asked.lease_id)?, id).await?;
            let unheard = asked.increment.is_some_and(|said| !matches!(&said, Value::Number(n) if n.as_u64() == Some(0)));
            let warning = unheard.then_some("increment is not looked at: a lease is renewed for the time it was granted for");
            ok(&shape::renewed(id, &broker.view(&lease), warning))
        }
        ("PUT", "/v1/sys/leases/revoke") => {
            let lease = body::<Lease>(&call)?.lease_id;
            revoke(broker, &call, &lease).await
        }
        ("PUT", "/v1/sys/leases/revoke/{id}") => revoke(broker, &call, call.parameter.as_deref().unwrap_or_default()).await,
        ("GET", "/v1/auth/token/lookup-self") => {
            let caller = known(broker, &call).await?;
            ok(&shape::framed(id, shape::token(&caller).unwrap_or_default()))
        }
        ("PUT", "/v1/auth/token/renew-self") => ok(&shape::login(id, &known(broker, &call).await?)),
        ("PUT", "/v1/auth/token/revoke-self") => {
            // What a token's end would end: the leases that were taken by it.
            for lease in broker.leases_of(&call.peer, id).await?.iter().filter(|lease| lease.source == Source::Adapter) {
                match broker.give_back(&call.peer, lease.id, id).await {
                    // It ended by itself meanwhile.
                    Err(refusal) if !matches!(refusal.code.class(), Class::Gone | Class::NotFound) => return Err(refusal),
                    _ => {}
                }
            }
            Ok(nothing(id))
        }
        ("PUT", "/v1/sys/capabilities-self") => ok(&shape::framed(id, capabilities(broker, &call).await?)),
        _ => Err(Refusal::new(Code::NO_ROUTE)),
    }
}

/// `sys/leases/...`: members that are not looked at may stand beside.
#[derive(Deserialize)]
struct Lease {
    lease_id: String,
    increment: Option<Value>,
}

/// `sys/capabilities-self`.
#[derive(Deserialize)]
struct Paths {
    #[serde(default)]
    paths: OneOrMore,
    #[serde(default)]
    path: OneOrMore,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> Self {
        OneOrMore::More(Vec::new())
    }
}

impl From<OneOrMore> for Vec<String> {
    fn from(paths: OneOrMore) -> Self {
        match paths {
            OneOrMore::One(path) => vec![path],
            OneOrMore::More(paths) => paths,
        }
    }
}

fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Refusal> {
    // A token may stand in it, so nothing of it is repeated.
    serde_json::from_slice(&call.body).map_err(|_| Refusal::field("body", "is not what this path expects"))
}

fn argument<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    super::super::operator_api::argument(call, name)
}

fn is_list(call: &Call) -> bool {
    argument(call, "list").is_some_and(|value| value == "true")
}

fn nothing(id: RequestId) -> Response<Body> {
    reply::bytes(StatusCode::NO_CONTENT, id, "application/json", bytes::Bytes::new())
}

async fn read(broker: &Arc<Broker>, call: Call, read: Read) -> Result<Response<Body>, Refusal> {
    let name = path::secret(call.parameter.as_deref())?;
    if argument(&call, "version").is_some_and(|version| version != "0") {
        return Err(Refusal::field("version", "cannot be chosen: the newest is given"));
    }
    let (peer, id) = (call.peer.clone(), call.id);
    if let Some(delivery) = broker.read_named(&peer, name.as_str(), id) {
        return Ok(body::secret(&delivery, broker.remaining(delivery.lease()), read));
    }
    let asked = broker.moment_of_asking();
    match broker.issue(call.peer, Ask::through(Adapter::Vault, name.clone()), &[], id, None).await {
        Ok(delivery) => {
            broker.note_named(&peer, &delivery, asked);
            Ok(body::secret(&delivery, broker.remaining(delivery.lease()), read))
        }
        Err(refusal) if refusal.code == Code::NO_DECLARED_USE => {
            // A name that nothing grants to the caller is answered like one that is nobody's.
            let secrets = broker.secrets_for(&peer, id).await?;
            let secret = secrets.iter().find(|row| row.name == name);
            if secret.is_none() && !crate::mutation!("vault-names") {
                return Err(Refusal::new(Code::NOT_FOUND));
            }
            let purposes: Vec<&str> = secret.into_iter().flat_map(|row| &row.purposes).map(|purpose| purpose.as_str()).collect();
            Err(undeclared(refusal, &name, &purposes))
        }
        Err(refusal) => Err(refusal),
    }
}

/// What to write where, so that the secret's name alone says why it is wanted.
fn undeclared(refusal: Refusal, name: &SecretName, purposes: &[&str]) -> Refusal {
    let sentence = format!(
        "Vault's clients cannot say a purpose, so exactly one use of {name} must be declared for the calling identity: an [[identity.use]] with \
         secret = \"{name}\" and purpose = {}.",
        purposes.iter().map(|purpose| format!("\"{purpose}\"")).collect::<Vec<_>>().join(" or ")
    );
    refusal.message(sentence)
}

async fn list(broker: &Broker, call: &Call) -> Result<Response<Body>, Refusal> {
    let secrets = broker.secrets_for(&call.peer, call.id).await?;
    let keys = shape::listed(&secrets, call.parameter.as_deref());
    if keys.is_empty() {
        return Err(Refusal::new(Code::NOT_FOUND));
    }
    Ok(reply::json(StatusCode::OK, call.id, &shape::framed(call.id, json!({ "keys": keys }))))
}

async fn metadata(broker: &Broker, call: &Call) -> Result<Response<Body>, Refusal> {
    let name = path::secret(call.parameter.as_deref())?;
    let secrets = broker.secrets_for(&call.peer, call.id).await?;
    let secret = secrets.iter().find(|row| row.name == name).ok_or_else(|| Refusal::new(Code::NOT_FOUND))?;
    let metadata = shape::metadata(secret, broker.newest_version(&name));
    Ok(reply::json(StatusCode::OK, call.id, &shape::framed(call.id, metadata)))
}

async fn revoke(broker: &Arc<Broker>, call: &Call, lease: &str) -> Result<Response<Body>, Refusal> {
    broker.give_back(&call.peer, lease_id_of(lease)?, call.id).await?;
    Ok(nothing(call.id))
}

/// The caller, which must be somebody.
async fn known(broker: &Broker, call: &Call) -> Result<WhoAmI, Refusal> {
    let caller = broker.whoami(&call.peer, call.id).await?;
    match &caller.identity {
        Some(_) => Ok(caller),
        None => {
            let why = caller.refused.map_or_else(String::new, |refused| refused.message);
            Err(Refusal::new(Code::NO_IDENTITY).message(why))
        }
    }
}

async fn capabilities(broker: &Broker, call: &Call) -> Result<Value, Refusal> {
    let asked: Paths = body(call)?;
    let mut paths: Vec<String> = asked.paths.into();
    paths.extend(Vec::from(asked.path));
    if paths.len() > MAX_PATHS {
        return Err(Refusal::field("paths", format_args!("are more than {MAX_PATHS}")));
    }
    let mut out = Map::new();
    for path in paths {
        let may = match path::read_by(path.trim_start_matches('/')) {
            None => false,
            Some(name) => broker.explain(&call.peer, &Ask::through(Adapter::Vault, name), call.id).await?.outcome == "permit",
        };
        let may = json!([if may { "read" } else { "deny" }]);
        // Where one path is asked about, clients look here.
        out.insert("capabilities".to_owned(), may.clone());
        out.insert(path, may);
    }
    Ok(Value::Object(out))
}
