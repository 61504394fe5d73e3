//! The heart: one request for a secret, from peer to answer.

use super::{
    Broker, Caller, Delivery, Fault, Pinned, Stop,
    holder::Bound,
    reaper::changed_or_gone,
    record,
    record::{Asked, Trail},
};
use crate::{
    approval::Clearance,
    audit::{AuditError, Event, Kind, Need, Outcome, Word},
    digest::sha256,
    engine::{Issued, Order, stale_age},
    intent::{Ask, Intent},
    lease::{Lease, Slot, State},
    model::{BootTime, Channel, Code, EndReason, LeaseId, Refusal, RequestId, SecretDefinition},
    policy::{Decision, Evidence, Permit},
    sys::append::AppendError,
};
use std::{sync::Arc, time::Duration};

impl Broker {
    /// Answers a declaration. Runs in a task of its own: whoever waits may go, the pipeline comes to its end.
    pub async fn issue(
        self: &Arc<Self>,
        peer: Arc<Caller>,
        ask: Ask,
        body: &[u8],
        request: RequestId,
        pinned: Option<Pinned>,
    ) -> Result<Delivery, Refusal> {
        let (broker, digest) = (self.clone(), hex::encode(&sha256(&[body])[..16]));
        let task = tokio::spawn(async move {
            let mut trail = Trail::new(request, &peer);
            trail.pinned = pinned.is_some();
            match broker.run(&peer, &ask, digest, &mut trail).await {
                Ok(delivery) => {
                    broker.watchers.tell(&delivery.lease().identity);
                    Ok(delivery.to(pinned))
                }
                Err(stop) => Err(broker.refuse(&trail, stop).await),
            }
        });
        task.await.unwrap_or_else(|_| Err(Stop::from(Fault::Task).refusal()))
    }

    async fn run(self: &Arc<Self>, peer: &Caller, ask: &Ask, digest: String, trail: &mut Trail) -> Result<Delivery, Stop> {
        trail.asked = Some(Asked::of(ask));
        trail.adapter = ask.adapter;
        self.must_be_fresh(peer)?;
        let governance = self.governance();
        let workload = self.attest(peer, &governance, trail)?; // who is asking
        crate::failpoint!("attested");
        let intent = Intent::declare(ask, &workload, &governance.catalogue)?; // what they say they want
        trail.intent = Some(intent.clone());
        if let Some(reason) = &self.read_only {
            return Err(Refusal::new(Code::READ_ONLY).detail(reason.clone()).into());
        }
        let decision = governance.bundle.decide(&workload, &intent, &Evidence::none(), self.clock.wall(), self.is_frozen()); // whether they may
        trail.decided = Some(record::decided(decision.because()));
        let permit = match decision {
            Decision::Permit(permit) => permit,
            Decision::Needs(unmet) => return Err(unmet.refusal().into()),
            Decision::Forbid(refused) => return Err(refused.refusal().into()),
        };
        served(intent.channel())?;
        may_be_given(intent.secret(), trail)?;
        let clearance = Clearance::settle(permit); // whether the evidence is there
        crate::failpoint!("decided");
        let bound = self.bind(peer, &workload, ask.holder).await?;
        let key = ask.idempotency_key.clone().map(|key| (key, digest));
        if let Some(lease) = self.repeated(&key, &bound, clearance.permit())? {
            self.bound(&lease.holder.key()).await;
            self.note_decided(&lease, clearance.permit().workload(), &governance);
            return self.give_again(peer, &lease, trail).await;
        }
        // Clients of other protocols know no leases and ask again and again.
        if ask.adapter.is_some()
            && let Some(lease) = self.of_same_use(clearance.permit(), &bound)
        {
            self.bound(&lease.holder.key()).await;
            self.note_decided(&lease, clearance.permit().workload(), &governance);
            return self.give_again(peer, &lease, trail).await;
        }
        self.must_have_room().await?;
        let draft = self.draft(clearance.permit(), &bound, key, trail.request)?;
        let engine = self.engine(&draft.engine)?;
        let secret = clearance.permit().intent().secret();
        let (joined, turn) = self.join(secret, &draft).await?;
        let slot = match joined {
            Some(slot) => slot,
            None => self.leases.reserve(draft, engine.has_upstream(secret)).await?, // the debt is written down first
        };
        crate::failpoint!("reserved");
        let id = slot.lease().id;
        let unsettled = Unsettled { broker: self, id };
        match self.deliver(peer, &governance, &clearance, slot, bound, trail).await {
            Ok(delivery) => {
                std::mem::forget(unsettled);
                if let Some(mut turn) = turn {
                    *turn = Some(id);
                }
                Ok(delivery)
            }
            Err((reason, stop)) => {
                // Whatever failed, the lease ends: nobody has the secret, and nothing may stay upstream. Others need not wait for that.
                drop(turn);
                self.end(id, reason).await;
                Err(stop)
            }
        }
    }

    /// A lease that cannot be written down any more is none: what is written to end it would eat up the room that is kept for endings.
    async fn must_have_room(&self) -> Result<(), Stop> {
        if crate::mutation!("reserve-first") {
            return Ok(());
        }
        if !self.leases.has_room().await {
            return Err(AppendError::NoSpace.into());
        }
        if self.audit.has_room().await { Ok(()) } else { Err(AuditError::NoSpace.into()) }
    }

    async fn deliver(
        self: &Arc<Self>,
        peer: &Caller,
        governance: &super::Governance,
        clearance: &Clearance,
        slot: Slot,
        bound: Bound,
        trail: &Trail,
    ) -> Result<Delivery, (EndReason, Stop)> {
        let unfinished = |stop: Stop| (EndReason::Unfinished, stop);
        let permit = clearance.permit();
        let engine = self.engine(&slot.lease().engine).map_err(unfinished)?;
        let order = order(slot.lease(), permit.intent().secret(), self.clock.boot());
        crate::failpoint!("before-issue");
        let issued = match slot.joined() {
            None => engine.issue(&order).await,
            Some(reference) => engine.read(&order, reference).await,
        };
        let issued = issued.map_err(|error| unfinished(error.into()))?;
        crate::failpoint!("after-issue");
        // Watched before it is live: a holder that dies in between is noticed.
        let watch = self.reaper.watch(self, slot.lease(), bound);
        let event = record::of_lease(Kind::Issue, slot.lease());
        let event = Self::issue_event(event, trail, &issued, &order.intent_digest(), slot.lease().shares);
        let reference = issued.reference.clone();
        let never = crate::dies_next!("unrecorded");
        let record = async {
            if never {
                std::future::pending::<()>().await;
            }
            self.audit.append(event, Need::Durable).await
        };
        // Side by side: a crash may leave either without the other, and nobody was answered then.
        let (lease, recorded) = tokio::join!(self.leases.commit(slot, reference), record);
        let lease = lease.map_err(|error| unfinished(error.into()))?;
        let recorded = recorded.map_err(|error| unfinished(error.into()))?; // no record, no secret
        self.leases.note_decided(lease.id, governance.generation);
        crate::failpoint!("after-record");
        if self.reaper.is_gone(&lease.holder.key(), watch) {
            return Err((EndReason::HolderGone, Refusal::new(Code::PEER_GONE).into()));
        }
        // It may have been ended while the record was written, or its credential withdrawn from those who have it.
        let withdrawn = self.leases.is_withdrawn(lease.credential());
        if withdrawn || !self.leases.find(lease.id).is_some_and(|now| now.state == State::Live) {
            return Err((EndReason::Policy, Refusal::new(Code::LEASE_ENDED).into()));
        }
        if self.is_frozen() || self.governance().generation != governance.generation {
            return Err((
                EndReason::Policy,
                Refusal::new(Code::FROZEN).message("Policy changed while this was decided; ask again.").into(),
            ));
        }
        // The same process, the same program, right now: the warm check at its end is the last thing before the answer.
        if let Err(refusal) = self.attestor.still_for_issue(peer).await {
            // That nobody could look says nothing about the holder.
            let reason = match refusal.code == Code::ATTESTATION_FAILED {
                true => EndReason::Unfinished,
                false => changed_or_gone(&peer.subject().pins.pidfd).await,
            };
            return Err((reason, refusal.into()));
        }
        crate::failpoint!("looked-again");
        let mut clamped = clamped(permit);
        if lease.expires < lease.issued.plus(lease.ttl) {
            clamped.push(format!("ttl {} was shortened: the credential is shared and lasts until {}", lease.ttl, lease.expires.rfc3339()));
        }
        self.metrics.issued(&issued.attributes);
        Ok(Delivery::new(trail.request, lease, issued, clamped, recorded))
    }

    fn issue_event(lease: Event, trail: &Trail, issued: &Issued, intent: &str, shares: Option<LeaseId>) -> Event {
        let version = issued.reference.0.get("version").and_then(serde_json::Value::as_u64);
        let event = record::with(trail.fill(lease, version).outcome(Outcome::Done), Event::credential, &issued.reference.named());
        let event = match Word::parse(intent) {
            Ok(digest) => event.intent(digest),
            Err(_) => event,
        };
        record::Given { pinned: trail.pinned, shares, age: stale_age(&issued.attributes) }.on(event)
    }

    /// Puts a refusal on the record and says what the caller is told.
    pub(super) async fn refuse(&self, trail: &Trail, stop: Stop) -> Refusal {
        if let Stop::Fault(fault) = &stop {
            tracing::error!(request = %trail.request, error = %fault, "a request failed");
        }
        let refusal = stop.refusal();
        self.metrics.refused(refusal.code.as_str());
        match self.audit.append(trail.stopped(&stop), Need::Soon).await {
            Ok(_) => Refusal { recorded: true, ..refusal },
            // There is no answering around the record.
            Err(error) => Stop::from(error).refusal(),
        }
    }

    /// Puts a body that could not be parsed on the record, with who sent it and what of it could be read.
    pub async fn record_malformed(&self, peer: &Caller, request: RequestId, body: &[u8], refusal: Refusal) -> Refusal {
        let mut trail = Trail::new(request, peer);
        trail.asked = Some(Asked::of(&Ask::salvage(body)));
        // Whoever it is, or is not: the refusal stays what it is.
        let _ = self.attested(peer, &mut trail);
        self.refuse(&trail, refusal.into()).await
    }

    /// Puts a connection that was cut, or a peer that could not be attested, on the record, and says what it may be told.
    pub async fn record_cut(&self, request: RequestId, uid: u32, peer: Option<&Caller>, refusal: Refusal) -> Refusal {
        let trail = match peer {
            Some(peer) => Trail::new(request, peer),
            None => Trail::of_uid(request, uid),
        };
        self.refuse(&trail, refusal.into()).await
    }

    /// The lease that the same key led to before. Another body or another holder is refused, and what the same words no longer stand for.
    fn repeated(&self, key: &Option<(String, String)>, bound: &Bound, permit: &Permit) -> Result<Option<Arc<Lease>>, Stop> {
        let Some((key, digest)) = key else { return Ok(None) };
        let Some(lease) = self.leases.find_key(&permit.workload().identity().name, key) else { return Ok(None) };
        let same_body = lease.idempotency.as_ref().is_some_and(|known| known.1 == *digest);
        let stands = (lease.operation, &lease.recipe) == (permit.effective().operation, &permit.intent().secret().recipe);
        match same_body && stands && lease.holder.key() == bound.holder.key() {
            true if lease.state == State::Live => Ok(Some(lease)),
            true => Ok(None),
            false => Err(Refusal::new(Code::IDEMPOTENCY).into()),
        }
    }

    pub(super) fn must_be_within_limit(&self, identity: &crate::model::IdentityName) -> Result<(), Refusal> {
        let (live, allowed) = (self.leases.count_of(identity), self.settings.per_identity);
        if live < allowed {
            return Ok(());
        }
        Err(Refusal::new(Code::LIMIT).detail(format!("{identity} has {live} live leases; leases.per_identity allows {allowed}")))
    }

    fn draft(&self, permit: &Permit, bound: &Bound, key: Option<(String, String)>, request: RequestId) -> Result<Lease, Stop> {
        let (workload, intent, effective) = (permit.workload(), permit.intent(), permit.effective());
        let (identity, secret) = (workload.identity(), intent.secret());
        self.must_be_within_limit(&identity.name)?;
        let (wall, boot) = (self.clock.wall(), self.clock.boot());
        Ok(Lease {
            id: LeaseId::from_parts(wall.unix_ms(), self.random.u128()),
            request,
            identity: identity.name.clone(),
            identity_kind: identity.kind,
            assurance: workload.assurance(),
            secret: secret.name.clone(),
            recipe: secret.recipe.clone(),
            engine: secret.engine.clone(),
            sensitivity: secret.sensitivity,
            ends_by: secret.ends_by,
            owner: secret.owner.clone(),
            purpose: intent.claimed().purpose.clone(),
            operation: effective.operation,
            hosts: effective.hosts.clone(),
            channel: intent.channel(),
            source: intent.source(),
            holder: bound.holder.clone(),
            ttl: effective.ttl,
            issued: wall,
            expires: wall.plus(effective.ttl),
            deadline: boot.plus(effective.ttl),
            uses: effective.uses,
            reads_max: secret.reads_max,
            renewable: permit.renewable(),
            grant: permit.grant().id.clone(),
            bundle: permit.bundle().clone(),
            idempotency: key.map(Box::new),
            shares: None,
            reference: Default::default(),
            state: State::Reserved,
        })
    }
}

/// Ends a lease whose pipeline did not come to its end, a panic included. An end that was carried through already is not repeated.
struct Unsettled<'a> {
    broker: &'a Arc<Broker>,
    id: LeaseId,
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        let _carried_through_by_itself = self.broker.begin_end(self.id, EndReason::Unfinished);
    }
}

/// What policy lets be injected or signed with must never be handed over instead, and nothing injects or signs yet.
pub(super) fn served(channel: Channel) -> Result<(), Refusal> {
    if channel == Channel::Deliver || crate::mutation!("handed-over") { Ok(()) } else { Err(Refusal::new(Code::CHANNEL_UNAVAILABLE)) }
}

/// Where the secret is given to a key of the process's own only, there must be one.
pub(super) fn may_be_given(secret: &SecretDefinition, trail: &Trail) -> Result<(), Refusal> {
    if !secret.pinned || trail.pinned || crate::mutation!("pinned-only") { Ok(()) } else { Err(Refusal::new(Code::PINNED_REQUIRED)) }
}

/// What the engine is told about a lease.
pub(super) fn order<'a>(lease: &'a Lease, secret: &'a SecretDefinition, now: BootTime) -> Order<'a> {
    Order {
        lease: lease.credential(),
        request: lease.request,
        secret,
        identity: &lease.identity,
        purpose: &lease.purpose,
        operation: lease.operation,
        hosts: &lease.hosts,
        issued: lease.issued,
        expires: lease.expires,
        left: Duration::from_micros(lease.deadline.0.saturating_sub(now.0)),
    }
}

/// What policy shortened, in words: only what the caller or its declared use had said.
pub(super) fn clamped(permit: &Permit) -> Vec<String> {
    let (said, granted) = (permit.intent().claimed(), permit.effective());
    let mut out = Vec::new();
    if let Some(ttl) = said.ttl.filter(|ttl| *ttl > granted.ttl) {
        out.push(format!("ttl {ttl} was shortened to {}", granted.ttl));
    }
    if let Some(operation) = said.operation.filter(|operation| *operation != granted.operation) {
        out.push(format!("operation {operation} was asked for; the credential is for {}", granted.operation));
    }
    if let Some(uses) = said.uses.filter(|uses| *uses > granted.uses) {
        out.push(format!("uses {uses} were reduced to {}", granted.uses));
    }
    out
}
