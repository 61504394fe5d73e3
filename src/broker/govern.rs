//! Policy, secrets and identities as one bundle with one generation; replaced as a whole or not at all.

use super::{Broker, Fault, Stop, issue::served, record};
use crate::{
    attest::{Roll, Subject, Workload, is_unseen},
    audit::{Event, Kind, Need, Outcome},
    intent::Intent,
    lease::Lease,
    model::{Catalogue, Code, EndReason, EndsBy, EngineName, HolderKind, Refusal, SecretDefinition, SecretName, WallTime},
    policy::{Bundle, Decision, Evidence},
    sys::{TrustError, write_atomic},
};
use std::{
    io,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

/// While nobody can look at a process: until it is tried again.
const BETWEEN_TRIES: Duration = Duration::from_millis(200);

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

/// Why files do not make a bundle, each with file and line; and the first file that could not be read at all, if there was one.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct LoadProblems(pub Vec<String>, #[source] pub Option<TrustError>);

/// Reads the files and makes a bundle of them with this generation at this time.
pub type Loader = Box<dyn Fn(u64, WallTime) -> Result<Governance, LoadProblems> + Send + Sync>;

impl Governance {
    /// The names of the secrets whose values last.
    pub(super) fn lasting(&self) -> Vec<SecretName> {
        self.catalogue.iter().filter(|row| row.ends_by == EndsBy::None).map(|row| row.name.clone()).collect()
    }

    /// The secrets that name this engine.
    pub(super) fn of_engine(&self, name: &EngineName) -> Vec<Arc<SecretDefinition>> {
        self.catalogue.iter().filter(|row| row.engine == *name).cloned().collect()
    }

    /// What would be decided about a live lease if this workload asked for it now, with the intent that stands for it.
    pub(super) fn decide_lease(
        &self,
        workload: &Workload,
        lease: &Lease,
        now: WallTime,
        frozen: bool,
    ) -> Result<(Intent, Decision), Refusal> {
        // The journal may hold leases of channels that nothing serves.
        served(lease.channel)?;
        let secret = self.catalogue.find(&lease.secret).ok_or_else(|| Refusal::new(Code::NO_GRANT))?;
        // What a definition is narrowed to later does not become true of what was made before.
        if lease.operation > secret.operation && !crate::mutation!("row-lowered") {
            let detail = format!("{} is for {} by now; this lease's credential is for {}", secret.name, secret.operation, lease.operation);
            return Err(Refusal::new(Code::NO_GRANT).detail(detail));
        }
        let intent =
            Intent::of_lease(secret.clone(), &lease.purpose, lease.operation, lease.channel, &lease.hosts, lease.ttl, lease.source);
        let decision = self.bundle.decide(workload, &intent, &Evidence::none(), now, frozen);
        Ok((intent, decision))
    }
}

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
        // One after the other: two at once would give two bundles one generation.
        let _turn = self.reloading.lock().await;
        let before = self.governance();
        let loaded = (self.loader)(before.generation + 1, self.clock.wall());
        let problems = loaded.as_ref().err().map(|problems| problems.0.clone()).unwrap_or_default();
        *self.load_problems.lock().unwrap_or_else(PoisonError::into_inner) = problems;
        let outcome = if loaded.is_ok() { Outcome::Done } else { Outcome::Failed };
        let governance = match loaded {
            Ok(governance) => {
                self.attestor.read_ancestors_in_full(governance.roll.has_agents() || before.roll.has_agents());
                self.governance.store(Arc::new(governance));
                Ok(self.governance())
            }
            Err(problems) => Err(problems),
        };
        // Before anything is waited for: whoever asked may go.
        if let Ok(governance) = &governance {
            let broker = self.clone();
            let governance = governance.clone();
            tokio::spawn(async move { broker.decide_again(&governance).await });
        }
        let event = Event::new(Kind::Reload).outcome(outcome).policy(record::bundle(self.governance().bundle.hash()));
        if let Err(error) = self.audit.append(event, Need::Soon).await {
            tracing::error!(%error, "a reload is not on the record");
        }
        governance
    }

    /// Ends every live lease that this bundle would refuse its holder's identity.
    pub(super) async fn decide_again(self: &Arc<Self>, governance: &Governance) {
        // What is not known to be what it was is not judged as if it were.
        self.bind_all().await;
        let mut unseen = Vec::new();
        for lease in self.leases.all() {
            match self.holder_now(&lease, &governance.roll).await {
                Ok(holder) => self.decide_of_holder(governance, &lease, holder),
                // A read decides for itself meanwhile.
                Err(_) => unseen.push(lease),
            }
            // Thousands of leases must not keep a worker from its requests.
            tokio::task::yield_now().await;
        }
        for lease in unseen {
            while self.governance().generation == governance.generation && !self.closed.load(Ordering::Acquire) {
                if let Ok(holder) = self.holder_now(&lease, &governance.roll).await {
                    self.decide_of_holder(governance, &lease, holder);
                    break;
                }
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
        }
    }

    fn decide_of_holder(self: &Arc<Self>, governance: &Governance, lease: &Lease, holder: Option<Arc<Subject>>) {
        match self.still_grants(governance, lease, holder) {
            Some(()) => self.leases.note_decided(lease.id, governance.generation),
            None => {
                // A source that hangs must not hold up the others.
                let _carried_through_by_itself = self.begin_end(lease.id, EndReason::Policy);
            }
        }
    }

    /// Policy allows a lease's use by this workload. Whoever has less than that need not be allowed it: for them only an answer about what
    /// the lease was given for counts.
    pub(super) fn note_decided(&self, lease: &Lease, workload: &Workload, governance: &Governance) {
        if workload.assurance() <= lease.assurance {
            self.leases.note_decided(lease.id, governance.generation);
        }
    }

    fn still_grants(&self, governance: &Governance, lease: &Lease, holder: Option<Arc<Subject>>) -> Option<()> {
        let workload = match holder {
            Some(subject) => self.attestor.examine_process(&subject, &governance.roll).ok()?.workload.ok()?,
            None => governance.roll.remembered(&lease.identity, lease.assurance)?,
        };
        (workload.identity().name == lease.identity).then_some(())?;
        match governance.decide_lease(&workload, lease, self.clock.wall(), false).ok()?.1 {
            Decision::Permit(_) => Some(()),
            Decision::Needs(_) | Decision::Forbid(_) => None,
        }
    }

    /// The process behind a lease, where it is the one that asked: units, containers and ancestors need not be the identity themselves,
    /// and our client speaks for another. An error says that nobody can look just now.
    async fn holder_now(&self, lease: &Lease, roll: &Roll) -> io::Result<Option<Arc<Subject>>> {
        let key = lease.holder.key();
        let Some(subject) = self.reaper.subject(&key) else { return Ok(None) };
        if lease.holder.kind != HolderKind::Process || self.attestor.is_client(&subject) {
            return Ok(None);
        }
        // One that became another program meanwhile is the sweep's to look at; judged as it was, it may be refused.
        if self.attestor.saw_enough(&subject, roll) || subject.pins.still().is_err() {
            return Ok(Some(subject));
        }
        // Bound while no agent was registered: its ancestors were only glanced at.
        let pidfd = subject.pins.pidfd.try_clone()?;
        let again = match self.attestor.look_again(pidfd, subject.evidence.process.pid, roll).await {
            Err(error) if is_unseen(&error) => return Err(error),
            again => again.ok(),
        };
        // Gone meanwhile, it is the reaper's to end; judged as it was, it is refused.
        Ok(Some(again.map_or(subject, |again| self.reaper.replace(&key, again))))
    }

    /// Stops issuing, or allows it again; survives a restart.
    pub async fn freeze(&self, frozen: bool) -> Result<(), Refusal> {
        // In memory first for stopping: a full disk must not keep issuing open.
        if frozen {
            self.frozen.store(true, Ordering::Release);
        }
        let path = self.settings.freeze_file.clone();
        let written = tokio::task::spawn_blocking(move || match frozen {
            true => write_atomic(&path, b"issuing is stopped by an operator\n", 0o600).map_err(|error| error.to_string()),
            false => match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.to_string()),
                _ => Ok(()),
            },
        });
        match written.await {
            Ok(Ok(())) => {
                self.frozen.store(frozen, Ordering::Release);
                Ok(())
            }
            Ok(Err(error)) if frozen => Err(Refusal::new(Code::INTERNAL)
                .message("Issuing is stopped, but that could not be written down: it would end with the daemon.")
                .detail(error)),
            Ok(Err(error)) => {
                Err(Refusal::new(Code::INTERNAL).message("Issuing is still stopped: its file cannot be removed.").detail(error))
            }
            Err(_) => Err(Stop::from(Fault::Task).refusal()),
        }
    }
}
