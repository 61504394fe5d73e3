//! One connection: who listens, requests, the nonce, and one repetition.

use super::{Client, ClientError};
use crate::{
    sys,
    wire::{ErrorBody, NONCE_HEADER, PINNED_HEADER},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Incoming},
    client::conn::http1::{SendRequest, handshake},
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::{io, path::Path, time::Duration};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

pub(super) type Sender = SendRequest<Full<Bytes>>;

/// The longest that an answer may take: an engine that is slow upstream has said so long before.
const ANSWER: Duration = Duration::from_secs(90);
const MAX_ANSWER: usize = 64 << 20;

/// A whole answer. It may hold a secret: it is wiped when dropped.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Answer {
    /// The body as `T` for any success, the refusal otherwise.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        if !self.status.is_success() {
            return Err(self.refusal());
        }
        serde_json::from_slice(&self.body).map_err(|error| ClientError::Protocol(error.to_string()))
    }

    pub(super) fn refusal(&self) -> ClientError {
        match serde_json::from_slice::<ErrorBody>(&self.body) {
            Ok(body) => ClientError::Refused(Box::new(body), self.status.as_u16()),
            Err(_) => ClientError::Protocol(format!("status {}", self.status)),
        }
    }
}

/// Connects to a listener that may be believed.
pub(super) async fn open(path: &Path) -> Result<Sender, ClientError> {
    let unreachable = |error: io::Error| ClientError::Unreachable(path.to_owned(), error.to_string());
    let untrusted = |why: String| ClientError::Untrusted(path.to_owned(), why);
    let folder = path.parent().ok_or_else(|| untrusted("is not a path to a socket".into()))?;
    let owner = sys::socket_folder_owner(folder).map_err(|error| match error {
        sys::BindError::Io(_, error) => unreachable(error),
        other => untrusted(other.to_string()),
    })?;
    let stream = UnixStream::connect(path).await.map_err(unreachable)?;
    let uid = sys::peer_cred(&stream).map_err(unreachable)?.uid;
    if uid != 0 && uid != owner && uid != sys::euid() && !sys::is_roots_socket(path) {
        return Err(untrusted(format!("uid {uid} listens here; expected root, uid {owner} or the caller itself")));
    }
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(io::Error::other(error)))?;
    // It ends with the connection; what went wrong shows in the answer that is missing.
    tokio::spawn(connection);
    Ok(sender)
}

impl Client {
    /// Sends a request and reads its answer to the end.
    pub(super) async fn call(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer, ClientError> {
        let socket = self.path.clone();
        let done = tokio::time::timeout(ANSWER, async {
            let response = self.send(&method, path, &body).await?;
            collect(response).await
        });
        done.await.unwrap_or_else(|_| Err(ClientError::Unreachable(socket, format!("no answer within {} s", ANSWER.as_secs()))))
    }

    /// The same for an answer that is sealed to `key`, which is base64; with it comes the nonce that it was sealed for.
    pub(super) async fn call_pinned(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        key: &str,
    ) -> Result<(Answer, Option<String>), ClientError> {
        let socket = self.path.clone();
        let done = tokio::time::timeout(ANSWER, async {
            let (response, nonce) = self.send_with(&method, path, &body, Some(key)).await?;
            Ok((collect(response).await?, nonce))
        });
        done.await.unwrap_or_else(|_| Err(ClientError::Unreachable(socket, format!("no answer within {} s", ANSWER.as_secs()))))
    }

    /// Sends a request and returns as soon as its answer begins; the nonce is answered, and a closed connection opened once more.
    pub(super) async fn send(&mut self, method: &Method, path: &str, body: &Bytes) -> Result<Response<Incoming>, ClientError> {
        self.send_with(method, path, body, None).await.map(|(response, _)| response)
    }

    async fn send_with(
        &mut self,
        method: &Method,
        path: &str,
        body: &Bytes,
        key: Option<&str>,
    ) -> Result<(Response<Incoming>, Option<String>), ClientError> {
        let mut repeated = false;
        loop {
            match self.attempt(method, path, body, key, None).await? {
                Attempt::Answered(response) if response.status() == StatusCode::UNAUTHORIZED => {
                    let answer = collect(response).await?;
                    let refusal = answer.refusal();
                    let ClientError::Refused(body_of, _) = &refusal else { return Err(refusal) };
                    let Some(nonce) = body_of.error.nonce.clone() else { return Err(refusal) };
                    return match self.attempt(method, path, body, key, Some(&nonce)).await? {
                        Attempt::Answered(response) => Ok((response, Some(nonce))),
                        // The nonce holds on its own connection only.
                        Attempt::Closed(why) => Err(ClientError::Unreachable(self.path.clone(), why)),
                    };
                }
                Attempt::Answered(response) => return Ok((response, None)),
                Attempt::Closed(why) if repeated => return Err(ClientError::Unreachable(self.path.clone(), why)),
                // The daemon closes what was queued before it armed its socket (socket activation), and what has been idle for long.
                Attempt::Closed(_) => {
                    repeated = true;
                    self.sender = None;
                }
            }
        }
    }

    async fn attempt(
        &mut self,
        method: &Method,
        path: &str,
        body: &Bytes,
        key: Option<&str>,
        nonce: Option<&str>,
    ) -> Result<Attempt, ClientError> {
        let sender = match &mut self.sender {
            Some(sender) => sender,
            none => none.insert(open(&self.path).await?),
        };
        if let Err(error) = sender.ready().await {
            return Ok(Attempt::Closed(format!("the connection was closed: {error}")));
        }
        let mut request = Request::builder().method(method).uri(path).header(HOST, "claviger");
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(nonce) = nonce {
            request = request.header(NONCE_HEADER, nonce);
        }
        if let Some(key) = key {
            request = request.header(PINNED_HEADER, key);
        }
        let request = request.body(Full::new(body.clone())).map_err(|error| ClientError::Protocol(error.to_string()))?;
        match sender.send_request(request).await {
            Ok(response) => Ok(Attempt::Answered(response)),
            Err(error) if error.is_parse() || error.is_user() => Err(ClientError::Protocol(error.to_string())),
            Err(error) => Ok(Attempt::Closed(format!("the connection was closed before an answer: {error}"))),
        }
    }
}

enum Attempt {
    Answered(Response<Incoming>),
    Closed(String),
}

/// Reads an answer into memory that is wiped. One allocation where the length is known, so that growing leaves no copy behind.
pub(super) async fn collect(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let (head, mut body) = response.into_parts();
    let expected = body.size_hint().exact().unwrap_or(16 << 10);
    let expected = usize::try_from(expected).unwrap_or(usize::MAX).min(MAX_ANSWER);
    let mut out = Zeroizing::new(Vec::with_capacity(expected));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ClientError::Protocol(format!("the answer broke off: {error}")))?;
        let Some(data) = frame.data_ref() else { continue };
        if out.len() + data.len() > MAX_ANSWER {
            return Err(ClientError::Protocol("the answer is too long".into()));
        }
        out.extend_from_slice(data);
    }
    Ok(Answer { status: head.status, body: out })
}
