//! One token for each lease: what the lease makes at the server hangs on it and dies with it.
//!
//! Its id follows from our key and the lease, so that it is found, ended and made again without anything being remembered. The server
//! takes an id once only. That makes it a fence too: whoever settles a lease puts a token of the same id there that may do nothing, and an
//! issue that is still on its way finds the place taken.

use super::{
    super::{
        EngineError, Mark, Order,
        unsent::{Quiet, Unsent},
    },
    api::{Fault, Reply},
    session::{Session, Token},
    space::{Handle, Space},
};
use crate::{
    digest::SealKey,
    model::{LeaseId, SecretBytes},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};
use zeroize::Zeroizing;

/// How long a fence stands, in seconds: longer than the server works on any request (`max_request_duration`, 90 s). What a late request
/// made all the same is bound to the same id, and the server ends it with the fence.
const FENCE_SECONDS: u64 = 150;
/// The policy of fences. It need not exist: a fence bears the id of a token that somebody may have, so it must be able to do nothing.
const FENCE_POLICY: &str = "claviger-fence";

/// Between listing tokens and looking them up. The server ends a token that is looked up while it is being made (OpenBao 2.7: it has no lease
/// yet), and most of what is listed belongs to others. By then everything that was listed is whole.
const LISTED_PAUSE: Duration = Duration::from_secs(2);

/// Members of a token's metadata.
const MARK: &str = "claviger_mark";
const LEASE: &str = "claviger_lease";
const PATH: &str = "claviger_path";
const SETTLED: &str = "claviger_settled";
const ONE_CALL: &str = "claviger_one_call";

pub(super) struct Children {
    pub(super) session: Arc<Session>,
    pub(super) role: String,
    pub(super) mark: Mark,
    pub(super) key: SealKey,
    /// In a namespace ids are the server's.
    pub(super) space: Option<Space>,
    /// Leases for which the server was asked nothing.
    pub(super) unsent: Unsent,
}

/// What a token is made for.
#[derive(Clone, Copy)]
pub(super) enum MadeFor<'a> {
    /// It is the credential.
    Itself,
    /// What the source makes for it at this path hangs on it.
    Path(&'a str),
    /// One call, whose outcome lives without it. It has no debt in the journal and dies by itself, so it is nobody's stray.
    OneCall,
}

/// A token that was made.
pub(super) struct Made {
    pub(super) token: SecretBytes,
    /// Its name at the server, where the id is the server's.
    pub(super) accessor: Option<String>,
}

/// A token that bears our mark.
pub(super) struct Marked {
    pub(super) lease: LeaseId,
    pub(super) accessor: String,
    /// The path that was read with it, if any.
    pub(super) path: Option<String>,
    /// It dies by itself.
    pub(super) one_call: bool,
}

/// What a lease's token is at the server.
pub(super) enum Child {
    /// There is none.
    Absent,
    /// It lives; the path that was read with it, if any.
    Alive(Option<String>),
    /// The fence of a lease that was settled, with the path that was read with the lease's token, if that is known.
    Fence(Option<String>),
}

impl Children {
    /// The id of a lease's token, which is the token itself: 256 bits that nobody else can make.
    pub(super) fn id(&self, lease: LeaseId) -> SecretBytes {
        let mac = self.key.mac(&[self.mark.as_str().as_bytes(), &lease.to_bytes()].concat());
        // 32 bytes are 43 characters of base64; the buffer is exact, so nothing moves and leaves a copy.
        let mut text = Zeroizing::new(vec![0; 47]);
        text[..4].copy_from_slice(b"clv-");
        URL_SAFE_NO_PAD.encode_slice(mac.expose(), &mut text[4..]).expect("43 bytes hold 32 in base64");
        SecretBytes::take_from(&mut text)
    }

    /// Makes the lease's token, to live for so many seconds. Nothing was sent for it yet.
    pub(super) async fn make(
        &self,
        quiet: Quiet<'_>,
        order: &Order<'_>,
        policies: &[String],
        made_for: MadeFor<'_>,
        seconds: u64,
    ) -> Result<Made, EngineError> {
        let mut meta = self.meta(order.lease);
        for (name, value) in [
            ("claviger_request", order.request.to_string()),
            ("claviger_secret", order.secret.name.to_string()),
            ("claviger_identity", order.identity.to_string()),
            ("claviger_purpose", order.purpose.to_string()),
            ("claviger_intent", order.intent_digest()),
        ] {
            meta.insert(name.into(), value.into());
        }
        match made_for {
            MadeFor::Itself => {}
            MadeFor::Path(path) => drop(meta.insert(PATH.into(), path.into())),
            MadeFor::OneCall => drop(meta.insert(ONE_CALL.into(), "true".into())),
        }
        let doing = format!("making a token with the role {}", self.role);
        // Without a token of ours nothing is asked.
        self.session.token().await?;
        quiet.owes();
        let reply = self.create(order.lease, policies, meta, seconds, &doing).await?.map_err(|fault| {
            // No connection came up: it did not go out after all.
            if fault.is_unsent() {
                self.unsent.note(order.lease);
            }
            fault.during(&doing)
        })?;
        let auth = reply.auth.unwrap_or_default();
        let setup = |what: &str| Err(EngineError::Setup(format!("auth/token/roles/{}: {what}", self.role)));
        if !auth.orphan {
            return setup("orphan must be true, or leases die with our own token");
        }
        if auth.token_type == "batch" {
            return setup("token_type must be service: batch tokens cannot be revoked");
        }
        if !lasts(auth.lease_duration, seconds) {
            return setup(&format!("gives {} s to a lease of {seconds} s (token_explicit_max_ttl, token_period)", auth.lease_duration));
        }
        if self.space.is_none() {
            return Ok(Made { token: self.id(order.lease), accessor: None });
        }
        if auth.client_token.is_empty() || auth.accessor.is_empty() {
            return Err(Fault::Malformed.during(&doing));
        }
        Ok(Made { token: SecretBytes::new(auth.client_token.into_bytes()), accessor: Some(auth.accessor) })
    }

    /// Whether it is certain that the server was asked nothing for this lease. It is told once.
    pub(super) fn never_sent(&self, lease: LeaseId) -> bool {
        let unsent = self.unsent.take(lease);
        self.space.iter().filter(|_| unsent).for_each(|space| space.forget(lease));
        unsent
    }

    async fn create(
        &self,
        lease: LeaseId,
        policies: &[String],
        meta: Map<String, Value>,
        seconds: u64,
        doing: &str,
    ) -> Result<Result<Reply, Fault>, EngineError> {
        let (id, path) = (self.id(lease), format!("auth/token/create/{}", self.role));
        let fence = meta.contains_key(SETTLED);
        let mut body = json!({
            "ttl": format!("{seconds}s"),
            "renewable": !fence,
            "no_default_policy": true,
            "display_name": format!("claviger-{}-{}", self.mark, lease.bare()),
            "meta": meta,
        });
        if self.space.is_none() {
            body["id"] = ascii(&id).into();
        }
        if !policies.is_empty() {
            body["policies"] = policies.into();
        }
        let body = &body;
        let path = path.as_str();
        self.session.with_token(doing, async move |us: Arc<Token>| self.session.api.put(Some(us.expose()), path, body, false).await).await
    }

    /// Puts the fence where the lease's token was or would be. `false` if something is there already.
    pub(super) async fn fence(&self, lease: LeaseId, path: Option<&str>) -> Result<bool, EngineError> {
        let mut meta = self.meta(lease);
        meta.extend(path.map(|path| (PATH.to_owned(), path.into())));
        meta.insert(SETTLED.into(), "true".into());
        let doing = "settling";
        match self.create(lease, &[FENCE_POLICY.to_owned()], meta, FENCE_SECONDS, doing).await? {
            Ok(reply) if reply.auth.as_ref().is_some_and(|auth| auth.policies == [FENCE_POLICY]) => Ok(true),
            Ok(_) => {
                self.revoke(Handle::Id(lease)).await?;
                Err(EngineError::Setup(format!("{doing}: auth/token/roles/{} gives a fence more policies than {FENCE_POLICY}", self.role)))
            }
            Err(Fault::Rejected(_, text)) if text.contains("duplicate ID") => Ok(false),
            Err(Fault::Rejected(400, text)) => Err(EngineError::Setup(format!(
                "{doing}: {text}: allowed_policies of auth/token/roles/{} must have {FENCE_POLICY} beside what leases may",
                self.role
            ))),
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Tries whether fences can be put up, so that an operator hears of it at a start and not after a crash.
    pub(super) async fn try_fence(&self, lease: LeaseId) -> Result<(), EngineError> {
        self.fence(lease, None).await?;
        self.revoke(Handle::Id(lease)).await
    }

    /// Looks the lease's token up.
    pub(super) async fn find(&self, named: Handle<'_>) -> Result<Child, EngineError> {
        let doing = "looking a token up";
        match self.about(named, "lookup", Map::new(), doing).await? {
            Ok(reply) => {
                let data = reply.data.unwrap_or_default();
                let meta = data.get("meta").and_then(Value::as_object);
                let word = |name: &str| meta.and_then(|meta| meta.get(name)).and_then(Value::as_str);
                let path = word(PATH).map(str::to_owned);
                Ok(match word(SETTLED) {
                    Some(_) => Child::Fence(path),
                    None => Child::Alive(path),
                })
            }
            // What bears no metadata is none of ours; an id of 256 bits does not come about by chance.
            Err(fault) if fault.is_unknown_token() => Ok(Child::Absent),
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Revokes the lease's token. That it is not there is no error; the server ends what hangs on it soon after.
    pub(super) async fn revoke(&self, named: Handle<'_>) -> Result<(), EngineError> {
        let doing = "revoking a token";
        match self.about(named, "revoke", Map::new(), doing).await? {
            Ok(_) => Ok(()),
            Err(fault) if fault.is_unknown_token() => Ok(()),
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Lets it live for so many seconds from now.
    pub(super) async fn renew(&self, named: Handle<'_>, seconds: u64) -> Result<(), EngineError> {
        let doing = "renewing a token";
        let more = Map::from_iter([("increment".to_owned(), format!("{seconds}s").into())]);
        match self.about(named, "renew", more, doing).await? {
            Ok(reply) => {
                let given = reply.auth.unwrap_or_default().lease_duration;
                match lasts(given, seconds) {
                    true => Ok(()),
                    false => Err(EngineError::Refused(format!("{doing}: {seconds} s were asked for, the server gives {given} s"))),
                }
            }
            Err(Fault::Rejected(_, text) | Fault::Denied(text)) => match self.find(named).await? {
                Child::Alive(_) => Err(EngineError::Setup(format!("{doing}: {text}"))),
                Child::Absent | Child::Fence(_) => Err(EngineError::Refused("the lease's token is gone".into())),
            },
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Does something about a lease's token.
    async fn about(
        &self,
        named: Handle<'_>,
        verb: &str,
        mut body: Map<String, Value>,
        doing: &str,
    ) -> Result<Result<Reply, Fault>, EngineError> {
        let path = match named {
            Handle::Id(lease) => {
                body.insert("token".into(), ascii(&self.id(lease)).into());
                format!("auth/token/{verb}")
            }
            Handle::Accessor(accessor) => {
                body.insert("accessor".into(), accessor.into());
                format!("auth/token/{verb}-accessor")
            }
        };
        let (path, body) = (path.as_str(), &body);
        self.session.with_token(doing, async move |us: Arc<Token>| self.session.api.put(Some(us.expose()), path, body, true).await).await
    }

    /// The tokens at the server that are under our mark.
    pub(super) async fn marked(&self) -> Result<Vec<Marked>, EngineError> {
        let doing = "listing tokens";
        let listed = self
            .session
            .with_token(doing, async |us: Arc<Token>| self.session.api.get(us.expose(), "auth/token/accessors?list=true").await);
        let accessors = keys(listed.await?, doing)?;
        tokio::time::sleep(LISTED_PAUSE).await;
        let mut found = Vec::new();
        // As many at a time as the client has connections for others too.
        for few in accessors.chunks(8) {
            let looked = few.iter().map(async |accessor| {
                let doing = "looking a token up";
                let reply = self.session.with_token(doing, async move |us: Arc<Token>| match self.look_up(&us, accessor).await {
                    Err(Fault::Denied(text)) if text.contains("accessor") => Err(Fault::Absent),
                    Err(Fault::Denied(text)) => Err(self.denied(&us, text).await),
                    done => done,
                });
                match reply.await? {
                    Ok(reply) if reply.data.is_none() => Err(Fault::Malformed.during(doing)),
                    Ok(reply) => Ok(self.mark_of(&reply, accessor)),
                    // It died between the two calls, or never was.
                    Err(Fault::Absent) => Ok(None),
                    Err(Fault::Rejected(400, text)) if text.contains("accessor") || text.contains("token") => Ok(None),
                    Err(fault) => Err(fault.during(doing)),
                }
            });
            for mark in futures_util::future::join_all(looked).await {
                found.extend(mark?);
            }
        }
        Ok(found)
    }

    async fn look_up(&self, us: &Token, accessor: &str) -> Result<Reply, Fault> {
        let body = &json!({"accessor": accessor});
        self.session.api.put(Some(us.expose()), "auth/token/lookup-accessor", body, true).await
    }

    /// What "permission denied" means. A server that died while it made a token keeps the accessor of one that is not there, and answers so
    /// about it (OpenBao 2.7); whoever may look up itself may look up all.
    async fn denied(&self, us: &Token, text: String) -> Fault {
        let itself = async {
            let own = self.session.api.get(us.expose(), "auth/token/lookup-self").await?.data.unwrap_or_default();
            self.look_up(us, own.get("accessor").and_then(Value::as_str).unwrap_or_default()).await
        };
        match itself.await {
            Ok(_) => Fault::Absent,
            Err(Fault::Denied(_)) => Fault::Denied(text),
            Err(other) => other,
        }
    }

    fn mark_of(&self, reply: &Reply, accessor: &str) -> Option<Marked> {
        let meta = reply.data.as_ref()?.get("meta")?.as_object()?;
        let word = |name: &str| meta.get(name).and_then(Value::as_str);
        if word(MARK) != Some(self.mark.as_str()) || word(SETTLED).is_some() {
            return None;
        }
        let lease = LeaseId::parse(word(LEASE)?).ok()?;
        let one_call = word(ONE_CALL).is_some() && !crate::mutation!("openbao-one-call");
        Some(Marked { lease, accessor: accessor.to_owned(), path: word(PATH).map(str::to_owned), one_call })
    }

    fn meta(&self, lease: LeaseId) -> Map<String, Value> {
        let mut meta = Map::new();
        meta.insert(MARK.into(), self.mark.as_str().into());
        meta.insert(LEASE.into(), lease.to_string().into());
        meta
    }
}

/// The names in the answer to a listing; an empty listing is answered with 404, and anything else that holds none is no listing.
pub(super) fn keys(listed: Result<Reply, Fault>, doing: &str) -> Result<Vec<String>, EngineError> {
    let reply = match listed {
        Err(Fault::Absent) => return Ok(Vec::new()),
        listed => listed.map_err(|fault| fault.during(doing))?,
    };
    let keys = reply.data.as_ref().and_then(|data| data.get("keys")).and_then(Value::as_array);
    if crate::mutation!("openbao-listed") {
        return Ok(keys.into_iter().flatten().filter_map(|key| key.as_str().map(str::to_owned)).collect());
    }
    let names = keys.and_then(|keys| keys.iter().map(|key| key.as_str().map(str::to_owned)).collect());
    names.ok_or_else(|| Fault::Malformed.during(doing))
}

/// Whether what the server gives is what was asked for; it counts in whole seconds, and the call took some.
pub(super) fn lasts(given: u64, wanted: u64) -> bool {
    given + 10 >= wanted
}

/// An id is made of letters, digits and dashes.
fn ascii(id: &SecretBytes) -> &str {
    std::str::from_utf8(id.expose()).unwrap_or_default()
}
