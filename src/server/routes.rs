//! Every route of both sockets: one list, which the API description is held against.

use hyper::Method;

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// `workload` or `operator`.
    pub socket: &'static str,
    /// HTTP method.
    pub method: &'static str,
    /// Path with `{...}` for parameters.
    pub path: &'static str,
}

macro_rules! routes {
    ($($socket:literal $method:literal $path:literal;)*) => {
        /// All of them.
        pub const ROUTES: &[Route] = &[$(Route { socket: $socket, method: $method, path: $path }),*];
    };
}

routes! {
    "workload" "GET" "/v1/health";
    "workload" "GET" "/v1/whoami";
    "workload" "POST" "/v1/explain";
    "workload" "GET" "/v1/secrets";
    "workload" "POST" "/v1/leases";
    "workload" "GET" "/v1/leases";
    "workload" "GET" "/v1/leases/{id}";
    "workload" "DELETE" "/v1/leases/{id}";
    "workload" "GET" "/v1/leases/{id}/secret";
    "workload" "POST" "/v1/leases/{id}/renew";
    "workload" "GET" "/v1/watch";
    "workload" "GET" "/v1/jwt/{jti}";
    "workload" "GET" "/v1/secret/data/{name}";
    "workload" "GET" "/v1/secret/metadata";
    "workload" "GET" "/v1/secret/metadata/{name}";
    "workload" "GET" "/v1/creds/{name}";
    "workload" "GET" "/v1/database/creds/{name}";
    "workload" "GET" "/v1/sys/internal/ui/mounts/{name}";
    "workload" "GET" "/v1/sys/seal-status";
    "workload" "GET" "/v1/sys/leader";
    "workload" "PUT" "/v1/sys/leases/lookup";
    "workload" "PUT" "/v1/sys/leases/renew";
    "workload" "PUT" "/v1/sys/leases/revoke";
    "workload" "PUT" "/v1/sys/leases/revoke/{id}";
    "workload" "PUT" "/v1/sys/capabilities-self";
    "workload" "GET" "/v1/auth/token/lookup-self";
    "workload" "PUT" "/v1/auth/token/renew-self";
    "workload" "PUT" "/v1/auth/token/revoke-self";
    "operator" "GET" "/v1/health";
    "operator" "GET" "/v1/status";
    "operator" "GET" "/v1/metrics";
    "operator" "GET" "/v1/leases";
    "operator" "POST" "/v1/leases/end";
    "operator" "GET" "/v1/secrets";
    "operator" "GET" "/v1/secrets/local";
    "operator" "PUT" "/v1/secrets/local/{name}";
    "operator" "DELETE" "/v1/secrets/local/{name}";
    "operator" "GET" "/v1/cache";
    "operator" "DELETE" "/v1/cache";
    "operator" "DELETE" "/v1/cache/{name}";
    "operator" "GET" "/v1/rotations";
    "operator" "POST" "/v1/rotations/{name}";
    "operator" "POST" "/v1/policy/check";
    "operator" "POST" "/v1/reload";
    "operator" "POST" "/v1/explain";
    "operator" "GET" "/v1/identities";
    "operator" "GET" "/v1/identities/try";
    "operator" "GET" "/v1/audit";
    "operator" "GET" "/v1/why/{request}";
    "operator" "GET" "/v1/jwks/{engine}";
    "operator" "GET" "/v1/engines";
    "operator" "POST" "/v1/engines/{engine}/reconcile";
    "operator" "GET" "/v1/keys";
    "operator" "POST" "/v1/keys/{key}/rotate";
    "operator" "POST" "/v1/freeze";
}

/// What a request matched.
pub(super) enum Matched {
    /// This route, with what stood in place of its parameter (at most one, always the rest of its segments).
    Route(&'static Route, Option<String>),
    /// The path exists with other methods.
    OtherMethod,
    /// Nothing.
    Nothing,
}

/// Finds the route. A parameter is one segment, except that names of secrets keep their slashes.
pub(super) fn find(socket: &str, method: &Method, path: &str) -> Matched {
    let mut other = false;
    for route in ROUTES.iter().filter(|route| route.socket == socket) {
        if let Some(parameter) = fits(route.path, path) {
            if route.method == method.as_str() {
                return Matched::Route(route, parameter);
            }
            other = true;
        }
    }
    if other { Matched::OtherMethod } else { Matched::Nothing }
}

fn fits(pattern: &str, path: &str) -> Option<Option<String>> {
    let Some((before, rest)) = pattern.split_once('{') else { return (pattern == path).then_some(None) };
    let (name, after) = rest.split_once('}')?;
    let middle = path.strip_prefix(before)?.strip_suffix(after)?;
    let one_segment = !middle.contains('/') || name == "name";
    // "end" and "local" are words of their own, not ids; ids never look like them.
    (!middle.is_empty() && one_segment).then(|| Some(middle.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(socket: &str, method: &str, path: &str) -> Option<(&'static str, Option<String>)> {
        match find(socket, &method.parse().unwrap(), path) {
            Matched::Route(route, parameter) => Some((route.path, parameter)),
            Matched::OtherMethod | Matched::Nothing => None,
        }
    }

    #[test]
    fn each_path_has_one_route() {
        assert_eq!(found("workload", "GET", "/v1/leases"), Some(("/v1/leases", None)));
        assert_eq!(found("workload", "GET", "/v1/leases/x/secret"), Some(("/v1/leases/{id}/secret", Some("x".into()))));
        assert_eq!(found("workload", "GET", "/v1/leases/x"), Some(("/v1/leases/{id}", Some("x".into()))));
        assert_eq!(found("operator", "PUT", "/v1/secrets/local/a/b"), Some(("/v1/secrets/local/{name}", Some("a/b".into()))));
        assert_eq!(found("workload", "GET", "/v1/status"), None);
        assert_eq!(found("workload", "GET", "/v1/leases/"), None);
        assert_eq!(found("workload", "GET", "/v1/leases/a/b"), None);
        assert!(matches!(find("workload", &Method::PUT, "/v1/leases"), Matched::OtherMethod));
    }
}
