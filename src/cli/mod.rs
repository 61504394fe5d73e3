//! The verbs of `clav`.

pub mod demo;
