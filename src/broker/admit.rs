//! Who may speak on the operator socket, and what operators are told about the daemon.

use super::{Broker, Caller, Operator, Stop, record::Trail};
use crate::{
    attest::Eyes,
    intent::Ask,
    model::{Code, IdentityKind, Refusal, RequestId},
    sys,
    wire::Explanation,
};
use serde_json::{Value, json};

impl Broker {
    /// The person at the operator socket. Nobody who is, descends from, or shares a uid with a registered agent: an agent must not be able
    /// to lift its own limits.
    pub async fn admit_operator(&self, peer: &Caller, request: RequestId) -> Result<Operator, Refusal> {
        let governance = self.governance();
        let roll = &governance.roll;
        let mut trail = Trail::new(request, peer);
        let admitted = self.must_be_fresh(peer).and_then(|()| {
            let attested = self.attestor.examine(peer, roll)?;
            let facts = &attested.candidate.facts;
            // Whoever is turned away is on the record as what the kernel says it is.
            trail.nobody = Some(facts.clone());
            let agent = attested.workload.as_ref().ok().map(|workload| workload.identity()).filter(|row| row.kind == IdentityKind::Agent);
            let agent = agent.map_or_else(|| "an agent".to_owned(), |row| format!("the agent {}", row.name));
            let why = match (attested.of_agent, roll.is_agents_uid(facts.uid)) {
                (false, false) => return Ok(Operator::of_facts(facts)),
                _ if crate::mutation!("operator-agent") => return Ok(Operator::of_facts(facts)),
                (true, _) => format!("the process is {agent}, or runs below it"),
                (false, true) => format!("uid {} is one on which an agent is registered", facts.uid),
            };
            Err(Stop::from(Refusal::new(Code::NOT_OPERATOR).detail(why)))
        });
        match admitted {
            Ok(operator) => Ok(operator),
            Err(stop) => Err(self.refuse(&trail, stop).await),
        }
    }

    /// What would be answered if the process with this number asked: for operators, with the reasons.
    pub async fn explain_process(&self, pid: u32, ask: &Ask, request: RequestId) -> Result<Explanation, Refusal> {
        let gone = |error: std::io::Error| {
            Refusal::new(Code::NOT_FOUND).message(format!("There is no process {pid}, or it cannot be attested.")).detail(error.to_string())
        };
        let governance = self.governance();
        let subject = self.attestor.by_pid(pid, &governance.roll).await.map_err(gone)?;
        let attested = self.attestor.examine_process(&subject, &governance.roll)?;
        match attested.workload {
            Ok(workload) => Ok(self.explain_to(&workload, ask, request, true)),
            Err(refusal) => Ok(Explanation {
                request,
                outcome: "refuse".to_owned(),
                error: Some(super::explain::error_view(&refusal)),
                effective: None,
                clamped: Vec::new(),
                because: refusal.detail,
            }),
        }
    }

    /// Who looks at those who ask, and whether that one is there.
    pub fn attestor_status(&self) -> String {
        let source = self.attestor.source();
        match (source.eyes(), source.trouble()) {
            (Eyes::Daemon, _) => "within the daemon".to_owned(),
            (Eyes::Process, None) => format!("a process of its own; lost {} times", source.lost()),
            (Eyes::Process, Some(why)) => {
                format!("NOT THERE, it {why}: nobody new is attested until it is back; leases are kept. Lost {} times", source.lost())
            }
        }
    }

    /// What this deployment does not protect against, in sentences.
    pub fn unprotected(&self) -> Vec<String> {
        let (source, kernel) = (self.attestor.source(), self.attestor.kernel());
        let mut out = Vec::new();
        if source.eyes() == Eyes::Daemon {
            out.push("one process: whoever takes the daemon over has the secrets and can read every process".to_owned());
        }
        if !kernel.peer_pidfd {
            out.push("this kernel does not pin a peer at connect: plain HTTP clients reach uid only".to_owned());
        }
        if !kernel.pidfd_handle {
            out.push("this kernel cannot find a holder again by handle: some leases end when the daemon restarts".to_owned());
        }
        if !source.sees_pid_1() {
            out.push("PID 1 cannot be looked at: the daemon's own namespaces stand in for the host's".to_owned());
        }
        out.extend(self.settings.lacking.iter().cloned());
        // The vault may have grown since, and worse memory than at the start may have been all there was.
        out.extend(sys::vault_shortfall().filter(|why| !self.settings.lacking.contains(why)));
        out
    }

    /// How the audit log stands.
    pub fn audit_status(&self) -> Value {
        let status = self.audit.status();
        json!({
            "seq": status.seq,
            "synced": status.synced,
            "headed": status.headed,
            "hash": hex::encode(status.hash),
            "bytes": status.bytes,
            "low": status.low,
            "failures": status.failures,
            "failure": status.failure.as_ref().map(ToString::to_string),
            "prune_error": status.prune_error,
            "anchored": status.anchored.configured.then_some(status.anchored.seq),
            "anchor_error": status.anchored.error,
            "anchor_stale": status.anchor_stale,
        })
    }

    /// The discovery document and the keys of a `jwt` engine.
    pub fn token_documents(&self, engine: &str) -> Option<(Value, Value)> {
        let engine = self.tokens.iter().find(|(name, _)| name.as_str() == engine)?;
        Some((engine.1.discovery(), engine.1.jwks()))
    }
}
