//! Near misses: the grants that almost cover a request, so that an operator sees what to change in which file.

use super::{
    rule::{Grant, GrantNote},
    slice::Triple,
};
use crate::{intent::Intent, model::WallTime};
use std::{fmt, sync::Arc};

/// How many are worth reading.
const MOST: usize = 5;

/// A grant that speaks of this identity or of this secret, and does not cover the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The grant.
    pub grant: Arc<GrantNote>,
    /// Why it does not cover the request.
    pub misfits: Vec<Misfit>,
}

/// Why a grant does not cover a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misfit {
    /// It is for somebody else.
    Identity,
    /// It is for another secret.
    Secret,
    /// It is for another channel.
    Channel,
    /// It is for other purposes.
    Purpose,
    /// It has expired.
    Expired,
    /// Its condition does not hold.
    Condition,
}

impl Misfit {
    /// All of them.
    pub const ALL: [Misfit; 6] = [Misfit::Identity, Misfit::Secret, Misfit::Channel, Misfit::Purpose, Misfit::Expired, Misfit::Condition];
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Misfit::Identity => "names another identity",
            Misfit::Secret => "names another secret",
            Misfit::Channel => "names another channel",
            Misfit::Purpose => "has other purposes",
            Misfit::Expired => "has expired",
            Misfit::Condition => "has a condition that does not hold",
        })
    }
}

/// The nearest grants, those that miss by least first. Only ever called when nothing covers the request.
pub(super) fn near_misses(grants: &[Grant], triple: &Triple, intent: &Intent, now: WallTime) -> Vec<NearMiss> {
    let mut near: Vec<NearMiss> = grants.iter().filter_map(|grant| near_miss(grant, triple, intent, now)).collect();
    // Among equals, those for this very identity first: they were meant for it.
    let rank = |miss: &NearMiss| (miss.misfits.len(), miss.misfits.contains(&Misfit::Identity));
    near.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.grant.id.cmp(&b.grant.id)));
    near.truncate(MOST);
    near
}

fn near_miss(grant: &Grant, triple: &Triple, intent: &Intent, now: WallTime) -> Option<NearMiss> {
    let fit = grant.reach.fit(triple);
    if !(fit.identity || fit.secret) {
        return None;
    }
    let mut misfits: Vec<Misfit> = [
        (fit.identity, Misfit::Identity),
        (fit.secret, Misfit::Secret),
        (fit.action, Misfit::Channel),
        (grant.note.purposes.contains(&intent.claimed().purpose), Misfit::Purpose),
        (now < grant.note.expires, Misfit::Expired),
    ]
    .into_iter()
    .filter_map(|(fits, misfit)| (!fits).then_some(misfit))
    .collect();
    if misfits.is_empty() {
        // Everything else fits and it was not found to cover the request, so its condition failed.
        misfits.push(Misfit::Condition);
    }
    Some(NearMiss { grant: grant.note.clone(), misfits })
}
