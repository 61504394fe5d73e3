//! Anchors: signed heads leave the host by themselves, from a thread of their own, so that nobody waits for them.

use super::chain::Tip;
use super::note::Note;
use crate::model::BootTime;
use crate::sys::{Clock, send_journal, send_syslog};
use std::{
    io,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{Builder, JoinHandle},
    time::Duration,
};

/// A place outside that keeps heads.
pub trait Anchor: Send {
    /// A short name for messages.
    fn name(&self) -> &'static str;
    /// Hands the head over. May take its time, but must end; an error means that the next head is tried instead.
    fn send(&mut self, note: &Note) -> io::Result<()>;
}

/// journald, whose entries a log forwarder takes off the host: `CLAVIGER_HEAD` holds the head.
pub struct JournalAnchor {
    /// Its socket, normally `sys::JOURNAL_SOCKET`.
    pub socket: PathBuf,
}

impl Anchor for JournalAnchor {
    fn name(&self) -> &'static str {
        "journald"
    }
    fn send(&mut self, note: &Note) -> io::Result<()> {
        let text = note.to_string();
        let message = format!("audit head {text}");
        let fields = [("MESSAGE", &*message), ("PRIORITY", "5"), ("SYSLOG_IDENTIFIER", "claviger"), ("CLAVIGER_HEAD", &*text)];
        send_journal(&self.socket, &fields)
    }
}

/// syslog.
pub struct SyslogAnchor {
    /// Its socket, normally `sys::SYSLOG_SOCKET`.
    pub socket: PathBuf,
}

impl Anchor for SyslogAnchor {
    fn name(&self) -> &'static str {
        "syslog"
    }
    fn send(&mut self, note: &Note) -> io::Result<()> {
        send_syslog(&self.socket, "claviger", &format!("audit head {note}"))
    }
}

/// How anchoring stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anchored {
    /// Whether there is any anchor.
    pub configured: bool,
    /// The last record whose head left the host; 0 if none has.
    pub seq: u64,
    /// When that was, on the boot clock.
    pub at: Option<BootTime>,
    /// Since when there have been heads that have not left.
    pub pending_since: Option<BootTime>,
    /// The last failure, if the last try failed.
    pub error: Option<String>,
}

impl Anchored {
    /// Whether something was written more than a minute ago and its head has not left.
    pub fn is_stale(&self, now: BootTime) -> bool {
        self.configured && self.pending_since.is_some_and(|since| now.since(since) > 60_000_000)
    }
}

#[derive(Default)]
struct State {
    newest: Option<Note>,
    offered: Option<Tip>,
    anchored: Anchored,
    stop: bool,
}

/// The thread that sends heads: the newest one, at most one per interval, again after a failure.
pub(super) struct Publisher {
    shared: Arc<(Mutex<State>, Condvar)>,
    clock: Arc<dyn Clock>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Publisher {
    pub(super) fn start(mut anchors: Vec<Box<dyn Anchor>>, every: Duration, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let state = State { anchored: Anchored { configured: !anchors.is_empty(), ..Anchored::default() }, ..State::default() };
        let shared = Arc::new((Mutex::new(state), Condvar::new()));
        let theirs = (shared.clone(), clock.clone());
        let thread = if anchors.is_empty() {
            None
        } else {
            Some(Builder::new().name("audit-anchor".into()).spawn(move || run(&theirs.0, &*theirs.1, &mut anchors, every))?)
        };
        Ok(Self { shared, clock, thread: Mutex::new(thread) })
    }

    /// Takes a head whose records are on the disk.
    pub(super) fn offer(&self, note: Note) {
        let mut state = lock(&self.shared.0);
        state.offered = Some(note.tip);
        if state.anchored.configured {
            state.anchored.pending_since.get_or_insert(self.clock.boot());
            state.newest = Some(note);
            self.shared.1.notify_one();
        }
    }

    /// The last head that was offered.
    pub(super) fn offered(&self) -> Option<Tip> {
        lock(&self.shared.0).offered
    }

    pub(super) fn anchored(&self) -> Anchored {
        lock(&self.shared.0).anchored.clone()
    }

    /// Sends what waits, once, and ends the thread.
    pub(super) fn stop(&self) {
        lock(&self.shared.0).stop = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic in there has been printed; there is nothing to save here.
            let _ = thread.join();
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        // The thread sends what waits, and ends by itself: nobody waits for it here.
        lock(&self.shared.0).stop = true;
        self.shared.1.notify_one();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(shared: &(Mutex<State>, Condvar), clock: &dyn Clock, anchors: &mut [Box<dyn Anchor>], every: Duration) {
    let (mutex, wake) = shared;
    loop {
        let state = lock(mutex);
        let mut state = wake.wait_while(state, |state| state.newest.is_none() && !state.stop).unwrap_or_else(PoisonError::into_inner);
        let Some(note) = state.newest.take() else { return };
        drop(state);
        let results: Vec<_> = anchors.iter_mut().map(|anchor| anchor.send(&note).map_err(|e| format!("{}: {e}", anchor.name()))).collect();
        let mut state = lock(mutex);
        state.anchored.error = results.iter().find_map(|result| result.clone().err());
        if results.iter().any(Result::is_ok) {
            (state.anchored.seq, state.anchored.at) = (note.tip.seq, Some(clock.boot()));
            state.anchored.pending_since = state.newest.is_some().then(|| clock.boot());
        } else if state.newest.is_none() && !state.stop {
            state.newest = Some(note);
        }
        // What arrives meanwhile replaces what waits. A stop cuts the interval short.
        let waited = wake.wait_timeout_while(state, every, |state| !state.stop);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}
