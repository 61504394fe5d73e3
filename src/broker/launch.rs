//! Programs that are started apart: the launcher asks for a group, and it is on the record before it is given.

use super::{
    Broker, Caller,
    record::{self, Trail},
};
use crate::{
    attest::launcher,
    audit::Need,
    audit::{Event, Kind, Outcome, Recordable},
    launch::{Question, taken},
    model::{Code, Refusal},
    sys::PeerCred,
};
use serde::Serialize;
use std::sync::Arc;

/// What was launched; the `more` of its record.
#[derive(Serialize)]
struct Launched {
    name: String,
    group: u32,
    descendants: bool,
}

/// A checked name and numbers.
impl Recordable for Launched {}

impl Broker {
    /// A group for the process at the other end, which must be the launcher; the process is known by it from then on. `sender` is who wrote
    /// the question.
    pub async fn launch(self: &Arc<Self>, caller: &Caller, question: &[u8], sender: PeerCred) -> Result<u32, Refusal> {
        let mut trail = Trail::new(self.request_id(), caller);
        match self.launched(caller, question, sender, &mut trail).await {
            Ok(group) => Ok(group),
            Err(refusal) => Err(self.refuse(&trail, refusal.into()).await),
        }
    }

    async fn launched(self: &Arc<Self>, caller: &Caller, question: &[u8], sender: PeerCred, trail: &mut Trail) -> Result<u32, Refusal> {
        let unavailable = |why: String| Refusal::new(Code::LAUNCH_UNAVAILABLE).message(why);
        // Its privilege, its file and its namespaces were read when it connected; the warm check below says that they are the same.
        let (facts, is_launcher) = launcher(caller, &self.settings.launcher);
        trail.nobody = facts;
        is_launcher?;
        if sender != caller.sender() {
            return Err(Refusal::new(Code::FOREIGN_WRITER));
        }
        let question = Question::decode(question)
            .ok_or_else(|| Refusal::new(Code::MALFORMED).message("The launcher is of another version than the daemon."))?;
        if let Some(why) = &self.read_only {
            return Err(Refusal::new(Code::READ_ONLY).detail(why.clone()));
        }
        let governance = self.governance();
        // Below an agent everything is that agent; and nothing that it has started apart is to be anything else once it has left the tree.
        if self.attestor.examine(caller, &governance.roll)?.of_agent {
            return Err(Refusal::new(Code::AGENT_DESCENDANT).detail(format!("an agent, or what it started, asks for {}", question.name)));
        }
        let launches = self.attestor.launches().ok_or_else(|| unavailable("The daemon keeps no table of launches.".to_owned()))?.clone();
        self.attestor.still(caller)?;
        let group = {
            let (launches, name, descendants, caller) =
                (launches.clone(), question.name.clone(), question.descendants, caller.own().clone());
            let work = move || {
                // Looked at each time: root may have given the range to somebody since.
                let read = |path: &str| {
                    std::fs::read_to_string(path)
                        .or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(String::new()) } else { Err(error) })
                };
                let taken = match (read("/etc/subgid"), read("/etc/group")) {
                    (Ok(subgid), Ok(group)) => taken(&subgid, &group),
                    (Err(error), _) | (_, Err(error)) => Some(format!("who has which groups cannot be read: {error}")),
                };
                match taken {
                    Some(why) => Err(Refusal::new(Code::LAUNCH_UNAVAILABLE).message(format!("{why}, which launches need for themselves."))),
                    None => launches.register(&caller, &name, descendants),
                }
            };
            // The disk is waited for.
            tokio::task::spawn_blocking(work).await.map_err(|error| unavailable(error.to_string()))??
        };
        let more = record::facts(&Launched { name: question.name.to_string(), group, descendants: question.descendants });
        let mut event: Event = trail.event(Kind::Launch).outcome(Outcome::Done);
        if let Some(more) = more {
            event = event.more(more);
        }
        if let Err(error) = self.audit.append(event, Need::Durable).await {
            launches.forget(group);
            return Err(super::Stop::from(error).refusal());
        }
        Ok(group)
    }
}
