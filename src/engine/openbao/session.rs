//! Our own token: logged in for when it is first needed, renewed early, made anew when it dies or is refused.

use super::{
    super::{EngineError, local::LocalStore},
    api::{Api, Auth, Fault, Reply},
    config::Login,
};
use crate::{
    digest::Random,
    model::{BootTime, EngineName, SecretBytes},
    outbound::{Unanswered, ahead},
    sys::{Clock, VaultBytes},
};
use serde_json::json;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Mutex;

/// A token that is younger than this and is refused is not the trouble: its policy is.
const YOUNG_MICROS: u64 = 10_000_000;
/// Between two tries to renew or to log in when nobody is waiting.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Session {
    pub(super) api: Api,
    login: Login,
    name: EngineName,
    store: Arc<LocalStore>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    /// Held over a login, so that all who need a token wait for the same one.
    state: Mutex<Option<Arc<Token>>>,
    kept: AtomicBool,
    refused: AtomicBool,
}

/// A token of ours. It rests in the vault.
pub(super) struct Token {
    value: VaultBytes,
    since: BootTime,
    /// From when it should be renewed, and when it is dead; none for a token that does not die.
    until: Option<(BootTime, BootTime)>,
    renewable: bool,
}

impl Token {
    pub(super) fn expose(&self) -> &[u8] {
        self.value.expose()
    }
}

impl Session {
    pub(super) fn new(
        api: Api,
        login: Login,
        name: EngineName,
        store: Arc<LocalStore>,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Self {
        Self {
            api,
            login,
            name,
            store,
            clock,
            random,
            state: Mutex::new(None),
            kept: AtomicBool::new(false),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether the server's last word about our login was no.
    pub(super) fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }

    /// Calls with our token, and once more with a new one if it is refused and not fresh.
    pub(super) async fn with_token<T, F: Future<Output = Result<T, Fault>>>(
        self: &Arc<Self>,
        doing: &str,
        call: impl Fn(Arc<Token>) -> F,
    ) -> Result<Result<T, Fault>, EngineError> {
        let token = self.token().await?;
        match call(token.clone()).await {
            Err(fault @ Fault::Denied(_)) if !fault.is_unknown_token() && self.discard(&token).await => {
                tracing::warn!(engine = %self.name, doing, "the server refused our token; logging in anew");
                match self.token().await {
                    // Something went out before it.
                    Ok(token) => Ok(call(token).await.map_err(|fault| match fault {
                        Fault::Call(unanswered) => Fault::Call(Unanswered { sent: true, ..unanswered }),
                        fault => fault,
                    })),
                    // Its no stands, where it cannot be asked with another token and it was no word about ours.
                    Err(error) if !fault.is_dead_token() && !self.is_refused() && !crate::mutation!("openbao-no") => {
                        tracing::warn!(engine = %self.name, doing, %error, "there is no other token to ask with");
                        Ok(Err(fault))
                    }
                    Err(error) => Err(error),
                }
            }
            done => Ok(done),
        }
    }

    /// A token that lives: the one we have, renewed if it is time, or a new one.
    pub(super) async fn token(self: &Arc<Self>) -> Result<Arc<Token>, EngineError> {
        let mut state = self.state.lock().await;
        let now = self.clock.boot();
        if let Some(token) = &*state {
            match token.until {
                Some((_, dead)) if dead <= now => {}
                Some((early, _)) if early <= now => match ahead(self.renew(token)).await {
                    Ok(renewed) => return Ok(state.insert(Arc::new(renewed)).clone()),
                    // It lives yet, and who cannot be reached cannot be logged in to either.
                    Err(error) if error.is_passing() => return Ok(token.clone()),
                    Err(error) => tracing::warn!(engine = %self.name, %error, "our token cannot be renewed; logging in anew"),
                },
                _ => return Ok(token.clone()),
            }
        }
        *state = None;
        // Whoever ends something waits for this too.
        let made = Arc::new(ahead(self.log_in()).await?);
        tracing::info!(engine = %self.name, "logged in");
        *state = Some(made.clone());
        if !self.kept.swap(true, Ordering::AcqRel) {
            tokio::spawn(keep(Arc::downgrade(self)));
        }
        Ok(made)
    }

    /// Forgets a token that was refused, unless it is fresh. Whether another should be tried.
    async fn discard(&self, refused: &Arc<Token>) -> bool {
        let mut state = self.state.lock().await;
        match &*state {
            // Somebody else has logged in meanwhile.
            Some(token) if !Arc::ptr_eq(token, refused) => true,
            Some(token) if self.clock.boot().0.saturating_sub(token.since.0) < YOUNG_MICROS => false,
            _ => {
                *state = None;
                true
            }
        }
    }

    fn made(&self, value: VaultBytes, seconds: u64, renewable: bool) -> Token {
        let since = self.clock.boot();
        // Two thirds of its life, and up to a tenth less, so that many hosts do not come at once.
        let life = seconds.saturating_mul(1_000_000);
        let early = life / 3 * 2 - u64::try_from(self.random.u128() % u128::from(life / 10 + 1)).unwrap_or(0).min(life / 3 * 2);
        let at = |micros: u64| BootTime(since.0.saturating_add(micros));
        Token { value, since, until: (seconds > 0).then(|| (at(early), at(life))), renewable }
    }

    async fn renew(&self, token: &Arc<Token>) -> Result<Token, EngineError> {
        if !token.renewable {
            return Err(EngineError::Refused("it is not renewable".into()));
        }
        let reply = self.api.put(Some(token.expose()), "auth/token/renew-self", &json!({}), true).await;
        let doing = "renewing our token";
        let reply = reply.map_err(|fault| match fault {
            // Whatever is in the way to the server, a certificate too, is no word about the token.
            Fault::Call(Unanswered { error, .. }) => EngineError::Unreachable(format!("{doing}: {error}")),
            fault => fault.during(doing),
        });
        let auth = reply?.auth.unwrap_or_default();
        if auth.lease_duration == 0 {
            return Err(EngineError::Refused("the server gives it no more time".into()));
        }
        Ok(self.made(VaultBytes::of(token.expose()), auth.lease_duration, auth.renewable))
    }

    async fn log_in(&self) -> Result<Token, EngineError> {
        match &self.login {
            Login::AppRole { mount, role_id, secret_id, wrapped } => self.approle(mount, role_id, secret_id, *wrapped).await,
            Login::Jwt { mount, role, token } => {
                let jwt = text(token.read().map_err(EngineError::Setup)?)?;
                self.by(mount, &json!({"role": role, "jwt": jwt.as_str()})).await
            }
            Login::Certificate { mount, role } => {
                let body = role.as_ref().map_or_else(|| json!({}), |role| json!({"name": role}));
                self.by(mount, &body).await
            }
            Login::Token { token } => {
                let token = text(token.read().map_err(EngineError::Setup)?)?;
                let reply = self.api.get(token.as_bytes(), "auth/token/lookup-self").await;
                self.heard(&reply);
                let reply = reply.map_err(|fault| fault.during("looking at our token"))?;
                let data = reply.data.unwrap_or_default();
                let seconds = data.get("ttl").and_then(serde_json::Value::as_u64).unwrap_or(0);
                let renewable = data.get("renewable").and_then(serde_json::Value::as_bool).unwrap_or(false);
                Ok(self.made(VaultBytes::of(token.as_bytes()), seconds, renewable))
            }
        }
    }

    async fn by(&self, mount: &str, body: &serde_json::Value) -> Result<Token, EngineError> {
        let path = format!("auth/{mount}/login");
        self.entered(self.api.put(None, &path, body, false).await, &path)
    }

    /// Whether we may come in, where this says so.
    fn heard(&self, reply: &Result<Reply, Fault>) {
        match reply {
            Ok(_) => self.refused.store(false, Ordering::Release),
            Err(Fault::Denied(_) | Fault::Rejected(..) | Fault::Absent) => self.refused.store(true, Ordering::Release),
            Err(Fault::Busy(..) | Fault::Deleted | Fault::Malformed | Fault::Call(_)) => {}
        }
    }

    fn entered(&self, reply: Result<Reply, Fault>, path: &str) -> Result<Token, EngineError> {
        self.heard(&reply);
        let doing = format!("logging in at {path}");
        let auth = match reply {
            // What is refused here is what the operator gave us.
            Err(Fault::Denied(text)) => return Err(EngineError::Setup(format!("{doing}: {text} (403)"))),
            Err(Fault::Rejected(status, text)) => return Err(EngineError::Setup(format!("{doing}: {text} ({status})"))),
            reply => reply.map_err(|fault| fault.during(&doing))?.auth,
        };
        match auth {
            Some(Auth { client_token, lease_duration, renewable, .. }) if !client_token.is_empty() => {
                let client_token = SecretBytes::new(client_token.into_bytes());
                Ok(self.made(VaultBytes::of(client_token.expose()), lease_duration, renewable))
            }
            _ => Err(EngineError::Unreachable(format!("{doing}: the answer has no token"))),
        }
    }

    async fn approle(&self, mount: &str, role_id: &str, source: &super::Source, wrapped: bool) -> Result<Token, EngineError> {
        let path = format!("auth/{mount}/login");
        let log_in = async |secret_id: SecretBytes| {
            let secret_id = text(secret_id)?;
            let body = json!({"role_id": role_id, "secret_id": secret_id.as_str()});
            self.entered(self.api.put(None, &path, &body, false).await, &path)
        };
        let read = || source.read().map_err(EngineError::Setup);
        if !wrapped {
            return log_in(read()?).await;
        }
        let label = format!("openbao/{}/secret-id", self.name);
        let store = |error: super::super::local::StoreError| EngineError::Setup(format!("local store: {error}"));
        if let Some(kept) = self.store.load_own(&label).map_err(store)? {
            match log_in(kept).await {
                // It may have been withdrawn and another one wrapped for us.
                Err(EngineError::Setup(_)) => {}
                done => return done,
            }
        }
        let secret_id = self.unwrap(mount, &text(read()?)?).await?;
        self.store.save_own(&label, &secret_id).map_err(store)?;
        log_in(secret_id).await
    }

    /// Exchanges a wrapping token for the secret id in it. That works once; a token that somebody else has used, or that wraps something
    /// else, is a reason to look.
    async fn unwrap(&self, mount: &str, wrapping: &str) -> Result<SecretBytes, EngineError> {
        let doing = "unwrapping the secret id";
        let looked = self.api.put(None, "sys/wrapping/lookup", &json!({"token": wrapping}), true).await;
        let data = match looked {
            Err(Fault::Denied(_) | Fault::Rejected(400, _)) => {
                return Err(EngineError::Setup(format!(
                    "{doing}: the wrapping token is over or was used: if not by us, somebody else has the secret id; destroy it and wrap another"
                )));
            }
            looked => looked.map_err(|fault| fault.during(doing))?.data.unwrap_or_default(),
        };
        let made_at = data.get("creation_path").and_then(serde_json::Value::as_str).unwrap_or_default();
        if !(made_at.starts_with(&format!("auth/{mount}/role/")) && made_at.ends_with("/secret-id")) {
            return Err(EngineError::Setup(format!(
                "{doing}: the wrapping token was made at {made_at:?}, not by auth/{mount}/role/.../secret-id"
            )));
        }
        let reply = self.api.put(Some(wrapping.as_bytes()), "sys/wrapping/unwrap", &json!({}), false).await;
        let mut data = reply.map_err(|fault| fault.during(doing))?.data.unwrap_or_default();
        match data.remove("secret_id") {
            Some(serde_json::Value::String(secret_id)) => Ok(SecretBytes::new(secret_id.into_bytes())),
            _ => Err(EngineError::Setup(format!("{doing}: there is no secret id in it"))),
        }
    }

    /// How long until somebody should look at the token.
    async fn pause(&self) -> Duration {
        let state = self.state.lock().await;
        let now = self.clock.boot();
        match state.as_ref().and_then(|token| token.until) {
            Some((early, _)) => Duration::from_micros(early.0.saturating_sub(now.0)).max(PAUSE / 5),
            None => PAUSE * 12,
        }
    }
}

/// Renews the token also while nobody calls; ends with the session. Boxed, as it calls what starts it.
fn keep(session: Weak<Session>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        loop {
            let Some(alive) = session.upgrade() else { return };
            let pause = alive.pause().await;
            drop(alive);
            tokio::time::sleep(pause).await;
            let Some(alive) = session.upgrade() else { return };
            if let Err(error) = alive.token().await {
                tracing::warn!(engine = %alive.name, %error, "no token of our own");
                drop(alive);
                tokio::time::sleep(PAUSE).await;
            }
        }
    })
}

/// A secret for logging in as text; editors end files with a line feed.
fn text(secret: SecretBytes) -> Result<zeroize::Zeroizing<String>, EngineError> {
    let text = std::str::from_utf8(secret.expose()).map_err(|_| EngineError::Setup("the secret to log in with is not text".into()))?;
    match text.trim() {
        "" => Err(EngineError::Setup("the secret to log in with is empty".into())),
        text => Ok(zeroize::Zeroizing::new(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        digest::{SealKey, SeededRandom, SystemRandom},
        engine::openbao::config::Source,
        outbound::{Address, Client, Limits},
        sys::ManualClock,
    };

    const NOW: u64 = 7_000_000;

    /// The early moment and the end of a token that was made now, in microseconds of its life.
    fn made(random: Arc<dyn Random>, seconds: u64) -> Option<(u64, u64)> {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOW, NOW));
        let (key, sealing) = (SealKey::from_bytes(&[7; 32]).unwrap(), Arc::new(SystemRandom::default()));
        let store = Arc::new(LocalStore::open(&folder.path().join("local"), key, None, sealing, clock.clone()).unwrap());
        let nowhere = Address::parse("unix:/nowhere", false).unwrap();
        let client = Client::new(nowhere, None, || unreachable!("no TLS"), None, Limits::default(), clock.clone()).unwrap();
        let login = Login::Token { token: Source::new(|| Err("there is none".into())) };
        let session = Session::new(Api::new(client, None), login, EngineName::parse("bao").unwrap(), store, clock, random);
        let until = session.made(VaultBytes::of(b"x"), seconds, true).until;
        until.map(|(early, dead)| (early.0 - NOW, dead.0 - NOW))
    }

    /// Many hosts that logged in at one moment do not come back at one.
    #[test]
    fn a_token_is_renewed_early_and_not_by_all_at_once() {
        let seconds = 1200;
        let life = seconds * 1_000_000;
        let moments: std::collections::BTreeSet<u64> = (0..64)
            .map(|seed| {
                let (early, dead) = made(Arc::new(SeededRandom::new(seed)), seconds).unwrap();
                assert!((life * 56 / 100..=life * 2 / 3).contains(&early) && dead == life, "{early} of {life}");
                early
            })
            .collect();
        assert!(moments.len() > 60, "{moments:?}");
        // They are spread over the tenth of its life, and do not lie at one edge of it.
        let (first, last) = (moments.first().unwrap(), moments.last().unwrap());
        assert!(last - first > life / 20, "{first} to {last}");
        assert_eq!(made(Arc::new(SeededRandom::new(1)), 0), None, "one that does not die need not be renewed");
        // The shortest and the longest are no special case.
        for seconds in [1, 2, u64::MAX] {
            let (early, dead) = made(Arc::new(SeededRandom::new(1)), seconds).unwrap();
            assert!(early < dead, "{seconds} s: {early} of {dead}");
        }
    }
}
