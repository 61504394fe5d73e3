//! What operators may ask. The socket's mode let them in; whoever belongs to an agent is turned away all the same.

use super::{
    connection::{Call, Context},
    reply,
    reply::Body,
    routes::Route,
    tail, workload_api,
};
use crate::{
    broker::{Act, Broker, Operator, Selection},
    intent::Ask,
    model::{Code, EngineName, Line, Refusal, RequestId, SecretBytes, SecretName},
    wire::{
        AllLeases, BundleAnswer, EndAnswer, EndRequest, EngineList, FreezeRequest, IdentityList, KeptList, KeyAnswer, KeyList, KeyRequest,
        ReconcileRequest, RotationList, SecretList, SecretView, Status, StoredList,
    },
};
use hyper::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;

pub(super) async fn answer(route: &Route, call: Call, context: &Context) -> Result<Response<Body>, Refusal> {
    let (broker, id) = (&context.broker, call.id);
    let operator = broker.admit_operator(&call.peer, id).await?;
    let ok = StatusCode::OK;
    match (route.method, route.path) {
        ("GET", "/v1/health") => Ok(reply::json(ok, id, &workload_api::health(context))),
        ("GET", "/v1/status") => Ok(reply::json(ok, id, &status(broker, id))),
        ("GET", "/v1/metrics") => {
            Ok(reply::bytes(ok, id, "application/openmetrics-text; version=1.0.0; charset=utf-8", broker.metrics_text().into()))
        }
        ("GET", "/v1/leases") => {
            let leases = broker.all_leases().iter().map(|lease| broker.view(lease)).collect();
            Ok(reply::json(ok, id, &AllLeases { request: id, leases }))
        }
        ("POST", "/v1/leases/end") => end(broker, &operator, &call).await,
        ("GET", "/v1/secrets") => {
            let governance = broker.governance();
            let secrets = governance.catalogue.iter().map(|row| SecretView {
                name: row.name.clone(),
                description: row.description.clone(),
                sensitivity: row.sensitivity,
                ends_by: row.ends_by,
                purposes: row.purposes.clone(),
                outcome: "defined".to_owned(),
            });
            Ok(reply::json(ok, id, &SecretList { request: id, secrets: secrets.collect() }))
        }
        ("GET", "/v1/secrets/local") => Ok(reply::json(ok, id, &StoredList { request: id, values: broker.list_local() })),
        ("PUT", "/v1/secrets/local/{name}") => put(broker, &operator, call).await,
        ("DELETE", "/v1/secrets/local/{name}") => {
            let name = secret_name(&call)?;
            let act = Act::new("secret-remove", id).of(&name);
            broker.asked(&operator, &act).await?;
            let removed = broker.remove_local(name.clone(), id).await;
            broker.acted(&operator, &act, removed.as_ref().err()).await;
            removed?;
            Ok(reply::json(ok, id, &json!({"request": id})))
        }
        ("GET", "/v1/cache") => Ok(reply::json(ok, id, &KeptList { request: id, kept: broker.list_kept() })),
        ("DELETE", "/v1/cache") => Ok(reply::json(ok, id, &broker.evict(operator, None, id).await?)),
        ("DELETE", "/v1/cache/{name}") => Ok(reply::json(ok, id, &broker.evict(operator, Some(secret_name(&call)?), id).await?)),
        ("GET", "/v1/rotations") => Ok(reply::json(ok, id, &RotationList { request: id, rotations: broker.list_rotations() })),
        ("POST", "/v1/rotations/{name}") => Ok(reply::json(ok, id, &broker.rotate_secret(operator, secret_name(&call)?, id).await?)),
        ("POST", "/v1/policy/check") => Ok(reply::json(ok, id, &check(broker, id))),
        ("POST", "/v1/reload") => reload(broker, &operator, id).await,
        ("POST", "/v1/explain") => explain(broker, &call).await,
        ("GET", "/v1/identities") => Ok(reply::json(ok, id, &IdentityList { request: id, identities: broker.list_identities() })),
        ("GET", "/v1/identities/try") => {
            let pid =
                argument(&call, "pid").and_then(|text| text.parse().ok()).ok_or_else(|| Refusal::field("pid", "must be a process id"))?;
            Ok(reply::json(ok, id, &broker.try_identity(pid, id).await?))
        }
        ("GET", "/v1/audit") => tail::answer(&call, context),
        ("GET", "/v1/why/{request}") => tail::why(&call, context).await,
        ("GET", "/v1/jwks/{engine}") => {
            let name = call.parameter.as_deref().unwrap_or_default();
            let (discovery, keys) = broker.token_documents(name).ok_or_else(|| {
                let known: Vec<String> =
                    broker.engine_kinds().into_iter().filter(|(_, kind)| *kind == "jwt").map(|(name, _)| name).collect();
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                Refusal::new(Code::NOT_FOUND).message(format!("There is no jwt engine {name:?}; there is {known}."))
            })?;
            Ok(reply::json(ok, id, &json!({"request": id, "discovery": discovery, "jwks": keys})))
        }
        ("GET", "/v1/engines") => Ok(reply::json(ok, id, &EngineList { request: id, engines: broker.list_engines() })),
        ("POST", "/v1/engines/{engine}/reconcile") => {
            let asked: ReconcileRequest = if call.body.is_empty() { ReconcileRequest::default() } else { body(&call)? };
            let name = EngineName::parse(call.parameter.as_deref().unwrap_or_default()).map_err(|error| Refusal::field("engine", error))?;
            Ok(reply::json(ok, id, &broker.reconcile_now(&operator, &name, asked, id).await?))
        }
        ("GET", "/v1/keys") => Ok(reply::json(ok, id, &KeyList { request: id, keys: broker.list_keys() })),
        ("POST", "/v1/keys/{key}/rotate") => {
            let asked: KeyRequest = if call.body.is_empty() { KeyRequest::default() } else { body(&call)? };
            let done = broker.rotate_key(operator, call.parameter.clone().unwrap_or_default(), asked, id).await?;
            Ok(reply::json(ok, id, &KeyAnswer { request: id, done, keys: broker.list_keys() }))
        }
        ("POST", "/v1/freeze") => freeze(broker, &operator, &call).await,
        _ => Err(Refusal::new(Code::NO_ROUTE)),
    }
}

/// A parameter of the query: names and values here need no escaping, so anything escaped is not one of ours.
pub(super) fn argument<'a>(call: &'a Call, name: &str) -> Option<&'a str> {
    call.query.as_deref()?.split('&').find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name)).map(|(_, value)| value)
}

fn body<T: DeserializeOwned>(call: &Call) -> Result<T, Refusal> {
    // Where it is wrong and not what stands there: serde would repeat a value that somebody put into the wrong place.
    serde_json::from_slice(&call.body)
        .map_err(|error| Refusal::field("body", format_args!("is not what is expected (line {}, column {})", error.line(), error.column())))
}

fn secret_name(call: &Call) -> Result<SecretName, Refusal> {
    SecretName::parse(call.parameter.as_deref().unwrap_or_default()).map_err(|error| Refusal::field("name", error))
}

async fn end(broker: &Arc<Broker>, operator: &Operator, call: &Call) -> Result<Response<Body>, Refusal> {
    let asked: EndRequest = body(call)?;
    let force = asked.force.unwrap_or(false);
    let mut selections = [
        asked.id.map(Selection::Lease),
        asked.pid.map(Selection::Process),
        asked.tree.map(Selection::Tree),
        asked.unit.as_deref().map(Line::parse).transpose().map_err(|error| Refusal::field("unit", error))?.map(Selection::Unit),
        asked.identity.map(Selection::Identity),
        asked.secret.map(Selection::Secret),
    ]
    .into_iter()
    .flatten();
    let (Some(selection), None) = (selections.next(), selections.next()) else {
        return Err(Refusal::field("body", "must name exactly one of id, pid, tree, unit, identity and secret"));
    };
    let why = asked.give_up.as_deref().map(Line::parse).transpose().map_err(|error| Refusal::field("give_up", error))?;
    if force && why.is_some() {
        return Err(Refusal::field("give_up", "and force contradict each other"));
    }
    // Ending goes on even when the record cannot be written; each end is on the record by itself as well.
    let act = Act::new(if why.is_some() { "give-up" } else { "end" }, call.id).selecting(&selection, force).because(why.as_ref());
    if let Err(refusal) = broker.asked(operator, &act).await {
        tracing::error!(code = %refusal.code, "an operator's end is not on the record");
    }
    let ended = match &why {
        Some(why) => broker.forget_selected(&selection, why, call.id).await,
        None => broker.end_selected(&selection, force, call.id).await,
    };
    match &ended {
        Ok(_) if why.is_some() => broker.acted(operator, &act, None).await,
        Ok(rows) => broker.acted_ending(operator, &act, rows).await,
        Err(refusal) => broker.acted(operator, &act, Some(refusal)).await,
    }
    let ended = ended?;
    Ok(reply::json(StatusCode::OK, call.id, &EndAnswer { request: call.id, ended }))
}

async fn put(broker: &Arc<Broker>, operator: &Operator, call: Call) -> Result<Response<Body>, Refusal> {
    let name = secret_name(&call)?;
    if call.body.is_empty() {
        return Err(Refusal::field("body", "is empty: a secret has at least one byte"));
    }
    let value = match call.body.clone().try_into_mut() {
        Ok(mut bytes) => SecretBytes::take_from(&mut bytes),
        Err(shared) => SecretBytes::new(shared.to_vec()),
    };
    let act = Act::new("secret-put", call.id).of(&name);
    broker.asked(operator, &act).await?;
    let version = broker.put_local(name.clone(), value).await;
    broker.acted(operator, &act, version.as_ref().err()).await;
    let version = version?;
    let defined = broker.governance().catalogue.find(&name).is_some();
    Ok(reply::json(StatusCode::CREATED, call.id, &json!({"request": call.id, "name": name, "version": version, "defined": defined})))
}

fn check(broker: &Broker, id: RequestId) -> BundleAnswer {
    let governance = broker.governance();
    match broker.check_files() {
        Ok(checked) => BundleAnswer {
            request: id,
            ok: true,
            bundle: checked.bundle.hash().to_string(),
            generation: governance.generation,
            problems: Vec::new(),
            warnings: checked.warnings,
        },
        Err(problems) => BundleAnswer {
            request: id,
            ok: false,
            bundle: governance.bundle.hash().to_string(),
            generation: governance.generation,
            problems: problems.0,
            warnings: Vec::new(),
        },
    }
}

async fn reload(broker: &Arc<Broker>, operator: &Operator, id: RequestId) -> Result<Response<Body>, Refusal> {
    // How it went is on the record of the reload itself.
    broker.asked(operator, &Act::new("reload", id)).await?;
    let loaded = broker.reload().await;
    let governance = broker.governance();
    let (ok, problems) = match loaded {
        Ok(_) => (true, Vec::new()),
        Err(problems) => (false, problems.0),
    };
    let warnings = if ok { governance.warnings.clone() } else { Vec::new() };
    let answer = BundleAnswer {
        request: id,
        ok,
        bundle: governance.bundle.hash().to_string(),
        generation: governance.generation,
        problems,
        warnings,
    };
    Ok(reply::json(if ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY }, id, &answer))
}

async fn explain(broker: &Broker, call: &Call) -> Result<Response<Body>, Refusal> {
    let pid = argument(call, "pid").and_then(|text| text.parse().ok()).ok_or_else(|| Refusal::field("pid", "must be a process id"))?;
    let ask = Ask::parse(&call.body)?;
    Ok(reply::json(StatusCode::OK, call.id, &broker.explain_process(pid, &ask, call.id).await?))
}

async fn freeze(broker: &Arc<Broker>, operator: &Operator, call: &Call) -> Result<Response<Body>, Refusal> {
    let asked: FreezeRequest = body(call)?;
    let why = asked.reason.as_deref().map(Line::parse).transpose().map_err(|error| Refusal::field("reason", error))?;
    let act = Act::new(if asked.frozen { "freeze" } else { "unfreeze" }, call.id).because(why.as_ref());
    // Stopping comes first and is never refused for want of a record; allowing again is.
    if !asked.frozen {
        broker.asked(operator, &act).await?;
    }
    let done = broker.freeze(asked.frozen).await;
    broker.acted(operator, &act, done.as_ref().err()).await;
    done?;
    Ok(reply::json(StatusCode::OK, call.id, &json!({"request": call.id, "frozen": broker.is_frozen()})))
}

fn status(broker: &Broker, id: RequestId) -> Status {
    let governance = broker.governance();
    Status {
        request: id,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: broker.attestor().kernel().tier().to_owned(),
        attestor: broker.attestor_status(),
        unprotected: broker.unprotected(),
        uptime: broker.uptime(),
        frozen: broker.is_frozen(),
        read_only: broker.read_only().map(str::to_owned),
        bundle: governance.bundle.hash().to_string(),
        bundle_since: governance.since.rfc3339(),
        bundle_problems: broker.load_problems(),
        leases: broker.lease_counts(),
        audit: broker.audit_status(),
        engines: broker.list_engines(),
        rotations: broker.list_rotations().into_iter().filter(|row| row.overdue || row.trouble.is_some()).collect(),
    }
}
