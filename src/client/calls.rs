//! Every route of both sockets as a typed call.

use super::{Client, ClientError, Delivered, Lines, connection::Answer};
use crate::{
    digest::Opener,
    model::{EngineName, LeaseId, RequestId, SecretBytes, SecretName},
    sys::{Clock, SystemClock},
    wire::{
        AllLeases, BundleAnswer, EndAnswer, EndRequest, EngineList, EvictAnswer, Explanation, FreezeRequest, Health, IdentityList,
        IdentityTry, KeptList, KeyAnswer, KeyList, KeyRequest, LeaseAnswer, LeaseList, LeaseRequest, ReconcileAnswer, ReconcileRequest,
        RotationAnswer, RotationList, SecretList, Status, StoredList, WhoAmI,
    },
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What workloads may ask.
impl Client {
    /// `GET /v1/health`.
    pub async fn health(&mut self) -> Result<Health, ClientError> {
        self.get("/v1/health").await
    }

    /// `GET /v1/whoami`.
    pub async fn whoami(&mut self) -> Result<WhoAmI, ClientError> {
        self.get("/v1/whoami").await
    }

    /// `POST /v1/explain`: what would be answered to this request.
    pub async fn explain(&mut self, ask: &LeaseRequest) -> Result<Explanation, ClientError> {
        self.post("/v1/explain", ask).await
    }

    /// `GET /v1/secrets`: what the caller could have; on the operator socket the catalogue.
    pub async fn secrets(&mut self) -> Result<SecretList, ClientError> {
        self.get("/v1/secrets").await
    }

    /// `POST /v1/leases`. Without a key of the caller's the request gets one, so that sending it twice gives one lease.
    pub async fn issue(&mut self, mut ask: LeaseRequest) -> Result<Delivered, ClientError> {
        if ask.idempotency_key.is_none() {
            let now = SystemClock.boot().0;
            ask.idempotency_key = Some(format!("once-{:08}-{now:016}", std::process::id()));
        }
        self.delivered(Method::POST, "/v1/leases", json(&ask)?).await
    }

    /// `GET /v1/leases`: the caller's own.
    pub async fn leases(&mut self) -> Result<LeaseList, ClientError> {
        self.get("/v1/leases").await
    }

    /// `GET /v1/leases/{id}`.
    pub async fn lease(&mut self, id: LeaseId) -> Result<LeaseAnswer, ClientError> {
        self.get(&format!("/v1/leases/{id}")).await
    }

    /// `GET /v1/leases/{id}/secret`: the value again.
    pub async fn read(&mut self, id: LeaseId) -> Result<Delivered, ClientError> {
        self.delivered(Method::GET, &format!("/v1/leases/{id}/secret"), Bytes::new()).await
    }

    /// A value, sealed to a key that is made here for this answer: whoever else holds the connection reads nothing.
    async fn delivered(&mut self, method: Method, path: &str, body: Bytes) -> Result<Delivered, ClientError> {
        let opener = Opener::generate().map_err(|_| ClientError::Protocol("no key could be made".into()))?;
        let key = STANDARD.encode(opener.seal_to());
        let (answer, nonce) = self.call_pinned(method, path, body, &key).await?;
        Delivered::of(&answer, opener, nonce.as_deref())
    }

    /// `POST /v1/leases/{id}/renew`.
    pub async fn renew(&mut self, id: LeaseId) -> Result<LeaseAnswer, ClientError> {
        self.call(Method::POST, &format!("/v1/leases/{id}/renew"), Bytes::new()).await?.read()
    }

    /// `DELETE /v1/leases/{id}`.
    pub async fn give_back(&mut self, id: LeaseId) -> Result<LeaseAnswer, ClientError> {
        self.call(Method::DELETE, &format!("/v1/leases/{id}"), Bytes::new()).await?.read()
    }

    /// `GET /v1/jwt/{jti}`: whether the lease behind a token lives.
    pub async fn token(&mut self, id: LeaseId) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jwt/{id}")).await
    }
}

/// What operators may ask.
impl Client {
    /// `GET /v1/status`.
    pub async fn status(&mut self) -> Result<Status, ClientError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/metrics`.
    pub async fn metrics(&mut self) -> Result<String, ClientError> {
        let answer = self.call(Method::GET, "/v1/metrics", Bytes::new()).await?;
        match answer.status {
            StatusCode::OK => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            _ => Err(answer.refusal()),
        }
    }

    /// `GET /v1/leases` on the operator socket: everybody's.
    pub async fn all_leases(&mut self) -> Result<AllLeases, ClientError> {
        self.get("/v1/leases").await
    }

    /// `POST /v1/leases/end`.
    pub async fn end(&mut self, which: &EndRequest) -> Result<EndAnswer, ClientError> {
        self.post("/v1/leases/end", which).await
    }

    /// `GET /v1/secrets/local`.
    pub async fn stored(&mut self) -> Result<StoredList, ClientError> {
        self.get("/v1/secrets/local").await
    }

    /// `PUT /v1/secrets/local/{name}`.
    pub async fn put(&mut self, name: &SecretName, value: SecretBytes) -> Result<Value, ClientError> {
        struct Wiped(SecretBytes);
        impl AsRef<[u8]> for Wiped {
            fn as_ref(&self) -> &[u8] {
                self.0.expose()
            }
        }
        self.call(Method::PUT, &format!("/v1/secrets/local/{name}"), Bytes::from_owner(Wiped(value))).await?.read()
    }

    /// `DELETE /v1/secrets/local/{name}`.
    pub async fn remove(&mut self, name: &SecretName) -> Result<Value, ClientError> {
        self.call(Method::DELETE, &format!("/v1/secrets/local/{name}"), Bytes::new()).await?.read()
    }

    /// `GET /v1/cache`: what is kept of values beside their sources.
    pub async fn kept(&mut self) -> Result<KeptList, ClientError> {
        self.get("/v1/cache").await
    }

    /// `DELETE /v1/cache/{name}`, or without a name all: nobody is given any more what is kept.
    pub async fn evict(&mut self, name: Option<&SecretName>) -> Result<EvictAnswer, ClientError> {
        let path = name.map_or_else(|| "/v1/cache".to_owned(), |name| format!("/v1/cache/{name}"));
        self.call(Method::DELETE, &path, Bytes::new()).await?.read()
    }

    /// `GET /v1/rotations`: how values that last stand.
    pub async fn rotations(&mut self) -> Result<RotationList, ClientError> {
        self.get("/v1/rotations").await
    }

    /// `POST /v1/rotations/{name}`: changes a value at its source, now.
    pub async fn rotate_secret(&mut self, name: &SecretName) -> Result<RotationAnswer, ClientError> {
        self.call(Method::POST, &format!("/v1/rotations/{name}"), Bytes::new()).await?.read()
    }

    /// `POST /v1/policy/check`: what a reload would say.
    pub async fn check_policy(&mut self) -> Result<BundleAnswer, ClientError> {
        bundle(&self.call(Method::POST, "/v1/policy/check", Bytes::new()).await?)
    }

    /// `POST /v1/reload`.
    pub async fn reload(&mut self) -> Result<BundleAnswer, ClientError> {
        bundle(&self.call(Method::POST, "/v1/reload", Bytes::new()).await?)
    }

    /// `POST /v1/explain?pid=N`: what that process would be answered, and why.
    pub async fn explain_for(&mut self, pid: u32, ask: &LeaseRequest) -> Result<Explanation, ClientError> {
        self.post(&format!("/v1/explain?pid={pid}"), ask).await
    }

    /// `GET /v1/identities`.
    pub async fn identities(&mut self) -> Result<IdentityList, ClientError> {
        self.get("/v1/identities").await
    }

    /// `GET /v1/identities/try?pid=N`.
    pub async fn try_identity(&mut self, pid: u32) -> Result<IdentityTry, ClientError> {
        self.get(&format!("/v1/identities/try?pid={pid}")).await
    }

    /// `GET /v1/audit?...`: records as lines.
    pub async fn audit(&mut self, query: &str) -> Result<Lines, ClientError> {
        let response = self.send(&Method::GET, &format!("/v1/audit?{query}"), &Bytes::new()).await?;
        if response.status() == StatusCode::OK {
            return Ok(Lines::new(response.into_body()));
        }
        Err(super::connection::collect(response).await?.refusal())
    }

    /// `GET /v1/why/{request}`: every record of one request.
    pub async fn why(&mut self, request: RequestId) -> Result<Value, ClientError> {
        self.get(&format!("/v1/why/{request}")).await
    }

    /// `GET /v1/jwks/{engine}`: discovery document and keys.
    pub async fn jwks(&mut self, engine: &EngineName) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jwks/{engine}")).await
    }

    /// `GET /v1/keys`.
    pub async fn keys(&mut self) -> Result<KeyList, ClientError> {
        self.get("/v1/keys").await
    }

    /// `POST /v1/keys/{key}/rotate`.
    pub async fn rotate(&mut self, key: &EngineName, asked: KeyRequest) -> Result<KeyAnswer, ClientError> {
        self.call(Method::POST, &format!("/v1/keys/{key}/rotate"), json(&asked)?).await?.read()
    }

    /// `GET /v1/engines`.
    pub async fn engines(&mut self) -> Result<EngineList, ClientError> {
        self.get("/v1/engines").await
    }

    /// `POST /v1/engines/{engine}/reconcile`.
    pub async fn reconcile(&mut self, engine: &EngineName, what: &ReconcileRequest) -> Result<ReconcileAnswer, ClientError> {
        self.post(&format!("/v1/engines/{engine}/reconcile"), what).await
    }

    /// `POST /v1/freeze`.
    pub async fn freeze(&mut self, what: &FreezeRequest) -> Result<Value, ClientError> {
        self.post("/v1/freeze", what).await
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, Bytes::new()).await?.read()
    }

    async fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        self.call(Method::POST, path, json(body)?).await?.read()
    }
}

fn json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| ClientError::Protocol(error.to_string()))
}

/// Files that make no bundle are an answer, not a refusal.
fn bundle(answer: &Answer) -> Result<BundleAnswer, ClientError> {
    match answer.status {
        StatusCode::UNPROCESSABLE_ENTITY => serde_json::from_slice(&answer.body).map_err(|error| ClientError::Protocol(error.to_string())),
        _ => answer.read(),
    }
}
