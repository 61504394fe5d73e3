//! `clav leases`: what the caller holds, or everybody.

use super::{
    Desk, Done, Failure, get,
    output::{Table, relative},
};
use crate::wire::LeaseView;
use clap::Args;

#[derive(Args)]
pub(super) struct Arguments {
    /// Everybody's, over the operator socket
    #[arg(long)]
    all: bool,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    if arguments.all {
        let list = desk.operator().await?.all_leases().await?;
        if !desk.printed(&list)? {
            print(desk, &list.leases, "Nobody holds a lease.")?;
        }
    } else {
        let list = desk.workload().await?.leases().await?;
        if !desk.printed(&list)? {
            print(desk, &list.leases, "You hold no lease.")?;
        }
    }
    Ok(0)
}

fn print(desk: &Desk, leases: &[LeaseView], none: &str) -> Result<(), Failure> {
    let mut table = Table::new(&["LEASE", "STATE", "IDENTITY", "SECRET", "PURPOSE", "ENDS BY", "HOLDER", "ISSUED", "EXPIRES"]);
    for lease in leases {
        table.row(vec![
            lease.id.to_string(),
            lease.state.clone(),
            lease.identity.to_string(),
            lease.secret.to_string(),
            lease.purpose.to_string(),
            lease.ends_by.to_string(),
            get::holder(&lease.holder),
            relative(&lease.issued),
            relative(&lease.expires),
        ]);
    }
    table.print(&desk.style, none)
}
