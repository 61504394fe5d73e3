//! What the server makes for a lease and takes back: any path that answers with a lease of its own.

use super::{
    super::{EngineError, Issued, Order, Over, UpstreamRef},
    OpenBaoEngine,
    api::{Fault, Reply, encoded},
    child::{Child, MadeFor, keys, lasts},
    pick::picked,
    session::Token,
    settings::{Read, TokenRow},
    space::{Handle, leased_paths},
    until,
};
use crate::{
    digest::Random,
    model::{EndResult, Finding, LeaseId, Proof, SecretBytes, SecretDefinition},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// The longest value that is sealed into a lease's row, in bytes.
const VALUE_MAX: usize = 16 << 10;
/// More leases at one path are not looked at one by one.
const LOOKED_AT: usize = 1000;
/// Between two looks at leases that the server is ending.
const PAUSE: Duration = Duration::from_millis(50);
/// A token that lives for one call only.
const CALL_SECONDS: u64 = 60;

impl OpenBaoEngine {
    /// Makes the lease's token and reads the path with it.
    pub(super) async fn make_leased(&self, order: &Order<'_>, read: &Read) -> Result<Issued, EngineError> {
        let quiet = self.children.unsent.begin(order.lease);
        let path = read
            .path(order.operation)
            .ok_or_else(|| EngineError::Setup(format!("{}: read has no path for the operation {}", order.secret.name, order.operation)))?;
        let seconds = self.seconds(order);
        let (made_for, life) = if read.short_life { (MadeFor::OneCall, CALL_SECONDS) } else { (MadeFor::Path(path), seconds) };
        let made = self.children.make(quiet, order, &read.policies, made_for, life).await?;
        let named = Handle::of(order.lease, made.accessor.as_ref());
        crate::failpoint!("openbao-token-made");
        let (child, api) = (&made.token, &self.children.session.api);
        let url = encoded(path);
        let reply = match read.body(order, seconds) {
            None => api.get_once(child.expose(), &url).await,
            Some(body) => api.put(Some(child.expose()), &url, &body, false).await,
        };
        let doing = format!("reading {path}");
        let reply = reply.map_err(|fault| match fault {
            Fault::Denied(text) => EngineError::Setup(format!(
                "{doing}: {text} (403): the policies of the lease's token do not allow it (policies, or allowed_policies of the role {})",
                self.children.role
            )),
            fault => fault.during(&doing),
        })?;
        let data = reply.data.as_ref().ok_or_else(|| EngineError::Refused(format!("{doing}: it answers with nothing")))?;
        let (value, attributes) = picked(data, &read.pick).map_err(|what| EngineError::Setup(format!("{doing}: {what}")))?;
        if value.len() > VALUE_MAX {
            return Err(EngineError::Setup(format!("{doing}: a value of {} bytes; {VALUE_MAX} are the most", value.len())));
        }
        let mut reference = UpstreamRef::default();
        reference.0.insert("path", path);
        reference.0.insert("mark", self.children.mark.as_str());
        if read.short_life {
            until::check(data, order.expires.unix_secs()).map_err(|what| EngineError::Setup(format!("{doing}: {what}")))?;
            self.children.revoke(named).await?;
            reference.0.insert("ends", "short-life");
        } else {
            self.must_last(&reply, seconds, path).await?;
            reference.0.insert("lease", reply.lease_id.as_str());
            reference.0.insert("renewable", reply.renewable);
            self.name_in(&mut reference, made.accessor.as_deref());
        }
        reference.0.insert("intent", order.intent_digest());
        if !attributes.is_empty() {
            let beside = attributes.iter().map(|(name, value)| (name.to_string(), Value::from(value.as_str())));
            reference.0.insert("attributes", beside.collect::<serde_json::Map<_, _>>());
        }
        self.seal_in(&mut reference, order.lease, &value);
        Ok(Issued { value, attributes, reference })
    }

    /// Seals a value that cannot be made again into the reference of its lease.
    pub(super) fn seal_in(&self, reference: &mut UpstreamRef, lease: LeaseId, value: &SecretBytes) {
        reference.seal(STANDARD.encode(self.seal_key.seal(&context(lease), value.expose(), &*self.random as &dyn Random)));
    }

    /// Writes down how a token is found whose id is not ours.
    pub(super) fn name_in(&self, reference: &mut UpstreamRef, accessor: Option<&str>) {
        if let (Some(namespace), Some(accessor)) = (self.children.session.api.namespace(), accessor) {
            reference.0.insert("namespace", namespace);
            reference.0.insert("accessor", accessor);
        }
    }

    /// Makes a token that is the secret itself.
    pub(super) async fn make_token(&self, order: &Order<'_>, row: &TokenRow) -> Result<Issued, EngineError> {
        let quiet = self.children.unsent.begin(order.lease);
        let missing = || EngineError::Setup(format!("{}: token has no policies for {}", order.secret.name, order.operation));
        let policies = row.policies(order.operation).ok_or_else(missing)?;
        let made = self.children.make(quiet, order, &policies, MadeFor::Itself, self.seconds(order)).await?;
        let mut reference = UpstreamRef::default();
        reference.0.insert("token", true);
        reference.0.insert("mark", self.children.mark.as_str());
        reference.0.insert("intent", order.intent_digest());
        if made.accessor.is_some() {
            self.name_in(&mut reference, made.accessor.as_deref());
            self.seal_in(&mut reference, order.lease, &made.token);
        }
        Ok(Issued { value: made.token, attributes: Vec::new(), reference })
    }

    /// A credential that dies before its lease would be a lie.
    async fn must_last(&self, reply: &Reply, seconds: u64, path: &str) -> Result<(), EngineError> {
        if reply.lease_id.is_empty() {
            return Err(EngineError::Setup(format!(
                "reading {path}: it makes no lease, so nothing of it can be revoked: say ends = \"short-life\" if what it gives dies by itself"
            )));
        }
        let mut given = reply.lease_duration;
        if !lasts(given, seconds) && reply.renewable {
            given = self.prolong(&reply.lease_id, seconds).await?;
        }
        match lasts(given, seconds) {
            true => Ok(()),
            false => Err(EngineError::Setup(format!(
                "reading {path}: it gives {given} s to a lease of {seconds} s (default_ttl and max_ttl there)"
            ))),
        }
    }

    /// The value of a live lease, from its row.
    pub(super) fn unsealed(&self, lease: LeaseId, sealed: &str) -> Result<SecretBytes, EngineError> {
        let other = || EngineError::Setup(format!("{lease}: its value does not open: sealed by another key, or of another lease"));
        self.seal_key.open(&context(lease), &STANDARD.decode(sealed).map_err(|_| other())?).map_err(|_| other())
    }

    /// Gives a lease at the server so many seconds from now, and says how many it got.
    async fn prolong(&self, id: &str, seconds: u64) -> Result<u64, EngineError> {
        let body = &json!({"lease_id": id, "increment": seconds});
        let doing = "renewing a lease";
        let session = &self.children.session;
        let done =
            session.with_token(doing, async move |us: Arc<Token>| session.api.put(Some(us.expose()), "sys/leases/renew", body, true).await);
        match done.await? {
            Ok(reply) => Ok(reply.lease_duration),
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Lets a live lease last until its new end.
    pub(super) async fn renew_leased(
        &self,
        order: &Order<'_>,
        id: &str,
        named: Handle<'_>,
        reference: &UpstreamRef,
    ) -> Result<(), EngineError> {
        if reference.0.get("renewable") == Some(&Value::Bool(false)) {
            return Err(EngineError::Refused("what the path gave is not renewable: ask for a new lease".into()));
        }
        let seconds = self.seconds(order);
        let given = self.prolong(id, seconds).await?;
        if !lasts(given, seconds) {
            return Err(EngineError::Refused(format!("{seconds} s were asked for, the server gives {given} s (max_ttl there)")));
        }
        self.children.renew(named, seconds).await
    }

    /// Ends a lease whose id at the server is known: the server answers when it is done, and is asked whether it knows it still.
    pub(super) async fn end_leased(&self, named: Handle<'_>, id: &str) -> Result<Over, EngineError> {
        let body = &json!({"lease_id": id, "sync": true});
        let doing = "revoking a lease";
        let session = &self.children.session;
        let done = session
            .with_token(doing, async move |us: Arc<Token>| session.api.put(Some(us.expose()), "sys/leases/revoke", body, true).await);
        match done.await? {
            Ok(_) => {}
            // The server tried and its source did not let it: another time may do.
            Err(Fault::Rejected(status, text)) => return Err(EngineError::Unreachable(format!("{doing}: {text} ({status})"))),
            Err(fault) => return Err(fault.during(doing)),
        }
        if self.is_known(id).await? {
            return Err(EngineError::Unreachable("the lease lives after it was revoked".into()));
        }
        // Nothing else hangs on the token: it was used once.
        self.children.revoke(named).await?;
        Ok(Over::revoked(match self.must_be_gone(named).await? {
            Gone::Unknown => Proof::looked(&[Finding::LeaseUnknown, Finding::TokenUnknown]),
            Gone::Fenced => Proof::looked(&[Finding::LeaseUnknown, Finding::TokenFenced]),
        }))
    }

    /// Ends a lease's token, and looks.
    pub(super) async fn end_token(&self, named: Handle<'_>) -> Result<Over, EngineError> {
        self.children.revoke(named).await?;
        Ok(Over::revoked(self.must_be_gone(named).await?.proof()))
    }

    /// Ends a lease of which nothing is known but its token, if that is there.
    pub(super) async fn end_unknown(&self, lease: LeaseId) -> Result<Over, EngineError> {
        self.settle_lost(lease, None).await.map(|over| Over { result: EndResult::Revoked, ..over })
    }

    /// Looks for a lease's token.
    pub(super) async fn must_be_gone(&self, named: Handle<'_>) -> Result<Gone, EngineError> {
        if crate::mutation!("receipt-proof") {
            return Ok(Gone::Unknown);
        }
        match self.children.find(named).await? {
            Child::Alive(_) => Err(EngineError::Unreachable("the token lives after it was revoked".into())),
            Child::Absent => Ok(Gone::Unknown),
            Child::Fence(_) => Ok(Gone::Fenced),
        }
    }

    /// Whether the server knows a lease of this id, whose answer for those it does not know is "invalid lease" (400).
    async fn is_known(&self, id: &str) -> Result<bool, EngineError> {
        if crate::mutation!("receipt-proof") {
            return Ok(false);
        }
        let (doing, body, session) = ("looking a lease up", &json!({"lease_id": id}), &self.children.session);
        let looked = session
            .with_token(doing, async move |us: Arc<Token>| session.api.put(Some(us.expose()), "sys/leases/lookup", body, true).await);
        match looked.await? {
            Ok(_) => Ok(true),
            Err(Fault::Rejected(400, text)) if text.contains("invalid lease") => Ok(false),
            Err(fault) => Err(fault.during(doing)),
        }
    }

    /// Ends what a lost issue left.
    pub(super) async fn settle_lost(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        match &self.children.space {
            Some(space) => self.settle_in_space(space, lease, secret).await,
            None => self.settle_child(lease, secret).await,
        }
    }

    /// Ends what a lost issue left and closes the way for one that is still under way. The fence remembers the path, so that whoever tries
    /// again after a try that was cut off waits for the same leases.
    async fn settle_child(&self, lease: LeaseId, secret: Option<&SecretDefinition>) -> Result<Over, EngineError> {
        let (named, mut found, mut made_at) = (Handle::Id(lease), false, None);
        loop {
            match self.children.find(named).await? {
                Child::Alive(path) => {
                    self.children.revoke(named).await?;
                    (found, made_at) = (true, path.or(made_at));
                }
                Child::Fence(path) => {
                    made_at = path.or(made_at);
                    break;
                }
                Child::Absent => {}
            }
            if crate::mutation!("openbao-fence") || self.children.fence(lease, made_at.as_deref()).await? {
                break;
            }
        }
        // A fence that an outage has outlived remembers nothing; the secret's row says where to look.
        let mut looked = true;
        for path in made_at.map_or_else(|| leased_paths(secret), |path| vec![path]) {
            looked &= self.wait_until_ended(&path).await?;
        }
        let gone = self.must_be_gone(named).await?.proof();
        let proof = if looked { gone } else { Proof::TOLD };
        Ok(if found { Over::revoked(proof) } else { Over::lapsed(proof) })
    }

    /// Revoking a token leaves its leases to the server, which ends them soon after: they are over by then, and go from the list when their
    /// source has confirmed. Whose they are is not told, so all that are over are waited for; false where they are too many to be looked at.
    pub(super) async fn wait_until_ended(&self, path: &str) -> Result<bool, EngineError> {
        let session = &self.children.session;
        let doing = format!("waiting for leases of {path} to end");
        let url = &format!("sys/leases/lookup/{}?list=true", encoded(path));
        let mut waited_for: Option<Vec<String>> = None;
        loop {
            let listed = session.with_token(&doing, async move |us: Arc<Token>| session.api.get(us.expose(), url).await);
            let listed = keys(listed.await?, &doing)?;
            let mut over = Vec::new();
            match &waited_for {
                // Too many to look at: the server has taken over to end them, and has that on its disk.
                None if listed.len() > LOOKED_AT => return Ok(false),
                None => {
                    for key in listed {
                        if self.is_over(&format!("{path}/{key}"), &doing).await? {
                            over.push(key);
                        }
                    }
                }
                Some(before) => over.extend(before.iter().filter(|key| listed.contains(key)).cloned()),
            }
            if over.is_empty() {
                return Ok(true);
            }
            waited_for = Some(over);
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether a lease's time is over and the server has yet to end it.
    async fn is_over(&self, id: &str, doing: &str) -> Result<bool, EngineError> {
        let session = &self.children.session;
        let body = &json!({"lease_id": id});
        let looked = session
            .with_token(doing, async move |us: Arc<Token>| session.api.put(Some(us.expose()), "sys/leases/lookup", body, true).await);
        match looked.await? {
            Ok(reply) => Ok(reply.data.unwrap_or_default().get("ttl").and_then(Value::as_i64).is_none_or(|seconds| seconds <= 0)),
            // Gone meanwhile. Whatever else says no has said nothing of it.
            Err(Fault::Rejected(400, text)) if text.contains("invalid lease") || crate::mutation!("openbao-waited") => Ok(false),
            Err(fault) => Err(fault.during(doing)),
        }
    }
}

/// How a token that was looked for is not there.
#[derive(Clone, Copy)]
pub(super) enum Gone {
    Unknown,
    Fenced,
}

impl Gone {
    fn proof(self) -> Proof {
        Proof::looked(match self {
            Gone::Unknown => &[Finding::TokenUnknown],
            Gone::Fenced => &[Finding::TokenFenced],
        })
    }
}

/// Binds a sealed value to its lease.
fn context(lease: LeaseId) -> Vec<u8> {
    [&b"openbao value\0"[..], &lease.to_bytes()].concat()
}
