//! `clav revoke`: ends leases now, one's own or, for operators, anybody's.

use super::{Desk, Done, Failure, failure::code, output::Table, renew::lease_id};
use crate::{
    client::ClientError,
    model::{Code, EndResult, LeaseId},
    wire::{EndAnswer, EndRequest},
};
use clap::Args;

#[derive(Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(super) struct Arguments {
    /// One lease
    #[arg(group = "which")]
    lease: Option<String>,
    /// All that a process holds
    #[arg(long, group = "which", value_name = "PID")]
    pid: Option<u32>,
    /// All that a process and its descendants hold
    #[arg(long, group = "which", value_name = "PID")]
    tree: Option<u32>,
    /// All held within a systemd unit
    #[arg(long, group = "which")]
    unit: Option<String>,
    /// All of an identity
    #[arg(long, group = "which", value_name = "NAME")]
    identity: Option<String>,
    /// All of a secret
    #[arg(long, group = "which", value_name = "NAME")]
    secret: Option<String>,
    /// Try once more what was given up
    #[arg(long)]
    force: bool,
    /// Close the books on what was given up: the source is gone, or the credential was ended by hand
    #[arg(long, value_name = "REASON", conflicts_with = "force")]
    give_up: Option<String>,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let id = arguments.lease.as_deref().map(lease_id).transpose()?;
    let request = EndRequest {
        id,
        pid: arguments.pid,
        tree: arguments.tree,
        unit: arguments.unit,
        identity: arguments.identity.map(|text| text.parse().map_err(|e| usage("--identity", e))).transpose()?,
        secret: arguments.secret.map(|text| text.parse().map_err(|e| usage("--secret", e))).transpose()?,
        force: arguments.force.then_some(true),
        give_up: arguments.give_up.clone(),
    };
    match (by_operator(desk, &request).await, id) {
        (Ok(answer), _) => print(desk, &answer, request.give_up.is_some()),
        // Whoever is no operator may still give back what is theirs.
        (Err(failure), Some(id)) if is_no_operator(&failure) => own(desk, id).await,
        (Err(failure), _) => Err(failure),
    }
}

async fn by_operator(desk: &Desk, request: &EndRequest) -> Result<EndAnswer, Failure> {
    Ok(desk.operator().await?.end(request).await?)
}

fn is_no_operator(failure: &Failure) -> bool {
    match failure {
        Failure::Client(ClientError::Unreachable(..)) => true,
        Failure::Client(ClientError::Refused(body, _)) => body.error.code == Code::NOT_OPERATOR.as_str(),
        _ => false,
    }
}

async fn own(desk: &Desk, id: LeaseId) -> Done {
    let answer = desk.workload().await?.give_back(id).await?;
    if !desk.printed(&answer)? {
        let lease = &answer.lease;
        let result = lease.result.map_or("is ending", EndResult::as_str);
        super::output::line(&format!("{} of {}: {result}", lease.id, lease.secret))?;
    }
    Ok(0)
}

fn print(desk: &Desk, answer: &EndAnswer, closed: bool) -> Done {
    if !desk.printed(answer)? {
        let mut table = Table::new(&["LEASE", "SECRET", "CREDENTIAL", ""]);
        for row in &answer.ended {
            let meaning = match row.result {
                EndResult::Revoked => "dead: the source confirmed it",
                EndResult::Lapsed => "nothing to revoke at the source: a copy stays usable until it expires or is rotated",
                EndResult::Retrying => "the source has not confirmed yet; it is tried again",
                EndResult::Shared => "shared with other leases, and dead when the last of them ends",
                EndResult::Irrevocable if closed => "given up for good, as you said: it may be usable still",
                EndResult::Irrevocable => {
                    "failed many times, and is tried on now and then; look at the source, then --force, or --give-up REASON"
                }
            };
            table.row(vec![row.id.to_string(), row.secret.to_string(), row.result.as_str().to_owned(), meaning.to_owned()]);
        }
        table.print(&desk.style, "Nothing ended.")?;
    }
    let given_up = !closed && answer.ended.iter().any(|row| row.result == EndResult::Irrevocable);
    Ok(if given_up { code::FAULT } else { 0 })
}

fn usage(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{what} {error}"))
}
