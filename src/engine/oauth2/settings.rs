//! What an operator sets for each secret, and what of it goes with an order.

use super::super::{EngineError, Order, bearer::ByTarget, narrows::ByOperation};
use crate::model::{Operation, SecretDefinition, Target};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;

/// `requested_token_type` and `issued_token_type` of an access token (RFC 8693, 3).
pub(super) const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// How a token is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Grant {
    /// RFC 6749, 4.4: in our own name.
    #[default]
    ClientCredentials,
    /// RFC 8693: about the identity that asked us.
    TokenExchange,
}

/// The settings of one secret.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    #[serde(default)]
    pub(super) grant: Grant,
    scope: ByOperation<BTreeSet<String>>,
    #[serde(default)]
    targets: ByTarget,
    #[serde(default)]
    resource: Vec<String>,
    #[serde(default)]
    pub(super) audience: Vec<String>,
    pub(super) requested_token_type: Option<String>,
}

/// What is asked for.
pub(super) struct Wanted<'a> {
    pub(super) scope: BTreeSet<&'a str>,
    pub(super) resource: Vec<&'a str>,
}

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Settings =
            serde_json::from_value(Value::Object(secret.settings.clone())).map_err(|why| format!("{}: settings: {why}", secret.name))?;
        settings.check(secret).map_err(|what| format!("{}: {what}", secret.name))?;
        Ok(settings)
    }

    fn check(&self, secret: &SecretDefinition) -> Result<(), String> {
        if self.all_scopes().is_empty() || !self.all_scopes().iter().all(|scope| is_scope(scope)) {
            return Err("scope: at least one, each a word without spaces, quotes and backslashes (RFC 6749, 3.3)".into());
        }
        self.scope.check(secret.operation).and_then(|()| self.scope.check_growth()).map_err(|what| format!("scope: {what}"))?;
        self.targets.check(secret, &self.all_scopes(), "scope")?;
        if let Some(wrong) = self.resource.iter().find(|uri| place(uri).is_none()) {
            return Err(format!("resource: {wrong:?} is no URI with a host and without a fragment (RFC 8707, 2)"));
        }
        if self.audience.iter().any(|audience| !is_text(audience)) {
            return Err("audience: names without control characters, none of them empty".into());
        }
        match (&self.requested_token_type, self.grant) {
            (Some(_), Grant::ClientCredentials) => Err("requested_token_type goes with grant = \"token_exchange\"".into()),
            (Some(kind), _) if !is_text(kind) => Err("requested_token_type: an identifier of RFC 8693, 3".into()),
            (Some(kind), _) if kind.ends_with(":refresh_token") => {
                Err("requested_token_type: a refresh token outlives every lease and is not asked for".into())
            }
            _ => Ok(()),
        }
    }

    /// The operations below the worst that have a row of their own, with fewer scopes.
    pub(super) fn narrows(&self, worst: Operation) -> Vec<Operation> {
        self.scope.narrows(worst)
    }

    fn all_scopes(&self) -> BTreeSet<&str> {
        self.scope.all().flatten().map(String::as_str).collect()
    }

    /// What goes with the operation and the targets that were granted; never more than the settings say.
    pub(super) fn wanted<'a>(&'a self, order: &Order<'_>) -> Result<Wanted<'a>, EngineError> {
        let name = &order.secret.name;
        let missing = || EngineError::Setup(format!("{name}: scope has no row for the operation {}", order.operation));
        let scopes = self.scope.at(order.operation).ok_or_else(missing)?;
        let scope: BTreeSet<&str> = scopes.iter().map(String::as_str).filter(|scope| self.targets.grants(scope, order.hosts)).collect();
        if scope.is_empty() {
            return Err(EngineError::Refused(format!(
                "{name}: none of its scopes goes with the operation and the targets that were granted"
            )));
        }
        let resource: Vec<&str> =
            self.resource.iter().map(String::as_str).filter(|uri| is_granted(uri, &order.secret.hosts, order.hosts)).collect();
        if resource.is_empty() && !self.resource.is_empty() {
            return Err(EngineError::Refused(format!("{name}: none of its resources is among the targets that were granted")));
        }
        Ok(Wanted { scope, resource })
    }
}

/// Whether a resource may be asked for: one that is not at any host of the secret always, else its target must have been granted.
fn is_granted(uri: &str, hosts: &[Target], granted: &[Target]) -> bool {
    // What has no place does not pass the check.
    let Some((host, port)) = place(uri) else { return false };
    let is_it = |target: &&Target| target.as_str() == host || Some(target.as_str()) == port.map(|port| format!("{host}:{port}")).as_deref();
    let mut here = hosts.iter().filter(is_it).peekable();
    here.peek().is_none() || here.any(|target| granted.contains(target))
}

/// Host and port of a URI, its scheme's port if it names none.
fn place(uri: &str) -> Option<(String, Option<u16>)> {
    let (scheme, rest) = uri.split_once("://")?;
    let authority = rest.split(['/', '?']).next()?;
    let host_and_port = authority.rsplit_once('@').map_or(authority, |(_, after)| after);
    let (host, port) = match host_and_port.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().ok()?)),
        None => (
            host_and_port,
            match scheme {
                "https" => Some(443),
                "http" => Some(80),
                _ => None,
            },
        ),
    };
    let sound = !host.is_empty() && is_text(uri) && !uri.contains([' ', '#']);
    sound.then(|| (host.to_ascii_lowercase(), port))
}

fn is_text(text: &str) -> bool {
    (1..=512).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// `scope-token` of RFC 6749, 3.3.
pub(super) fn is_scope(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const ROW: &str = "[[secret]]\nname = \"api/orders\"\nengine = \"as\"\nowner = \"team\"\nsensitivity = \"internal\"\nenvironment = \"prod\"\n\
                       purposes = [\"serve-orders\"]\noperation = \"write\"\nhosts = [\"api.example.com:443\"]\nttl = { max = \"1h\" }\n\
                       description = \"d\"\n";

    fn row(settings: Value) -> SecretDefinition {
        crate::config::one_with(ROW, &settings)
    }

    fn problem(settings: Value) -> String {
        Settings::parse(&row(settings)).err().unwrap_or_else(|| "none".into())
    }

    #[test]
    fn it_is_kept_to_operations_with_a_row_of_their_own() {
        let narrows = |scope: Value| Settings::parse(&row(json!({"scope": scope}))).unwrap().narrows(Operation::Write);
        assert_eq!(narrows(json!(["a"])), []);
        assert_eq!(narrows(json!({"read": ["a"], "write": ["a", "b"]})), [Operation::Read]);
        assert_eq!(narrows(json!({"read": ["b", "a"], "write": ["a", "b"]})), [], "the same is not less");
    }

    #[test]
    fn a_smaller_operation_never_has_more() {
        for good in [
            json!({"scope": ["a"]}),
            json!({"scope": {"read": ["a"], "write": ["a", "b"]}, "targets": {"api.example.com:443": ["b"]}}),
            json!({"scope": ["a"], "resource": ["https://api.example.com/x"], "audience": ["x"]}),
            json!({"scope": ["a"], "grant": "token_exchange", "requested_token_type": ACCESS_TOKEN}),
        ] {
            assert_eq!(problem(good.clone()), "none", "{good}");
        }
        for (bad, wanted) in [
            (json!({}), "scope"),
            (json!({"scope": []}), "scope: at least one"),
            (json!({"scope": ["a b"]}), "scope: at least one"),
            (json!({"scope": {"read": ["a"]}}), "no row for the operation write"),
            (json!({"scope": {"read": ["a"], "write": ["a"], "admin": ["a", "b"]}}), "has a row for admin"),
            (json!({"scope": {"read": ["a", "c"], "write": ["a", "b"]}}), "read has \"c\""),
            (json!({"scope": ["a"], "targets": {"other.example.com": ["a"]}}), "not among the secret's hosts"),
            (json!({"scope": ["a"], "targets": {"api.example.com:443": ["b"]}}), "not among scope"),
            (json!({"scope": ["a"], "resource": ["api.example.com"]}), "resource"),
            (json!({"scope": ["a"], "resource": ["https://x/#f"]}), "resource"),
            (json!({"scope": ["a"], "requested_token_type": ACCESS_TOKEN}), "goes with grant"),
            (
                json!({"scope": ["a"], "grant": "token_exchange", "requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}),
                "outlives",
            ),
            (json!({"scope": ["a"], "grant": "password"}), "settings"),
            (json!({"scope": ["a"], "life": 3}), "life"),
        ] {
            let said = problem(bad.clone());
            assert!(said.starts_with("api/orders: ") && said.contains(wanted), "{bad}: {said}");
        }
    }

    #[test]
    fn a_resource_is_at_a_place() {
        assert_eq!(place("https://API.example.com/v1?x"), Some(("api.example.com".into(), Some(443))));
        assert_eq!(place("https://u@api.example.com:8443"), Some(("api.example.com".into(), Some(8443))));
        assert_eq!(place("spiffe://example.com/x"), Some(("example.com".into(), None)));
        for bad in ["", "x", "https://", "https:///x", "https://x:y/", "https://x y", "https://x#f"] {
            assert_eq!(place(bad), None, "{bad}");
        }
        let targets = |names: &[&str]| names.iter().map(|name| Target::parse(name).unwrap()).collect::<Vec<_>>();
        let hosts = targets(&["a.example.com:443", "b.example.com"]);
        assert!(is_granted("https://a.example.com/", &hosts, &targets(&["a.example.com:443"])));
        assert!(!is_granted("https://a.example.com/", &hosts, &targets(&["b.example.com"])));
        assert!(is_granted("https://b.example.com:8443/", &hosts, &targets(&["b.example.com"])));
        assert!(is_granted("https://elsewhere.example.com/", &hosts, &[]));
    }
}
