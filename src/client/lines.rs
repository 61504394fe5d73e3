//! An answer that comes line by line and may never end.

use super::ClientError;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Lines as they arrive. The beginning of a line whose end never came is not one.
pub struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    at: usize,
}

impl Lines {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, buffer: Vec::new(), at: 0 }
    }

    /// The next line without its line feed; none at the orderly end.
    pub async fn next(&mut self) -> Result<Option<String>, ClientError> {
        loop {
            if let Some(end) = self.buffer[self.at..].iter().position(|b| *b == b'\n') {
                let line = String::from_utf8_lossy(&self.buffer[self.at..self.at + end]).into_owned();
                self.at += end + 1;
                return Ok(Some(line));
            }
            self.buffer.drain(..self.at);
            self.at = 0;
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(ClientError::Protocol(format!("the stream broke off: {error}"))),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
            }
        }
    }
}
