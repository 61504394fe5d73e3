//! The typed client: one connection to one of the daemon's sockets.
//!
//! The contract: [`Client::connect`] speaks only to a server that root, the owner of the socket's folder or the caller itself runs, and only
//! through folders that nobody else may change. A request whose connection is closed before any answer came is sent once more; issuing
//! carries an idempotency key, so that a repetition gives the same lease. Values arrive as [`SecretBytes`] and are wiped when dropped.

mod calls;
mod connection;
mod delivery;
mod events;
#[cfg(feature = "testing")]
pub mod heard;
mod lines;
#[cfg(test)]
mod tests;

pub use delivery::Delivered;
pub use events::Events;
pub use lines::Lines;

use crate::wire::ErrorBody;
use std::path::{Path, PathBuf};

/// Why a call gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("{0}: {1}")]
    Unreachable(PathBuf, String),
    /// Somebody answers who may not be believed.
    #[error("{0}: {1}")]
    Untrusted(PathBuf, String),
    /// The daemon said no. The number is the HTTP status.
    #[error("{}: {}", .0.error.code, .0.error.message)]
    Refused(Box<ErrorBody>, u16),
    /// What came back is not what the API describes.
    #[error("the daemon's answer is not understood: {0}")]
    Protocol(String),
}

/// A connection to one socket, made again when it breaks between two requests.
pub struct Client {
    path: PathBuf,
    sender: Option<connection::Sender>,
}

impl Client {
    /// Connects, and makes sure who listens.
    pub async fn connect(path: &Path) -> Result<Client, ClientError> {
        let path = std::path::absolute(path).map_err(|error| ClientError::Unreachable(path.to_owned(), error.to_string()))?;
        let sender = connection::open(&path).await?;
        Ok(Client { path, sender: Some(sender) })
    }
}
