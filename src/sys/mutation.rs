//! Defences that a test build can take out one at a time, to prove that a test notices.
//!
//! Only a build with `--cfg mutations` knows how; in every other build the macro is the constant `false` and its name is not in the binary.

/// Whether the defence of that name is taken out.
#[macro_export]
macro_rules! mutation {
    ($name:literal) => {{
        #[cfg(mutations)]
        {
            $crate::sys::mutation_active($name)
        }
        #[cfg(not(mutations))]
        {
            false
        }
    }};
}

/// The one mutation this process was started with.
#[cfg(mutations)]
pub fn active(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("CLAVIGER_MUTATION").ok()).as_deref() == Some(name)
}
