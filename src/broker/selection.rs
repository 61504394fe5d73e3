//! Which leases an operator means.
//!
//! A pid is a number that the next process may have: it means the process that has it now, as long as there is one, and never one of another
//! boot. What a unit or a container holds is found by its group, and by the process that asked for it.

use super::Broker;
use crate::{
    attest::Gathered,
    lease::{Holder, Lease},
    model::{Code, HolderKind, IdentityName, LeaseId, Line, Refusal, SecretName},
};
use std::{collections::HashSet, fmt, io, sync::Arc};

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
    /// The processes that are meant, by number and start.
    processes: HashSet<(u32, u64)>,
}

impl Broker {
    /// Looks at the processes behind these leases, as far as the selection is about processes. The attestor sees them: the daemon itself may not.
    pub(super) async fn choose<'a>(&'a self, selection: &'a Selection, leases: &[Arc<Lease>]) -> Result<Chosen<'a>, Refusal> {
        let mut chosen = Chosen { selection, boot: &self.settings.boot, processes: HashSet::new() };
        let mut seen = HashSet::new();
        for holder in leases.iter().map(|lease| &lease.holder) {
            let number = (holder.pid, holder.start);
            if !chosen.may_have(holder) || !seen.insert(number) {
                continue;
            }
            let now = self.attestor.glance(holder.pid).await.map_err(|error| unseen(holder, &error))?;
            if chosen.means(holder, now) {
                chosen.processes.insert(number);
            }
        }
        Ok(chosen)
    }
}

/// What cannot be looked at may be what is meant: nothing is ended by halves.
fn unseen(holder: &Holder, error: &io::Error) -> Refusal {
    let text = format!("Process {}, which holds leases, cannot be looked at. Name leases, identities or secrets.", holder.pid);
    Refusal::new(Code::ATTESTATION_FAILED).message(text).detail(error.to_string())
}

impl Chosen<'_> {
    /// Whether it is meant.
    pub(super) fn has(&self, lease: &Lease) -> bool {
        let holder = &lease.holder;
        let has_process = || *holder.boot == *self.boot && self.processes.contains(&(holder.pid, holder.start));
        match self.selection {
            Selection::Lease(id) => lease.id == *id,
            Selection::Process(_) | Selection::Tree(_) => has_process(),
            Selection::Unit(unit) => holds_in(holder, unit.as_str()) || !is_group(holder) && has_process(),
            Selection::Identity(name) => lease.identity == *name,
            Selection::Secret(name) => lease.secret == *name,
        }
    }

    /// Whether its process has to be looked at.
    fn may_have(&self, holder: &Holder) -> bool {
        let asked = match self.selection {
            Selection::Process(pid) => holder.pid == *pid,
            Selection::Tree(_) => true,
            // What a unit or a container holds is told by its group.
            Selection::Unit(_) => !is_group(holder),
            Selection::Lease(_) | Selection::Identity(_) | Selection::Secret(_) => false,
        };
        asked && *holder.boot == *self.boot
    }

    /// Whether the process is meant that held, by what has its number now.
    fn means(&self, holder: &Holder, now: Option<Gathered>) -> bool {
        if now.as_ref().is_some_and(|now| now.process.start != holder.start) {
            return false;
        }
        match (self.selection, now) {
            (Selection::Process(pid), _) => holder.pid == *pid,
            (Selection::Tree(root), Some(now)) => holder.pid == *root || now.ancestors.iter().any(|above| above.pid == *root),
            // Nobody has the number: who had it last is meant by it.
            (Selection::Tree(root), None) => holder.pid == *root,
            (Selection::Unit(unit), Some(now)) => now.process.cgroup.is_some_and(|path| is_below(&path, unit.as_str())),
            _ => false,
        }
    }
}

fn is_group(holder: &Holder) -> bool {
    matches!(holder.kind, HolderKind::Unit | HolderKind::Container)
}

fn holds_in(holder: &Holder, unit: &str) -> bool {
    // Paths of holders are kept escaped.
    let escaped = crate::sys::printable_group(unit.as_bytes());
    holder.cgroup.as_ref().is_some_and(|group| group.path.split('/').any(|part| part == escaped))
}

fn is_below(path: &[u8], unit: &str) -> bool {
    path.split(|byte| *byte == b'/').any(|part| part == unit.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::ProcessEvidence;

    fn holder(pid: u32, start: u64, kind: HolderKind, path: &str) -> Holder {
        let cgroup = Some(crate::lease::HolderGroup { path: path.into(), id: 1, invocation: None });
        Holder { kind, pid, start, inode: None, handle: None, boot: "boot".into(), cgroup, exe: None, uid: 0 }
    }

    /// What has the number 7 now: began at 70, runs in `orders.service` below the processes 5 and 2.
    fn now() -> Option<Gathered> {
        let process = |pid, start| ProcessEvidence { pid, start, ..ProcessEvidence::default() };
        let own = ProcessEvidence { cgroup: Some(b"/system.slice/orders.service/worker".to_vec()), ..process(7, 70) };
        Some(Gathered { process: own, ancestors: vec![process(5, 50), process(2, 20)], ancestors_in_full: false })
    }

    #[test]
    fn a_number_means_the_process_that_has_it_now() {
        let unit = |name: &str| Selection::Unit(Line::parse(name).unwrap());
        for (selection, own, later, dead) in [
            (Selection::Process(7), true, false, true),
            (Selection::Process(5), false, false, false),
            (Selection::Tree(7), true, false, true),
            (Selection::Tree(5), true, false, false),
            (Selection::Tree(2), true, false, false),
            (Selection::Tree(3), false, false, false),
            (unit("orders.service"), true, false, false),
            (unit("worker"), true, false, false),
            (unit("other.service"), false, false, false),
        ] {
            let chosen = Chosen { selection: &selection, boot: "boot", processes: HashSet::new() };
            let of = |start, now| chosen.means(&holder(7, start, HolderKind::Process, "/"), now);
            assert_eq!((of(70, now()), of(69, now()), of(70, None)), (own, later, dead), "{selection}");
        }
        let unit = unit("orders.service");
        let chosen = Chosen { selection: &unit, boot: "another", processes: HashSet::new() };
        assert!(!chosen.may_have(&holder(7, 70, HolderKind::Process, "/")), "of another boot");
        assert!(holds_in(&holder(7, 70, HolderKind::Unit, "/system.slice/orders.service"), "orders.service"));
        assert!(!holds_in(&holder(7, 70, HolderKind::Unit, "/system.slice/other.service"), "orders.service"));
    }
}
