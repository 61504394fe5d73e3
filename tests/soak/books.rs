//! Three books that must agree whenever it is quiet: the audit log, the lease journal, and what the daemon and PostgreSQL say.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// What the record says, read on from where it was read to.
#[derive(Default)]
pub struct Record {
    at: HashMap<PathBuf, u64>,
    /// Issued and not ended, with the secret.
    pub open: BTreeMap<String, String>,
    ended: HashSet<String>,
    /// Why each lease ended that ended since this was last taken.
    pub reasons: HashMap<String, String>,
    pub issued: u64,
    pub records: u64,
    /// By reason.
    pub ends: BTreeMap<String, u64>,
}

impl Record {
    /// Reads what was written since.
    pub fn read_on(&mut self, folder: &Path) {
        let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
        files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
        files.sort();
        for path in files {
            let at = self.at.get(&path).copied().unwrap_or(0);
            let mut file = fs::File::open(&path).unwrap();
            file.seek(SeekFrom::Start(at)).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            // What has no end yet is read the next time.
            let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            for line in bytes[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
                self.take(&record);
            }
            self.at.insert(path, at + whole as u64);
        }
    }

    fn take(&mut self, record: &Value) {
        self.records += 1;
        let lease = || record["lease"].as_str().unwrap_or_default().to_owned();
        match record["kind"].as_str() {
            Some("issue") => {
                self.issued += 1;
                if !self.ended.contains(&lease()) {
                    self.open.insert(lease(), record["secret"]["name"].as_str().unwrap_or_default().to_owned());
                }
            }
            Some("end") => {
                let reason = record["ended"]["reason"].as_str().unwrap_or("found").to_owned();
                self.open.remove(&lease());
                if self.ended.insert(lease()) {
                    *self.ends.entry(reason.clone()).or_default() += 1;
                    self.reasons.insert(lease(), reason);
                }
            }
            _ => {}
        }
    }

    /// How many leases have ended.
    pub fn ended(&self) -> usize {
        self.ended.len()
    }

    pub fn has_ended(&self, lease: &str) -> bool {
        self.ended.contains(lease)
    }
}

/// The leases that the journal says are not over: its files folded here once more, by its description and not by its code.
pub fn journal(folder: &Path) -> BTreeSet<String> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
    files.sort();
    let (mut open, mut over) = (BTreeSet::new(), HashSet::new());
    for path in files {
        // It may just have been removed behind a newer one, which begins with all that is open.
        let Ok(text) = fs::read_to_string(path) else { continue };
        for line in text.lines().filter_map(|line| line.get(17..)) {
            let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
            let id = event["id"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("lease") if !over.contains(&id) => drop(open.insert(id)),
                Some("ended") => {
                    open.remove(&id);
                    over.insert(id);
                }
                _ => {}
            }
        }
    }
    open
}

/// The lease of a role of ours: `clv_MARK_LEASE`.
pub fn lease_of_role(role: &str) -> String {
    format!("lease-{}", role.rsplit('_').next().unwrap_or_default())
}

/// How a process stands: descriptors, threads, KiB in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub descriptors: usize,
    pub threads: u64,
    pub resident: u64,
}

impl Figures {
    pub fn of(pid: u32) -> Figures {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        Figures { descriptors, threads: field("Threads:"), resident: field("VmRSS:") }
    }
}
