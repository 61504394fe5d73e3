//! Values that last at a program's source: given to every lease, and changed now and then (ADR 14).
//!
//! Each version has a name that follows from secret and number. Changing has four steps: a random value is kept as pending, durably; the
//! program sets it, or has its source make another, which is kept before anything else; the program tries it; only then it is given. The
//! one before goes on working, unless the source has one at a time, and is taken back when the next change begins. A change that was
//! cut short is done once more under the same name: nobody has had what it made.

use super::{
    super::{Again, Attribute, EngineError, Issued, Members, Order, UpstreamRef, Version, lasting},
    About, Call, CommandEngine, Done, Request, answered,
    given::{Handed, handed, holds_some},
    kept::{Kept, Told, Value},
    other_call,
    protocol::{Allowed, Lasting},
    settings::Settings,
};
use crate::{
    digest::sha256,
    model::{EndsBy, SecretBytes, SecretDefinition, SecretName},
};
use serde_json::Value as Json;
use tokio::time::{Instant, timeout};

/// The longest value that lasts, in bytes: three are kept in one record of the store.
const VALUE_MAX: usize = 8 << 10;
/// The most bytes of what stands beside it.
const BESIDE_MAX: usize = 4 << 10;
/// Versions that nobody knows and that one change takes back.
const STRAYS_MAX: usize = 10;

impl CommandEngine {
    /// A lease's credential: the value that is given now.
    pub(super) async fn issue_lasting(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        // Nothing is made for the lease.
        self.open.want(&self.name_of(order.lease), Instant::now());
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let kept = self.settled_lasting(order.secret, &settings).await?;
        let value = kept.current.as_ref().ok_or(EngineError::NoValue)?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("lasts", true);
        reference.0.insert("version", value.version);
        reference.0.insert("name", self.version_name(&order.secret.name, value.version));
        let Again { value, attributes } = credential(value);
        Ok(Issued { value, attributes, reference })
    }

    /// The same again, as long as it is good.
    pub(super) fn again_lasting(&self, secret: &SecretName, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let kept = self.values.load(secret)?;
        version_of(reference).and_then(|version| kept.find(version)).map(credential).ok_or(EngineError::NoValue)
    }

    /// Whether a lease has the value that is given now.
    pub(super) fn is_newest_lasting(&self, secret: &SecretName, reference: &UpstreamRef) -> bool {
        let newest = self.values.load(secret).ok().and_then(|kept| Some(kept.current?.version));
        newest.is_some() && version_of(reference) == newest
    }

    /// How a version is called at the source: as long as the name of a lease's, and never taken for one.
    fn version_name(&self, secret: &SecretName, version: u64) -> String {
        format!("{}{}{version:013}", self.prefix(), version_prefix(secret))
    }

    /// What is kept, in a moment in which it is known what holds. While the one before goes on working that is never uncertain.
    async fn settled_lasting(&self, secret: &SecretDefinition, settings: &Settings) -> Result<Kept, EngineError> {
        let name = &secret.name;
        if settings.overlaps() {
            return self.values.load(name);
        }
        let late = |_| EngineError::Unreachable(format!("{name} is being changed"));
        let turn = self.values.turn(name);
        {
            let _nobody_changes_it = timeout(self.program.timeout, turn.read()).await.map_err(late)?;
            let kept = self.values.load(name)?;
            if kept.pending.is_none() || crate::mutation!("command-settled") {
                return Ok(kept);
            }
        }
        let _turn = timeout(self.program.timeout, turn.write()).await.map_err(late)?;
        let mut kept = self.values.load(name)?;
        if let Some(pending) = &kept.pending
            && self.works(secret, settings, pending).await?
        {
            kept.promote(false);
            self.values.save(name, &kept)?;
        }
        Ok(kept)
    }

    /// The version that is given, which the program has tried.
    pub(super) async fn newest_lasting(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        let settings = self.lasting_settings(secret)?;
        let kept = self.settled_lasting(secret, &settings).await?;
        let Some(value) = &kept.current else { return Ok(None) };
        if !self.works(secret, &settings, value).await? && !crate::mutation!("command-looked") {
            return Err(EngineError::Refused(format!("the program says that version {} does not work any more", value.version)));
        }
        Ok(Some(Version { number: value.version, made: value.made }))
    }

    fn lasting_settings(&self, secret: &SecretDefinition) -> Result<Settings, EngineError> {
        let settings = Settings::parse(secret).map_err(EngineError::Setup)?;
        if settings.ends_by() != EndsBy::None {
            return Err(EngineError::Setup("each lease has a credential of its own: end the lease instead".into()));
        }
        Ok(settings)
    }

    /// Sets a new value and gives it from then on.
    pub(super) async fn rotate_lasting(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        let (name, settings) = (&secret.name, self.lasting_settings(secret)?);
        let turn = self.values.turn(name);
        // Where the source has one at a time, whoever asks for it waits meanwhile: the old one dies before the new one is known to work.
        let _turn = turn.write().await;
        let mut kept = self.values.load(name)?;
        // What was to be set, and may have been, is set again before any other.
        let fresh = kept.pending.is_none();
        if fresh {
            let above = if settings.overlaps() { self.clear(secret, &settings, &mut kept).await? } else { 0 };
            kept.begin(above, self.clock.wall(), &*self.random);
            if !crate::mutation!("command-kept-first") {
                self.values.save(name, &kept)?;
            }
        }
        crate::failpoint!("command-kept");
        let Some(mut pending) = kept.pending.take() else { return Err(EngineError::NoValue) };
        self.set(secret, &settings, &mut pending, fresh).await?;
        kept.pending = Some(pending);
        // The source may have made one of its own.
        self.values.save(name, &kept)?;
        crate::failpoint!("command-set");
        if let Some(pending) = &kept.pending {
            self.try_pending(secret, &settings, pending).await?;
        }
        crate::failpoint!("command-tried");
        kept.promote(settings.overlaps());
        self.values.save(name, &kept)?;
        crate::failpoint!("command-given");
        // It was promoted three lines above.
        kept.current.map(|value| Version { number: value.version, made: value.made }).ok_or(EngineError::NoValue)
    }

    /// Takes back what is not given any more: the version before the one that is given, and what a state that is gone knew of. Answers with
    /// the highest number that was seen.
    async fn clear(&self, secret: &SecretDefinition, settings: &Settings, kept: &mut Kept) -> Result<u64, EngineError> {
        if let Some(previous) = &kept.previous {
            let which = Which { number: previous.version, value: Some(&previous.value), reference: Some(&previous.reference) };
            self.take_version_back(secret, settings, which).await?;
            kept.previous = None;
            self.values.save(&secret.name, kept)?;
        }
        let (prefix, ours) = (version_prefix(&secret.name), kept.current.as_ref().map(|value| value.version));
        let mut numbers: Vec<u64> = self.listed().await?.iter().filter_map(|name| name.strip_prefix(&prefix)?.parse().ok()).collect();
        numbers.sort_unstable();
        for number in numbers.iter().filter(|number| Some(**number) != ours).take(STRAYS_MAX) {
            let which = Which { number: *number, value: None, reference: None };
            self.take_version_back(secret, settings, which).await?;
        }
        Ok(numbers.last().copied().unwrap_or(0))
    }

    async fn take_version_back(&self, secret: &SecretDefinition, settings: &Settings, which: Which<'_>) -> Result<(), EngineError> {
        let Done::Revoked(_) = self.ask(Call::Revoke, secret, settings, which).await? else { return Err(other_call()) };
        match self.ask(Call::Probe, secret, settings, which).await? {
            Done::Probed(false) => Ok(()),
            Done::Probed(true) => Err(EngineError::Unreachable(format!("probe: version {} lives after it was revoked", which.number))),
            _ => Err(other_call()),
        }
    }

    /// Has a version set, and takes what came of it.
    async fn set(&self, secret: &SecretDefinition, settings: &Settings, pending: &mut Value, fresh: bool) -> Result<(), EngineError> {
        let wrong = |what: String| EngineError::Setup(format!("rotate: {what}"));
        let name = self.version_name(&secret.name, pending.version);
        if let Some(over) = self.open.over_at(&name, Instant::now()).filter(|_| !fresh)
            && !crate::mutation!("command-again")
        {
            // An earlier program may still set it, and perhaps another value than the one that would be given.
            tokio::time::sleep_until(over).await;
        }
        let which = Which { number: pending.version, value: Some(&pending.value), reference: None };
        let Done::Rotated(said) = self.ask(Call::Rotate, secret, settings, which).await? else { return Err(other_call()) };
        let value = match said.value {
            Some(given) => given.bytes(Call::Rotate)?,
            None => SecretBytes::new(pending.value.expose().to_vec()),
        };
        let Handed { value, attributes, reference } = handed(Call::Rotate, VALUE_MAX, value, (&said.attributes, &said.reference))?;
        let beside = attributes.iter().map(|(name, text)| name.len() + text.len()).sum::<usize>() + reference.to_string().len();
        if beside > BESIDE_MAX {
            return Err(wrong(format!("attributes and reference of {beside} bytes; {BESIDE_MAX} may be given")));
        }
        if said.attributes.get(VERSION).is_some() {
            return Err(wrong(format!("{VERSION} is an attribute that is added here")));
        }
        (pending.value, pending.attributes, pending.reference) = (value, said.attributes, said.reference);
        Ok(())
    }

    /// Tries a version that was set, and another value that never was: a program that finds both good has tried neither.
    async fn try_pending(&self, secret: &SecretDefinition, settings: &Settings, pending: &Value) -> Result<(), EngineError> {
        let never = lasting::random_value(&*self.random);
        let which = Which { number: pending.version, value: Some(&never), reference: Some(&pending.reference) };
        if !matches!(self.ask(Call::Probe, secret, settings, which).await?, Done::Probed(false)) && !crate::mutation!("command-any-value") {
            return Err(EngineError::Setup("probe: the program finds a value good that was never set: it does not try them".into()));
        }
        if !self.works(secret, settings, pending).await? && !crate::mutation!("command-tried") {
            return Err(EngineError::Refused("the program says that the new value does not work".into()));
        }
        Ok(())
    }

    /// Whether the program is let in with a version.
    async fn works(&self, secret: &SecretDefinition, settings: &Settings, value: &Value) -> Result<bool, EngineError> {
        let which = Which { number: value.version, value: Some(&value.value), reference: Some(&value.reference) };
        match self.ask(Call::Probe, secret, settings, which).await? {
            Done::Probed(alive) => Ok(alive),
            _ => Err(other_call()),
        }
    }

    /// One call about one version.
    async fn ask(&self, call: Call, secret: &SecretDefinition, settings: &Settings, which: Which<'_>) -> Result<Done, EngineError> {
        let Which { number, value, reference } = which;
        let name = self.version_name(&secret.name, number);
        let told = value.filter(|_| call != Call::Revoke).map_or(Told::Nothing, Told::of);
        let (value_text, value_base64) = match &told {
            Told::Nothing => (None, None),
            Told::Text(text) => (Some(*text), None),
            Told::Base64(text) => (None, Some(text.as_str())),
        };
        let lasting = Some(Lasting {
            secret: secret.name.as_str(),
            number,
            allow: Allowed { operation: secret.operation, targets: &secret.hosts },
            parameters: settings.parameters.clone(),
            value: value_text,
            value_base64,
        });
        let own = reference.filter(|own| !own.is_empty()).map(serde_json::to_value).transpose();
        let own = own.map_err(|error| EngineError::Setup(format!("{}: {error}", call.as_str())))?;
        let request = Request { lasting, reference: own.as_ref(), ..self.request(call, About::Version(&name)) };
        let answer = match call {
            Call::Rotate => self.open_call(&name, &request).await?,
            _ => self.program.call(&request, || (), || ()).await?,
        };
        answered(call, About::Version(&name), &answer, &|message| {
            value.is_some_and(|value| holds_some(message, value)) && !crate::mutation!("command-message")
        })
    }
}

/// One version of a secret, and what is known of it.
#[derive(Clone, Copy)]
struct Which<'a> {
    number: u64,
    value: Option<&'a SecretBytes>,
    reference: Option<&'a Members>,
}

/// The attribute that says which version a holder has.
const VERSION: &str = "version";

fn credential(kept: &Value) -> Again {
    let beside = serde_json::to_value(&kept.attributes).ok();
    let texts = beside.iter().filter_map(Json::as_object).flatten();
    let row = |(name, value): (&String, &Json)| Some((name.clone().into(), value.as_str()?.to_owned()));
    let mut attributes: Vec<Attribute> = texts.filter_map(row).collect();
    attributes.push((VERSION.into(), kept.version.to_string()));
    Again { value: SecretBytes::new(kept.value.expose().to_vec()), attributes }
}

/// Thirteen characters of which the first begins no lease's name; the number follows.
fn version_prefix(secret: &SecretName) -> String {
    format!("v{}", hex::encode(&sha256(&[b"claviger version\0", secret.as_str().as_bytes()])[..6]))
}

/// Whether a lease was given a value that lasts: nothing of the lease exists at the source.
pub(super) fn is_lasting(reference: &UpstreamRef) -> bool {
    reference.0.get("lasts") == Some(&Json::Bool(true))
}

fn version_of(reference: &UpstreamRef) -> Option<u64> {
    reference.0.get("version").and_then(Json::as_u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LeaseId;

    #[test]
    fn a_version_is_called_by_secret_and_number_and_never_like_a_lease() {
        let name = |text: &str| SecretName::parse(text).unwrap();
        let (one, other) = (version_prefix(&name("status/monitor")), version_prefix(&name("status/other")));
        assert!(one != other && one.len() == 13);
        let whole = format!("{one}{:013}", 7);
        assert_eq!(whole.len(), LeaseId::from_parts(1, 1).bare().len());
        assert!(LeaseId::parse(&format!("lease-{whole}")).is_err());
    }
}
