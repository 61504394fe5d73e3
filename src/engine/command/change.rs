//! Changing a value that lasts (ADR 14).
//!
//! A random value is kept as pending, durably; the program sets it, or has its source make another, which is kept before anything else; the
//! program tries it; only then it is given. The one before goes on working, unless the source has one at a time, and is taken back when the next
//! change begins. A change that was cut short is done once more under the same name: nobody has had what it made.

use super::{
    super::{EngineError, TakenBack, Version},
    Call, CommandEngine, Done,
    given::{Handed, handed},
    kept::{Heard, Kept, Terms, Value},
    lasting::{VERSION, Which, terms},
    other_call,
    settings::Settings,
};
use crate::model::{SecretBytes, SecretDefinition, SecretName};
use serde_json::{Map, Value as Json};
use tokio::time::{Instant, timeout};

/// The longest value that lasts, in bytes: three are kept in one record of the store.
const VALUE_MAX: usize = 8 << 10;
/// The most bytes of JSON that stand beside it.
const BESIDE_MAX: usize = 4 << 10;
/// Versions that nobody knows and that one change takes back.
const STRAYS_MAX: usize = 10;
/// Versions that could not be taken back and are remembered.
const RETIRED_MAX: usize = 3;
/// Numbers on the source's list that are further away than this from ours are somebody's mistake.
const APART: u64 = 1_000_000;

impl CommandEngine {
    /// Sets a new value and gives it from then on.
    pub(super) async fn rotate_lasting(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        let (name, settings) = (&secret.name, self.lasting_settings(secret)?);
        let terms = terms(secret, &settings);
        let turn = self.values.turn(name);
        // Where the source has one at a time, whoever asks for it waits meanwhile: the old one dies before the new one is known to work. Whoever
        // has it now finds out what a change came to: a few calls.
        let busy = |_| EngineError::Unreachable(format!("{name} is in use"));
        let _turn = timeout(self.program.timeout * 5, turn.write()).await.map_err(busy)?;
        let mut kept = self.values.load(name)?;
        let last = kept.last();
        self.part_from_other_terms(secret, &terms, &mut kept).await?;
        if let Some(previous) = kept.previous.take() {
            kept.retired.push(previous);
            // From here on nobody is given it.
            self.values.save(name, &kept)?;
        }
        self.take_retired_back(secret, &mut kept).await?;
        let there = if terms.overlap { self.version_numbers(name).await? } else { Vec::new() };
        // What was to be set, and may have been, is set again before any other.
        let fresh = kept.pending.is_none();
        if fresh {
            let near = there.iter().copied().filter(|number| *number <= last.saturating_add(APART)).max();
            kept.begin(near.unwrap_or(0).max(last), &terms, self.clock.wall(), &*self.random)?;
            if !crate::mutation!("command-kept-first") {
                self.values.save(name, &kept)?;
            }
        }
        crate::failpoint!("command-kept");
        let Some(pending) = &kept.pending else { return Err(EngineError::NoValue) };
        let version = pending.version;
        match self.set_in_time(secret, &kept, pending, fresh).await {
            Ok(heard) => {
                // The source may have made one of its own.
                kept.hear(heard);
                self.values.save(name, &kept)?;
            }
            Err(error) => {
                if fresh && self.open.is_never(&self.version_name(name, version)) {
                    // Nobody was asked.
                    kept.pending = None;
                    self.values.save(name, &kept)?;
                }
                return Err(error);
            }
        }
        crate::failpoint!("command-set");
        if let Some(pending) = &kept.pending
            && !self.is_tried(secret, &kept, pending).await?
            && !crate::mutation!("command-tried")
        {
            return Err(EngineError::Refused("the program says that the new value does not work".into()));
        }
        crate::failpoint!("command-tried");
        let before_works = self.before_works(secret, &settings, &kept).await;
        kept.promote(self.clock.wall(), before_works);
        self.values.save(name, &kept)?;
        self.doubts.over(name);
        crate::failpoint!("command-given");
        self.clear(secret, &settings, &mut kept, &there).await?;
        // It was promoted a few lines above.
        kept.current.map(|value| Version { number: value.version, made: value.made }).ok_or(EngineError::NoValue)
    }

    /// A version that was begun for another definition is not gone on with: what became of it is found out, or it is taken back.
    async fn part_from_other_terms(&self, secret: &SecretDefinition, terms: &Terms<'_>, kept: &mut Kept) -> Result<(), EngineError> {
        let goes_on = |pending: &Value| pending.terms == terms.digest && pending.overlap == terms.overlap;
        let Some(pending) = kept.pending.as_ref().filter(|pending| !goes_on(pending) && !crate::mutation!("command-other-terms")) else {
            return Ok(());
        };
        if let Some(over) = self.open.over_at(&self.version_name(&secret.name, pending.version), Instant::now()) {
            tokio::time::sleep_until(over).await;
        }
        if !pending.overlap {
            // It may be the one that works. If none does, what is set now takes its place.
            return match self.settle(secret, kept).await {
                Err(error) if error.is_passing() && kept.pending.is_some() => {
                    kept.pending = None;
                    Ok(())
                }
                settled => settled,
            };
        }
        kept.retired.extend(kept.pending.take());
        self.values.save(&secret.name, kept)
    }

    /// Takes back what is given no more, as far as that can be done. What cannot is told, is remembered for the next change, and keeps nobody from
    /// a new value.
    async fn take_retired_back(&self, secret: &SecretDefinition, kept: &mut Kept) -> Result<(), EngineError> {
        let mut left = Vec::new();
        for at in 0..kept.retired.len() {
            let which = Which::retired(&kept.retired[at]);
            if !self.take_version_back(secret, kept, which).await {
                left.push(kept.retired[at].version);
            }
        }
        let before = kept.retired.len();
        kept.retired.retain(|value| left.contains(&value.version));
        while kept.retired.len() > RETIRED_MAX {
            let given_up = kept.retired.remove(0);
            let version = self.version_name(&secret.name, given_up.version);
            tracing::error!(engine = %self.name, secret = %secret.name, version, "a version that cannot be taken back is given up: take it away at the source");
            let found = Err("given up after several changes: take it away at the source".to_owned());
            self.taken.tell(TakenBack { secret: Some(secret.name.clone()), version: given_up.version, name: version, found });
        }
        if kept.retired.len() < before { self.values.save(&secret.name, kept) } else { Ok(()) }
    }

    /// Whether a version is gone. Either way it is told.
    async fn take_version_back(&self, secret: &SecretDefinition, kept: &Kept, which: Which<'_>) -> bool {
        let (engine, version) = (&self.name, which.number);
        let name = self.version_name(&secret.name, version);
        let done = self.revoke_version((Some(&secret.name), &name), kept, which).await;
        match &done {
            Ok(found) => tracing::info!(%engine, secret = %secret.name, version, found, "a version that is given no more was taken back"),
            Err(error) => {
                tracing::error!(%engine, secret = %secret.name, version, %error, "a version that is given no more was not taken back; the next change tries again");
            }
        }
        let is_gone = done.is_ok();
        self.taken.tell(TakenBack::of(Some(secret.name.clone()), version, name, done));
        is_gone
    }

    /// Takes a version away, and sees that it is.
    pub(super) async fn revoke_version(
        &self,
        about: (Option<&SecretName>, &str),
        kept: &Kept,
        which: Which<'_>,
    ) -> Result<bool, EngineError> {
        let Done::Revoked(found) = self.ask_about(Call::Revoke, about, None, kept, which).await? else { return Err(other_call()) };
        match self.ask_about(Call::Probe, about, None, kept, which).await? {
            Done::Probed(false) => Ok(found),
            Done::Probed(true) if crate::mutation!("command-probe") => Ok(found),
            Done::Probed(true) => Err(EngineError::Unreachable("probe: it lives after it was revoked".into())),
            _ => Err(other_call()),
        }
    }

    /// Takes back what is not given any more after a change: versions that a state knew of in whose place an older one was put, and the one before
    /// where the source is to have one at a time from now on. The change is done: what fails here is told, unless it cost the new value.
    async fn clear(&self, secret: &SecretDefinition, settings: &Settings, kept: &mut Kept, there: &[u64]) -> Result<(), EngineError> {
        let known: Vec<u64> =
            [&kept.current, &kept.previous].into_iter().flatten().chain(&kept.retired).map(|value| value.version).collect();
        let strays: Vec<u64> = there.iter().copied().filter(|number| !known.contains(number)).collect();
        if kept.retired.is_empty() && strays.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.take_retired_back(secret, kept).await {
            tracing::error!(engine = %self.name, secret = %secret.name, %error, "what was taken back is not written down; it is taken back once more");
        }
        for number in strays.iter().take(STRAYS_MAX) {
            let which = Which { number: *number, value: None, reference: None, parameters: &settings.parameters };
            self.take_version_back(secret, kept, which).await;
        }
        if strays.len() > STRAYS_MAX {
            let left = strays.len() - STRAYS_MAX;
            tracing::error!(engine = %self.name, secret = %secret.name, left, "versions that nobody knows are left; the next change goes on");
        }
        // A program that does not go by names takes the only one.
        let works = match &kept.current {
            Some(current) => self.works(secret, kept, current).await.unwrap_or(true),
            None => true,
        };
        match works || crate::mutation!("command-taken") {
            true => Ok(()),
            false => Err(EngineError::Refused("revoke: the new value died when another version was taken back: it goes by no name".into())),
        }
    }

    /// Whether the version before works beside the new one. One that should and does not was not beside it: that is told.
    async fn before_works(&self, secret: &SecretDefinition, settings: &Settings, kept: &Kept) -> bool {
        let Some(before) = kept.current.as_ref().filter(|before| settings.overlaps() || before.overlap) else { return false };
        // What cannot be said is as it should be.
        let works = self.works(secret, kept, before).await.unwrap_or(true);
        if !works && settings.overlaps() {
            let (secret, version) = (&secret.name, before.version);
            tracing::warn!(engine = %self.name, %secret, version, "the version before died when another was set: overlap = false says so");
        }
        works || crate::mutation!("command-before")
    }

    /// Has a version set, when no earlier program can set it any more.
    async fn set_in_time(&self, secret: &SecretDefinition, kept: &Kept, pending: &Value, fresh: bool) -> Result<Heard, EngineError> {
        let name = self.version_name(&secret.name, pending.version);
        if let Some(over) = self.open.over_at(&name, Instant::now()).filter(|_| !fresh)
            && !crate::mutation!("command-again")
        {
            // Perhaps to another value than the one that would be given.
            tokio::time::sleep_until(over).await;
        }
        self.set(secret, kept, pending).await
    }

    /// Has a version set, and says what came of it.
    pub(super) async fn set(&self, secret: &SecretDefinition, kept: &Kept, pending: &Value) -> Result<Heard, EngineError> {
        let wrong = |what: String| EngineError::Setup(format!("rotate: {what}"));
        let which = Which { reference: None, ..Which::of(pending) };
        let Done::Rotated(said) = self.ask(Call::Rotate, secret, kept, which).await? else { return Err(other_call()) };
        let value = match said.value {
            Some(given) => given.bytes(Call::Rotate)?,
            None => SecretBytes::new(pending.value.expose().to_vec()),
        };
        let beside = (&said.attributes, &said.reference);
        let Handed { value, .. } = handed(Call::Rotate, VALUE_MAX, value, beside)?;
        let length = serde_json::to_string(&beside).map_or(usize::MAX, |text| text.len());
        if length > BESIDE_MAX {
            return Err(wrong(format!("attributes and reference of {length} bytes; {BESIDE_MAX} may be given")));
        }
        if said.attributes.get(VERSION).is_some() {
            return Err(wrong(format!("{VERSION} is an attribute that is added here")));
        }
        Ok((value, said.attributes, said.reference))
    }
}

/// The longest parameters of a value that lasts, in bytes of JSON: they are kept with each version.
pub(super) const PARAMETERS_MAX: usize = 1 << 10;

/// Whether parameters are short enough to be kept.
pub(super) fn may_be_kept(parameters: &Map<String, Json>) -> bool {
    serde_json::to_string(parameters).is_ok_and(|text| text.len() <= PARAMETERS_MAX)
}
