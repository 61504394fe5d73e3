//! The attestor's side of the conversation: questions in, evidence out. It decides nothing and keeps nothing but hashes and budgets.
//!
//! Threads that wait, and no runtime: each connection has a few, and whichever is free takes the next question, so one that is held up by
//! a stranger's file system holds up nobody else. What measures content runs beside them, four at most: one that never comes back (a
//! file server that does not answer) keeps its place and is counted.

use super::{
    gather::Gatherer,
    hash::HashError,
    protocol::{Answer, Lives, MAX_BYTES, Numbered, Request, VERSION, decode_request, encode_answer},
};
use crate::sys::{Found, Packets, PeerCred, Pidfd, is_shortage};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Threads that answer on one connection.
pub(super) const THREADS: usize = 16;
/// Connections at a time: the daemon has one; during its restart the one before may linger.
const CONNECTIONS: usize = 4;
/// Measurements at a time, those that never end included.
const MEASURING: usize = 4;
/// A daemon that does not take an answer for so long is not waited for.
const SEND_WITHIN: Duration = Duration::from_secs(2);

/// Why there is no answer.
fn failed(error: &io::Error) -> Answer {
    // Short itself, it must not be the reason that somebody loses anything.
    if is_shortage(error) && !crate::mutation!("shortage-told") {
        Answer::Short(error.to_string())
    } else {
        Answer::Failed(error.to_string())
    }
}

/// Serves whoever connects and is the daemon.
pub struct Service {
    gatherer: Gatherer,
    /// The daemon's user: nobody else is answered.
    daemon: u32,
    connections: AtomicUsize,
    measuring: AtomicUsize,
}

/// A place among a few; it is free again when this is dropped.
struct Place<T: AsRef<AtomicUsize>>(T);

impl<T: AsRef<AtomicUsize>> Place<T> {
    fn take(counter: T, most: usize) -> Option<Self> {
        let place = Self(counter);
        // Counted first: whoever is over the bound gives the place back at once.
        if place.0.as_ref().fetch_add(1, Ordering::AcqRel) < most { Some(place) } else { None }
    }
}

impl<T: AsRef<AtomicUsize>> Drop for Place<T> {
    fn drop(&mut self) {
        self.0.as_ref().fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of the service's counters, held with the service.
struct Connections(Arc<Service>);
struct Measuring(Arc<Service>);
impl AsRef<AtomicUsize> for Connections {
    fn as_ref(&self) -> &AtomicUsize {
        &self.0.connections
    }
}
impl AsRef<AtomicUsize> for Measuring {
    fn as_ref(&self) -> &AtomicUsize {
        &self.0.measuring
    }
}

struct Conversation {
    packets: Packets,
    with: PeerCred,
    service: Arc<Service>,
    _place: Place<Connections>,
}

impl Service {
    /// `daemon` is the uid of who may ask.
    pub fn new(gatherer: Gatherer, daemon: u32) -> Arc<Self> {
        Arc::new(Self { gatherer, daemon, connections: AtomicUsize::new(0), measuring: AtomicUsize::new(0) })
    }

    /// Measurements that are going on, or hang.
    pub fn measuring(&self) -> usize {
        self.measuring.load(Ordering::Acquire)
    }

    /// Whether it still gathers: it looks at itself as it would at others, and so comes past every lock.
    pub fn sees_itself(&self) -> bool {
        let pid = std::process::id();
        Pidfd::open(pid).and_then(|me| self.gatherer.process(&me, pid, false)).is_ok()
    }

    /// Answers on every connection to `listener`, for ever. Only an error of the listener itself comes back.
    pub fn serve(self: &Arc<Self>, listener: &OwnedFd) -> io::Result<()> {
        loop {
            match Packets::accept(listener, SEND_WITHIN) {
                Ok(packets) => self.converse(packets),
                Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Answers on one connection, in threads of its own, if it is the daemon's.
    pub fn converse(self: &Arc<Self>, packets: Packets) {
        let with = match packets.peer() {
            Ok(with) if with.uid == self.daemon || crate::mutation!("attestor-peer") => with,
            Ok(with) => return tracing::warn!(pid = with.pid, uid = with.uid, "a stranger asked and was sent away"),
            Err(error) => return tracing::warn!(%error, "a connection does not tell whose it is"),
        };
        let Some(place) = Place::take(Connections(self.clone()), CONNECTIONS) else {
            return tracing::warn!(pid = with.pid, "too many connections at a time");
        };
        let conversation = Arc::new(Conversation { packets, with, service: self.clone(), _place: place });
        for _ in 0..THREADS {
            let conversation = conversation.clone();
            let started = std::thread::Builder::new().name("attest".to_owned()).spawn(move || {
                let mut buffer = vec![0; MAX_BYTES];
                while conversation.answer_one(&mut buffer).unwrap_or_else(|error| {
                    tracing::warn!(%error, "a conversation was ended");
                    false
                }) {}
                // Whoever reads beside this thread ends as well: one message that cannot be believed ends the whole conversation.
                conversation.packets.shut();
            });
            if let Err(error) = started {
                tracing::error!(%error, "no thread could be started");
            }
        }
    }
}

impl Conversation {
    /// Takes one question and answers it. `false` when the daemon has hung up.
    fn answer_one(self: &Arc<Self>, buffer: &mut [u8]) -> io::Result<bool> {
        let Some(packet) = self.packets.receive(buffer)? else { return Ok(false) };
        // A descriptor can be passed on: every single message must be from the process that connected.
        if (packet.sender.pid, packet.sender.uid) != (self.with.pid, self.with.uid) && !crate::mutation!("attestor-peer") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let question = decode_request(&buffer[..packet.len], packet.descriptors.len()).map_err(io::Error::other)?;
        let mut pidfds = packet.descriptors.into_iter().map(Pidfd::received);
        let (id, gatherer) = (question.id, &self.service.gatherer);
        let gone = || io::Error::from(io::ErrorKind::InvalidData);
        match question.body {
            Request::Hello { version: _ } => self.say(id, Answer::Hello { version: VERSION, sight: gatherer.sight() }, &[])?,
            Request::Process { pid, full } => match gatherer.process(&pidfds.next().ok_or_else(gone)??, pid, full) {
                Ok((gathered, map, files)) => {
                    let mut beside = vec![map.as_fd()];
                    beside.extend(files.iter().flat_map(|files| files.fds()));
                    self.say(id, Answer::Process { gathered: Box::new(gathered), files: files.is_some() }, &beside)?;
                }
                Err(error) => self.say(id, failed(&error), &[])?,
            },
            Request::Look { pids } => {
                let looks = pids.iter().zip(pidfds).map(|(pid, pidfd)| Ok(gatherer.look(&pidfd?, *pid))).collect::<io::Result<_>>()?;
                self.say(id, Answer::Look(looks), &[])?;
            }
            Request::Measure { pid, uid } => self.measure(id, pidfds.next().ok_or_else(gone)??, pid, uid)?,
            Request::Find { handle } => match gatherer.find(handle) {
                Found::Alive(pidfd) => self.say(id, Answer::Found(Lives::Yes), &[pidfd.as_fd()])?,
                Found::Gone => self.say(id, Answer::Found(Lives::No), &[])?,
                Found::Unsupported => self.say(id, Answer::Found(Lives::Unknown), &[])?,
            },
            Request::File { path } => {
                let answer = gatherer.file(&path).map_or_else(|error| failed(&error), Answer::File);
                self.say(id, answer, &[])?;
            }
        }
        Ok(true)
    }

    /// In a thread of its own: a file on a slow disk keeps nobody else waiting.
    fn measure(self: &Arc<Self>, id: u64, pidfd: Pidfd, pid: u32, uid: u32) -> io::Result<()> {
        let Some(place) = Place::take(Measuring(self.service.clone()), MEASURING) else {
            return self.say(id, Answer::Short(format!("{MEASURING} executables are being read already")), &[]);
        };
        let this = self.clone();
        let work = move || {
            let answer = match this.service.gatherer.measure(&pidfd, pid, uid) {
                Ok(measured) => Answer::Measured(measured),
                Err(HashError::Io(error)) => failed(&error),
                Err(error) => Answer::Failed(error.to_string()),
            };
            drop(place);
            // Whoever asked may have gone meanwhile.
            let _ = this.say(id, answer, &[]);
        };
        std::thread::Builder::new().name("measure".to_owned()).spawn(work).map(drop)
    }

    fn say(&self, id: u64, answer: Answer, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        match encode_answer(&Numbered { id, body: answer }) {
            Ok(bytes) => self.packets.send(&bytes, beside),
            Err(_) => {
                let body = Answer::Failed("there is more evidence than fits a message".to_owned());
                self.packets.send(&encode_answer(&Numbered { id, body }).map_err(io::Error::other)?, &[])
            }
        }
    }
}
