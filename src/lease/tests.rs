//! Leases over a simulated disk.

use super::*;
use crate::{
    digest::sha256,
    model::{Assurance, Channel, EndReason, EndsBy, HolderKind, IdentityKind, Operation, RequestId, Sensitivity, Ttl, UNLIMITED},
    sys::SimulatedVolume,
};
use std::io::Read;

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
        id: LeaseId::from_parts(1_000 + n as u64, n),
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
        source: crate::intent::Source::Caller,
        holder: Arc::new(holder),
        ttl: Ttl::from_secs(60).unwrap(),
        issued: WallTime(0),
        expires: WallTime(60_000_000),
        deadline: BootTime(60_000_000 - n as u64),
        uses: UNLIMITED,
        reads_max: 2,
        renewable: true,
        grant: "grant.x".into(),
        bundle: "b".into(),
        idempotency: (n == 1).then(|| Box::new(("0123456789abcdef".to_owned(), "d".to_owned()))),
        shares: None,
        reference: UpstreamRef::default(),
        state: State::Reserved,
    }
}

fn open(volume: &SimulatedVolume) -> (Leases, Recovered) {
    Leases::open(Box::new(volume.clone()), "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 64).unwrap()
}

#[tokio::test]
async fn what_is_committed_comes_back_and_what_is_ended_does_not() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    let mut live = Vec::new();
    for n in 0..6 {
        let slot = leases.reserve(lease(n), n % 2 == 0).await.unwrap();
        if n < 4 {
            live.push(leases.commit(slot, UpstreamRef::default()).await.unwrap());
        }
    }
    let ending = leases.begin_end(live[0].id, EndReason::Asked, WallTime(5)).unwrap();
    assert!(leases.begin_end(live[0].id, EndReason::Expired, WallTime(6)).is_none(), "one ender only");
    leases.end(ending, EndResult::Lapsed, WallTime(7)).await.1.unwrap();
    assert!(leases.renew(&live[0], WallTime(99), BootTime(99)).await.unwrap().is_none(), "what has ended is not brought back");
    let _unfinished = leases.begin_end(live[1].id, EndReason::HolderGone, WallTime(8)).unwrap();
    leases.postpone(live[1].id, Postponed { tries: 3, irrevocable: false }).await.unwrap();
    leases.renew(&live[2], WallTime(99), BootTime(99)).await.unwrap();
    leases.stop();

    for _ in 0..2 {
        let (again, recovered) = open(&volume);
        assert_eq!(recovered.reserved.iter().map(|l| l.id).collect::<Vec<_>>(), [lease(4).id], "a durable reservation comes back");
        assert_eq!(recovered.live.iter().map(|l| l.id).collect::<Vec<_>>(), [live[2].id, live[3].id]);
        assert_eq!(recovered.live[0].deadline, BootTime(99));
        assert!(matches!(recovered.ending[0].state, State::Ending { tries: 3, reason: EndReason::HolderGone, .. }));
        assert_eq!(again.find_ended(live[0].id).unwrap().reason, EndReason::Asked);
        assert!(again.resume_end(live[1].id).is_some() && again.resume_end(live[1].id).is_none(), "one at a time");
        again.postpone(live[1].id, Postponed { tries: 3, irrevocable: true }).await.unwrap();
        let ending = again.resume_end(live[1].id).unwrap();
        again.postpone(ending.lease().id, Postponed { tries: 3, irrevocable: false }).await.unwrap();
        again.stop();
    }
}

#[tokio::test]
async fn indexes_follow_the_leases() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    for n in 0..3 {
        let slot = leases.reserve(lease(n), false).await.unwrap();
        leases.commit(slot, UpstreamRef::default()).await.unwrap();
    }
    assert_eq!(leases.of_holder(&lease(1).holder.key()).len(), 1);
    assert_eq!(leases.next_deadline(), Some(lease(2).deadline));
    assert_eq!(leases.due(lease(1).deadline), [lease(2).id, lease(1).id]);
    assert_eq!(leases.find_key(&lease(1).identity, "0123456789abcdef").unwrap().id, lease(1).id);
    assert_eq!(
        (leases.count_read(lease(1).id), leases.count_read(lease(1).id), leases.count_read(lease(1).id)),
        (Ok(()), Ok(()), Err(NoRead::Reads))
    );
    let again = Lease { id: lease(9).id, ..lease(1) };
    assert!(matches!(leases.reserve(again, false).await, Err(ReserveError::KeyTaken)));
    let _reserved = leases.reserve(lease(8), false).await.unwrap();
    assert!(leases.begin_end(lease(8).id, EndReason::HolderGone, WallTime(0)).is_none(), "a reservation is its pipeline's");
    assert!(leases.begin_end(lease(8).id, EndReason::Unfinished, WallTime(0)).is_some_and(|ending| ending.was_reserved()));
    let ending = leases.begin_end(lease(1).id, EndReason::Asked, WallTime(0)).unwrap();
    assert_eq!(leases.due(BootTime(u64::MAX)).len(), 2, "an ending lease is nobody's deadline");
    leases.end(ending, EndResult::Revoked, WallTime(0)).await.1.unwrap();
    assert!(leases.of_holder(&lease(1).holder.key()).is_empty());
    assert!(leases.find_key(&lease(1).identity, "0123456789abcdef").is_none());
    assert_eq!(leases.count(), 3, "two live, one ending");
}

#[tokio::test]
async fn damage_before_sound_lines_stops_the_start_and_a_torn_tail_does_not() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    for n in 0..3 {
        let slot = leases.reserve(lease(n), false).await.unwrap();
        leases.commit(slot, UpstreamRef::default()).await.unwrap();
    }
    leases.stop();
    let (name, len) = volume.list().unwrap().into_iter().find(|(name, _)| name.starts_with("leases-")).unwrap();
    let mut bytes = Vec::new();
    volume.read(&name).unwrap().read_to_end(&mut bytes).unwrap();
    let mut torn = volume.clone();
    // The last line says that all before it was synced.
    let last = bytes[..len as usize - 1].iter().rposition(|b| *b == b'\n').unwrap();
    torn.replace(&name, &bytes[..last - 9], crate::sys::Keep::Durably).unwrap();
    let (again, recovered) = open(&torn);
    assert_eq!((recovered.live.len(), recovered.torn), (2, 1));
    again.stop();
    drop(again);

    let volume = SimulatedVolume::new(1 << 30, 0);
    let mut damaged = volume.clone();
    bytes[len as usize / 2] ^= 1;
    damaged.replace(&name, &bytes, crate::sys::Keep::Durably).unwrap();
    let result = Leases::open(Box::new(damaged), "state", Reserve::default(), 64);
    assert!(matches!(result, Err(JournalError::Damaged { .. })));
}

#[tokio::test]
async fn sound_lines_behind_a_hole_in_what_was_not_synced_do_not_stop_the_start() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    let mut live = Vec::new();
    for n in 0..4 {
        let slot = leases.reserve(lease(n), false).await.unwrap();
        live.push(leases.commit(slot, UpstreamRef::default()).await.unwrap());
    }
    leases.stop();
    let (name, _) = volume.list().unwrap().into_iter().find(|(name, _)| name.starts_with("leases-")).unwrap();
    let bytes = volume.content(&name).unwrap();
    let open_with = |bytes: &[u8]| {
        let mut after = SimulatedVolume::new(1 << 30, 0);
        after.replace(&name, bytes, crate::sys::Keep::Durably).unwrap();
        Leases::open(Box::new(after), "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 64)
    };
    // Without the headings that say so, nothing behind the first line was synced when the power went, and one sector is missing.
    let lines = bytes.split_inclusive(|b| *b == b'\n');
    let mut torn = lines.filter(|line| !line.windows(13).any(|part| part == b"\"synced\":true")).collect::<Vec<_>>().concat();
    let hole = torn.len() / 2;
    torn[hole..hole + 512].fill(0);
    let (again, recovered) = open_with(&torn).unwrap();
    assert!(recovered.torn > 0 && !recovered.live.is_empty() && recovered.live.len() < live.len());
    again.stop();
    // The same hole before a line that says that it was synced is no power cut's.
    let mut damaged = bytes.clone();
    damaged[hole..hole + 512].fill(0);
    assert!(matches!(open_with(&damaged), Err(JournalError::Damaged { .. })));
}

#[tokio::test]
async fn a_newer_journal_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let volume = Box::new(crate::sys::DiskVolume::new(folder.path(), 0));
        Leases::open(volume, "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 64)
    };
    let (leases, _) = open().unwrap();
    let slot = leases.reserve(lease(1), true).await.unwrap();
    leases.commit(slot, UpstreamRef::default()).await.unwrap();
    leases.stop();
    drop(leases);
    // As a later version may write it: a heading with members that this one does not know, and events that it does not know either.
    let body = r#"{"event":"heading","format":2,"state_id":"state","more":{"of":"it"}}"#;
    let sum = hex::encode(&sha256(&[body.as_bytes()])[..8]);
    let newer = format!("{sum} {body}\n0123456789abcdef {{\"event\":\"of a later version\"}}\n");
    std::fs::write(folder.path().join("leases-000000000009.jsonl"), newer).unwrap();
    let files = || {
        let mut all: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        all.sort();
        all.into_iter().map(|path| (std::fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
    };
    let before = files();
    let error = open().err().unwrap();
    assert!(matches!(error, JournalError::Newer { found: 2 }), "{error}");
    assert!(error.to_string().contains("format 2") && error.to_string().contains("nothing was changed"), "{error}");
    assert!(files() == before, "nothing was changed");
}

const EIO: i32 = 5;

/// The kernel shows what a failed sync lost, and calls the next sync of it a success.
#[tokio::test]
async fn a_start_does_not_build_on_what_a_failed_sync_may_have_lost() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    volume.keep_moments();
    let (leases, _) = open(&volume);
    let slot = leases.reserve(lease(1), true).await.unwrap();
    leases.commit(slot, UpstreamRef::default()).await.unwrap();
    volume.fail(crate::sys::Fault::Sync(EIO));
    let _refused = leases.reserve(lease(2), true).await;
    leases.stop();
    let mut continued = 0;
    for moment in 0..=volume.moment() {
        let killed = volume.killed(moment);
        let (leases, before) = open(&killed);
        let had: Vec<_> = before.reserved.iter().chain(&before.live).map(|lease| lease.id).collect();
        let _durable = leases.reserve(lease(3), true).await.unwrap();
        for style in 0..6 {
            killed.keep_moments();
            let after = killed.power_cut(killed.moment(), &mut |sides| style % sides);
            let (leases, found) = Leases::open(Box::new(after), "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 64)
                .unwrap_or_else(|error| panic!("killed in moment {moment}: {error}"));
            let found: Vec<_> = found.reserved.iter().chain(&found.live).map(|lease| lease.id).collect();
            assert!(had.iter().all(|id| found.contains(id)), "killed in moment {moment}: {had:?}, then {found:?}");
            leases.stop();
        }
        continued += usize::from(!had.is_empty());
        leases.stop();
    }
    assert!(continued > 2, "no moment had anything to lose");
}

/// What an operator wants dead is given to nobody who comes, while some have it still, nor kept by whoever is about to have it.
#[tokio::test]
async fn a_credential_that_an_operator_withdraws_is_joined_by_nobody() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    let slot = leases.reserve(lease(100), true).await.unwrap();
    let mut reference = UpstreamRef::default();
    reference.0.insert("role", "r");
    let first = leases.commit(slot, reference).await.unwrap().id;
    let join = |n| leases.join(lease(n), first, BootTime(0)).unwrap();
    let (second, late) = (join(101).unwrap(), join(102).unwrap());
    let reference = second.joined().unwrap().clone();
    let second = leases.commit(second, reference.clone()).await.unwrap().id;
    // Of its own accord one ends and others may come.
    let third = leases.commit(join(103).unwrap(), reference.clone()).await.unwrap().id;
    let asked = leases.begin_end(third, EndReason::Asked, WallTime(1)).unwrap();
    assert!(!leases.is_withdrawn(first) && join(104).is_some());
    let _ = leases.end(asked, EndResult::Shared, WallTime(1)).await;
    let unfinished = leases.begin_end(lease(104).id, EndReason::Unfinished, WallTime(1)).unwrap();
    let _ = leases.end(unfinished, EndResult::Shared, WallTime(1)).await;
    let ending = leases.begin_end(first, EndReason::Operator, WallTime(1)).unwrap();
    assert!(ending.others() == 2 && leases.is_withdrawn(first) && join(105).is_none(), "another one lives");
    let _ = leases.end(ending, EndResult::Shared, WallTime(1)).await;
    let ending = leases.begin_end(second, EndReason::Operator, WallTime(1)).unwrap();
    let _ = leases.end(ending, EndResult::Shared, WallTime(1)).await;
    // Whoever was on the way does not get it, and is the last: nothing of it is live, also after a crash.
    let id = late.lease().id;
    assert!(matches!(leases.commit(late, reference).await, Err(CommitError::Withdrawn)));
    assert!(leases.is_withdrawn(first) && join(106).is_none());
    let (after, recovered) = open(&volume);
    assert!(recovered.live.is_empty(), "{:?}", recovered.live);
    assert_eq!(recovered.reserved.iter().map(|lease| lease.id).collect::<Vec<_>>(), [id], "nobody else owes the credential");
    assert!(!recovered.reserved[0].reference.0.is_empty(), "and knows what to end");
    after.stop();
    let ending = leases.begin_end(id, EndReason::Unfinished, WallTime(1)).unwrap();
    assert!(ending.others() == 0 && !ending.was_reserved());
    let _ = leases.end(ending, EndResult::Revoked, WallTime(1)).await;
    assert!(!leases.is_withdrawn(first), "nothing is left to remember");
    leases.stop();
}

/// Those who are live when a credential is withdrawn are all who ever have it; also of one that a single lease has yet, or none.
#[tokio::test]
async fn what_is_live_when_a_credential_is_withdrawn_is_all_there_is() {
    let volume = SimulatedVolume::new(1 << 30, 0);
    let (leases, _) = open(&volume);
    let mut reference = UpstreamRef::default();
    reference.0.insert("role", "r");
    let (made, making) = (leases.reserve(lease(100), true).await.unwrap(), leases.reserve(lease(110), true).await.unwrap());
    let first = leases.commit(made, reference.clone()).await.unwrap().id;
    let late = leases.join(lease(101), first, BootTime(0)).unwrap().unwrap();
    let other = LeaseId::from_parts(1, 1);
    leases.withdraw(&HashSet::from([first, lease(110).id, other]));
    assert!(leases.is_withdrawn(first) && leases.is_withdrawn(lease(110).id) && !leases.is_withdrawn(other));
    assert!(leases.join(lease(102), first, BootTime(0)).unwrap().is_none());
    for slot in [late, making] {
        let id = slot.lease().id;
        assert!(matches!(leases.commit(slot, reference.clone()).await, Err(CommitError::Withdrawn)));
        let ending = leases.begin_end(id, EndReason::Unfinished, WallTime(1)).unwrap();
        assert_eq!(ending.others(), usize::from(ending.lease().shares.is_some()));
        let _ = leases.end(ending, EndResult::Shared, WallTime(1)).await;
    }
    let ending = leases.begin_end(first, Cause::operator(RequestId::from_parts(1, 1)), WallTime(1)).unwrap();
    assert_eq!(ending.others(), 0);
    leases.note_endings(&[ending]).await.unwrap();
    let (after, recovered) = open(&volume);
    assert!(recovered.live.is_empty() && recovered.reserved.is_empty());
    assert_eq!(recovered.ending.iter().map(|lease| lease.id).collect::<Vec<_>>(), [first]);
    after.stop();
    leases.stop();
}

/// Of those who have a credential together exactly one is told to end it, and it is the last, in whatever order they come and go.
#[tokio::test]
async fn the_last_of_those_who_share_ends_the_credential() {
    use crate::digest::{Random, SeededRandom};
    for seed in 0..200 {
        let random = SeededRandom::new(seed);
        let roll = |sides: usize| (random.u128() % sides as u128) as usize;
        let volume = SimulatedVolume::new(1 << 30, 0);
        let (mut leases, _) = open(&volume);
        let slot = leases.reserve(lease(100), true).await.unwrap();
        let mut reference = UpstreamRef::default();
        reference.0.insert("role", "r");
        let origin = leases.commit(slot, reference).await.unwrap().id;
        let (mut live, mut reserved, mut ended_it) = (vec![origin], Vec::new(), 0);
        for n in 101..140 {
            let users = live.len() + reserved.len();
            match roll(5) {
                0 | 1 => match leases.join(lease(n), origin, BootTime(0)).unwrap() {
                    Some(slot) => {
                        assert!(!live.is_empty() && slot.lease().credential() == origin && slot.joined().is_some());
                        reserved.push(slot);
                    }
                    None => assert!(live.is_empty(), "seed {seed}: it lives and cannot be joined"),
                },
                2 if !reserved.is_empty() => {
                    let slot = reserved.swap_remove(roll(reserved.len()));
                    let reference = slot.joined().unwrap().clone();
                    live.push(leases.commit(slot, reference).await.unwrap().id);
                }
                3 if !live.is_empty() => {
                    let ending = leases.begin_end(live.swap_remove(roll(live.len())), EndReason::Asked, WallTime(1)).unwrap();
                    assert_eq!(ending.others(), users - 1, "seed {seed}");
                    ended_it += usize::from(ending.others() == 0);
                    let _ = leases.end(ending, EndResult::Revoked, WallTime(1)).await;
                }
                4 if !reserved.is_empty() => {
                    let slot = reserved.swap_remove(roll(reserved.len()));
                    let ending = leases.begin_end(slot.lease().id, EndReason::Unfinished, WallTime(1)).unwrap();
                    assert_eq!(ending.others(), users - 1, "seed {seed}");
                    ended_it += usize::from(ending.others() == 0);
                    let _ = leases.end(ending, EndResult::Revoked, WallTime(1)).await;
                }
                _ if reserved.is_empty() => {
                    // The daemon is killed and starts again.
                    leases.stop();
                    leases = open(&volume).0;
                }
                _ => {}
            }
        }
        for slot in reserved {
            live.push(slot.lease().id);
        }
        for (n, id) in live.iter().enumerate() {
            let ending = leases.begin_end(*id, EndReason::Unfinished, WallTime(2)).unwrap();
            assert_eq!(ending.others(), live.len() - n - 1, "seed {seed}");
            ended_it += usize::from(ending.others() == 0);
            let _ = leases.end(ending, EndResult::Revoked, WallTime(2)).await;
        }
        assert_eq!(ended_it, 1, "seed {seed}");
        leases.stop();
    }
}
