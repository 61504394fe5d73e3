//! The lease journal: each lease's history, and what of it a start may find.

use super::{CRASHES, Dice, ROOM, Seen, mishap};
use claviger::engine::UpstreamRef;
use claviger::intent::Source;
use claviger::lease::{Ending, Holder, JournalError, Lease, Leases, Postponed, Recovered, Slot, State};
use claviger::model::{
    Assurance, BootTime, Channel, EndReason, EndResult, EndsBy, HolderKind, IdentityKind, LeaseId, Operation, RequestId, Sensitivity, Ttl,
    WallTime,
};
use claviger::sys::{SimulatedVolume, Volume, append::Reserve};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use std::{collections::BTreeMap, sync::Arc};

/// What a start may find of a lease; `None` once it is over.
type Found = Option<(BootTime, State)>;

#[derive(Clone, Copy, Debug)]
struct Step {
    then: Found,
    /// The volume's moment before the call.
    called: usize,
    /// Its moment after the call succeeded, and whether that said that it was on the disk.
    acknowledged: Option<(usize, bool)>,
}

type History = BTreeMap<LeaseId, Vec<Step>>;

/// Where one lease is in its life, on the caller's side.
enum Life {
    New(u128),
    Reserved(Box<Slot>),
    Live(Arc<Lease>),
    Ending(Ending, u32),
    Over,
}

fn lease(n: u128) -> Lease {
    let holder = Holder {
        kind: HolderKind::Process,
        pid: 7,
        start: n as u64 % 3,
        inode: None,
        handle: None,
        boot: "b".into(),
        cgroup: None,
        exe: None,
        uid: 1000,
    };
    Lease {
        id: LeaseId::from_parts(1_000, n),
        request: RequestId::from_parts(1, n),
        identity: "orders".parse().unwrap(),
        identity_kind: IdentityKind::Workload,
        assurance: Assurance::Program,
        secret: "db/ro".parse().unwrap(),
        recipe: "g".into(),
        engine: "local".parse().unwrap(),
        sensitivity: Sensitivity::Internal,
        ends_by: EndsBy::None,
        owner: "team".parse().unwrap(),
        purpose: "serve".parse().unwrap(),
        operation: Operation::Read,
        hosts: vec![],
        channel: Channel::Deliver,
        source: Source::Caller,
        holder: Arc::new(holder),
        ttl: Ttl::from_secs(60).unwrap(),
        issued: WallTime(0),
        expires: WallTime(0),
        deadline: BootTime(60_000_000 + n as u64),
        uses: 1,
        reads_max: 2,
        renewable: true,
        grant: "g".into(),
        bundle: "b".into(),
        idempotency: None,
        shares: None,
        reference: UpstreamRef::default(),
        state: State::Reserved,
    }
}

fn open(volume: &SimulatedVolume, growth: u64) -> Result<(Leases, Recovered), JournalError> {
    Leases::open_growing(Box::new(volume.clone()), "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 64, growth)
}

fn found(recovered: &Recovered) -> BTreeMap<LeaseId, Found> {
    let all = [&recovered.reserved, &recovered.live, &recovered.ending].into_iter().flatten();
    all.map(|lease| (lease.id, Some((lease.deadline, lease.state)))).collect()
}

/// One run, from nothing through up to three lives of the daemon. An error says what was lost or came back.
pub fn run(seed: u64, lying: bool, seen: &mut Seen) -> Result<(), String> {
    let dice = Dice::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let mut volume = SimulatedVolume::new(ROOM, 0);
    let (mut history, mut n) = (History::new(), 0);
    for _ in 0..1 + dice.roll(3) {
        volume.keep_moments();
        if lying {
            volume.lie_about_syncs();
        }
        if dice.one_in(8) {
            mishap(&volume, &dice);
        }
        let mut opened = None;
        if let Ok((leases, _)) = open(&volume, dice.roll(8_000) as u64) {
            opened = Some(volume.moment());
            runtime.block_on(live(&leases, &volume, &dice, &mut history, &mut n, seen));
            leases.stop();
        }
        for _ in 0..CRASHES {
            let (_, after, expected) = crash(&volume, opened, &dice, &history, seen);
            look(&after, &expected, seen)?;
        }
        let (power_cut, after, expected) = crash(&volume, opened, &dice, &history, seen);
        let found = look(&after.crashed(usize::MAX), &expected, seen)?;
        history = if power_cut { History::new() } else { expected };
        for (id, then) in found {
            history.entry(id).or_default().push(Step { then, called: 0, acknowledged: Some((0, power_cut)) });
        }
        volume = after;
    }
    Ok(())
}

/// Random steps of random leases, up to four at a time.
async fn live(leases: &Leases, volume: &SimulatedVolume, dice: &Dice, history: &mut History, n: &mut u128, seen: &mut Seen) {
    let mut lives: Vec<(LeaseId, Life)> = Vec::new();
    for _ in 0..5 + dice.roll(20) {
        if lives.len() < 8 {
            *n += 1;
            lives.push((lease(*n).id, Life::New(*n)));
        }
        mishap(volume, dice);
        let mut taken = Vec::new();
        for _ in 0..1 + dice.roll(4) {
            if !lives.is_empty() {
                taken.push(lives.swap_remove(dice.roll(lives.len())));
            }
        }
        let called = volume.moment();
        let steps = taken.into_iter().map(|(id, life)| step(leases, life, dice).map(move |done| (id, done)));
        for (id, (life, then, durable)) in join_all(steps).await {
            // Nothing is said of a reservation that was not to be durable.
            let acknowledged = durable.as_ref().ok().and_then(|durable| Some((volume.moment(), (*durable)?)));
            history.entry(id).or_default().push(Step { then, called, acknowledged });
            seen.failed += u64::from(durable.is_err());
            if !matches!(life, Life::Over) {
                lives.push((id, life));
            }
        }
        if dice.one_in(30) {
            // Long enough for what was written to be synced.
            tokio::task::yield_now().await;
            std::thread::sleep(std::time::Duration::from_millis(12));
        }
    }
}

type Done = (Life, Found, Result<Option<bool>, ()>);

fn step<'a>(leases: &'a Leases, life: Life, dice: &Dice) -> BoxFuture<'a, Done> {
    let (first, second) = (dice.roll(5), dice.roll(1 << 30));
    async move {
        match life {
            Life::New(n) => {
                let before = lease(n.saturating_sub(1 + second as u128 % 3)).id;
                let lease = lease(n);
                let then = Some((lease.deadline, State::Reserved));
                // Some have the credential of one that lives; nothing is written down before that is a lease.
                if first == 4
                    && let Some(known) = leases.find(before)
                    && let Ok(Some(slot)) = leases.join(lease.clone(), known.credential(), BootTime(0))
                {
                    let then = Some((slot.lease().deadline, State::Reserved));
                    return (Life::Reserved(Box::new(slot)), then, Ok(None));
                }
                match leases.reserve(lease, first > 1).await {
                    Ok(slot) => (Life::Reserved(Box::new(slot)), then, Ok((first > 1).then_some(true))),
                    Err(_) => (Life::Over, then, Err(())),
                }
            }
            Life::Reserved(slot) => {
                let (lease, joined) = (slot.lease().clone(), slot.joined().is_some());
                let durable = leases.commit(*slot, UpstreamRef::default()).await;
                // As the broker does it: what did not become live is ended.
                let live = leases.find(lease.id).unwrap_or_else(|| Arc::new(lease));
                (Life::Live(live.clone()), Some((live.deadline, State::Live)), durable.map(|_| Some(joined)).map_err(|_| ()))
            }
            Life::Live(lease) if first > 1 => {
                let deadline = BootTime(second as u64);
                match leases.renew(&lease, WallTime(0), deadline).await {
                    Ok(renewed) => (Life::Live(renewed.unwrap_or(lease)), Some((deadline, State::Live)), Ok(Some(true))),
                    Err(_) => (Life::Live(lease), Some((deadline, State::Live)), Err(())),
                }
            }
            Life::Live(lease) => {
                let Some(ending) = leases.begin_end(lease.id, EndReason::Asked, WallTime(9)) else { return (Life::Over, None, Err(())) };
                let then = leases.find(lease.id).map(|lease| (lease.deadline, lease.state));
                let noted = leases.note_ending(&ending).await;
                (Life::Ending(ending, 0), then, noted.map(|()| Some(false)).map_err(|_| ()))
            }
            Life::Ending(ending, tries) if first > 2 => {
                let id = ending.lease().id;
                let noted = leases.postpone(id, Postponed { tries: tries + 1, irrevocable: false }).await;
                let then = leases.find(id).map(|lease| (lease.deadline, lease.state));
                (Life::Ending(ending, tries + 1), then, noted.map(|()| Some(false)).map_err(|_| ()))
            }
            Life::Ending(ending, _) => {
                let (_, written) = leases.end(ending, EndResult::Lapsed, WallTime(10)).await;
                (Life::Over, None, written.map(|()| Some(false)).map_err(|_| ()))
            }
            Life::Over => (Life::Over, None, Err(())),
        }
    }
    .boxed()
}

/// A crash at a random moment: whether it was a power cut, what is left, and what of the history may be in it, by the clock of the next
/// volume. What a start has found is on the disk when it is through, at moment `opened`, and not before.
fn crash(
    volume: &SimulatedVolume,
    opened: Option<usize>,
    dice: &Dice,
    history: &History,
    seen: &mut Seen,
) -> (bool, SimulatedVolume, History) {
    let (moment, power_cut) = (dice.roll(volume.moment() + 1), !dice.one_in(10));
    seen.unsettled += u64::from(volume.is_unsettled(moment));
    let after = if power_cut { volume.power_cut(moment, &mut |sides| dice.roll(sides)) } else { volume.killed(moment) };
    after.resize(ROOM);
    let mut expected = History::new();
    for (id, steps) in history {
        // At moment 0 nobody has called yet: that is said of steps from before this volume.
        let begun = steps.iter().filter(|step| step.called == 0 || step.called < moment);
        let steps = begun.map(|step| {
            let kept = step.acknowledged.filter(|(at, _)| *at <= moment);
            let acknowledged = kept.and_then(|(at, now)| {
                let read_back = at == 0 && opened.is_some_and(|opened| opened <= moment);
                let durable = now || read_back || at > 0 && volume.synced_between(at, moment);
                (durable || !power_cut && !volume.failed_between(step.called, moment)).then_some((0, durable))
            });
            Step { acknowledged, called: 0, ..*step }
        });
        expected.insert(*id, steps.collect());
    }
    (power_cut, after, expected)
}

/// Starts on what is left, and compares.
fn look(volume: &SimulatedVolume, expected: &History, seen: &mut Seen) -> Result<BTreeMap<LeaseId, Found>, String> {
    let files = volume.list().unwrap_or_default();
    let (leases, recovered) = open(volume, 1 << 20).map_err(|error| format!("does not start: {error}; {files:?}"))?;
    leases.stop();
    seen.states += 1;
    seen.torn += u64::from(recovered.torn > 0);
    let found = found(&recovered);
    if let Some(id) = found.keys().find(|id| !expected.contains_key(id)) {
        return Err(format!("{id} comes from nowhere"));
    }
    for (id, steps) in expected {
        let is = found.get(id).copied().flatten();
        let sure = steps.iter().rposition(|step| step.acknowledged.is_some());
        let may_be = &steps[sure.unwrap_or(0)..];
        if !(may_be.iter().any(|step| step.then == is) || (sure.is_none() && is.is_none())) {
            return Err(format!("{id} is {is:?}, and was {steps:?}; {files:?}"));
        }
    }
    Ok(found)
}
