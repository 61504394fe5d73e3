//! The JSON that crosses the sockets, shared by server and client.
//!
//! Field names are the API: `docs/api/openapi.yaml` describes them and a test holds it against the router.

mod cache;
mod operator;
mod rotation;
mod workload;

pub use cache::*;
pub use operator::*;
pub use rotation::*;
pub use workload::*;

/// The header in which a request repeats the nonce on kernels that do not pin a peer at connect.
pub const NONCE_HEADER: &str = "claviger-nonce";
/// The header with the public key that the value is to be sealed to (X25519, base64). The nonce goes with it.
pub const PINNED_HEADER: &str = "claviger-pinned";
/// The encoding of a value that is sealed to such a key: base64 of what HPKE makes (RFC 9180: X25519, HKDF-SHA256, ChaCha20-Poly1305).
pub const PINNED_ENCODING: &str = "hpke";

/// What a value is sealed with beside the key: whoever repeats a nonce is the process that was pinned when it connected.
pub fn pinned_info(nonce: &str) -> String {
    format!("claviger-pinned/1 {nonce}")
}

/// The header of every answer that names its request.
pub const REQUEST_HEADER: &str = "claviger-request";
