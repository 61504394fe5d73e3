//! `jwt`: a token of its own for every lease, signed here, which any verifier checks against the published keys.
//!
//! A token dies by its own expiry (`ends_by = short-life`): ending the lease revokes nothing with those who do not ask. Its id (`jti`) is
//! the lease's id, so that a verifier who wants to know sooner can ask whether the lease lives (`GET /v1/jwt/{jti}`).

mod keys;
mod token;

#[cfg(test)]
mod tests;

pub use keys::Algorithm;

use super::{
    Again, Engine, EngineError, Issued, Order, Over, UpstreamRef,
    local::{LocalStore, StoreError},
};
use crate::{
    digest::KeyError,
    model::{EndsBy, EngineName, LeaseId, Operation, SecretBytes, SecretDefinition, Ttl, WallTime},
    sys::Clock,
};
use arc_swap::ArcSwap;
use async_trait::async_trait;
use keys::KeyRing;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};
use token::Settings;

/// The operations to which a definition says that verifiers hold the caller, or what is wrong with its settings.
pub fn narrows(secret: &SecretDefinition) -> Result<Vec<Operation>, String> {
    Ok(Settings::parse(secret)?.narrows)
}

/// Why signing keys could not be made, kept or handed over. All are the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum JwtError {
    /// The issuer is no https URL, or no algorithm is set.
    #[error("engine {0}: needs an https issuer without a slash at its end, and at least one algorithm")]
    Config(EngineName),
    /// The store that keeps the keys failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key could not be made or read.
    #[error("a signing key {0}")]
    Key(#[from] KeyError),
    /// What the store kept is no key ring.
    #[error("the kept signing keys cannot be read")]
    Unreadable,
    /// Kept by another version.
    #[error("the kept signing keys have format {0}, this version reads 1; nothing was changed. Start the version that wrote them")]
    Format(u32),
    /// The last hand-over is not done.
    #[error("the last new key signs only from {}: wait until then", .0.rfc3339())]
    Pending(WallTime),
}

/// One issuer of tokens.
#[derive(Clone, Debug)]
pub struct JwtConfig {
    /// The engine's name; its keys are kept under it.
    pub name: EngineName,
    /// `iss` of every token: an https URL below which verifiers find the discovery document.
    pub issuer: String,
    /// The algorithms that are offered; the first is the default of a secret.
    pub algorithms: Vec<Algorithm>,
    /// The longest life of any token: how long keys overlap at a rotation.
    pub max_ttl: Ttl,
}

/// A published key as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedKey {
    /// Its id: the RFC 7638 thumbprint.
    pub kid: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// When it began or begins to sign.
    pub signs_from: WallTime,
    /// When the next key takes over.
    pub signs_until: Option<WallTime>,
}

/// The engine.
pub struct JwtEngine {
    config: JwtConfig,
    store: Arc<LocalStore>,
    clock: Arc<dyn Clock>,
    ring: ArcSwap<KeyRing>,
    writer: Mutex<()>,
}

impl JwtEngine {
    /// Reads the keys from the store; makes and keeps those that are missing.
    pub fn open(config: JwtConfig, store: Arc<LocalStore>, clock: Arc<dyn Clock>) -> Result<Self, JwtError> {
        let sound = config.issuer.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.ends_with('/'));
        if !sound || config.algorithms.is_empty() {
            return Err(JwtError::Config(config.name));
        }
        let mut ring = match store.load_own(&label(&config.name))? {
            Some(kept) => KeyRing::from_bytes(&kept)?,
            None => KeyRing::default(),
        };
        let now = clock.wall();
        let mut changed = ring.prune(now, config.max_ttl);
        for algorithm in &config.algorithms {
            if ring.signing(*algorithm, now).is_none() {
                ring.begin(*algorithm, now)?;
                changed = true;
            }
        }
        if changed {
            store.save_own(&label(&config.name), &ring.to_bytes()?)?;
        }
        Ok(Self { config, store, clock, ring: ArcSwap::from_pointee(ring), writer: Mutex::new(()) })
    }

    /// Publishes a new key of each algorithm, which signs from one longest token life from now, and drops keys whose tokens are all dead.
    /// Nothing changes if one of them still waits for its time from the last rotation.
    pub fn rotate(&self) -> Result<Vec<PublishedKey>, JwtError> {
        self.change(|ring, algorithm, now| ring.rotate(algorithm, now, self.config.max_ttl).map(drop))
    }

    /// Drops every key at once and signs with new ones from now: for keys that somebody else may have. Every live token stops being
    /// accepted as soon as its verifier fetches the key set again; holders read theirs anew.
    pub fn discard_keys_and_live_tokens(&self) -> Result<Vec<PublishedKey>, JwtError> {
        self.change(KeyRing::discard_and_begin)
    }

    /// Changes every algorithm's keys, keeps them, and only then uses them.
    fn change(&self, each: impl Fn(&mut KeyRing, Algorithm, WallTime) -> Result<(), JwtError>) -> Result<Vec<PublishedKey>, JwtError> {
        // Rotations take turns; the ring is replaced whole, so a panic leaves no half of one.
        let _turn = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.wall();
        let mut ring = (**self.ring.load()).clone();
        ring.prune(now, self.config.max_ttl);
        for algorithm in &self.config.algorithms {
            each(&mut ring, *algorithm, now)?;
        }
        self.store.save_own(&label(&self.config.name), &ring.to_bytes()?)?;
        self.ring.store(Arc::new(ring));
        Ok(self.keys())
    }

    /// The published keys, oldest first.
    pub fn keys(&self) -> Vec<PublishedKey> {
        let ring = self.ring.load();
        let row = |key: &Arc<keys::SigningKey>| PublishedKey {
            kid: key.kid.clone(),
            algorithm: key.algorithm,
            signs_from: key.signs_from,
            signs_until: ring.signs_until(key),
        };
        ring.published().map(row).collect()
    }

    /// The key set that verifiers fetch (RFC 7517): every key under which a token may be alive, and those that sign next.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.ring.load().published().map(|key| key.jwk()).collect::<Vec<_>>()})
    }

    /// The discovery document (OpenID Connect Discovery 1.0) that leads verifiers from the issuer to the key set.
    pub fn discovery(&self) -> Value {
        let jwks_uri = format!("{}/.well-known/jwks.json", self.config.issuer);
        json!({
            "issuer": self.config.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": self.config.algorithms.iter().map(|a| a.as_str()).collect::<Vec<_>>(),
            "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "claviger"],
        })
    }

    /// A token for logging in as this host somewhere else: for one audience, of few seconds, with no lease behind it.
    pub fn sign_for_ourselves(&self, audience: &str, subject: &str, seconds: u64) -> Result<SecretBytes, JwtError> {
        let at = self.clock.wall().unix_secs();
        self.sign_now(
            &json!({"iss": self.config.issuer, "sub": subject, "aud": audience, "iat": at, "nbf": at, "exp": at.saturating_add(seconds)}),
        )
    }

    /// A token by which a client of an authorization server authenticates (`private_key_jwt`: RFC 7523, 3; OpenID Connect Core 1.0, 9):
    /// issuer and subject are the client, `unique` is its `jti`.
    pub fn sign_for_client(&self, client: &str, audience: &str, unique: &str, seconds: u64) -> Result<SecretBytes, JwtError> {
        let at = self.clock.wall().unix_secs();
        self.sign_now(
            &json!({"iss": client, "sub": client, "aud": audience, "jti": unique, "iat": at, "nbf": at, "exp": at.saturating_add(seconds)}),
        )
    }

    /// A token about the identity of another engine's lease, to be exchanged for that engine's token at once: it says what a lease of this
    /// engine would say, for one audience and few seconds.
    pub fn sign_about(&self, order: &Order<'_>, audience: &str, seconds: u64) -> Result<SecretBytes, JwtError> {
        let at = self.clock.wall().unix_secs();
        let mut claims = token::claims(&self.config.issuer, order, &Settings::about(audience));
        for (name, value) in [("iat", at), ("nbf", at), ("exp", at.saturating_add(seconds))] {
            claims[name] = value.into();
        }
        self.sign_now(&claims)
    }

    /// Signs with the first algorithm's key of now.
    fn sign_now(&self, claims: &Value) -> Result<SecretBytes, JwtError> {
        // There is one for each algorithm from the first start on.
        token::sign(self.ring.load().signing(self.config.algorithms[0], self.clock.wall()).ok_or(JwtError::Unreadable)?, claims)
    }

    /// Signs the lease's claims with the key of now.
    fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let setup = |why: JwtError| EngineError::Setup(format!("{}: {why}", self.config.name));
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let algorithm = settings.algorithm.unwrap_or(self.config.algorithms[0]);
        let ring = self.ring.load();
        let key = ring
            .signing(algorithm, self.clock.wall())
            .ok_or_else(|| EngineError::Setup(format!("{}: has no {} key", self.config.name, algorithm.as_str())))?;
        let value = token::sign(key, &token::claims(&self.config.issuer, order, &settings)).map_err(setup)?;
        let attributes = vec![
            ("token_id".into(), order.lease.to_string()),
            ("issuer".into(), self.config.issuer.clone()),
            ("subject".into(), settings.subject(order.identity)),
            ("key_id".into(), key.kid.clone()),
        ];
        let mut reference = UpstreamRef::default();
        reference.0.insert("jti", order.lease.to_string());
        reference.0.insert("intent", order.intent_digest());
        Ok(Issued { value, attributes, reference })
    }
}

fn label(name: &EngineName) -> String {
    format!("jwt/{name}")
}

#[async_trait]
impl Engine for JwtEngine {
    fn kind(&self) -> &'static str {
        "jwt"
    }

    fn ends_by(&self, _secret: &SecretDefinition) -> EndsBy {
        EndsBy::ShortLife
    }

    fn reads_by_definition(&self) -> bool {
        true
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        // What cannot be parsed is not asked about.
        narrows(secret).unwrap_or_default()
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        let settings = Settings::parse(secret)?;
        if settings.algorithm.is_some_and(|algorithm| !self.config.algorithms.contains(&algorithm)) {
            return Err(format!("{}: algorithm: the engine {} does not offer it", secret.name, self.config.name));
        }
        if secret.ttl.max > self.config.max_ttl {
            let most = self.config.max_ttl;
            return Err(format!("{}: ttl: the engine {} gives at most {most}, as its keys overlap so long", secret.name, self.config.name));
        }
        Ok(())
    }

    async fn issue(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        self.make(order)
    }

    async fn read(&self, order: &Order<'_>, _reference: &UpstreamRef) -> Result<Issued, EngineError> {
        self.make(order)
    }

    fn read_now(&self, order: &Order<'_>, _reference: &UpstreamRef) -> Option<Result<Again, EngineError>> {
        Some(self.make(order).map(Again::from))
    }

    async fn renew(&self, order: &Order<'_>, _reference: &UpstreamRef) -> Result<(), EngineError> {
        // A token cannot be prolonged; the next read gives one that lasts longer, if its settings still hold.
        Settings::parse(order.secret).map(drop).map_err(EngineError::Setup)
    }

    async fn end(&self, _lease: LeaseId, _reference: &UpstreamRef) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }

    async fn settle(&self, _lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        Ok(Over::LAPSED)
    }
}
