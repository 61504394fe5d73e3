//! Starting a program apart from its neighbours: other programs of the same user neither read its memory nor speak in its name.
//!
//! `clav-launch NAME` reads root's manifest (`manifest`), asks the daemon for a group that nobody had before (`protocol`), and becomes the
//! program with it (`run`; the steps are `sys::launch`). The kernel keeps processes of another group out, and the daemon knows the process
//! by what pins it: so it is `launch:id:NAME` (ADR 7).
//!
//! **Contract.** The launcher is installed as root's with the one capability `cap_setgid`. Nothing that its caller controls decides
//! anything: manifest, program and tree are root's alone, environment and descriptors are not passed on, arguments only where the manifest
//! says so. The daemon believes nobody else in this conversation and is believed in one thing only, a number within the launches' range.

mod manifest;
mod protocol;
mod run;

pub use manifest::{Line, Manifest, ManifestError};
pub use protocol::{Answer, LaunchName, MAX_MESSAGE, Question};
pub use run::main;

/// What of the launches' range is somebody's already, given `/etc/subgid` and `/etc/group`: a user who may use such a group could give it
/// to a program of theirs. Lines that cannot be read are no business of ours.
pub fn taken(subgid: &str, group: &str) -> Option<String> {
    let range = crate::sys::LAUNCH_GIDS;
    for line in subgid.lines() {
        let mut parts = line.trim().split(':');
        let (Some(owner), Some(Ok(first)), Some(Ok(count))) =
            (parts.next(), parts.next().map(str::parse::<u64>), parts.next().map(str::parse::<u64>))
        else {
            continue;
        };
        if count > 0 && first <= u64::from(*range.end()) && first.saturating_add(count - 1) >= u64::from(*range.start()) {
            return Some(format!("/etc/subgid gives {owner} the groups from {first}"));
        }
    }
    group.lines().find_map(|line| {
        let mut parts = line.trim().split(':');
        let (name, gid) = (parts.next()?, parts.nth(1)?.parse().ok()?);
        range.contains(&gid).then(|| format!("the group {name} is {gid}"))
    })
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn a_range_that_reaches_into_the_launches_is_found() {
        let group = "root:x:0:\nusers:x:100:a,b\n";
        assert_eq!(taken("alice:100000:65536\n\nodd\nbob:1:x\n", group), None);
        assert!(taken("alice:2009999999:2\n", group).unwrap().contains("alice"));
        assert!(taken("alice:0:4294967295\n", group).is_some());
        assert!(taken("alice:2139999999:1\n", group).is_some());
        assert_eq!(taken("alice:2009999999:1\nbob:2140000000:9\ncarol:2010000000:0\n", group), None);
        assert!(taken("", "root:x:0:\nodd:x:2010000007:\n").unwrap().contains("odd"));
    }
}
