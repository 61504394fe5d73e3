//! Files, ports and sockets that are not ours (landlock(7)): as much as this kernel can enforce.

use super::Reach;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::{io, path::Path};

/// What is asked of the kernel: files since Linux 5.13, TCP since 6.7, devices since 6.10, abstract sockets and signals since 6.12.
const WANTED: ABI = ABI::V6;

/// What every core reads. Whole folders where files are exchanged by renaming: a rule is about an inode, and a new user makes a new
/// `/etc/passwd`. What in them is secret belongs to root, and the daemon does not run as root.
const READ: &[&str] = &[
    // Users and groups, at load and when a secret's holders are looked up; hosts, name servers, time zone, certificates.
    "/etc",
    "/run/systemd/userdb",
    "/run/systemd/resolve",
    "/var/lib/sss/mc",
    "/usr/share/zoneinfo",
    // Units and containers that hold leases are watched through their control groups.
    "/sys/fs/cgroup",
    // Which boot this is, and what this process may.
    "/proc/sys/kernel/random",
    "/proc/self",
];

/// Keeps to these for good. The sentence if this kernel enforces less than all of it.
pub(super) fn restrict(reach: &Reach) -> io::Result<Option<String>> {
    match rules(reach) {
        Ok(RulesetStatus::FullyEnforced) => Ok(None),
        Ok(RulesetStatus::PartiallyEnforced) => Ok(Some(
            "this kernel enforces a part of Landlock only (Linux 6.12 has all of it): ports, abstract sockets or signals of others are not kept out".to_owned(),
        )),
        Ok(RulesetStatus::NotEnforced) => {
            Ok(Some("this kernel has no Landlock, or it is switched off: files are kept out by their modes alone".to_owned()))
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

fn rules(reach: &Reach) -> Result<RulesetStatus, RulesetError> {
    let all = AccessFs::from_all(WANTED);
    let write = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(all)?
        .handle_access(AccessNet::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?
        .create()?;
    let read_too = reach.read.iter().map(|path| path.as_path()).chain(READ.iter().map(Path::new));
    let beneath = reach.write.iter().map(|path| (path.as_path(), write)).chain(read_too.map(|path| (path, read)));
    for (path, access) in beneath {
        // What is not there needs no rule; whoever makes it later starts the daemon again.
        let Ok(folder) = PathFd::new(path) else { continue };
        ruleset = ruleset.add_rule(PathBeneath::new(folder, within(path, access)))?;
    }
    for port in &reach.ports {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// The rights that a file can have, if it is one.
fn within(path: &Path, access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) }
}
