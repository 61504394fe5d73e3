//! Stand-ins for tests, behind the feature `testing`: state machines made of real parts that can be told to fail.

mod recording;

pub use recording::{Call, Mishap, RecordingEngine};
