//! claviger, the keeper of a host's keys.

pub mod approval;
pub mod attest;
pub mod config;

pub mod digest;
pub mod engine;
pub mod intent;
pub mod lease;
pub mod model;
pub mod policy;
pub mod sys;
#[cfg(feature = "testing")]
pub mod testing;
pub mod wire;
