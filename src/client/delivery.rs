//! A secret as it arrived: its value never stands in a `String` that is not wiped.

use super::{ClientError, connection::Answer};
use crate::{
    digest::Opener,
    model::{RequestId, SecretBytes},
    wire::{Issued, LeaseView, PINNED_ENCODING, pinned_info},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::collections::BTreeMap;
use zeroize::Zeroizing;

/// A lease with its value.
pub struct Delivered {
    /// The request.
    pub request: RequestId,
    /// The lease.
    pub lease: LeaseView,
    /// The value.
    pub value: SecretBytes,
    /// Names beside the value: user name, host ...
    pub attributes: BTreeMap<String, String>,
    /// What policy shortened.
    pub clamped: Vec<String>,
}

impl Delivered {
    /// Reads an answer that was asked for with this key, and opens it. `nonce` is the one that was repeated.
    pub(super) fn of(answer: &Answer, opener: Opener, nonce: Option<&str>) -> Result<Delivered, ClientError> {
        let Issued { request, lease, secret, attributes, clamped } = answer.read()?;
        let text = Zeroizing::new(secret.value);
        let value = match secret.encoding.as_str() {
            PINNED_ENCODING => {
                let sealed = STANDARD.decode(text.as_bytes()).map_err(|_| ClientError::Protocol("bad base64".into()))?;
                let info = pinned_info(nonce.unwrap_or_default());
                opener.open(info.as_bytes(), &sealed).map_err(|error| ClientError::Protocol(error.to_string()))?
            }
            "utf-8" => SecretBytes::new(text.as_bytes().to_vec()),
            "base64" => SecretBytes::new(STANDARD.decode(text.as_bytes()).map_err(|_| ClientError::Protocol("bad base64".into()))?),
            other => return Err(ClientError::Protocol(format!("unknown encoding {other:?}"))),
        };
        Ok(Delivered { request, lease, value, attributes, clamped })
    }
}
