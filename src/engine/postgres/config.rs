//! What an operator sets once per engine: the server.

use super::super::EngineError;
use crate::model::{EngineName, SecretBytes};
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

/// PostgreSQL cuts longer names off, so that two would become one.
pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && !text.contains('\0')
}
