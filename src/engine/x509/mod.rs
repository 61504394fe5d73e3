//! `x509`: a key and a certificate of its own for every lease, signed here, for mutual TLS.
//!
//! A certificate dies by its own expiry (`ends_by = short-life`). Its serial number is the lease's id, and an ended lease is on the
//! revocation list, for verifiers that look at one. A lease that is renewed gets a certificate of the same key and serial number that
//! lasts longer: one entry of the list ends them all.

mod authority;
mod certificate;

use super::{
    Again, EndedError, Engine, EngineError, Issued, ListPlaces, Order, Over, UpstreamRef,
    ended::{Edition, EndedList},
    local::{LocalStore, StoreError},
};
use crate::{
    digest::{KeyError, SealKey},
    model::{EndsBy, EngineName, LeaseId, Proof, ProofBy, SecretBytes, SecretDefinition, Ttl, WallTime},
    sys::Clock,
};
use async_trait::async_trait;
use authority::Authority;
use certificate::Settings;
use rcgen::{CertificateRevocationListParams, RevokedCertParams, SerialNumber};
use std::sync::Arc;
use time::OffsetDateTime;

/// Why an authority or a certificate could not be made. All are the operator's to mend; none holds a byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum X509Error {
    /// The authority cannot sign for this engine.
    #[error("engine {engine}: {why}")]
    Authority {
        /// The engine.
        engine: EngineName,
        /// What is wrong.
        why: String,
    },
    /// The store that keeps the keys failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key could not be made or read.
    #[error("the authority's key {0}")]
    Key(#[from] KeyError),
    /// What the store kept is no authority.
    #[error("the kept authority cannot be read")]
    Unreadable,
    /// Kept by another version.
    #[error("the kept authority has format {0}, this version reads 1; nothing was changed. Start the version that wrote it")]
    Format(u32),
    /// The revocation list.
    #[error(transparent)]
    Ended(#[from] EndedError),
    /// No name is left for the certificate.
    #[error("none of the names of this secret is among the targets that were granted")]
    NoName,
    /// A date that certificates cannot hold.
    #[error("a time is beyond what a certificate can say")]
    Time,
    /// The library that writes certificates.
    #[error("certificate: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// An authority that an operator brings.
pub struct GivenAuthority {
    /// PEM: the certificate that signs, and after it those above it, if there are any.
    pub certificates: String,
    /// PEM of its private key in PKCS #8: Ed25519 or P-256.
    pub key: SecretBytes,
}

/// One authority.
pub struct X509Config {
    /// The engine's name; leases' keys and our own authority's are kept under it.
    pub name: EngineName,
    /// The longest life of any certificate: an ended lease stays on the revocation list for longer.
    pub max_ttl: Ttl,
    /// Who signs; an authority of our own when absent.
    pub authority: Option<GivenAuthority>,
    /// The revocation list; none when absent.
    pub list: Option<ListPlaces>,
}

/// The engine.
pub struct X509Engine {
    name: EngineName,
    max_ttl: Ttl,
    key: SealKey,
    authority: Arc<Authority>,
    list: Option<Arc<EndedList>>,
}

impl X509Engine {
    /// Reads the authority, or makes and keeps one; writes the revocation list. `root` is the key that leases' keys follow from.
    pub fn open(config: X509Config, root: &SealKey, store: &LocalStore, clock: Arc<dyn Clock>) -> Result<Self, X509Error> {
        let authority = Arc::new(Authority::open(&config, store, clock.wall())?);
        let signer = authority.clone();
        let render = move |edition: &Edition<'_>| revocation_list(&signer, edition).map_err(|error| error.to_string());
        let list = config.list.map(|places| EndedList::open(places, config.max_ttl, clock, Box::new(render))).transpose()?;
        let key = root.derive(&format!("x509:{}", config.name));
        Ok(Self { name: config.name, max_ttl: config.max_ttl, key, authority, list })
    }

    /// PEM of what verifiers trust.
    pub fn authority(&self) -> &str {
        &self.authority.certificates
    }

    fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        if order.expires > self.authority.ends {
            let ends = self.authority.ends.rfc3339();
            return Err(EngineError::Setup(format!("{}: its authority ends {ends}, before this certificate would", self.name)));
        }
        let failed = |error: X509Error| match error {
            X509Error::NoName => EngineError::Refused(format!("{}: {error}", order.secret.name)),
            error => EngineError::Setup(format!("{}: {error}", self.name)),
        };
        let params = settings.params(order).map_err(failed)?;
        let value = certificate::bundle(&self.key, order, &params, &self.authority).map_err(failed)?;
        let serial = hex::encode(order.lease.to_bytes());
        let attributes = vec![
            ("serial".into(), serial.clone()),
            ("not_after".into(), order.expires.rfc3339()),
            ("ca".into(), self.authority.certificates.clone()),
        ];
        self.may_last(order.lease, order.expires);
        let mut reference = UpstreamRef::default();
        reference.0.insert("serial", serial);
        reference.0.insert("intent", order.intent_digest());
        Ok(Issued { value, attributes, reference })
    }

    /// Whoever looks at the list learns of it; a copy of the certificate works with everybody else until it expires.
    async fn publish(&self, lease: LeaseId) -> Result<Over, EngineError> {
        let Some(list) = self.list.as_ref().filter(|_| !crate::mutation!("x509-revocation-list")) else { return Ok(Over::LAPSED) };
        list.add(lease).await.map_err(|error| EngineError::Unreachable(format!("{}: {error}", self.name)))?;
        Ok(Over::lapsed(Proof::LISTED))
    }
}

/// Seconds for which verifiers may go on with a revocation list.
const GOOD_FOR: u64 = 7 * 86_400;

/// The list as verifiers read it (RFC 5280, 5), in PEM.
fn revocation_list(authority: &Authority, edition: &Edition<'_>) -> Result<Vec<u8>, X509Error> {
    let revoked = edition.leases.iter().map(|(lease, time)| {
        let (serial_number, revocation_time) = (certificate::serial(*lease), at(*time)?);
        Ok(RevokedCertParams { serial_number, revocation_time, reason_code: None, invalidity_date: None })
    });
    let list = authority.sign_list(&CertificateRevocationListParams {
        this_update: at(edition.now.saturating_sub(authority::LATE_CLOCKS))?,
        next_update: at(edition.now.saturating_add(GOOD_FOR))?,
        crl_number: SerialNumber::from(edition.number),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect::<Result<_, X509Error>>()?,
        key_identifier_method: authority.key_id.clone(),
    })?;
    Ok(list.pem()?.into_bytes())
}

/// A moment as certificates have it.
fn at(seconds: u64) -> Result<OffsetDateTime, X509Error> {
    let seconds = i64::try_from(seconds).map_err(|_| X509Error::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| X509Error::Time)
}

/// What is wrong with a definition's settings, if anything. Needs no authority.
pub fn check(secret: &SecretDefinition) -> Result<(), String> {
    Settings::parse(secret).map(drop)
}

#[async_trait]
impl Engine for X509Engine {
    fn kind(&self) -> &'static str {
        "x509"
    }

    fn ends_by(&self, _secret: &SecretDefinition) -> EndsBy {
        EndsBy::ShortLife
    }

    fn proves(&self, _secret: &SecretDefinition) -> Option<ProofBy> {
        self.list.as_ref().map(|_| ProofBy::Listed)
    }

    fn reads_by_definition(&self) -> bool {
        true
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        check(secret)?;
        if secret.ttl.max > self.max_ttl {
            let most = self.max_ttl;
            return Err(format!("{}: ttl: the engine {} gives at most {most} (max_ttl)", secret.name, self.name));
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
        // A certificate cannot be prolonged; the next read gives one that lasts longer, if that can still be made.
        self.make(order).map(drop)
    }

    fn may_last(&self, lease: LeaseId, until: WallTime) {
        if let Some(list) = &self.list {
            list.made(lease, until);
        }
    }

    async fn end(&self, lease: LeaseId, _reference: &UpstreamRef) -> Result<Over, EngineError> {
        self.publish(lease).await
    }

    async fn settle(&self, lease: LeaseId, _secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        // Whether anybody was given it is not known; on the list it does no harm.
        self.publish(lease).await
    }
}
