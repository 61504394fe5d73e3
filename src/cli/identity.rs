//! `clav identity`: who is registered, and who a process would be.

use super::{
    Desk, Done, Failure,
    explain::bare,
    output::{Table, facts, line, relative},
};
use crate::wire::IdentityTry;
use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Verb {
    /// Every identity with its live leases
    Ls,
    /// Who a process would be, with selectors to paste
    Try {
        /// The process
        #[arg(long)]
        pid: u32,
    },
}

pub(super) async fn run(desk: &Desk, verb: Verb) -> Done {
    match verb {
        Verb::Ls => list(desk).await,
        Verb::Try { pid } => {
            let tried = desk.operator().await?.try_identity(pid).await?;
            if !desk.printed(&tried)? {
                print(desk, &tried)?;
            }
            Ok(0)
        }
    }
}

async fn list(desk: &Desk) -> Done {
    let list = desk.operator().await?.identities().await?;
    if !desk.printed(&list)? {
        let mut table = Table::new(&["NAME", "KIND", "OWNER", "ENVIRONMENT", "AT MOST", "LEASES", "EXPIRES", "SELECTORS"]);
        for row in &list.identities {
            let expires = if row.suspended { "suspended".to_owned() } else { relative(&row.expires) };
            table.row(vec![
                row.name.to_string(),
                row.kind.as_str().to_owned(),
                row.owner.to_string(),
                row.environment.clone(),
                row.max_sensitivity.to_string(),
                row.leases.to_string(),
                expires,
                row.selectors.join(" "),
            ]);
        }
        table.print(&desk.style, "No identity is registered.")?;
    }
    Ok(0)
}

fn print(desk: &Desk, tried: &IdentityTry) -> Result<(), Failure> {
    let style = &desk.style;
    let fact = |path: &str| tried.attested.pointer(path).map(bare).unwrap_or_default();
    let ancestors = tried.attested.get("ancestors").and_then(|a| a.as_array()).map(|all| {
        let names = all.iter().map(|one| {
            let exe = one.get("exe").map(bare).unwrap_or_else(|| "?".into());
            format!("{exe}[{}]", one.get("pid").map(bare).unwrap_or_default())
        });
        names.collect::<Vec<_>>().join(" < ")
    });
    facts(
        style,
        &[
            ("process", format!("{} uid {} gid {} {}", fact("/pid"), fact("/uid"), fact("/gid"), fact("/user"))),
            ("program", fact("/exe/path")),
            ("unit", fact("/unit/name")),
            ("cgroup", fact("/cgroup")),
            ("container", fact("/container")),
            ("foreign", fact("/foreign")),
            ("ancestors", ancestors.unwrap_or_default()),
            ("assurance", tried.assurance.clone()),
            ("identity", tried.identity.as_ref().map_or_else(|| style.red("none"), |name| style.green(name.as_str()))),
            ("because", tried.refused.clone().unwrap_or_default()),
            ("rows that match", tried.matches.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ],
    )?;
    line("")?;
    line(&style.dim("# for identities.d/NAME.toml: keep what an upgrade does not change, and drop the rest"))?;
    line("selectors = [")?;
    for one in &tried.selectors {
        let quoted = format!("  {:?},", one.selector);
        let why = if one.strength == "weak" { style.yellow(&format!("  # weak: {}", weakness(&one.selector))) } else { String::new() };
        line(&format!("{quoted}{why}"))?;
    }
    line("]")
}

/// What a weak selector does not keep out.
fn weakness(selector: &str) -> &'static str {
    match selector.split(':').take(2).collect::<Vec<_>>().join(":").as_str() {
        "unix:uid" | "unix:user" => "all programs of that user have it",
        "unix:gid" | "unix:group" | "unix:supplementary_group" => "all members of the group have it",
        "unix:path" => "whoever may write the file or the folders above it",
        "exe:root-owned" => "any user can run that program",
        "unix:sha256" => "every user can run that program, and an upgrade changes it",
        _ => "others can have it too",
    }
}
