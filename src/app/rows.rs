//! What is wrong with the rows of engines, as far as addresses and files tell without an engine being made: for `--check`.
//!
//! Files are looked for and not read: whoever checks need not be the user whom they belong to.

use super::{build::BuildError, github, oauth2, openbao};
use crate::{
    config::{EngineConfig, OAuth2Authentication, OpenBaoLogin},
    model::EngineName,
};
use std::{
    io,
    path::{Path, PathBuf},
};

/// The first thing by which a start would fail.
pub(super) fn check(engines: &[EngineConfig]) -> Result<(), BuildError> {
    for engine in engines {
        let row = Row { name: engine.name(), engines };
        match engine {
            EngineConfig::GitHub(from) => {
                github::address(from)?;
                row.secret("key", &from.key_file, &from.key_credential)?;
                row.file("ca_file", &from.ca_file)?;
            }
            EngineConfig::OAuth2(from) => {
                oauth2::address(from)?;
                oauth2::endpoints(from)?;
                match &from.authenticate {
                    OAuth2Authentication::ClientSecretBasic { secret_file, secret_credential }
                    | OAuth2Authentication::ClientSecretPost { secret_file, secret_credential } => {
                        row.secret("authenticate: secret", secret_file, secret_credential)?;
                    }
                    OAuth2Authentication::PrivateKeyJwt { engine, .. } => row.signer("authenticate", engine)?,
                }
                from.exchange.as_ref().map_or(Ok(()), |exchange| row.signer("exchange", &exchange.engine))?;
                row.file("ca_file", &from.ca_file)?;
            }
            EngineConfig::OpenBao(from) => {
                openbao::address(from)?;
                match &from.login {
                    OpenBaoLogin::AppRole { secret_id_file, secret_id_credential, .. } => {
                        row.secret("login: secret_id", secret_id_file, secret_id_credential)?;
                    }
                    OpenBaoLogin::Token { token_file, token_credential } => row.secret("login: token", token_file, token_credential)?,
                    OpenBaoLogin::Jwt { engine, .. } => row.signer("login", engine)?,
                    OpenBaoLogin::Cert { .. } => row.secret("key", &from.key_file, &from.key_credential)?,
                }
                row.file("certificate_file", &from.certificate_file)?;
                row.file("key_file", &from.key_file)?;
                row.file("ca_file", &from.ca_file)?;
            }
            EngineConfig::Postgres(from) => {
                row.file("password_file", &from.password_file)?;
                row.file("ca_file", &from.ca_file)?;
            }
            EngineConfig::X509(from) => {
                row.file("ca_key_file", &from.ca_key_file)?;
                row.file("ca_cert_file", &from.ca_cert_file)?;
            }
            EngineConfig::Jwt(_) | EngineConfig::Ssh(_) | EngineConfig::Command(_) => {}
        }
    }
    Ok(())
}

struct Row<'a> {
    name: &'a EngineName,
    engines: &'a [EngineConfig],
}

impl Row<'_> {
    fn wrong(&self, what: &str) -> BuildError {
        BuildError::Config(format!("engine {}: {what}", self.name))
    }

    /// What `WHAT_file` or `WHAT_credential` names.
    fn secret(&self, what: &str, file: &Option<PathBuf>, credential: &Option<String>) -> Result<(), BuildError> {
        match (file, credential) {
            (Some(_), Some(_)) => Err(self.wrong(&format!("{what}: the file and the credential exclude each other"))),
            (None, None) => Err(self.wrong(&format!("{what}: name {0}_file or {0}_credential", what.rsplit(' ').next().unwrap_or(what)))),
            (Some(_), None) => self.file(&format!("{what}_file"), file),
            (None, Some(name)) => match std::env::var_os("CREDENTIALS_DIRECTORY") {
                Some(folder) => self.file(&format!("{what}_credential"), &Some(Path::new(&folder).join(name))),
                // Only the daemon itself is passed the unit's credentials.
                None => {
                    tracing::info!("engine {}: {what}_credential was not looked at: {name} is for the unit", self.name);
                    Ok(())
                }
            },
        }
    }

    fn file(&self, what: &str, file: &Option<PathBuf>) -> Result<(), BuildError> {
        match file.as_deref().map(|path| (path, std::fs::symlink_metadata(path))) {
            Some((path, Err(error))) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Err(self.wrong(&format!("{what}: there is no {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    fn signer(&self, what: &str, engine: &EngineName) -> Result<(), BuildError> {
        let signs = |row: &EngineConfig| matches!(row, EngineConfig::Jwt(jwt) if jwt.name == *engine);
        if self.engines.iter().any(signs) { Ok(()) } else { Err(self.wrong(&format!("{what}: there is no jwt engine {engine}"))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, File};

    fn problem(rows: &str) -> String {
        let parsed = Config::parse(&File { path: "c.toml".into(), text: rows.to_owned() }).unwrap();
        check(&parsed.engines).err().map_or_else(|| "none".into(), |error| error.to_string())
    }

    #[test]
    fn what_would_stop_a_start_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let there = folder.path().join("there");
        std::fs::write(&there, "").unwrap();
        let there = there.display();
        let github = "[[engine]]\nkind = \"github-app\"\nname = \"gh\"\napp = \"1\"\ninstallation = 7\n";
        let oauth2 = "[[engine]]\nkind = \"oauth2\"\nname = \"as\"\nclient_id = \"c\"\nmax_ttl = \"1h\"\n";
        let openbao = "[[engine]]\nkind = \"openbao\"\nname = \"bao\"\n";
        let jwt = "[[engine]]\nkind = \"jwt\"\nname = \"host\"\nissuer = \"https://h.example.com\"\nmax_ttl = \"1h\"\n";
        let token = format!("login = {{ method = \"token\", token_file = \"{there}\" }}\n");
        let private = "authenticate = { method = \"private_key_jwt\", engine = \"host\", audience = \"a\" }\n";
        for (rows, wanted) in [
            (format!("{github}key_file = \"{there}\"\n"), "none"),
            (format!("{github}key_credential = \"k\"\n"), "none"),
            (format!("{github}key_file = \"/nowhere/key\"\n"), "engine gh: key_file: there is no /nowhere/key"),
            (format!("{github}key_file = \"{there}/key\"\n"), "engine gh: key_file: there is no"),
            (github.to_owned(), "engine gh: key: name key_file or key_credential"),
            (format!("{github}key_file = \"{there}\"\napi = \"http://ghe.example.com/api/v3\"\n"), "engine gh: api "),
            (format!("{oauth2}{private}token_endpoint = \"https://as.example.com/t\"\n{jwt}"), "none"),
            (
                format!("{oauth2}{private}token_endpoint = \"https://as.example.com/t\"\n"),
                "engine as: authenticate: there is no jwt engine host",
            ),
            (format!("{oauth2}{private}token_endpoint = \"http://as.example.com/t\"\n{jwt}"), "engine as: token_endpoint "),
            (
                format!("{oauth2}{private}token_endpoint = \"https://as.example.com\"\n{jwt}"),
                "engine as: token_endpoint: https://HOST/PATH",
            ),
            (
                format!(
                    "{oauth2}token_endpoint = \"https://as.example.com/t\"\n\
                     authenticate = {{ method = \"client_secret_post\", secret_file = \"/nowhere/s\" }}\n"
                ),
                "engine as: authenticate: secret_file: there is no /nowhere/s",
            ),
            (format!("{openbao}address = \"unix:/run/bao.sock\"\n{token}"), "none"),
            (format!("{openbao}address = \"http://bao.example.com\"\n{token}"), "engine bao: address "),
            (
                format!("{openbao}address = \"https://bao.example.com\"\nca_file = \"/nowhere/ca\"\n{token}"),
                "engine bao: ca_file: there is no",
            ),
            (
                format!(
                    "{openbao}address = \"https://bao\"\nlogin = {{ method = \"approle\", role_id = \"r\", secret_id_file = \"/nowhere/s\" }}\n"
                ),
                "engine bao: login: secret_id_file: there is no /nowhere/s",
            ),
            (
                format!("{openbao}address = \"https://bao\"\nlogin = {{ method = \"approle\", role_id = \"r\" }}\n"),
                "engine bao: login: secret_id: name secret_id_file or secret_id_credential",
            ),
        ] {
            let said = problem(&rows);
            assert!(said.starts_with(wanted), "{rows}: {said}");
        }
    }
}
