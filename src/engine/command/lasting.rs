//! Values that last at a program's source, given to every lease (ADR 14); `change` sets new ones.
//!
//! Each version has a name that follows from secret and number. What a change that was cut short came to is found out by having the program try
//! what it was to set, and another value that never was: a program that finds both good has tried neither.

use super::{
    super::{Again, Attribute, EngineError, Issued, Members, Order, Standing, UpstreamRef, Version, lasting},
    About, Call, CommandEngine, Done, Request, answered,
    kept::{Kept, Terms, Told, Value},
    other_call,
    protocol::{Allowed, Lasting},
    settings::Settings,
};
use crate::{
    digest::sha256,
    model::{EndsBy, SecretBytes, SecretDefinition, SecretName, WallTime},
};
use serde_json::{Map, Value as Json};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// The attribute that says which version a holder has.
pub(super) const VERSION: &str = "version";

/// One version of a secret, and what is known of it.
#[derive(Clone, Copy)]
pub(super) struct Which<'a> {
    pub(super) number: u64,
    /// To be set, or tried.
    pub(super) value: Option<&'a SecretBytes>,
    pub(super) reference: Option<&'a Members>,
    pub(super) parameters: &'a Map<String, Json>,
}

impl<'a> Which<'a> {
    pub(super) fn of(value: &'a Value) -> Self {
        Self { number: value.version, value: Some(&value.value), reference: Some(&value.reference), parameters: &value.parameters }
    }

    /// One whose value is not told any more.
    pub(super) fn retired(value: &'a Value) -> Self {
        Self { value: None, ..Self::of(value) }
    }
}

impl CommandEngine {
    /// A lease's credential: the value that is given now.
    pub(super) async fn issue_lasting(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        // Nothing is made for the lease.
        self.open.want(&self.name_of(order.lease), Instant::now());
        let settings = self.lasting_settings(order.secret)?;
        let kept = self.settled_lasting(order.secret).await?;
        let value = self.current(&kept, order.secret, &settings)?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("lasts", true);
        reference.0.insert("version", value.version);
        reference.0.insert("made", value.made.0);
        reference.0.insert("name", self.version_name(&order.secret.name, value.version));
        let Again { value, attributes } = credential(value);
        Ok(Issued { value, attributes, reference })
    }

    /// What is given now, if it was made for what the definition allows and says now.
    fn current<'a>(&self, kept: &'a Kept, secret: &SecretDefinition, settings: &Settings) -> Result<&'a Value, EngineError> {
        let value = kept.current.as_ref().ok_or(EngineError::NoValue)?;
        if value.terms != terms(secret, settings).digest && !crate::mutation!("command-terms") {
            return Err(EngineError::Setup(format!(
                "version {} was made for another operation, other hosts or parameters than {} has now: change it (clav secret rotate)",
                value.version, secret.name
            )));
        }
        Ok(value)
    }

    /// The same again, as long as it is good.
    pub(super) fn again_lasting(&self, secret: &SecretName, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let kept = self.values.load(secret)?;
        version_of(reference).and_then(|(version, made)| kept.find(version, made)).map(credential).ok_or(EngineError::NoValue)
    }

    /// Whether a lease has the value that is given now.
    pub(super) fn is_newest_lasting(&self, secret: &SecretName, reference: &UpstreamRef) -> bool {
        let newest = self.values.load(secret).ok().and_then(|kept| kept.current.map(|value| (value.version, value.made)));
        newest.is_some() && version_of(reference) == newest
    }

    /// What is kept, in a moment in which it is known what holds. While the one before goes on working that is never uncertain.
    async fn settled_lasting(&self, secret: &SecretDefinition) -> Result<Kept, EngineError> {
        let name = &secret.name;
        let kept = self.values.load(name)?;
        if is_certain(&kept) || crate::mutation!("command-settled") {
            return Ok(kept);
        }
        // It is being changed, or was: whoever changes it, or finds out, is not held up by all who ask.
        self.doubts.pass(name)?;
        let turn = self.values.turn(name);
        let _turn = timeout(self.program.timeout, turn.write()).await.map_err(|_| being_changed(name))?;
        let mut kept = self.values.load(name)?;
        if !is_certain(&kept) {
            self.settle(secret, &mut kept).await.map_err(|error| self.doubts.note(name, error))?;
        }
        Ok(kept)
    }

    /// Finds out what a change came to that was cut short and may have replaced the value in its place.
    pub(super) async fn settle(&self, secret: &SecretDefinition, kept: &mut Kept) -> Result<(), EngineError> {
        let name = &secret.name;
        let Some(pending) = &kept.pending else { return Ok(()) };
        if self.open.over_at(&self.version_name(name, pending.version), Instant::now()).is_some() && !crate::mutation!("command-still-open")
        {
            // Its program may still set it.
            return Err(being_changed(name));
        }
        if self.is_tried(secret, kept, pending).await? {
            if !pending.heard {
                // What stands beside it is not known: nobody has had it, so it may be set once more.
                let heard = self.set(secret, kept, pending).await?;
                kept.hear(heard);
                self.values.save(name, kept)?;
                let works = match &kept.pending {
                    Some(pending) => self.works(secret, kept, pending).await?,
                    None => false,
                };
                if !works {
                    return Err(being_changed(name));
                }
            }
            kept.promote(self.clock.wall(), false);
        } else {
            let Some(current) = &kept.current else { return Ok(()) };
            if !self.works(secret, kept, current).await? && !crate::mutation!("command-neither") {
                return Err(EngineError::Unreachable(format!(
                    "a change of {name} was cut short, and neither the value before nor the one after works: it has to be changed once more"
                )));
            }
            // It did not come about, and cannot any more.
            kept.pending = None;
        }
        self.values.save(name, kept)
    }

    /// The version that is given, which the program has tried.
    pub(super) async fn newest_lasting(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        let settings = self.lasting_settings(secret)?;
        let kept = self.settled_lasting(secret).await?;
        if kept.current.is_none() {
            return Ok(None);
        }
        let value = self.current(&kept, secret, &settings)?;
        if !self.works(secret, &kept, value).await? && !crate::mutation!("command-looked") {
            return Err(EngineError::Refused(format!("the program says that version {} does not work any more", value.version)));
        }
        Ok(Some(Version { number: value.version, made: value.made }))
    }

    /// Which version is kept, and whether a change of it was cut short. Asks nobody.
    pub(super) fn standing_lasting(&self, secret: &SecretDefinition) -> Standing {
        let kept = self.values.load(&secret.name).unwrap_or_default();
        let version = kept.current.map(|value| Version { number: value.version, made: value.made });
        Standing { version, cut_short: kept.pending.is_some() }
    }

    pub(super) fn lasting_settings(&self, secret: &SecretDefinition) -> Result<Settings, EngineError> {
        let settings = Settings::parse(secret).map_err(EngineError::Setup)?;
        if settings.ends_by() != EndsBy::None {
            return Err(EngineError::Setup("each lease has a credential of its own: end the lease instead".into()));
        }
        Ok(settings)
    }

    /// Whether the program is let in with a version, and would not be with a value that was never set.
    pub(super) async fn is_tried(&self, secret: &SecretDefinition, kept: &Kept, value: &Value) -> Result<bool, EngineError> {
        let never = lasting::random_value(&*self.random);
        let other = Which { value: Some(&never), ..Which::of(value) };
        if !matches!(self.ask(Call::Probe, secret, kept, other).await?, Done::Probed(false)) && !crate::mutation!("command-any-value") {
            return Err(EngineError::Setup("probe: the program finds a value good that was never set: it does not try them".into()));
        }
        self.works(secret, kept, value).await
    }

    /// Whether the program is let in with a version.
    pub(super) async fn works(&self, secret: &SecretDefinition, kept: &Kept, value: &Value) -> Result<bool, EngineError> {
        match self.ask(Call::Probe, secret, kept, Which::of(value)).await? {
            Done::Probed(alive) => Ok(alive),
            _ => Err(other_call()),
        }
    }

    /// One call about one version. None of what is kept may stand in what the program says about an error.
    pub(super) async fn ask(&self, call: Call, secret: &SecretDefinition, kept: &Kept, which: Which<'_>) -> Result<Done, EngineError> {
        let name = self.version_name(&secret.name, which.number);
        let allow = (call == Call::Rotate).then_some(Allowed { operation: secret.operation, targets: &secret.hosts });
        self.ask_about(call, (Some(&secret.name), &name), allow, kept, which).await
    }

    /// The same about a version of which no more may be known than its name at the source.
    pub(super) async fn ask_about(
        &self,
        call: Call,
        (secret, name): (Option<&SecretName>, &str),
        allow: Option<Allowed<'_>>,
        kept: &Kept,
        which: Which<'_>,
    ) -> Result<Done, EngineError> {
        let Which { number, value, reference, parameters } = which;
        let told = value.filter(|_| call != Call::Revoke).map_or(Told::Nothing, Told::of);
        let (value, value_base64) = match &told {
            Told::Nothing => (None, None),
            Told::Text(text) => (Some(*text), None),
            Told::Base64(text) => (None, Some(text.as_str())),
        };
        let lasting = Some(Lasting { secret: secret.map(SecretName::as_str), number, allow, parameters, value, value_base64 });
        let own = reference.filter(|own| !own.is_empty()).map(serde_json::to_value).transpose();
        let own = own.map_err(|error| EngineError::Setup(format!("{}: {error}", call.as_str())))?;
        let request = Request { lasting, reference: own.as_ref(), ..self.request(call, About::Version(name)) };
        let answer = match call {
            Call::Rotate => self.open_call(name, &request).await?,
            _ => self.program.call(&request, || (), || ()).await?,
        };
        answered(call, About::Version(name), &answer, &|message| kept.is_told_by(number, message) && !crate::mutation!("command-message"))
    }
}

fn being_changed(secret: &SecretName) -> EngineError {
    EngineError::Unreachable(format!("{secret} is being changed"))
}

/// Whether the value that is given is known to be the one that holds.
pub(super) fn is_certain(kept: &Kept) -> bool {
    kept.pending.as_ref().is_none_or(|pending| pending.overlap)
}

/// What could not be found out a moment ago: whoever asks again at once is told the same, and the source and the turn are left alone.
#[derive(Default)]
pub(super) struct Doubts(Mutex<HashMap<SecretName, (Instant, String)>>);

/// For how long.
const DOUBT: Duration = Duration::from_secs(5);

impl Doubts {
    fn pass(&self, secret: &SecretName) -> Result<(), EngineError> {
        let doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match doubts.get(secret).filter(|(until, _)| Instant::now() < *until) {
            Some((_, why)) => Err(EngineError::Unreachable(why.clone())),
            None => Ok(()),
        }
    }

    fn note(&self, secret: &SecretName, error: EngineError) -> EngineError {
        let mut doubts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        doubts.insert(secret.clone(), (Instant::now() + DOUBT, error.to_string()));
        error
    }

    /// It is known now.
    pub(super) fn over(&self, secret: &SecretName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(secret);
    }
}

/// What a version is made for.
pub(super) fn terms<'a>(secret: &SecretDefinition, settings: &'a Settings) -> Terms<'a> {
    let hosts: BTreeSet<String> = secret.hosts.iter().map(ToString::to_string).collect();
    // Names, words and parameters always are JSON.
    let text = serde_json::to_vec(&(secret.operation, hosts, &settings.parameters)).unwrap_or_default();
    let digest = hex::encode(&sha256(&[b"claviger terms\0", &text])[..16]);
    Terms { digest, overlap: settings.overlaps(), parameters: &settings.parameters }
}

fn credential(kept: &Value) -> Again {
    let beside = serde_json::to_value(&kept.attributes).ok();
    let texts = beside.iter().filter_map(Json::as_object).flatten();
    let row = |(name, value): (&String, &Json)| Some((name.clone().into(), value.as_str()?.to_owned()));
    let mut attributes: Vec<Attribute> = texts.filter_map(row).collect();
    attributes.push((VERSION.into(), kept.version.to_string()));
    Again { value: SecretBytes::new(kept.value.expose().to_vec()), attributes }
}

/// Whether a lease was given a value that lasts: nothing of the lease exists at the source.
pub(super) fn is_lasting(reference: &UpstreamRef) -> bool {
    reference.0.get("lasts") == Some(&Json::Bool(true))
}

fn version_of(reference: &UpstreamRef) -> Option<(u64, WallTime)> {
    let number = |name: &str| reference.0.get(name).and_then(Json::as_u64);
    Some((number("version")?, WallTime(number("made")?)))
}
