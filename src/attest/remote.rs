//! The daemon's side of the conversation: the attestor asked without anybody waiting for it who need not.
//!
//! One connection carries any number of questions; answers find theirs by number. Whatever is wrong with the connection (it ends, an
//! answer to nothing, a message that is none, another sender) fails every open question, and with it that attestation; then it is made
//! anew, again and again, less and less often.

use super::{
    evidence::Sight,
    protocol::{Answer, MAX_BYTES, Numbered, Request, VERSION, decode_answer, encode_request},
};
use crate::sys::{AsyncPackets, OVERFLOW_ID, Shortage, is_shortage};
use std::{
    collections::HashMap,
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

/// An answer that takes longer is none: the attestation fails.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// The attestor reads files for this; what it has not read by then is not waited for.
const MEASURE_WITHIN: Duration = Duration::from_millis(2_500);
/// Questions that are open at a time.
const OPEN: usize = 8192;
/// Between two tries to reach the attestor: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The attestor, wherever it is now.
pub struct Remote {
    shared: Arc<Shared>,
    task: tokio::task::AbortHandle,
}

struct Shared {
    path: PathBuf,
    /// The attestor's user: nobody else's answers count.
    attestor: u32,
    link: watch::Sender<Option<Arc<Link>>>,
    lost: AtomicU64,
    why: Mutex<String>,
}

struct Link {
    packets: AsyncPackets,
    attestor: u32,
    next: AtomicU64,
    open: Mutex<Option<HashMap<u64, Waiting>>>,
    sight: Mutex<Option<Sight>>,
}

type Answered = (Answer, Vec<OwnedFd>);

/// A question that was asked; whoever asked may have stopped waiting.
struct Waiting {
    question: Request,
    answer: oneshot::Sender<Answered>,
}

/// Nobody could be asked, or nobody answered: it says nothing about the process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attestor {0}")]
pub struct Unavailable(String);

impl Unavailable {
    fn error(why: impl Into<String>) -> io::Error {
        io::Error::other(Unavailable(why.into()))
    }

    /// Whether that is what an error says.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|inner| inner.is::<Unavailable>())
    }
}

/// Whether nobody could look just now, for want of an attestor, of descriptors or of memory: it says nothing about the process.
pub fn is_unseen(error: &io::Error) -> bool {
    Unavailable::is(error) || is_shortage(error)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Remote {
    /// Keeps up a connection to the attestor of this uid at this path. Call within a runtime.
    pub fn start(path: PathBuf, attestor: u32) -> Self {
        let shared = Arc::new(Shared {
            path,
            attestor,
            link: watch::Sender::new(None),
            lost: AtomicU64::new(0),
            why: Mutex::new("has not been reached yet".to_owned()),
        });
        let task = tokio::spawn(keep_up(Arc::downgrade(&shared))).abort_handle();
        Self { shared, task }
    }

    /// Waits for the first connection; `false` when there is none in time.
    pub async fn reached(&self, within: Duration) -> bool {
        let mut link = self.shared.link.subscribe();
        timeout(within, link.wait_for(Option::is_some)).await.is_ok_and(|found| found.is_ok())
    }

    /// Why there is no connection now.
    pub fn trouble(&self) -> Option<String> {
        self.shared.link.borrow().is_none().then(|| lock(&self.shared.why).clone())
    }

    /// How often a connection was lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// What the attestor that is connected now can see.
    pub fn sight(&self) -> Option<Sight> {
        self.shared.link.borrow().as_ref().and_then(|link| *lock(&link.sight))
    }

    /// Asks, and waits for the answer no longer than is worth it. [`Answer::Failed`] comes back as an error, [`Answer::Short`] as one
    /// that [`sys::is_shortage`](crate::sys::is_shortage) knows.
    pub async fn ask(&self, question: Request, beside: &[BorrowedFd<'_>]) -> io::Result<Answered> {
        let link = self.shared.link.borrow().clone();
        let Some(link) = link else { return Err(Unavailable::error(lock(&self.shared.why).clone())) };
        link.ask(question, beside).await
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Connects, hears answers until something is wrong, and again.
async fn keep_up(shared: Weak<Shared>) {
    let mut pause = AGAIN.0;
    loop {
        let Some(now) = shared.upgrade() else { return };
        let why = match Link::open(&now) {
            Ok(link) => {
                let why = now.converse(&link, &mut pause).await;
                link.end();
                if now.link.send_replace(None).is_some() {
                    now.lost.fetch_add(1, Ordering::Relaxed);
                    tracing::error!("the attestor {why}: nothing is attested until it is back; leases are kept");
                }
                why
            }
            Err(error) => format!("is not at {}: {error}", now.path.display()),
        };
        *lock(&now.why) = why;
        drop(now);
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(AGAIN.1);
    }
}

impl Shared {
    /// One connection from the greeting to its end; says what ended it.
    async fn converse(&self, link: &Arc<Link>, pause: &mut Duration) -> String {
        let greeting = async {
            let (answer, _) = link.ask(Request::Hello { version: VERSION }, &[]).await.map_err(|error| error.to_string())?;
            match answer {
                Answer::Hello { version: VERSION, sight } if sight.looks_at_all => {
                    *lock(&link.sight) = Some(sight);
                    self.link.send_replace(Some(link.clone()));
                    *pause = AGAIN.0;
                    tracing::info!("the attestor is there");
                    // From here on only a fault of the connection ends it.
                    std::future::pending().await
                }
                Answer::Hello { version: VERSION, .. } => {
                    Err("lacks CAP_SYS_PTRACE: it cannot look at the processes of other users".to_owned())
                }
                Answer::Hello { version, .. } => Err(format!("speaks version {version} of the protocol, this daemon {VERSION}")),
                _ => Err("did not greet".to_owned()),
            }
        };
        tokio::select! {
            error = link.hear() => format!("was lost: {error}"),
            why = greeting => { let why: Result<std::convert::Infallible, String> = why; why.err().unwrap_or_default() }
        }
    }
}

impl Link {
    fn open(shared: &Shared) -> io::Result<Arc<Link>> {
        let packets = AsyncPackets::connect(&shared.path)?;
        Ok(Arc::new(Link {
            packets,
            attestor: shared.attestor,
            next: AtomicU64::new(1),
            open: Mutex::new(Some(HashMap::new())),
            sight: Mutex::default(),
        }))
    }

    /// Every open question fails, and no other is asked.
    fn end(&self) {
        lock(&self.open).take();
        self.packets.shut();
    }

    async fn ask(&self, question: Request, beside: &[BorrowedFd<'_>]) -> io::Result<Answered> {
        let within = if matches!(question, Request::Measure { .. }) { MEASURE_WITHIN } else { ANSWER_WITHIN };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let bytes = encode_request(&Numbered { id, body: question.clone() }).map_err(io::Error::other)?;
        let (answer, answered) = oneshot::channel();
        match &mut *lock(&self.open) {
            None => return Err(Unavailable::error("was lost")),
            // Those that nobody waits for any more count: an attestor that answers nothing is not asked for ever.
            Some(open) if open.len() >= OPEN => return Err(Unavailable::error("does not keep up")),
            Some(open) => {
                open.insert(id, Waiting { question, answer });
            }
        }
        let asked = async {
            self.packets.send(&bytes, beside).await?;
            answered.await.map_err(|_| Unavailable::error("was lost"))
        };
        match timeout(within, asked).await {
            Ok(Ok((Answer::Failed(why), _))) => Err(io::Error::other(why)),
            Ok(Ok((Answer::Short(why), _))) => Err(Shortage(why).into()),
            Ok(Ok(answered)) => Ok(answered),
            Ok(Err(error)) => {
                // What was never asked is not answered.
                if let Some(open) = &mut *lock(&self.open) {
                    open.remove(&id);
                }
                Err(if Unavailable::is(&error) { error } else { Unavailable::error(format!("could not be asked: {error}")) })
            }
            // The answer may still come: its place is kept, so that it is known as one to a question that was asked.
            Err(_) => Err(Unavailable::error("did not answer in time")),
        }
    }

    /// Hands out answers until something is wrong.
    async fn hear(&self) -> io::Error {
        let mut buffer = vec![0; MAX_BYTES];
        loop {
            let heard = self.packets.receive(&mut buffer).await;
            let packet = match heard {
                Ok(Some(packet)) => packet,
                Ok(None) => return io::ErrorKind::UnexpectedEof.into(),
                Err(error) => return error,
            };
            // What anybody else says through this connection is no answer; what came with it is closed here.
            if packet.sender.uid != self.attestor && !crate::mutation!("attestor-sender") {
                let why = match packet.sender.uid {
                    OVERFLOW_ID => {
                        " (nobody): this daemon runs in a user namespace of its own (PrivateUsers=), where all others are nobody"
                    }
                    _ => "",
                };
                return io::Error::other(format!("uid {}{why} answered, not uid {}", packet.sender.uid, self.attestor));
            }
            let answer = match decode_answer(&buffer[..packet.len], packet.descriptors.len()) {
                Ok(answer) => answer,
                Err(malformed) => return io::Error::other(malformed),
            };
            let Some(waiting) = lock(&self.open).as_mut().and_then(|open| open.remove(&answer.id)) else {
                return io::Error::other("it answered what nobody asked");
            };
            if !waiting.question.is_answered_by(&answer.body) {
                return io::Error::other("it answered another question than was asked");
            }
            // Nobody may be waiting any more: then the descriptors are closed with this.
            let _ = waiting.answer.send((answer.body, packet.descriptors));
        }
    }
}
