//! The real `clav` against a real `clavigerd`: every verb, right and wrong, with its exit code.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/daemon.rs"]
mod daemon;

mod audit;
mod demo;
mod host;
mod keys;
mod mistakes;
mod operators;
mod remedy;
mod rotated;
mod workloads;

use daemon::{CANARY, Daemon, Options, text};
use std::process::Output;

fn sample() -> Daemon {
    Daemon::start(&Options::default()).with_values()
}

#[track_caller]
fn exits(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{}", text(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn json(output: &Output) -> serde_json::Value {
    serde_json::from_str(&exits(output, 0)).unwrap_or_else(|error| panic!("{error}: {}", text(output)))
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
