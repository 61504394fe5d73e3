//! What a caller is told about its leases as it happens: that one ends, lives longer, or that its secret has a newer value.
//!
//! A watch keeps what it has told and compares that with what is true when it is asked for more. Nothing is queued for anybody: a reader
//! that is slow misses no change, gets several as one, and delays nobody. No value is ever in it.

use super::{Broker, Caller, Stop, record::Trail};
use crate::{
    attest::Workload,
    lease::{HolderKey, Lease, State},
    model::{BootTime, EndsBy, IdentityName, LeaseId, Refusal, RequestId, SecretName, WallTime},
    wire::LeaseEvent,
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch::{Receiver, Sender};

/// Changes of one identity within this time are looked at together.
const TOGETHER: Duration = Duration::from_millis(100);
/// The engine whose source is changed by others.
const SAYS_NOTHING: &str = "openbao";
/// How often the caller is attested again, and sources are asked, when nothing changes here.
const EVERY: Duration = Duration::from_secs(15);

/// Who waits for changes, by identity.
#[derive(Default)]
pub(super) struct Watchers {
    waiting: Mutex<HashMap<IdentityName, Sender<()>>>,
    /// So that most daemons, where nobody waits, pay one look at a number.
    identities: AtomicUsize,
    /// When sources were asked last about a secret.
    asked: Mutex<HashMap<SecretName, BootTime>>,
}

impl Watchers {
    /// Held for lookups; nothing can be left half changed.
    fn lock(&self) -> MutexGuard<'_, HashMap<IdentityName, Sender<()>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, identity: &IdentityName) -> Receiver<()> {
        let mut waiting = self.lock();
        waiting.retain(|_, sender| sender.receiver_count() > 0);
        let receiver = waiting.entry(identity.clone()).or_insert_with(|| Sender::new(())).subscribe();
        self.identities.store(waiting.len(), Ordering::Release);
        receiver
    }

    /// Something about a lease of this identity is different now.
    pub(super) fn tell(&self, identity: &IdentityName) {
        if self.identities.load(Ordering::Acquire) > 0
            && let Some(sender) = self.lock().get(identity)
        {
            sender.send_replace(());
        }
    }

    /// Whether a source may be asked about this secret again; then it counts as asked.
    fn may_ask(&self, secret: &SecretName, now: BootTime) -> bool {
        let long = EVERY.as_micros() as u64;
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        // Secrets that nobody watches any more are forgotten.
        asked.retain(|_, at| now.since(*at) < long);
        let may = !asked.contains_key(secret);
        if may {
            asked.insert(secret.clone(), now);
        }
        may
    }

    /// Values of secrets are others now, whoever has leases of them.
    pub(super) fn tell_all(&self) {
        self.lock().values().for_each(|sender| {
            sender.send_replace(());
        });
    }
}

/// What was told last of one lease.
struct Told {
    secret: SecretName,
    key: HolderKey,
    expires: WallTime,
    newest: bool,
}

/// One caller's watch.
pub struct LeaseWatch {
    broker: Arc<Broker>,
    peer: Arc<Caller>,
    identity: IdentityName,
    changes: Receiver<()>,
    /// Who the caller is or belongs to.
    holders: HashSet<HolderKey>,
    told: BTreeMap<LeaseId, Told>,
    /// What the first answer is made of.
    first: Option<Vec<Arc<Lease>>>,
}

impl Broker {
    /// Begins to watch the leases of a caller: those that it has, and those that the same holders get later.
    pub async fn watch(self: &Arc<Self>, peer: Arc<Caller>, request: RequestId) -> Result<LeaseWatch, Refusal> {
        let mut trail = Trail::new(request, &peer);
        let workload = match self.attested(&peer, &mut trail) {
            Ok(workload) => workload,
            Err(stop) => return Err(self.refuse(&trail, stop).await),
        };
        let identity = workload.identity().name.clone();
        let holders = self.holders_of(&peer, &workload).await;
        // Before the leases are looked at, so that no change falls in between.
        let changes = self.watchers.join(&identity);
        let own = self.leases.all().into_iter().filter(|lease| self.is_told(&peer, &workload, lease)).collect();
        Ok(LeaseWatch { broker: self.clone(), peer, identity, changes, holders, told: BTreeMap::new(), first: Some(own) })
    }

    fn is_told(&self, peer: &Caller, workload: &Workload, lease: &Lease) -> bool {
        lease.state == State::Live && self.may_use(peer, workload, lease)
    }

    /// Who the caller of a watch is now. It must be the process that began it, under the program it had, as the same identity.
    fn watcher(&self, peer: &Caller, identity: &IdentityName) -> Result<Workload, Stop> {
        let workload = self.attest(peer, &self.governance(), &mut Trail::new(self.request_id(), peer))?;
        self.attestor.still(peer)?;
        if workload.identity().name == *identity { Ok(workload) } else { Err(Refusal::new(crate::model::Code::NO_IDENTITY).into()) }
    }

    fn is_newest(&self, lease: &Lease) -> bool {
        let governance = self.governance();
        match (governance.catalogue.find(&lease.secret), self.engines.find(&lease.engine)) {
            (Some(secret), Some(engine)) => engine.is_newest(secret, &lease.reference),
            // A secret that is gone has no newer value.
            _ => true,
        }
    }

    /// Asks the sources of these secrets what they have now, those that say nothing by themselves, and however many watch them once in a
    /// while; whether one was asked. One that cannot be reached has nothing new.
    async fn look_for_newer(&self, secrets: HashSet<SecretName>) -> bool {
        let mut asked = false;
        for name in secrets.into_iter().filter(|name| self.watchers.may_ask(name, self.clock.boot())) {
            let secret = self.governance().catalogue.find(&name).filter(|secret| secret.ends_by == EndsBy::None).cloned();
            let engine = secret.as_ref().and_then(|secret| self.engines.find(&secret.engine));
            if let (Some(secret), Some(engine)) = (&secret, engine.filter(|engine| engine.kind() == SAYS_NOTHING)) {
                asked = true;
                if let Err(error) = engine.newest(secret).await {
                    tracing::debug!(secret = %name, %error, "whether there is a newer value is not known");
                }
            }
        }
        asked
    }
}

impl LeaseWatch {
    /// What is different since the last call: at once at the first, and empty now and then, so that whoever is gone is noticed. `None` when
    /// the caller is no longer who began this.
    pub async fn next(&mut self) -> Option<Vec<LeaseEvent>> {
        if let Some(own) = self.first.take() {
            return Some(self.compare(own));
        }
        let now = tokio::time::sleep(EVERY);
        tokio::pin!(now);
        loop {
            let quiet = tokio::select! {
                changed = self.changes.changed() => {
                    changed.ok()?;
                    tokio::time::sleep(TOGETHER).await;
                    self.changes.mark_unchanged();
                    false
                }
                () = &mut now => {
                    // Beside it: a source that hangs makes nobody deaf.
                    let (broker, identity) = (self.broker.clone(), self.identity.clone());
                    let secrets = self.told.values().map(|told| told.secret.clone()).collect();
                    tokio::spawn(async move {
                        if broker.look_for_newer(secrets).await {
                            broker.watchers.tell(&identity);
                        }
                    });
                    true
                }
            };
            let own = self.own()?;
            let events = self.compare(own);
            // What happens to others of the identity is none of this caller's business.
            if quiet || !events.is_empty() {
                return Some(events);
            }
        }
    }

    /// The leases that the caller may use now, if it is who began this.
    fn own(&self) -> Option<Vec<Arc<Lease>>> {
        let workload = self.broker.watcher(&self.peer, &self.identity).ok()?;
        let told = self.told.values().map(|told| &told.key).filter(|key| !self.holders.contains(*key)).collect::<HashSet<_>>();
        let held = self.holders.iter().chain(told).flat_map(|key| self.broker.leases.of_holder(key));
        let mut own: Vec<Arc<Lease>> = held.filter(|lease| self.broker.is_told(&self.peer, &workload, lease)).collect();
        own.sort_by_key(|lease| lease.id);
        Some(own)
    }

    fn compare(&mut self, own: Vec<Arc<Lease>>) -> Vec<LeaseEvent> {
        let mut events = Vec::new();
        let before = std::mem::take(&mut self.told);
        for lease in own {
            let newest = self.broker.is_newest(&lease);
            let told = before.get(&lease.id);
            if told.is_none_or(|told| told.expires != lease.expires) {
                events.push(LeaseEvent::Lease(Box::new(self.broker.view(&lease))));
            }
            if !newest && told.is_none_or(|told| told.newest) {
                events.push(LeaseEvent::Rotated { lease: lease.id, secret: lease.secret.clone() });
            }
            let told = Told { secret: lease.secret.clone(), key: lease.holder.key(), expires: lease.expires, newest };
            self.told.insert(lease.id, told);
        }
        for (id, told) in before {
            if !self.told.contains_key(&id) {
                let reason = match self.broker.leases.find(id).map(|lease| lease.state) {
                    Some(State::Ending { reason, .. }) => Some(reason),
                    _ => self.broker.leases.find_ended(id).map(|ended| ended.reason),
                };
                events.push(LeaseEvent::Ended { lease: id, secret: told.secret, reason });
            }
        }
        events
    }
}
