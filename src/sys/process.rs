//! This process itself: what others may see of it, who it runs as, and what its service manager passed and wants to hear.

use nix::unistd::{Group, User, geteuid};
use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
    os::unix::net::UnixListener,
    time::Duration,
};

/// Effective uid.
pub fn euid() -> u32 {
    geteuid().as_raw()
}

/// Whether this process may look at every other one (`CAP_SYS_PTRACE`, bit 19 of the effective set, capabilities(7)).
pub fn may_look_at_all() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:")).and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    set.is_some_and(|set| set >> 19 & 1 == 1)
}

/// Whether this process is in a user namespace that does not hold all users (user_namespaces(7)): there others are shown as nobody.
pub fn has_own_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

/// The uid of a user name, by the host's name service. May block: for start and load only.
pub fn uid_of(user: &str) -> Option<u32> {
    User::from_name(user).ok().flatten().map(|user| user.uid.as_raw())
}

/// The gid of a group name, by the host's name service. May block: for start and load only.
pub fn gid_of(group: &str) -> Option<u32> {
    Group::from_name(group).ok().flatten().map(|group| group.gid.as_raw())
}

/// Uids of local accounts that a person can log in with (passwd(5), a shell that lets them in).
pub fn login_uids() -> Vec<u32> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let shell = fields.get(6)?;
            let refuses = shell.ends_with("/nologin") || shell.ends_with("/false") || shell.ends_with("/sync");
            (!refuses).then(|| fields.get(2)?.parse().ok())?
        })
        .collect()
}

/// Sleeps. For command-line tools that wait for something outside, and for the attestor's watchdog thread; nothing in the daemon does.
#[allow(clippy::disallowed_methods, reason = "this is where waiting lives")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Makes room for descriptors at once, up to this many or what the limit allows. For a process of one thread: with several, the kernel waits
/// for a grace period each time its table doubles (`expand_fdtable` in fs/file.c), which adds up while thousands of holders are bound.
pub fn make_room_for_descriptors(most: u64) {
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    let Some(last) = most.min(limit).checked_sub(1).and_then(|last| i32::try_from(last).ok()) else { return };
    // Standard input may be closed; then the table grows as it must.
    let stdin = std::io::stdin();
    if let Ok(fd) = nix::fcntl::fcntl(&stdin, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(last)) {
        // SAFETY: a new descriptor that nobody else owns.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

/// Listening sockets that systemd passed, with their `FileDescriptorName=`. Takes them over; call once.
pub fn passed_listeners() -> io::Result<Vec<(String, UnixListener)>> {
    let passed = sd_notify::listen_fds_with_names()?;
    // SAFETY: systemd passed these descriptors to this very process (the crate compared LISTEN_PID), and nobody else takes them.
    Ok(passed.map(|(fd, name)| (name, UnixListener::from(unsafe { OwnedFd::from_raw_fd(fd) }))).collect())
}

/// Tells the service manager, if there is one. What it does not hear is not our fault.
fn tell(states: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// Ready to serve.
pub fn notify_ready(status: &str) {
    tell(&[sd_notify::NotifyState::Ready, sd_notify::NotifyState::Status(status)]);
}

/// Reading the files again, and done.
pub fn notify_reloading() {
    if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
        tell(&[sd_notify::NotifyState::Reloading, now]);
    }
}

/// On the way out.
pub fn notify_stopping() {
    tell(&[sd_notify::NotifyState::Stopping]);
}

/// Alive.
pub fn notify_watchdog() {
    tell(&[sd_notify::NotifyState::Watchdog]);
}

/// How often the service manager wants to hear that we are alive.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
}
