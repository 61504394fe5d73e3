//! Closing the books on endings that will not come through: the source is gone for good, or somebody has ended the credential by hand. An
//! operator says so and why; nothing is forgotten unasked.

use super::{Broker, Selection};
use crate::{
    audit::{Ended, Kind, Outcome},
    lease::State,
    model::{Code, EndResult, Line, Refusal, RequestId},
    wire::EndRow,
};
use std::sync::Arc;

impl Broker {
    /// Closes the books on everything selected whose ending was given up after its tries; what may still end by itself is not touched.
    pub async fn forget_selected(self: &Arc<Self>, selection: &Selection, why: &Line, request: RequestId) -> Result<Vec<EndRow>, Refusal> {
        // Whoever held what is given up is gone as a rule, and its number somebody else's.
        let numbered = match selection {
            Selection::Process(_) => Some("pid"),
            Selection::Tree(_) => Some("tree"),
            _ => None,
        };
        if let Some(field) = numbered {
            return Err(Refusal::field(field, "cannot be given up: name the lease, its identity or its secret"));
        }
        let all = self.leases.all();
        let chosen = self.choose(selection, &all).await?;
        let given_up = |state: &State| matches!(state, State::Ending { irrevocable: true, .. });
        let leases = all.iter().filter(|lease| given_up(&lease.state) && chosen.has(lease));
        let (mut rows, mut tried_now) = (Vec::new(), false);
        for lease in leases.cloned() {
            let _under_way = self.ending.read().await;
            // Whoever tries it once more at this moment has the right to end it.
            let Some(ending) = self.may_end().then(|| self.leases.resume_end(lease.id)).flatten() else {
                tried_now = self.may_end();
                continue;
            };
            let State::Ending { tries, .. } = lease.state else { continue };
            let now = self.clock.wall();
            let result = EndResult::Irrevocable;
            let told =
                Ended { reason: ending.reason(), result, asked: ending.since(), ended: now, dead: None, attempts: tries, proof: None };
            self.reaper.release(&lease);
            self.on_record(self.about(Kind::End, &ending).ended(told).cause(request).outcome(Outcome::Failed).detail(why)).await;
            if let (_, Err(error)) = self.leases.end(ending, result, now).await {
                tracing::error!(lease = %lease.id, %error, "a lease that an operator gave up is not in the journal; it comes back after a restart");
            }
            rows.push(EndRow { id: lease.id, secret: lease.secret.clone(), result });
        }
        if rows.is_empty() {
            return Err(Refusal::new(Code::NOT_FOUND).message(match tried_now {
                true => format!("No ending {selection} could be given up: it is being tried at this moment. Ask again in a minute."),
                false => format!("No ending {selection} was given up after its tries; what is still tried ends by itself."),
            }));
        }
        Ok(rows)
    }
}
