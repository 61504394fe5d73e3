//! What engines keep of values beside their sources: looked through now and then, shown to operators, and let go when they say so.

use super::{Act, Broker, Fault, Governance, Operator, Stop};
use crate::{
    engine::Kept,
    lease::State,
    model::{BootTime, Code, LeaseId, Refusal, RequestId, SecretDefinition, SecretName, WallTime},
    wire::{EvictAnswer, EvictRow, KeptRow},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

/// Between two looks at whether it is time.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at what is kept, in microseconds.
const EVERY: u64 = 60_000_000;

/// Between two records of one lease that say that its value was read again without its source; in microseconds.
const TOLD_EVERY: u64 = 10_000_000;

/// When that was said of which lease.
#[derive(Default)]
pub(super) struct StaleReads(Mutex<HashMap<LeaseId, BootTime>>);

impl StaleReads {
    /// Whether such a read has a record of its own; those in between are counted like any.
    pub(super) fn is_due(&self, lease: LeaseId, now: BootTime) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.get(&lease).is_none_or(|at| now.since(*at) >= TOLD_EVERY);
        if due {
            told.insert(lease, now);
        }
        due
    }

    fn forget(&self, now: BootTime) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, at| now.since(*at) < TOLD_EVERY);
    }
}

impl Broker {
    /// Lets go of what no definition lets be given any more, for ever: at the start, after each change of definitions, and every minute.
    pub(super) async fn keep_tidy(self: Arc<Self>) {
        let mut last: Option<(u64, BootTime)> = None;
        while !self.closed.load(Ordering::Acquire) {
            let (governance, now) = (self.governance(), self.clock.boot());
            // A state that is not this machine's, or not its newest, is left as it is.
            if self.may_end() && last.is_none_or(|(generation, at)| generation != governance.generation || now.since(at) >= EVERY) {
                last = Some((governance.generation, now));
                self.stale_reads.forget(now);
                self.tidy(&governance).await;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    async fn tidy(&self, governance: &Governance) {
        for (name, engine) in self.engines.iter() {
            engine.tidy(&governance.of_engine(name)).await;
        }
    }

    /// What is kept of values, by secret; never a value.
    pub fn list_kept(&self) -> Vec<KeptRow> {
        let (governance, leases) = (self.governance(), self.leases.all());
        let mut used: HashMap<(&SecretName, u64), usize> = HashMap::new();
        for lease in leases.iter().filter(|lease| lease.state == State::Live) {
            if let Some(version) = lease.reference.0.get("version").and_then(serde_json::Value::as_u64) {
                *used.entry((&lease.secret, version)).or_default() += 1;
            }
        }
        let now = self.clock.wall();
        let kept = governance.catalogue.iter().flat_map(|row| {
            let kept = self.engines.find(&row.engine).map(|engine| engine.kept(row)).unwrap_or_default();
            kept.into_iter().map(move |kept| (row, kept))
        });
        let mut rows: Vec<KeptRow> = kept
            .map(|(row, Kept { version, on_disk, age, left, stale })| KeptRow {
                name: row.name.clone(),
                engine: row.engine.clone(),
                version,
                place: if on_disk { "disk" } else { "memory" }.to_owned(),
                stale,
                age: age.map(|age| age / 1_000_000),
                confirmed: age.map(|age| WallTime(now.0.saturating_sub(age)).rfc3339()),
                until: age.map(|_| WallTime(now.0.saturating_add(left)).rfc3339()),
                leases: used.get(&(&row.name, version)).copied().unwrap_or(0),
            })
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// An operator wants it gone: what is kept of one secret's value, or of all. That nothing can be put on the record keeps nobody from it.
    pub async fn evict(self: &Arc<Self>, operator: Operator, name: Option<SecretName>, request: RequestId) -> Result<EvictAnswer, Refusal> {
        let broker = self.clone();
        let task = tokio::spawn(async move { broker.evict_asked(&operator, name.as_ref(), request).await });
        task.await.unwrap_or_else(|_| Err(Stop::from(Fault::Task).refusal()))
    }

    async fn evict_asked(&self, operator: &Operator, name: Option<&SecretName>, request: RequestId) -> Result<EvictAnswer, Refusal> {
        let governance = self.governance();
        let rows: Vec<&Arc<SecretDefinition>> =
            governance.catalogue.iter().filter(|row| name.is_none_or(|name| row.name == *name)).collect();
        if let Some(name) = name.filter(|_| rows.is_empty()) {
            return Err(Refusal::new(Code::NOT_FOUND).message(format!("No definition in secrets.d names {name}.")));
        }
        let act = Act::new("cache-evict", request);
        let act = if let Some(name) = name { act.of(name) } else { act };
        if let Err(refusal) = self.asked(operator, &act).await {
            tracing::error!(code = %refusal.code, "that an operator lets go of what is kept is not on the record");
        }
        let mut evicted = Vec::new();
        for row in rows {
            let Some(engine) = self.engines.find(&row.engine) else { continue };
            let copies = engine.evict(row).await;
            if copies > 0 {
                evicted.push(EvictRow { name: row.name.clone(), copies });
            }
        }
        self.acted(operator, &act, None).await;
        Ok(EvictAnswer { request, evicted })
    }
}
