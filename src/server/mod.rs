//! Sockets and routes to the broker, and its answers back.
//!
//! `accept` lets connections in, `connection` serves one, `workload_api` and `operator_api` are the two front doors, `reply` is the only
//! place where a refusal becomes an HTTP status.

mod accept;
mod connection;
mod credentials;
#[cfg(feature = "testing")]
pub mod heard;
mod launch;
mod limits;
mod operator_api;
mod reply;
mod routes;
mod tail;
mod vault;
mod watch;
mod workload_api;

pub use accept::{Door, Server};
pub use credentials::Asked;
pub use limits::LimitSettings;
pub use routes::{ROUTES, Route};
