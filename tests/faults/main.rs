//! The real daemon while the kernel fails it: system calls that return errors (by strace(1)), a full disk, clocks that jump.
//!
//! Runs as root; elsewhere each test says loudly that it is skipped.

#![allow(clippy::disallowed_methods, reason = "tests wait and measure")]

#[path = "../support/host.rs"]
mod host;
#[path = "../support/small_disk.rs"]
#[allow(dead_code, reason = "another suite uses the rest")]
mod small_disk;

mod calls;
mod cases;
mod clients;
mod clocks;
mod disk;
mod lives;
mod overdue;
mod rotation;
mod shared;
mod site;
mod tracer;
mod units;
