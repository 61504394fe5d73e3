//! `clav watch`: what happens to the caller's leases, a line each.

use super::{Desk, Done, Failure, output::line};
use crate::wire::LeaseEvent;

pub(super) async fn run(desk: &Desk) -> Done {
    let mut events = desk.workload().await?.watch().await?;
    while let Some(event) = events.next().await? {
        if desk.json {
            line(&serde_json::to_string(&event).map_err(Failure::fault)?)?;
            continue;
        }
        line(&match event {
            LeaseEvent::Lease(lease) => super::get::told(&lease),
            LeaseEvent::Rotated { lease, secret } => format!("{secret}: has a newer value than lease {lease}"),
            LeaseEvent::Ended { lease, secret, reason } => {
                format!("{secret}: lease {lease} ended, {}", reason.map_or("its reason is forgotten", |reason| reason.as_str()))
            }
        })?;
    }
    Ok(0)
}
