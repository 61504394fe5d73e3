//! The thread that owns the file: one round is drain, encode, write once, sync once, answer.

#![allow(
    clippy::disallowed_methods,
    reason = "how long a write waits for its sync is this thread's own affair, not a deadline of the domain"
)]

use super::{AppendError, Message, Reopen, Reserve, Room, Scribe, Step, Storage, Sync};
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

const MAX_BATCH: usize = 1024;
const SYNC_WITHIN: Duration = Duration::from_millis(10);
const BALLAST_RETRY: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(100);

pub(super) struct Thread<S: Scribe> {
    receiver: Receiver<Message<S>>,
    scribe: S,
    reserve: Reserve,
    /// `None` after a failure, until another file is open.
    storage: Option<Box<dyn Storage>>,
    len: u64,
    synced: u64,
    /// What was written and not yet synced: acknowledged to some, so it must not be lost with the file.
    unsynced: Vec<u8>,
    /// When the oldest of it was written.
    since: Option<Instant>,
    failed: Option<AppendError>,
    /// When the ballast could not be made.
    unballasted: Option<Instant>,
    /// For callers: what `is_low` said last.
    low: Arc<AtomicBool>,
}

type Waiting<S> = Vec<(oneshot::Sender<Result<<S as Scribe>::Done, AppendError>>, <S as Scribe>::Done, Sync)>;

impl<S: Scribe> Thread<S> {
    pub(super) fn new(
        receiver: Receiver<Message<S>>,
        scribe: S,
        reserve: Reserve,
        storage: Box<dyn Storage>,
        low: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let len = storage.len()?;
        let storage = Some(storage);
        Ok(Self {
            receiver,
            scribe,
            reserve,
            storage,
            len,
            synced: len,
            unsynced: Vec::new(),
            since: None,
            failed: None,
            unballasted: None,
            low,
        })
    }

    pub(super) fn run(mut self) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let mut stop = false;
            match self.wait() {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => stop = true,
                Ok(message) => batch.push(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            while batch.len() < MAX_BATCH {
                match self.receiver.try_recv() {
                    Ok(Message::Stop) => stop = true,
                    Ok(message) => batch.push(message),
                    Err(_) => break,
                }
            }
            self.round(&mut batch, stop);
            if stop {
                return;
            }
        }
    }

    fn wait(&self) -> Result<Message<S>, RecvTimeoutError> {
        let sync = self.since.map(|since| SYNC_WITHIN.saturating_sub(since.elapsed()));
        let due = if self.storage.is_some() { self.scribe.due() } else { Some(RETRY) };
        match sync.into_iter().chain(due).min() {
            Some(timeout) => self.receiver.recv_timeout(timeout),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        }
    }

    fn round(&mut self, batch: &mut Vec<Message<S>>, stop: bool) {
        let ending = batch.iter().any(|message| matches!(message, Message::Item { room: Room::Ending, .. }));
        let low = self.is_low(ending);
        self.low.store(low == Some(AppendError::NoSpace), Ordering::Release);
        if let Err(error) = self.ensure_open() {
            return refuse(batch, error);
        }
        let mut out = Vec::new();
        self.scribe.turn(low.is_some(), &mut out);
        let mut waiting: Waiting<S> = Vec::with_capacity(batch.len());
        let mut turns = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Item { item, sync, room, reply } => match low {
                    Some(error) if room == Room::Ordinary => answer(reply, Err(error)),
                    _ => waiting.push((reply, self.scribe.encode(item, &mut out), sync)),
                },
                Message::Turn { reply } => turns.push(reply),
                Message::Poke | Message::Stop => {}
            }
        }
        let mut sync_now = stop || !turns.is_empty();
        let result = self.write(&out).and_then(|()| {
            let (later, soon): (Waiting<S>, Waiting<S>) = waiting.drain(..).partition(|(_, _, sync)| *sync == Sync::Now);
            waiting = later;
            soon.into_iter().for_each(|(reply, done, _)| answer(reply, Ok(done)));
            sync_now |= !waiting.is_empty() || self.since.is_some_and(|since| since.elapsed() >= SYNC_WITHIN);
            if sync_now { self.sync() } else { Ok(()) }
        });
        waiting.into_iter().for_each(|(reply, done, _)| answer(reply, result.map(|()| done)));
        turns.into_iter().for_each(|reply| answer(reply, result));
        if result.is_ok() && (stop || self.scribe.full(self.len)) {
            // A failure here is found again by the next round, or, at the end, by the next start.
            let _ = self.close(stop);
        } else if result.is_err() {
            // Nobody is left to be told; the next round tries again.
            let _ = self.ensure_open();
        }
    }

    /// `Some` while ordinary items must be refused.
    fn is_low(&mut self, ending: bool) -> Option<AppendError> {
        let space = match self.scribe.space() {
            Ok(space) => space,
            Err(error) => return Some(AppendError::of(Step::Space, &error)),
        };
        let limit = self.reserve.limit(space);
        if space.free < limit {
            if ending && space.free < self.reserve.floor && self.scribe.has_ballast() {
                // If it cannot be given up, the write says what is wrong.
                let _ = self.scribe.hold_ballast(false);
            }
            return Some(AppendError::NoSpace);
        }
        let tried = self.unballasted.is_some_and(|tried| tried.elapsed() < BALLAST_RETRY);
        if !tried && self.failed.is_none() && !self.scribe.has_ballast() {
            // Made only where it leaves the reserve alone; otherwise it waits for more room.
            if self.scribe.hold_ballast(true).is_err() || self.scribe.space().is_ok_and(|space| space.free < limit) {
                let _ = self.scribe.hold_ballast(false);
                self.unballasted = Some(Instant::now());
            }
        }
        None
    }

    fn ensure_open(&mut self) -> Result<(), AppendError> {
        match (&self.storage, self.failed) {
            (Some(storage), _) if !storage.displaced() => Ok(()),
            (Some(_), _) => {
                self.sync()?;
                self.reopen(Reopen::Displaced)
            }
            (None, why) => self.reopen(Reopen::Failed(why.unwrap_or(AppendError::Closed))),
        }
    }

    fn reopen(&mut self, why: Reopen) -> Result<(), AppendError> {
        let mut out = Vec::new();
        let opened = self.scribe.open(why, &mut out).and_then(|storage| Ok((storage.len()?, storage)));
        let (len, storage) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let error = AppendError::of(Step::Open, &error);
                // What `open` encoded is in no file.
                self.scribe.dropped();
                self.storage = None;
                self.failed.get_or_insert(error);
                return Err(error);
            }
        };
        (self.storage, self.len, self.synced) = (Some(storage), len, len);
        let mut carried = std::mem::take(&mut self.unsynced);
        let kept = carried.len();
        carried.extend_from_slice(&out);
        if let Err(error) = self.write(&carried) {
            carried.truncate(kept);
            self.unsynced = carried;
            return Err(error);
        }
        // If this fails, `write` has put everything back among what must be carried over.
        self.sync()?;
        self.failed = None;
        Ok(())
    }

    fn write(&mut self, out: &[u8]) -> Result<(), AppendError> {
        if out.is_empty() {
            self.scribe.written();
            return Ok(());
        }
        let Some(storage) = &mut self.storage else { return Err(self.failed.unwrap_or(AppendError::Closed)) };
        if let Err(error) = storage.write_all(out) {
            self.scribe.dropped();
            return Err(self.fail(Step::Write, &error));
        }
        self.len += out.len() as u64;
        self.unsynced.extend_from_slice(out);
        self.since.get_or_insert_with(Instant::now);
        self.scribe.written();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), AppendError> {
        if self.unsynced.is_empty() {
            return Ok(());
        }
        let Some(storage) = &mut self.storage else { return Err(self.failed.unwrap_or(AppendError::Closed)) };
        if let Err(error) = storage.sync() {
            return Err(self.fail(Step::Sync, &error));
        }
        self.note_synced();
        Ok(())
    }

    fn note_synced(&mut self) {
        self.synced = self.len;
        self.unsynced.clear();
        self.unsynced.shrink_to(1 << 20);
        self.since = None;
        self.scribe.synced();
    }

    fn fail(&mut self, step: Step, error: &io::Error) -> AppendError {
        let error = AppendError::of(step, error);
        if let Some(mut storage) = self.storage.take() {
            if step == Step::Write {
                // What was acknowledged before is in the file, and only there until the next one has it: it is not cut off with the
                // torn end. If the cut fails, readers see the end of the file where the next one says it is.
                let _ = storage.truncate(self.len);
                if !self.unsynced.is_empty() && storage.sync().is_ok() {
                    self.note_synced();
                }
            }
            // After a failed sync the kernel still shows what the disk may not have: a start must not build on it.
            let _ = storage.truncate(self.synced);
        }
        if error == AppendError::NoSpace && self.scribe.has_ballast() {
            // A quota does not show in the free space. If this fails too, the next file says so.
            let _ = self.scribe.hold_ballast(false);
        }
        self.since = None;
        self.failed = Some(error);
        error
    }

    fn close(&mut self, stop: bool) -> Result<(), AppendError> {
        let mut out = Vec::new();
        self.scribe.close(&mut out);
        self.write(&out)?;
        self.sync()?;
        if stop { Ok(()) } else { self.reopen(Reopen::Full) }
    }
}

fn refuse<S: Scribe>(batch: &mut Vec<Message<S>>, error: AppendError) {
    for message in batch.drain(..) {
        match message {
            Message::Item { reply, .. } => answer(reply, Err(error)),
            Message::Turn { reply } => answer(reply, Err(error)),
            Message::Poke | Message::Stop => {}
        }
    }
}

fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    // Whoever does not wait any more is told nothing.
    let _ = reply.send(value);
}
