//! A live lease's value again, the short way: for a holder that asks often, and of which everything is known already.

use super::{Broker, Caller, Delivery, issue::order, issue::served};
use crate::{
    lease::State,
    model::{LeaseId, RequestId, Sensitivity},
};

impl Broker {
    /// The value of a live lease below `restricted` where nothing has to be waited for, found out, decided or written: who asks was
    /// attested and policy was asked about the lease under the generation in force, an earlier read's record stands for this one, and
    /// the engine makes the value at once. `None` says that [`Broker::read`] has to be asked; nothing was counted then.
    pub fn read_now(&self, peer: &Caller, id: LeaseId, request: RequestId) -> Option<Delivery> {
        if !self.unbound.is_empty() {
            return None;
        }
        let governance = self.governance.load();
        let known = peer.known(&governance)?;
        let lease = self.leases.read(id, governance.generation, self.clock.boot())?;
        let delivery = (|| {
            let workload = &known.workload;
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
            let credential = self.engines.find(&lease.engine)?.read_now(&order(&lease, secret), &lease.reference)?.ok()?;
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
            Some(_) => self.metrics.read(),
            None => self.leases.uncount_read(id),
        }
        delivery
    }
}
