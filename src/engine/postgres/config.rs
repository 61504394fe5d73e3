//! What an operator sets: the server, once per engine, and the grants, once per secret.

use super::{super::EngineError, scram};
use crate::model::{EngineName, SecretBytes, SecretDefinition};
use serde::Deserialize;
use std::{num::NonZeroU32, path::PathBuf, time::Duration};

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
    /// Connections at a time, 1 to 8; two of them are kept while nobody needs them.
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
    /// A configuration with the defaults: database `postgres`, 2 s to connect, 10 s a call, 8 connections, `claviger_owner`.
    pub fn new(name: EngineName, server: Server, user: &str) -> Self {
        Self {
            name,
            server,
            user: user.into(),
            password: None,
            database: "postgres".into(),
            connect_timeout: Duration::from_secs(2),
            call_timeout: Duration::from_secs(10),
            max_connections: 8,
            reassign_to: "claviger_owner".into(),
        }
    }

    pub(super) fn check(&self) -> Result<(), EngineError> {
        let wrong = |what: &str| Err(EngineError::Setup(format!("engine {}: {what}", self.name)));
        if !(1..=8).contains(&self.max_connections) {
            return wrong("max_connections must be 1 to 8");
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
pub(super) enum Settings {
    /// A role for each lease.
    Own(OwnRole),
    /// Roles that are there, whose password is changed now and then.
    Static(StaticRoles),
}

/// A role for each lease.
pub(super) struct OwnRole {
    pub(super) grants: Vec<String>,
    pub(super) database: Option<String>,
    pub(super) connection_limit: u32,
    pub(super) reassign_to: Option<String>,
    pub(super) scram_iterations: NonZeroU32,
}

/// One role, or two whose passwords are changed in turn.
pub(super) struct StaticRoles {
    pub(super) roles: Vec<String>,
    pub(super) database: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    grants: Option<Vec<String>>,
    static_role: Option<String>,
    static_roles: Option<[String; 2]>,
    database: Option<String>,
    connection_limit: Option<u32>,
    reassign_to: Option<String>,
    scram_iterations: Option<NonZeroU32>,
}

const CONNECTIONS: u32 = 20;
const ROLE: &str = "{{role}}";

impl Settings {
    /// Reads and checks the settings; the text names the key that is wrong.
    pub(super) fn parse(secret: &SecretDefinition) -> Result<Self, String> {
        let raw: Raw = serde_json::from_value(serde_json::Value::Object(secret.settings.clone()))
            .map_err(|why| format!("{}: settings: {why}", secret.name))?;
        Self::of(raw).map_err(|what| format!("{}: {what}", secret.name))
    }

    fn of(raw: Raw) -> Result<Self, String> {
        if [&raw.database, &raw.reassign_to].into_iter().flatten().any(|name| !is_name(name)) {
            return Err("database and reassign_to must be names of 1 to 63 bytes".into());
        }
        let roles: Vec<String> = match (raw.grants, raw.static_role, raw.static_roles) {
            (Some(grants), None, None) => {
                let connection_limit = raw.connection_limit.unwrap_or(CONNECTIONS);
                let scram_iterations = raw.scram_iterations.unwrap_or(scram::ITERATIONS);
                return OwnRole { grants, database: raw.database, connection_limit, reassign_to: raw.reassign_to, scram_iterations }
                    .checked()
                    .map(Settings::Own);
            }
            (None, Some(role), None) => vec![role],
            (None, None, Some([one, other])) if one != other => vec![one, other],
            (None, None, Some(_)) => return Err("static_roles must be two roles".into()),
            _ => return Err("needs exactly one of grants, static_role and static_roles".into()),
        };
        if raw.connection_limit.is_some() || raw.reassign_to.is_some() || raw.scram_iterations.is_some() {
            return Err("connection_limit, reassign_to and scram_iterations go with grants, not with a static role".into());
        }
        if roles.iter().any(|role| !is_name(role)) {
            return Err("static_role and static_roles must be names of 1 to 63 bytes".into());
        }
        if roles.iter().any(|role| role.starts_with("clv_")) {
            return Err("roles whose names begin with clv_ are made for leases and dropped with them".into());
        }
        Ok(Settings::Static(StaticRoles { roles, database: raw.database }))
    }
}

impl StaticRoles {
    /// One password: while it is being changed, no value is known to work.
    pub(super) fn is_alone(&self) -> bool {
        self.roles.len() == 1
    }
}

impl OwnRole {
    fn checked(self) -> Result<Self, String> {
        if self.grants.is_empty() {
            return Err("grants: at least one statement, or the role may do nothing".into());
        }
        for grant in &self.grants {
            if let Err(what) = check_template(grant) {
                return Err(format!("grants: {grant:?} {what}"));
            }
        }
        if !(1..=10_000).contains(&self.connection_limit) {
            return Err("connection_limit must be 1 to 10000".into());
        }
        if self.scram_iterations > scram::ITERATIONS_MAX {
            return Err(format!("scram_iterations must be 1 to {}", scram::ITERATIONS_MAX));
        }
        Ok(self)
    }

    /// Whether a statement changes a row that the server has once for all roles: the rights of a table, a schema, a database. Becoming a
    /// member of another role does not; of anything else it is believed.
    pub(super) fn changes_rights(&self) -> bool {
        let is_membership = |grant: &String| {
            let mut words = grant.split_whitespace();
            words.next().is_some_and(|verb| verb.eq_ignore_ascii_case("GRANT")) && !words.any(|word| word.eq_ignore_ascii_case("ON"))
        };
        !self.grants.iter().all(is_membership)
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
    fn a_role_for_each_lease_or_roles_that_are_there() {
        use serde_json::json;
        let parse = |settings| Settings::of(serde_json::from_value(settings).map_err(|why: serde_json::Error| why.to_string())?);
        let grants = ["GRANT app_ro TO {{role}}"];
        assert!(matches!(parse(json!({ "grants": grants, "reassign_to": "app_owner" })), Ok(Settings::Own(_))));
        for (given, wanted) in [(json!({ "grants": grants }), 4096), (json!({ "grants": grants, "scram_iterations": 1 }), 1)] {
            assert!(matches!(parse(given), Ok(Settings::Own(row)) if row.scram_iterations.get() == wanted));
        }
        assert!(matches!(parse(json!({ "static_role": "app", "database": "app" })), Ok(Settings::Static(row)) if row.is_alone()));
        assert!(matches!(parse(json!({ "static_roles": ["a", "b"] })), Ok(Settings::Static(row)) if !row.is_alone()));
        for bad in [
            json!({}),
            json!({ "grants": [] }),
            json!({ "grants": grants, "static_role": "app" }),
            json!({ "static_role": "app", "static_roles": ["a", "b"] }),
            json!({ "static_roles": ["a", "a"] }),
            json!({ "static_roles": ["a", "b", "c"] }),
            json!({ "static_role": "app", "connection_limit": 3 }),
            json!({ "static_role": "app", "reassign_to": "x" }),
            json!({ "static_role": "app", "scram_iterations": 1 }),
            json!({ "grants": grants, "scram_iterations": 0 }),
            json!({ "grants": grants, "scram_iterations": 1_000_001 }),
            json!({ "static_role": "clv_0123456789abcdef_x" }),
            json!({ "static_role": "" }),
        ] {
            assert!(parse(bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_others_have_to_wait_for_is_told_from_what_they_need_not() {
        let changes = |grants: &[&str]| {
            let grants = grants.iter().map(ToString::to_string).collect();
            let scram_iterations = scram::ITERATIONS;
            OwnRole { grants, database: None, connection_limit: 1, reassign_to: None, scram_iterations }.changes_rights()
        };
        assert!(!changes(&["GRANT app_ro TO {{role}}", "grant a, b to {{role}} WITH INHERIT TRUE"]));
        for grant in [
            "GRANT SELECT ON app.orders TO {{role}}",
            "GRANT USAGE\nON\tSCHEMA app TO {{role}}",
            "grant a on b to {{role}}",
            "ALTER ROLE {{role}} SET a = 1",
        ] {
            assert!(changes(&["GRANT app_ro TO {{role}}", grant]), "{grant}");
        }
    }

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
