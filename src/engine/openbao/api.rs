//! The server's HTTP API: one call, its answer, and whose fault a failure is.

use super::super::EngineError;
use crate::outbound::{Answer, Call, CallError, Client, Method, Unanswered};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::{future::Future, time::Duration};
use zeroize::Zeroizing;

/// The server's words are cut to this: they are for one line of a log.
const MAX_WORDS: usize = 300;

pub(super) struct Api {
    client: Client,
    namespace: Option<String>,
}

/// What every answer looks like (OpenBao API, "Secrets engines"). Members that are not there are as if empty.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Reply {
    pub(super) lease_id: String,
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
    pub(super) data: Option<Map<String, Value>>,
    pub(super) auth: Option<Auth>,
}

/// A token that was made.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Auth {
    pub(super) client_token: String,
    pub(super) accessor: String,
    pub(super) lease_duration: u64,
    pub(super) renewable: bool,
    pub(super) orphan: bool,
    pub(super) token_type: String,
    pub(super) policies: Vec<String>,
}

/// Why a call was not answered with a success.
pub(super) enum Fault {
    /// 403: this token may not, or is none.
    Denied(String),
    /// 404 as OpenBao says that nothing is there, or not any more.
    Absent,
    /// 404 with what is known of something that was there: a deleted version.
    Deleted,
    /// Another 4xx, or a 404 with a reason: the server does not want to.
    Rejected(u16, String),
    /// 429 or 5xx: not now.
    Busy(u16, String, Option<Duration>),
    /// Not the JSON that it should be.
    Malformed,
    /// There was no answer.
    Call(Unanswered),
}

impl Fault {
    /// The server's word for a token that it does not know, when it is asked about one by its id or its accessor.
    pub(super) fn is_unknown_token(&self) -> bool {
        match self {
            Fault::Denied(text) => text.contains("bad token"),
            Fault::Rejected(400, text) => text.contains("invalid accessor") || text.contains("token not found"),
            _ => false,
        }
    }

    /// Its word for a caller whose token it does not know any more; who may not do this one thing is told less.
    pub(super) fn is_dead_token(&self) -> bool {
        matches!(self, Fault::Denied(text) if text.contains("invalid token"))
    }

    /// Whether it is certain that nothing of the call went out.
    pub(super) fn is_unsent(&self) -> bool {
        matches!(self, Fault::Call(unanswered) if !unanswered.sent || crate::mutation!("openbao-unsent"))
    }

    /// The same for the operator, with what was being done.
    pub(super) fn during(self, doing: &str) -> EngineError {
        match self {
            Fault::Denied(text) => EngineError::Setup(format!("{doing}: {text} (403): the policy of the token lacks it")),
            Fault::Absent | Fault::Deleted => EngineError::Setup(format!("{doing}: there is nothing (404)")),
            Fault::Rejected(404, text) => EngineError::Setup(format!("{doing}: {text} (404)")),
            Fault::Rejected(status, text) => EngineError::Refused(format!("{doing}: {text} ({status})")),
            Fault::Busy(status, text, None) => EngineError::Unreachable(format!("{doing}: {text} ({status})")),
            Fault::Busy(status, text, Some(after)) => {
                EngineError::Busy(format!("{doing}: {text} ({status}, asks to wait {} s)", after.as_secs()), after)
            }
            Fault::Malformed => EngineError::Unreachable(format!("{doing}: the answer is not what OpenBao answers")),
            Fault::Call(Unanswered { error, .. }) => match error {
                error if error.is_setup() => EngineError::Setup(format!("{doing}: {error}")),
                CallError::AskedToWait(after) => EngineError::Busy(format!("{doing}: {error}"), after),
                error => EngineError::Unreachable(format!("{doing}: {error}")),
            },
        }
    }
}

impl Api {
    pub(super) fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace }
    }

    /// The namespace that every call is in, if it is not the root's.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// As [`Client::ending`].
    pub(super) async fn ending<T>(&self, work: impl Future<Output = T>) -> T {
        self.client.ending(work).await
    }

    /// Reads what is at a path.
    pub(super) async fn get(&self, token: &[u8], path: &str) -> Result<Reply, Fault> {
        self.call(Method::Get, Some(token), path, None, true).await
    }

    /// The same where reading makes something, so that it is never sent twice.
    pub(super) async fn get_once(&self, token: &[u8], path: &str) -> Result<Reply, Fault> {
        self.call(Method::Get, Some(token), path, None, false).await
    }

    /// Does something; `repeatable` where doing it twice is as good as once.
    pub(super) async fn put(&self, token: Option<&[u8]>, path: &str, body: &impl Serialize, repeatable: bool) -> Result<Reply, Fault> {
        // Large enough for all of ours, so that it does not grow and leave copies.
        let mut text = Zeroizing::new(Vec::with_capacity(4096));
        serde_json::to_writer(&mut *text, body).map_err(|_| Fault::Malformed)?;
        self.call(Method::Put, token, path, Some(text), repeatable).await
    }

    async fn call(
        &self,
        method: Method,
        token: Option<&[u8]>,
        path: &str,
        body: Option<Zeroizing<Vec<u8>>>,
        repeatable: bool,
    ) -> Result<Reply, Fault> {
        let mut headers: Vec<(&'static str, &[u8])> = vec![("x-vault-request", b"true")];
        headers.extend(token.map(|token| ("x-vault-token", token)));
        headers.extend(self.namespace.as_deref().map(|namespace| ("x-vault-namespace", namespace.as_bytes())));
        let path = format!("/v1/{path}");
        let answer = self.client.call_told(Call { method, path: &path, headers: &headers, body, repeatable }).await.map_err(Fault::Call)?;
        match answer.status {
            200 => read(&answer),
            202 | 204 => Ok(Reply::default()),
            403 => Err(Fault::Denied(words(&answer))),
            404 => Err(missing(&answer)),
            status @ 400..429 => Err(Fault::Rejected(status, words(&answer))),
            status => Err(Fault::Busy(status, words(&answer), answer.retry_after)),
        }
    }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T, Fault> {
    // The parser would take a list for an object whose members are all missing.
    if !answer.body.trim_ascii_start().starts_with(b"{") {
        return Err(Fault::Malformed);
    }
    serde_json::from_slice(&answer.body).map_err(|_| Fault::Malformed)
}

/// OpenBao's 404 has an empty list of reasons, or says what is known of what was there; one with a reason or a warning, or one that says nothing
/// in the form of any answer, is about the path or the namespace. Any other is of somebody between us and the server, and says nothing about
/// what is there.
fn missing(answer: &Answer) -> Fault {
    let Ok(body) = read::<Map<String, Value>>(answer) else { return Fault::Malformed };
    let texts = |name: &str| body.get(name).and_then(|texts| Vec::<String>::deserialize(texts).ok());
    let is_answer = ["request_id", "lease_id", "auth", "data"].iter().all(|name| body.contains_key(*name));
    let known = body.get("data").and_then(|data| data.get("metadata")).is_some_and(Value::is_object);
    match texts("errors") {
        _ if crate::mutation!("openbao-missing") => Fault::Absent,
        Some(errors) if errors.is_empty() => Fault::Absent,
        Some(errors) => Fault::Rejected(404, line(&errors)),
        None if is_answer && known => Fault::Deleted,
        None if is_answer => Fault::Rejected(404, line(&texts("warnings").unwrap_or_default())),
        None => Fault::Malformed,
    }
}

/// What the server gives as the reason, on one line.
fn words(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<String>,
    }
    line(&serde_json::from_slice(&answer.body).map_or_else(|_| Vec::new(), |errors: Errors| errors.errors))
}

fn line(reasons: &[String]) -> String {
    let line = reasons.join("; ").split_whitespace().collect::<Vec<_>>().join(" ");
    let line = line.trim_start_matches("1 error occurred: * ");
    match line.is_empty() {
        true => "no reason was given".into(),
        false => line.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect(),
    }
}

/// A path of the API from an operator's text: what a URL does not take as it is, is written as `%XX`.
pub(super) fn encoded(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b'@' | b':' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
