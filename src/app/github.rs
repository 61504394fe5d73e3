//! A `github-app` engine from its row.

use super::{
    build::BuildError,
    engines::secret_file,
    trust::{MAX_SECRET, authorities, split_url},
};
use crate::{
    config::GitHubConfig,
    digest::RsaKey,
    engine::github,
    outbound::{Address, Client, Limits, TrustError},
    sys::{self, Clock},
};
use std::{path::Path, sync::Arc, time::Duration};

/// Bytes of an answer: GitHub describes each repository of a token in some six thousand.
const ANSWER_BYTES: usize = 4 << 20;

/// The address of a row's API.
pub(super) fn address(from: &GitHubConfig) -> Result<Address, BuildError> {
    let (origin, _) = split_url(&from.api).map_err(|what| wrong(from, &format!("api: {what}")))?;
    Address::parse(origin, from.plain_loopback).map_err(|why| wrong(from, &format!("api {why}")))
}

/// The row with everything that it names read.
pub(super) fn config(
    from: &GitHubConfig,
    (state, boot): (&Path, &str),
    clock: &Arc<dyn Clock>,
) -> Result<github::GitHubConfig, BuildError> {
    let timeout = Duration::from_secs(u64::from(from.timeout_seconds.max(1)));
    let limits = Limits { connect: timeout.min(Duration::from_secs(2)), call: timeout, answer_bytes: ANSWER_BYTES, ..Limits::default() };
    let (_, base) = split_url(&from.api).map_err(|what| wrong(from, &format!("api: {what}")))?;
    if from.app.is_empty() || !from.app.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_') {
        return Err(wrong(from, "app: the app's id (digits) or client id"));
    }
    let key = secret_file(from.key_credential.as_deref(), from.key_file.as_deref()).map_err(|what| wrong(from, &format!("key: {what}")))?;
    let key = sys::read_private(&key.ok_or_else(|| wrong(from, "name key_file or key_credential"))?, MAX_SECRET)?;
    let key =
        RsaKey::from_pem(key.expose()).map_err(|_| wrong(from, "key: is no RSA key of at least 2048 bits in PEM (PKCS #1 or PKCS #8)"))?;
    let address = address(from)?;
    let trust = if address.is_tls() { Some(authorities(from.ca_file.as_deref()).map_err(|what| wrong(from, &what))?) } else { None };
    let client = Client::new(address, from.server_name.as_deref(), || trust.ok_or(TrustError::None), None, limits, clock.clone());
    Ok(github::GitHubConfig {
        name: from.name.clone(),
        client: client.map_err(|error| wrong(from, &error.to_string()))?,
        base: base.trim_end_matches('/').to_owned(),
        app: from.app.clone(),
        installation: from.installation,
        key,
        notes: state.join(format!("github-{}", from.name)),
        timeout,
        boot: boot.into(),
    })
}

fn wrong(from: &GitHubConfig, what: &str) -> BuildError {
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
        let text = format!("[[engine]]\nkind = \"github-app\"\nname = \"gh\"\ninstallation = 7\n{more}");
        let parsed = Config::parse(&File { path: "c.toml".into(), text }).unwrap();
        let Some(EngineConfig::GitHub(row)) = parsed.engines.first() else { panic!("{parsed:?}") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        config(row, (Path::new("/s"), "boot"), &clock).err().map_or_else(|| "none".into(), |error| error.to_string())
    }

    #[test]
    fn a_mistake_in_a_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().canonicalize().unwrap().join("key");
        std::fs::write(&key, "k").unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let file = format!("key_file = \"{}\"\n", key.display());
        for (text, wanted) in [
            (format!("app = \"1\"\napi = \"github.com\"\n{file}"), "api: https://HOST"),
            (format!("app = \"1\"\napi = \"http://127.0.0.1:9\"\n{file}"), "key: is no RSA key"),
            (format!("app = \"\"\n{file}"), "app: the app's id"),
            ("app = \"1\"\n".to_owned(), "name key_file or key_credential"),
            (format!("app = \"Iv1.0a\"\n{file}"), "key: is no RSA key"),
        ] {
            let said = problem(&text);
            assert!(said.starts_with("engine gh: ") && said.contains(wanted), "{text}: {said}");
        }
    }
}
