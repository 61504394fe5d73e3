//! One function per parser: any bytes go in, and what must hold of the answer is asserted. Called by `tests/fuzz.rs` on stable and by the
//! cargo-fuzz targets in `fuzz/`.

mod kernel;
mod logs;
mod program;
mod stream;
mod text;

/// One parser with what a fuzzer needs to know of it.
pub struct Target {
    /// Its name, as `fuzz/` and the test print it.
    pub name: &'static str,
    /// Of the inputs of a long run, it is given one in so many: what takes long must end as well.
    pub share: u64,
    /// Samples of what it accepts.
    pub samples: fn() -> Vec<Vec<u8>>,
    /// Words that its grammar is made of.
    pub words: &'static [&'static str],
    /// Feeds it, and says whether it accepted the bytes; panics where a property does not hold.
    pub run: fn(&[u8]) -> bool,
}

/// Every parser that is covered.
pub const TARGETS: &[Target] = &[
    text::ASK,
    text::NAME,
    text::SELECTOR,
    text::TARGET,
    text::DURATION,
    text::TIME,
    text::CONFIG,
    text::SECRETS,
    text::IDENTITIES,
    text::POLICY,
    text::PROC_STATUS,
    text::PROC_STAT,
    kernel::PROC_CGROUP,
    kernel::MOUNTINFO,
    kernel::MESSAGES,
    stream::HTTP,
    stream::ANSWER,
    stream::VAULT_VALUE,
    program::ANSWER,
    text::UNIT_ADDRESS,
    logs::STORE,
    logs::ATTESTOR_REQUEST,
    logs::ATTESTOR_ANSWER,
    logs::HEAD,
    logs::JOURNAL,
    logs::AUDIT,
];

/// The parser of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

fn samples(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}
