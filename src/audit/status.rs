//! How the log stands, for `clav status` and metrics; shared between the callers' side and the log's thread.

use super::anchor::Anchored;
use super::chain::Tip;
use super::scribe::lock;
use crate::digest::Digest;
use crate::sys::append::AppendError;
use std::{io, sync::Mutex};
use tokio::sync::watch;

/// How the log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The last record that is written.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
    /// The last record that is on the disk.
    pub synced: u64,
    /// The last record that a signed head covers.
    pub headed: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Ordinary records are refused for want of space.
    pub low: bool,
    /// Files given up since the start because the disk failed.
    pub failures: u64,
    /// The last such failure.
    pub failure: Option<AppendError>,
    /// Why old segments could not be removed, if they could not.
    pub prune_error: Option<String>,
    /// How anchoring stands.
    pub anchored: Anchored,
    /// Something was written more than a minute ago, and its head has not left the host.
    pub anchor_stale: bool,
}

struct Inner {
    tip: Tip,
    synced: u64,
    headed: u64,
    bytes: u64,
    low: bool,
    failures: u64,
    failure: Option<AppendError>,
    prune_error: Option<String>,
    stopping: bool,
}

pub(super) struct Shared {
    inner: Mutex<Inner>,
    last: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(tip: Tip, bytes: u64) -> Self {
        let inner =
            Inner { tip, synced: tip.seq, headed: 0, bytes, low: false, failures: 0, failure: None, prune_error: None, stopping: false };
        Self { inner: Mutex::new(inner), last: watch::Sender::new(tip.seq) }
    }

    pub(super) fn status(&self, anchored: Anchored, anchor_stale: bool) -> Status {
        let inner = lock(&self.inner);
        Status {
            seq: inner.tip.seq,
            hash: inner.tip.hash,
            synced: inner.synced,
            headed: inner.headed,
            bytes: inner.bytes,
            low: inner.low,
            failures: inner.failures,
            failure: inner.failure,
            prune_error: inner.prune_error.clone(),
            anchored,
            anchor_stale,
        }
    }

    /// The number of the last record that is written.
    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    pub(super) fn written(&self, tip: Tip) {
        lock(&self.inner).tip = tip;
        self.last.send_if_modified(|last| std::mem::replace(last, tip.seq) != tip.seq);
    }

    pub(super) fn synced(&self, seq: u64, bytes: u64) {
        let mut inner = lock(&self.inner);
        (inner.synced, inner.bytes) = (seq, bytes);
    }

    pub(super) fn headed(&self, seq: u64) {
        lock(&self.inner).headed = seq;
    }

    pub(super) fn set_low(&self, low: bool) {
        lock(&self.inner).low = low;
    }

    pub(super) fn failed(&self, error: AppendError) {
        let mut inner = lock(&self.inner);
        inner.failures += 1;
        inner.failure = Some(error);
    }

    pub(super) fn pruned(&self, result: io::Result<()>) {
        lock(&self.inner).prune_error = result.err().map(|error| error.to_string());
    }

    pub(super) fn stop(&self) {
        lock(&self.inner).stopping = true;
    }

    pub(super) fn is_stopping(&self) -> bool {
        lock(&self.inner).stopping
    }
}
