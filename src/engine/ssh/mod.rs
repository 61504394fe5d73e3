//! `ssh`: a key and a user certificate of its own for every lease, signed here, for OpenSSH servers.
//!
//! A certificate dies by its own expiry (`ends_by = short-life`). Ended leases are on a list for `ssh-keygen -k`, which makes of it what
//! `RevokedKeys` reads. A lease that is renewed gets a certificate of the same key and serial number that lasts longer.

mod certificate;

use super::{
    Again, EndedError, Engine, EngineError, Issued, ListPlaces, Order, Over, UpstreamRef,
    ended::{Edition, EndedList},
    local::{LocalStore, StoreError},
};
use crate::{
    digest::{Ed25519Key, KeyError, SealKey},
    model::{EndsBy, EngineName, LeaseId, Proof, ProofBy, SecretDefinition, Ttl, WallTime},
    sys::{Clock, FileError, write_atomic},
};
use async_trait::async_trait;
use certificate::{Authority, Settings};
use std::{path::PathBuf, sync::Arc};

/// Why an authority or a certificate could not be made. All are the operator's to mend; none holds a byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// The store that keeps the keys failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A key could not be made or read.
    #[error("the authority's key {0}")]
    Key(#[from] KeyError),
    /// Something that cannot be.
    #[error("the kept authority cannot be read")]
    Unreadable,
    /// The public key could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The list of ended leases.
    #[error(transparent)]
    Ended(#[from] EndedError),
    /// The library that writes certificates.
    #[error("certificate: {0}")]
    Certificate(ssh_key::Error),
}

// Without the library's feature `std`, which would bring more than is used, its error is not one of std's.
impl From<ssh_key::Error> for SshError {
    fn from(error: ssh_key::Error) -> Self {
        Self::Certificate(error)
    }
}

/// One authority.
#[derive(Clone, Debug)]
pub struct SshConfig {
    /// The engine's name; leases' keys and the authority's are kept under it.
    pub name: EngineName,
    /// The longest life of any certificate: an ended lease stays on the list for longer.
    pub max_ttl: Ttl,
    /// Where the authority's public key is written, for `TrustedUserCAKeys`.
    pub public_key: Option<PathBuf>,
    /// The list of ended leases; none when absent.
    pub list: Option<ListPlaces>,
}

/// The engine.
pub struct SshEngine {
    config: SshConfig,
    key: SealKey,
    authority: Authority,
    line: String,
    list: Option<Arc<EndedList>>,
}

impl SshEngine {
    /// Reads the authority's key, or makes and keeps one; writes its public half and the list. `root` is the key that leases' keys follow
    /// from.
    pub fn open(config: SshConfig, root: &SealKey, store: &LocalStore, clock: Arc<dyn Clock>) -> Result<Self, SshError> {
        let label = format!("ssh/{}", config.name);
        let kept = match store.load_own(&label)? {
            Some(kept) => kept,
            None => {
                let made = Ed25519Key::generate()?;
                store.save_own(&label, &made)?;
                made
            }
        };
        let authority = Authority(Ed25519Key::from_pkcs8(kept.expose())?);
        let line = authority.line(&format!("claviger {}", config.name))?;
        if let Some(path) = &config.public_key {
            write_atomic(path, format!("{line}\n").as_bytes(), 0o644)?;
        }
        let open = |places| EndedList::open(places, config.max_ttl, clock, Box::new(|edition| Ok(revoked(edition))));
        let list = config.list.clone().map(open).transpose()?;
        let key = root.derive(&format!("ssh:{}", config.name));
        Ok(Self { config, key, authority, line, list })
    }

    fn make(&self, order: &Order<'_>) -> Result<Issued, EngineError> {
        let settings = Settings::parse(order.secret).map_err(EngineError::Setup)?;
        let made = certificate::make(&self.key, &self.authority, order, &settings);
        let (value, line) = made.map_err(|error| EngineError::Setup(format!("{}: {error}", self.config.name)))?;
        let serial = certificate::serial(order.lease).to_string();
        let attributes = vec![
            ("certificate".into(), line),
            ("serial".into(), serial.clone()),
            ("key_id".into(), certificate::key_id(order)),
            ("not_after".into(), order.expires.rfc3339()),
            ("ca".into(), self.line.clone()),
        ];
        self.may_last(order.lease, order.expires);
        let mut reference = UpstreamRef::default();
        reference.0.insert("serial", serial);
        reference.0.insert("intent", order.intent_digest());
        Ok(Issued { value, attributes, reference })
    }

    async fn publish(&self, lease: LeaseId) -> Result<Over, EngineError> {
        let Some(list) = self.list.as_ref().filter(|_| !crate::mutation!("ssh-revocation-list")) else { return Ok(Over::LAPSED) };
        list.add(lease).await.map_err(|error| EngineError::Unreachable(format!("{}: {error}", self.config.name)))?;
        Ok(Over::lapsed(Proof::LISTED))
    }
}

/// Until when a certificate of any authority is good, in seconds since 1970, as OpenSSH writes it on a line.
pub(super) fn valid_until(line: &str) -> Option<u64> {
    certificate::valid_until(line)
}

/// What `ssh-keygen -k -s CA.pub` reads (ssh-keygen(1), KEY REVOCATION LISTS).
fn revoked(edition: &Edition<'_>) -> Vec<u8> {
    let mut text = format!("# claviger: ended leases, edition {}\n", edition.number);
    for (lease, _) in edition.leases {
        text.push_str(&format!("serial: {}\n", certificate::serial(*lease)));
    }
    text.into_bytes()
}

/// What is wrong with a definition's settings, if anything. Needs no authority.
pub fn check(secret: &SecretDefinition) -> Result<(), String> {
    Settings::parse(secret).map(drop)
}

#[async_trait]
impl Engine for SshEngine {
    fn kind(&self) -> &'static str {
        "ssh"
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
        if secret.ttl.max > self.config.max_ttl {
            let most = self.config.max_ttl;
            return Err(format!("{}: ttl: the engine {} gives at most {most} (max_ttl)", secret.name, self.config.name));
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
