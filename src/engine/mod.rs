//! Clearance to issued secret: one file or folder per secrets engine behind one trait.
//!
//! The contract every engine keeps (the contract suite holds all of them to it):
//!
//! 1. `issue` is called only after the lease's reservation is durable (engines with nothing upstream: together with it). Whatever it
//!    makes upstream bears a name that follows from the lease id and the daemon's mark alone, so that it can be found without a reference.
//! 2. `issue` either returns a credential or leaves nothing behind that `settle` would not find and kill.
//! 3. `read` makes the value again from the lease: the same bytes, or for signed tokens an equally valid one, also after a restart.
//!    No engine keeps values of live leases in the clear. What its source cannot repeat may be sealed into the lease's own reference
//!    ([`UpstreamRef::seal`]), and goes with it.
//! 4. `end` is idempotent and safe to repeat at any time, for ever. It answers `Revoked` only when the source confirmed that the
//!    credential is dead, `Lapsed` when there is nothing upstream to revoke. It never answers done without having looked.
//!    What it saw is in the answer ([`Over`]), and no more than it saw: it becomes the lease's revocation receipt.
//! 5. `settle` ends what a reservation without a commit may have left: it looks for the deterministic name, and it waits for an issue that
//!    is still under way at the source, or undoes it, so that nothing comes into being after it said that there was nothing.
//! 6. No error, log line or upstream statement holds a secret byte.
//! 7. Every wait has a deadline. Endings may wait for others, each of which has one.
//! 8. `inventory` lists what exists upstream under this daemon's mark and nothing else; each can be ended with an empty reference. What
//!    bears another mark is never touched.
//! 9. `end` and `settle` need neither the definition nor the settings the credential was issued under: a secret whose row was changed or
//!    deleted can still be ended.
//! 10. `rotate` gives a new value to its source before it is given to anybody, and gives nobody a value that was not tried where that can
//!     be done. Cut short at any step, it loses neither the value before nor the one after; what works is found out by the next call.
//!     What is taken back is told (`taken_back`). What no definition names any more is found (`leftovers`), and taken back when somebody
//!     says so (`end_leftover`): not what is defined at that moment, nor what another value has taken the place of.
//! 11. A value whose source could not be asked is given only where its definition says so, says so itself ([`STALE`], [`AGE`]), and ends
//!     when its definition says; a source that says no ends it at once. `kept`, `evict` and `tidy` are about what is kept for that.

pub mod bearer;
pub mod command;
mod ended;
pub mod github;
pub mod jwt;
mod lasting;
pub mod local;
mod members;
mod narrows;
pub mod oauth2;
pub mod openbao;
mod over;
pub mod postgres;
mod registry;
pub mod ssh;
mod unsent;
mod version;
pub mod x509;

pub use ended::{EndedError, ListPlaces};
pub use members::Members;
pub use over::Over;
pub use registry::Engines;
pub use version::{Defined, Leftover, Standing, TakenBack, Version};

use crate::digest::sha256;
use crate::model::{
    EndsBy, EngineName, IdentityName, LeaseId, OfEngine, Operation, ProofBy, Purpose, RequestId, SecretBytes, SecretDefinition, Target,
    WallTime,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

/// The mark that everything made upstream bears: which daemon, and which state of it, it belongs to. Two daemons never share one, nor do
/// a machine and its clone that began with states of their own; a daemon touches only what bears its mark.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mark(String);

impl Mark {
    /// The mark of a state (a random id made at first start) on a machine (`/etc/machine-id`): 16 characters of `0-9a-f`.
    pub fn new(machine: &[u8], state: &[u8]) -> Self {
        Self(hex::encode(&sha256(&[b"claviger mark\0", &(machine.len() as u64).to_be_bytes(), machine, state])[..8]))
    }

    /// One that [`Mark::as_str`] gave; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let sound = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        sound.then(|| Self(text.to_owned()))
    }

    /// The mark as it stands in upstream names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an engine is asked to make. Built from a clearance and a reserved slot only.
pub struct Order<'a> {
    /// The lease it belongs to.
    pub lease: LeaseId,
    /// The request that led to it.
    pub request: RequestId,
    /// What is asked for.
    pub secret: &'a SecretDefinition,
    /// Who asked.
    pub identity: &'a IdentityName,
    /// Why.
    pub purpose: &'a Purpose,
    /// The worst the credential may allow.
    pub operation: Operation,
    /// Where it will be used.
    pub hosts: &'a [Target],
    /// When it was issued, on the wall clock.
    pub issued: WallTime,
    /// When it must be dead, on the wall clock.
    pub expires: WallTime,
    /// How long it has to live from now, by the clock that nobody sets. Sources that count from when they are asked are told this: the
    /// wall clock may have been set since the lease was drafted, and then says anything.
    pub left: Duration,
}

impl Order<'_> {
    /// SHA-256 of what was granted, as 32 characters of `0-9a-f`: whom, what, why, the worst it may do and where. It stands in the
    /// reference, so on the record, and at sources that take such a thing, so that their logs join with ours.
    pub fn intent_digest(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let said = (self.identity, &self.secret.name, self.purpose, self.operation, hosts);
        // Names, words and texts always are JSON.
        let text = serde_json::to_vec(&said).unwrap_or_default();
        hex::encode(&sha256(&[b"claviger intent\0", &text])[..16])
    }
}

/// The engine's own reference for revoking and reading again. Kept in the journal, so it never holds a secret byte in the clear.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRef(pub Members);

/// A reference without its sealed value: what goes on the record.
#[derive(Serialize)]
pub struct Named(Members);

/// The member that holds a sealed value.
const SEALED: &str = "sealed";

impl UpstreamRef {
    /// Puts a value into it that its source cannot repeat, sealed under a key of the local store with the lease as context, in base64.
    pub fn seal(&mut self, sealed: String) {
        self.0.insert(SEALED, sealed);
    }

    /// The sealed value.
    pub fn sealed(&self) -> Option<&str> {
        self.0.get(SEALED).and_then(serde_json::Value::as_str)
    }

    /// Whether this is how the source calls it.
    pub fn is_named(&self, name: &str) -> bool {
        self.0.get("name").and_then(serde_json::Value::as_str) == Some(name)
    }

    /// All names, for the record: sealed bytes belong to the lease, which is forgotten, and not to the log, which is not.
    pub fn named(&self) -> Named {
        Named(if crate::mutation!("sealed-off-record") { self.0.clone() } else { self.0.without(SEALED) })
    }
}

/// A name beside a value and what it stands for; neither is secret.
pub type Attribute = (Cow<'static, str>, String);

/// Beside a value that its source could not be asked for: it is given as it was known, and may be out of date.
pub const STALE: &str = "stale";
/// Beside the same: for how many seconds its source has not confirmed it, at most.
pub const AGE: &str = "age";

/// What tells a holder that a value is given as it was known so many microseconds ago.
pub fn stale_attributes(age: u64) -> [Attribute; 2] {
    [(STALE.into(), "true".to_owned()), (AGE.into(), (age / 1_000_000).to_string())]
}

/// For how many seconds the source has not confirmed a value that has these beside it; `None` if it was asked.
pub fn stale_age(attributes: &[Attribute]) -> Option<u64> {
    let find = |wanted: &str| attributes.iter().find(|(name, _)| name == wanted).map(|(_, text)| text.as_str());
    find(STALE).and(find(AGE))?.parse().ok()
}

/// Something of a secret's value that is kept on this host beside its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which version of the value.
    pub version: u64,
    /// A sealed copy on the disk; in the vault otherwise.
    pub on_disk: bool,
    /// Since its source confirmed it, in microseconds; `None` where the clocks do not tell any more, and it is given to nobody.
    pub age: Option<u64>,
    /// For how long it may still be given, in microseconds, if its source does not confirm it again.
    pub left: u64,
    /// It is given only while its source cannot be asked; otherwise leases read it again without asking.
    pub stale: bool,
}

/// A credential that exists.
pub struct Issued {
    /// The value.
    pub value: SecretBytes,
    /// Names beside the value that the holder needs (user name, host, token id ...); none is secret.
    pub attributes: Vec<Attribute>,
    /// How to find it again.
    pub reference: UpstreamRef,
}

/// The value of a credential that was issued before.
pub struct Again {
    /// The value.
    pub value: SecretBytes,
    /// Names beside the value that the holder needs.
    pub attributes: Vec<Attribute>,
}

impl From<Issued> for Again {
    fn from(Issued { value, attributes, reference: _ }: Issued) -> Self {
        Self { value, attributes }
    }
}

/// Why an engine could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The operator has to mend something: a definition, a missing value, a wrong grant. Trying again changes nothing.
    #[error("{0}")]
    Setup(String),
    /// There is no value for this secret yet.
    #[error("the secret has no value")]
    NoValue,
    /// The source cannot be reached or did not answer in time. Trying again may help.
    #[error("{0}")]
    Unreachable(String),
    /// The same, and it asks not to be asked again for so long.
    #[error("{0}")]
    Busy(String, Duration),
    /// The source refused.
    #[error("{0}")]
    Refused(String),
}

impl EngineError {
    /// Whether another time may do, without anybody's help.
    pub fn is_passing(&self) -> bool {
        matches!(self, EngineError::Unreachable(_) | EngineError::Busy(..))
    }

    /// The same, as an engine of that name says it.
    pub fn named(self, name: &EngineName) -> Self {
        match self {
            EngineError::Setup(text) => EngineError::Setup(format!("{name}: {text}")),
            EngineError::NoValue => EngineError::NoValue,
            EngineError::Unreachable(text) => EngineError::Unreachable(format!("{name}: {text}")),
            EngineError::Busy(text, after) => EngineError::Busy(format!("{name}: {text}"), after),
            EngineError::Refused(text) => EngineError::Refused(format!("{name}: {text}")),
        }
    }
}

/// One source of secrets. See the module for the contract.
#[async_trait]
pub trait Engine: Send + Sync {
    /// `local`, `jwt`, `postgres`, ...
    fn kind(&self) -> &'static str;

    /// How this secret's credentials end. Asked only about definitions that [`Engine::check`] has passed.
    fn ends_by(&self, secret: &SecretDefinition) -> EndsBy;

    /// Operations below the secret's own for which it makes a credential that allows no more, least harmful first. Asked only about
    /// definitions that [`Engine::check`] has passed.
    fn narrows(&self, _secret: &SecretDefinition) -> Vec<Operation> {
        Vec::new()
    }

    /// Both, for completing a row.
    fn completes(&self, secret: &SecretDefinition) -> OfEngine {
        OfEngine { ends_by: self.ends_by(secret), narrows: self.narrows(secret) }
    }

    /// Whether [`Engine::read`] makes a value of the definition's settings, so that another definition would give a live lease another one.
    fn reads_by_definition(&self) -> bool {
        false
    }

    /// What the proof is worth that an end of this secret's leases comes with; none where there is nothing to be looked at.
    fn proves(&self, _secret: &SecretDefinition) -> Option<ProofBy> {
        None
    }

    /// Whether something of this secret's leases exists upstream, so that the reservation must be durable before `issue`.
    fn has_upstream(&self, secret: &SecretDefinition) -> bool {
        self.ends_by(secret) == EndsBy::Upstream
    }

    /// Checks a definition's settings at load; the text names what is wrong.
    fn check(&self, secret: &SecretDefinition) -> Result<(), String>;

    /// Makes the credential.
    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError>;

    /// Makes the value of a live lease again.
    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError>;

    /// The same as [`Engine::read`] where nothing has to be waited for; `None` says that `read` has to be asked.
    fn read_now(&self, _order: &Order<'_>, _reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        None
    }

    /// Whether an issue now would give the same version of the value. Sources that keep no versions, and those that would have to be asked,
    /// say yes.
    fn is_newest(&self, _secret: &SecretDefinition, _reference: &UpstreamRef) -> bool {
        true
    }

    /// Whether [`Engine::rotate`] can change this secret's value at its source. Asked only about definitions that passed.
    fn can_rotate(&self, _secret: &SecretDefinition) -> bool {
        false
    }

    /// The version that an issue now would give, tried at its source where that can be done; `None` while there is no value. Asked about
    /// values that last (`ends_by = none`) only.
    async fn newest(&self, _secret: &SecretDefinition) -> Result<Option<Version>, EngineError> {
        Err(EngineError::Setup("keeps no versions of this value".into()))
    }

    /// What is known of that without asking the source.
    fn standing(&self, _secret: &SecretDefinition) -> Standing {
        Standing::default()
    }

    /// Changes the value at its source, and gives the new one from then on. May be repeated after whatever failure.
    async fn rotate(&self, _secret: &SecretDefinition) -> Result<Version, EngineError> {
        Err(EngineError::Setup("this value is not changed from here".into()))
    }

    /// What is kept of this secret's value.
    fn kept(&self, _secret: &SecretDefinition) -> Vec<Kept> {
        Vec::new()
    }

    /// Forgets what is kept of this secret's value, also for others that name the same, and returns when it is gone from the disk. How many
    /// copies it were.
    async fn evict(&self, _secret: &SecretDefinition) -> usize {
        0
    }

    /// Forgets what none of these definitions, all that name this engine, lets be given any more. Called at start, after each change of
    /// definitions, and every minute.
    async fn tidy(&self, _secrets: &[Arc<SecretDefinition>]) {}

    /// The versions of values that were taken back since this was asked last, or should have been: for the record.
    fn taken_back(&self) -> Vec<TakenBack> {
        Vec::new()
    }

    /// Versions under our mark of values that last and that nothing defines any more: at the source or kept here.
    async fn leftovers(&self, _defined: Defined<'_>) -> Result<Vec<Leftover>, EngineError> {
        Ok(Vec::new())
    }

    /// Takes such a version back, unless it is defined again, and forgets what is kept of it. Safe to repeat.
    async fn end_leftover(&self, left: &Leftover, _defined: Defined<'_>) -> TakenBack {
        left.taken(Err(EngineError::Setup("makes no values that last".into())))
    }

    /// Makes the credential last until `order.expires`.
    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError>;

    /// Told before each end: until when the books say that something works which was made of this credential, on the wall clock. Whoever
    /// publishes what has ended needs it, as it may be later than any clock of now says.
    fn may_last(&self, _credential: LeaseId, _until: WallTime) {}

    /// Ends the credential. `Revoked` or `Lapsed`; everything else is an error.
    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError>;

    /// Ends whatever a reservation without a commit may have left. `Revoked` when something was found and ended, `Lapsed` when nothing was there.
    async fn settle(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<Over, EngineError>;

    /// The leases of which something still exists upstream under our mark, whether or not any lease is known here. What no journal
    /// knows can then be ended by [`Engine::end`] with an empty reference. Empty for engines with nothing upstream.
    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        Ok(Vec::new())
    }
}
