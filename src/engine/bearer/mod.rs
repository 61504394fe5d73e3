//! Bearer tokens whose source can neither find them again nor list them: the life that `oauth2` and `github-app` tokens share.
//!
//! What is known of a call is on disk before and after it (`notes`); the token lies sealed in its lease's row (ADR 10); ending shows it
//! to its source. A token whose source cannot take it back is not noted: it lasts as long as its lease and dies by itself.

mod answer;
mod clocks;
mod life;
mod narrow;
mod notes;

pub(super) use answer::{is_object, line, not_now, unheard};
pub(super) use narrow::ByTarget;
pub use notes::NoteError;

use super::{Again, Attribute, Engine, EngineError, Issued, Order, Over, UpstreamRef};
use crate::{
    digest::{Random, SealKey},
    model::{EndsBy, EngineName, LeaseId, Operation, Proof, ProofBy, SecretBytes, SecretDefinition, Ttl},
    outbound::Client,
    sys::Clock,
};
use async_trait::async_trait;
use clocks::Clocks;
use notes::Notes;
use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

/// What makes tokens and takes them back.
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// The engine's kind.
    fn kind(&self) -> &'static str;

    /// Calls the source.
    fn client(&self) -> &Client;

    /// Whether it takes tokens back.
    fn revokes(&self) -> bool;

    /// The longest life that it gives a token.
    fn longest(&self) -> Ttl;

    /// As [`Engine::narrows`].
    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation>;

    /// Checks a definition's settings; the text names what is wrong.
    fn check(&self, secret: &SecretDefinition) -> Result<(), String>;

    /// Asks for one token, in one call.
    async fn ask(&self, order: &Order<'_>) -> Result<Given, NotGiven>;

    /// Whether it can be asked if a token is dead.
    fn looks(&self) -> bool;

    /// Takes a token back that was made so long ago (a source may need a moment to know its own), looks where it can, and says how it is
    /// known. Done when this succeeds, whatever it was before.
    async fn revoke(&self, token: &SecretBytes, age: Duration) -> Result<Proof, EngineError>;
}

/// A token that came.
pub struct Given {
    /// The token.
    pub value: SecretBytes,
    /// Another one that came along unasked and must not stay.
    pub companion: Option<SecretBytes>,
    /// Seconds from now until it dies by itself, if the source said so.
    pub seconds: Option<u64>,
    /// What the holder may know of it.
    pub attributes: Vec<Attribute>,
    /// Why it must not be handed out all the same.
    pub wrong: Option<EngineError>,
}

/// Why none came.
pub struct NotGiven {
    /// Why.
    pub error: EngineError,
    /// There may be one all the same, which nobody knows.
    pub may_exist: bool,
}

impl NotGiven {
    /// There is none for certain.
    pub fn certain(error: EngineError) -> Self {
        Self { error, may_exist: false }
    }
}

/// What every such engine is opened with.
pub struct BearerConfig {
    /// The engine's name; its keys follow from it, so another name is another engine.
    pub name: EngineName,
    /// Where the notes are: a folder of the state that belongs to this engine alone.
    pub notes: PathBuf,
    /// The longest any call of the engine takes, all waits included.
    pub timeout: Duration,
    /// The id of this boot: a clock that counts from its beginning stands beside the wall clock in each note.
    pub boot: Arc<str>,
}

/// The engine over one source.
pub struct BearerEngine<S> {
    name: EngineName,
    timeout: Duration,
    source: S,
    notes: Notes,
    key: SealKey,
    clocks: Clocks,
    random: Arc<dyn Random>,
}

impl<S: TokenSource> BearerEngine<S> {
    /// Opens the notes, and forgets those of tokens that are over. `root` must outlive the leases, also through a change of the master
    /// key ([`super::local::LocalStore::own_key`]).
    pub fn open(
        config: BearerConfig,
        source: S,
        root: &SealKey,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, NoteError> {
        let BearerConfig { name, notes, timeout, boot } = config;
        let key = |what: &str| root.derive(&format!("{} {what}:{name}", source.kind()));
        let notes = Notes::open(notes, key("note"), random.clone())?;
        let key = key("token");
        let engine = Self { name, timeout, source, notes, key, clocks: Clocks::new(clock, boot), random };
        engine.forget_what_is_over()?;
        Ok(engine)
    }

    /// Puts the one deadline around a call. What was under way is dropped with its connection.
    async fn within<T>(&self, call: impl Future<Output = Result<T, EngineError>> + Send) -> Result<T, EngineError> {
        let late = || EngineError::Unreachable(format!("not done within {} ms", self.timeout.as_millis()));
        tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| Err(late())).map_err(|error| error.named(&self.name))
    }
}

#[async_trait]
impl<S: TokenSource> Engine for BearerEngine<S> {
    fn kind(&self) -> &'static str {
        self.source.kind()
    }

    fn ends_by(&self, _secret: &SecretDefinition) -> EndsBy {
        if self.source.revokes() { EndsBy::Upstream } else { EndsBy::ShortLife }
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        self.source.narrows(secret)
    }

    fn proves(&self, _secret: &SecretDefinition) -> Option<ProofBy> {
        self.source.revokes().then_some(if self.source.looks() { ProofBy::Looked } else { ProofBy::Told })
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        self.source.check(secret)?;
        let most = self.source.longest();
        if secret.ttl.max > most {
            return Err(format!("{}: ttl: the engine {} gives at most {most}", secret.name, self.name));
        }
        Ok(())
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.within(self.make(order)).await
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let Again { value, attributes } = self.within(std::future::ready(self.again(order.lease, reference))).await?;
        Ok(Issued { value, attributes, reference: reference.clone() })
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(self.again(order.lease, reference))
    }

    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        self.within(std::future::ready(self.must_outlast(order, reference))).await
    }

    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        if reference.sealed().is_some() && !self.is_revocable(reference) {
            // Nothing is asked of the source, so nobody waits for those who ask it.
            return self.within(self.finish(lease, reference)).await;
        }
        self.source.client().ending(self.within(self.finish(lease, reference))).await
    }

    async fn settle(&self, lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        self.source.client().ending(self.within(self.settle_note(lease))).await
    }

    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        self.within(std::future::ready(self.noted())).await
    }
}
