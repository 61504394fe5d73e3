//! An `oauth2` engine from its row.

use super::{
    build::BuildError,
    engines::{Tokens, secret_file},
    trust::{authorities, secret_source, split_url},
};
use crate::{
    config::{OAuth2Authentication, OAuth2Config},
    engine::{
        jwt::JwtEngine,
        oauth2::{self, Authentication, Endpoints, Subject},
    },
    model::EngineName,
    outbound::{Address, Client, Limits, TrustError},
    sys::Clock,
};
use std::{path::Path, sync::Arc, time::Duration};

/// The address of a row's endpoints.
pub(super) fn address(from: &OAuth2Config) -> Result<Address, BuildError> {
    let (origin, _) = split(from, "token_endpoint", &from.token_endpoint)?;
    Address::parse(origin, from.plain_loopback).map_err(|why| wrong(from, &format!("token_endpoint {why}")))
}

/// The row with everything that it names read or ready to be read. `tokens` are the host's own `jwt` engines.
pub(super) fn config(
    from: &OAuth2Config,
    tokens: &Tokens,
    (state, boot): (&Path, &str),
    clock: &Arc<dyn Clock>,
) -> Result<oauth2::OAuth2Config, BuildError> {
    let timeout = Duration::from_secs(u64::from(from.timeout_seconds.max(1)));
    let limits = Limits { connect: timeout.min(Duration::from_secs(2)), call: timeout, ..Limits::default() };
    let endpoints = endpoints(from)?;
    if endpoints.introspection.is_some() && endpoints.revocation.is_none() {
        return Err(wrong(from, "introspection_endpoint is where a revoked token is looked for: name revocation_endpoint too"));
    }
    if from.client_id.is_empty() || !from.client_id.bytes().all(|byte| (0x20..=0x7e).contains(&byte)) {
        return Err(wrong(from, "client_id: printable ASCII (RFC 6749, A.1)"));
    }
    let address = address(from)?;
    let trust = if address.is_tls() { Some(authorities(from.ca_file.as_deref()).map_err(|what| wrong(from, &what))?) } else { None };
    let client = Client::new(address, from.server_name.as_deref(), || trust.ok_or(TrustError::None), None, limits, clock.clone());
    let subject = from.exchange.as_ref().map(|exchange| {
        let signer = signer(from, tokens, "exchange", &exchange.engine)?;
        Ok::<_, BuildError>(Subject { signer, audience: exchange.audience.clone() })
    });
    Ok(oauth2::OAuth2Config {
        name: from.name.clone(),
        client: client.map_err(|error| wrong(from, &error.to_string()))?,
        endpoints,
        client_id: from.client_id.clone(),
        authentication: authentication(from, tokens)?,
        subject: subject.transpose()?,
        max_ttl: from.max_ttl,
        notes: state.join(format!("oauth2-{}", from.name)),
        timeout,
        boot: boot.into(),
    })
}

/// All are called by one client, so all are at one host.
pub(super) fn endpoints(from: &OAuth2Config) -> Result<Endpoints, BuildError> {
    let (origin, token) = split(from, "token_endpoint", &from.token_endpoint)?;
    let other = |what: &str, url: &Option<String>| {
        let Some(url) = url else { return Ok(None) };
        match split(from, what, url)? {
            (place, path) if place == origin => Ok(Some(path)),
            _ => Err(wrong(from, &format!("{what} is at another host than token_endpoint"))),
        }
    };
    let revocation = other("revocation_endpoint", &from.revocation_endpoint)?;
    Ok(Endpoints { token, revocation, introspection: other("introspection_endpoint", &from.introspection_endpoint)? })
}

/// Where a URL goes, and to which path there.
fn split<'a>(from: &OAuth2Config, what: &str, url: &'a str) -> Result<(&'a str, String), BuildError> {
    match split_url(url) {
        Ok((_, path)) if path.is_empty() => Err(wrong(from, &format!("{what}: https://HOST/PATH"))),
        split => split.map_err(|why| wrong(from, &format!("{what}: {why}"))),
    }
}

fn authentication(from: &OAuth2Config, tokens: &Tokens) -> Result<Authentication, BuildError> {
    let secret = |file: &Option<std::path::PathBuf>, credential: &Option<String>| {
        let named = secret_file(credential.as_deref(), file.as_deref()).map_err(|why| wrong(from, &format!("authenticate: {why}")))?;
        secret_source(named.ok_or_else(|| wrong(from, "authenticate: name secret_file or secret_credential"))?)
    };
    Ok(match &from.authenticate {
        OAuth2Authentication::ClientSecretBasic { secret_file, secret_credential } => {
            Authentication::Basic(secret(secret_file, secret_credential)?)
        }
        OAuth2Authentication::ClientSecretPost { secret_file, secret_credential } => {
            Authentication::Post(secret(secret_file, secret_credential)?)
        }
        OAuth2Authentication::PrivateKeyJwt { engine, audience } => {
            Authentication::PrivateKeyJwt { signer: signer(from, tokens, "authenticate", engine)?, audience: audience.clone() }
        }
    })
}

fn signer(from: &OAuth2Config, tokens: &Tokens, what: &str, engine: &EngineName) -> Result<Arc<JwtEngine>, BuildError> {
    let found = tokens.iter().find(|(name, _)| name == engine);
    found.map(|(_, signer)| signer.clone()).ok_or_else(|| wrong(from, &format!("{what}: there is no jwt engine {engine}")))
}

fn wrong(from: &OAuth2Config, what: &str) -> BuildError {
    BuildError::Config(format!("engine {}: {what}", from.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, EngineConfig, File},
        sys::SystemClock,
    };

    fn problem(more: &str) -> String {
        let text =
            format!("[[engine]]\nkind = \"oauth2\"\nname = \"as\"\nclient_id = \"c\"\nmax_ttl = \"1h\"\nplain_loopback = true\n{more}");
        let parsed = Config::parse(&File { path: "c.toml".into(), text }).unwrap();
        let Some(EngineConfig::OAuth2(row)) = parsed.engines.first() else { panic!("{parsed:?}") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        config(row, &Vec::new(), (Path::new("/s"), "boot"), &clock).err().map_or_else(|| "none".into(), |error| error.to_string())
    }

    #[test]
    fn a_mistake_in_a_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().canonicalize().unwrap().join("secret");
        std::fs::write(&secret, "s").unwrap();
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let good = format!("authenticate = {{ method = \"client_secret_basic\", secret_file = \"{}\" }}\n", secret.display());
        let here = "token_endpoint = \"http://127.0.0.1:9/token\"\n";
        assert_eq!(problem(&format!("{here}{good}")), "none");
        for (text, wanted) in [
            (format!("token_endpoint = \"as.example.com\"\n{good}"), "token_endpoint: https://HOST/PATH"),
            (format!("token_endpoint = \"ftp://as.example.com/token\"\n{good}"), "token_endpoint must be https"),
            (format!("token_endpoint = \"http://as.example.com/token\"\n{good}"), "this host only"),
            (format!("{here}revocation_endpoint = \"http://127.0.0.1:8/revoke\"\n{good}"), "at another host"),
            (format!("{here}revocation_endpoint = \"http://127.0.0.1:9/a b\"\n{good}"), "without spaces"),
            (format!("{here}introspection_endpoint = \"http://127.0.0.1:9/i\"\n{good}"), "name revocation_endpoint too"),
            (format!("{here}authenticate = {{ method = \"client_secret_post\" }}\n"), "name secret_file or secret_credential"),
            (format!("{here}authenticate = {{ method = \"private_key_jwt\", engine = \"no\", audience = \"a\" }}\n"), "no jwt engine no"),
            (format!("{here}{good}exchange = {{ engine = \"no\", audience = \"a\" }}\n"), "exchange: there is no jwt engine no"),
        ] {
            let said = problem(&text);
            assert!(said.starts_with("engine as: ") && said.contains(wanted), "{text}: {said}");
        }
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(problem(&format!("{here}{good}")).contains("must be 0600 or 0400"));
    }
}
