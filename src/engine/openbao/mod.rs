//! `openbao`: secrets of an OpenBao or Vault server: values of its KV store, what its other engines make for a lease, and tokens.
//!
//! Whatever is made hangs on one token for each lease, whose id follows from the lease (`child`): so that it is found after a crash, and
//! ends whole. What the server made cannot be made again, so it is sealed into the lease's own row (ADR 10).

mod api;
mod child;
mod config;
mod generate;
mod kind;
mod kv;
mod leased;
mod offline;
mod pick;
mod reading;
mod session;
mod settings;
mod space;
mod stale;
mod until;

pub use config::{Login, OpenBaoConfig, Source};
pub use offline::Copies;

use super::{
    Again, Engine, EngineError, Issued, Kept, Mark, Order, Over, UpstreamRef, Version as Made, local::LocalStore, stale_attributes,
};
use crate::{
    digest::{Random, SealKey},
    model::{EndsBy, EngineName, LeaseId, OfEngine, Operation, Proof, ProofBy, SecretDefinition},
    sys::Clock,
};
use api::Api;
use async_trait::async_trait;
use child::Children;
use kind::Kind;
use kv::{KvStore, Version};
use offline::Offline;
use reading::{of_kv, of_version};
use serde_json::Value;
use session::Session;
use settings::{Kv, KvPath, Pick, Settings};
use space::{Handle, Space};
use std::{future::Future, sync::Arc, time::Duration};

/// What follows from a definition's settings, or what is wrong with them. Needs no server.
pub fn of_definition(secret: &SecretDefinition) -> Result<OfEngine, String> {
    Ok(match Settings::parse(secret)? {
        Settings::Kv(_) => OfEngine::ends_by(EndsBy::None),
        Settings::Read(read) => {
            let ends_by = if read.short_life { EndsBy::ShortLife } else { EndsBy::Upstream };
            OfEngine { ends_by, narrows: read.narrows(secret.operation) }
        }
        Settings::Token(row) => OfEngine { ends_by: EndsBy::Upstream, narrows: row.narrows(secret.operation) },
    })
}

/// A namespace as the server reads it; none is the root's.
pub fn namespace_of(text: &str) -> Option<&str> {
    Some(text.trim_matches('/')).filter(|text| !text.is_empty() && *text != "root")
}

/// How many times as long as another call it may take to look through all tokens.
const SEARCH: u32 = 10;

/// The engine of one server.
pub struct OpenBaoEngine {
    name: EngineName,
    timeout: Duration,
    children: Children,
    kv: KvStore,
    seal_key: SealKey,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
}

impl OpenBaoEngine {
    /// An engine that logs in when it is first asked. `root` must outlive the leases, also through a change of the master key
    /// ([`LocalStore::own_key`]): ids of tokens follow from it, and values are sealed under it.
    pub fn new(
        config: OpenBaoConfig,
        mark: Mark,
        root: &SealKey,
        store: Arc<LocalStore>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, EngineError> {
        let OpenBaoConfig { name, client, namespace, login, token_role, timeout, copies } = config;
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
        if !is_name(&token_role) {
            return Err(EngineError::Setup(format!("engine {name}: token_role: letters, digits, -, _ and .")));
        }
        let namespace = namespace.as_deref().and_then(namespace_of).map(str::to_owned);
        let space = namespace.is_some().then(|| Space::new(clock.clone()));
        let session = Session::new(Api::new(client, namespace), login, name.clone(), store, clock.clone(), random.clone());
        let session = Arc::new(session);
        let key = root.derive(&format!("openbao token:{name}"));
        let seal_key = root.derive(&format!("openbao value:{name}"));
        let offline = Offline::new(copies, root.derive(&format!("openbao copy:{name}")), random.clone());
        let kv = KvStore::new(session.clone(), clock.clone(), offline);
        let children = Children { session, role: token_role, mark, key, space, unsent: Default::default() };
        Ok(Self { name, timeout, children, kv, seal_key, clock, random })
    }

    /// How long it may take to find what a lease without a reference has: in a namespace all tokens are looked through.
    fn search_limit(&self) -> Duration {
        if self.children.space.is_some() { self.timeout * SEARCH } else { self.timeout }
    }

    /// Seconds from now until the lease ends, at least one.
    fn seconds(&self, order: &Order<'_>) -> u64 {
        order.left.as_micros().div_ceil(1_000_000).try_into().unwrap_or(u64::MAX).max(1)
    }

    async fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        match Settings::parse(order.secret).map_err(EngineError::Setup)? {
            Settings::Kv(row) => {
                let version = self.kv.shared(&row.path, row.version).await?;
                self.kv.keep(&row, &version);
                of_kv(&row, &version)
            }
            Settings::Read(read) => {
                let made = self.make_leased(order, &read).await;
                self.heard(order.lease, made, read.short_life)
            }
            Settings::Token(row) => {
                let made = self.make_token(order, &row).await;
                self.heard(order.lease, made, false)
            }
        }
    }

    /// What can be given again without asking the server.
    fn again_now(&self, lease: LeaseId, kind: &Kind) -> Option<Result<Again, EngineError>> {
        match kind {
            Kind::Kv(reading) => self.kv.kept(&reading.path, reading.version).map(|version| reading.of(&version)),
            Kind::Leased { sealed, attributes, .. } | Kind::ShortLife { sealed, attributes } => {
                Some(self.unsealed(lease, sealed).map(|value| Again { value, attributes: attributes.clone() }))
            }
            Kind::Token { sealed: Some(sealed), .. } => {
                Some(self.unsealed(lease, sealed).map(|value| Again { value, attributes: Vec::new() }))
            }
            Kind::Token { sealed: None, .. } => Some(Ok(Again { value: self.children.id(lease), attributes: Vec::new() })),
        }
    }

    async fn again(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Again, EngineError> {
        let kind = Kind::of(reference).ok_or_else(|| EngineError::Setup(format!("{} does not say what it has", order.lease)))?;
        match (self.again_now(order.lease, &kind), kind) {
            (Some(done), _) => done,
            (None, Kind::Kv(reading)) => reading.of(&*self.kv.version(&reading.path, reading.version).await?),
            (None, _) => Err(EngineError::NoValue),
        }
    }

    async fn prolong_lease(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        match Kind::of(reference) {
            Some(Kind::Leased { id, accessor, .. }) => {
                self.renew_leased(order, &id, Handle::of(order.lease, accessor.as_ref()), reference).await
            }
            Some(Kind::Token { accessor, .. }) => {
                self.children.renew(Handle::of(order.lease, accessor.as_ref()), self.seconds(order)).await
            }
            Some(Kind::Kv(reading)) => reading.check(&*self.kv.version(&reading.path, reading.version).await?),
            Some(Kind::ShortLife { .. }) => Err(EngineError::Refused("what the path gave dies by itself: ask for a new lease".into())),
            None => Err(EngineError::Refused("nothing is known of the lease".into())),
        }
    }

    async fn finish(&self, lease: LeaseId, kind: Option<Kind>) -> Result<Over, EngineError> {
        let over = match kind {
            Some(Kind::Kv(_) | Kind::ShortLife { .. }) => Ok(Over::LAPSED),
            Some(Kind::Leased { id, accessor, .. }) => self.end_leased(Handle::of(lease, accessor.as_ref()), &id).await,
            Some(Kind::Token { accessor, .. }) => self.end_token(Handle::of(lease, accessor.as_ref())).await,
            None => self.end_unknown(lease).await,
        }?;
        self.children.space.iter().for_each(|space| space.forget(lease));
        Ok(over)
    }

    /// The value that a secret's row allows to be given where this error says that the server cannot be asked, with its age in
    /// microseconds. A server that says no is believed.
    async fn stale(&self, secret: &SecretDefinition, of: Option<(&KvPath, u64)>, error: &EngineError) -> Option<(Kv, Arc<Version>, u64)> {
        if !error.is_passing() {
            return None;
        }
        let Ok(Settings::Kv(row)) = Settings::parse(secret) else { return None };
        // A lease may be of a place that its secret had before.
        if of.is_some_and(|(path, _)| *path != row.path) {
            return None;
        }
        let (version, age) = self.kv.stale(&row, of.map_or(row.version, |(_, version)| Some(version))).await?;
        if self.kv.is_due_to_tell() {
            let seconds = age / 1_000_000;
            tracing::warn!(engine = %self.name, secret = %secret.name, age = seconds, why = %error, "values are given as they were known: their server cannot be asked");
        }
        Some((row, version, age))
    }

    /// Puts the one deadline around a call. What was under way is dropped with its connection.
    async fn within<T>(&self, limit: Duration, call: impl Future<Output = Result<T, EngineError>> + Send) -> Result<T, EngineError> {
        let done = tokio::time::timeout(limit, call).await;
        let late = || EngineError::Unreachable(format!("not done within {} ms", limit.as_millis()));
        done.unwrap_or_else(|_| Err(late())).map_err(|error| error.named(&self.name))
    }
}

#[async_trait]
impl Engine for OpenBaoEngine {
    fn kind(&self) -> &'static str {
        "openbao"
    }

    fn ends_by(&self, secret: &SecretDefinition) -> EndsBy {
        // What cannot be parsed is not asked about.
        of_definition(secret).map_or(EndsBy::None, |follows| follows.ends_by)
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        of_definition(secret).map_or_else(|_| Vec::new(), |follows| follows.narrows)
    }

    fn proves(&self, secret: &SecretDefinition) -> Option<ProofBy> {
        self.has_upstream(secret).then_some(ProofBy::Looked)
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        Settings::parse(secret).map(drop)
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let error = match self.within(self.timeout, self.make(order)).await {
            Err(error) => error,
            made => return made,
        };
        let Some((row, version, age)) = self.stale(order.secret, None, &error).await else { return Err(error) };
        let mut issued = of_kv(&row, &version)?;
        issued.attributes.extend(stale_attributes(age));
        Ok(issued)
    }

    async fn read(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<Issued, EngineError> {
        let again = match (self.within(self.timeout, self.again(order, reference)).await, Kind::of(reference)) {
            (Err(error), Some(Kind::Kv(reading))) => {
                let Some((_, known, age)) = self.stale(order.secret, Some((&reading.path, reading.version)), &error).await else {
                    return Err(error);
                };
                let mut again = reading.of(&known)?;
                again.attributes.extend(stale_attributes(age));
                again
            }
            (again, _) => again?,
        };
        Ok(Issued { value: again.value, attributes: again.attributes, reference: reference.clone() })
    }

    fn read_now(&self, order: &Order<'_>, reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        self.again_now(order.lease, &Kind::of(reference)?)
    }

    fn is_newest(&self, secret: &SecretDefinition, reference: &UpstreamRef) -> bool {
        match (Kind::of(reference), Settings::parse(secret)) {
            // The newest that was seen: the server is not asked.
            (Some(Kind::Kv(reading)), Ok(Settings::Kv(row))) if row.version.is_none() => {
                self.kv.latest(&reading.path).is_none_or(|latest| reading.is_as_new_as(latest))
            }
            _ => true,
        }
    }

    fn can_rotate(&self, secret: &SecretDefinition) -> bool {
        matches!(Settings::parse(secret), Ok(Settings::Kv(row)) if row.generate.is_some())
    }

    async fn newest(&self, secret: &SecretDefinition) -> Result<Option<Made>, EngineError> {
        let Settings::Kv(row) = Settings::parse(secret).map_err(EngineError::Setup)? else {
            return Err(EngineError::Setup(format!("{}: what the server makes has no versions", self.name)));
        };
        let found = self.within(self.timeout, async {
            let version = self.kv.shared(&row.path, row.version).await?;
            self.kv.keep(&row, &version);
            of_version(&version, &row.path, &row.pick).map(|_| Made { number: version.which.number, made: version.which.made })
        });
        match found.await {
            Err(EngineError::NoValue) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn rotate(&self, secret: &SecretDefinition) -> Result<Made, EngineError> {
        match Settings::parse(secret).map_err(EngineError::Setup)? {
            Settings::Kv(row @ Kv { pick: Pick { field: Some(_), .. }, generate: Some(_), .. }) => {
                // Three calls at most.
                let replaced = self.within(self.timeout * 3, self.kv.replace(&row, &*self.random)).await?;
                self.kv.keep(&row, &replaced);
                Ok(Made { number: replaced.which.number, made: replaced.which.made })
            }
            Settings::Kv(_) => {
                let how =
                    "change the value where it is used, and put the new one there; or let it be made here: generate = {} in its settings";
                Err(EngineError::Setup(how.into()))
            }
            _ => Err(EngineError::Setup("each lease has a credential of its own: end the lease instead".into())),
        }
    }

    async fn renew(&self, order: &Order<'_>, reference: &UpstreamRef) -> Result<(), EngineError> {
        let done = self.within(self.timeout, self.prolong_lease(order, reference)).await;
        match (done, Kind::of(reference)) {
            (Err(error), Some(Kind::Kv(reading))) => {
                let known = self.stale(order.secret, Some((&reading.path, reading.version)), &error).await;
                known.filter(|(_, version, _)| reading.check(version).is_ok()).map(drop).ok_or(error)
            }
            (done, _) => done,
        }
    }

    async fn end(&self, lease: LeaseId, reference: &UpstreamRef) -> Result<Over, EngineError> {
        // Whatever is there has a name that follows from the mark: by another it would not be found, and count as gone.
        let made_under = reference.0.get("mark").and_then(Value::as_str);
        if made_under.is_some_and(|mark| mark != self.children.mark.as_str()) {
            return Err(EngineError::Setup(format!("{}: {lease} was made under another mark: not ours to end", self.name)));
        }
        let made_in = reference.0.get("namespace").and_then(Value::as_str);
        if !crate::mutation!("openbao-namespace")
            && made_under.is_some()
            && made_in != self.children.session.api.namespace()
            && reference.0.get("ends").is_none()
        {
            let there = made_in.unwrap_or("root");
            return Err(EngineError::Setup(format!(
                "{}: {lease} was made in the namespace {there}: this one knows nothing of it",
                self.name
            )));
        }
        match Kind::of(reference) {
            // Nothing is asked of the server, so nobody waits for those who ask it.
            Some(Kind::Kv(_) | Kind::ShortLife { .. }) => Ok(Over::LAPSED),
            kind => {
                let limit = if kind.is_none() { self.search_limit() } else { self.timeout };
                self.children.session.api.ending(self.within(limit, self.finish(lease, kind))).await
            }
        }
    }

    async fn settle(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        // A definition of today may be another than the lease's: it only spares the look where nothing can be there.
        if secret.is_some_and(|secret| matches!(Settings::parse(secret), Ok(Settings::Kv(_)))) {
            return Ok(Over::LAPSED);
        }
        if self.children.never_sent(lease) {
            return Ok(Over::lapsed(Proof::NEVER));
        }
        let settled = self.within(self.search_limit(), self.settle_lost(lease, secret));
        match self.children.space {
            // It looks through all tokens: what holds no turn of endings holds up none.
            Some(_) => settled.await,
            None => self.children.session.api.ending(settled).await,
        }
    }

    fn kept(&self, secret: &SecretDefinition) -> Vec<Kept> {
        let Ok(Settings::Kv(row)) = Settings::parse(secret) else { return Vec::new() };
        self.kv.list(&row)
    }

    async fn evict(&self, secret: &SecretDefinition) -> usize {
        match Settings::parse(secret) {
            Ok(Settings::Kv(row)) => self.kv.forget_all_of(&row.path, row.version).await,
            _ => 0,
        }
    }

    async fn tidy(&self, secrets: &[Arc<SecretDefinition>]) {
        let rows = secrets.iter().filter_map(|secret| match Settings::parse(secret) {
            Ok(Settings::Kv(row)) => Some(row),
            _ => None,
        });
        self.kv.tidy(&rows.collect::<Vec<_>>()).await;
    }

    async fn inventory(&self) -> Result<Vec<LeaseId>, EngineError> {
        self.within(self.timeout * SEARCH, async {
            if self.children.space.is_none() {
                self.children.try_fence(LeaseId::from_parts(self.clock.wall().unix_ms(), self.random.u128())).await?;
            }
            let found: Vec<LeaseId> =
                self.children.marked().await?.into_iter().filter(|mark| !mark.one_call).map(|mark| mark.lease).collect();
            self.children.space.iter().for_each(|space| space.listed(&found));
            Ok(found)
        })
        .await
    }
}
