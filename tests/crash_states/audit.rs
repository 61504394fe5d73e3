//! The audit log: every record that was acknowledged, under its number and hash, in a log that verifies and goes on.

use super::{CRASHES, Dice, ROOM, Seen, mishap};
use claviger::audit::{Audit, Event, Kind, Need, Options, Pinned, Recorded, Word, verify_volume};
use claviger::digest::Ed25519Key;
use claviger::model::LeaseId;
use claviger::sys::{Fault, ManualClock, SimulatedVolume, Volume, append::Reserve};
use futures_util::future::join_all;
use std::{collections::HashSet, io::Read, sync::Arc, time::Duration};

/// Details of any length, so that records end anywhere in a sector.
const LINES: &str = match std::str::from_utf8(&[b'x'; 600]) {
    Ok(text) => text,
    Err(_) => "",
};

/// An acknowledged record: the moments before the call and after it, and whether that said that it was on the disk.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    recorded: Recorded,
    called: usize,
    at: usize,
    durable: bool,
}

struct Setting {
    key: Vec<u8>,
    clock: Arc<ManualClock>,
}

impl Setting {
    fn open(&self, volume: &SimulatedVolume, dice: &Dice) -> Result<Audit, String> {
        let word = |text| Word::parse(text).unwrap();
        let options = Options {
            anchor_every: Duration::ZERO,
            segment_bytes: 2_000 + dice.roll(10_000) as u64,
            head_every: 1 + dice.roll(30) as u64,
            reserve: Reserve { bytes: 0, percent: 0, floor: 0 },
            ..Options::new(word("host-1"), word("boot-1"))
        };
        let key = Ed25519Key::from_pkcs8(&self.key).unwrap();
        Audit::open(options, Box::new(volume.clone()), key, self.clock.clone(), Vec::new()).map_err(|error| error.to_string())
    }
}

/// One run, from nothing through up to three lives of the daemon. An error says what was lost or does not verify.
pub fn run(seed: u64, lying: bool, seen: &mut Seen) -> Result<(), String> {
    let dice = Dice::new(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let key = Ed25519Key::generate().unwrap().expose().to_vec();
    // 2026-01-01, microseconds.
    let setting = Setting { key, clock: Arc::new(ManualClock::new(1_000_000_000, 1_767_225_600_000_000)) };
    let mut volume = SimulatedVolume::new(ROOM, 0);
    let mut acknowledged = Vec::new();
    for _ in 0..1 + dice.roll(3) {
        volume.keep_moments();
        if lying {
            volume.lie_about_syncs();
        }
        if dice.one_in(8) {
            mishap(&volume, &dice);
        }
        if let Ok(audit) = setting.open(&volume, &dice) {
            runtime.block_on(live(&audit, &volume, &setting, &dice, &mut acknowledged, seen));
            audit.stop();
        }
        for _ in 0..CRASHES {
            let (after, expected) = crash(&volume, &dice, &acknowledged, seen);
            look(&setting, &after, &dice, &expected, seen)?;
        }
        let (after, expected) = crash(&volume, &dice, &acknowledged, seen);
        look(&setting, &after.crashed(usize::MAX), &dice, &expected, seen)?;
        (volume, acknowledged) = (after, expected);
    }
    Ok(())
}

async fn live(
    audit: &Audit,
    volume: &SimulatedVolume,
    setting: &Setting,
    dice: &Dice,
    acknowledged: &mut Vec<Acknowledged>,
    seen: &mut Seen,
) {
    for n in 0..5 + dice.roll(20) {
        mishap(volume, dice);
        match dice.roll(20) {
            0 => setting.clock.advance(2_000_000),
            1 => drop(audit.settle().await),
            2 => std::thread::sleep(Duration::from_millis(12)),
            _ => {}
        }
        let called = volume.moment();
        let records = (0..1 + dice.roll(3)).map(|k| {
            let (kind, need) = match dice.roll(4) {
                0 => (Kind::Issue, Need::Soon),
                1 => (Kind::End, Need::Durable),
                _ => (Kind::End, Need::Soon),
            };
            let event = Event::new(kind).lease(LeaseId::from_parts(n as u64, k as u128)).detail(&LINES[..dice.roll(LINES.len())]);
            let durable = need == Need::Durable || kind == Kind::Issue;
            async move { (audit.append(event, need).await, durable) }
        });
        for (result, durable) in join_all(records.collect::<Vec<_>>()).await {
            match result {
                Ok(recorded) => acknowledged.push(Acknowledged { recorded, called, at: volume.moment(), durable }),
                Err(_) => seen.failed += 1,
            }
        }
    }
}

/// A crash at a random moment: what is left, and what must be in it, by the clock of the next volume.
fn crash(volume: &SimulatedVolume, dice: &Dice, acknowledged: &[Acknowledged], seen: &mut Seen) -> (SimulatedVolume, Vec<Acknowledged>) {
    let (moment, power_cut) = (dice.roll(volume.moment() + 1), !dice.one_in(10));
    seen.unsettled += u64::from(volume.is_unsettled(moment));
    let after = if power_cut { volume.power_cut(moment, &mut |sides| dice.roll(sides)) } else { volume.killed(moment) };
    after.resize(ROOM);
    let passed = acknowledged.iter().filter(|one| one.at <= moment);
    let kept = passed.filter_map(|one| {
        let durable = one.durable || volume.synced_between(one.at, moment);
        (durable || !power_cut && !volume.failed_between(one.called, moment)).then_some(Acknowledged { called: 0, at: 0, durable, ..*one })
    });
    (after, kept.collect())
}

/// Starts on what is left, goes on, and verifies all of it.
fn look(setting: &Setting, volume: &SimulatedVolume, dice: &Dice, expected: &[Acknowledged], seen: &mut Seen) -> Result<(), String> {
    let files = volume.list().unwrap_or_default();
    let put_aside =
        |volume: &SimulatedVolume| volume.list().unwrap_or_default().iter().filter(|(name, _)| name.starts_with("torn-")).count();
    let before = put_aside(volume);
    let audit = setting.open(volume, dice).map_err(|error| format!("does not start: {error}; {files:?}"))?;
    let last = audit.append_blocking(Event::new(Kind::Issue), Need::Durable).map_err(|error| format!("does not go on: {error}"))?;
    audit.stop();
    seen.states += 1;
    let mut public = [0; 32];
    public.copy_from_slice(Ed25519Key::from_pkcs8(&setting.key).unwrap().public());
    let report = verify_volume(volume, &Pinned { keys: vec![public], ..Pinned::default() }).map_err(|error| error.to_string())?;
    if !report.is_sound() {
        return Err(format!("does not verify: {:?}; {files:?}", report.problems));
    }
    let text = text_of(volume);
    if put_aside(volume) > before {
        seen.torn += 1;
        if !text.contains("\"cause\":\"torn\"") {
            return Err("a torn end was cut and not said".into());
        }
    }
    let hashes: HashSet<&str> = text.lines().filter_map(|line| line.get(line.len().checked_sub(66)?..line.len() - 2)).collect();
    match expected.iter().map(|one| one.recorded).chain([last]).find(|one| !hashes.contains(&*hex::encode(one.hash()))) {
        Some(lost) => Err(format!("record {} is not there; {files:?}", lost.seq())),
        None => Ok(()),
    }
}

fn text_of(volume: &SimulatedVolume) -> String {
    let mut text = String::new();
    for (name, _) in volume.list().unwrap_or_default().into_iter().filter(|(name, _)| name.starts_with("audit-")) {
        let mut bytes = Vec::new();
        volume.read(&name).and_then(|mut file| file.read_to_end(&mut bytes)).expect("a simulated file can be read");
        text.push_str(&String::from_utf8_lossy(&bytes));
    }
    text
}

/// Every moment around one failure: killed there, started again, and then a power cut. An error says what of the second life is lost.
pub fn around_a_failure(faults: &[Fault]) -> Result<u64, String> {
    let dice = Dice::new(1);
    let key = Ed25519Key::generate().unwrap().expose().to_vec();
    let setting = Setting { key, clock: Arc::new(ManualClock::new(1_000_000_000, 1_767_225_600_000_000)) };
    let event = |lease: u128| Event::new(Kind::End).lease(LeaseId::from_parts(1, lease)).detail(&LINES[..300]);
    let volume = SimulatedVolume::new(ROOM, 0);
    volume.keep_moments();
    let audit = setting.open(&volume, &dice)?;
    for n in 0..3 {
        let _on_the_disk = audit.append_blocking(event(n), Need::Durable).map_err(|error| error.to_string())?;
    }
    let _written = audit.append_blocking(event(3), Need::Soon).map_err(|error| error.to_string())?;
    faults.iter().for_each(|fault| volume.fail(*fault));
    let _fails = audit.append_blocking(event(4), Need::Durable);
    audit.stop();
    let mut states = 0;
    for moment in 0..=volume.moment() {
        let killed = volume.killed(moment);
        killed.keep_moments();
        let audit = setting.open(&killed, &dice).map_err(|error| format!("killed in moment {moment}: {error}"))?;
        let recorded = audit.append_blocking(event(5), Need::Durable).map_err(|error| error.to_string())?;
        let at = killed.moment();
        audit.stop();
        for _ in 0..24 {
            let after = killed.power_cut(at, &mut |sides| dice.roll(sides));
            let audit = setting.open(&after, &dice).map_err(|error| format!("killed in moment {moment}, then cut off: {error}"))?;
            audit.stop();
            let lost = !text_of(&after).contains(&hex::encode(recorded.hash()));
            if lost {
                return Err(format!("killed in moment {moment}, then cut off: record {} is not there", recorded.seq()));
            }
            states += 1;
        }
    }
    Ok(states)
}
