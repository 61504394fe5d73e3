//! Keys of the daemon's own: which there are, and how each is changed while it runs.
//!
//! Three kinds. The key of the local store seals everything else; only an operator can place another, and what is sealed is sealed anew
//! under it. Keys of `jwt` engines hand over by themselves, one longest token life before and after. The audit log's key signs the one that
//! follows it. Each change is an operator's act on the record before it happens.

use super::{Act, Broker, Fault, Operator, Stop};
use crate::{
    digest::{Ed25519Key, SealKey},
    engine::{
        jwt::{JwtEngine, JwtError, PublishedKey},
        local::{LocalStore, StoreError},
    },
    model::{Code, Refusal, RequestId, SecretBytes, WallTime},
    sys::{self, FileError},
    wire::{KeyRequest, KeyRow},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Under which label the local store keeps the audit log's key.
pub const AUDIT_KEY: &str = "audit";
/// And the one that is about to follow it: there only while a rotation is not finished.
pub const NEXT_AUDIT_KEY: &str = "audit.next";
/// The public halves of all of them, oldest first.
const AUDIT_KEYS: &str = "audit.public";
const LOCAL: &str = "local";
/// The act of giving up an engine's keys with what they have signed.
const DISCARD: &str = "key-discard-jwt";

/// Reads the key of the local store from its place.
type ReadKey = Box<dyn Fn() -> Result<SealKey, String> + Send + Sync>;

/// Where keys are.
pub struct KeyPlaces {
    /// The folder of the audit log: its public keys stand beside it.
    pub log: PathBuf,
    /// The file with the key of the local store, unless it is a credential of the unit.
    pub local_file: Option<PathBuf>,
    /// Where the key before it is read from at a start.
    pub previous_file: Option<PathBuf>,
    /// The credential's name.
    pub credential: String,
    /// What stands in its place now.
    pub read_local: ReadKey,
}

/// Writes the public keys beside the log: one in hex a line, oldest first, so that all of the log can be verified with the file. Which there
/// are is kept in the store: what somebody wrote into the file is written over.
pub fn publish_audit_key(store: &LocalStore, folder: &Path, key: &Ed25519Key) -> Result<(), PublishError> {
    let line = hex::encode(key.public());
    let kept = store.load_own(AUDIT_KEYS)?;
    let mut known: Vec<&str> =
        kept.as_ref().and_then(|kept| std::str::from_utf8(kept.expose()).ok()).map_or(Vec::new(), |text| text.lines().collect());
    if !known.contains(&line.as_str()) {
        known.push(&line);
        // So many that the store takes them; a log that is older than the first of them begins behind a stub that is signed by a later one.
        let surplus = known.len().saturating_sub(500);
        known.drain(..surplus);
        store.save_own(AUDIT_KEYS, &SecretBytes::new(known.join("\n").into_bytes()))?;
    }
    Ok(sys::write_atomic(&folder.join("audit.pub"), (known.join("\n") + "\n").as_bytes(), 0o644)?)
}

/// Why the public keys could not be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The store that knows them.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file beside the log.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Broker {
    /// Every key, without its secret half.
    pub fn list_keys(&self) -> Vec<KeyRow> {
        let row = |name: &str, kind: &str, id: String, state: String, created: Option<WallTime>| KeyRow {
            name: name.to_owned(),
            kind: kind.to_owned(),
            id,
            state,
            created: created.map(WallTime::rfc3339),
        };
        let mut rows = vec![row(LOCAL, "local", self.local.key_id(), "seals the local store".to_owned(), None)];
        let now = self.clock.wall();
        for (name, engine) in &self.tokens {
            rows.extend(engine.keys().into_iter().map(|key| {
                let state = match key.signs_until {
                    _ if key.signs_from > now => format!("published; signs from {}", key.signs_from.rfc3339()),
                    Some(until) if until <= now => "signs no more; published until its last token is dead".to_owned(),
                    Some(until) => format!("signs until {}", until.rfc3339()),
                    None => "signs".to_owned(),
                };
                row(name.as_str(), "jwt", key.kid, format!("{}: {state}", key.algorithm.as_str()), Some(key.signs_from))
            }));
        }
        if let Some(id) = self.audit_key_id() {
            rows.push(row(AUDIT_KEY, "audit", id, "signs the audit log".to_owned(), self.local.own_created(AUDIT_KEY)));
        }
        rows
    }

    fn audit_key_id(&self) -> Option<String> {
        let key = self.local.load_own(AUDIT_KEY).ok()??;
        Some(hex::encode(Ed25519Key::from_pkcs8(key.expose()).ok()?.public()))
    }

    /// Changes the key of this name, and says in sentences what follows from it. In a task of its own: whoever asked may go, no change
    /// stays half done.
    pub async fn rotate_key(
        self: &Arc<Self>,
        operator: Operator,
        name: String,
        asked: KeyRequest,
        request: RequestId,
    ) -> Result<Vec<String>, Refusal> {
        let broker = self.clone();
        let task = tokio::spawn(async move { broker.rotate(&operator, &name, asked, request).await });
        task.await.unwrap_or_else(|_| Err(Stop::from(Fault::Task).refusal()))
    }

    async fn rotate(&self, operator: &Operator, name: &str, asked: KeyRequest, request: RequestId) -> Result<Vec<String>, Refusal> {
        // One at a time, whatever its kind: two changes of the log's key would lose one.
        let _turn = self.rotating.lock().await;
        let engine = self.tokens.iter().find(|(engine, _)| engine.as_str() == name).map(|(_, engine)| engine.clone());
        let (action, done) = match (name, engine) {
            (LOCAL | AUDIT_KEY, _) if asked.discard => {
                return Err(no(format!(
                    "Only keys of jwt engines can be discarded; {name} is changed, and what it did stays readable by it."
                )));
            }
            (_, Some(engine)) if asked.discard => (DISCARD, self.discard_tokens(operator, name, engine, request).await),
            (LOCAL, _) => ("key-rotate-local", self.rotate_local(operator, request).await),
            (AUDIT_KEY, _) => ("key-rotate-audit", self.rotate_audit(operator, request).await),
            (_, Some(engine)) => ("key-rotate-jwt", self.rotate_tokens(operator, name, engine, request).await),
            (_, None) => {
                let mut known: Vec<&str> = vec![LOCAL, AUDIT_KEY];
                known.extend(self.tokens.iter().map(|(name, _)| name.as_str()));
                return Err(Refusal::new(Code::NOT_FOUND).message(format!("There is no key {name:?}; there is {}.", known.join(", "))));
            }
        };
        // What was not begun was not asked for on the record either.
        if done.as_ref().err().is_none_or(|refusal| refusal.code != Code::KEY_NOT_ROTATED) {
            self.acted(operator, &Act::new(action, request), done.as_ref().err()).await;
        }
        done
    }

    async fn rotate_local(&self, operator: &Operator, request: RequestId) -> Result<Vec<String>, Refusal> {
        let Some(file) = &self.keys.local_file else { return Err(no(self.how_by_credential())) };
        let key = (self.keys.read_local)().map_err(|why| no(format!("The key cannot be read: {why}")))?;
        // A change that failed half-way may be repeated with the key that it began with.
        if LocalStore::id_of(&key) == self.local.key_id() && self.local.is_settled() {
            return Err(no(how_by_file(file)));
        }
        self.asked(operator, &Act::new("key-rotate-local", request)).await?;
        let (store, id) = (self.local.clone(), LocalStore::id_of(&key));
        match tokio::task::spawn_blocking(move || store.rewrap(key)).await {
            Ok(Ok(())) => Ok(vec![
                format!("Everything in the local store is sealed under the key {id} from {} now.", file.display()),
                "Copy the new key off the host, then destroy the old one: nothing needs it any more, except backups from before."
                    .to_owned(),
            ]),
            Ok(Err(error)) => Err(Refusal::new(Code::INTERNAL).detail(error.to_string())),
            Err(_) => Err(Stop::from(Fault::Task).refusal()),
        }
    }

    async fn rotate_tokens(
        &self,
        operator: &Operator,
        name: &str,
        engine: Arc<JwtEngine>,
        request: RequestId,
    ) -> Result<Vec<String>, Refusal> {
        if let Some(from) = engine.keys().iter().map(|key| key.signs_from).filter(|from| *from > self.clock.wall()).max() {
            return Err(pending(from));
        }
        self.asked(operator, &Act::new("key-rotate-jwt", request)).await?;
        let keys = changed(move || engine.rotate()).await?;
        let from = keys.iter().map(|key| key.signs_from).max().unwrap_or(self.clock.wall());
        Ok(vec![
            format!(
                "New keys are published; they sign from {}, and those before stay published until their last token is dead.",
                from.rfc3339()
            ),
            format!("Where verifiers read a copy, give them a new one now: clav jwks export {name}"),
        ])
    }

    /// For keys that somebody else may have: no wait, and nothing that they have signed is good any more.
    async fn discard_tokens(
        &self,
        operator: &Operator,
        name: &str,
        engine: Arc<JwtEngine>,
        request: RequestId,
    ) -> Result<Vec<String>, Refusal> {
        self.asked(operator, &Act::new(DISCARD, request)).await?;
        changed(move || engine.discard_keys_and_live_tokens()).await?;
        Ok(vec![
            "The keys of before are gone; new ones sign from now on. What the old ones signed is refused by whoever fetches the key set anew."
                .to_owned(),
            format!("Where verifiers read a copy, give them the new one now, in place of the old: clav jwks export {name}"),
            "Live leases are read again by their holders, or asked for anew: their tokens of before are no longer accepted.".to_owned(),
        ])
    }

    async fn rotate_audit(&self, operator: &Operator, request: RequestId) -> Result<Vec<String>, Refusal> {
        let internal = |why: String| Refusal::new(Code::INTERNAL).detail(why);
        match self.local.load_own(NEXT_AUDIT_KEY) {
            Ok(None) => {}
            Ok(Some(_)) => {
                return Err(no("The last change of this key was not finished; restart the daemon, which finishes it.".to_owned()));
            }
            Err(error) => return Err(internal(error.to_string())),
        }
        self.asked(operator, &Act::new("key-rotate-audit", request)).await?;
        let secret = Ed25519Key::generate().map_err(|error| internal(error.to_string()))?;
        let key = Ed25519Key::from_pkcs8(secret.expose()).map_err(|error| internal(error.to_string()))?;
        let public = hex::encode(key.public());
        // Kept before the log speaks of it: whatever happens in between, a start finds the key that the log introduced last.
        self.local.save_own(NEXT_AUDIT_KEY, &secret).map_err(|error| internal(error.to_string()))?;
        publish_audit_key(&self.local, &self.keys.log, &key).map_err(|error| internal(error.to_string()))?;
        let _ = self.audit.rotate_key(key).await.map_err(|error| Stop::from(error).refusal())?;
        let kept = self.local.save_own(AUDIT_KEY, &secret).and_then(|()| self.local.remove_own(NEXT_AUDIT_KEY));
        kept.map_err(|error| internal(error.to_string()))?;
        Ok(vec![
            format!("The log is signed by {public} from now on; the key before it has signed that."),
            format!("Verifiers need both: {} has them all, oldest first.", self.keys.log.join("audit.pub").display()),
        ])
    }

    /// A credential is fixed when the unit starts, so only a restart can bring another.
    fn how_by_credential(&self) -> String {
        let name = &self.keys.credential;
        let previous = self.keys.previous_file.clone().unwrap_or_else(|| "/etc/claviger/key.previous".into());
        let (previous, sealed, config) = (previous.display(), format!("/etc/credstore.encrypted/{name}"), "/etc/claviger/clavigerd.toml");
        // The new one is written beside the old one, and each step waits for the one before: nothing is lost if one fails.
        let say = match self.keys.previous_file {
            Some(_) => String::new(),
            None => format!("sed -i 's|^\\[local\\]|&\\nprevious_key_file = \"{previous}\"|' {config} && \\\n"),
        };
        format!(
            "The key is the credential {name} of the unit, which only a start reads. As root:\n\
             (umask 377; systemd-creds decrypt --name={name} {sealed} {previous}) && test -s {previous} && chown claviger {previous} && \\\n\
             {say}grep -q '^previous_key_file' {config} && \\\n\
             head -c 32 /dev/urandom | systemd-creds encrypt --name={name} - {sealed}.new && mv {sealed}.new {sealed} && \\\n\
             systemctl restart clavigerd && clav key ls\n\
             Only when that shows another id for the local key, and nothing before failed: take the line previous_key_file out of {config}, restart, destroy {previous}."
        )
    }
}

/// A change of an engine's keys, which are written to disk.
async fn changed(change: impl FnOnce() -> Result<Vec<PublishedKey>, JwtError> + Send + 'static) -> Result<Vec<PublishedKey>, Refusal> {
    match tokio::task::spawn_blocking(change).await {
        Ok(Ok(keys)) => Ok(keys),
        Ok(Err(JwtError::Pending(from))) => Err(pending(from)),
        Ok(Err(error)) => Err(Refusal::new(Code::INTERNAL).detail(error.to_string())),
        Err(_) => Err(Stop::from(Fault::Task).refusal()),
    }
}

fn how_by_file(file: &Path) -> String {
    let file = file.display();
    format!(
        "The key in {file} is the one in use. Put the new one in its place, as root, then repeat this; keep the old one until it is done:\n\
         cp -p {file} {file}.previous && (umask 377; head -c 32 /dev/urandom > {file}.new) && chown --reference={file} {file}.new && \
         mv {file}.new {file} && clav key rotate local && rm {file}.previous"
    )
}

fn pending(from: WallTime) -> Refusal {
    no(format!("The last new key of this engine signs only from {}: verifiers are still learning of it. Wait until then.", from.rfc3339()))
}

fn no(why: String) -> Refusal {
    Refusal::new(Code::KEY_NOT_ROTATED).message(why)
}
