//! What operators may do: end leases, keep the local store, look at identities.

use super::{
    Broker, Fault, Governance, Selection, Stop,
    end::{HEARD_BY_OPERATORS, heard},
};
use crate::{
    attest::Facts,
    audit::{Event, Kind, Need, Outcome, Person, Word},
    lease::{Cause, Lease, State},
    model::{Code, EndReason, EndResult, LeaseId, Refusal, RequestId, SecretBytes, SecretName},
    wire::{EndRow, IdentityRow, IdentityTry, LeaseCounts, SelectorView, StoredView},
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// Who acted on the operator socket.
pub struct Operator {
    uid: u32,
    login: Option<u32>,
}

impl Operator {
    /// The person behind a process on the operator socket: its uid, and its login uid where that is proved.
    pub(super) fn of_facts(facts: &Facts) -> Operator {
        Operator { uid: facts.uid, login: facts.login.filter(|login| login.verified).map(|login| login.uid) }
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn did(&self, action: &'static str) -> Option<Person> {
        Some(Person { uid: self.uid, login: self.login, name: None, action: Word::parse(action).ok()? })
    }
}

impl Broker {
    /// All leases that are not over.
    pub fn all_leases(&self) -> Vec<Arc<Lease>> {
        self.leases.all()
    }

    /// Ends everything that is selected and says what became of each. With `force`, endings that were given up are tried once more.
    pub async fn end_selected(self: &Arc<Self>, selection: &Selection, force: bool, request: RequestId) -> Result<Vec<EndRow>, Refusal> {
        // Whoever wants a lease's credential dead wants it dead for all who have it, and for those who are about to.
        let all = self.leases.all();
        let chosen = self.choose(selection, &all).await?;
        let mut credentials: HashSet<LeaseId> = all.iter().filter(|lease| chosen.has(lease)).map(|lease| lease.credential()).collect();
        if let Selection::Lease(ended) = selection {
            credentials.insert(*ended);
        }
        let listed = match crate::mutation!("share-withdrawn") {
            true => all,
            false => {
                self.leases.withdraw(&credentials);
                // Those who joined in between too; from now on nobody does.
                self.leases.all()
            }
        };
        let leases: Vec<Arc<Lease>> = listed.into_iter().filter(|lease| credentials.contains(&lease.credential())).collect();
        if leases.is_empty() {
            return Err(Refusal::new(Code::NOT_FOUND).message(format!("There is no live lease {selection}.")));
        }
        self.end_all(leases, force, request).await
    }

    async fn end_all(self: &Arc<Self>, leases: Vec<Arc<Lease>>, force: bool, request: RequestId) -> Result<Vec<EndRow>, Refusal> {
        let live = leases.iter().filter(|lease| lease.state == State::Live).map(|lease| lease.id).collect();
        let begun = tokio::spawn(self.clone().begin_ends(live, Cause::operator(request)));
        let mut begun = begun.await.map_err(|_| Stop::from(Fault::Task).refusal())?;
        let endings = leases.into_iter().map(|lease| {
            let (broker, begun) = (self.clone(), begun.remove(&lease.id));
            tokio::spawn(async move {
                let result = match (begun, lease.state) {
                    (Some(begun), _) => heard(HEARD_BY_OPERATORS, begun).await,
                    (_, State::Ending { irrevocable: true, .. }) if !force => Some(EndResult::Irrevocable),
                    (_, State::Ending { irrevocable: true, tries, .. }) => {
                        // It goes on in a task of its own.
                        let resumed = tokio::time::timeout(HEARD_BY_OPERATORS, broker.resume(lease.id, tries)).await;
                        resumed.unwrap_or(Some(EndResult::Retrying))
                    }
                    (_, State::Ending { .. }) => Some(EndResult::Retrying),
                    // A reservation is ended by its own pipeline.
                    (None, State::Live | State::Reserved) => None,
                };
                // Somebody else was ending it at the same time.
                let result = result.or_else(|| broker.leases.find_ended(lease.id).map(|ended| ended.result)).unwrap_or(EndResult::Retrying);
                EndRow { id: lease.id, secret: lease.secret.clone(), result }
            })
        });
        let mut rows = Vec::new();
        for ending in endings.collect::<Vec<_>>() {
            rows.push(ending.await.map_err(|_| Stop::from(Fault::Task).refusal())?);
        }
        Ok(rows)
    }

    /// Puts a new version of a local value.
    pub async fn put_local(&self, name: SecretName, value: SecretBytes) -> Result<u64, Refusal> {
        let (store, putting) = (self.local.clone(), name.clone());
        let put = tokio::task::spawn_blocking(move || store.put(&putting, &value)).await;
        match put {
            Ok(Ok(version)) => {
                self.stored(&name, version);
                Ok(version)
            }
            Ok(Err(error)) => Err(Refusal::new(Code::MALFORMED).message("The value was not stored.").detail(error.to_string())),
            Err(_) => Err(Stop::from(Fault::Task).refusal()),
        }
    }

    /// Removes all versions of a local value; live leases of it end.
    pub async fn remove_local(self: &Arc<Self>, name: SecretName, request: RequestId) -> Result<(), Refusal> {
        let (store, removing, shown) = (self.local.clone(), name.clone(), name.clone());
        let removed = tokio::task::spawn_blocking(move || store.remove(&removing)).await;
        match removed {
            Ok(Ok(true)) => {
                let _ = self.end_selected(&Selection::Secret(name), false, request).await;
                Ok(())
            }
            Ok(Ok(false)) => Err(Refusal::new(Code::NOT_FOUND).message(format!("The local store holds no value of {shown}."))),
            Ok(Err(error)) => Err(Refusal::new(Code::INTERNAL).detail(error.to_string())),
            Err(_) => Err(Stop::from(Fault::Task).refusal()),
        }
    }

    /// The local values, without their bytes.
    pub fn list_local(&self) -> Vec<StoredView> {
        let governance = self.governance();
        let rows = self.local.list().into_iter();
        rows.map(|row| StoredView {
            defined: governance.catalogue.find(&row.name).is_some(),
            version: row.versions.last().map_or(0, |version| version.version),
            size: row.versions.last().map_or(0, |version| version.bytes),
            updated: row.versions.last().map_or_else(String::new, |version| version.created.rfc3339()),
            name: row.name,
        })
        .collect()
    }

    /// Every identity with its live leases.
    pub fn list_identities(&self) -> Vec<IdentityRow> {
        let governance = self.governance();
        let row = |identity: &Arc<crate::model::Identity>| IdentityRow {
            name: identity.name.clone(),
            kind: identity.kind,
            owner: identity.owner.clone(),
            environment: identity.environment.to_string(),
            max_sensitivity: identity.max_sensitivity,
            expires: identity.expires.rfc3339(),
            suspended: identity.suspended,
            selectors: identity.selectors.iter().map(ToString::to_string).collect(),
            leases: self.leases.count_of(&identity.name),
        };
        governance.roll.registry().iter().map(row).collect()
    }

    /// Who the process with this number would be.
    pub async fn try_identity(&self, pid: u32, request: RequestId) -> Result<IdentityTry, Refusal> {
        let gone = |error: std::io::Error| {
            Refusal::new(Code::NOT_FOUND).message(format!("There is no process {pid}, or it cannot be attested.")).detail(error.to_string())
        };
        let governance = self.governance();
        let subject = self.attestor.by_pid(pid, &governance.roll).await.map_err(gone)?;
        let attested = self.attestor.examine_process(&subject, &governance.roll)?;
        let strength = |s: &crate::model::Selector| serde_json::to_value(s.strength()).ok().and_then(|v| Some(v.as_str()?.to_owned()));
        Ok(IdentityTry {
            request,
            attested: serde_json::to_value(&attested.candidate.facts).unwrap_or_default(),
            selectors: attested
                .candidate
                .selectors
                .iter()
                .map(|s| SelectorView { selector: s.to_string(), strength: strength(s).unwrap_or_default() })
                .collect(),
            matches: governance.roll.matches(&attested.candidate.selectors).iter().map(|row| row.name.clone()).collect(),
            identity: attested.workload.as_ref().ok().map(|workload| workload.identity().name.clone()),
            assurance: attested.assurance.to_string(),
            refused: attested
                .workload
                .as_ref()
                .err()
                .map(|refusal| format!("{}: {}", refusal.code, refusal.detail.as_deref().unwrap_or(&refusal.message))),
        })
    }

    /// How many leases are not over.
    pub fn lease_count(&self) -> usize {
        self.leases.count()
    }

    /// Leases by state.
    pub fn lease_counts(&self) -> LeaseCounts {
        let mut counts = LeaseCounts::default();
        for lease in self.leases.all() {
            match lease.state {
                State::Live | State::Reserved => counts.live += 1,
                State::Ending { irrevocable: false, .. } => counts.ending += 1,
                State::Ending { irrevocable: true, .. } => counts.irrevocable += 1,
            }
        }
        counts
    }

    /// Why nothing is issued although the daemon runs.
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    /// Seconds since start.
    pub fn uptime(&self) -> u64 {
        self.clock.wall().unix_secs().saturating_sub(self.started.unix_secs())
    }

    /// Names and kinds of engines.
    pub fn engine_kinds(&self) -> Vec<(String, &'static str)> {
        self.engines.kinds().map(|(name, kind)| (name.to_string(), kind)).collect()
    }

    /// Whether the lease behind a token lives: what `GET /v1/jwt/{jti}` answers to anybody on the host.
    pub fn lives(&self, id: LeaseId) -> bool {
        self.leases.find(id).is_some_and(|lease| lease.state == State::Live && lease.deadline > self.clock.boot())
    }

    /// Ends every lease, for a daemon that was told to, and waits so long at most. The next start goes on with the rest, which is in the
    /// journal as ending.
    pub async fn end_everything(self: &Arc<Self>, reason: EndReason, within: Duration) {
        let endings: Vec<_> = self.leases.all().into_iter().filter_map(|lease| self.begin_end(lease.id, reason)).collect();
        let all = async {
            for ending in endings {
                let _ = ending.await;
            }
        };
        if tokio::time::timeout(within, all).await.is_err() {
            tracing::warn!("not every lease was ended in time: the next start goes on with the rest");
        }
    }

    /// From now on nothing is ended; what is being ended may come to its end, for so long at most. The next start finds the rest.
    pub async fn finish_endings(&self, within: Duration) {
        self.closed.store(true, std::sync::atomic::Ordering::Release);
        let _ = tokio::time::timeout(within, self.ending.write()).await;
    }

    /// Closes journal and audit log after everything else has stopped.
    pub fn close(&self) {
        self.closed.store(true, std::sync::atomic::Ordering::Release);
        self.leases.stop();
        self.audit.stop();
    }

    /// What is on the record at start and stop.
    pub async fn record_daemon(&self, kind: Kind) -> Result<(), Refusal> {
        let event = Event::new(kind).outcome(Outcome::Done).policy(super::record::bundle(self.governance().bundle.hash()));
        self.audit.append(event, Need::Durable).await.map(drop).map_err(|error| Stop::from(error).refusal())
    }

    /// A loaded bundle's warnings and hash.
    pub fn describe_bundle(governance: &Governance) -> (String, Vec<String>) {
        (governance.bundle.hash().to_string(), governance.warnings.clone())
    }
}
