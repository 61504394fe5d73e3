//! `command`: what a program of yours makes, takes back, and looks at. The daemon runs nothing: each call is a connection to the program's
//! socket, for which the service manager starts it in a unit of its own (ADR 13).
//!
//! A program cannot repeat a value, so that is sealed into its lease's own row (ADR 10). What it makes has a name that follows from the
//! lease, by which it is found again after a crash.

mod call;
mod change;
mod given;
mod kept;
mod lasting;
mod leftovers;
mod names;
mod open;
mod protocol;
mod settings;

use super::{
    Again, Defined, Engine, EngineError, Issued, Leftover, Mark, Order, Over, Standing, TakenBack, UpstreamRef, Version, local::LocalStore,
};
use crate::{
    digest::{Random, SealKey},
    model::{EndsBy, EngineName, Finding, LeaseId, Operation, Proof, ProofBy, SecretDefinition},
    sys::Clock,
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use call::Program;
use given::{Handed, handed, holds_some, lasts};
use kept::Values;
use lasting::{Doubts, is_lasting};
use open::OpenCalls;
use protocol::{About, Call, Created, Done, Request, VERSION, Wanted, Wish, answered};
use serde_json::{Map, Value};
use settings::Settings;
pub use settings::of_definition;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long after its call's deadline a program may live: the shipped units end it earlier (`TimeoutStartSec=`, `RuntimeMaxSec=` and
/// `TimeoutStopSec=`, one after the other).
pub const LINGERS: Duration = Duration::from_secs(10);

/// The longest value that is sealed into a lease's row, in bytes.
const VALUE_MAX: usize = 16 << 10;

/// Reads bytes as the answer to every call there is, for fuzzing: what is said about each.
#[cfg(feature = "testing")]
pub fn answers(bytes: &[u8]) -> Vec<Result<(), EngineError>> {
    let lease = LeaseId::from_parts(1_700_000_000_000, 7);
    let calls = [Call::Create, Call::Renew, Call::Revoke, Call::Probe, Call::List, Call::Rotate];
    let about = |call| match call {
        Call::List => About::All,
        Call::Rotate => About::Version("clv_0123456789abcdef_v0123456789ab0000000000001"),
        _ => About::Lease(lease),
    };
    calls.into_iter().map(|call| answered(call, about(call), bytes, &|_| false).map(drop)).collect()
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
    values: Values,
    doubts: Doubts,
    taken: leftovers::Taken,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl CommandEngine {
    /// An engine that asks its program when it is first needed. `root` must outlive the leases: their values are sealed under it. Values that
    /// last are kept in `store`.
    pub fn new(
        config: CommandConfig,
        mark: Mark,
        root: &SealKey,
        store: Arc<LocalStore>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        let CommandConfig { name, socket, timeout, lingers, probes } = config;
        let seal_key = root.derive(&format!("command value:{name}"));
        let open = OpenCalls::new(timeout + lingers, Instant::now());
        let values = Values::new("command", name.clone(), store);
        Self {
            program: Program::new(socket, timeout),
            open,
            probes,
            mark,
            seal_key,
            values,
            doubts: Doubts::default(),
            taken: leftovers::Taken::default(),
            clock,
            random,
            name,
        }
    }

    fn request<'a>(&'a self, call: Call, about: About<'a>) -> Request<'a> {
        let deadline = (self.clock.wall().0 + self.program.timeout.as_micros() as u64).div_ceil(1_000_000);
        let (lease, name) = match about {
            About::Lease(lease) => (Some(lease), Some(self.name_of(lease))),
            About::Version(name) => (None, Some(name.to_owned())),
            About::All => (None, None),
        };
        Request { version: VERSION, call, deadline, mark: self.mark.as_str(), lease, name, wanted: None, lasting: None, reference: None }
    }

    /// Asks for something that may come into being late, under this name; and whether it may is known from then on.
    async fn open_call(&self, name: &str, request: &Request<'_>) -> Result<Vec<u8>, EngineError> {
        self.open.want(name, Instant::now());
        self.program.call(request, || self.open.begin(name, Instant::now()), || self.open.end(name, Instant::now())).await
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
        let about = About::Lease(lease);
        let answer = self.open_call(&self.name_of(lease), &Request { wanted, ..self.request(Call::Create, about) }).await?;
        let Done::Created(created) = answered(Call::Create, about, &answer, &|_| false)? else { return Err(other_call()) };
        self.taken(order, ends, created)
    }

    /// What was made, if it may be handed on. Whatever is refused here is ended by its name.
    fn taken(&self, order: &Order<'_>, ends: EndsBy, created: Created) -> Result<Issued, EngineError> {
        let beside = (&created.attributes, &created.reference);
        let Handed { value, attributes, reference: own } = handed(Call::Create, VALUE_MAX, created.value.bytes(Call::Create)?, beside)?;
        lasts(order, ends, created.expires).map_err(|what| EngineError::Setup(format!("create: {what}")))?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("name", self.name_of(order.lease));
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

    /// The value of a live lease, from its row or, where it lasts, from what is kept.
    fn again(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Again, EngineError> {
        if is_lasting(reference) { self.again_lasting(&order.secret.name, reference) } else { self.opened(order.lease, reference) }
    }

    /// The value that is sealed into a lease's row.
    fn opened(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Again, EngineError> {
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
        answered(call, About::Lease(lease), &answer, &|message| {
            let value = reference.sealed().and_then(|_| self.opened(lease, reference).ok()).map(|again| again.value);
            value.is_some_and(|value| holds_some(message, value.expose())) && !crate::mutation!("command-message")
        })
    }

    /// Takes it back. Whether there was anything.
    async fn take_back(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<bool, EngineError> {
        match self.about(self.request(Call::Revoke, About::Lease(lease)), reference).await? {
            Done::Revoked(found) => Ok(found),
            _ => Err(other_call()),
        }
    }

    /// Takes it back and, where the program can, has it looked at. Whether there was anything.
    async fn revoke(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<bool, EngineError> {
        let found = self.take_back(lease, reference).await?;
        if self.probes && !crate::mutation!("command-probe") {
            let probed = self.about(self.request(Call::Probe, About::Lease(lease)), reference).await?;
            if !matches!(probed, Done::Probed(false)) {
                return Err(EngineError::Unreachable("probe: it lives after it was revoked".into()));
            }
        }
        Ok(found)
    }

    async fn prolong(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        if is_lasting(reference) {
            // The program knows nothing of the lease; a value that is given no more is worth saying now and not at the next read.
            return self.again_lasting(&order.secret.name, reference).map(drop);
        }
        if is_short_life(reference) {
            return Err(EngineError::Refused("renew: it dies by itself: ask for a new lease".into()));
        }
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let wanted = Some(self.wanted(order, settings.parameters));
        let request = Request { wanted, ..self.request(Call::Renew, About::Lease(order.lease)) };
        let Done::Renewed(expires) = self.about(request, reference).await? else { return Err(other_call()) };
        lasts(order, EndsBy::Upstream, expires).map_err(|what| EngineError::Refused(format!("renew: {what}")))
    }

    async fn finish(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        if is_short_life(reference) || is_lasting(reference) {
            return Ok(Over::LAPSED);
        }
        self.revoke(lease, reference).await.map(|_| Over::revoked(self.proof()))
    }

    /// What a program was asked to make before it was cut off may come into being until it has ended for certain: so it is taken back now,
    /// and looked for once more then.
    async fn settled(&self, lease: LeaseId) -> Result<Over, EngineError> {
        let name = self.name_of(lease);
        if self.open.is_never(&name) {
            return Ok(Over::lapsed(Proof::NEVER));
        }
        let none = UpstreamRef::default();
        let mut found = false;
        if let Some(over) = self.open.over_at(&name, Instant::now())
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

    fn named<T>(&self, done: Result<T, EngineError>) -> Result<T, EngineError> {
        done.map_err(|error| error.named(&self.name))
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

#[async_trait]
impl Engine for CommandEngine {
    fn kind(&self) -> &'static str {
        "command"
    }

    fn ends_by(&self, secret: &SecretDefinition) -> EndsBy {
        // What cannot be parsed is not asked about.
        of_definition(secret, self.probes).map_or(EndsBy::None, |follows| follows.ends_by)
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        of_definition(secret, self.probes).map_or_else(|_| Vec::new(), |follows| follows.narrows)
    }

    fn proves(&self, secret: &SecretDefinition) -> Option<ProofBy> {
        self.has_upstream(secret).then_some(self.proof().by)
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        of_definition(secret, self.probes).map(drop)
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.named(match self.ends_by(order.secret) {
            EndsBy::None => self.issue_lasting(order).await,
            _ => self.make(order).await,
        })
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let Again { value, attributes } = self.named(self.again(order, reference))?;
        Ok(Issued { value, attributes, reference: reference.clone() })
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(self.named(self.again(order, reference)))
    }

    fn is_newest(&self, secret: &SecretDefinition, reference: &UpstreamRef) -> bool {
        !is_lasting(reference) || self.is_newest_lasting(&secret.name, reference)
    }

    fn can_rotate(&self, secret: &SecretDefinition) -> bool {
        self.ends_by(secret) == EndsBy::None
    }

    async fn newest(&self, secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        self.named(self.newest_lasting(secret).await)
    }

    fn standing(&self, secret: &SecretDefinition) -> Standing {
        self.standing_lasting(secret)
    }

    async fn rotate(&self, secret: &SecretDefinition) -> Result<Version, EngineError> {
        self.named(self.rotate_lasting(secret).await)
    }

    fn taken_back(&self) -> Vec<TakenBack> {
        self.taken.take()
    }

    async fn leftovers(&self, defined: Defined<'_>) -> Result<Vec<Leftover>, EngineError> {
        self.named(self.left(defined).await)
    }

    async fn end_leftover(&self, left: &Leftover, defined: Defined<'_>) -> TakenBack {
        left.taken(self.named(self.take_left(left, defined).await))
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
        self.named(self.leases().await)
    }
}
