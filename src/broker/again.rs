//! A live lease's value again, the short way: for a holder that asks often, and of which everything is known already.

use super::{Broker, Caller, Delivery, Governance, holder::Bound, issue::order, issue::served, renew::reads_the_same};
use crate::{
    attest::Workload,
    intent::Source,
    lease::{Lease, State},
    model::{BootTime, LeaseId, RequestId, Sensitivity},
    policy::Permit,
};
use std::sync::Arc;

/// For how many microseconds a name stands for the lease that it led to.
const NAMED_FOR: u64 = 1_000_000;

impl Broker {
    /// The live lease that the same use by the same holder led to before, at another protocol's door: one that lives no longer than a new one
    /// would, has a third of its time and a use left, and whose value is not an older version.
    pub(super) fn of_same_use(&self, permit: &Permit, bound: &Bound) -> Option<Arc<Lease>> {
        let (intent, effective, now) = (permit.intent(), permit.effective(), self.clock.boot());
        let (secret, identity) = (intent.secret(), &permit.workload().identity().name);
        let assurance = permit.workload().assurance();
        let same_use = |lease: &Lease| {
            lease.source == Source::Adapter
                && lease.assurance <= assurance
                && (&lease.identity, &lease.secret, &lease.recipe) == (identity, &secret.name, &secret.recipe)
                && (&lease.purpose, lease.channel) == (&intent.claimed().purpose, intent.channel())
                && (lease.operation, &lease.hosts, lease.uses) == (effective.operation, &effective.hosts, effective.uses)
        };
        let in_time = |lease: &Lease| {
            lease.deadline <= now.plus(effective.ttl) && lease.deadline.since(now) >= u64::from(lease.ttl.as_secs()) * 1_000_000 / 3
        };
        let newest = |lease: &Lease| self.engines.find(&lease.engine).is_some_and(|engine| engine.is_newest(secret, &lease.reference));
        let all = if crate::mutation!("same-holder") { self.leases.all() } else { self.leases.of_holder(&bound.holder.key()) };
        let fit = all.into_iter().filter(|lease| {
            lease.state == State::Live && same_use(lease) && in_time(lease) && newest(lease) && self.leases.has_read(lease.id)
        });
        fit.max_by_key(|lease| lease.deadline)
    }

    /// What a client of another protocol, which knows no leases, reads by name again within a second after the same name led it to a lease: no
    /// longer, since policy may look at the time. `None` says that it has to be asked for.
    pub fn read_named(&self, peer: &Caller, name: &str, request: RequestId) -> Option<Delivery> {
        if self.is_frozen() && !crate::mutation!("named-frozen") {
            return None;
        }
        let governance = self.governance.load();
        let known = peer.known(&governance)?;
        let id = known.named(name, self.clock.boot())?;
        self.read_of(peer, &governance, &known.workload, id, request, !crate::mutation!("named-newest"))
    }

    /// When somebody begins to ask.
    pub fn moment_of_asking(&self) -> BootTime {
        self.clock.boot()
    }

    /// A name led to what is delivered, asked for at that moment; whether it may stand for the name a little while.
    pub fn note_named(&self, peer: &Caller, delivery: &Delivery, asked: BootTime) {
        let lease = delivery.lease();
        // What has to be said beside it is said each time.
        if lease.source == Source::Adapter && delivery.clamped().is_empty() && delivery.pinned().is_none() {
            let governance = self.governance.load();
            if let Some(known) = peer.known(&governance) {
                known.name(&lease.secret, lease.id, BootTime(asked.0 + NAMED_FOR));
            }
        }
    }

    /// The value of a live lease below `restricted` where nothing has to be waited for, found out, decided or written: who asks was
    /// attested and policy was asked about the lease under the generation in force, an earlier read's record stands for this one, and
    /// the engine makes the value at once. `None` says that [`Broker::read`] has to be asked; nothing was counted then.
    pub fn read_now(&self, peer: &Caller, id: LeaseId, request: RequestId) -> Option<Delivery> {
        let governance = self.governance.load();
        let known = peer.known(&governance)?;
        self.read_of(peer, &governance, &known.workload, id, request, false)
    }

    /// The same by whoever was found out to be that under this generation; where it matters only if it is the newest version.
    fn read_of(
        &self,
        peer: &Caller,
        governance: &Governance,
        workload: &Workload,
        id: LeaseId,
        request: RequestId,
        newest: bool,
    ) -> Option<Delivery> {
        if !self.unbound.is_empty() {
            return None;
        }
        let lease = self.leases.read(id, governance.generation, self.clock.boot())?;
        let delivery = (|| {
            if workload.assurance() < lease.assurance || !self.may_use(peer, workload, &lease) {
                return None;
            }
            served(lease.channel).ok()?;
            let secret = governance.catalogue.find(&lease.secret)?;
            if secret.pinned {
                return None;
            }
            if lease.sensitivity.max(secret.sensitivity) >= Sensitivity::Restricted {
                return None;
            }
            let engine = self.engines.find(&lease.engine)?;
            if !reads_the_same(&**engine, &lease, secret) || (newest && !engine.is_newest(secret, &lease.reference)) {
                return None;
            }
            let credential = engine.read_now(&order(&lease, secret, self.clock.boot()), &lease.reference)?.ok()?;
            // The record is written and only counts: nothing is waited for between the last look, the count and the value.
            self.attestor.still(peer).ok()?;
            let live = self.leases.find(id).is_some_and(|now| now.state == State::Live);
            if !live || self.governance.load().generation != governance.generation {
                return None;
            }
            let recorded = self.audit.count_read(id)?;
            Some(Delivery::new(request, lease.clone(), credential, Vec::new(), recorded))
        })();
        match &delivery {
            Some(delivery) => self.metrics.read(delivery.attributes()),
            None => self.leases.uncount_read(id),
        }
        delivery
    }
}
