//! The JSON that crosses the sockets, shared by server and client.
//!
//! Field names are the API: `docs/api/openapi.yaml` describes them and a test holds it against the router.

mod operator;
mod workload;

pub use operator::*;
pub use workload::*;

/// The header in which a request repeats the nonce on kernels that do not pin a peer at connect.
pub const NONCE_HEADER: &str = "claviger-nonce";
/// The header of every answer that names its request.
pub const REQUEST_HEADER: &str = "claviger-request";
