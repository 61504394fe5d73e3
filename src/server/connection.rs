//! One connection: pinned when it is accepted, its every chunk checked, its requests answered one after the other.

use super::{
    accept::Door,
    limits::{Limits, Place},
    operator_api, reply,
    reply::Body,
    routes::{self, Matched, Route},
    vault, workload_api,
};
use crate::{
    broker::{Broker, Caller, Pinned},
    digest::SealTo,
    model::{Code, Refusal, RequestId},
    sys::{CheckedStream, Cut, Leave, PeerCred, Reading},
    wire::{NONCE_HEADER, PINNED_HEADER, pinned_info},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures_util::future::{Either, ready};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Request, Response,
    body::{Body as _, Incoming},
    http::request::Parts,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    path::PathBuf,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{net::UnixStream, sync::watch};

/// What a connection needs from its server.
#[derive(Clone)]
pub(super) struct Context {
    pub(super) broker: Arc<Broker>,
    pub(super) limits: Arc<Limits>,
    pub(super) audit_folder: PathBuf,
    pub(super) door: Door,
    pub(super) stop: watch::Receiver<bool>,
}

/// One request with what is known about where it came from.
pub(super) struct Call {
    pub(super) id: RequestId,
    pub(super) peer: Arc<Caller>,
    pub(super) parameter: Option<String>,
    pub(super) query: Option<String>,
    pub(super) body: Bytes,
    /// What a value is to be sealed to.
    pub(super) pinned: Option<Pinned>,
}

/// How a connection gets on.
#[derive(Default)]
struct Progress {
    asked: AtomicU64,
    answered: AtomicU64,
    /// Chunks that had arrived when the last request was answered.
    heard: AtomicU64,
    follows: AtomicBool,
}

/// A connection at one look: what was asked, and whether more has arrived since the last answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// A request is being answered, which has deadlines of its own, or a log is followed.
    Busy,
    /// Nothing is on its way from the peer; an answer may be on its way to it.
    Idle { asked: u64 },
    /// The head of a request has begun to arrive.
    Head { asked: u64 },
}

impl Progress {
    fn look(&self, reading: &Reading) -> Look {
        let (asked, answered) = (self.asked.load(Ordering::Acquire), self.answered.load(Ordering::Acquire));
        if asked != answered || self.follows.load(Ordering::Acquire) {
            Look::Busy
        } else if reading.chunks() == self.heard.load(Ordering::Acquire) {
            Look::Idle { asked }
        } else {
            Look::Head { asked }
        }
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(stream: UnixStream, cred: PeerCred, place: Place, context: &Context) {
    // Pinned before a byte is read: an exec after connect is seen, and so are ids that changed.
    let peer = context.broker.accept(&stream).await.map(Arc::new);
    let sender = peer.as_ref().map_or(cred, |peer| peer.sender());
    if let Err(error) = &peer {
        tracing::info!(pid = cred.pid, uid = cred.uid, %error, "a peer could not be attested");
    }
    let (stream, reading) = CheckedStream::new(stream, sender, if context.door == Door::Workload { Leave::Some } else { Leave::Nothing });
    crate::failpoint!("accepted");
    let progress = Progress::default();
    let settings = context.limits.settings();
    // A body without an end is a log that is followed: silence is no idleness there.
    let answered = |response: Response<Body>| {
        progress.follows.fetch_or(response.body().size_hint().exact().is_none(), Ordering::AcqRel);
        progress.heard.store(reading.chunks(), Ordering::Release);
        progress.answered.fetch_add(1, Ordering::AcqRel);
        Ok::<_, Infallible>(response)
    };
    let service = service_fn(|request: Request<Incoming>| {
        progress.asked.fetch_add(1, Ordering::AcqRel);
        let id = context.broker.request_id();
        let refused = || if is_vault(context.door, &request) { vault::refused } else { plainly_refused };
        let peer = match &peer {
            Ok(peer) if place.request() => peer,
            Ok(_) => return Either::Left(ready(answered(refused()(id, &Refusal::new(Code::LIMIT))))),
            Err(error) => {
                let (refused, refusal) = (refused(), Refusal::new(Code::ATTESTATION_FAILED).detail(error.to_string()));
                return Either::Right(Box::pin(async move {
                    answered(refused(id, &context.broker.record_cut(id, cred.uid, None, refusal).await))
                }) as Pin<Box<dyn Future<Output = _> + Send>>);
            }
        };
        if context.door == Door::Workload && !request.headers().contains_key(PINNED_HEADER) {
            let broker = &context.broker;
            let now = workload_api::answer_now(request.method(), request.uri().path(), peer, broker, id);
            if let Some(response) = now.or_else(|| vault::answer_now(&request, peer, broker, id)) {
                return Either::Left(ready(answered(response)));
            }
        }
        Either::Right(Box::pin(async move { answered(handle(request, peer, id, context).await) }))
    });
    let mut connection = pin!(protocol().serve_connection(TokioIo::new(stream), service));
    let mut stop = context.stop.clone();
    let (mut before, mut quiet) = (Look::Busy, Duration::ZERO);
    let mut stopping = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => break ended.map_err(|error| error.to_string()),
            _ = stop.wait_for(|stop| *stop), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep(settings.request) => {
                let now = progress.look(&reading);
                quiet = if now == before { quiet + settings.request } else { Duration::ZERO };
                match now {
                    // It began at least one look ago.
                    Look::Head { .. } if now == before => break Err("the head of a request did not arrive in time".to_owned()),
                    Look::Idle { .. } if quiet >= settings.idle.max(settings.answer) => break Err("idle".to_owned()),
                    _ => {}
                }
                before = now;
            }
        }
    };
    if let Some(cut) = reading.cut() {
        let code = match cut {
            Cut::ForeignWriter => Code::FOREIGN_WRITER,
            Cut::Descriptors => Code::MALFORMED,
            Cut::NoCredentials => Code::ATTESTATION_FAILED,
        };
        let _told_to_nobody = context
            .broker
            .record_cut(context.broker.request_id(), cred.uid, peer.as_deref().ok(), Refusal::new(code).detail(format!("{cut:?}")))
            .await;
    } else if let Err(error) = ended {
        tracing::debug!(uid = cred.uid, %error, "a connection ended");
    }
}

/// How HTTP is spoken here.
pub(super) fn protocol() -> http1::Builder {
    let mut protocol = http1::Builder::new();
    // One clock for each connection instead of one for each request: see the loop above.
    protocol.header_read_timeout(None).max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD).half_close(false);
    protocol
}

/// Members of a head, and its bytes, at most.
pub(super) const MAX_HEADERS: usize = 32;
const MAX_HEAD: usize = 32 << 10;

/// Whether it is to be answered as Vault would.
pub(super) fn is_vault<B>(door: Door, request: &Request<B>) -> bool {
    door == Door::Workload && vault::is_spoken(request)
}

fn plainly_refused(id: RequestId, refusal: &Refusal) -> Response<Body> {
    reply::refusal(id, refusal, None)
}

async fn handle(request: Request<Incoming>, peer: &Arc<Caller>, id: RequestId, context: &Context) -> Response<Body> {
    if is_vault(context.door, &request) {
        return vault::handle(request, peer, id, context).await;
    }
    match answer(request, peer, id, context).await {
        Ok(response) => response,
        Err(refusal) => {
            let nonce = (refusal.code == Code::NONCE_REQUIRED).then(|| peer.nonce());
            reply::refusal(id, &refusal, nonce)
        }
    }
}

async fn answer(request: Request<Incoming>, peer: &Arc<Caller>, id: RequestId, context: &Context) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    nonce(&head, peer);
    let (route, parameter, body) = arrived(context.door, &head, body, context.limits.settings().request).await?;
    let query = head.uri.query().map(str::to_owned);
    let pinned = pinned(&head, peer)?;
    let call = Call { id, peer: peer.clone(), parameter, query, body, pinned };
    match context.door {
        Door::Workload => workload_api::answer(route, call, context).await,
        Door::Operator if route.method == "GET" => operator_api::answer(route, call, context).await,
        // In a task of its own: an act and its records come to their end whoever hangs up.
        Door::Operator => {
            let context = context.clone();
            let act = tokio::spawn(async move { operator_api::answer(route, call, &context).await });
            act.await.unwrap_or_else(|_| Err(Refusal::new(Code::INTERNAL)))
        }
    }
}

/// Takes the nonce of this connection, if the request came with it.
pub(super) fn nonce(head: &Parts, peer: &Caller) {
    if let Some(nonce) = head.headers.get(NONCE_HEADER).and_then(|value| value.to_str().ok()) {
        peer.answer_nonce(nonce);
    }
}

/// The key that the value is to be sealed to. It comes with the nonce of this connection, which was made after its process was pinned: so
/// whoever made the key is that process under that program, and not what it was before an exec that the daemon never saw.
fn pinned(head: &Parts, peer: &Caller) -> Result<Option<Pinned>, Refusal> {
    let Some(key) = head.headers.get(PINNED_HEADER) else { return Ok(None) };
    let key = key.to_str().ok().and_then(|text| STANDARD.decode(text).ok()).and_then(|bytes| SealTo::from_bytes(&bytes));
    let key = key.ok_or_else(|| Refusal::field(PINNED_HEADER, "must be the 32 bytes of an X25519 public key in base64"))?;
    let repeated = head.headers.get(NONCE_HEADER).is_some_and(|nonce| nonce.as_bytes() == peer.nonce().as_bytes());
    if repeated || crate::mutation!("pinned-nonce") {
        Ok(Some(Pinned { key, info: pinned_info(peer.nonce()) }))
    } else {
        Err(Refusal::new(Code::NONCE_REQUIRED))
    }
}

/// The route that a request is for, with its parameter, and its whole body.
pub(super) async fn arrived(
    door: Door,
    head: &Parts,
    body: Incoming,
    within: Duration,
) -> Result<(&'static Route, Option<String>, Bytes), Refusal> {
    let (route, parameter) = match routes::find(door.name(), &head.method, head.uri.path()) {
        Matched::Route(route, parameter) => (route, parameter),
        Matched::OtherMethod => return Err(Refusal::new(Code::METHOD)),
        Matched::Nothing => return Err(Refusal::new(Code::NO_ROUTE)),
    };
    Ok((route, parameter, read(body, max_body(route), within).await?))
}

/// The longest body of that route.
pub(super) fn max_body(route: &Route) -> usize {
    if route.path == "/v1/secrets/local/{name}" { crate::engine::local::VALUE_MAX } else { crate::intent::MAX_BODY }
}

pub(super) async fn read(body: Incoming, max: usize, within: Duration) -> Result<Bytes, Refusal> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    match tokio::time::timeout(within, Limited::new(body, max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::new(Code::TOO_LARGE)),
        Ok(Err(_)) => Err(Refusal::field("body", "did not arrive whole")),
        Err(_) => Err(Refusal::field("body", "did not arrive in time")),
    }
}
