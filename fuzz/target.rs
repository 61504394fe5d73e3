//! One parser under libFuzzer: the one that this binary is named after.

#![no_main]

use claviger::testing::fuzz::target;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let target = target(env!("CARGO_BIN_NAME")).expect("each target is named after a parser");
    (target.run)(bytes);
});
