//! What an operator sets: the server, once per engine, and the grants, once per secret.

use super::super::EngineError;
use crate::model::{EngineName, SecretBytes, SecretDefinition};
use serde::Deserialize;
use std::{path::PathBuf, time::Duration};

/// One PostgreSQL server (cluster) and the role that makes roles on it.
pub struct PostgresConfig {
    /// The engine's name; passwords follow from it, so another name is another engine.
    pub name: EngineName,
    /// Where the server listens.
    pub server: Server,
    /// The role to connect as: `CREATEROLE` suffices, superuser is not needed.
    pub user: String,
    /// Its password for SCRAM; none for peer authentication.
    pub password: Option<SecretBytes>,
    /// The database to connect to, and the one that secrets without `database` are for.
    pub database: String,
    /// The longest a connection may take to come up.
    pub connect_timeout: Duration,
    /// The longest any call of the engine takes, waits for a connection included.
    pub call_timeout: Duration,
    /// Connections at a time, 1 to 4.
    pub max_connections: usize,
    /// Who gets what a lease's role made: a role without login that is made when it is first needed. Never a superuser and never the
    /// engine's own role, or a view or function that the holder left behind would run with its rights.
    pub reassign_to: String,
}

/// Where a server listens. There is no TCP without TLS.
pub enum Server {
    /// A Unix socket.
    Unix {
        /// The folder of the socket.
        folder: PathBuf,
        /// The number in the socket's name.
        port: u16,
    },
    /// TLS over TCP.
    Tls {
        /// Name or address to dial.
        host: String,
        /// Port.
        port: u16,
        /// The certificates, in PEM, of the authorities that may have signed the server's.
        ca_pem: Vec<u8>,
        /// The name in the server's certificate, where it is not `host`.
        server_name: Option<String>,
    },
}

impl Server {
    /// What a holder puts into its connection string.
    pub(super) fn host(&self) -> String {
        match self {
            Server::Unix { folder, .. } => folder.display().to_string(),
            Server::Tls { host, .. } => host.clone(),
        }
    }

    pub(super) fn port(&self) -> u16 {
        match self {
            Server::Unix { port, .. } | Server::Tls { port, .. } => *port,
        }
    }
}

impl PostgresConfig {
    /// A configuration with the defaults: database `postgres`, 2 s to connect, 10 s a call, 2 connections, `claviger_owner`.
    pub fn new(name: EngineName, server: Server, user: &str) -> Self {
        Self {
            name,
            server,
            user: user.into(),
            password: None,
            database: "postgres".into(),
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(10),
            max_connections: 2,
            reassign_to: "claviger_owner".into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        let wrong = |what: &str| Err(EngineError::Setup(format!("engine {}: {what}", self.name)));
        if !(1..=4).contains(&self.max_connections) {
            return wrong("max_connections must be 1 to 4");
        }
        if self.connect_timeout.is_zero() || self.call_timeout < self.connect_timeout {
            return wrong("connect_timeout must be more than 0 and at most call_timeout");
        }
        if !is_name(&self.user) || !is_name(&self.database) || !is_name(&self.reassign_to) {
            return wrong("user, database and reassign_to must be names of 1 to 63 bytes");
        }
        if self.reassign_to == self.user {
            return wrong("reassign_to must not be the engine's own role: what a holder leaves behind would run with its rights");
        }
        Ok(())
    }
}

/// The settings of one secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) grants: Vec<String>,
    pub(super) database: Option<String>,
    #[serde(default = "default_connections")]
    pub(super) connection_limit: u32,
    pub(super) reassign_to: Option<String>,
}

fn default_connections() -> u32 {
    20
}

const ROLE: &str = "{{role}}";

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let settings: Settings = serde_json::from_value(serde_json::Value::Object(secret.settings.clone()))
            .map_err(|why| format!("{}: settings: {why}", secret.name))?;
        let wrong = |what: String| Err(format!("{}: {what}", secret.name));
        if settings.grants.is_empty() {
            return wrong("grants: at least one statement, or the role may do nothing".into());
        }
        for grant in &settings.grants {
            if let Err(what) = check_template(grant) {
                return wrong(format!("grants: {grant:?} {what}"));
            }
        }
        if !(1..=10_000).contains(&settings.connection_limit) {
            return wrong("connection_limit must be 1 to 10000".into());
        }
        if [&settings.database, &settings.reassign_to].into_iter().flatten().any(|name| !is_name(name)) {
            return wrong("database and reassign_to must be names of 1 to 63 bytes".into());
        }
        Ok(settings)
    }

    /// The grants with the role's name, quoted, in its place.
    pub(super) fn grants_for<'a>(&'a self, quoted_role: &'a str) -> impl Iterator<Item = String> + 'a {
        self.grants.iter().map(move |grant| grant.replace(ROLE, quoted_role))
    }
}

/// A template is an operator's, so this is no defence against malice: it keeps every one a single statement inside the transaction that
/// also makes the role, so that a failure leaves nothing.
fn check_template(template: &str) -> Result<(), &'static str> {
    let verb = template.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    if !["GRANT", "REVOKE", "ALTER", "CREATE"].contains(&verb.as_str()) {
        return Err("must begin with GRANT, REVOKE, ALTER or CREATE");
    }
    if !template.contains(ROLE) {
        return Err("must name {{role}}");
    }
    if template.replace(ROLE, "").contains("{{") {
        return Err("has a placeholder other than {{role}}");
    }
    if [";", "--", "/*", "\0"].iter().any(|bad| template.contains(bad)) {
        return Err("must be one statement without ';' and without comments");
    }
    Ok(())
}

/// PostgreSQL cuts longer names off, so that two would become one.
fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && !text.contains('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_single_statements_about_the_role() {
        for good in ["GRANT SELECT ON app.orders TO {{role}}", "alter role {{role}} set work_mem = '8MB'", "GRANT app_ro TO {{role}}"] {
            assert_eq!(check_template(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "DROP TABLE orders",
            "GRANT SELECT ON orders TO PUBLIC",
            "GRANT app TO {{role}}; COMMIT",
            "GRANT app TO {{role}} -- why",
            "GRANT app TO {{role}} /* why",
            "GRANT {{group}} TO {{role}}",
            "COMMIT {{role}}",
        ] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}
