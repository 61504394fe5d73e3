//! The log as a whole: what is on the record, what is counted, what survives, and what is found out.

mod crash;
mod disk;
mod folding;
mod life;
mod record;
mod searching;
mod tamper;

use super::*;
use crate::digest::Ed25519Key;
use crate::model::*;
use crate::sys::{DiskVolume, ManualClock, SimulatedVolume};
use std::{path::Path, sync::Arc, time::Duration};

/// 2026-01-01, microseconds.
const START: u64 = 1_767_225_600_000_000;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(1_000_000_000, START))
}

fn word(text: &str) -> Word {
    Word::parse(text).unwrap()
}

/// A key and what is needed to make it again.
struct Keys(SecretBytes);

impl Keys {
    fn new() -> Self {
        Keys(Ed25519Key::generate().unwrap())
    }
    fn key(&self) -> Ed25519Key {
        Ed25519Key::from_pkcs8(self.0.expose()).unwrap()
    }
    fn public(&self) -> [u8; 32] {
        self.key().public().try_into().unwrap()
    }
    fn pinned(&self, anchors: Vec<Note>) -> Pinned {
        Pinned { keys: vec![self.public()], anchors, max_unsigned: 0 }
    }
}

fn options() -> Options {
    Options { anchor_every: Duration::ZERO, ..Options::new(word("host-1"), word("boot-1")) }
}

fn on_disk(folder: &Path, keys: &Keys, clock: &Arc<ManualClock>, options: Options) -> Audit {
    Audit::open(options, Box::new(DiskVolume::new(folder, 0)), keys.key(), clock.clone(), Vec::new()).unwrap()
}

fn simulated(volume: &SimulatedVolume, keys: &Keys, clock: &Arc<ManualClock>, options: Options) -> Audit {
    Audit::open(options, Box::new(volume.clone()), keys.key(), clock.clone(), Vec::new()).unwrap()
}

fn identity(name: &str) -> Identity {
    Identity {
        name: IdentityName::parse(name).unwrap(),
        kind: IdentityKind::Workload,
        owner: Owner::parse("team").unwrap(),
        environment: Environment::parse("prod").unwrap(),
        purposes: Vec::new(),
        max_sensitivity: Sensitivity::Critical,
        expires: WallTime(START * 2),
        suspended: false,
        groups: Vec::new(),
        selectors: Vec::new(),
        exclusive_uid: false,
        on_exec: ExecRule::Reattest,
        uses: Vec::new(),
        generation: "ab".repeat(32),
    }
}

fn secret(name: &str, sensitivity: Sensitivity) -> SecretDefinition {
    SecretDefinition {
        name: SecretName::parse(name).unwrap(),
        engine: EngineName::parse("local").unwrap(),
        owner: Owner::parse("team").unwrap(),
        sensitivity,
        environment: Environment::parse("prod").unwrap(),
        purposes: Vec::new(),
        operation: Operation::Read,
        hosts: Vec::new(),
        ttl: TtlLimits { default: Ttl::from_secs(60).unwrap(), max: Ttl::from_secs(60).unwrap() },
        reads_max: 100,
        quarantined: false,
        share: Default::default(),
        pinned: false,
        rotate: None,
        description: String::new(),
        ends_by: EndsBy::None,
        narrows: Vec::new(),
        recipe: "1".into(),
        settings: serde_json::Map::new(),
        generation: "cd".repeat(32).into(),
    }
}

fn lease(n: u128) -> LeaseId {
    LeaseId::from_parts(START / 1000, n)
}

fn request(n: u128) -> RequestId {
    RequestId::from_parts(START / 1000, n)
}

fn issue(n: u128) -> Event {
    let secret = secret("prod-db/orders-ro", Sensitivity::Internal);
    Event::new(Kind::Issue)
        .request(request(n))
        .lease(lease(n))
        .identity(&identity("orders"))
        .assurance(Assurance::Program)
        .secret(&secret, Some(3))
        .holder(Holder { kind: HolderKind::Process, pid: 42, handle: Some(7), name: None })
        .outcome(Outcome::Done)
        .expires(WallTime(START + 60_000_000))
}

fn read(n: u128, sensitivity: Sensitivity) -> Event {
    Event::new(Kind::Read).lease(lease(n)).identity(&identity("orders")).secret(&secret("a/b", sensitivity), None)
}

fn end(n: u128) -> Event {
    let ended = Ended {
        reason: EndReason::Asked,
        result: EndResult::Lapsed,
        asked: WallTime(START),
        ended: WallTime(START),
        dead: None,
        proof: None,
        attempts: 1,
    };
    Event::new(Kind::End).lease(lease(n)).ended(ended)
}

fn records(folder: &Path) -> Vec<Record> {
    query(folder, 1, &Filter::default(), usize::MAX).unwrap()
}

fn count(records: &[Record], kind: Kind) -> usize {
    records.iter().filter(|record| record.kind == kind).count()
}

fn sound(folder: &Path, pinned: &Pinned) -> Report {
    let report = verify(folder, pinned).unwrap();
    assert!(report.is_sound(), "{:#?}", report.problems);
    report
}
