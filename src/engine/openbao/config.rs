//! What an operator sets once for each engine: the server, and how we log in to it.

use super::offline::Copies;
use crate::{
    model::{EngineName, SecretBytes},
    outbound::Client,
};
use std::time::Duration;

/// One OpenBao or Vault server, or a cluster behind one address.
pub struct OpenBaoConfig {
    /// The engine's name; the ids of its tokens follow from it, so another name is another engine.
    pub name: EngineName,
    /// Calls the server and nobody else. Its own deadline should be that of a call.
    pub client: Client,
    /// The namespace that everything is in; none for the root's.
    pub namespace: Option<String>,
    /// How we come by a token of our own.
    pub login: Login,
    /// The token role (`auth/token/roles/...`) that leases' tokens are made with. It must make orphans.
    pub token_role: String,
    /// The longest any call of the engine takes, all waits included; listing has ten times as long.
    pub timeout: Duration,
    /// Sealed copies of values that may be given while the server cannot be reached.
    pub copies: Copies,
}

/// How we come by a token of our own.
pub enum Login {
    /// `auth/approle`: a role id and a secret id.
    AppRole {
        /// Where the method is mounted.
        mount: String,
        /// Not secret.
        role_id: String,
        /// Read at each login.
        secret_id: Source,
        /// It is a wrapping token, to be exchanged once for the secret id, which is kept in the local store.
        wrapped: bool,
    },
    /// `auth/jwt`: a signed token.
    Jwt {
        /// Where the method is mounted.
        mount: String,
        /// The role to log in to.
        role: String,
        /// Made at each login.
        token: Source,
    },
    /// `auth/cert`: the client certificate of the connection.
    Certificate {
        /// Where the method is mounted.
        mount: String,
        /// The role to log in to; any that fits without.
        role: Option<String>,
    },
    /// A token that somebody else keeps in a file.
    Token {
        /// Read at each login.
        token: Source,
    },
}

type Read = dyn Fn() -> Result<SecretBytes, String> + Send + Sync;

/// Where a secret for logging in comes from. It is asked again at each login, so that a file may be exchanged.
pub struct Source(Box<Read>);

impl Source {
    /// Asks this function, whose error says what is wrong and holds no secret.
    pub fn new(read: impl Fn() -> Result<SecretBytes, String> + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }

    pub(in super::super) fn read(&self) -> Result<SecretBytes, String> {
        (self.0)()
    }
}
