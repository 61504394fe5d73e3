//! Which leases an operator means.
//!
//! A pid is a number that the next process may have: it means the process that has it now, as long as there is one, and never one of another
//! boot. Units and containers hold by their control group, whoever asked for them.

use crate::{
    lease::{Holder, Lease},
    model::{HolderKind, IdentityName, LeaseId, Line, SecretName},
    sys::ProcDir,
};
use std::{collections::HashMap, fmt};

/// Which leases an operator means.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// One.
    Lease(LeaseId),
    /// Those held by a process.
    Process(u32),
    /// Those held by a process and its descendants.
    Tree(u32),
    /// Those held within a systemd unit.
    Unit(Line),
    /// Those of an identity.
    Identity(IdentityName),
    /// Those of a secret.
    Secret(SecretName),
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Selection::Lease(id) => write!(f, "{id}"),
            Selection::Process(pid) => write!(f, "held by process {pid}"),
            Selection::Tree(pid) => write!(f, "held by process {pid} or below it"),
            // The one selection that is free text.
            Selection::Unit(unit) => write!(f, "held in the unit {:?}", unit.as_str()),
            Selection::Identity(name) => write!(f, "of identity {name}"),
            Selection::Secret(name) => write!(f, "of secret {name}"),
        }
    }
}

/// A selection with what it needs to know of the processes of this moment.
pub(super) struct Chosen<'a> {
    selection: &'a Selection,
    boot: &'a str,
    /// The processes that are meant, each with its start where it lives.
    processes: HashMap<u32, Option<u64>>,
}

impl<'a> Chosen<'a> {
    /// Looks at the processes of this boot.
    pub(super) fn now(selection: &'a Selection, boot: &'a str) -> Self {
        let processes = match selection {
            Selection::Process(pid) => HashMap::from([(*pid, start(*pid))]),
            Selection::Tree(root) => below(*root),
            _ => HashMap::new(),
        };
        Self { selection, boot, processes }
    }

    /// Whether it is meant.
    pub(super) fn has(&self, lease: &Lease) -> bool {
        match self.selection {
            Selection::Lease(id) => lease.id == *id,
            Selection::Process(_) | Selection::Tree(_) => self.has_process(&lease.holder),
            Selection::Unit(unit) => self.is_within(&lease.holder, unit.as_str()),
            Selection::Identity(name) => lease.identity == *name,
            Selection::Secret(name) => lease.secret == *name,
        }
    }

    fn has_process(&self, holder: &Holder) -> bool {
        let Some(now) = self.processes.get(&holder.pid) else { return false };
        self.is_process_of_this_boot(holder) && now.is_none_or(|start| start == holder.start)
    }

    fn is_within(&self, holder: &Holder, unit: &str) -> bool {
        // Paths of holders are kept escaped.
        let escaped = crate::sys::printable_group(unit.as_bytes());
        let held = holder.cgroup.as_ref().is_some_and(|group| group.path.split('/').any(|part| part == escaped));
        held || self.is_process_of_this_boot(holder) && start(holder.pid) == Some(holder.start) && is_pid_in(holder.pid, unit)
    }

    fn is_process_of_this_boot(&self, holder: &Holder) -> bool {
        matches!(holder.kind, HolderKind::Process | HolderKind::Ancestor) && *holder.boot == *self.boot
    }
}

/// When the process that has this number began, in clock ticks since boot.
fn start(pid: u32) -> Option<u64> {
    ProcDir::open(pid).and_then(|dir| dir.stat()).ok().map(|stat| stat.start)
}

fn is_pid_in(pid: u32, unit: &str) -> bool {
    let path = ProcDir::open(pid).and_then(|dir| dir.cgroup()).ok().flatten();
    path.is_some_and(|path| path.split(|b| *b == b'/').any(|part| part == unit.as_bytes()))
}

/// A process and every descendant, from one look at all of `/proc`.
fn below(root: u32) -> HashMap<u32, Option<u64>> {
    let (mut children, mut starts) = (HashMap::<u32, Vec<u32>>::new(), HashMap::new());
    for pid in crate::sys::all_pids() {
        if let Ok(stat) = ProcDir::open(pid).and_then(|dir| dir.stat()) {
            children.entry(stat.ppid).or_default().push(pid);
            starts.insert(pid, stat.start);
        }
    }
    let mut found = HashMap::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        if found.insert(pid, starts.get(&pid).copied()).is_none() {
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_the_process_that_has_it_now() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (us, theirs) = (std::process::id(), child.id());
        let holder = |pid, start, kind, boot: &str| Holder {
            kind,
            pid,
            start,
            inode: None,
            handle: None,
            boot: boot.into(),
            cgroup: None,
            exe: None,
            uid: 0,
        };
        let (ours, began) = (start(us).unwrap(), start(theirs).unwrap());
        let (of_us, below_us) = (Selection::Process(us), Selection::Tree(us));
        let (one, tree) = (Chosen::now(&of_us, "boot"), Chosen::now(&below_us, "boot"));
        for (pid, start, kind, boot, by_pid, by_tree) in [
            (us, ours, HolderKind::Process, "boot", true, true),
            (us, ours, HolderKind::Ancestor, "boot", true, true),
            (theirs, began, HolderKind::Process, "boot", false, true),
            (us, ours + 1, HolderKind::Process, "boot", false, false),
            (theirs, began + 1, HolderKind::Process, "boot", false, false),
            (us, ours, HolderKind::Process, "another", false, false),
            (us, ours, HolderKind::Unit, "boot", false, false),
        ] {
            let holder = holder(pid, start, kind, boot);
            assert_eq!((one.has_process(&holder), tree.has_process(&holder)), (by_pid, by_tree), "{holder:?}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // Nobody has the number: who had it is meant.
        let of_them = Selection::Process(theirs);
        assert!(Chosen::now(&of_them, "boot").has_process(&holder(theirs, began, HolderKind::Process, "boot")));
        let unit = Selection::Unit(Line::parse("orders.service").unwrap());
        let chosen = Chosen::now(&unit, "boot");
        let within = |path: &str| Holder {
            cgroup: Some(crate::lease::HolderGroup { path: path.into(), id: 1, invocation: None }),
            ..holder(us, ours, HolderKind::Unit, "another")
        };
        assert!(chosen.is_within(&within("/system.slice/orders.service"), "orders.service"));
        assert!(!chosen.is_within(&within("/system.slice/other.service"), "orders.service"));
    }
}
