//! `command`: what a program of yours makes, takes back, and looks at. The daemon runs nothing: each call is a connection to the program's
//! socket, for which the service manager starts it in a unit of its own (ADR 13).
//!
//! A program cannot repeat a value, so that is sealed into its lease's own row (ADR 10). What it makes has a name that follows from the
//! lease, by which it is found again after a crash.

mod call;
mod open;
mod protocol;
mod settings;

use super::{Again, Attribute, Engine, EngineError, Issued, Mark, Members, Order, Over, UpstreamRef};
use crate::{
    digest::{Random, SealKey},
    model::{EndsBy, EngineName, Finding, LeaseId, Proof, ProofBy, SecretBytes, SecretDefinition},
    sys::Clock,
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use call::Program;
use open::OpenCalls;
use protocol::{Call, Created, Done, Given, Request, VERSION, Wanted, Wish, answered};
use serde_json::{Map, Value};
use settings::Settings;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long after its call's deadline a program may live: the shipped units end it earlier (`TimeoutStartSec=`, `RuntimeMaxSec=` and
/// `TimeoutStopSec=`, one after the other).
pub const LINGERS: Duration = Duration::from_secs(10);

/// The longest value that is sealed into a lease's row, in bytes.
const VALUE_MAX: usize = 16 << 10;
/// The longest reference of a program's own, in bytes of JSON: every live lease keeps one.
const REFERENCE_MAX: usize = 2 << 10;
/// The most attributes, and the longest of their texts in bytes.
const ATTRIBUTES_MAX: usize = 16;
const ATTRIBUTE_MAX: usize = 2 << 10;
/// How many seconds before its lease a credential may die: programs count in whole seconds, and calls take some.
const EARLY: u64 = 10;
/// And how many after it: whole seconds again.
const LATE: u64 = 1;

/// How a definition's credentials end, or what is wrong with its settings. Needs no program.
pub fn ends_by(secret: &SecretDefinition) -> Result<EndsBy, String> {
    Settings::parse(secret).map(|settings| settings.ends_by())
}

/// Reads bytes as the answer to every call there is, for fuzzing: what is said about each.
#[cfg(feature = "testing")]
pub fn answers(bytes: &[u8]) -> Vec<Result<(), EngineError>> {
    let lease = LeaseId::from_parts(1_700_000_000_000, 7);
    let calls = [Call::Create, Call::Renew, Call::Revoke, Call::Probe, Call::List];
    calls.into_iter().map(|call| answered(call, (call != Call::List).then_some(lease), bytes, &|_| false).map(drop)).collect()
}

/// What an engine is made from.
pub struct CommandConfig {
    /// What secrets call it.
    pub name: EngineName,
    /// Where its program is asked.
    pub socket: PathBuf,
    /// For each call, all waits included.
    pub timeout: Duration,
    /// How long after that its program may live on.
    pub lingers: Duration,
    /// Whether the program can look if a credential is dead: then an end is done only when it said so.
    pub probes: bool,
}

/// The engine of one program.
pub struct CommandEngine {
    name: EngineName,
    program: Program,
    open: OpenCalls,
    probes: bool,
    mark: Mark,
    seal_key: SealKey,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl CommandEngine {
    /// An engine that asks its program when it is first needed. `root` must outlive the leases: their values are sealed under it.
    pub fn new(config: CommandConfig, mark: Mark, root: &SealKey, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        let CommandConfig { name, socket, timeout, lingers, probes } = config;
        let seal_key = root.derive(&format!("command value:{name}"));
        let open = OpenCalls::new(timeout + lingers, Instant::now());
        Self { program: Program::new(socket, timeout), open, probes, mark, seal_key, clock, random, name }
    }

    /// How everything of this daemon is called.
    fn prefix(&self) -> String {
        format!("clv_{}_", self.mark)
    }

    fn request<'a>(&'a self, call: Call, lease: Option<LeaseId>) -> Request<'a> {
        let deadline = (self.clock.wall().0 + self.program.timeout.as_micros() as u64).div_ceil(1_000_000);
        let name = lease.map(|lease| self.prefix() + &lease.bare());
        Request { version: VERSION, call, deadline, mark: self.mark.as_str(), lease, name, wanted: None, reference: None }
    }

    fn wanted<'a>(&self, order: &Order<'a>, parameters: Map<String, Value>) -> Wanted<'a> {
        Wanted {
            secret: order.secret.name.as_str(),
            request: order.request.to_string(),
            ttl: order.left.as_secs().max(1),
            expires: order.expires.unix_secs(),
            intent: Wish {
                identity: order.identity.as_str(),
                purpose: order.purpose.as_str(),
                operation: order.operation,
                targets: order.hosts,
                digest: order.intent_digest(),
            },
            parameters,
        }
    }

    async fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let (lease, ends) = (order.lease, settings.ends_by());
        let wanted = Some(self.wanted(order, settings.parameters));
        let request = Request { wanted, ..self.request(Call::Create, Some(lease)) };
        self.open.want(lease, Instant::now());
        let begun = || self.open.begin(lease, Instant::now());
        let answer = self.program.call(&request, begun, || self.open.end(lease, Instant::now())).await;
        let Done::Created(created) = answered(Call::Create, Some(lease), &answer?, &|_| false)? else { return Err(other_call()) };
        self.taken(order, ends, created)
    }

    /// What was made, if it may be handed on. Whatever is refused here is ended by its name.
    fn taken(&self, order: &Order<'_>, ends: EndsBy, created: Created) -> Result<Issued, EngineError> {
        let wrong = |what: String| EngineError::Setup(format!("create: {what}"));
        let value = match created.value {
            Given::Text(text) => SecretBytes::new(text.into_bytes()),
            Given::Base64(text) => SecretBytes::new(STANDARD.decode(text).map_err(|_| wrong("value_base64 is not base64".into()))?),
        };
        if value.is_empty() || value.len() > VALUE_MAX {
            return Err(wrong(format!("a value of {} bytes; 1 to {VALUE_MAX} may be given", value.len())));
        }
        let attributes = attributes(&created.attributes).map_err(|what| wrong(what.into()))?;
        let own = serde_json::to_value(&created.reference).map_err(|error| wrong(error.to_string()))?;
        if own.to_string().len() > REFERENCE_MAX {
            return Err(wrong(format!("a reference of more than {REFERENCE_MAX} bytes")));
        }
        // Both stand on the record.
        let told = attributes.iter().any(|(_, text)| holds(text, &value)) || any_text(&own, &|text| holds(text, &value));
        if told && !crate::mutation!("command-beside") {
            return Err(wrong("the value stands in an attribute or in the reference, which are on the record".into()));
        }
        lasts(order, ends, created.expires).map_err(wrong)?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("name", self.prefix() + &order.lease.bare());
        if ends == EndsBy::ShortLife {
            reference.0.insert("ends", ends.as_str());
        }
        if let Some(expires) = created.expires {
            reference.0.insert("expires", expires);
        }
        reference.0.insert("intent", order.intent_digest());
        if !created.reference.is_empty() {
            reference.0.insert("reference", own);
        }
        if !attributes.is_empty() {
            let beside = attributes.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str())));
            reference.0.insert("attributes", beside.collect::<Map<_, _>>());
        }
        reference.seal(STANDARD.encode(self.seal_key.seal(&context(order.lease), value.expose(), &*self.random)));
        Ok(Issued { value, attributes, reference })
    }

    /// The value of a live lease, from its row.
    fn again(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let sealed = reference.sealed().ok_or_else(|| EngineError::Setup(format!("{lease} does not say what it has")))?;
        let other = || EngineError::Setup(format!("{lease}: its value does not open: sealed by another key, or of another lease"));
        let value = self.seal_key.open(&context(lease), &STANDARD.decode(sealed).map_err(|_| other())?).map_err(|_| other())?;
        let beside = reference.0.get("attributes").and_then(Value::as_object);
        let row = |(name, value): (&String, &Value)| Some((name.clone().into(), value.as_str()?.to_owned()));
        Ok(Again { value, attributes: beside.into_iter().flatten().filter_map(row).collect() })
    }

    /// A call about a lease that may have a value. The program's words are not passed on if they hold it.
    async fn about(&self, request: Request<'_>, reference: &UpstreamRef) -> Result<Done, EngineError> {
        let (call, Some(lease)) = (request.call, request.lease) else { return Err(other_call()) };
        let request = Request { reference: reference.0.get("reference"), ..request };
        let answer = self.program.call(&request, || (), || ()).await?;
        answered(call, Some(lease), &answer, &|message| {
            let value = reference.sealed().and_then(|_| self.again(lease, reference).ok()).map(|again| again.value);
            value.is_some_and(|value| holds_some(message, &value)) && !crate::mutation!("command-message")
        })
    }

    /// Takes it back. Whether there was anything.
    async fn take_back(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<bool, EngineError> {
        match self.about(self.request(Call::Revoke, Some(lease)), reference).await? {
            Done::Revoked(found) => Ok(found),
            _ => Err(other_call()),
        }
    }

    /// Takes it back and, where the program can, has it looked at. Whether there was anything.
    async fn revoke(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<bool, EngineError> {
        let found = self.take_back(lease, reference).await?;
        if self.probes && !crate::mutation!("command-probe") {
            let probed = self.about(self.request(Call::Probe, Some(lease)), reference).await?;
            if !matches!(probed, Done::Probed(false)) {
                return Err(EngineError::Unreachable("probe: it lives after it was revoked".into()));
            }
        }
        Ok(found)
    }

    async fn prolong(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        if is_short_life(reference) {
            return Err(EngineError::Refused("renew: it dies by itself: ask for a new lease".into()));
        }
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let wanted = Some(self.wanted(order, settings.parameters));
        let request = Request { wanted, ..self.request(Call::Renew, Some(order.lease)) };
        let Done::Renewed(expires) = self.about(request, reference).await? else { return Err(other_call()) };
        lasts(order, EndsBy::Upstream, expires).map_err(|what| EngineError::Refused(format!("renew: {what}")))
    }

    async fn finish(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        if is_short_life(reference) {
            return Ok(Over::LAPSED);
        }
        self.revoke(lease, reference).await.map(|_| Over::revoked(self.proof()))
    }

    /// What a program was asked to make before it was cut off may come into being until it has ended for certain: so it is taken back now,
    /// and looked for once more then.
    async fn settled(&self, lease: LeaseId) -> Result<Over, EngineError> {
        if self.open.is_never(lease) {
            return Ok(Over::lapsed(Proof::NEVER));
        }
        let none = UpstreamRef::default();
        let mut found = false;
        if let Some(over) = self.open.over_at(lease, Instant::now())
            && !crate::mutation!("command-late")
        {
            found = self.take_back(lease, &none).await?;
            tokio::time::sleep_until(over).await;
        }
        found |= self.revoke(lease, &none).await?;
        Ok(if found { Over::revoked(self.proof()) } else { Over::lapsed(self.proof()) })
    }

    /// How an end that the program confirmed is known.
    fn proof(&self) -> Proof {
        if self.probes { Proof::looked(&[Finding::ProgramLooked]) } else { Proof::TOLD }
    }

    async fn listed(&self) -> Result<Vec<LeaseId>, EngineError> {
        let answer = self.program.call(&self.request(Call::List, None), || (), || ()).await?;
        let Done::Listed(names) = answered(Call::List, None, &answer, &|_| false)? else { return Err(other_call()) };
        let prefix = self.prefix();
        // Whatever else it lists is not ours to end.
        Ok(names.iter().filter_map(|name| LeaseId::parse(&format!("lease-{}", name.strip_prefix(&prefix)?)).ok()).collect())
    }

    fn named<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        done.map_err(|error| match error {
            EngineError::Setup(text) => EngineError::Setup(format!("{}: {text}", self.name)),
            EngineError::NoValue => EngineError::NoValue,
            EngineError::Unreachable(text) => EngineError::Unreachable(format!("{}: {text}", self.name)),
            EngineError::Refused(text) => EngineError::Refused(format!("{}: {text}", self.name)),
        })
    }
}

/// What `answered` gives belongs to the call it was asked about.
fn other_call() -> EngineError {
    EngineError::Setup("an answer to another call".into())
}

/// Binds a sealed value to its lease.
fn context(lease: LeaseId) -> Vec<u8> {
    [&b"command value\0"[..], &lease.to_bytes()].concat()
}

fn is_short_life(reference: &UpstreamRef) -> bool {
    reference.0.get("ends").and_then(Value::as_str) == Some(EndsBy::ShortLife.as_str())
}

/// What is shorter stands in texts by chance.
const TELLING: usize = 8;

/// Whether a text gives a value away.
fn holds(text: &str, value: &SecretBytes) -> bool {
    let value = value.expose();
    value.len() >= TELLING && memchr::memmem::find(text.as_bytes(), value).is_some()
}

/// Whether a text gives a piece of a value away.
fn holds_some(text: &[u8], value: &SecretBytes) -> bool {
    text.windows(TELLING).any(|piece| memchr::memmem::find(value.expose(), piece).is_some())
}

/// Whether that is so of any text or name in it.
fn any_text(value: &Value, is_so: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => is_so(text),
        Value::Array(all) => all.iter().any(|value| any_text(value, is_so)),
        Value::Object(members) => members.iter().any(|(name, value)| is_so(name) || any_text(value, is_so)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn attributes(members: &Members) -> Result<Vec<Attribute>, &'static str> {
    let members = serde_json::to_value(members).ok().and_then(|value| if let Value::Object(map) = value { Some(map) } else { None });
    let is_name = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let members = members.unwrap_or_default();
    if members.len() > ATTRIBUTES_MAX {
        return Err("more than 16 attributes");
    }
    let row = |(name, value): (String, Value)| match value {
        Value::String(text) if is_name(&name) && text.len() <= ATTRIBUTE_MAX => Ok((name.into(), text)),
        _ => Err("attributes: names of 1 to 64 letters, digits and _, with texts of at most 2048 bytes"),
    };
    members.into_iter().map(row).collect()
}

/// A credential that dies before its lease would be a lie; one that lives longer and cannot be revoked as well.
fn lasts(order: &Order<'_>, ends: EndsBy, expires: Option<u64>) -> Result<(), String> {
    let end = order.expires.unix_secs();
    match expires {
        Some(at) if at.saturating_add(EARLY) < end => Err(format!("what is given dies {} s before its lease", end - at)),
        Some(at) if ends == EndsBy::ShortLife && at > end.saturating_add(LATE) && !crate::mutation!("command-expiry") => {
            Err(format!("what is given lives {} s longer than its lease, and nobody can revoke it", at - end))
        }
        None if ends == EndsBy::ShortLife => Err("what nobody can revoke needs expires".into()),
        _ => Ok(()),
    }
}

#[async_trait]
impl Engine for CommandEngine {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn ends_by(&self, secret: &SecretDefinition) -> EndsBy {
        // What cannot be parsed is not asked about.
        ends_by(secret).unwrap_or(EndsBy::None)
    }

    fn proves(&self, secret: &SecretDefinition) -> Option<ProofBy> {
        self.has_upstream(secret).then_some(self.proof().by)
    }

    fn has_upstream(&self, secret: &SecretDefinition) -> bool {
        self.ends_by(secret) == EndsBy::Upstream
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        Settings::parse(secret).map(drop)
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.named(self.make(order).await)
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let Again { value, attributes } = self.named(self.again(order.lease, reference))?;
        Ok(Issued { value, attributes, reference: reference.clone() })
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(self.named(self.again(order.lease, reference)))
    }

    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        self.named(self.prolong(order, reference).await)
    }

    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        self.named(self.finish(lease, reference).await)
    }

    async fn settle(&self, lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        self.named(self.settled(lease).await)
    }

    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        self.named(self.listed().await)
    }
}
