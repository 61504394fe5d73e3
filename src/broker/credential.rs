//! What a unit loads as a credential before its program runs.

use super::{Broker, Caller, Delivery, record::Asked, record::Trail};
use crate::{
    intent::{Adapter, Ask, HolderChoice},
    model::{CredentialName, Refusal, RequestId},
};
use std::sync::Arc;

impl Broker {
    /// The value for a unit's credential, if the peer is PID 1 starting that unit. The unit is the holder: the lease ends when nothing of it
    /// runs any more.
    pub async fn credential(
        self: &Arc<Self>,
        caller: Caller,
        unit: &str,
        credential: CredentialName,
        request: RequestId,
    ) -> Result<Delivery, Refusal> {
        let ask = Ask { credential: Some(credential), adapter: Some(Adapter::Systemd), holder: Some(HolderChoice::Unit), ..Ask::default() };
        match self.attestor.starting_unit(&caller, unit, &self.governance().roll).await {
            Ok(unit) => self.issue(Arc::new(caller.starting(unit)), ask, &[], request, None).await,
            Err(refusal) => Err(self.no_credential(&caller, Some(&ask), request, refusal).await),
        }
    }

    /// Puts on the record that somebody asked who is not the service manager.
    pub async fn no_credential(&self, caller: &Caller, ask: Option<&Ask>, request: RequestId, refusal: Refusal) -> Refusal {
        let mut trail = Trail::new(request, caller);
        (trail.adapter, trail.asked) = (Some(Adapter::Systemd), ask.map(Asked::of));
        // Whoever it is, operators should see which process it was.
        trail.nobody = self.attestor.examine(caller, &self.governance().roll).ok().map(|attested| attested.candidate.facts);
        self.refuse(&trail, refusal.into()).await
    }
}
