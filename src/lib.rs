//! claviger, the keeper of a host's keys.

pub mod app;
pub mod approval;
pub mod attest;
pub mod audit;
pub mod broker;
pub mod cli;
pub mod client;
pub mod config;
pub mod digest;
pub mod engine;
pub mod intent;
pub mod launch;
pub mod lease;
pub mod model;
pub mod outbound;
pub mod policy;
pub mod server;
pub mod sys;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wire;
