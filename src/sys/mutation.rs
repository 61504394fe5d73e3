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

/// A place where a test build can be killed, to prove that nothing is lost there. Nothing in every other build.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(mutations)]
        $crate::sys::failpoint_reached($name);
    };
}

/// Ends the process as `kill -9` would, when it was started to die here: after as many passes as `NAME:COUNT` says.
#[cfg(mutations)]
pub fn reached(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    };
    static CHOSEN: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("CLAVIGER_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), AtomicI64::new(count.parse().ok()?)))
    });
    if let Some((chosen, left)) = chosen
        && chosen == name
        && left.fetch_sub(1, Ordering::SeqCst) == 1
    {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Whether this process was started with that defence taken out; several are separated by commas.
#[cfg(mutations)]
pub fn active(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("CLAVIGER_MUTATION").ok());
    chosen.as_deref().is_some_and(|chosen| chosen.split(',').any(|one| one == name))
}
