//! An `openbao` engine from its row.

use super::{
    build::BuildError,
    engines::secret_file,
    trust::{authorities, secret_source},
};
use crate::{
    config::{Config, EngineConfig, OpenBaoConfig, OpenBaoLogin, PathConfig},
    engine::{
        jwt::JwtEngine,
        local::LocalStore,
        openbao::{self, Copies, Login, Source},
    },
    model::{EngineName, SecretBytes, WallTime},
    outbound::{Address, Client, ClientCertificate, ClientCertificateError, Limits, TrustError},
    sys::{self, Clock},
};
use std::{sync::Arc, time::Duration};

/// How long a token lives that we log in with, in seconds.
const LOGIN_SECONDS: u64 = 120;
/// What the folders of copies begin with, in the state folder.
const COPIES: &str = "openbao-";

/// The address of a row.
pub(super) fn address(from: &OpenBaoConfig) -> Result<Address, BuildError> {
    Address::parse(&from.address, from.plain_loopback).map_err(|why| wrong(from, &format!("address {why}")))
}

/// The row with everything that it names read or ready to be read. `tokens` are the host's own `jwt` engines, `boot` is this boot's id.
pub(super) fn config(
    from: &OpenBaoConfig,
    tokens: &[(EngineName, Arc<JwtEngine>)],
    (paths, boot): (&PathConfig, &str),
    clock: &Arc<dyn Clock>,
) -> Result<openbao::OpenBaoConfig, BuildError> {
    let timeout = Duration::from_secs(u64::from(from.timeout_seconds.max(1)));
    let limits = Limits { connect: timeout.min(Duration::from_secs(2)), call: timeout, ..Limits::default() };
    let address = address(from)?;
    let trust = if address.is_tls() { Some(authorities(from.ca_file.as_deref()).map_err(|what| wrong(from, &what))?) } else { None };
    let own = certificate(from)?;
    if matches!(from.login, OpenBaoLogin::Cert { .. }) && (own.is_none() || trust.is_none()) {
        return Err(wrong(from, "login by certificate needs https, certificate_file, and key_file or key_credential"));
    }
    let client = Client::new(address, from.server_name.as_deref(), || trust.ok_or(TrustError::None), own, limits, clock.clone());
    Ok(openbao::OpenBaoConfig {
        name: from.name.clone(),
        client: client.map_err(|error| wrong(from, &error.to_string()))?,
        namespace: from.namespace.clone(),
        login: login(from, tokens)?,
        token_role: from.token_role.clone(),
        timeout,
        copies: copies(from, paths, boot),
    })
}

/// An error where an engine of that name was in another namespace before. What it made is there, and whoever looks for it here would find nothing
/// and call it dead: another namespace is another engine's.
pub(super) fn stays(from: &OpenBaoConfig, store: &LocalStore) -> Result<(), BuildError> {
    let label = format!("openbao-namespace/{}", from.name);
    let here = from.namespace.as_deref().and_then(openbao::namespace_of).unwrap_or_default();
    match store.load_own(&label)? {
        None => Ok(store.save_own(&label, &SecretBytes::new(format!("/{here}").into_bytes()))?),
        Some(kept) if kept.expose() == format!("/{here}").as_bytes() => Ok(()),
        Some(kept) => {
            let before = String::from_utf8_lossy(kept.expose()).trim_start_matches('/').to_owned();
            let before = if before.is_empty() { "the root namespace".to_owned() } else { format!("namespace {before}") };
            Err(wrong(from, &format!("what it made is in {before}: give an engine in another namespace another name")))
        }
    }
}

/// Copies of values lie beside the rest of the state. What was written last by this host tells whether its wall clock went back since.
fn copies(from: &OpenBaoConfig, paths: &PathConfig, boot: &str) -> Copies {
    let written = [paths.state.join("leases"), paths.audit.clone()];
    Copies {
        folder: paths.state.join(format!("{COPIES}{}", from.name)),
        server: format!("{} {}", from.address, from.namespace.as_deref().unwrap_or_default()),
        boot: boot.into(),
        not_before: written.iter().filter_map(|folder| sys::last_written(folder)).max().unwrap_or(WallTime(0)),
    }
}

/// Copies of an engine that is configured no more: nobody is given them, and nobody else would remove them.
pub(super) fn remove_left(config: &Config) {
    let is_configured =
        |name: &str| config.engines.iter().any(|engine| matches!(engine, EngineConfig::OpenBao(row) if row.name.as_str() == name));
    // A state that cannot be read is told elsewhere.
    for folder in sys::file_names(&config.paths.state).unwrap_or_default() {
        if folder.strip_prefix(COPIES).is_some_and(|name| !is_configured(name)) {
            let folder = config.paths.state.join(folder);
            match std::fs::remove_dir_all(&folder) {
                Ok(()) => {
                    tracing::info!(folder = %folder.display(), "copies of values were removed: their engine is not configured any more")
                }
                Err(error) => {
                    tracing::error!(folder = %folder.display(), %error, "copies of values of an engine that is gone could not be removed")
                }
            }
        }
    }
}

fn certificate(from: &OpenBaoConfig) -> Result<Option<ClientCertificate>, BuildError> {
    let key = secret_file(from.key_credential.as_deref(), from.key_file.as_deref()).map_err(|what| wrong(from, &format!("key: {what}")))?;
    let (Some(chain), Some(key)) = (&from.certificate_file, &key) else {
        return match (&from.certificate_file, key) {
            (None, None) => Ok(None),
            _ => Err(wrong(from, "certificate_file goes with key_file or key_credential")),
        };
    };
    ClientCertificate::of_files(chain.clone(), key.clone()).map(Some).map_err(|error| match error {
        ClientCertificateError::File(error) => BuildError::File(error),
        error => wrong(from, &error.to_string()),
    })
}

fn login(from: &OpenBaoConfig, tokens: &[(EngineName, Arc<JwtEngine>)]) -> Result<Login, BuildError> {
    let source = |what: &str, credential: &Option<String>, file: &Option<std::path::PathBuf>| {
        let named = secret_file(credential.as_deref(), file.as_deref()).map_err(|why| wrong(from, &format!("{what}: {why}")))?;
        secret_source(named.ok_or_else(|| wrong(from, &format!("login: name {what}_file or {what}_credential")))?)
    };
    Ok(match &from.login {
        OpenBaoLogin::AppRole { mount, role_id, secret_id_file, secret_id_credential, wrapped } => Login::AppRole {
            mount: mount.clone(),
            role_id: role_id.clone(),
            secret_id: source("secret_id", secret_id_credential, secret_id_file)?,
            wrapped: *wrapped,
        },
        OpenBaoLogin::Jwt { mount, role, engine, audience, subject } => {
            let found = tokens.iter().find(|(name, _)| name == engine);
            let (_, signer) = found.ok_or_else(|| wrong(from, &format!("login: there is no jwt engine {engine}")))?;
            let (signer, audience, subject) = (signer.clone(), audience.clone(), subject.clone());
            let sign = move || signer.sign_for_ourselves(&audience, &subject, LOGIN_SECONDS).map_err(|error| error.to_string());
            Login::Jwt { mount: mount.clone(), role: role.clone(), token: Source::new(sign) }
        }
        OpenBaoLogin::Cert { mount, role } => Login::Certificate { mount: mount.clone(), role: role.clone() },
        OpenBaoLogin::Token { token_file, token_credential } => Login::Token { token: source("token", token_credential, token_file)? },
    })
}

fn wrong(from: &OpenBaoConfig, what: &str) -> BuildError {
    BuildError::Config(format!("engine {}: {what}", from.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::File, sys::SystemClock};

    fn problem(more: &str) -> String {
        let text = format!("[[engine]]\nkind = \"openbao\"\nname = \"bao\"\n{more}");
        let parsed = Config::parse(&File { path: "c.toml".into(), text }).unwrap();
        let Some(EngineConfig::OpenBao(row)) = parsed.engines.first() else { panic!("{parsed:?}") };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        config(row, &[], (&parsed.paths, "boot"), &clock).err().map_or_else(|| "none".into(), |error| error.to_string())
    }

    #[test]
    fn copies_of_an_engine_that_is_gone_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().canonicalize().unwrap();
        for name in ["openbao-bao", "openbao-bao-2", "openbao-gone", "oauth2-gone"] {
            std::fs::create_dir(state.join(name)).unwrap();
            std::fs::write(state.join(name).join("x.sealed"), "x").unwrap();
        }
        let row = |name: &str| {
            format!(
                "[[engine]]\nkind = \"openbao\"\nname = \"{name}\"\naddress = \"unix:/run/bao.sock\"\n\
                 login = {{ method = \"token\", token_file = \"/t\" }}\n"
            )
        };
        let text = format!("[paths]\nstate = \"{}\"\n{}{}", state.display(), row("bao"), row("bao-2"));
        remove_left(&Config::parse(&File { path: "c.toml".into(), text }).unwrap());
        assert_eq!(sys::file_names(&state).unwrap(), ["oauth2-gone", "openbao-bao", "openbao-bao-2"]);
        assert!(state.join("openbao-bao/x.sealed").exists());
    }

    #[test]
    fn a_mistake_in_a_row_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let token = folder.join("token");
        std::fs::write(&token, "t").unwrap();
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
        let unix = "address = \"unix:/run/bao.sock\"\n";
        let file = format!("login = {{ method = \"token\", token_file = \"{}\" }}\n", token.display());
        assert_eq!(problem(&format!("{unix}{file}")), "none");
        for (text, wanted) in [
            (format!("address = \"bao.example.com\"\n{file}"), "address must be https://HOST"),
            (format!("address = \"http://127.0.0.1:8200\"\n{file}"), "plain_loopback = true"),
            (format!("address = \"http://bao.example.com\"\nplain_loopback = true\n{file}"), "this host only"),
            (format!("address = \"https://bao\"\nca_file = \"{}\"\n{file}", token.display()), "no certificate in the file"),
            (format!("{unix}login = {{ method = \"cert\" }}\n"), "needs https, certificate_file"),
            (format!("{unix}certificate_file = \"/x\"\n{file}"), "goes with key_file or key_credential"),
            (format!("{unix}login = {{ method = \"token\" }}\n"), "name token_file or token_credential"),
            (
                format!(
                    "{unix}login = {{ method = \"approle\", role_id = \"r\", secret_id_file = \"/x\", secret_id_credential = \"y\" }}\n"
                ),
                "exclude each other",
            ),
            (
                format!("{unix}login = {{ method = \"jwt\", role = \"r\", engine = \"none\", audience = \"a\", subject = \"s\" }}\n"),
                "there is no jwt engine none",
            ),
        ] {
            let said = problem(&text);
            assert!(said.starts_with("engine bao: ") && said.contains(wanted), "{text}: {said}");
        }
        std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        assert!(problem(&format!("{unix}{file}")).contains("must be 0600 or 0400"));
    }
}
