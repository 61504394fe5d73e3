//! What daemon and attestor say to each other: one message for a question, one for its answer, descriptors beside them.
//!
//! A message is the Postcard form of one type below (<https://postcard.jamesmunns.com/wire-format>), at most [`MAX_BYTES`] long, with
//! exactly as many descriptors as [`Request::descriptors`] and [`Answer::descriptors`] say. Anything else ends the conversation: neither
//! side guesses what the other meant. Both are the same program of the same version, so there is no negotiation; [`VERSION`] is compared
//! because during an upgrade one may still be the one before.

use super::evidence::{Gathered, Look, Measured, Sight};
use crate::sys::{HostFile, PidHandle};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Changes with every change of a type below.
pub const VERSION: u32 = 2;

/// Bytes of one message, at most: 64 ancestors with ordinary paths are a tenth of it. Longer evidence is none.
pub const MAX_BYTES: usize = 128 << 10;

/// Processes in one [`Request::Look`], at most.
pub const MAX_LOOK: usize = 64;

/// A message with the number by which an answer finds its question.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// Chosen by who asks.
    pub id: u64,
    /// The question or the answer.
    pub body: T,
}

/// What the daemon asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// What can you see? Comes first.
    Hello {
        /// The asker's [`VERSION`].
        version: u32,
    },
    /// Everything about the process behind the pidfd beside this.
    Process {
        /// Its number.
        pid: u32,
        /// Read its ancestors as closely.
        full: bool,
    },
    /// What do these processes, whose pidfds are beside this in the same order, execute now, and who traces them?
    Look {
        /// Their numbers.
        pids: Vec<u32>,
    },
    /// The content of what the process behind the pidfd beside this executes.
    Measure {
        /// Its number.
        pid: u32,
        /// Whose budget pays.
        uid: u32,
    },
    /// The process of this boot that this handle names.
    Find {
        /// See [`PidHandle`].
        handle: PidHandle,
    },
    /// What does this path lead to?
    File {
        /// Absolute, raw.
        path: Vec<u8>,
    },
}

/// What the attestor answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Request::Hello`].
    Hello {
        /// The answerer's [`VERSION`].
        version: u32,
        /// What it sees.
        sight: Sight,
    },
    /// To [`Request::Process`]; beside it what pins the memory map, and what ids are read from (`status`, `cgroup`) if `files`
    /// says so.
    Process {
        /// What was read.
        gathered: Box<Gathered>,
        /// The second and third descriptor are there.
        files: bool,
    },
    /// To [`Request::Look`], in its order; `None` for a process that is gone.
    Look(Vec<Option<Look>>),
    /// To [`Request::Measure`].
    Measured(Measured),
    /// To [`Request::Find`]; beside it a pidfd, if the process lives.
    Found(Lives),
    /// To [`Request::File`].
    File(Option<HostFile>),
    /// There is no answer, and why.
    Failed(String),
    /// There is none for want of descriptors or memory: it says nothing about the process, and to ask again is right.
    Short(String),
}

/// What became of a remembered process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lives {
    /// It lives.
    Yes,
    /// It is gone, or a zombie.
    No,
    /// Handles cannot be opened here.
    Unknown,
}

impl Request {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Request::Hello { .. } | Request::Find { .. } | Request::File { .. } => 0,
            Request::Process { .. } | Request::Measure { .. } => 1,
            Request::Look { pids } => pids.len(),
        }
    }

    /// Whether this is a question that may be asked at all.
    fn is_sound(&self) -> bool {
        match self {
            Request::Look { pids } => !pids.is_empty() && pids.len() <= MAX_LOOK,
            Request::File { path } => path.len() <= 4096,
            Request::Hello { .. } | Request::Process { .. } | Request::Measure { .. } | Request::Find { .. } => true,
        }
    }

    /// Whether this is an answer to it.
    pub fn is_answered_by(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Request::Hello { .. }, Answer::Hello { .. })
            | (Request::Process { .. }, Answer::Process { .. })
            | (Request::Measure { .. }, Answer::Measured(_))
            | (Request::Find { .. }, Answer::Found(_))
            | (Request::File { .. }, Answer::File(_))
            | (_, Answer::Failed(_) | Answer::Short(_)) => true,
            (Request::Look { pids }, Answer::Look(looks)) => pids.len() == looks.len(),
            _ => false,
        }
    }
}

impl Answer {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Answer::Process { files, .. } => 1 + 2 * usize::from(*files),
            Answer::Found(lives) => usize::from(*lives == Lives::Yes),
            Answer::Hello { .. } | Answer::Look(_) | Answer::Measured(_) | Answer::File(_) | Answer::Failed(_) | Answer::Short(_) => 0,
        }
    }
}

/// What cannot be a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no message of the attestor protocol")]
pub struct Malformed;

fn encode<T: Serialize>(message: &Numbered<T>) -> Result<Vec<u8>, Malformed> {
    let bytes = postcard::to_allocvec(message).map_err(|_| Malformed)?;
    if bytes.len() <= MAX_BYTES { Ok(bytes) } else { Err(Malformed) }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<Numbered<T>, Malformed> {
    if bytes.len() > MAX_BYTES {
        return Err(Malformed);
    }
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(Malformed),
    }
}

/// A question's bytes.
pub fn encode_request(message: &Numbered<Request>) -> Result<Vec<u8>, Malformed> {
    encode(message)
}

/// An answer's bytes; one that is too long becomes a failure, which always fits.
pub fn encode_answer(message: &Numbered<Answer>) -> Result<Vec<u8>, Malformed> {
    encode(message)
}

/// The question in these bytes, which came with so many descriptors.
pub fn decode_request(bytes: &[u8], descriptors: usize) -> Result<Numbered<Request>, Malformed> {
    let message: Numbered<Request> = decode(bytes)?;
    if message.body.is_sound() && message.body.descriptors() == descriptors { Ok(message) } else { Err(Malformed) }
}

/// The answer in these bytes, which came with so many descriptors.
pub fn decode_answer(bytes: &[u8], descriptors: usize) -> Result<Numbered<Answer>, Malformed> {
    let message: Numbered<Answer> = decode(bytes)?;
    if message.body.descriptors() == descriptors { Ok(message) } else { Err(Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attest::evidence::{ExeEvidence, ProcessEvidence};
    use proptest::prelude::*;

    fn process() -> impl Strategy<Value = ProcessEvidence> {
        let exe = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200));
        (any::<[u32; 4]>(), any::<u64>(), exe, proptest::collection::vec(any::<u32>(), 0..40)).prop_map(|(uids, start, path, groups)| {
            let exe = path.map(|path| ExeEvidence { handle: Some(path.clone()), path, ..Default::default() });
            ProcessEvidence { pid: uids[0], start, uids, groups, exe, ..Default::default() }
        })
    }

    fn config(cases: u32) -> ProptestConfig {
        let rng_seed = proptest::test_runner::RngSeed::Fixed(7);
        ProptestConfig { cases, rng_seed, failure_persistence: None, ..ProptestConfig::default() }
    }

    /// Whatever these bytes are taken for, it has as many descriptors as it says.
    fn taken(bytes: &[u8], descriptors: usize) -> Result<(), TestCaseError> {
        if let Ok(request) = decode_request(bytes, descriptors) {
            prop_assert_eq!(request.body.descriptors(), descriptors);
        }
        if let Ok(answer) = decode_answer(bytes, descriptors) {
            prop_assert_eq!(answer.body.descriptors(), descriptors);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(config(50_000))]

        #[test]
        fn no_bytes_bring_either_side_down(bytes in proptest::collection::vec(any::<u8>(), 0..100), descriptors in 0usize..70) {
            taken(&bytes, descriptors)?;
        }

        #[test]
        fn nor_does_a_message_that_was_damaged(
            process in process(), damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4), cut in 0usize..9, descriptors in 0usize..3,
        ) {
            let gathered = Box::new(Gathered { process, ancestors: Vec::new(), ancestors_in_full: true });
            let mut bytes = encode_answer(&Numbered { id: 300, body: Answer::Process { gathered, files: true } }).unwrap();
            for (at, value) in damage {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes.truncate(bytes.len() - cut.saturating_sub(5));
            taken(&bytes, descriptors)?;
        }
    }

    proptest! {
        #![proptest_config(config(2_000))]

        #[test]
        fn what_is_said_is_heard_and_with_other_descriptors_it_is_not(
            id in any::<u64>(), process in process(), above in proptest::collection::vec(process(), 0..5), files in any::<bool>(), wrong in 0usize..5,
        ) {
            let gathered = Box::new(Gathered { process, ancestors: above, ancestors_in_full: files });
            let answer = Numbered { id, body: Answer::Process { gathered, files } };
            let bytes = encode_answer(&answer).unwrap();
            let right = answer.body.descriptors();
            prop_assert_eq!(decode_answer(&bytes, right), Ok(answer));
            prop_assert_eq!(decode_answer(&bytes, wrong).is_ok(), wrong == right);
            // A message that is cut short or goes on is none.
            prop_assert!(decode_answer(&bytes[..bytes.len() - 1], right).is_err());
            prop_assert!(decode_answer(&[&bytes[..], &[0]].concat(), right).is_err());
        }

        #[test]
        fn questions_too(id in any::<u64>(), pids in proptest::collection::vec(any::<u32>(), 0..80), descriptors in 0usize..80) {
            let bytes = encode_request(&Numbered { id, body: Request::Look { pids: pids.clone() } }).unwrap();
            let sound = (1..=MAX_LOOK).contains(&pids.len()) && pids.len() == descriptors;
            prop_assert_eq!(decode_request(&bytes, descriptors).is_ok(), sound);
        }
    }

    #[test]
    fn what_is_too_long_is_not_said() {
        let body = Answer::Failed("x".repeat(MAX_BYTES));
        assert_eq!(encode_answer(&Numbered { id: 1, body }), Err(Malformed));
    }
}
