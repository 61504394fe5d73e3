//! A live lease's value again, and more time for it.

use super::{
    Broker, Caller, Delivery, Governance, Pinned, Stop,
    issue::{may_be_given, order, served},
    record,
    record::Trail,
};
use crate::{
    attest::Workload,
    audit::{Kind, Need, Outcome},
    engine::{Engine, EngineError, Order, stale_age},
    lease::{Lease, NoRead, State},
    model::{Code, EndReason, LeaseId, Refusal, RequestId, SecretDefinition, Sensitivity},
    policy::{Decision, Permit},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::OwnedMutexGuard;

/// A renewal so soon after another asks its source for nothing, in microseconds.
const AGAIN: u64 = 1_000_000;
/// How long a renewal waits for another one of the same lease.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// Leases from which on those that nobody renews are forgotten.
const MANY: usize = 256;

/// Renewals that are under way: one of a lease at a time.
#[derive(Default)]
pub(super) struct Renewals(Mutex<HashMap<LeaseId, Arc<tokio::sync::Mutex<()>>>>);

impl Renewals {
    /// Waits for a turn; whether there was anybody to wait for.
    async fn turn(&self, lease: LeaseId) -> Result<(OwnedMutexGuard<()>, bool), Refusal> {
        let turn = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MANY {
                all.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            all.entry(lease).or_default().clone()
        };
        match turn.clone().try_lock_owned() {
            Ok(turn) => Ok((turn, false)),
            Err(_) => {
                let waited = tokio::time::timeout(LONGEST_WAIT, turn.lock_owned()).await;
                let busy = |_| Refusal::new(Code::ENGINE_UNAVAILABLE).message("The lease is being renewed; try again.");
                Ok((waited.map_err(busy)?, true))
            }
        }
    }
}

impl Broker {
    /// The value of a live lease, for its holder.
    pub async fn read(
        self: &Arc<Self>,
        peer: Arc<Caller>,
        id: LeaseId,
        request: RequestId,
        pinned: Option<Pinned>,
    ) -> Result<Delivery, Refusal> {
        let mut trail = Trail::new(request, &peer);
        trail.pinned = pinned.is_some();
        let done = async {
            self.looked_at(id).await;
            let (workload, lease) = self.own_lease(&peer, id, &mut trail)?;
            let governance = self.governance();
            if (!self.leases.is_decided(id, governance.generation) || workload.assurance() < lease.assurance)
                && !crate::mutation!("stale-policy")
            {
                // Policy is another than when this was decided, and the pass over all leases has not come to this one.
                let _permit = self.decide_lease(&governance, &workload, &lease, false, &mut trail)?;
                self.note_decided(&lease, &workload, &governance);
            }
            self.give_again(&peer, &lease, &trail).await
        };
        match done.await {
            Ok(delivery) => Ok(delivery.to(pinned)),
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// One lease of the caller's.
    pub async fn lease(&self, peer: &Caller, id: LeaseId, request: RequestId) -> Result<Arc<Lease>, Refusal> {
        let mut trail = Trail::new(request, peer);
        match self.own_lease(peer, id, &mut trail) {
            Ok((_, lease)) => Ok(lease),
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// The caller's leases.
    pub async fn leases_of(&self, peer: &Caller, request: RequestId) -> Result<Vec<Arc<Lease>>, Refusal> {
        let mut trail = Trail::new(request, peer);
        let found = self.attested(peer, &mut trail).map(|workload| {
            self.leases.all().into_iter().filter(|lease| lease.state == State::Live && self.may_use(peer, &workload, lease)).collect()
        });
        match found {
            Ok(leases) => Ok(leases),
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// The caller gives a lease back.
    pub async fn give_back(self: &Arc<Self>, peer: &Caller, id: LeaseId, request: RequestId) -> Result<Arc<Lease>, Refusal> {
        let mut trail = Trail::new(request, peer);
        match self.own_lease(peer, id, &mut trail) {
            Ok((_, lease)) => {
                self.end(lease.id, EndReason::Asked).await;
                Ok(lease)
            }
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// As much time again, if policy would still grant it.
    pub async fn renew(self: &Arc<Self>, peer: Arc<Caller>, id: LeaseId, request: RequestId) -> Result<Arc<Lease>, Refusal> {
        let broker = self.clone();
        let task = tokio::spawn(async move {
            let mut trail = Trail::new(request, &peer);
            match broker.extend(&peer, id, &mut trail).await {
                Ok(lease) => Ok(lease),
                Err(stop) => Err(broker.refuse(&trail, stop).await),
            }
        });
        task.await.unwrap_or_else(|_| Err(Stop::from(super::Fault::Task).refusal()))
    }

    async fn extend(self: &Arc<Self>, peer: &Caller, id: LeaseId, trail: &mut Trail) -> Result<Arc<Lease>, Stop> {
        self.looked_at(id).await;
        let (workload, lease) = self.own_lease(peer, id, trail)?;
        if !lease.renewable {
            return Err(Refusal::new(Code::NOT_RENEWABLE).into());
        }
        // Nobody else makes it shorter or longer meanwhile, here or, if others have it too, by theirs; much may have changed until then.
        let (_own, waited) = self.renewals.turn(id).await?;
        let turn = self.turn_to_prolong(&lease).await?;
        let (workload, lease) = if waited || turn.is_some() { self.own_lease(peer, id, trail)? } else { (workload, lease) };
        let governance = self.governance();
        let permit = self.decide_lease(&governance, &workload, &lease, self.is_frozen(), trail)?;
        let intent = permit.intent();
        // Its credential was made of something else: rights that were taken out of a row must not live on as long as somebody renews.
        if lease.recipe != intent.secret().recipe && !crate::mutation!("row-changed") {
            let changed = "The secret's definition has been changed since; ask for another lease.";
            return Err(Refusal::new(Code::NOT_RENEWABLE).message(changed).into());
        }
        let ttl = permit.effective().ttl.min(lease.ttl);
        let expires = self.clock.wall().plus(ttl).max(lease.expires);
        let deadline = self.clock.boot().plus(ttl).max(lease.deadline);
        // Of those who have the credential as well, whoever has it longest says how long it lives.
        let lives = self.leases.longest(lease.credential()).unwrap_or((lease.expires, lease.deadline));
        // What was just made to last so long need not be asked for once more, by however many.
        let lasts = deadline.0 <= lives.1.0.saturating_add(AGAIN) && !crate::mutation!("renewed-once");
        let (expires, deadline) = if lasts { (expires.min(lives.0), deadline.min(lives.1)) } else { (expires, deadline) };
        let extended = Lease { expires, deadline, ..Lease::clone(&lease) };
        let event = trail.fill(record::of_lease(Kind::Renew, &extended), None).outcome(Outcome::Done);
        // On the record before the source is told: a credential never outlives what the record says.
        let _recorded = self.audit.append(event, Need::Durable).await?;
        if !lasts {
            let (until, last) = (lives.0.max(expires), lives.1.max(deadline));
            let asked = self.clock.boot();
            let order =
                Order { expires: until, left: Duration::from_micros(last.since(asked)), ..order(&extended, intent.secret(), asked) };
            self.engine(&lease.engine)?.renew(&order, &lease.reference).await.map_err(|error| match error {
                EngineError::Refused(why) => Refusal::new(Code::NOT_RENEWABLE).detail(why).into(),
                error => Stop::from(error),
            })?;
        }
        self.attestor.still(peer)?;
        let renewed = self.leases.renew(&lease, expires, deadline).await?;
        self.watchers.tell(&lease.identity);
        renewed.ok_or_else(|| Refusal::new(Code::LEASE_ENDED).into())
    }

    /// Whether policy would still grant a live lease to this workload. A freeze stops issuing and renewing, not reading what was issued.
    fn decide_lease(
        &self,
        governance: &Governance,
        workload: &Workload,
        lease: &Lease,
        frozen: bool,
        trail: &mut Trail,
    ) -> Result<Permit, Stop> {
        let (intent, decision) = governance.decide_lease(workload, lease, self.clock.wall(), frozen)?;
        trail.intent = Some(intent);
        trail.decided = Some(record::decided(decision.because()));
        match decision {
            Decision::Permit(permit) => Ok(permit),
            Decision::Needs(unmet) => Err(unmet.refusal().into()),
            Decision::Forbid(refused) => Err(refused.refusal().into()),
        }
    }

    /// Record, last look, value.
    pub(super) async fn give_again(&self, peer: &Caller, lease: &Arc<Lease>, trail: &Trail) -> Result<Delivery, Stop> {
        self.leases.count_read(lease.id).map_err(|none| match none {
            NoRead::Uses => Refusal::new(Code::USED_UP),
            NoRead::Reads => Refusal::new(Code::READS_EXCEEDED),
        })?;
        // What is not handed over is no use.
        self.value_again(peer, lease, trail).await.inspect_err(|_| self.leases.uncount_read(lease.id))
    }

    async fn value_again(&self, peer: &Caller, lease: &Arc<Lease>, trail: &Trail) -> Result<Delivery, Stop> {
        let governance = self.governance();
        let secret = governance.catalogue.find(&lease.secret).ok_or_else(|| Refusal::new(Code::NO_GRANT))?;
        served(lease.channel)?;
        may_be_given(secret, trail)?;
        let engine = self.engine(&lease.engine)?;
        if !reads_the_same(&**engine, lease, secret) {
            let changed = "The secret's definition has been changed since; ask for another lease.";
            return Err(Refusal::new(Code::NO_VALUE).message(changed).into());
        }
        let issued = match engine.read(&order(lease, secret, self.clock.boot()), &lease.reference).await {
            Err(EngineError::NoValue) if !engine.is_newest(secret, &lease.reference) => {
                let gone = "The value that this lease was given has been changed since; ask for another lease.";
                return Err(Refusal::new(Code::NO_VALUE).message(gone).into());
            }
            issued => issued?,
        };
        // One whose source could not be asked says so now and then, and for how long that has been.
        let age = stale_age(&issued.attributes);
        let stale = age.is_some() && self.stale_reads.is_due(lease.id, self.clock.boot());
        let each = stale || lease.sensitivity.max(secret.sensitivity) >= Sensitivity::Restricted;
        let recorded = match if each { None } else { self.audit.count_read(lease.id) } {
            Some(recorded) => recorded,
            None => {
                let need = if each { Need::Durable } else { Need::Soon };
                let event = trail.fill(record::of_lease(Kind::Read, lease), None).outcome(Outcome::Done);
                let event = if secret.recipe == lease.recipe { event.secret(secret, None) } else { event };
                self.audit.append(record::Given { age, ..Default::default() }.on(event), need).await?
            }
        };
        self.attestor.still(peer)?;
        // It may have been ended while the record was written.
        if !self.leases.find(lease.id).is_some_and(|now| now.state == State::Live) {
            return Err(Refusal::new(Code::LEASE_ENDED).into());
        }
        self.metrics.read(&issued.attributes);
        Ok(Delivery::new(trail.request, lease.clone(), issued, Vec::new(), recorded))
    }

    pub(super) fn attested(&self, peer: &Caller, trail: &mut Trail) -> Result<Workload, Stop> {
        self.must_be_fresh(peer)?;
        self.attest(peer, &self.governance(), trail)
    }

    /// Who the peer is under this registry, for the record too.
    pub(super) fn attest(&self, peer: &Caller, governance: &Governance, trail: &mut Trail) -> Result<Workload, Stop> {
        match peer.attest(&self.attestor, governance)? {
            Ok(known) => {
                let workload = known.workload.clone();
                trail.known = Some(known);
                Ok(workload)
            }
            Err((refusal, facts)) => {
                // Nobody registered: operators should see all the same which process it was.
                trail.nobody = Some(facts);
                Err(refusal.into())
            }
        }
    }

    /// Returns when the holder of this lease was looked at since the start.
    async fn looked_at(self: &Arc<Self>, id: LeaseId) {
        if !self.unbound.is_empty()
            && let Some(lease) = self.leases.find(id)
        {
            self.bound(&lease.holder.key()).await;
        }
    }

    /// A live lease that the caller may use. Another's lease is answered like one that never was.
    fn own_lease(&self, peer: &Caller, id: LeaseId, trail: &mut Trail) -> Result<(Workload, Arc<Lease>), Stop> {
        let workload = self.attested(peer, trail)?;
        if let Some(lease) = self.leases.find(id)
            && self.may_use(peer, &workload, &lease)
        {
            return match lease.state {
                State::Live if lease.deadline > self.clock.boot() => Ok((workload, lease)),
                State::Live | State::Reserved | State::Ending { .. } => Err(Refusal::new(Code::LEASE_ENDED).into()),
            };
        }
        let was_own = self.leases.find_ended(id).is_some_and(|ended| {
            let holder = &ended.holder;
            ended.identity == workload.identity().name && (holder.pid, holder.start) == (workload.facts().pid, workload.facts().start)
        });
        Err(Refusal::new(if was_own { Code::LEASE_ENDED } else { Code::NO_LEASE }).into())
    }
}

/// Whether a live lease is given what it was given before: not something that another definition makes, which nobody has recorded.
pub(super) fn reads_the_same(engine: &dyn Engine, lease: &Lease, secret: &SecretDefinition) -> bool {
    !engine.reads_by_definition() || lease.recipe == secret.recipe || crate::mutation!("row-read")
}
