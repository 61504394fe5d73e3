//! One call of a program: a connection to its socket, on which it is asked and answers, and which ends when the program has.

use super::{
    super::EngineError,
    protocol::{Call, Request},
};
use crate::sys::{BindError, check_closed_socket, peer_cred};
use std::{io, path::PathBuf, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Semaphore,
    time::{Instant, timeout_at},
};
use zeroize::Zeroizing;

/// Calls at a time that make or prolong something, and as many that end or look: those do not wait for programs that hang while they make
/// something. The shipped sockets take twice as many, since a call that was given up may still be running.
const AT_ONCE: usize = 8;
/// Bytes of the longest request: parameters, a reference, a value in base64, and names.
const REQUEST_ROOM: usize = 64 << 10;

/// A program's socket.
pub(super) struct Program {
    socket: PathBuf,
    pub(super) timeout: Duration,
    making: Semaphore,
    ending: Semaphore,
}

impl Program {
    pub(super) fn new(socket: PathBuf, timeout: Duration) -> Self {
        Self { socket, timeout, making: Semaphore::new(AT_ONCE), ending: Semaphore::new(AT_ONCE) }
    }

    /// Asks and takes the whole answer: the end of the connection is the end of the program and of all that it started, where its unit
    /// keeps them together. `begun` is called right before the program learns of it, `ended` when it is certain that it has ended.
    pub(super) async fn call(
        &self,
        request: &Request<'_>,
        begun: impl FnOnce() + Send,
        ended: impl FnOnce() + Send,
    ) -> Result<Vec<u8>, EngineError> {
        let (doing, limit) = (request.call.as_str(), self.timeout);
        let until = Instant::now() + limit;
        let late = |what: &str| EngineError::Unreachable(format!("{doing}: {what} after {} ms", limit.as_millis()));
        let makes = matches!(request.call, Call::Create | Call::Renew) || crate::mutation!("command-turn");
        // Closed with this engine only.
        let turn = timeout_at(until, if makes { self.making.acquire() } else { self.ending.acquire() }).await;
        let _turn = turn.map_err(|_| late("other calls of the program had not ended"))?;
        timeout_at(until, self.converse(request, begun, ended)).await.unwrap_or_else(|_| Err(late("the program had not ended")))
    }

    async fn converse(
        &self,
        request: &Request<'_>,
        begun: impl FnOnce() + Send,
        ended: impl FnOnce() + Send,
    ) -> Result<Vec<u8>, EngineError> {
        let (call, doing) = (request.call, request.call.as_str());
        // A text of JSON has no line feed in it, so a program may read a line or everything.
        // It may hold a value, so it does not grow and leave copies.
        let mut text = Zeroizing::new(Vec::with_capacity(REQUEST_ROOM));
        serde_json::to_writer(&mut *text, request).map_err(|error| EngineError::Setup(format!("{doing}: {error}")))?;
        text.push(b'\n');
        let mut stream = self.connected(doing).await?;
        begun();
        let mut answer = Vec::new();
        let most = if crate::mutation!("command-limit") { call.most() << 10 } else { call.most() };
        let read = converse(&mut stream, &text, most, &mut answer).await;
        if answer.len() > most {
            return Err(EngineError::Setup(format!("{doing}: the program answers with more than {most} bytes")));
        }
        // Nobody has the other end any more: it was closed, or given up with what was asked still in it.
        ended();
        match read {
            Err(error) => Err(EngineError::Unreachable(format!("{doing}: the program broke off: {error}"))),
            Ok(()) if answer.is_empty() => Err(EngineError::Unreachable(format!(
                "{doing}: the program ended without an answer (its unit's log says more), or its socket takes no more calls (MaxConnections=)"
            ))),
            Ok(()) => Ok(answer),
        }
    }

    /// A connection on which nobody but the program answers.
    async fn connected(&self, doing: &str) -> Result<UnixStream, EngineError> {
        check_closed_socket(&self.socket).map_err(|error| match error {
            BindError::Io(..) => EngineError::Unreachable(format!("{doing}: {error}; is its socket unit started?")),
            error => EngineError::Setup(format!("{doing}: {error}: whoever answers there is not believed")),
        })?;
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                EngineError::Setup(format!("{doing}: {}: {error} (SocketUser= must be the daemon's user)", self.socket.display()))
            }
            _ => EngineError::Unreachable(format!("{doing}: connecting: {error}")),
        })?;
        // Who called listen(2) (unix(7), SO_PEERCRED): the service manager, whichever program it starts then.
        let listener = peer_cred(&stream).map_err(|error| EngineError::Unreachable(format!("{doing}: {error}")))?;
        if listener.uid != 0 && listener.uid != crate::sys::euid() && !crate::mutation!("command-peer") {
            return Err(EngineError::Setup(format!("{doing}: uid {} listens for the program, not root: it is not believed", listener.uid)));
        }
        Ok(stream)
    }
}

/// Asks, and reads until nobody has the other end any more, or more than `most` bytes.
async fn converse(stream: &mut UnixStream, text: &[u8], most: usize, answer: &mut Vec<u8>) -> io::Result<()> {
    stream.write_all(text).await?;
    stream.shutdown().await?;
    stream.take(most as u64 + 1).read_to_end(answer).await.map(drop)
}
