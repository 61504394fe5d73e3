//! The leases of a verb that stays: renewed early, followed by another before they end, and given back when it is over.
//!
//! One look at the daemon's events and one at the clock decide: a secret with a newer value, and a lease that cannot be renewed and has a
//! third of its life left, are asked for anew. The lease before stays until whoever uses it has changed over.

use super::{Desk, Failure, ask::Declaration};
use crate::{
    client::{Client, ClientError, Delivered, Events},
    digest::{Random, SystemRandom},
    model::{Code, LeaseId},
    sys::{Clock, SystemClock},
    wire::{LeaseEvent, LeaseView},
};
use std::time::Duration;

/// After a failure it is tried again in this time, twice that, and so on, in microseconds.
const AGAIN: u64 = 5_000_000;
const LONGEST: u64 = 300_000_000;
/// How long whoever was told of new values may go on with those from before.
pub(super) const CHANGING_OVER: Duration = Duration::from_secs(30);

/// What to do when a value should be asked for anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replacing {
    /// Nothing: leases are renewed as long as they may be.
    Never,
    /// It is said by [`Held::next`].
    Told,
}

struct Row {
    secret: String,
    lease: LeaseId,
    /// On the boot clock in microseconds; none where there is nothing to be done any more.
    due: Option<u64>,
    renewable: bool,
    /// How often it was said in vain that it should be asked for anew.
    tries: u32,
}

/// Leases that are out.
pub(super) struct Held {
    client: Client,
    declaration: Declaration,
    holder: Option<String>,
    replacing: Replacing,
    quiet: bool,
    rows: Vec<Row>,
    /// Followed by others, and still in use.
    replaced: Vec<LeaseId>,
    /// To be given back then, on the boot clock in microseconds; the earliest first.
    leaving: Vec<(u64, LeaseId)>,
    events: Option<Events>,
    random: SystemRandom,
}

impl Held {
    pub(super) async fn new(
        desk: &Desk,
        declaration: Declaration,
        holder: Option<String>,
        replacing: Replacing,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let (rows, replaced, leaving) = (Vec::new(), Vec::new(), Vec::new());
        let (client, random) = (desk.workload().await?, SystemRandom::default());
        Ok(Self { client, declaration, holder, replacing, quiet, rows, replaced, leaving, events: None, random })
    }

    /// A value on a lease of its own; it follows the one that this secret had.
    pub(super) async fn fetch(&mut self, secret: &str) -> Result<Delivered, Failure> {
        let delivered = self.client.issue(self.declaration.of(secret, self.holder.clone())).await?;
        let lease = &delivered.lease;
        if !self.quiet {
            eprintln!("{}", super::get::told(lease));
            super::get::beside(&delivered).iter().for_each(|what| eprintln!("{what}"));
        }
        let due = (lease.renewable || self.replacing == Replacing::Told).then(|| self.due(lease));
        let row = Row { secret: secret.to_owned(), lease: lease.id, due, renewable: lease.renewable, tries: 0 };
        match self.rows.iter_mut().find(|row| row.secret == secret) {
            Some(known) => self.replaced.push(std::mem::replace(known, row).lease),
            None => self.rows.push(row),
        }
        Ok(delivered)
    }

    /// Waits until secrets should be asked for anew, and names them; renews and gives back what is due meanwhile. Dropping the future
    /// loses nothing that is not seen again.
    pub(super) async fn next(&mut self, desk: &Desk) -> Vec<String> {
        loop {
            self.listen(desk).await;
            self.give_back_left().await;
            let due = self.rows.iter().filter_map(|row| row.due).chain(self.leaving.first().map(|(due, _)| *due)).min();
            // A daemon that restarts is asked for events again.
            let deaf = self.replacing == Replacing::Told && self.events.is_none();
            let due = if deaf { due.into_iter().chain([SystemClock.boot().0 + AGAIN]).min() } else { due };
            tokio::select! {
                () = until(due) => {}
                event = news(&mut self.events) => match event {
                    Some(LeaseEvent::Rotated { lease, .. }) | Some(LeaseEvent::Ended { lease, .. }) => {
                        if let Some(row) = self.rows.iter_mut().find(|row| row.lease == lease) {
                            (row.due, row.renewable) = (Some(0), false);
                        }
                    }
                    Some(LeaseEvent::Lease(_)) => {}
                    None => {
                        self.events = None;
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
            }
            let asked = self.take_due().await;
            if !asked.is_empty() {
                return asked;
            }
        }
    }

    async fn listen(&mut self, desk: &Desk) {
        if self.replacing == Replacing::Told && self.events.is_none() {
            // Without events the clock alone decides; it is tried again at the next turn.
            self.events = match desk.workload().await {
                Ok(client) => client.watch().await.ok(),
                Err(_) => None,
            };
            // What ended while nobody listened is told to nobody.
            if self.events.is_some()
                && let Ok(live) = self.client.leases().await
            {
                for row in self.rows.iter_mut().filter(|row| !live.leases.iter().any(|lease| lease.id == row.lease)) {
                    (row.due, row.renewable) = (Some(0), false);
                }
            }
        }
    }

    /// Renews what is due and may be renewed, and names the others.
    async fn take_due(&mut self) -> Vec<String> {
        let (now, mut asked) = (SystemClock.boot().0, Vec::new());
        for n in 0..self.rows.len() {
            let row = &self.rows[n];
            if row.due.is_none_or(|due| due > now) {
                continue;
            }
            if !row.renewable {
                asked.push(row.secret.clone());
                // Whoever is told asks; if that fails it is said again.
                let tries = row.tries + 1;
                self.rows[n].tries = tries;
                self.rows[n].due = Some(now + pause(tries));
                continue;
            }
            let (renewed, id) = (self.client.renew(row.lease).await, row.lease);
            let due = match renewed {
                Ok(answer) => {
                    self.rows[n].tries = 0;
                    Some(self.due(&answer.lease))
                }
                Err(error) if passes(&error) => {
                    self.rows[n].tries += 1;
                    Some(now + pause(self.rows[n].tries))
                }
                Err(error) => {
                    eprintln!("clav: lease {id} cannot be renewed: {error}");
                    self.rows[n].renewable = false;
                    (self.replacing == Replacing::Told).then_some(now)
                }
            };
            self.rows[n].due = due;
        }
        asked
    }

    /// When something is to be done about a lease: after two thirds of what is left, and up to a tenth of it earlier, so that those who
    /// asked at once do not come again at once.
    fn due(&self, lease: &LeaseView) -> u64 {
        SystemClock.boot().0 + early(lease.remaining, &self.random)
    }

    /// Whoever has the values knows the new ones: what they followed is given back after that time.
    pub(super) fn changed_over(&mut self, after: Duration) {
        let due = SystemClock.boot().0.saturating_add(after.as_micros() as u64);
        self.leaving.extend(self.replaced.drain(..).map(|lease| (due, lease)));
        self.leaving.sort_unstable();
    }

    async fn give_back_left(&mut self) {
        while let Some((due, lease)) = self.leaving.first().copied()
            && due <= SystemClock.boot().0
        {
            self.give_back(lease).await;
            // Last, so that one is given back twice rather than never.
            self.leaving.retain(|(_, other)| *other != lease);
        }
    }

    /// Gives everything back.
    pub(super) async fn end(&mut self) {
        let leases: Vec<LeaseId> = self.leaving.drain(..).map(|(_, lease)| lease).chain(self.replaced.drain(..)).collect();
        for lease in leases.into_iter().chain(std::mem::take(&mut self.rows).into_iter().map(|row| row.lease)) {
            self.give_back(lease).await;
        }
    }

    async fn give_back(&mut self, id: LeaseId) {
        match self.client.give_back(id).await {
            Ok(_) => {}
            // What is over need not be given back.
            Err(ClientError::Refused(body, _)) if body.error.code == "lease_ended" => {}
            Err(error) if self.quiet => drop(error),
            // It ends with this process all the same.
            Err(error) => eprintln!("clav: lease {id} could not be given back: {error}"),
        }
    }
}

/// Whether it may be otherwise in a moment: nobody answers, or a refusal that is about the daemon and not about the caller.
fn passes(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable(..) => true,
        ClientError::Refused(body, status) => matches!(status, 429 | 500 | 503) || body.error.code == Code::ATTESTATION_FAILED.as_str(),
        ClientError::Untrusted(..) | ClientError::Protocol(_) => false,
    }
}

/// Before the next try, in microseconds.
fn pause(tries: u32) -> u64 {
    AGAIN.saturating_mul(1 << tries.min(16)).min(LONGEST)
}

async fn until(due: Option<u64>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_micros(due.saturating_sub(SystemClock.boot().0))).await,
        None => std::future::pending().await,
    }
}

/// The next event; none when the stream has broken off, and never where nobody listens.
async fn news(events: &mut Option<Events>) -> Option<LeaseEvent> {
    match events {
        Some(events) => events.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// Waits until then; for ever where there is nothing to wait for.
pub(super) async fn at(when: Option<tokio::time::Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// When a lease with so many seconds left is renewed or followed, in microseconds from now: at two thirds of them, and up to a tenth of them
/// earlier, so that what began together does not come together.
fn early(remaining: u64, random: &dyn Random) -> u64 {
    let (left, apart) = (remaining.saturating_mul(1_000_000), (random.u128() % 1_000) as u64);
    (left / 3 * 2 - left / 10_000 * apart).max(500_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::SeededRandom;

    #[test]
    fn those_that_began_together_do_not_come_together() {
        let random = SeededRandom::new(1);
        let mut moments: Vec<u64> = (0..100).map(|_| early(900, &random)).collect();
        assert!(moments.iter().all(|at| (510_000_000..=600_000_000).contains(at)), "{moments:?}");
        moments.sort_unstable();
        moments.dedup();
        assert!(moments.len() > 50 && moments[moments.len() - 1] - moments[0] > 60_000_000, "{moments:?}");
        assert_eq!(early(0, &random), 500_000, "not in a loop");
    }
}
