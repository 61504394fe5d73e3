//! `clav freeze`: stops issuing on this host, and allows it again.

use super::{Desk, Done, output::line};
use crate::wire::FreezeRequest;
use clap::Args;

#[derive(Args)]
pub(super) struct Arguments {
    /// Allow issuing again
    #[arg(long)]
    off: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let request = FreezeRequest { frozen: !arguments.off, reason: arguments.reason };
    let answer = desk.operator().await?.freeze(&request).await?;
    if !desk.printed(&answer)? {
        let frozen = answer.get("frozen").and_then(serde_json::Value::as_bool).unwrap_or(request.frozen);
        let text = if frozen {
            desk.style.red("Frozen: nothing is issued until 'clav freeze --off'. Leases that live go on; 'clav revoke' ends them.")
        } else {
            desk.style.green("Issuing is allowed again.")
        };
        line(&text)?;
    }
    Ok(0)
}
