//! Leases as holders and operators see them.

use super::Broker;
use crate::{
    lease::{Lease, State},
    wire::{HolderView, LeaseView},
};

impl Broker {
    /// Whole seconds that a lease has left.
    pub fn remaining(&self, lease: &Lease) -> u64 {
        lease.deadline.since(self.clock.boot()) / 1_000_000
    }

    /// One lease, now.
    pub fn view(&self, lease: &Lease) -> LeaseView {
        let (state, reason) = match lease.state {
            State::Reserved => ("reserved", None),
            State::Live => ("live", None),
            State::Ending { reason, irrevocable: false, .. } => ("ending", Some(reason)),
            State::Ending { reason, irrevocable: true, .. } => ("irrevocable", Some(reason)),
        };
        LeaseView {
            id: lease.id,
            state: state.to_owned(),
            identity: lease.identity.clone(),
            secret: lease.secret.clone(),
            sensitivity: lease.sensitivity,
            ends_by: lease.ends_by,
            purpose: lease.purpose.clone(),
            operation: lease.operation,
            hosts: lease.hosts.clone(),
            channel: lease.channel,
            holder: HolderView {
                kind: lease.holder.kind,
                pid: lease.holder.pid,
                cgroup: lease.holder.cgroup.as_ref().map(|group| group.path.clone()),
            },
            issued: lease.issued.rfc3339(),
            expires: lease.expires.rfc3339(),
            remaining: self.remaining(lease),
            ttl: lease.ttl.as_secs(),
            uses: lease.has_counted_uses().then_some(lease.uses),
            renewable: lease.renewable,
            shares: lease.shares,
            reason,
            result: None,
        }
    }

    /// A lease that was just given back: what became of it, if its end is known already.
    pub fn view_now(&self, lease: &Lease) -> LeaseView {
        if let Some(ended) = self.leases.find_ended(lease.id) {
            let view = self.view(lease);
            return LeaseView { state: "ended".to_owned(), remaining: 0, reason: Some(ended.reason), result: Some(ended.result), ..view };
        }
        self.leases.find(lease.id).map_or_else(|| self.view(lease), |now| self.view(&now))
    }
}
