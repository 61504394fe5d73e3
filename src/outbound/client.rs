//! Calls with their limits, on connections that are kept.

use super::{
    Address, CallError, ClientCertificate, Setback, Trust, TrustError,
    address::Place,
    connection::{Connection, Failed, collect},
    pool::Pool,
    waits::Waits,
};
use crate::sys::Clock;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use zeroize::Zeroizing;

/// Endings of one client that are under way at a time. Each makes one call after the other.
const ENDINGS: usize = 8;

tokio::task_local! {
    /// Calls of this task go ahead of those that wait for their turn.
    static AHEAD: ();
}

/// Lets the calls that are made within go ahead of all that wait for their turn at a client: what few do, and others wait for.
pub async fn ahead<T>(work: impl Future<Output = T>) -> T {
    if crate::mutation!("endings-ahead") { work.await } else { AHEAD.scope((), work).await }
}

/// Bounds of every call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest a connection may take to come up, TLS included.
    pub connect: Duration,
    /// The longest a call takes, all waits included.
    pub call: Duration,
    /// Bytes of an answer's body.
    pub answer_bytes: usize,
    /// Calls at a time; more wait for their turn. What takes something back has turns of its own ([`Client::ending`]).
    pub connections: usize,
}

impl Default for Limits {
    /// 2 s to connect, 5 s a call, 1 MiB an answer, 16 at a time.
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), call: Duration::from_secs(5), answer_bytes: 1 << 20, connections: 16 }
    }
}

/// What is done at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the method of the same name")]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    fn http(self) -> hyper::Method {
        match self {
            Method::Get => hyper::Method::GET,
            Method::Post => hyper::Method::POST,
            Method::Put => hyper::Method::PUT,
            Method::Delete => hyper::Method::DELETE,
        }
    }
}

/// One request. Headers and body may hold secrets: the body is wiped when it was sent, headers are marked.
pub struct Call<'a> {
    /// Method.
    pub method: Method,
    /// Path and query, beginning with a slash.
    pub path: &'a str,
    /// Names in lower case, with their values.
    pub headers: &'a [(&'static str, &'a [u8])],
    /// JSON if there is a body, unless a header `content-type` says otherwise.
    pub body: Option<Zeroizing<Vec<u8>>>,
    /// Doing it twice is as good as doing it once, so that it may be sent again when a kept connection turns out to be closed.
    pub repeatable: bool,
}

/// A whole answer, whatever its status. It may hold a secret: it is wiped when dropped.
pub struct Answer {
    /// The status; never a redirect.
    pub status: u16,
    /// How long the source asks us to wait (`Retry-After` in seconds), at most an hour.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer, and whether there may be an effect all the same.
#[derive(Debug)]
pub struct Unanswered {
    /// Why.
    pub error: CallError,
    /// Something of the request may have gone out: the source may have done what it was asked.
    pub sent: bool,
}

/// A client of one address.
pub struct Client {
    address: Address,
    host: HeaderValue,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    own: Option<Arc<ClientCertificate>>,
    limits: Limits,
    slots: Semaphore,
    endings: Semaphore,
    pool: Pool,
    setback: Setback<CallError>,
    waits: Waits,
}

impl Client {
    /// A client that connects when it is first asked. `server_name` is the name in the server's certificate where it is not the address's host;
    /// `trust` is asked for only where there is TLS.
    pub fn new(
        address: Address,
        server_name: Option<&str>,
        trust: impl FnOnce() -> Result<Trust, TrustError>,
        own: Option<ClientCertificate>,
        limits: Limits,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, TrustError> {
        let own = own.map(Arc::new);
        let tls = match &address.place {
            Place::Tls { host, .. } => {
                let name = ServerName::try_from(server_name.unwrap_or(host).to_owned())
                    .map_err(|_| TrustError::Certificate("server_name is no host name".into()))?;
                Some((trust()?.config(own.clone())?, name))
            }
            _ => None,
        };
        let host = HeaderValue::from_str(&address.authority()).map_err(|_| TrustError::Certificate("the host is no header".into()))?;
        let (slots, endings, pool) = (Semaphore::new(limits.connections), Semaphore::new(ENDINGS), Pool::new(clock.clone()));
        let (setback, waits) = (Setback::new(clock.clone()), Waits::new(clock));
        Ok(Self { address, host, tls, own, limits, slots, endings, pool, setback, waits })
    }

    /// Where it calls.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What takes something back. It waits for its turn among its like, however many there are; from then on its calls wait for nobody who
    /// wants something made, so a deadline belongs around the work and not around this.
    pub async fn ending<T>(&self, work: impl Future<Output = T>) -> T {
        // Never closed.
        let _turn = self.endings.acquire().await.ok();
        ahead(work).await
    }

    /// Sends the request and reads the whole answer.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, CallError> {
        self.call_told(call).await.map_err(|unanswered| unanswered.error)
    }

    /// The same; without an answer it says whether the source may have been asked at all.
    pub async fn call_told(&self, call: Call<'_>) -> Result<Answer, Unanswered> {
        self.bounded(call, true).await
    }

    /// The same, for what must not be lost: it takes no kept connection, as one that the source closes at that moment would leave it in doubt.
    pub async fn try_call(&self, call: Call<'_>) -> Result<Answer, Unanswered> {
        self.bounded(call, false).await
    }

    async fn bounded(&self, call: Call<'_>, kept: bool) -> Result<Answer, Unanswered> {
        let (limit, sent) = (self.limits.call, AtomicBool::new(false));
        let answered = timeout(limit, self.exchange(call, kept, &sent)).await;
        let answered = answered.unwrap_or_else(|_| Err(CallError::Late(limit.as_millis())));
        answered.map_err(|error| Unanswered { error, sent: sent.into_inner() })
    }

    async fn exchange(&self, mut call: Call<'_>, kept: bool, sent: &AtomicBool) -> Result<Answer, CallError> {
        let _slot = match AHEAD.try_with(|()| ()) {
            Ok(()) => None,
            // Never closed.
            Err(_) => Some(self.slots.acquire().await.map_err(|_| CallError::Request("the client is closed".into()))?),
        };
        // After the turn: who waited for one may have been told meanwhile.
        if let Some(left) = self.waits.left(call.method, call.path) {
            return Err(CallError::AskedToWait(left));
        }
        let answer = self.send(&mut call, kept, sent).await?;
        // What deletes something shows that as its right to: a word to one of them is none to another.
        if matches!(answer.status, 403 | 429 | 503)
            && call.method != Method::Delete
            && let Some(after) = answer.retry_after
        {
            self.waits.note(call.method, call.path, after);
        }
        Ok(answer)
    }

    /// Over a kept connection if there is one, or a new one.
    async fn send(&self, call: &mut Call<'_>, kept: bool, sent: &AtomicBool) -> Result<Answer, CallError> {
        let body = Bytes::from_owner(call.body.take().unwrap_or_default());
        let generation = self.generation();
        let as_now = |connection: &Connection| connection.generation == generation || crate::mutation!("certificate-kept");
        if let Some(connection) = self.pool.take().filter(|connection| kept && as_now(connection)) {
            match self.over(connection, self.request(call, body.clone())?, sent).await {
                // The server had closed it meanwhile.
                Err(failed) if failed.unsent || (failed.closed && call.repeatable) => {}
                done => return done.map_err(|failed| failed.error),
            }
        }
        let connection = self.connect().await?;
        self.over(connection, self.request(call, body)?, sent).await.map_err(|failed| failed.error)
    }

    async fn connect(&self) -> Result<Connection, CallError> {
        if let Some(why) = self.setback.waiting() {
            return Err(CallError::Waiting(Box::new(why)));
        }
        let limit = self.limits.connect;
        // Before it is opened: one that begins while the certificate is exchanged is not kept.
        let generation = self.generation();
        let opened = timeout(limit, Connection::open(&self.address, self.tls.as_ref(), generation)).await;
        let opened = opened.unwrap_or_else(|_| Err(CallError::Unreachable(format!("no connection within {} ms", limit.as_millis()))));
        self.setback.note(opened.as_ref().err().cloned());
        opened
    }

    /// Which of our certificates is shown now.
    fn generation(&self) -> u64 {
        self.own.as_ref().map_or(0, |own| own.generation())
    }

    async fn over(&self, mut connection: Connection, request: Request<Full<Bytes>>, sent: &AtomicBool) -> Result<Answer, Failed> {
        let before = sent.swap(true, Ordering::Relaxed);
        let response = connection.send(request).await.inspect_err(|failed| sent.store(before || !failed.unsent, Ordering::Relaxed))?;
        let answered = |error: CallError| Failed { error, unsent: false, closed: false };
        let (status, retry_after) = (response.status(), retry_after(&response));
        if status.is_redirection() && !crate::mutation!("redirect-refused") {
            return Err(answered(CallError::Redirect(status.as_u16())));
        }
        let body = collect(response, &self.limits).await.map_err(answered)?;
        self.pool.give_back(connection);
        Ok(Answer { status: status.as_u16(), retry_after, body })
    }

    fn request(&self, call: &Call<'_>, body: Bytes) -> Result<Request<Full<Bytes>>, CallError> {
        let wrong = |error: hyper::http::Error| CallError::Request(error.to_string());
        if !call.path.starts_with('/') {
            return Err(CallError::Request("the path does not begin with a slash".into()));
        }
        let mut request = Request::builder()
            .method(call.method.http())
            .uri(call.path)
            .header(HOST, self.host.clone())
            .header(USER_AGENT, concat!("clavigerd/", env!("CARGO_PKG_VERSION")));
        for (name, value) in call.headers {
            let mut value = HeaderValue::from_bytes(value).map_err(|error| wrong(error.into()))?;
            value.set_sensitive(true);
            request = request.header(HeaderName::from_static(name), value);
        }
        if !body.is_empty() && !call.headers.iter().any(|(name, _)| *name == CONTENT_TYPE.as_str()) {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        request.body(Full::new(body)).map_err(wrong)
    }
}

fn retry_after(response: &Response<Incoming>) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3600)))
}
