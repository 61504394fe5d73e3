//! The group-commit log: one thread owns the file, drains what waits, writes once, syncs once, and answers everybody.
//!
//! What is written and what a caller gets back is the business of a [`Scribe`], which runs on that thread and sees the items in
//! the order in which they will lie in the file; so it can number and chain them.
//!
//! After a failed sync the file is never touched again except to cut it back to what was synced: the kernel reports a lost page once and
//! calls it clean afterwards. After a failed write it is cut back to what was written before, and that is synced. All who waited for that
//! write or sync are told, and the scribe opens another file, into which everything goes first that had been acknowledged without a sync.
//!
//! Below a reserve of free space, ordinary items are refused before anything is written, and endings go on. That ends by itself.

mod thread;

#[cfg(test)]
mod tests;

use super::storage::{Space, Storage};
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, JoinHandle},
    time::Duration,
};
use tokio::sync::oneshot;

/// When a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sync {
    /// After the write; the sync follows within 10 ms.
    Soon,
    /// After the sync.
    Now,
}

/// Which room on the disk an item may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Not the reserve.
    Ordinary,
    /// The reserve and the ballast too: it makes things end.
    Ending,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Asking for the free space.
    Space,
    /// Opening a file.
    Open,
    /// Writing.
    Write,
    /// Syncing.
    Sync,
}

/// Why an item is not in the log. Except after `Step::Sync` nothing of it remains; after that it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// More wait than are allowed to. Later may do.
    #[error("too many records wait to be written")]
    Full,
    /// Less than the reserve is free. Returns by itself when there is room.
    #[error("too little disk space is left")]
    NoSpace,
    /// The disk failed; another file is tried for the next item.
    #[error("the log failed in step {step:?}: {}", io::Error::from_raw_os_error(*errno))]
    Io {
        /// In which step.
        step: Step,
        /// The kernel's number, 0 if it gave none.
        errno: i32,
    },
    /// The log was stopped.
    #[error("the log is closed")]
    Closed,
}

impl AppendError {
    fn of(step: Step, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => AppendError::NoSpace,
            errno => AppendError::Io { step, errno: errno.unwrap_or(0) },
        }
    }
}

/// Why another file is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// The present one is large enough; all of it is synced.
    Full,
    /// The present one failed. What had been written and not synced is put into the next one first.
    Failed(AppendError),
    /// The present one was removed or replaced under us. All of it is synced, wherever it is now.
    Displaced,
}

/// How much room ordinary items leave: the smaller of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// In bytes.
    pub bytes: u64,
    /// In hundredths of the file system.
    pub percent: u64,
    /// Below this many free bytes an ending gives up the ballast.
    pub floor: u64,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { bytes: 64 << 20, percent: 5, floor: 1 << 20 }
    }
}

impl Reserve {
    fn limit(&self, space: Space) -> u64 {
        self.bytes.min(space.total / 100 * self.percent)
    }
}

/// What runs on the log's thread. Only one method runs at a time.
pub trait Scribe: Send + 'static {
    /// What callers hand in.
    type Item: Send + 'static;
    /// What callers get back once it is in the log.
    type Done: Send + 'static;

    /// Adds the bytes of an item to `out`; none is allowed. What it changes in the scribe holds only after `written`.
    fn encode(&mut self, item: Self::Item, out: &mut Vec<u8>) -> Self::Done;
    /// In how long `turn` has something to do; `None` while nothing is pending.
    fn due(&self) -> Option<Duration>;
    /// Adds bytes of the scribe's own, before items. `low` says that ordinary items are being refused for want of space.
    fn turn(&mut self, low: bool, out: &mut Vec<u8>);
    /// Everything encoded so far is in the file, not necessarily on the disk.
    fn written(&mut self);
    /// Everything written is on the disk.
    fn synced(&mut self);
    /// What was encoded since the last `written` is not in the file.
    fn dropped(&mut self);
    /// Whether a file of `len` bytes should be followed by another.
    fn full(&self, len: u64) -> bool;
    /// Adds the last bytes of a file, or of the log.
    fn close(&mut self, out: &mut Vec<u8>);
    /// Opens another file, and adds to `out` what shall stand in it after anything carried over.
    fn open(&mut self, why: Reopen, out: &mut Vec<u8>) -> io::Result<Box<dyn Storage>>;
    /// The room that is left.
    fn space(&self) -> io::Result<Space>;
    /// Whether there is a ballast to give up.
    fn has_ballast(&self) -> bool;
    /// Makes or gives up the ballast.
    fn hold_ballast(&mut self, held: bool) -> io::Result<()>;
}

enum Message<S: Scribe> {
    Item { item: S::Item, sync: Sync, room: Room, reply: oneshot::Sender<Result<S::Done, AppendError>> },
    Turn { reply: oneshot::Sender<Result<(), AppendError>> },
    Poke,
    Stop,
}

/// The callers' side. Dropping it closes the log without waiting; `stop` waits.
pub struct Log<S: Scribe> {
    queue: SyncSender<Message<S>>,
    /// Ordinary items were refused for want of space when the thread last looked.
    low: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<S: Scribe> Log<S> {
    /// Starts the thread. `storage` is the file to go on with; at most `queue` items wait.
    pub fn start(name: &str, storage: Box<dyn Storage>, scribe: S, reserve: Reserve, queue: usize) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(queue);
        let low = Arc::new(AtomicBool::new(false));
        let state = thread::Thread::new(receiver, scribe, reserve, storage, low.clone())?;
        let thread = Builder::new().name(name.to_owned()).spawn(move || state.run())?;
        Ok(Self { queue: sender, low, thread: Mutex::new(Some(thread)) })
    }

    fn send(&self, message: Message<S>) -> Result<(), AppendError> {
        self.queue.try_send(message).map_err(|error| match error {
            TrySendError::Full(_) => AppendError::Full,
            TrySendError::Disconnected(_) => AppendError::Closed,
        })
    }

    /// Appends one item. Dropping the future takes nothing back.
    pub async fn append(&self, item: S::Item, sync: Sync, room: Room) -> Result<S::Done, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Item { item, sync, room, reply })?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// The same for a thread that may block.
    pub fn append_blocking(&self, item: S::Item, sync: Sync, room: Room) -> Result<S::Done, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Item { item, sync, room, reply })?;
        answer.blocking_recv().unwrap_or(Err(AppendError::Closed))
    }

    /// Does now whatever the scribe has to do by now, syncs, and answers.
    pub async fn settle(&self) -> Result<(), AppendError> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Turn { reply })?;
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Whether ordinary items are taken, as far as is known; asks the disk only while there was too little.
    pub async fn has_room(&self) -> bool {
        // A log that fails says why to whoever appends.
        !self.low.load(Ordering::Acquire) || self.settle().await.is_err() || !self.low.load(Ordering::Acquire)
    }

    /// Makes the thread look at what is due again.
    pub fn poke(&self) {
        // A full queue means that it will look anyway.
        let _ = self.queue.try_send(Message::Poke);
    }

    /// Writes what waits and the scribe's last bytes, syncs, and waits for the end of the thread. Later appends are refused.
    pub fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // An error says that the thread has ended already.
            let _ = self.queue.send(Message::Stop);
            let _ = thread.join();
        }
    }
}
