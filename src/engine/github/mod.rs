//! `github-app`: tokens of a GitHub App's installation, for some repositories and permissions of it.
//!
//! GitHub gives a token for an hour, to whoever signs with the app's key; it is ended by being shown. It cannot be found without that, so
//! what is known of each call is noted (`bearer`, ADR 12).

mod settings;
mod token;

use super::{
    EngineError, Order,
    bearer::{BearerConfig, BearerEngine, Given, NotGiven, NoteError, TokenSource, is_object, line, not_now, unheard},
};
use crate::{
    digest::{Random, RsaKey, SealKey},
    model::{EngineName, Finding, Operation, Proof, SecretBytes, SecretDefinition, Ttl},
    outbound::{Answer, Call, Client, Method, Unanswered},
    sys::Clock,
};
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::json;
use settings::Settings;
use std::{path::PathBuf, sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// The life of every installation token.
// Between a second and thirty days, or this would not compile.
pub const LONGEST: Ttl = Ttl::from_secs(3600).unwrap();
/// GitHub takes assertions of ten minutes at most, and none from the future: ours begin a minute ago and live for five from now.
const EARLIER: u64 = 60;
const ASSERTION_SECONDS: u64 = 300;
/// A token that is younger may not be known to all of GitHub, which answers 401 for it then as for a dead one.
const KNOWN: Duration = Duration::from_secs(60);

/// The operations for which a definition's permissions can be made less, or what is wrong with its settings. Needs no server.
pub fn narrows(secret: &SecretDefinition) -> Result<Vec<Operation>, String> {
    Ok(Settings::parse(secret)?.narrows(secret.operation))
}

/// One installation of one app.
pub struct GitHubConfig {
    /// The engine's name; what is sealed follows from it, so another name is another engine.
    pub name: EngineName,
    /// Calls GitHub's API and nobody else. Its own deadline should be that of a call; an answer has some kilobytes for each repository.
    pub client: Client,
    /// What stands before the API's paths: nothing at github.com, `/api/v3` elsewhere.
    pub base: String,
    /// The app's id or client id.
    pub app: String,
    /// The installation's id.
    pub installation: u64,
    /// The app's private key.
    pub key: RsaKey,
    /// Where the notes are: a folder of the state that belongs to this engine alone.
    pub notes: PathBuf,
    /// The longest any call of the engine takes, all waits included.
    pub timeout: Duration,
    /// The id of this boot.
    pub boot: Arc<str>,
}

/// The engine of one installation.
pub type GitHubEngine = BearerEngine<Installation>;

impl GitHubEngine {
    /// An engine that calls when it is first asked. `root` must outlive the leases ([`super::local::LocalStore::own_key`]).
    pub fn new(config: GitHubConfig, root: &SealKey, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Result<Self, NoteError> {
        let GitHubConfig { name, client, base, app, installation, key, notes, timeout, boot } = config;
        let installation = Installation { client, base, app, installation, key, clock: clock.clone() };
        Self::open(BearerConfig { name, notes, timeout, boot }, installation, root, clock, random)
    }
}

/// The installation, as its app sees it.
pub struct Installation {
    client: Client,
    base: String,
    app: String,
    installation: u64,
    key: RsaKey,
    clock: Arc<dyn Clock>,
}

impl Installation {
    /// `Bearer` with a token by which the app speaks for itself ("Generating a JSON Web Token (JWT) for a GitHub App").
    fn assertion(&self) -> Result<Zeroizing<Vec<u8>>, EngineError> {
        let now = self.clock.wall().unix_secs();
        let claims = json!({"iss": self.app, "iat": now.saturating_sub(EARLIER), "exp": now.saturating_add(ASSERTION_SECONDS)});
        let encoded = |part: serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encoded(json!({"alg": "RS256", "typ": "JWT"})), encoded(claims));
        let failed = |_| EngineError::Setup("the app's key cannot sign".into());
        let signature = Zeroizing::new(self.key.sign(signed.as_bytes()).map_err(failed)?);
        // Without its signature it is no secret; with it, it stays in one buffer that is wiped.
        let mut header = Zeroizing::new(String::with_capacity(signed.len() + signature.len() * 4 / 3 + 16));
        header.push_str("Bearer ");
        header.push_str(&signed);
        header.push('.');
        URL_SAFE_NO_PAD.encode_string(signature.as_slice(), &mut header);
        Ok(Zeroizing::new(std::mem::take(&mut *header).into_bytes()))
    }

    async fn call(
        &self,
        doing: &str,
        method: Method,
        path: &str,
        bearer: &[u8],
        body: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Answer, NotGiven> {
        let headers: &[(&'static str, &[u8])] =
            &[("accept", b"application/vnd.github+json"), ("x-github-api-version", b"2022-11-28"), ("authorization", bearer)];
        let path = format!("{}{path}", self.base);
        // Ending twice is as good as once; making is not.
        let making = method == Method::Post;
        let call = Call { method, path: &path, headers, body, repeatable: !making };
        let answer = match making {
            true => self.client.try_call(call).await,
            false => self.client.call(call).await.map_err(|error| Unanswered { error, sent: false }),
        };
        answer.map_err(|unanswered| unheard(doing, unanswered))
    }

    /// Ends the token that it shows; whether that was alive.
    async fn end_token(&self, doing: &str, token: &SecretBytes) -> Result<bool, EngineError> {
        let bearer = Zeroizing::new([b"Bearer ", token.expose()].concat());
        let answer = self.call(doing, Method::Delete, "/installation/token", &bearer, None).await.map_err(|not| not.error)?;
        match answer.status {
            204 => Ok(true),
            // It is none any more.
            401 => Ok(false),
            _ => Err(refused(doing, &answer, &bearer[7..]).error),
        }
    }
}

/// An answer that is not a success. Nothing of `secret` is repeated, should GitHub do so.
fn refused(doing: &str, answer: &Answer, secret: &[u8]) -> NotGiven {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Refusal {
        message: String,
    }
    let Refusal { message } = if is_object(answer) { serde_json::from_slice(&answer.body).unwrap_or_default() } else { Refusal::default() };
    let words = if message.is_empty() { "no reason was given".to_owned() } else { line(&message, &[secret]) };
    let wait = answer.retry_after.map_or_else(String::new, |after| format!(", asks to wait {} s", after.as_secs()));
    let text = format!("{doing}: {words} ({}{wait})", answer.status);
    let mend = |what: &str| EngineError::Setup(format!("{text}: {what}"));
    // Both limits are told by either status ("Rate limits for the REST API").
    let limited = answer.retry_after.is_some() || words.to_ascii_lowercase().contains("rate limit");
    let failed = match answer.status {
        429 | 500.. => not_now(text, answer),
        403 if limited => not_now(text, answer),
        401 => mend("the app and its key do not belong together, or this host's clock is wrong (app, key_file)"),
        403 => mend("the installation is suspended, or the app may not do this"),
        404 => mend("there is no such installation of this app (installation)"),
        422 => mend("the installation lacks one of these repositories or permissions"),
        _ => EngineError::Refused(text),
    };
    NotGiven { error: failed, may_exist: answer.status < 300 || answer.status >= 500 }
}

#[async_trait]
impl TokenSource for Installation {
    fn kind(&self) -> &'static str {
        "github-app"
    }

    fn client(&self) -> &Client {
        &self.client
    }

    fn revokes(&self) -> bool {
        true
    }

    fn longest(&self) -> Ttl {
        LONGEST
    }

    fn narrows(&self, secret: &SecretDefinition) -> Vec<Operation> {
        // What cannot be parsed is not asked about.
        narrows(secret).unwrap_or_default()
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        Settings::parse(secret).map(drop)
    }

    async fn ask(&self, order: &Order<'_>) -> Result<Given, NotGiven> {
        let settings = Settings::parse(order.secret).map_err(|what| NotGiven::certain(EngineError::Setup(what)))?;
        let wanted = settings.wanted(order).map_err(NotGiven::certain)?;
        let doing = "asking for an installation token";
        let bearer = self.assertion().map_err(NotGiven::certain)?;
        // Never fails: names and words are JSON.
        let body = serde_json::to_vec(&wanted).unwrap_or_default().into();
        let path = format!("/app/installations/{}/access_tokens", self.installation);
        let answer = self.call(doing, Method::Post, &path, &bearer, Some(body)).await?;
        match answer.status {
            201 => token::read(doing, &answer, &wanted, self.clock.wall()),
            _ => Err(refused(doing, &answer, &bearer[7..])),
        }
    }

    fn looks(&self) -> bool {
        true
    }

    async fn revoke(&self, token: &SecretBytes, age: Duration) -> Result<Proof, EngineError> {
        let doing = "ending an installation token";
        if !self.end_token(doing, token).await? {
            let known = age >= KNOWN || crate::mutation!("github-known");
            let soon =
                || EngineError::Unreachable(format!("{doing}: 401 within {} s of its making, which may mean \"not yet\"", KNOWN.as_secs()));
            return known.then_some(Proof::looked(&[Finding::UseRefused])).ok_or_else(soon);
        }
        if !crate::mutation!("github-looked") && self.end_token(doing, token).await? {
            return Err(EngineError::Unreachable("the token lives after it was ended".into()));
        }
        Ok(Proof::looked(&[Finding::UseRefused]))
    }
}
