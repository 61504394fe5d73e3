//! One simulated file: what programs read, what is surely on the disk, and what a power cut may leave of the rest.

/// What a disk writes whole or not at all, in bytes.
pub(super) const SECTOR: usize = 512;

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Cut(usize),
}

#[derive(Clone, Default)]
pub(super) struct Content {
    /// As the kernel has it.
    pub bytes: Vec<u8>,
    /// As it is on the disk for certain.
    base: Vec<u8>,
    /// What was done since, oldest first.
    pending: Vec<Change>,
    /// How many of those stood before a sync that failed: the kernel calls them clean, and no later sync writes them.
    lost: usize,
    pub generation: u64,
}

impl Content {
    /// A file that is on the disk.
    pub fn durable(bytes: Vec<u8>, generation: u64) -> Self {
        Self { base: bytes.clone(), bytes, pending: Vec::new(), lost: 0, generation }
    }

    /// A file of which nothing is on the disk yet.
    pub fn loose(bytes: Vec<u8>, generation: u64) -> Self {
        let pending = vec![Change::Write { at: 0, bytes: bytes.clone() }];
        Self { bytes, base: Vec::new(), pending, lost: 0, generation }
    }

    pub fn append(&mut self, bytes: &[u8]) {
        self.pending.push(Change::Write { at: self.bytes.len(), bytes: bytes.to_vec() });
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes what stands behind byte `from` once more in its place.
    pub fn again(&mut self, from: usize) {
        let from = from.min(self.bytes.len());
        self.pending.push(Change::Write { at: from, bytes: self.bytes[from..].to_vec() });
    }

    pub fn cut(&mut self, len: usize) {
        if len < self.bytes.len() {
            self.bytes.truncate(len);
            self.pending.push(Change::Cut(len));
        }
    }

    pub fn sync(&mut self) {
        for (n, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            match change {
                Change::Write { at, bytes } if n < self.lost => apply(&mut self.base, &Change::Write { at, bytes: vec![0; bytes.len()] }),
                change => apply(&mut self.base, &change),
            }
        }
        self.lost = 0;
    }

    pub fn fail_sync(&mut self) {
        self.lost = self.pending.len();
    }

    /// The first `kept` bytes of what was not synced.
    pub fn beginning(&self, kept: usize) -> Vec<u8> {
        self.bytes[..self.bytes.len().min(self.base.len().saturating_add(kept))].to_vec()
    }

    pub fn is_synced(&self) -> bool {
        self.pending.is_empty()
    }

    /// What may be found after a power cut. Each sector and the length are of any moment since the last sync, each of its own: so any
    /// subset of the writes may be there, whatever their order was. What is inside the length and was never written is zeros.
    pub fn torn(&self, dice: &mut dyn FnMut(usize) -> usize) -> Vec<u8> {
        let n = self.pending.len();
        let style = if n == 0 { 0 } else { dice(6) };
        let mut moments = vec![self.base.clone()];
        for change in &self.pending {
            let mut next = moments.last().cloned().unwrap_or_default();
            apply(&mut next, change);
            moments.push(next);
        }
        let last = moments[n].len();
        let len = match style {
            0 => return moments.swap_remove(0),
            1 => return moments.swap_remove(n),
            // The length is written last, and only as far as the data came.
            2 => {
                let (from, to) = (moments[0].len().min(last), moments[0].len().max(last));
                let len = from + dice(to - from + 1);
                moments[n].resize(len, 0);
                return moments.swap_remove(n);
            }
            3 => last,
            _ => moments[dice(n + 1)].len(),
        };
        let mut out = vec![0; len];
        // One sector is missing, or each is as it likes.
        let missing = (style == 3 && len > moments[0].len()).then(|| (moments[0].len() + dice(len - moments[0].len())) / SECTOR);
        for (sector, part) in out.chunks_mut(SECTOR).enumerate() {
            let moment = match missing {
                Some(missing) => {
                    if sector == missing {
                        0
                    } else {
                        n
                    }
                }
                None => dice(n + 1),
            };
            let from = &moments[moment][moments[moment].len().min(sector * SECTOR)..];
            let len = part.len().min(from.len());
            part[..len].copy_from_slice(&from[..len]);
        }
        out
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Cut(len) => bytes.truncate(*len),
        Change::Write { at, bytes: new } => {
            let end = at + new.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at..end].copy_from_slice(new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn any_sector_may_be_missing_and_what_was_synced_never_is() {
        let mut file = Content::default();
        file.append(&[1; 1024]);
        file.sync();
        (2..5).for_each(|n| file.append(&[n; SECTOR]));
        let mut number = 1u64;
        let mut dice = |sides: usize| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) as usize % sides
        };
        let mut seen = BTreeSet::new();
        for _ in 0..2_000 {
            let found = file.torn(&mut dice);
            assert_eq!(found[..1024], [1; 1024]);
            seen.insert((2..5).map(|n| found.contains(&n)).collect::<Vec<_>>());
        }
        assert_eq!(seen.len(), 8, "every subset of three writes: {seen:?}");
    }

    #[test]
    fn what_a_failed_sync_lost_is_not_written_by_the_next() {
        let mut file = Content::default();
        file.append(&[1; 10]);
        file.fail_sync();
        file.append(&[2; 10]);
        file.sync();
        assert_eq!(file.bytes, [[1; 10], [2; 10]].concat());
        assert_eq!(file.torn(&mut |_| 0), [[0; 10], [2; 10]].concat());
    }
}
