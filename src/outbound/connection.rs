//! One connection to the source, made and used.

use super::{Address, CallError, Limits, TlsReason, address::Place, failure::tls_reason};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::http1::{Builder, SendRequest},
};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use std::{error::Error, io, sync::Arc};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// The longest head of an answer, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// An open connection; dropping it closes it, also in the middle of an answer.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// Which of our certificates it began with.
    pub(super) generation: u64,
}

/// Why an exchange failed, and whether it may be sent again.
pub(super) struct Failed {
    pub(super) error: CallError,
    /// Not a byte of it went out.
    pub(super) unsent: bool,
    /// The connection was closed before an answer began, as servers do to what has been idle.
    pub(super) closed: bool,
}

impl Connection {
    /// Dials. What is dialled is the address and nothing else.
    pub(super) async fn open(
        address: &Address,
        tls: Option<&(Arc<ClientConfig>, ServerName<'static>)>,
        generation: u64,
    ) -> Result<Self, CallError> {
        let refused = |error: io::Error| CallError::Unreachable(format!("connecting: {error}"));
        match (&address.place, tls) {
            (Place::Unix(path), _) => Self::over(UnixStream::connect(path).await.map_err(refused)?, generation).await,
            (Place::Plain { host, port }, _) => Self::over(dial(host, *port).await.map_err(refused)?, generation).await,
            (Place::Tls { host, port }, Some((config, name))) => {
                let stream = dial(host, *port).await.map_err(refused)?;
                let stream = TlsConnector::from(config.clone()).connect(name.clone(), stream).await;
                let stream = stream.map_err(|error| match tls_reason(&error) {
                    Some(reason @ TlsReason::BrokenOff(_)) => CallError::Unreachable(format!("TLS: {reason}")),
                    Some(reason) => CallError::Tls(reason),
                    None => CallError::Unreachable(format!("the TLS handshake broke off: {error}")),
                })?;
                Self::over(stream, generation).await
            }
            // A client for such an address is never made without it.
            (Place::Tls { .. }, None) => Err(CallError::Request("no authority is named".into())),
        }
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, generation: u64) -> Result<Self, CallError> {
        let (sender, connection) = Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| CallError::Unreachable(format!("connecting: {error}")))?;
        // It ends with the sender or the server; what went wrong shows in the answer that is missing.
        tokio::spawn(connection);
        Ok(Self { sender, generation })
    }

    /// Whether it can no longer be used.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a request and reads the head of its answer.
    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Failed> {
        let unsent = |error: CallError| Failed { error, unsent: true, closed: true };
        self.sender.ready().await.map_err(|error| unsent(CallError::Unreachable(format!("the connection was closed: {error}"))))?;
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let unsent = failed.take_message().is_some();
            let error = failed.into_error();
            let closed = error.is_incomplete_message() || error.is_closed() || error.is_canceled();
            Failed { error: explain(&error), unsent, closed }
        })
    }
}

async fn dial(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// hyper's error in ours. Its texts quote nothing of a message.
fn explain(error: &hyper::Error) -> CallError {
    if let Some(reason) = tls_reason(error) {
        return after_the_handshake(reason);
    }
    let cause = error.source().map_or_else(String::new, |source| format!(": {source}"));
    if error.is_parse() {
        CallError::Malformed(format!("{error}{cause}"))
    } else if error.is_user() {
        CallError::Request(format!("{error}{cause}"))
    } else {
        CallError::Unreachable(format!("the connection broke: {error}{cause}"))
    }
}

/// TLS that breaks when a request may be out already. That our certificate is not wanted is heard only now (TLS 1.3); whatever else it is, the
/// server was who it should be, and may have done what it was asked.
fn after_the_handshake(reason: TlsReason) -> CallError {
    match reason {
        TlsReason::OurCertificate => CallError::Tls(reason),
        reason => CallError::Unreachable(format!("the connection broke: TLS: {reason}")),
    }
}

/// Reads the whole body into memory that is wiped. One allocation where the length is known, so that growing leaves no copy behind.
pub(super) async fn collect(response: Response<Incoming>, limits: &Limits) -> Result<Zeroizing<Vec<u8>>, CallError> {
    let mut body = response.into_body();
    let max = limits.answer_bytes;
    let expected = body.size_hint().exact().unwrap_or(16 << 10);
    if body.size_hint().lower() > max as u64 {
        return Err(CallError::TooLarge(max));
    }
    let mut out = Zeroizing::new(Vec::with_capacity(usize::try_from(expected).unwrap_or(usize::MAX).min(max)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match tls_reason(&error) {
            Some(reason) => after_the_handshake(reason),
            None => CallError::Malformed(format!("it broke off: {error}")),
        })?;
        let Some(data) = frame.data_ref() else { continue };
        if out.len() + data.len() > max {
            return Err(CallError::TooLarge(max));
        }
        out.extend_from_slice(data);
    }
    Ok(out)
}
