//! `oauth2`: access tokens of an OAuth 2.0 authorization server, in our own name (client credentials) or about the identity that asked
//! (token exchange, with a token of our own `jwt` engine as the subject).
//!
//! A token is ended by RFC 7009 where the server offers that, and looked for by RFC 7662; it cannot be found without being shown, so what
//! is known of each call is noted (`bearer`, ADR 12).

mod api;
mod settings;
mod token;

use super::{
    EngineError, Order,
    bearer::{BearerConfig, BearerEngine, Given, NotGiven, NoteError, TokenSource, is_object},
    jwt::JwtEngine,
    openbao::Source,
};
use crate::{
    digest::{Random, SealKey},
    model::{EngineName, Finding, Operation, Proof, SecretBytes, SecretDefinition, Ttl},
    outbound::Client,
    sys::Clock,
};
use api::Api;
use async_trait::async_trait;
use serde::Deserialize;
use settings::{ACCESS_TOKEN, Grant, Settings};
use std::{path::PathBuf, sync::Arc, time::Duration};
use token::Asked;

/// The operations for which a definition has scopes of their own, or what is wrong with its settings, where the engine exchanges tokens or
/// does not. Needs no server.
pub fn narrows(secret: &SecretDefinition, exchanges: bool) -> Result<Vec<Operation>, String> {
    let settings = Settings::parse(secret)?;
    if settings.grant == Grant::TokenExchange && !exchanges {
        return Err(format!("{}: grant = \"token_exchange\" needs exchange in the engine's row", secret.name));
    }
    Ok(settings.narrows(secret.operation))
}

/// How long a token about an identity lives that is exchanged for another, in seconds.
const SUBJECT_SECONDS: u64 = 60;

/// How our client proves who it is (RFC 6749, 2.3; RFC 7523, 2.2).
pub enum Authentication {
    /// `client_secret_basic`; the secret is read for each call.
    Basic(Source),
    /// `client_secret_post`; the secret is read for each call.
    Post(Source),
    /// `private_key_jwt`: a token of this host's own engine, made for each call.
    PrivateKeyJwt {
        /// Signs.
        signer: Arc<JwtEngine>,
        /// `aud`: what the server takes for itself.
        audience: String,
    },
}

/// Who says for whom a token is exchanged.
pub struct Subject {
    /// Signs a token about the identity.
    pub signer: Arc<JwtEngine>,
    /// `aud` of that token: what the server takes for itself.
    pub audience: String,
}

/// Paths of the server's endpoints.
pub struct Endpoints {
    /// RFC 6749, 3.2.
    pub token: String,
    /// RFC 7009; without, tokens die by their own expiry alone.
    pub revocation: Option<String>,
    /// RFC 7662: where a revoked token is looked for.
    pub introspection: Option<String>,
}

/// One client at one authorization server.
pub struct OAuth2Config {
    /// The engine's name; what is sealed follows from it, so another name is another engine.
    pub name: EngineName,
    /// Calls the server and nobody else. Its own deadline should be that of a call.
    pub client: Client,
    /// Where.
    pub endpoints: Endpoints,
    /// Who we are there.
    pub client_id: String,
    /// How we show it.
    pub authentication: Authentication,
    /// For exchanges; none are made without.
    pub subject: Option<Subject>,
    /// The longest life that the server gives this client's tokens.
    pub max_ttl: Ttl,
    /// Where the notes are: a folder of the state that belongs to this engine alone.
    pub notes: PathBuf,
    /// The longest any call of the engine takes, all waits included.
    pub timeout: Duration,
    /// The id of this boot.
    pub boot: Arc<str>,
}

/// The engine of one client at one server.
pub type OAuth2Engine = BearerEngine<AuthorizationServer>;

impl OAuth2Engine {
    /// An engine that calls when it is first asked. `root` must outlive the leases ([`super::local::LocalStore::own_key`]).
    pub fn new(config: OAuth2Config, root: &SealKey, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, NoteError> {
        let OAuth2Config { name, client, endpoints, client_id, authentication, subject, max_ttl, notes, timeout, boot } = config;
        let api = Api { client, client_id, authentication, random: random.clone() };
        let server = AuthorizationServer { api, endpoints, subject, max_ttl };
        Self::open(BearerConfig { name, notes, timeout, boot }, server, root, clock, random)
    }
}

/// The server, as this client sees it.
pub struct AuthorizationServer {
    api: Api,
    endpoints: Endpoints,
    subject: Option<Subject>,
    max_ttl: Ttl,
}

impl AuthorizationServer {
    /// What proves for whom a token is exchanged.
    fn subject_token(&self, order: &Order<'_>) -> Result<SecretBytes, EngineError> {
        let subject = self.subject.as_ref().ok_or_else(|| EngineError::Setup("exchange is not set".into()))?;
        let signed = subject.signer.sign_about(order, &subject.audience, SUBJECT_SECONDS);
        signed.map_err(|error| EngineError::Setup(format!("the token about {}: {error}", order.identity)))
    }

    /// Whether the server says that a token is alive (RFC 7662, 2.2).
    async fn is_active(&self, path: &str, token: &SecretBytes) -> Result<bool, EngineError> {
        #[derive(Deserialize)]
        struct State {
            active: bool,
        }
        let doing = "looking for a token";
        let answer = self.api.post(doing, path, &[("token", token.expose())], None).await.map_err(|not| not.error)?;
        let state = if is_object(&answer) { serde_json::from_slice(&answer.body).ok() } else { None };
        let unreadable = || EngineError::Unreachable(format!("{doing}: the answer is not what an introspection endpoint answers"));
        state.map(|state: State| state.active).ok_or_else(unreadable)
    }
}

#[async_trait]
impl TokenSource for AuthorizationServer {
    fn kind(&self) -> &'static str {
        "oauth2"
    }

    fn client(&self) -> &Client {
        &self.api.client
    }

    fn revokes(&self) -> bool {
        self.endpoints.revocation.is_some()
    }

    fn longest(&self) -> Ttl {
        self.max_ttl
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        // What cannot be parsed is not asked about.
        narrows(secret, self.subject.is_some()).unwrap_or_default()
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        narrows(secret, self.subject.is_some()).map(drop)
    }

    async fn ask(&self, order: &Order<'_>) -> Result<Given, NotGiven> {
        let settings = Settings::parse(order.secret).map_err(|what| NotGiven::certain(EngineError::Setup(what)))?;
        let wanted = settings.wanted(order).map_err(NotGiven::certain)?;
        let scope = wanted.scope.iter().copied().collect::<Vec<_>>().join(" ");
        let mut fields: Vec<(&str, &[u8])> = vec![("scope", scope.as_bytes())];
        fields.extend(wanted.resource.iter().map(|resource| ("resource", resource.as_bytes())));
        fields.extend(settings.audience.iter().map(|audience| ("audience", audience.as_bytes())));
        let (doing, subject, exchange_for);
        match settings.grant {
            Grant::ClientCredentials => {
                (doing, subject, exchange_for) = ("asking for a token", None, None);
                fields.push(("grant_type", b"client_credentials"));
            }
            Grant::TokenExchange => {
                let kind = settings.requested_token_type.as_deref().unwrap_or(ACCESS_TOKEN);
                let token = self.subject_token(order).map_err(NotGiven::certain)?;
                (doing, subject, exchange_for) = ("exchanging a token", Some(token), Some(kind));
                fields.push(("grant_type", b"urn:ietf:params:oauth:grant-type:token-exchange"));
                fields.push(("subject_token_type", b"urn:ietf:params:oauth:token-type:jwt"));
                fields.push(("requested_token_type", kind.as_bytes()));
            }
        }
        fields.extend(subject.iter().map(|token| ("subject_token", token.expose())));
        let answer = self.api.post(doing, &self.endpoints.token, &fields, Some(order)).await?;
        token::read(doing, &answer, &Asked { wanted: &wanted, exchange_for })
    }

    fn looks(&self) -> bool {
        self.endpoints.introspection.is_some()
    }

    async fn revoke(&self, token: &SecretBytes, _age: Duration) -> Result<Proof, EngineError> {
        let doing = "revoking a token";
        let setup = || EngineError::Setup(format!("{doing}: the engine's row has no revocation_endpoint any more"));
        let path = self.endpoints.revocation.as_deref().ok_or_else(setup)?;
        // Without a hint: a token that came along may be of another type, and servers look everywhere (RFC 7009, 2.1).
        // A token that is not known any more is a success as well (RFC 7009, 2.2).
        self.api.post(doing, path, &[("token", token.expose())], None).await.map_err(|not| not.error)?;
        match &self.endpoints.introspection {
            Some(path) if !crate::mutation!("oauth2-looked") && self.is_active(path, token).await? => {
                Err(EngineError::Unreachable("the token lives after it was revoked".into()))
            }
            Some(_) => Ok(Proof::looked(&[Finding::TokenInactive])),
            // Servers answer so about whatever they do not know (RFC 7009, 2.2).
            None => Ok(Proof::TOLD),
        }
    }
}
