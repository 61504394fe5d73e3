//! Stand-ins for tests, behind the feature `testing`: state machines made of real parts that can be told to fail, and one
//! function per parser that a fuzzer can call.

pub mod fuzz;
mod recording;

pub use recording::{Call, Mishap, RecordingEngine};
