//! What daemon and attestor say to each other, and what is read back from the disk.

use super::Target;
use crate::{
    attest::{Answer, Gathered, Numbered, ProcessEvidence, Request, decode_answer, decode_request, encode_answer, encode_request},
    audit::{Audit, Event, Kind, Need, Note, Options, Pinned, Word, verify_volume},
    digest::Ed25519Key,
    engine::local::heard,
    lease::{JournalError, Leases},
    sys::{Keep, ManualClock, SimulatedVolume, Volume, append::Reserve},
};
use std::sync::{Arc, OnceLock};

pub(super) const ATTESTOR_REQUEST: Target = Target {
    name: "attestor_request",
    share: 1,
    samples: || {
        let all = [
            Request::Hello { version: 1 },
            Request::Process { pid: 7, full: true },
            Request::Look { pids: vec![1, 2, 70_000] },
            Request::File { path: b"/usr/bin/orders".to_vec() },
        ];
        all.into_iter().filter_map(|body| encode_request(&Numbered { id: 300, body }).ok()).collect()
    },
    words: &["\u{0}", "\u{1}", "\u{7f}"],
    run: |bytes| {
        let mut accepted = false;
        for descriptors in 0..4 {
            if let Ok(request) = decode_request(bytes, descriptors) {
                assert_eq!(request.body.descriptors(), descriptors);
                let again = encode_request(&request).expect("what was read can be said");
                assert!(again.len() <= bytes.len(), "there is no shorter spelling than ours");
                assert_eq!(decode_request(&again, descriptors), Ok(request));
                accepted = true;
            }
        }
        accepted
    },
};

pub(super) const ATTESTOR_ANSWER: Target = Target {
    name: "attestor_answer",
    share: 1,
    samples: || {
        let process = ProcessEvidence { pid: 7, uids: [1000; 4], groups: vec![4, 24], ..ProcessEvidence::default() };
        let gathered = Box::new(Gathered { ancestors: vec![process.clone()], process, ancestors_in_full: true });
        let all = [
            Answer::Look(vec![None, None]),
            Answer::File(None),
            Answer::Failed("no such process".into()),
            Answer::Short("too many open files".into()),
            Answer::Process { gathered, files: true },
        ];
        all.into_iter().filter_map(|body| encode_answer(&Numbered { id: 300, body }).ok()).collect()
    },
    words: &["\u{0}", "\u{1}", "\u{7f}"],
    run: |bytes| {
        let mut accepted = false;
        for descriptors in 0..3 {
            if let Ok(answer) = decode_answer(bytes, descriptors) {
                assert_eq!(answer.body.descriptors(), descriptors);
                let again = encode_answer(&answer).expect("what was read can be said");
                assert_eq!(decode_answer(&again, descriptors), Ok(answer));
                accepted = true;
            }
        }
        accepted
    },
};

pub(super) const STORE: Target = Target {
    name: "store",
    share: 1,
    samples: || vec![heard::sample()],
    words: &["{", "}", "[", "]", ",", "\"version\":", "\"created\":", "1", "2", "3", "\"next\":", "18446744073709551615", "null", "="],
    run: |bytes| heard::hear(bytes).is_ok_and(|versions| versions > 0),
};

/// A log that was written by the real writer, with the key that signed it.
struct Log {
    bytes: Vec<u8>,
    key: [u8; 32],
}

fn log() -> &'static Log {
    static LOG: OnceLock<Log> = OnceLock::new();
    LOG.get_or_init(|| {
        let pkcs8 = Ed25519Key::generate().expect("keys can be made");
        let key = Ed25519Key::from_pkcs8(pkcs8.expose()).expect("it was just made");
        let mut public = [0; 32];
        public.copy_from_slice(key.public());
        let volume = SimulatedVolume::new(1 << 24, 0);
        let word = |text| Word::parse(text).expect("a word");
        let clock = Arc::new(ManualClock::new(1_000_000_000, 1_795_600_000_000_000));
        let options = Options { head_every: 3, ..Options::new(word("host-1"), word("boot-1")) };
        let audit = Audit::open(options, Box::new(volume.clone()), key, clock, Vec::new()).expect("an empty log opens");
        for kind in [Kind::Start, Kind::Issue, Kind::Read, Kind::End, Kind::Issue, Kind::Stop] {
            let _recorded = audit.append_blocking(Event::new(kind).detail("why"), Need::Soon).expect("it is written");
        }
        audit.stop();
        Log { bytes: volume.content("audit-00000000000000000001.jsonl").unwrap_or_default(), key: public }
    })
}

pub(super) const HEAD: Target = Target {
    name: "head",
    share: 1,
    samples: || {
        let text = String::from_utf8_lossy(&log().bytes).into_owned();
        text.lines().filter_map(Note::find).map(|note| note.to_string().into_bytes()).collect()
    },
    words: &["claviger-head-v1 ", "claviger-stub-v1 ", "claviger-key-v1 ", " ", "0", "+1", "A", "\"", "host-2"],
    run: |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Some(note) = Note::find(&text) else { return false };
        let said = note.to_string();
        assert!(text.contains(&said), "what is read is what stands there");
        assert_eq!(Note::find(&said), Some(note.clone()));
        let ours = String::from_utf8_lossy(&log().bytes).contains(&said);
        assert!(ours || note.key != log().key || !note.holds(), "nobody else signs with our key");
        note.holds()
    },
};

const JSON: &[&str] = &["\n", "{", "}", "\"seq\":", "\"state\":\"live\"", "0000000000000000 ", "\0", ",", "null", "\"event\":\"heading\""];

pub(super) const AUDIT: Target = Target {
    name: "audit",
    share: 10,
    samples: || vec![log().bytes.clone()],
    words: JSON,
    run: |bytes| {
        let mut volume = SimulatedVolume::new(1 << 24, 0);
        volume.replace("audit-00000000000000000001.jsonl", bytes, Keep::Durably).expect("there is room");
        let pinned = Pinned { keys: vec![log().key], ..Pinned::default() };
        let report = verify_volume(&volume, &pinned).expect("a simulated file can be read");
        assert!(!report.is_sound() || log().bytes.starts_with(bytes), "only what was written, or its beginning, is sound");
        report.is_sound()
    },
};

fn journal() -> Vec<u8> {
    // Lines as the writer makes them: the first file of an installation, with its checksum.
    let volume = SimulatedVolume::new(1 << 24, 0);
    open(&volume).ok();
    volume.content("leases-000000000001.jsonl").unwrap_or_default()
}

fn open(volume: &SimulatedVolume) -> Result<(usize, usize), JournalError> {
    let (leases, recovered) = Leases::open(Box::new(volume.clone()), "state", Reserve { bytes: 0, percent: 0, floor: 0 }, 4)?;
    leases.stop();
    Ok((leases.count(), recovered.torn))
}

pub(super) const JOURNAL: Target = Target {
    name: "journal",
    share: 5,
    samples: || vec![journal(), [journal(), LEASE.as_bytes().to_vec()].concat()],
    words: JSON,
    run: |bytes| {
        let mut volume = SimulatedVolume::new(1 << 24, 0);
        volume.replace("leases-000000000007.jsonl", bytes, Keep::Durably).expect("there is room");
        let Ok((count, torn)) = open(&volume) else {
            assert_eq!(volume.content("leases-000000000007.jsonl").as_deref(), Some(bytes), "what is refused is left alone");
            return false;
        };
        assert!(open(&volume).is_ok_and(|again| again == (count, 0)), "what was read is written, and read again");
        torn == 0
    },
};

/// A line whose checksum does not hold.
const LEASE: &str = "0011223344556677 {\"event\":\"ended\",\"id\":\"lease-00000000z80000000000000001\"}\n";
