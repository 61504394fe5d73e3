//! What the client makes of any answer, for fuzzing.

use super::{ClientError, connection::collect};
use crate::wire::{AllLeases, BundleAnswer, Health, IdentityList, Issued, KeyList, LeaseList, SecretList, Status};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// Asks once and is answered with `bytes`, after which the server hangs up. How many sorts of answer it takes them for. Panics if there is
/// no end to it, though nothing more can come.
pub async fn hear(bytes: &[u8]) -> Result<usize, ClientError> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let ask = async {
        let protocol = |error: hyper::Error| ClientError::Protocol(error.to_string());
        let (mut sender, connection) = handshake(TokioIo::new(near)).await.map_err(protocol)?;
        let answer = async {
            let request = Request::builder().uri("/v1/leases").body(Full::new(Bytes::new()));
            let request = request.map_err(|error| ClientError::Protocol(error.to_string()))?;
            collect(sender.send_request(request).await.map_err(protocol)?).await
        };
        let connection = async {
            let _ = connection.await;
            std::future::pending().await
        };
        // The answer, or that there is none, comes first: the connection is driven beside it.
        let answer =
            tokio::select! { biased; answer = answer => answer?, () = connection => return Err(ClientError::Protocol(String::new())) };
        let taken = [
            answer.read::<LeaseList>().is_ok(),
            answer.read::<AllLeases>().is_ok(),
            answer.read::<SecretList>().is_ok(),
            answer.read::<Status>().is_ok(),
            answer.read::<KeyList>().is_ok(),
            answer.read::<IdentityList>().is_ok(),
            answer.read::<BundleAnswer>().is_ok(),
            answer.read::<Health>().is_ok(),
            answer.read::<Issued>().is_ok(),
        ];
        Ok(taken.into_iter().filter(|taken| *taken).count())
    };
    let tell = async {
        // It may hang up in the middle of it.
        let _ = far.write_all(bytes).await;
        drop(far);
    };
    let both = async { tokio::join!(ask, tell).0 };
    // All of it is in memory; a minute is for a machine that stands still.
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("an answer that has ended is not waited for")
}
