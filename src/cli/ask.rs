//! The part of a command line that declares an intent.

use crate::wire::LeaseRequest;
use clap::Args;

/// What is said about one request. Everything but the secret may be left to a declared use or to policy.
#[derive(Args, Clone, Default)]
pub(super) struct Declaration {
    /// Why: one of the purposes that your identity may declare
    #[arg(long, value_name = "WORD")]
    pub(super) purpose: Option<String>,
    /// What it will be used for: read, write, admin or destroy
    #[arg(long, value_name = "WORD")]
    pub(super) operation: Option<String>,
    /// Where it will be used, such as db.example:5432 (repeatable)
    #[arg(long = "target", value_name = "HOST[:PORT]")]
    pub(super) targets: Vec<String>,
    /// For how long, such as 15m
    #[arg(long, value_name = "TIME")]
    pub(super) ttl: Option<String>,
    /// How many uses
    #[arg(long, value_name = "N")]
    pub(super) uses: Option<u64>,
    /// For the people who read the record
    #[arg(long, value_name = "TEXT")]
    pub(super) reason: Option<String>,
    /// A ticket as SYSTEM:ID (repeatable)
    #[arg(long = "ticket", value_name = "SYSTEM:ID")]
    pub(super) tickets: Vec<String>,
}

impl Declaration {
    /// The request for this secret.
    pub(super) fn of(&self, secret: &str, holder: Option<String>) -> LeaseRequest {
        LeaseRequest {
            secret: secret.to_owned(),
            purpose: self.purpose.clone(),
            operation: self.operation.clone(),
            targets: self.targets.clone(),
            ttl: self.ttl.clone(),
            uses: self.uses,
            reason: self.reason.clone(),
            tickets: self.tickets.clone(),
            channel: None,
            holder,
            idempotency_key: None,
        }
    }
}
