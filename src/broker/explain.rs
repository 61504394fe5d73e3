//! Questions that issue nothing: who am I, what could I have, would this be granted.

use super::{Broker, Caller, Governance, Stop, issue::served, record::Trail};
use crate::{
    attest::{Attested, Workload},
    intent::{Ask, Claimed, Intent, Source},
    model::{Channel, Refusal, RequestId, SecretDefinition, SecretName},
    policy::{Decision, Evidence},
    wire::{ErrorView, Explanation, IdentityView, SecretView, WhoAmI},
};
use std::sync::Arc;

/// A refusal as callers read it.
pub(super) fn error_view(refusal: &Refusal) -> ErrorView {
    ErrorView {
        code: refusal.code.as_str().to_owned(),
        message: refusal.message.to_string(),
        field: refusal.field.as_ref().map(ToString::to_string),
        needs: refusal.remedies.clone(),
        nonce: None,
        retry_after: refusal.retry_after,
        recorded: refusal.recorded,
    }
}

impl Broker {
    /// Everything that is attested about the peer, whether or not it is a registered identity.
    pub async fn whoami(&self, peer: &Caller, request: RequestId) -> Result<WhoAmI, Refusal> {
        match self.attestor.examine(peer, &self.governance().roll) {
            Ok(attested) => Ok(show(&attested, peer.is_client(), request)),
            Err(refusal) => Err(self.refuse(&Trail::new(request, peer), refusal.into()).await),
        }
    }

    /// What would be answered to this declaration. The decision is made by the same function as for issuing; nothing is issued.
    pub async fn explain(&self, peer: &Caller, ask: &Ask, request: RequestId) -> Result<Explanation, Refusal> {
        let mut trail = Trail::new(request, peer);
        let explained = self.attested(peer, &mut trail).map(|workload| self.explain_to(&workload, ask, request, false));
        match explained {
            Ok(explanation) => Ok(explanation),
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// The same for a workload that is known; with `because` for operators.
    pub(super) fn explain_to(&self, workload: &Workload, ask: &Ask, request: RequestId, because: bool) -> Explanation {
        let governance = self.governance();
        let refused = |refusal: &Refusal, outcome: &str| Explanation {
            request,
            outcome: outcome.to_owned(),
            error: Some(error_view(refusal)),
            effective: None,
            clamped: Vec::new(),
            because: if because { refusal.detail.clone() } else { None },
        };
        let intent = match Intent::declare(ask, workload, &governance.catalogue) {
            Ok(intent) => intent,
            Err(refusal) => return refused(&refusal, "refuse"),
        };
        let decision = governance.bundle.decide(workload, &intent, &Evidence::none(), self.clock.wall(), self.is_frozen());
        if let (Decision::Permit(_), Err(refusal)) = (&decision, served(intent.channel())) {
            return refused(&refusal.detail(decision.explain()), "refuse");
        }
        match &decision {
            Decision::Permit(permit) => Explanation {
                request,
                outcome: "permit".to_owned(),
                error: None,
                effective: serde_json::to_value(permit.effective()).ok(),
                clamped: super::issue::clamped(permit),
                because: because.then(|| decision.explain()),
            },
            Decision::Needs(unmet) => refused(&unmet.refusal(), "needs"),
            Decision::Forbid(no) => refused(&no.refusal(), "refuse"),
        }
    }

    /// The secrets that something grants to the caller, for the purposes it may declare.
    pub async fn secrets_for(&self, peer: &Caller, request: RequestId) -> Result<Vec<SecretView>, Refusal> {
        let mut trail = Trail::new(request, peer);
        match self.attested(peer, &mut trail) {
            Ok(workload) => {
                let governance = self.governance();
                Ok(governance.catalogue.iter().filter_map(|secret| self.reachable(&governance, &workload, secret)).collect())
            }
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// The number of the newest version of a secret that is stored on this host, and when it was stored.
    pub fn newest_version(&self, name: &SecretName) -> Option<(u64, String)> {
        let governance = self.governance();
        let secret = governance.catalogue.find(name)?;
        let stored = self.engines.find(&secret.engine)?.kind() == "local";
        self.local.newest_version(name).filter(|_| stored).map(|(version, at)| (version, at.rfc3339()))
    }

    fn reachable(&self, governance: &Governance, workload: &Workload, secret: &Arc<SecretDefinition>) -> Option<SecretView> {
        let mut purposes = Vec::new();
        let mut outcome = "needs";
        // What is refused for the worst that it allows may be granted for less.
        let operations = || secret.narrows.iter().copied().map(Some).chain([None]);
        let channels = || Channel::ALL.into_iter().filter(|channel| served(*channel).is_ok());
        for purpose in workload.identity().purposes.iter().filter(|purpose| secret.purposes.contains(purpose)) {
            for (channel, operation) in channels().flat_map(|channel| operations().map(move |operation| (channel, operation))) {
                let claimed = Claimed {
                    purpose: purpose.clone(),
                    operation,
                    targets: Vec::new(),
                    ttl: None,
                    uses: None,
                    reason: None,
                    tickets: Vec::new(),
                };
                let intent = Intent::new(secret.clone(), channel, Source::Caller, claimed);
                match governance.bundle.decide(workload, &intent, &Evidence::none(), self.clock.wall(), false) {
                    Decision::Permit(_) => outcome = "permit",
                    Decision::Needs(_) => {}
                    Decision::Forbid(_) => continue,
                }
                if purposes.last() != Some(purpose) {
                    purposes.push(purpose.clone());
                }
            }
        }
        (!purposes.is_empty()).then(|| SecretView {
            name: secret.name.clone(),
            description: secret.description.clone(),
            sensitivity: secret.sensitivity,
            ends_by: secret.ends_by,
            purposes,
            outcome: outcome.to_owned(),
        })
    }
}

fn show(attested: &Attested, via_client: bool, request: RequestId) -> WhoAmI {
    let identity = attested.workload.as_ref().ok().map(|workload| {
        let row = workload.identity();
        IdentityView {
            name: row.name.clone(),
            kind: row.kind,
            owner: row.owner.to_string(),
            environment: row.environment.to_string(),
            purposes: row.purposes.clone(),
            max_sensitivity: row.max_sensitivity,
            expires: row.expires.rfc3339(),
        }
    });
    WhoAmI {
        request,
        assurance: attested.assurance,
        basis: attested.workload.as_ref().ok().and_then(|w| serde_json::to_value(w.basis()).ok()?.as_str().map(str::to_owned)),
        identity,
        refused: attested.workload.as_ref().err().map(error_view),
        selectors: attested.candidate.selectors.iter().map(|s| s.to_string()).collect(),
        attested: serde_json::to_value(&attested.candidate.facts).unwrap_or_default(),
        via_client,
    }
}

impl From<&Refusal> for Stop {
    fn from(refusal: &Refusal) -> Self {
        Stop::Refused(refusal.clone())
    }
}
