//! What callers put on the record. Every member is a word of the model, a number, or of a type admitted by name: no loose text, so no secret.

use super::kind::{Kind, Outcome};
use super::text::{Facts, NoJson, Sentence, Word, to_ascii_json};
use crate::model::{
    Assurance, Channel, EndReason, EndResult, EndsBy, EngineName, Environment, HolderKind, Identity, IdentityKind, IdentityName, LeaseId,
    Owner, Proof, Refusal, RequestId, SecretDefinition, SecretName, Sensitivity, TicketId, WallTime,
};
use serde::{Serialize, Serializer};

/// Who it was about: a row of the registry at one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Who {
    name: IdentityName,
    kind: IdentityKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<Owner>,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Environment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Box<str>>,
}

/// Which secret it was about: a row of the catalogue at one generation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct What {
    name: SecretName,
    engine: EngineName,
    owner: Owner,
    sensitivity: Sensitivity,
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<Environment>,
    ends_by: EndsBy,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
}

/// What a lease is bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// Of which sort.
    pub kind: HolderKind,
    /// The process, or the one that stands for it.
    pub pid: u32,
    /// The kernel's number for that process, never used again within one boot (pidfs inode).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<u64>,
    /// The unit or container id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Word>,
}

/// How policy decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Hash of the bundle of policy, secrets, identities and people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Word>,
    /// The grant that covered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<Word>,
    /// Who answers for the grant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant_owner: Option<Owner>,
    /// The ticket that justified it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ticket: Option<TicketId>,
    /// The policies that decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub determining: Vec<Word>,
    /// Policies in shadow mode that would have refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<Word>,
}

/// The person who acted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Person {
    /// The uid that spoke.
    pub uid: u32,
    /// The login uid, kept through sudo, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<u32>,
    /// The name in `people.d`, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Word>,
    /// What was done, such as `stop` or `approve`.
    pub action: Word,
}

/// How a lease ended. *Ended* is our books; *dead* is the source's proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// What became of the credential.
    pub result: EndResult,
    /// When it was asked for, or the cause seen.
    #[serde(serialize_with = "instant")]
    pub asked: WallTime,
    /// When the lease ended in our books.
    #[serde(serialize_with = "instant")]
    pub ended: WallTime,
    /// When the source confirmed that the credential is dead, or when it dies by itself.
    #[serde(serialize_with = "maybe_instant", skip_serializing_if = "Option::is_none")]
    pub dead: Option<WallTime>,
    /// Tries so far.
    pub attempts: u32,
    /// What the engine saw, and what that is worth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

/// Equal events that have no record of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Folded {
    /// Of which kind they would have been.
    pub of: Kind,
    /// How many.
    pub count: u64,
    /// When the first of them happened.
    #[serde(serialize_with = "instant")]
    pub first: WallTime,
    /// When the last of them happened.
    #[serde(serialize_with = "instant")]
    pub last: WallTime,
}

fn instant<S: Serializer>(time: &WallTime, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&time.rfc3339())
}

fn maybe_instant<S: Serializer>(time: &Option<WallTime>, to: S) -> Result<S::Ok, S::Error> {
    time.map(WallTime::rfc3339).serialize(to)
}

/// One thing to be put on the record. Absent members are left out of the line.
#[derive(Clone, Debug, Serialize)]
#[must_use]
pub struct Event {
    #[serde(skip)]
    pub(super) kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<LeaseId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) identity: Option<Who>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    assurance: Option<Assurance>,
    #[serde(skip_serializing_if = "Option::is_none")]
    basis: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attestor: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attested: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    adapter: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effective: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<Channel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<What>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<Facts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<Decided>,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<Holder>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "maybe_instant")]
    expires: Option<WallTime>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<Ended>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<Person>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    remedies: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Sentence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) folded: Option<Folded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    more: Option<Facts>,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $name: $type) -> Self {
            self.$name = Some($name);
            self
        }
    )*};
}

impl Who {
    pub(super) fn name(&self) -> &IdentityName {
        &self.name
    }
}

impl What {
    pub(super) fn name(&self) -> &SecretName {
        &self.name
    }
}

impl Event {
    /// An event of this kind with nothing in it yet.
    #[rustfmt::skip]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind, request: None, lease: None, identity: None, uid: None, assurance: None, basis: None, attestor: None, attested: None,
            client: None, source: None, adapter: None, claimed: None, effective: None, intent: None, channel: None, secret: None, credential: None, policy: None, holder: None,
            expires: None, ended: None, cause: None, by: None, outcome: None, code: None, remedies: Vec::new(), detail: None, folded: None, more: None,
        }
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    setters! {
        /// The request it answers.
        request: RequestId;
        /// The lease it is about.
        lease: LeaseId;
        /// The caller's uid; pays for the record while no identity is known.
        uid: u32;
        /// What the attestation is worth.
        assurance: Assurance;
        /// What the assurance rests on.
        basis: Facts;
        /// Which process looked: what the attestation is worth where that one is taken over.
        attestor: Facts;
        /// What the kernel said about the subject.
        attested: Facts;
        /// What the kernel said about our client, when it spoke for the subject.
        client: Facts;
        /// Who declared the intent.
        source: Facts;
        /// The door of another protocol that the request came through.
        adapter: Facts;
        /// The declared intent.
        claimed: Facts;
        /// What is issued in truth.
        effective: Facts;
        /// Digest of what was granted, by which the records of sources are found.
        intent: Word;
        /// How the secret travels.
        channel: Channel;
        /// The exact credential, by the engine's own names.
        credential: Facts;
        /// How policy decided.
        policy: Decided;
        /// What the lease is bound to.
        holder: Holder;
        /// When the lease expires.
        expires: WallTime;
        /// How the lease ended.
        ended: Ended;
        /// The operator's request that made it end: its record names the person.
        cause: RequestId;
        /// The person who acted.
        by: Person;
        /// How it went.
        outcome: Outcome;
        /// Further members of this kind, documented with it.
        more: Facts;
    }

    /// Who it was about; pays for the record.
    pub fn identity(mut self, row: &Identity) -> Self {
        self.identity = Some(Who {
            name: row.name.clone(),
            kind: row.kind,
            owner: Some(row.owner.clone()),
            environment: Some(row.environment.clone()),
            generation: Some((&*row.generation).into()),
        });
        self
    }

    /// The same of whom nothing but this is known any more.
    pub fn former_identity(mut self, name: &IdentityName, kind: IdentityKind) -> Self {
        self.identity = Some(Who { name: name.clone(), kind, owner: None, environment: None, generation: None });
        self
    }

    /// Which secret it was about, and which version of its value where there are several.
    pub fn secret(mut self, row: &SecretDefinition, version: Option<u64>) -> Self {
        self.secret = Some(What {
            name: row.name.clone(),
            engine: row.engine.clone(),
            owner: row.owner.clone(),
            sensitivity: row.sensitivity,
            environment: Some(row.environment.clone()),
            ends_by: row.ends_by,
            generation: Some((&*row.generation).into()),
            version,
        });
        self
    }

    /// The same of a credential whose definition is gone, or says something else by now.
    pub fn former_secret(
        mut self,
        (name, engine): (&SecretName, &EngineName),
        owner: &Owner,
        (sensitivity, ends_by): (Sensitivity, EndsBy),
    ) -> Self {
        self.secret = Some(What {
            name: name.clone(),
            engine: engine.clone(),
            owner: owner.clone(),
            sensitivity,
            environment: None,
            ends_by,
            generation: None,
            version: None,
        });
        self
    }

    /// Code, remedies and detail of a refusal. Sets the outcome unless there is one.
    pub fn refusal(mut self, refusal: &Refusal) -> Self {
        self.code = Some(refusal.code.as_str().into());
        self.remedies = refusal.remedies.iter().map(|remedy| remedy.require.as_str().into()).collect();
        self.detail = Sentence::of_refusal(refusal);
        self.outcome = self.outcome.or(Some(if self.kind == Kind::Needs { Outcome::Needs } else { Outcome::Refused }));
        self
    }

    /// One sentence for operators.
    pub fn detail(mut self, detail: impl Into<Sentence>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The members as they stand in the line: empty, or starting with a comma.
    pub(super) fn members(&self) -> Result<Vec<u8>, NoJson> {
        let mut json = to_ascii_json(self)?;
        // An object: `{...}`. Its first brace becomes the comma, its last is dropped.
        json.pop();
        if json.len() == 1 {
            json.clear();
        } else {
            json[0] = b',';
        }
        Ok(json)
    }

    /// How sensitive the secret is that it is about; without one, as if it were of the highest.
    pub(super) fn sensitivity(&self) -> Sensitivity {
        self.secret.as_ref().map_or(Sensitivity::Critical, |secret| secret.sensitivity)
    }
}
