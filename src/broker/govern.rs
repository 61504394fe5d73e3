//! Policy, secrets and identities as one bundle with one generation; replaced as a whole or not at all.

use super::{Broker, Fault, Stop, record};
use crate::{
    attest::Roll,
    audit::{Event, Kind, Need, Outcome},
    intent::Intent,
    model::{Catalogue, EndReason, HolderKind, WallTime},
    policy::{Bundle, Decision, Evidence},
};
use std::sync::{Arc, PoisonError};

/// What decides, in one piece.
pub struct Governance {
    /// Identities.
    pub roll: Roll,
    /// Secrets.
    pub catalogue: Catalogue,
    /// Policy.
    pub bundle: Bundle,
    /// Counts loads in this run of the daemon.
    pub generation: u64,
    /// When it was loaded.
    pub since: WallTime,
    /// What was worth knowing about it.
    pub warnings: Vec<String>,
}

/// Why files do not make a bundle, each with file and line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadProblems(pub Vec<String>);

/// Reads the files and makes a bundle of them with this generation at this time.
pub type Loader = Box<dyn Fn(u64, WallTime) -> Result<Governance, LoadProblems> + Send + Sync>;

impl Broker {
    /// What decides now.
    pub fn governance(&self) -> Arc<Governance> {
        self.governance.load_full()
    }

    /// Why newer files are not in force.
    pub fn load_problems(&self) -> Vec<String> {
        self.load_problems.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files without putting them into force.
    pub fn check_files(&self) -> Result<Governance, LoadProblems> {
        (self.loader)(self.governance().generation, self.clock.wall())
    }

    /// Puts the files into force, or keeps what is in force and says why. Live leases are decided again in the background; those that
    /// would be refused now end.
    pub async fn reload(self: &Arc<Self>) -> Result<Arc<Governance>, LoadProblems> {
        let before = self.governance();
        let loaded = (self.loader)(before.generation + 1, self.clock.wall());
        let problems = loaded.as_ref().err().map(|problems| problems.0.clone()).unwrap_or_default();
        *self.load_problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
        let outcome = if loaded.is_ok() { Outcome::Done } else { Outcome::Failed };
        let governance = match loaded {
            Ok(governance) => {
                self.attestor.gatherer().read_ancestors_in_full(governance.roll.has_agents() || before.roll.has_agents());
                self.governance.store(Arc::new(governance));
                Ok(self.governance())
            }
            Err(problems) => Err(problems),
        };
        let event = Event::new(Kind::Reload).outcome(outcome).policy(record::bundle(self.governance().bundle.hash()));
        if let Err(error) = self.audit.append(event, Need::Soon).await {
            tracing::error!(%error, "a reload is not on the record");
        }
        if let Ok(governance) = &governance {
            let broker = self.clone();
            let governance = governance.clone();
            tokio::spawn(async move { broker.decide_again(&governance).await });
        }
        governance
    }

    /// Ends every live lease that this bundle would refuse its holder's identity.
    pub(super) async fn decide_again(self: &Arc<Self>, governance: &Governance) {
        for lease in self.leases.all() {
            let allowed = (|| {
                let workload = match self
                    .reaper
                    .subject(&lease.holder.key())
                    .filter(|subject| lease.holder.kind == HolderKind::Process && !self.attestor.is_client(subject))
                {
                    Some(subject) => self.attestor.examine_process(&subject, &governance.roll).ok()?.workload.ok()?,
                    None => governance.roll.remembered(&lease.identity, lease.assurance)?,
                };
                (workload.identity().name == lease.identity).then_some(())?;
                let secret = governance.catalogue.find(&lease.secret)?;
                let intent = Intent::of_lease(secret.clone(), &lease.purpose, lease.channel, &lease.hosts, lease.ttl, lease.source);
                match governance.bundle.decide(&workload, &intent, &Evidence::none(), self.clock.wall(), false) {
                    Decision::Permit(_) => Some(()),
                    Decision::Needs(_) | Decision::Forbid(_) => None,
                }
            })();
            if allowed.is_none() {
                // A source that hangs must not hold up the others.
                let broker = self.clone();
                tokio::spawn(async move { broker.end(lease.id, EndReason::Policy).await });
            }
        }
    }

    /// Stops issuing, or allows it again; survives a restart.
    pub async fn freeze(&self, frozen: bool) -> Result<(), Stop> {
        let path = &self.settings.freeze_file;
        let done = match frozen {
            true => std::fs::write(path, "issuing is stopped by an operator\n").map_err(|e| Fault::File("freeze", e)),
            false => match std::fs::remove_file(path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Fault::File("freeze", error)),
                _ => Ok(()),
            },
        };
        // In memory first for stopping: a full disk must not keep issuing open.
        if frozen || done.is_ok() {
            self.frozen.store(frozen, std::sync::atomic::Ordering::Release);
        }
        done.map_err(Stop::from)
    }
}
