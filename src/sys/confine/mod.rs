//! What this process gives up once it has read its configuration, so that whoever takes it over has little: capabilities, memory that can
//! be made executable, system calls that nothing here needs, files and ports that are not ours.
//!
//! `harden` comes first, before anything secret is read; `confine` follows while there is one thread, so that every later one inherits
//! all of it. Nothing here can be undone, and no configuration switches it off.

mod files;
mod filter;
mod libraries;
mod privileges;
mod syscalls;

use std::{io, path::PathBuf};

pub use privileges::harden;

/// What this process is for, which decides what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Keeps the secrets and decides; somebody else looks at processes. No capability, its own files only.
    Core,
    /// Looks at processes; no secrets, no network, no file that it could write.
    Attestor,
    /// Both in one process. Landlock would keep it from looking at other processes, so there is none.
    Single,
}

/// The files and ports that the role needs beside what every process of its kind does.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Folders in which files are made, changed and removed.
    pub write: Vec<PathBuf>,
    /// Folders that are read, with all below.
    pub read: Vec<PathBuf>,
    /// TCP ports that are connected to. Without any, no internet socket can be made at all.
    pub ports: Vec<u16>,
}

/// What could not be had here, in sentences for `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortfall(pub Vec<String>);

/// Gives up what the role does not need. Call it once, before a second thread exists.
///
/// What this kernel or the container around does not offer is named in the result; any other failure is an error, and the process must
/// not go on.
pub fn confine(role: Role, reach: &Reach) -> io::Result<Shortfall> {
    let mut lacking = Vec::new();
    // Made while the limits are as the service manager set them.
    lacking.extend(super::vault_shortfall().filter(|_| role != Role::Attestor));
    // Whatever the C library would load later is loaded now: afterwards no memory becomes executable.
    libraries::preload();
    if !crate::mutation!("capabilities") {
        privileges::drop_capabilities(role)?;
    }
    if !crate::mutation!("write-execute")
        && let Some(why) = privileges::deny_write_execute()?
    {
        lacking.push(why);
    }
    if role == Role::Core
        && !crate::mutation!("landlock")
        && let Some(why) = files::restrict(reach)?
    {
        lacking.push(why);
    }
    if !crate::mutation!("seccomp")
        && let Some(why) = filter::install(role, !reach.ports.is_empty())?
    {
        lacking.push(why);
    }
    Ok(Shortfall(lacking))
}
