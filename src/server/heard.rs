//! What the server makes of any bytes, for fuzzing: its own settings of HTTP, its routes and limits, up to where the broker would be asked.

use super::{
    accept::Door,
    connection::{MAX_HEADERS, arrived, is_vault, max_body, protocol},
    reply, vault,
};
use crate::model::RequestId;
use hyper::{Method, Request, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::Mutex,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What came of it.
#[derive(Debug, Default)]
pub struct Heard {
    /// All bytes that came back.
    pub replies: Vec<u8>,
    /// For each request that was understood, whether it was a `HEAD`, whose answer has no body.
    pub heads: Vec<bool>,
    /// Requests that would have reached the broker.
    pub reached: usize,
}

/// Looks without progress after which nothing more will come: everything is in memory and on this thread.
const QUIET: usize = 4;
/// Far more looks than any input needs.
const LOOKS: usize = 20_000;

/// Lets one connection at that door hear `bytes` in pieces of `piece`, waits until nothing moves, and hangs up. Panics if a limit does not
/// hold, or if the connection does not end then. Within a tokio runtime, for the deadlines.
pub fn hear(bytes: &[u8], piece: usize, door: Door) -> Heard {
    let (near, far) = tokio::io::duplex(4 << 20);
    let heard = Mutex::new(Heard::default());
    let lock = || heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let service = service_fn(|request: Request<Incoming>| {
        let lock = &lock;
        async move {
            assert!(request.headers().len() <= MAX_HEADERS, "more headers than may be");
            lock().heads.push(request.method() == Method::HEAD);
            let (vaults, (head, body)) = (is_vault(door, &request), request.into_parts());
            let (id, within) = (RequestId::from_parts(1, 1), Duration::from_secs(600));
            let come = match vaults {
                true => vault::arrived(&head, body, within).await,
                false => arrived(door, &head, body, within).await,
            };
            let response = match come {
                Ok((route, parameter, body)) => {
                    assert!(body.len() <= max_body(route), "a longer body than may be");
                    assert!(parameter.is_none_or(|parameter| !parameter.is_empty()), "an empty parameter");
                    lock().reached += 1;
                    reply::json(StatusCode::OK, id, &body.len())
                }
                Err(refusal) if vaults => vault::refused(id, &refusal),
                Err(refusal) => reply::refusal(id, &refusal, None),
            };
            Ok::<_, Infallible>(response)
        }
    });
    {
        let mut connection = pin!(protocol().serve_connection(TokioIo::new(far), service));
        let mut near = Some(near);
        let mut context = Context::from_waker(Waker::noop());
        let (mut sent, mut quiet, mut ended) = (0, 0, false);
        for look in 0.. {
            assert!(look < LOOKS, "a connection does not come to rest, or does not end when its peer has hung up");
            let mut moved = false;
            if let Some(near) = near.as_mut().filter(|_| sent < bytes.len()) {
                let end = (sent + piece.max(1)).min(bytes.len());
                match pin!(near).poll_write(&mut context, &bytes[sent..end]) {
                    Poll::Ready(Ok(n)) => (sent, moved) = (sent + n, n > 0),
                    // It was closed: the rest is not heard.
                    Poll::Ready(Err(_)) => sent = bytes.len(),
                    Poll::Pending => {}
                }
            }
            if !ended {
                ended = connection.as_mut().poll(&mut context).is_ready();
                moved |= ended;
            }
            if let Some(near) = &mut near {
                let mut room = [0; 4096];
                let mut buffer = ReadBuf::new(&mut room);
                if let Poll::Ready(Ok(())) = pin!(near).poll_read(&mut context, &mut buffer) {
                    moved |= !buffer.filled().is_empty();
                    lock().replies.extend_from_slice(buffer.filled());
                }
            }
            quiet = if moved { 0 } else { quiet + 1 };
            match (quiet > QUIET, near.is_some(), ended) {
                // Whatever it waits for does not come: its peer goes.
                (true, true, _) => (near, quiet) = (None, 0),
                (_, false, true) => break,
                _ => {}
            }
        }
    }
    heard.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The `data` that Vault's clients are given for a value with these attributes.
pub fn vault_data(value: &[u8], attributes: &[(&'static str, String)], leased: bool) -> Vec<u8> {
    vault::data_of(value, attributes, leased)
}
