//! Makes the engines of this host from their rows in the configuration.

use super::{build::BuildError, state::State};
use crate::{
    config::{Config, EngineConfig, PostgresConfig, X509Config},
    digest::{SealKey, SystemRandom},
    engine::{
        Engine, Engines, ListPlaces,
        command::{self, CommandEngine},
        github::GitHubEngine,
        jwt::{self, JwtEngine},
        local::{LocalEngine, LocalStore},
        oauth2::OAuth2Engine,
        openbao::OpenBaoEngine,
        postgres::{self, PostgresEngine, Server},
        ssh::{SshConfig, SshEngine},
        x509::{self, X509Engine},
    },
    model::{EngineName, SecretBytes},
    sys::{self, Clock},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The name of the store that is always there.
const LOCAL: &str = "local";

/// The engines that sign tokens, by name.
pub(super) type Tokens = Vec<(EngineName, Arc<JwtEngine>)>;

/// All of them, and those that sign tokens.
pub(super) fn engines(
    config: &Config,
    state: &State,
    store: &Arc<LocalStore>,
    (clock, boot): (&Arc<dyn Clock>, &str),
    random: &Arc<SystemRandom>,
) -> Result<(Engines, Tokens), BuildError> {
    // A constant that is a name.
    let local = EngineName::parse(LOCAL).map_err(|error| BuildError::Config(error.to_string()))?;
    let mut rows: Vec<(EngineName, Arc<dyn Engine>)> = vec![(local, Arc::new(LocalEngine::new(store.clone())))];
    let mut tokens = Vec::new();
    // Those that sign come first: others may log in with their tokens.
    let signs = |engine: &&EngineConfig| matches!(engine, EngineConfig::Jwt(_));
    for engine in config.engines.iter().filter(signs).chain(config.engines.iter().filter(|engine| !signs(engine))) {
        match engine {
            EngineConfig::Jwt(jwt) => {
                let config = jwt::JwtConfig {
                    name: jwt.name.clone(),
                    issuer: jwt.issuer.clone(),
                    algorithms: vec![jwt::Algorithm::Es256, jwt::Algorithm::EdDsa],
                    max_ttl: jwt.max_ttl,
                };
                let engine = Arc::new(JwtEngine::open(config, store.clone(), clock.clone())?);
                tokens.push((jwt.name.clone(), engine.clone()));
                rows.push((jwt.name.clone(), engine));
            }
            EngineConfig::Postgres(postgres) => {
                // A key of its own in the store: rewrapping the store's master key changes no live lease's password.
                let root: SealKey = store.own_key("postgres")?;
                let engine = PostgresEngine::new(
                    postgres_config(postgres)?,
                    state.mark.clone(),
                    &root,
                    store.clone(),
                    clock.clone(),
                    random.clone(),
                )?;
                rows.push((postgres.name.clone(), Arc::new(engine)));
            }
            EngineConfig::OpenBao(from) => {
                // The same for ids of tokens, and values that are sealed into leases or kept for when the server is away.
                let root: SealKey = store.own_key("openbao")?;
                super::openbao::stays(from, store)?;
                let config = super::openbao::config(from, &tokens, (&config.paths, boot), clock)?;
                let engine = OpenBaoEngine::new(config, state.mark.clone(), &root, store.clone(), clock.clone(), random.clone())?;
                rows.push((from.name.clone(), Arc::new(engine)));
            }
            EngineConfig::Command(from) => {
                // For values that are sealed into leases.
                let root: SealKey = store.own_key("command")?;
                let config = command::CommandConfig {
                    name: from.name.clone(),
                    socket: from.socket(),
                    timeout: Duration::from_secs(u64::from(from.timeout_seconds.max(1))),
                    lingers: command::LINGERS,
                    probes: from.probes,
                };
                let made = CommandEngine::new(config, state.mark.clone(), &root, store.clone(), clock.clone(), random.clone());
                rows.push((from.name.clone(), Arc::new(made)));
            }
            EngineConfig::GitHub(from) => {
                let root: SealKey = store.own_key("github")?;
                let config = super::github::config(from, (&config.paths.state, boot), clock)?;
                let made = GitHubEngine::new(config, &root, clock.clone(), random.clone());
                rows.push((from.name.clone(), Arc::new(made.map_err(|why| BuildError::Config(format!("engine {}: {why}", from.name)))?)));
            }
            EngineConfig::OAuth2(from) => {
                let root: SealKey = store.own_key("oauth2")?;
                let config = super::oauth2::config(from, &tokens, (&config.paths.state, boot), clock)?;
                let made = OAuth2Engine::new(config, &root, clock.clone(), random.clone());
                rows.push((from.name.clone(), Arc::new(made.map_err(|why| BuildError::Config(format!("engine {}: {why}", from.name)))?)));
            }
            EngineConfig::Ssh(from) => {
                let root: SealKey = store.own_key("ssh")?;
                let book = config.paths.state.join(format!("ssh-{}", from.name));
                let config = SshConfig {
                    name: from.name.clone(),
                    max_ttl: from.max_ttl,
                    public_key: from.ca_public_file.clone(),
                    list: from.revoked_file.clone().map(|file| ListPlaces { file, book }),
                };
                rows.push((from.name.clone(), Arc::new(SshEngine::open(config, &root, store, clock.clone())?)));
            }
            EngineConfig::X509(from) => {
                let root: SealKey = store.own_key("x509")?;
                let config = x509_config(from, &config.paths.state)?;
                rows.push((from.name.clone(), Arc::new(X509Engine::open(config, &root, store, clock.clone())?)));
            }
        }
    }
    Ok((Engines::new(rows).map_err(BuildError::Twice)?, tokens))
}

fn postgres_config(from: &PostgresConfig) -> Result<postgres::PostgresConfig, BuildError> {
    let wrong = |what: &str| BuildError::Config(format!("engine {}: {what}", from.name));
    let server = if from.host.starts_with('/') {
        Server::Unix { folder: from.host.clone().into(), port: from.port }
    } else {
        let path = from.ca_file.as_ref().ok_or_else(|| wrong("a host name needs ca_file: there is no connection without TLS"))?;
        let ca_pem = sys::read_trusted(path, 1 << 20).map_err(|error| wrong(&error.to_string()))?.into_bytes();
        Server::Tls { host: from.host.clone(), port: from.port, ca_pem, server_name: from.server_name.clone() }
    };
    let place = secret_file(from.password_credential.as_deref(), from.password_file.as_deref());
    let password = place.map_err(|what| wrong(&format!("password: {what}")))?.map(|path| password(&path)).transpose()?;
    let timeout = Duration::from_secs(u64::from(from.timeout_seconds.max(1)));
    Ok(postgres::PostgresConfig {
        password,
        database: from.database.clone(),
        connect_timeout: timeout.min(Duration::from_secs(2)),
        call_timeout: timeout,
        ..postgres::PostgresConfig::new(from.name.clone(), server, &from.user)
    })
}

fn x509_config(from: &X509Config, state: &Path) -> Result<x509::X509Config, BuildError> {
    let wrong = |what: &str| BuildError::Config(format!("engine {}: {what}", from.name));
    let key = secret_file(from.ca_key_credential.as_deref(), from.ca_key_file.as_deref());
    let authority = match (&from.ca_cert_file, key.map_err(|what| wrong(&format!("ca_key: {what}")))?) {
        (None, None) => None,
        (Some(path), Some(key)) => {
            let certificates = sys::read_trusted(path, 1 << 20).map_err(|error| wrong(&error.to_string()))?;
            Some(x509::GivenAuthority { certificates, key: sys::read_private(&key, 1 << 16)? })
        }
        _ => return Err(wrong("ca_cert_file goes with ca_key_file or ca_key_credential")),
    };
    let list = from.crl_file.clone().map(|file| ListPlaces { file, book: state.join(format!("x509-{}", from.name)) });
    Ok(x509::X509Config { name: from.name.clone(), max_ttl: from.max_ttl, authority, list })
}

/// Where a secret of an operator's is: the systemd credential of that name, or the file. Not both.
pub(super) fn secret_file(credential: Option<&str>, file: Option<&Path>) -> Result<Option<PathBuf>, &'static str> {
    match (credential, file) {
        (Some(_), Some(_)) => Err("the file and the credential exclude each other"),
        (Some(name), None) => {
            let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or("the unit passes no credentials")?;
            Ok(Some(Path::new(&folder).join(name)))
        }
        (None, file) => Ok(file.map(Path::to_path_buf)),
    }
}

fn password(path: &Path) -> Result<SecretBytes, BuildError> {
    let bytes = sys::read_private(path, 4096)?;
    // Editors end files with a line feed; no password does.
    Ok(SecretBytes::new(bytes.expose().trim_ascii_end().to_vec()))
}
