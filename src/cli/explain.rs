//! `clav explain`: what would be answered, without asking for it.

use super::{
    Desk, Done,
    ask::Declaration,
    failure::{code, describe, exit_of},
    output::line,
};
use crate::wire::Explanation;
use clap::Args;

#[derive(Args)]
pub(super) struct Arguments {
    /// Which secret
    name: String,
    #[command(flatten)]
    declaration: Declaration,
    /// How it should arrive: deliver, inject or sign
    #[arg(long, value_name = "KIND")]
    channel: Option<String>,
    /// As if the process with this number asked, and with the reasons (operators)
    #[arg(long)]
    pid: Option<u32>,
}

pub(super) async fn run(desk: &Desk, arguments: Arguments) -> Done {
    let mut request = arguments.declaration.of(&arguments.name, None);
    request.channel = arguments.channel;
    let answer = match arguments.pid {
        Some(pid) => desk.operator().await?.explain_for(pid, &request).await?,
        None => desk.workload().await?.explain(&request).await?,
    };
    let exit = match (&answer.error, answer.outcome.as_str()) {
        (_, "permit") => 0,
        (_, "needs") => code::NEEDS,
        (Some(error), _) => exit_of(&error.code, 0),
        (None, _) => code::REFUSED,
    };
    if !desk.printed(&answer)? {
        print(desk, &answer)?;
    }
    Ok(exit)
}

fn print(desk: &Desk, answer: &Explanation) -> Result<(), super::Failure> {
    let style = &desk.style;
    let word = match answer.outcome.as_str() {
        "permit" => style.green("would be granted"),
        "needs" => style.yellow("would be granted with more evidence"),
        _ => style.red("would be refused"),
    };
    match &answer.error {
        Some(error) => line(&format!("{word}: {} {}", error.message, style.dim(&format!("({})", error.code))))?,
        None => line(&word)?,
    }
    for need in answer.error.iter().flat_map(describe) {
        line(&format!("  {need}"))?;
    }
    if let Some(serde_json::Value::Object(effective)) = &answer.effective {
        for (name, value) in effective.iter().filter(|(_, value)| !bare(value).is_empty()) {
            let unlimited = value.as_u64() == Some(crate::model::UNLIMITED);
            line(&format!("  {} {}", style.dim(&format!("{name}:")), if unlimited { "unlimited".to_owned() } else { bare(value) }))?;
        }
    }
    answer.clamped.iter().try_for_each(|what| line(&format!("  {}", style.yellow(&format!("not as asked: {what}")))))?;
    answer.because.iter().flat_map(|text| text.lines()).try_for_each(|text| line(&format!("  {text}")))
}

/// JSON as people write it.
pub(super) fn bare(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Array(items) => items.iter().map(bare).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
