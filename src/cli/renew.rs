//! `clav renew`: a lease lives on.

use super::{Desk, Done, Failure, get, output::line};
use crate::model::LeaseId;
use clap::Args;

#[derive(Args)]
pub(super) struct Arguments {
    /// Which lease
    lease: String,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let id = lease_id(&arguments.lease)?;
    let answer = desk.workload().await?.renew(id).await?;
    if !desk.printed(&answer)? {
        line(&get::told(&answer.lease))?;
    }
    Ok(0)
}

/// A lease id from a command line.
pub(super) fn lease_id(text: &str) -> Result<LeaseId, Failure> {
    LeaseId::parse(text).map_err(|_| Failure::Usage(format!("{text:?} is no lease id such as lease-01j..; 'clav leases' lists them")))
}
