//! From a call to the token's end.

use super::{
    super::{Again, Attribute, EngineError, Issued, Order, Over, UpstreamRef},
    BearerEngine, Given, NoteError, TokenSource,
    clocks::Moment,
    notes::{Note, context, later},
};
use crate::{
    model::{EndResult, LeaseId, Proof, SecretBytes, WallTime},
    outbound::ahead,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use std::time::Duration;

/// The longest token, in bytes.
const TOKEN_MAX: usize = 16 << 10;
/// A life that differs by so many seconds from what was wanted is the same: clocks and calls take their time.
const ALIKE: u64 = 10;
/// How long a source may go on with a call that we gave up, and how far a token's end may be from what was said.
const SLACK: Duration = Duration::from_secs(300);
/// A note is dropped unread so long after what it speaks of is over: a clock that is far ahead at a start loses none that matters.
const FORGOTTEN: Duration = Duration::from_secs(7 * 86_400);

impl<S: TokenSource> BearerEngine<S> {
    pub(super) async fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let noted = self.source.revokes() && !crate::mutation!("bearer-noted");
        if noted {
            self.notes.begin(order.lease, self.clocks.now(), self.over_at_last()).map_err(on_disk)?;
        }
        crate::failpoint!("bearer-noted");
        let given = match self.source.ask(order).await {
            Ok(given) => given,
            Err(not) => {
                // Of a call that was not heard the note stays, so the lease stays owed.
                if noted && !not.may_exist {
                    self.notes.remove(order.lease).map_err(on_disk)?;
                }
                return Err(not.error);
            }
        };
        let now = self.clocks.now();
        let life = given.seconds.map(Duration::from_secs);
        let dies = life.map(|life| later(now.wall, life));
        let tokens: Vec<&SecretBytes> = std::iter::once(&given.value).chain(&given.companion).collect();
        // Longer than a note can hold is longer than a token may be.
        let fits = tokens.iter().all(|token| token.len() <= TOKEN_MAX);
        let written = if noted && fits { self.notes.made(order.lease, &tokens, life, now) } else { Ok(()) };
        crate::failpoint!("bearer-made");
        let wrong = match (written, fits) {
            (Err(error), _) => Some(on_disk(error)),
            (_, false) => Some(EngineError::Setup(format!("a token of more than {TOKEN_MAX} bytes"))),
            _ => None,
        };
        match wrong.or_else(|| self.unfit(order, &given)) {
            None => Ok(self.issued(order, given, dies)),
            Some(error) => Err(match self.undo(order.lease, &tokens, noted).await {
                Ok(()) => error,
                Err(failed) => EngineError::Setup(format!("{error}; and it could not be taken back yet: {failed}")),
            }),
        }
    }

    /// What is wrong with a token; a credential lasts as long as its lease, and whatever is more than was granted is not handed out.
    fn unfit(&self, order: &Order<'_>, given: &Given) -> Option<EngineError> {
        let text = match &given.wrong {
            Some(EngineError::Refused(text)) => return Some(EngineError::Refused(text.clone())),
            Some(error) => Some(error.to_string()),
            None => None,
        };
        let wanted = u64::try_from(order.left.as_micros().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let longest = u64::from(self.source.longest().as_secs());
        let lasting = || match given.seconds {
            None => Some("the source does not say how long the token lives, so nobody can say when it is dead".to_owned()),
            Some(life) if life + ALIKE < wanted => Some(format!("the source gives {life} s to a lease of {wanted} s: lower ttl")),
            Some(life) if life > longest + ALIKE => {
                Some(format!("the source gives {life} s, more than the {longest} s that are its longest here"))
            }
            Some(life) if !self.source.revokes() && life > wanted + ALIKE => Some(format!(
                "the source gives {life} s to a lease of {wanted} s and takes no token back: let both be the same, or name its revocation endpoint"
            )),
            Some(_) => None,
        };
        text.or_else(lasting).map(EngineError::Setup)
    }

    fn issued(&self, order: &Order<'_>, given: Given, dies: Option<WallTime>) -> Issued {
        let Given { value, mut attributes, .. } = given;
        let mut reference = UpstreamRef::default();
        if let Some(dies) = dies {
            attributes.push(("expires_at".into(), dies.rfc3339()));
            reference.0.insert("dies", dies.unix_secs());
        }
        if !self.source.revokes() {
            reference.0.insert("ends", "short-life");
        }
        reference.0.insert("intent", order.intent_digest());
        // Sources that log tokens log this of them, and so do auditors.
        reference.0.insert("hashed_token", STANDARD.encode(crate::digest::sha256(&[value.expose()])));
        let beside = attributes.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str())));
        reference.0.insert("attributes", beside.collect::<Map<_, _>>());
        reference.seal(STANDARD.encode(self.key.seal(&context(order.lease), value.expose(), &*self.random)));
        Issued { value, attributes, reference }
    }

    /// Takes back what came. If that fails the note stays, and settling tries again.
    async fn undo(&self, lease: LeaseId, tokens: &[&SecretBytes], noted: bool) -> Result<(), EngineError> {
        if !self.source.revokes() {
            return Ok(());
        }
        for token in tokens {
            ahead(self.source.revoke(token, Duration::ZERO)).await?;
        }
        if noted { self.notes.remove(lease).map_err(on_disk) } else { Ok(()) }
    }

    /// The value of a live lease, from its row.
    pub(super) fn again(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let value = self.unsealed(lease, reference)?.ok_or_else(|| EngineError::Setup(format!("{lease} does not say what it has")))?;
        let beside = reference.0.get("attributes").and_then(Value::as_object);
        let row = |(name, value): (&String, &Value)| -> Option<Attribute> { Some((name.clone().into(), value.as_str()?.to_owned())) };
        Ok(Again { value, attributes: beside.into_iter().flatten().filter_map(row).collect() })
    }

    fn unsealed(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Option<SecretBytes>, EngineError> {
        let other = || EngineError::Setup(format!("{lease}: its token does not open: sealed by another key, or of another lease"));
        let open = |sealed: &str| self.key.open(&context(lease), &STANDARD.decode(sealed).map_err(|_| other())?).map_err(|_| other());
        reference.sealed().map(open).transpose()
    }

    /// A token cannot be given more time. Where it has that already, the lease may have it.
    pub(super) fn must_outlast(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        let gone = || EngineError::Refused("nothing of the lease is left to be renewed".into());
        let dies = dies(reference).ok_or_else(gone)?;
        // The note of a token that can be revoked goes when it is.
        if self.is_revocable(reference) && !matches!(self.notes.find(order.lease).map_err(on_disk)?, Some(Note::Made { .. })) {
            return Err(gone());
        }
        if later(dies, Duration::from_secs(ALIKE)) < order.expires {
            return Err(EngineError::Refused(format!("the token dies at {} and cannot be prolonged: ask for a new lease", dies.rfc3339())));
        }
        Ok(())
    }

    pub(super) async fn finish(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        let Some(token) = self.unsealed(lease, reference)? else {
            // A reference of which nothing is known: what the note says, and without one there is nothing that could live.
            let never = self.source.revokes() && self.notes.find(lease).map_err(on_disk)?.is_none();
            let over = Over { result: EndResult::Revoked, ..Over::lapsed(Proof::NEVER) };
            return if never { Ok(over) } else { self.settle_note(lease).await };
        };
        if !self.is_revocable(reference) {
            return Ok(Over::LAPSED);
        }
        // The note goes when the source has taken the token back: without one this is a repetition, of a token that was known.
        let note = match self.notes.find(lease).map_err(on_disk)? {
            Some(Note::Made { made, life, .. }) => Some((made, life)),
            _ => None,
        };
        let age = note.as_ref().map_or(Duration::MAX, |(made, _)| self.clocks.since(made));
        let done = self.source.revoke(&token, age).await;
        self.ended(lease, done, || match &note {
            Some((made, life)) => self.is_over(made, *life),
            None => dies(reference).is_some_and(|dies| self.clocks.is_over(dies, SLACK)),
        })
    }

    /// Ends what a call left of which nothing but its note is known.
    pub(super) async fn settle_note(&self, lease: LeaseId) -> Result<Over, EngineError> {
        match self.notes.find(lease).map_err(on_disk)? {
            None => Ok(Over::lapsed(Proof::NEVER)),
            Some(Note::Made { tokens, made, life }) => {
                // Without a token there is nothing that could live.
                let mut done = Ok(Proof::NEVER);
                for token in &tokens {
                    done = done.and(self.source.revoke(token, self.clocks.since(&made)).await);
                }
                self.ended(lease, done, || self.is_over(&made, life))
            }
            Some(Note::Called { at, over }) => {
                // As long as a token could live when it was called: what is configured by now is about others.
                let over = over.unwrap_or_else(|| self.over_at_last());
                let left = over.saturating_sub(self.clocks.since(&at));
                if !left.is_zero() {
                    return Err(EngineError::Unreachable(format!(
                        "the call of {} was not heard; what it may have made nobody knows and nobody can name: dead for certain at {}",
                        at.wall.rfc3339(),
                        later(self.clocks.now().wall, left).rfc3339()
                    )));
                }
                self.notes.remove(lease).map_err(on_disk)?;
                Ok(Over::lapsed(Proof::EXPIRED))
            }
        }
    }

    /// What the source's word about an end is worth. Where it cannot be had, a token that is past its own end is over all the same.
    fn ended(&self, lease: LeaseId, done: Result<Proof, EngineError>, is_over: impl FnOnce() -> bool) -> Result<Over, EngineError> {
        let over = match done {
            Ok(proof) => Over::revoked(proof),
            Err(_) if is_over() => Over::lapsed(Proof::EXPIRED),
            Err(error) => return Err(error),
        };
        self.notes.remove(lease).map_err(on_disk)?;
        Ok(over)
    }

    /// Whether a token is past its own end for certain.
    fn is_over(&self, made: &Moment, life: Option<Duration>) -> bool {
        life.is_some_and(|life| self.clocks.since(made) > life.saturating_add(SLACK))
    }

    /// The leases that may have a token; those of which that is not known come last, as they can only be waited for.
    pub(super) fn noted(&self) -> Result<Vec<LeaseId>, EngineError> {
        let (mut made, mut called) = (Vec::new(), Vec::new());
        for lease in self.notes.leases().map_err(on_disk)? {
            match self.notes.find(lease).map_err(on_disk)? {
                Some(Note::Made { .. }) => made.push(lease),
                Some(Note::Called { .. }) => called.push(lease),
                None => {}
            }
        }
        made.append(&mut called);
        Ok(made)
    }

    /// Drops notes of tokens that are dead by their own expiry: nobody asks about them any more.
    pub(super) fn forget_what_is_over(&self) -> Result<(), NoteError> {
        let is_forgotten = |at: &Moment, life: Duration| self.clocks.since(at) > life.saturating_add(FORGOTTEN);
        for lease in self.notes.leases()? {
            let over = match self.notes.find(lease) {
                Ok(Some(Note::Made { made, life, .. })) => life.is_some_and(|life| is_forgotten(&made, life)),
                Ok(Some(Note::Called { at, over })) => is_forgotten(&at, over.unwrap_or_else(|| self.over_at_last())),
                Ok(None) => false,
                Err(error) => {
                    tracing::warn!(engine = %self.name, folder = %self.notes.folder().display(), %error, "a note of a token cannot be read");
                    false
                }
            };
            if over {
                self.notes.remove(lease)?;
            }
        }
        Ok(())
    }

    /// After which time the longest token of a call is over.
    fn over_at_last(&self) -> Duration {
        Duration::from_secs(self.source.longest().as_secs().into()).saturating_add(SLACK)
    }

    /// Whether the token could be taken back when it was issued.
    pub(super) fn is_revocable(&self, reference: &UpstreamRef) -> bool {
        reference.0.get("ends").is_none()
    }
}

/// When a token dies by itself.
fn dies(reference: &UpstreamRef) -> Option<WallTime> {
    reference.0.get("dies").and_then(Value::as_u64).map(|seconds| WallTime(seconds.saturating_mul(1_000_000)))
}

fn on_disk(error: NoteError) -> EngineError {
    EngineError::Unreachable(format!("the note of a call: {error}"))
}
