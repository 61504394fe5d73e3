//! What bears our mark at a source and is in no journal: found once after each start, and ended.
//!
//! Few are what a crash at the worst moment leaves, and end by themselves. Many mean that something is wrong with the journal, not with
//! the source, and wait for a person.

use super::Broker;
use crate::{
    audit::{Event, Kind, Need, Outcome},
    engine::{Engine, UpstreamRef},
    model::{EngineName, LeaseId},
};
use std::{collections::HashSet, sync::Arc, time::Duration};

/// More orphans than this are listed, not ended.
const FEW: usize = 10;
const PAUSE: Duration = Duration::from_secs(60);

impl Broker {
    pub(super) async fn reconcile(self: Arc<Self>) {
        let engines: Vec<(EngineName, Arc<dyn Engine>)> =
            self.engines.iter().map(|(name, engine)| (name.clone(), engine.clone())).collect();
        // An engine with nothing upstream has an empty list.
        for (name, engine) in engines {
            let broker = self.clone();
            tokio::spawn(async move {
                while let Err(error) = broker.reconcile_one(&name, &*engine).await {
                    tracing::warn!(engine = %name, %error, "what is at the source cannot be listed yet");
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    async fn reconcile_one(&self, name: &EngineName, engine: &dyn Engine) -> Result<(), crate::engine::EngineError> {
        // Listed first, compared afterwards: a lease that is made in between is in the table before it is at the source.
        let there = engine.inventory().await?;
        let known: HashSet<LeaseId> = self.leases.all().iter().map(|lease| lease.id).collect();
        let orphans: Vec<LeaseId> = there.into_iter().filter(|id| !known.contains(id)).collect();
        if orphans.len() > FEW {
            let ids: Vec<String> = orphans.iter().map(ToString::to_string).collect();
            tracing::error!(engine = %name, count = orphans.len(), ids = ids.join(" "), "credentials of ours at the source are in no journal; nothing was ended");
            return Ok(());
        }
        for id in orphans {
            engine.end(id, &UpstreamRef::default()).await?;
            tracing::warn!(engine = %name, lease = %id, "ended a credential that was in no journal");
            let event = Event::new(Kind::End).lease(id).outcome(Outcome::Done).detail("found at the source, in no journal");
            if let Err(error) = self.audit.append(event, Need::Soon).await {
                tracing::error!(%error, "an ending is not on the record");
            }
        }
        Ok(())
    }
}
