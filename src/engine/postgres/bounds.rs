//! How much a server may say. Whatever it sends is gathered before anybody looks at it, so one that was taken over, or only speaks like
//! PostgreSQL, would otherwise fill the daemon's memory: a message says itself how long it will be, up to 2 GiB.
//!
//! It stands inside TLS, where messages can be told apart.

use super::scram::ITERATIONS_MAX;
use std::{io, pin::Pin, task};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest message, in bytes. What is asked for has a few hundred; the server's own words have a few thousand.
const MESSAGE_MAX: u64 = 1 << 20;
/// The most that may come before we say something again, messages beside answers and while nobody asks included: a list of 80,000 leases.
const ANSWER_MAX: u64 = 16 << 20;
/// What a message costs beside its bytes, as it lies in memory.
const EACH_COSTS: u64 = 128;
/// The most that may be told of the server's settings while a connection lasts: they are all kept.
const SETTINGS_MAX: u64 = 64 << 10;
/// The longest message of a login.
const LOGIN_MAX: usize = 4 << 10;

/// A stream that breaks off where the server says too much.
pub(super) struct Bounded<S> {
    stream: S,
    heard: Heard,
}

impl<S> Bounded<S> {
    /// From the first message on: a stream that has heard nothing yet.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, heard: Heard::default() }
    }
}

/// What came so far. A message is a letter, the number of bytes from that number on, and those bytes.
#[derive(Default)]
struct Heard {
    head: [u8; 5],
    /// How much of it has come.
    head_len: usize,
    /// Bytes of the message that are yet to come.
    left: u64,
    /// What has come since we said something.
    answer: u64,
    settings: u64,
    /// The message of a login that is coming.
    login: Vec<u8>,
}

impl Heard {
    fn add(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.left == 0 {
                let missing = (self.head.len() - self.head_len).min(bytes.len());
                let (these, rest) = bytes.split_at(missing);
                self.head[self.head_len..self.head_len + missing].copy_from_slice(these);
                (self.head_len, bytes) = (self.head_len + missing, rest);
                if self.head_len < self.head.len() {
                    return Ok(());
                }
                self.begin()?;
            } else {
                let (these, rest) = bytes.split_at(usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()));
                self.left -= these.len() as u64;
                bytes = rest;
                if self.head[0] == b'R' {
                    self.login.extend_from_slice(these);
                }
            }
            if self.left == 0 {
                self.end()?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), String> {
        let [kind, length @ ..] = self.head;
        let length = u64::from(u32::from_be_bytes(length));
        if crate::mutation!("postgres-bounds") {
            self.left = length.saturating_sub(4);
            return Ok(());
        }
        if length > MESSAGE_MAX {
            return Err(format!("a message of {length} bytes from the server; {MESSAGE_MAX} are the most"));
        }
        // One that is too short is for whoever reads it.
        self.left = length.saturating_sub(4);
        let cost = length + EACH_COSTS;
        self.answer += cost;
        if self.answer > ANSWER_MAX {
            return Err(format!("more than {ANSWER_MAX} bytes from the server at a time"));
        }
        self.settings += if kind == b'S' { cost } else { 0 };
        if self.settings > SETTINGS_MAX {
            return Err(format!("more than {SETTINGS_MAX} bytes about its settings from the server"));
        }
        if kind == b'R' && self.left > LOGIN_MAX as u64 {
            return Err(format!("a message of a login has {length} bytes; {LOGIN_MAX} are the most"));
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.head_len = 0;
        // Nobody could interrupt the rounds once they have begun.
        match rounds(&std::mem::take(&mut self.login)) {
            Some(rounds) if rounds > u64::from(ITERATIONS_MAX.get()) => {
                Err(format!("the server wants {rounds} rounds of SCRAM for a login; {ITERATIONS_MAX} are the most"))
            }
            _ => Ok(()),
        }
    }
}

/// How many rounds the server asks for, if this is the message that says so (`AuthenticationSASLContinue`; RFC 5802, section 7).
fn rounds(message: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(message.strip_prefix(&[0, 0, 0, 11])?).ok()?;
    let digits = text.split(',').find_map(|attribute| attribute.strip_prefix("i="))?;
    // What is no number is no count either, and refused by whoever reads it; one that is too long is one that is too large.
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().unwrap_or(u64::MAX))
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &mut ReadBuf<'_>) -> task::Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        task::ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        if room && buf.filled().len() == before && this.heard.head_len > 0 {
            return task::Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server's answer broke off")));
        }
        task::Poll::Ready(this.heard.add(&buf.filled()[before..]).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut task::Context<'_>, buf: &[u8]) -> task::Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = task::ready!(Pin::new(&mut this.stream).poll_write(cx, buf))?;
        // Only what the server takes: a try alone would let one that does not listen talk for ever.
        if written > 0 {
            this.heard.answer = 0;
        }
        task::Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        [&[kind], &u32::try_from(body.len() + 4).unwrap().to_be_bytes()[..], body].concat()
    }

    /// The same in one piece and byte by byte.
    fn heard(bytes: &[u8]) -> Result<(), String> {
        let mut slowly = Heard::default();
        let bytewise = bytes.iter().try_for_each(|byte| slowly.add(&[*byte]));
        let at_once = Heard::default().add(bytes);
        assert_eq!(bytewise, at_once);
        at_once
    }

    #[test]
    fn a_message_may_be_long_and_not_longer() {
        let most = usize::try_from(MESSAGE_MAX).unwrap() - 4;
        heard(&[message(b'D', &vec![0; most]), message(b'Z', b"I")].concat()).unwrap();
        assert!(heard(&message(b'E', &vec![0; most + 1])).unwrap_err().contains("a message of 1048577 bytes"));
        // It is refused by what it says of itself, before any of it comes.
        assert!(heard(b"D\x7f\xff\xff\xff").is_err() && heard(b"D\xff\xff\xff\xff").is_err());
        // Too short to be a message at all: whoever reads it says so, and nothing is lost count of.
        for length in 0..4u32 {
            heard(&[&b"Z"[..], &length.to_be_bytes(), &message(b'Z', b"I")].concat()).unwrap();
        }
    }

    #[test]
    fn what_comes_at_a_time_is_counted_from_when_something_was_said() {
        let (mut heard, row) = (Heard::default(), message(b'D', &[0; 2]));
        let each = row.len() as u64 - 1 + EACH_COSTS;
        for _ in 0..3 {
            (0..ANSWER_MAX / each).for_each(|_| heard.add(&row).unwrap());
            assert!(heard.add(&row).unwrap_err().contains("more than 16777216 bytes"));
            heard = Heard { answer: 0, head_len: 0, left: 0, ..heard };
        }
    }

    #[test]
    fn settings_are_counted_as_long_as_the_connection_lasts() {
        let (mut heard, setting) = (Heard::default(), message(b'S', b"name\0value\0"));
        let told = (0..1000).take_while(|_| {
            heard.answer = 0;
            heard.add(&setting).is_ok()
        });
        // A server tells fifteen.
        assert!((100..999).contains(&told.count()));
    }

    #[test]
    fn rounds_of_a_login_are_bounded() {
        let asks = |rounds: &str| heard(&message(b'R', format!("\0\0\0\x0br=abc,s=c2FsdA==,i={rounds}").as_bytes()));
        for few in ["1", "4096", "1000000", "", "x"] {
            asks(few).unwrap();
        }
        for many in ["1000001", "4294967295", "99999999999999999999999"] {
            assert!(asks(many).unwrap_err().contains("rounds of SCRAM"), "{many}");
        }
        heard(&message(b'R', b"\0\0\0\0")).unwrap();
        assert!(heard(&message(b'R', &[0; LOGIN_MAX + 1])).is_err());
    }
}
