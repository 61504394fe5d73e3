//! Calls to sources: the one client for HTTP over TLS.
//!
//! A [`Client`] speaks to one address and nothing else, so that no answer and no definition can lead it elsewhere: redirects are errors, and
//! no proxy is looked for. Every wait has a deadline and every answer a size. What goes out and comes in lies in memory that is wiped.

mod address;
mod certificate;
mod client;
mod connection;
mod failure;
mod pool;
mod setback;
mod trust;
mod waits;

pub use address::{Address, AddressError};
pub use certificate::{ClientCertificate, ClientCertificateError};
pub use client::{Answer, Call, Client, Limits, Method, Unanswered, ahead};
pub use failure::{CallError, TlsReason, tls_reason};
pub use setback::Setback;
pub use trust::{SYSTEM_AUTHORITIES, Trust, TrustError};
