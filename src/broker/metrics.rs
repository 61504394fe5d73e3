//! Figures for operators' collectors.

use crate::engine::{Attribute, stale_age};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use std::sync::Mutex;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCode {
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByEnd {
    reason: String,
    result: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByResult {
    result: String,
}

/// Counters that the pipeline moves.
pub struct Metrics {
    registry: Mutex<Registry>,
    issued: Counter,
    reads: Counter,
    stale: Counter,
    refused: Family<ByCode, Counter>,
    ended: Family<ByEnd, Counter>,
    retried: Counter,
    irrevocable: Counter,
    rotated: Family<ByResult, Counter>,
    rotations_failing: Gauge,
    rotations_overdue: Gauge,
    end_seconds: Histogram,
    leases: Gauge,
    holders: Gauge,
    connections: Gauge,
    audit_seq: Gauge,
    frozen: Gauge,
    attestor: Gauge,
    attestor_lost: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("claviger");
        let metrics = Self {
            issued: Counter::default(),
            reads: Counter::default(),
            stale: Counter::default(),
            refused: Family::default(),
            ended: Family::default(),
            retried: Counter::default(),
            irrevocable: Counter::default(),
            rotated: Family::default(),
            rotations_failing: Gauge::default(),
            rotations_overdue: Gauge::default(),
            end_seconds: Histogram::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0]),
            leases: Gauge::default(),
            holders: Gauge::default(),
            connections: Gauge::default(),
            audit_seq: Gauge::default(),
            frozen: Gauge::default(),
            attestor: Gauge::default(),
            attestor_lost: Gauge::default(),
            registry: Mutex::default(),
        };
        registry.register("leases_issued", "Leases issued", metrics.issued.clone());
        registry.register("lease_reads", "Values of live leases read again", metrics.reads.clone());
        registry.register("stale_values", "Values given as they were known, their sources could not be asked", metrics.stale.clone());
        registry.register("requests_refused", "Requests refused, by code", metrics.refused.clone());
        registry.register("leases_ended", "Leases ended, by reason and result", metrics.ended.clone());
        registry.register("lease_end_retries", "Tries to end a lease that did not come through", metrics.retried.clone());
        registry.register("leases_irrevocable", "Leases whose end was given up", metrics.irrevocable.clone());
        registry.register("rotations", "Values that were changed at their sources or could not be, by result", metrics.rotated.clone());
        let failing = "Values that could not be changed, do not work or cannot be looked at";
        registry.register("rotations_failing", failing, metrics.rotations_failing.clone());
        registry.register("rotations_overdue", "Values that should have been changed by now", metrics.rotations_overdue.clone());
        registry.register("lease_end_seconds", "From the cause of an end to the source's answer", metrics.end_seconds.clone());
        registry.register("leases", "Leases that are not over", metrics.leases.clone());
        registry.register("holders", "Holders that are watched", metrics.holders.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register("audit_sequence", "Number of the last audit record", metrics.audit_seq.clone());
        registry.register("frozen", "1 while an operator has stopped issuing", metrics.frozen.clone());
        registry.register("attestor", "1 while somebody can be asked who a caller is", metrics.attestor.clone());
        registry.register("attestor_lost", "How often the attestor was lost since the start", metrics.attestor_lost.clone());
        *metrics.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = registry;
        metrics
    }
}

impl Metrics {
    pub(super) fn issued(&self, attributes: &[Attribute]) {
        self.issued.inc();
        self.given(attributes);
    }
    pub(super) fn read(&self, attributes: &[Attribute]) {
        self.reads.inc();
        self.given(attributes);
    }
    fn given(&self, attributes: &[Attribute]) {
        if stale_age(attributes).is_some() {
            self.stale.inc();
        }
    }
    pub(super) fn refused(&self, code: &str) {
        self.refused.get_or_create(&ByCode { code: code.to_owned() }).inc();
    }
    pub(super) fn ended(&self, reason: &str, result: &str, micros: u64) {
        self.ended.get_or_create(&ByEnd { reason: reason.to_owned(), result: result.to_owned() }).inc();
        self.end_seconds.observe(micros as f64 / 1e6);
    }
    pub(super) fn rotated(&self, done: bool) {
        self.rotated.get_or_create(&ByResult { result: if done { "done" } else { "failed" }.to_owned() }).inc();
    }
    pub(super) fn retried(&self) {
        self.retried.inc();
    }
    pub(super) fn irrevocable(&self) {
        self.irrevocable.inc();
    }

    /// A connection was accepted (+1) or closed (-1).
    pub fn connections(&self, change: i64) {
        self.connections.inc_by(change);
    }
}

impl super::Broker {
    /// All figures in the OpenMetrics text format.
    pub fn metrics_text(&self) -> String {
        let metrics = &self.metrics;
        metrics.leases.set(self.leases.count() as i64);
        metrics.holders.set(self.reaper.count() as i64);
        metrics.audit_seq.set(self.audit.status().seq as i64);
        metrics.frozen.set(i64::from(self.is_frozen()));
        metrics.attestor.set(i64::from(self.attestor.source().trouble().is_none()));
        metrics.attestor_lost.set(self.attestor.source().lost() as i64);
        let rotations = self.list_rotations();
        metrics.rotations_failing.set(rotations.iter().filter(|row| row.trouble.is_some()).count() as i64);
        metrics.rotations_overdue.set(rotations.iter().filter(|row| row.overdue).count() as i64);
        let mut text = String::new();
        let registry = metrics.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // Writing into a String cannot fail.
        encode(&mut text, &registry).map_or_else(|_| String::new(), |()| text)
    }
}
