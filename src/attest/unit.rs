//! A unit that the service manager is about to start: PID 1's word for which it is, believed where the kernel says that it is PID 1's word.
//!
//! systemd asks for a credential (`LoadCredential=NAME:/SOCKET`) from a child of its own, which lies in the unit's control group already
//! and has not become the unit's program yet (`sd-mkdcreds`, systemd 252 and later). So the unit is known, and neither its user nor its program.

use super::{
    attestor::{Attested, Attestor, Peer},
    evidence::{ExeEvidence, ProcessEvidence},
    facts::Facts,
    identity::{Candidate, Roll},
    judge::judge,
};
use crate::model::{Assurance, Code, Refusal, Selector};
use std::io;

/// A unit that PID 1 starts, with what the kernel said about the child that asks for it. Only [`Attestor::starting_unit`] makes one.
pub struct StartingUnit {
    facts: Facts,
}

/// A child of PID 1 and one of its own: nothing of systemd's asks from further below.
const GENERATIONS: usize = 2;

impl Attestor {
    /// Whether this peer is PID 1 starting the unit of that name, as the peer's address says it is. The socket lets only root connect, so a
    /// number that was used again between connecting and being looked at would be root's doing as well: freshness is not asked for.
    pub async fn starting_unit(&self, peer: &Peer, unit: &str, roll: &Roll) -> Result<StartingUnit, Refusal> {
        let refused = |why: &str| Refusal::new(Code::NOT_SERVICE_MANAGER).detail(why);
        let seen = peer.own();
        let process = &seen.evidence.process;
        if peer.uid() != 0 || process.uids != [0; 4] {
            return Err(refused("the peer is not root"));
        }
        let unseen = |error: io::Error| Refusal::new(Code::ATTESTATION_FAILED).detail(format!("looking at PID 1: {error}"));
        let manager = self.by_pid(1, roll).await.map_err(unseen)?.evidence.process;
        let program = manager.exe.as_ref().filter(|exe| is_managers(exe)).ok_or_else(|| refused("PID 1 is not systemd"))?;
        let same = process.exe.as_ref().is_some_and(|exe| runs_managers(exe, program)) || crate::mutation!("credentials-program");
        if !same || process.tracer != 0 {
            return Err(refused("the peer runs another program than PID 1, or is traced"));
        }
        if !descends(&seen.evidence.ancestors, process) && !crate::mutation!("credentials-ancestry") {
            return Err(refused("between the peer and PID 1 there is something else than systemd's own child in the same control group"));
        }
        let facts = judge(&crate::attest::Evidence { pinned: true, ..seen.evidence.clone() })?;
        let named = facts.unit.as_ref().is_some_and(|own| own.system && own.name == crate::sys::printable(unit.as_bytes()));
        if !named && !crate::mutation!("credentials-unit") {
            let own = facts.unit.as_ref().map_or("no unit", |own| own.name.as_str());
            return Err(refused(&format!("the address names another unit than the one that the peer is in ({own})")));
        }
        peer.believe();
        Ok(StartingUnit { facts })
    }

    /// Who the unit is under this registry. Of a unit that has not begun nothing but its name is a fact, so a row that asks for a user or a
    /// program is not matched, nor is any row that a process of the unit's could be.
    pub fn examine_unit(&self, unit: &StartingUnit, roll: &Roll) -> Attested {
        let name = unit.facts.unit.as_ref().and_then(|unit| Selector::of("systemd:loads", &unit.name));
        let selectors: Vec<Selector> = name.into_iter().collect();
        let candidate = Candidate { facts: unit.facts.clone(), selectors: selectors.into() };
        let workload = roll.identify_unit(&candidate);
        let of_agent = roll.is_agent(&candidate);
        Attested { candidate, workload, assurance: Assurance::Program, of_agent }
    }
}

/// systemd, where the host has it and only root may change it.
fn is_managers(exe: &ExeEvidence) -> bool {
    exe.root_owned && !exe.deleted && exe.path.ends_with(b"/systemd")
}

/// The manager's own program, or from systemd 254 on the one beside it that it starts units by.
fn runs_managers(exe: &ExeEvidence, manager: &ExeEvidence) -> bool {
    let beside = [manager.path.as_slice(), b"-executor"].concat();
    exe.root_owned && !exe.deleted && (exe.id.same_file(&manager.id) || exe.path == beside)
}

/// Whether all that stands between a process and PID 1 is root's, in the same control group, and runs the same program. Where ancestors
/// are not read closely, that is the program's name.
fn descends(ancestors: &[ProcessEvidence], process: &ProcessEvidence) -> bool {
    let path = |process: &ProcessEvidence| process.exe.as_ref().map(|exe| exe.path.clone());
    ancestors.len() < GENERATIONS
        && ancestors.iter().all(|above| above.uids[1] == 0 && above.cgroup == process.cgroup && path(above) == path(process))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::FileId;

    fn exe(path: &str, ino: u64) -> ExeEvidence {
        let mut id = FileId::default();
        id.ino = ino;
        ExeEvidence { path: path.into(), id, verified: true, root_owned: true, trusted_fs: true, ..ExeEvidence::default() }
    }

    fn process(path: &str, cgroup: &str) -> ProcessEvidence {
        ProcessEvidence { exe: Some(exe(path, 1)), cgroup: Some(cgroup.into()), ..ProcessEvidence::default() }
    }

    #[test]
    fn only_the_managers_own_program_counts() {
        let manager = exe("/usr/lib/systemd/systemd", 7);
        assert!(is_managers(&manager) && runs_managers(&manager, &manager));
        assert!(runs_managers(&exe("/usr/lib/systemd/systemd-executor", 8), &manager));
        for other in [exe("/usr/lib/systemd/systemd", 9), exe("/tmp/systemd-executor", 8), exe("/usr/bin/python3", 8)] {
            assert!(!runs_managers(&other, &manager), "{:?}", other.path);
        }
        assert!(!is_managers(&exe("/usr/bin/tini", 7)));
        for weak in [ExeEvidence { root_owned: false, ..manager.clone() }, ExeEvidence { deleted: true, ..manager.clone() }] {
            assert!(!is_managers(&weak) && !runs_managers(&weak, &manager));
        }
    }

    #[test]
    fn nothing_stands_between_it_and_pid_1_but_the_managers_child() {
        let asking = process("/usr/lib/systemd/systemd", "/system.slice/a.service");
        assert!(descends(&[], &asking) && descends(std::slice::from_ref(&asking), &asking));
        let user = ProcessEvidence { uids: [1000; 4], ..asking.clone() };
        for other in [process("/bin/sh", "/system.slice/a.service"), process("/usr/lib/systemd/systemd", "/system.slice/b.service"), user] {
            assert!(!descends(&[other], &asking));
        }
        assert!(!descends(&[asking.clone(), asking.clone()], &asking), "further below than systemd asks from");
    }
}
