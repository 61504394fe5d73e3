//! Looks for values where they do not belong: in bytes, in files, and in the environments and argument lists of every process.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// Values in every form in which they might turn up.
#[derive(Default)]
pub struct Needles {
    all: Vec<(String, Vec<u8>)>,
    /// By the first two bytes: where to begin comparing.
    begins: Vec<Vec<usize>>,
}

impl Needles {
    /// A value that is looked for from now on.
    pub fn add(&mut self, name: &str, value: &[u8]) {
        assert!(value.len() >= 16, "{name} could be found by chance");
        for (form, bytes) in forms(value) {
            if bytes.len() >= 8 && !self.all.iter().any(|(_, known)| *known == bytes) {
                self.begins.resize(1 << 16, Vec::new());
                self.begins[pair(&bytes)].push(self.all.len());
                self.all.push((format!("{name} as {form}"), bytes));
            }
        }
    }

    /// Which of them are in these bytes.
    pub fn within(&self, bytes: &[u8]) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for at in 0..bytes.len().saturating_sub(1) {
            for needle in self.begins.get(pair(&bytes[at..])).into_iter().flatten() {
                let (name, needle) = &self.all[*needle];
                if bytes[at..].starts_with(needle) {
                    found.insert(name.clone());
                }
            }
        }
        found
    }
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

fn forms(value: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    let middle = value.len() / 2;
    let mut out =
        vec![("itself", value.to_vec()), ("its first half", value[..middle].to_vec()), ("its second half", value[middle..].to_vec())];
    let lower = hex::encode(value);
    out.push(("upper hexadecimal", lower.to_uppercase().into_bytes()));
    out.push(("hexadecimal", lower.into_bytes()));
    // Inside a longer text a value may begin at any of three places of the alphabet's groups; the ends depend on what is beside it.
    for ahead in 0..3 {
        let padded = [&[0u8; 3][..ahead], value].concat();
        let whole = padded.len() / 3 * 4;
        let skip = if ahead == 0 { 0 } else { 4 };
        out.push(("base64", STANDARD_NO_PAD.encode(&padded).as_bytes()[skip..whole].to_vec()));
        out.push(("URL-safe base64", URL_SAFE_NO_PAD.encode(&padded).as_bytes()[skip..whole].to_vec()));
    }
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    let percent = |all: bool, upper: bool| -> String {
        value
            .iter()
            .map(|b| match (!all && plain(b), upper) {
                (true, _) => char::from(*b).to_string(),
                (_, true) => format!("%{b:02X}"),
                (_, false) => format!("%{b:02x}"),
            })
            .collect()
    };
    for (all, upper) in [(false, true), (false, false), (true, true), (true, false)] {
        out.push(("URL-encoded", percent(all, upper).into_bytes()));
    }
    out.push(("escaped bytes", value.escape_ascii().to_string().into_bytes()));
    out.push(("a list of numbers", format!("{value:?}").trim_matches(['[', ']']).to_owned().into_bytes()));
    if let Ok(text) = std::str::from_utf8(value) {
        let json = serde_json::to_string(text).unwrap();
        let ascii: String = json.chars().map(|c| if c.is_ascii() { c.to_string() } else { format!("\\u{:04x}", c as u32) }).collect();
        for (form, quoted) in [("JSON", json), ("JSON in ASCII", ascii), ("Rust text", format!("{text:?}"))] {
            out.push((form, quoted.as_bytes()[1..quoted.len() - 1].to_vec()));
        }
    }
    out
}

/// Every file below a folder, with its bytes.
pub fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())).flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            out.append(&mut files(&entry.path()));
        } else if kind.is_file() {
            out.push((entry.path().display().to_string(), fs::read(entry.path()).unwrap()));
        }
    }
    out
}

/// Looks into the environment and the arguments of every process, over and over until it is asked what it saw.
pub struct Watch {
    needles: Arc<RwLock<Needles>>,
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<(String, String)>>,
}

impl Watch {
    pub fn start(needles: Arc<RwLock<Needles>>) -> Watch {
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (with, counted, told) = (needles.clone(), rounds.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !told.load(Ordering::Relaxed) {
                look(&with.read().unwrap(), &mut seen);
                counted.fetch_add(1, Ordering::Release);
            }
            seen
        });
        Watch { needles, rounds, stop, thread }
    }

    /// One more value to look for.
    pub fn add(&self, name: &str, value: &[u8]) {
        self.needles.write().unwrap().add(name, value);
    }

    /// All that is looked for.
    pub fn needles(&self) -> Arc<RwLock<Needles>> {
        self.needles.clone()
    }

    /// Returns when every process that runs now has been looked at.
    pub fn a_round(&self) {
        // The round under way may have passed it by.
        let from = self.rounds.load(Ordering::Acquire);
        while self.rounds.load(Ordering::Acquire) < from + 2 {
            assert!(!self.thread.is_finished(), "the watch ended");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What was found and where: `cmdline` or `environ`, and what the process's arguments begin with.
    pub fn end(self) -> BTreeSet<(String, String)> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn look(needles: &Needles, seen: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        if !entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()) {
            continue;
        }
        let arguments = || fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let before = arguments();
        for what in ["environ", "cmdline"] {
            // A process may go while it is looked at.
            let Ok(bytes) = fs::read(entry.path().join(what)) else { continue };
            for name in needles.within(&bytes) {
                // It may be another program by now, or have ended.
                let after = arguments();
                let who = String::from_utf8_lossy(if after.is_empty() { &before } else { &after })
                    .replace('\0', " ")
                    .chars()
                    .take(60)
                    .collect::<String>();
                seen.insert((name, format!("{what} of {who}")));
            }
        }
    }
}
