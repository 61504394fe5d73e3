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

/// Whether a test build dies at the next pass of that failpoint; `false` in every other build. Of two things that are done side by side,
/// the one that is not done then asks before either is begun.
#[macro_export]
macro_rules! dies_next {
    ($name:literal) => {{
        #[cfg(mutations)]
        {
            $crate::sys::failpoint_is_next($name)
        }
        #[cfg(not(mutations))]
        {
            false
        }
    }};
}

/// The place where this process was started to die, and how many passes are left: `NAME:COUNT`.
#[cfg(mutations)]
fn chosen() -> Option<&'static (String, std::sync::atomic::AtomicI64)> {
    static CHOSEN: std::sync::OnceLock<Option<(String, std::sync::atomic::AtomicI64)>> = std::sync::OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let text = std::env::var("CLAVIGER_FAILPOINT").ok()?;
        let (name, count) = text.split_once(':')?;
        Some((name.to_owned(), count.parse::<i64>().ok()?.into()))
    });
    chosen.as_ref()
}

/// Ends the process as `kill -9` would, when it was started to die here and this is the pass.
#[cfg(mutations)]
pub fn reached(name: &str) {
    if let Some((chosen, left)) = chosen()
        && chosen == name
        && left.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1
    {
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
    }
}

/// Whether the next pass of that place is the one to die at.
#[cfg(mutations)]
pub fn is_next(name: &str) -> bool {
    chosen().is_some_and(|(chosen, left)| chosen == name && left.load(std::sync::atomic::Ordering::SeqCst) == 1)
}

/// Whether this process was started with that defence taken out; several are separated by commas.
#[cfg(mutations)]
pub fn active(name: &str) -> bool {
    use std::sync::OnceLock;
    static CHOSEN: OnceLock<Option<String>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| std::env::var("CLAVIGER_MUTATION").ok());
    chosen.as_deref().is_some_and(|chosen| chosen.split(',').any(|one| one == name))
}
