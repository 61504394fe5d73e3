//! What is told about leases as it happens, read from server-sent events.

use super::{Client, ClientError, Lines, connection::collect};
use crate::wire::LeaseEvent;
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde_json::json;

/// Events as they arrive.
pub struct Events {
    lines: Lines,
    name: String,
}

impl Client {
    /// `GET /v1/watch`. Takes the connection: ask others on another one.
    pub async fn watch(mut self) -> Result<Events, ClientError> {
        let response = self.send(&Method::GET, "/v1/watch", &Bytes::new()).await?;
        match response.status() {
            StatusCode::OK => Ok(Events { lines: Lines::new(response.into_body()), name: String::new() }),
            _ => Err(collect(response).await?.refusal()),
        }
    }
}

impl Events {
    /// The next event; none when the daemon has ended the stream. Events of a later version are passed over. Dropping the future loses
    /// nothing.
    pub async fn next(&mut self) -> Result<Option<LeaseEvent>, ClientError> {
        while let Some(line) = self.lines.next().await? {
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut self.name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                let data: serde_json::Value = serde_json::from_str(data).map_err(|error| ClientError::Protocol(error.to_string()))?;
                if let Ok(event) = serde_json::from_value(json!({"event": self.name, "data": data})) {
                    return Ok(Some(event));
                }
            }
        }
        Ok(None)
    }
}
