//! Which requests are in Vault's words, and which of its paths are served.

use super::{
    super::routes::{self, Matched, Route},
    body::Read,
    spelled,
};
use crate::model::{Code, Refusal, SecretName};
use hyper::{Method, Request};

/// Where the paths of this door begin, below `/v1/`.
const BELOW: [&str; 5] = ["secret/", "creds/", "database/", "sys/", "auth/"];

/// The mounts with the type and version that clients are told, and what their paths begin with where a secret is read.
pub(super) const MOUNTS: [Mount; 3] = [
    Mount { path: "secret/", kind: "kv", version: Some("2"), read: "secret/data/" },
    Mount { path: "creds/", kind: "claviger", version: None, read: "creds/" },
    // What clients of Vault's database engine have in their code.
    Mount { path: "database/", kind: "claviger", version: None, read: "database/creds/" },
];

/// One mount.
pub(super) struct Mount {
    pub(super) path: &'static str,
    pub(super) kind: &'static str,
    pub(super) version: Option<&'static str>,
    pub(super) read: &'static str,
}

/// Whether a request expects an answer in Vault's shapes: by its path, or by the header that all clients of Vault send.
pub(in crate::server) fn is_spoken<B>(request: &Request<B>) -> bool {
    let below = request.uri().path().strip_prefix("/v1/");
    below.is_some_and(|path| BELOW.iter().any(|begin| path.starts_with(begin))) || request.headers().contains_key("x-vault-request")
}

/// The route of a path, with what stood in place of its parameter. Our own routes are none of these.
pub(super) fn find(method: &Method, path: &str) -> Result<(&'static Route, Option<String>), Refusal> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let below = path.strip_prefix("/v1/").unwrap_or_default();
    if BELOW.iter().any(|begin| below.starts_with(begin)) {
        match routes::find("workload", &spelled(method), path) {
            Matched::Route(route, _) if method.as_str() == "LIST" && !route.path.starts_with("/v1/secret/metadata") => {
                return Err(Refusal::new(Code::METHOD));
            }
            Matched::Route(route, parameter) => return Ok((route, parameter)),
            Matched::OtherMethod => return Err(Refusal::new(Code::METHOD)),
            Matched::Nothing => {}
        }
    }
    Err(Refusal::new(Code::NO_ROUTE).message(
        "unsupported path: secrets are read as secret/data/NAME (kv get -mount=secret NAME) and creds/NAME; nothing is written here.",
    ))
}

/// The name of a secret in a path. What is no name is nobody's secret.
pub(super) fn secret(parameter: Option<&str>) -> Result<SecretName, Refusal> {
    SecretName::parse(parameter.unwrap_or_default()).map_err(|_| Refusal::new(Code::NOT_FOUND))
}

/// What a path below `/v1/` would read, by the beginning that it has, and what follows that.
pub(super) fn read_at(path: &str) -> Option<(Read, &str)> {
    let mount = MOUNTS.iter().find(|mount| path.starts_with(mount.read))?;
    Some((if mount.version.is_some() { Read::Kv } else { Read::Leased }, &path[mount.read.len()..]))
}

/// The secret that a path below `/v1/` would read.
pub(super) fn read_by(path: &str) -> Option<SecretName> {
    SecretName::parse(read_at(path)?.1).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Result<(&'static str, Option<String>), Code> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        find(&method, path).map(|(route, parameter)| (route.path, parameter)).map_err(|refusal| refusal.code)
    }

    #[test]
    fn paths_of_vault_and_no_others() {
        assert_eq!(found("GET", "/v1/secret/data/app/db"), Ok(("/v1/secret/data/{name}", Some("app/db".into()))));
        assert_eq!(found("LIST", "/v1/secret/metadata/"), Ok(("/v1/secret/metadata", None)));
        assert_eq!(found("GET", "/v1/secret/metadata/app/"), Ok(("/v1/secret/metadata/{name}", Some("app".into()))));
        assert_eq!(found("POST", "/v1/sys/leases/renew"), Ok(("/v1/sys/leases/renew", None)));
        assert_eq!(found("PUT", "/v1/sys/leases/revoke/lease-1"), Ok(("/v1/sys/leases/revoke/{id}", Some("lease-1".into()))));
        for method in ["PUT", "LIST", "DELETE"] {
            assert_eq!(found(method, "/v1/secret/data/app/db"), Err(Code::METHOD), "{method}");
        }
        for other in
            ["/v1/leases", "/v1/secrets", "/v1/secret", "/v1/secret/app", "/v1/sys/leases/revoke-prefix/x", "/v1/", "/", "/v1/kv/a"]
        {
            assert_eq!(found("GET", other), Err(Code::NO_ROUTE), "{other}");
        }
    }

    #[test]
    fn a_path_names_a_secret_in_one_way_for_each_mount() {
        let name = |path| read_by(path).map(|name| name.to_string());
        assert_eq!(name("secret/data/app/db"), Some("app/db".into()));
        assert_eq!(name("creds/db"), Some("db".into()));
        assert_eq!(name("database/creds/db"), Some("db".into()));
        for none in ["secret/app/db", "secret/data/", "secret/data/A", "secret/data/../x", "creds/", "sys/seal-status"] {
            assert_eq!(name(none), None, "{none}");
        }
    }
}
